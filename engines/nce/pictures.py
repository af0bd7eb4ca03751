"""Pictures and numbers of noise contrast: noise, classifier, log ratio, importance weights."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engines.arrays import marked, numpy
from engines.cells import cell_average, centres
from engines.marks import Box, Heat, Mark, Metric, Panel, Paths, Points
from engines.pace import Pieces
from engines.pictures import GRID, data_points, density_field, over

if TYPE_CHECKING:
    from engines.nce.engine import NCE

FIELD = 80  # cells a side of what the classifier says
COUNTED = 4000  # noise points that weights are taken of
SHOWN = 800  # noise points and data points of a picture
LEAST = -6.0  # nats; log ratios and log weights below it are drawn there


def panels(engine: NCE) -> list[Panel]:
    dataset, nu = engine.pool.dataset, engine.ratio
    box, guess = dataset.extent, not dataset.exact
    p = "p̂" if guess else "p"
    top = reach(engine)
    return [
        Panel("noise", "Noise", lambda: _noise(engine), "draws in grey, data in blue",
              box, "small", hz=1,
              help="What the data are told from. Its density is known, and it is all that the "
              "classifier's answer is turned into a density with."),
        Panel("classifier", "Classifier", lambda: _classifier(engine),
              "above ½: data; the line is ½", box, "small", hz=8,
              help=f"How sure the classifier is that a point is data, where {nu} noise points come "
              "with each data point."),
        Panel("best", "Best classifier", lambda: _best(engine), f"{p}/({p} + νn)", box, "small",
              hz=1, estimate=guess,
              help=f"What no classifier can be better than: {p}/({p} + νn), from both densities. "
              "Where it is sure, one mistake in a thousand points is all there is to learn from."),
        Panel("ratio", "Learned log ratio", lambda: _ratio(engine, top), "h = log q̃ − log n, nats",
              box, "small", hz=8,
              help="Red: the model says there is more of the data than of the noise. Times the "
              "noise's density this is the model."),
        Panel("agreement", "Learned against exact", lambda: _agreement(engine, top),
              f"log ratios: {p}/n across, h up", (LEAST, top, LEAST, top), "small", hz=6,
              estimate=guess,
              help="Held-out data in blue, noise in grey; on the line where the classifier is the "
              "best one. It strays first where the ratio is large or small: there the classifier "
              "is sure already, and nothing pulls."),
        Panel("weights", "Importance weights", lambda: _weights(engine),
              "chosen by weight in orange", box, "small", hz=6,
              help=f"{SHOWN} noise points, and as many chosen out of them by their weights exp(h): "
              "where few weigh nearly all, these few are chosen over and over."),
        Panel("log_weights", "Who carries the weight", partial(_log_weights, engine, top),
              "over log weights, nats",
              (LEAST, top, 0.0, 1.0), "small", hz=6, equal=False,
              help="Grey: the share of noise points that have such a weight. Orange: the share of all "
              "weight that they carry. Two humps far apart: a few points stand for all of the data."),
    ]  # fmt: skip


def metrics(engine: NCE) -> list[Metric]:
    grid, implied, nu = engine._grid, engine.implied(), engine.ratio
    exact = engine.pool.dataset.exact
    learned = float(-engine.shown.c)
    data = engine.log_ratio(engine.pool.test)
    noise = engine.log_ratio(engine.law.sample(COUNTED, engine.view_rng))
    right = (data > math.log(nu)).float().mean(), (noise < math.log(nu)).float().mean()
    accuracy = (right[0] + nu * right[1]) / (1 + nu)
    true = grid.effective(implied.log_q)
    return [
        Metric("log_z", learned, "nats", floor=float(implied.log_z) + learned,
               label="log Z, learned",
               help="What the classifier says that log ∫ n exp(f) is, learnt as one number along "
               "with f; right is what the integral is by quadrature."),
        Metric("log_mass", float(implied.log_z), "nats", "exact", floor=0.0, label="log ∫ q̃",
               help="By quadrature: 0 when the model has learnt to have mass 1, though nobody "
               "ever integrated it."),
        Metric("ess", 100 * effective(noise), "%", floor=100 * true, label="Effective share",
               help=f"(Σw)²/(N Σw²) of the importance weights of {COUNTED:,} noise points: as good "
               "as so many draws of the model. Beside it the same by quadrature, which also knows "
               "the weights that were never drawn."),
        Metric("ess_exact", 100 * true, "%", "exact",
               floor=100 * grid.effective(grid.log_p) if exact else None,
               label="Effective share, exact",
               help="1/E_n[w²] with the model's weights w = q/n, by quadrature; beside it with those "
               "of the data, p/n."),
        Metric("accuracy", 100 * float(accuracy), "%",
               floor=100 * grid.best_accuracy(nu) if exact else None, label="Classified rightly",
               help="Held-out data and fresh noise, counted as in training; beside it what the best "
               "classifier, p/(p + νn), would get. Close to 100 the classifier has nothing left to "
               "learn from."),
    ]  # fmt: skip


def effective(log_w: Tensor) -> float:
    """(Σw)² / (N Σw²) of weights given by their logarithms, (N,): 1 if all are equal, and 1/N
    if one outweighs all others."""
    log_w = log_w.double()
    return float((2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()) / len(log_w)


# ---------------------------------------------------------------- shown once


class Seen:
    """Fixed points of data and of noise, with both densities there; none changes in a run.

    Attributes:
        x: (2 · SHOWN, 2), data first; log_n, log_p: (2 · SHOWN,), p̂ where p is not exact.
        field: cell averages of n over the picture.
        best: log p − log n on cells of the picture.
    """

    def __init__(self, engine: NCE) -> None:
        pool = engine.pool
        with engine.still(stream=2):
            noise = engine.law.sample(SHOWN, engine.view_rng)
        held = pool.test[:SHOWN]
        self.data = len(held)
        self.x = torch.cat([held, noise])
        self.log_n = engine.law.log_prob(self.x)
        self.log_p = pool.dataset.log_prob(self.x)
        box = pool.dataset.extent
        self.field = cell_average(engine.law.log_prob, box, device=engine.device)
        if pool.dataset.exact:
            # in float64: far out both densities are too small for other numbers
            at = centres(box, FIELD, engine.device).double()
            best = numpy(pool.dataset.log_prob(at) - engine.law.log_prob(at)).reshape(FIELD, FIELD)
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                best = np.log(density_field(pool.dataset)) - np.log(self.field)
        self.best = np.clip(np.nan_to_num(best, nan=0.0), -99, 99)


def seen(engine: NCE) -> Seen:
    """What was worked out for this noise; anew when the noise is."""
    grid = engine._grid
    if not hasattr(grid, "_seen"):
        grid._seen = Seen(engine)
    return grid._seen


def reach(engine: NCE) -> float:
    """How far pictures of log ratios go up: what most data have, and some room."""
    here = seen(engine)
    ratio = (here.log_p - here.log_n)[: here.data]
    most = float(ratio.nan_to_num(0, 0, 0).quantile(0.98))
    return float(min(max(4, math.ceil(1.25 * most)), 40))


# ---------------------------------------------------------------- pictures


def _draws(engine: NCE, n: int = SHOWN, opacity: float = 0.5) -> Points:
    here = seen(engine)
    return Points(marked(here.x[here.data :][:n]), "noise", 1.8, opacity=opacity,
                  label="noise", static=True)  # fmt: skip


def _noise(engine: NCE) -> list[Mark]:
    box = engine.pool.dataset.extent
    return [
        Heat(seen(engine).field, box, "noise", label="n(x)", unit="per unit area", static=True),
        data_points(engine, 400, 0.35),
        _draws(engine),
    ]


def _classifier(engine: NCE) -> list[Mark]:
    box = engine.pool.dataset.extent
    cells = round(FIELD * engine.effort**0.5 / 4) * 4
    at = centres(box, cells, engine.device)
    logit = numpy(engine.log_ratio(at) - math.log(engine.ratio)).reshape(cells, cells)
    sure = 0.5 * np.tanh(logit / 2)
    return [
        Heat(sure.astype(np.float32), box, "discriminator", "diverging", hi=0.5, gamma=1.0,
             label="P(data) − ½"),
        data_points(engine, 300, 0.3),
        _draws(engine, 300, 0.35),
        Paths(zero_line(logit, box), "plain", 1.2, opacity=0.9, label="½"),
    ]  # fmt: skip


def _best(engine: NCE) -> list[Mark]:
    box = engine.pool.dataset.extent
    logit = seen(engine).best - math.log(engine.ratio)
    return [
        Heat((0.5 * np.tanh(logit / 2)).astype(np.float32), box, "discriminator", "diverging",
             hi=0.5, gamma=1.0, label="best P(data) − ½", static=True),
        Paths(zero_line(logit, box), "plain", 1.2, opacity=0.9, label="½", static=True),
    ]  # fmt: skip


def _ratio(engine: NCE, top: float) -> list[Mark]:
    box = engine.pool.dataset.extent
    cells = round(GRID * engine.effort**0.5 / 4) * 4
    h = numpy(engine.log_ratio(centres(box, cells, engine.device))).reshape(cells, cells)
    return [Heat(h, box, "plain", "diverging", hi=top, gamma=1.0, label="h", unit="nats")]


def _agreement(engine: NCE, top: float) -> list[Mark]:
    here = seen(engine)
    exact = (here.log_p - here.log_n).nan_to_num(LEAST, top, LEAST)
    xy = numpy(torch.stack([exact, engine.log_ratio(here.x)], 1)).clip(LEAST, top)
    line = np.array([[[LEAST, LEAST], [top, top]]], np.float32)
    return [
        Paths(line, "truth", 1.5, label="the best classifier", static=True),
        Points(xy[here.data :], "noise", 2.0, opacity=0.5, label="noise"),
        Points(xy[: here.data], "data", 2.0, opacity=0.5, label="data"),
    ]


def _weights(engine: NCE) -> list[Mark]:
    here = seen(engine)
    x = here.x[here.data :]
    w = engine.log_ratio(x).double().softmax(0)
    # systematic resampling (Kitagawa 1996): each is chosen N·w times, up or down to a whole one
    at = (torch.arange(len(x), device=x.device) + 0.5) / len(x)
    chosen = torch.searchsorted(w.cumsum(0), at.double()).clamp_max(len(x) - 1)
    alpha = (w / w.max()).sqrt().clamp_min(0.06).float()
    return [
        data_points(engine, 300, 0.2),
        Points(marked(x[chosen]), "model", 3.5, opacity=0.8, label="chosen by weight"),
        Points(marked(x), "noise", 2.0, alpha=marked(alpha), opacity=0.9, label="noise"),
    ]


def _log_weights(engine: NCE, top: float) -> Pieces[list[Mark]]:
    yield from engine.prepared()
    noise = engine.law.sample(COUNTED, engine.view_rng)
    log_w = engine.log_ratio(noise).double() - engine.implied().log_z
    edges = np.linspace(LEAST, top, 41)
    at = numpy(log_w.clamp(LEAST, top))
    points = np.histogram(at, edges)[0] / len(at)
    carried = np.histogram(at, edges, weights=numpy(log_w.softmax(0)))[0]
    x = np.repeat(edges, 2)[1:-1]
    return [
        over(x, np.repeat(points, 2), "noise", "share of the noise points", fill=True),
        over(x, np.repeat(carried, 2), "model", "share of the weight", fill=True),
    ]


def zero_line(values: np.ndarray, box: Box) -> np.ndarray:
    """Where a field on cell centres (n, n) crosses 0: short straight pieces, (P, 2, 2).

    Each square of four centres is cut into two triangles, and in a triangle the field is
    linear: if its corners do not agree in sign, one of them stands against the other two.
    """
    n = len(values)
    # infinite where one of two densities is 0; a piece's ends are between finite numbers
    v = np.clip(np.nan_to_num(values, nan=0.0), -30, 30).astype(np.float64).ravel()
    xy = numpy(centres(box, n)).astype(np.float64)
    i = np.arange(n * n).reshape(n, n)
    a, b, c, d = (part.ravel() for part in (i[:-1, :-1], i[:-1, 1:], i[1:, :-1], i[1:, 1:]))
    triangles = np.concatenate([np.stack([a, b, d], 1), np.stack([a, d, c], 1)])
    above = v[triangles] > 0
    count = above.sum(1)
    mixed = (count == 1) | (count == 2)
    triangles, above, count = triangles[mixed], above[mixed], count[mixed]
    odd = np.where(count == 1, above.argmax(1), (~above).argmax(1))
    row = np.arange(len(odd))
    alone, one, two = (triangles[row, (odd + k) % 3] for k in range(3))

    def crossing(other: np.ndarray) -> np.ndarray:
        part = v[alone] / (v[alone] - v[other])
        return xy[alone] + part[:, None] * (xy[other] - xy[alone])

    return np.stack([crossing(one), crossing(two)], 1).astype(np.float32)
