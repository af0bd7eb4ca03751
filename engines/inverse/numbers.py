"""How far what is drawn given an observation is from the truth."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from engines.arrays import numpy
from engines.inverse import truth
from engines.marks import Metric
from engines.metrics import nearest
from engines.pace import Pieces, finish
from engines.probes import Probe

if TYPE_CHECKING:
    from engines.inverse.engine import Inverse

DRAWN = 300  # samples given the line
HELD, EACH = 100, 4  # held-out pictures, and samples for each of them


class Known(NamedTuple):
    """The true conditional: a grid (N,), p on it (N,) or None, and w1's floor for DRAWN samples."""

    grid: np.ndarray
    p: np.ndarray | None
    floor: float


def known(engine: Inverse) -> Known:
    """The true conditional at the line. Kept."""
    dataset, r = engine.pool.dataset, engine.r * engine.scale
    key = (dataset.key, engine.first, engine.at, r)
    if engine._truth_key != key:
        grid, p = truth.conditional(dataset, engine.first, engine.at, r)
        floor = math.nan if p is None else truth.w1_floor(grid, p, DRAWN)
        engine._truth_key, engine._truth = key, Known(grid, p, floor)
    return engine._truth


def drawn(engine: Inverse) -> Tensor:
    """`drawing`, all at once."""
    return finish(drawing(engine))


def drawing(engine: Inverse) -> Pieces[Tensor]:
    """DRAWN samples (n, 2) given the line, always from the same noise. Kept until anything moves."""
    key = (engine.step_count, engine.at, tuple(getattr(engine, name) for name in engine.knobs))
    if engine._drawn_line is None or engine._drawn_line[0] != key:
        with engine.still():
            x = yield from engine.given_pieces(engine.observation(), DRAWN)
        engine._drawn_line = key, x
    return engine._drawn_line[1]


def probes(engine: Inverse) -> list[Probe]:
    if engine.pool.dataset.kind == "plane":
        return [Probe.of("given", ("w1_given", "missed"), lambda: on_the_line(engine), 0.5)]
    names = ("recognised",) if engine.pool.test_labels is not None else ()
    names = (*names, "mean_error", "certainty")
    return [Probe.of("given", names, lambda: on_pictures(engine), 0.5)]


def on_the_line(engine: Inverse) -> Pieces[list[Metric]]:
    x = numpy((yield from drawing(engine))).astype(np.float64)
    right, first = known(engine), engine.first
    whole = np.isfinite(x).all()
    off = math.sqrt(np.square(x[:, first] - engine.at).mean()) / engine.scale if whole else math.nan
    measured = whole and right.p is not None
    gap = truth.w1(x[:, 1 - first], right.grid, right.p) if measured else math.nan
    note = "" if whole else "some samples are not finite numbers"
    if right.p is None:
        note = "there is no data on the line"
    hat = "" if engine.pool.dataset.exact else ", kernel estimate"
    return [
        Metric("w1_given", gap / engine.scale, "σ", floor=right.floor / engine.scale, note=note,
               label=f"W₁ given the line{hat}",
               help=f"How far {DRAWN} samples given the line must move to have the conditional "
               "density of the data."),
        Metric("missed", off, "σ", label="Miss of the observation",
               help="Root mean square distance of the samples from the line, in the data's σ. Truly "
               "it is 0 for an observation without noise, and about r or less with noise r."),
    ]  # fmt: skip


def on_pictures(engine: Inverse) -> Pieces[list[Metric]]:
    """Whether the digit can still be read, and whether samples vary as much as they err."""
    pool = engine.pool
    real = pool.test[:HELD].float()
    n = len(real)
    seen = engine.observed(real.repeat_interleave(EACH, 0))
    x = yield from engine.given_pieces(seen, n * EACH)
    hidden = hidden_columns(engine)
    parts = x.view(n, EACH, -1)[:, :, hidden]
    inside = parts.var(1).mean()
    error = (parts.mean(1) - real[:, hidden]).square().mean()
    ratio = float((error / (inside * (1 + 1 / EACH)).clamp_min(1e-12)).sqrt())
    out = [
        Metric("mean_error", float(error.sqrt()) / engine.scale, "σ", label="Error of the mean",
               help=f"Rms distance of the truth from the mean of {EACH} samples, over the pixels that "
               "are to be found, in the data's σ."),
        Metric("certainty", ratio, "×", floor=1.0, label="Error ÷ spread",
               help=f"Rms distance of the truth from the mean of {EACH} samples ÷ what their own "
               "spread lets expect: 1 is right, above is too sure."),
    ]  # fmt: skip
    if pool.test_labels is None:
        return out
    share, best = (
        float((pool.labels[nearest(rows, pool.train.float() + 0.5)[1]] == labels).float().mean())
        for rows, labels in (
            (x, pool.test_labels[:n].repeat_interleave(EACH)), (real, pool.test_labels[:n]),
        )
    )  # fmt: skip
    se = math.sqrt(share * (1 - share) / n)  # samples of one digit are no independent trials
    return [
        Metric("recognised", share, se=se, floor=best, label="Still the same digit",
               help="Share of samples whose nearest training image has the class of the digit that "
               "was observed. Half a digit may truly be of several classes."),
        *out,
    ]  # fmt: skip


def hidden_columns(engine: Inverse) -> Tensor:
    """The columns (d,) bool that are to be found: all of a noisy picture."""
    everything = torch.ones(engine.dim, dtype=torch.bool, device=engine.device)
    if engine.task == "lower half":
        everything[: engine.dim // 2] = False
    return everything
