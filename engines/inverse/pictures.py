"""Pictures of an inverse problem: the line and what is drawn given it, beside the exact density."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engines.arrays import marked, numpy
from engines.data.line import nice
from engines.diffusion.pictures import KEYS, circled, slider
from engines.inverse import numbers, truth
from engines.marks import Bars, Handles, Heat, Images, Mark, Panel, Paths, Points
from engines.pace import Pieces
from engines.pictures import data_points, density_field, over

if TYPE_CHECKING:
    from engines.inverse.engine import Inverse

NAMES = ("x₁", "x₂")
WALKS = 150  # samples on their way
BINS, GRAPH = 60, 240  # of the histogram; points of the model's own graph
STEPS_GRAPH = 12  # of the ODE for it
DIGITS, WAYS = 8, 6  # held-out pictures, samples for each
KEPT = ("noising", "denoising", "by_level", "by_evaluations")  # of any diffusion model's pictures


def panels(engine: Inverse, inherited: list[Panel]) -> list[Panel]:
    plane_data = engine.pool.dataset.kind == "plane"
    own = plane(engine) if plane_data else images(engine)
    return [*own, *(panel for panel in inherited if panel.id in KEPT)]


def asked(engine: Inverse) -> str:
    """The method of the knobs, in short."""
    if engine.method == "replacement":
        return f"replacement, each step ×{engine.repeats}"
    return engine.method


# ---------------------------------------------------------------- the plane


def place(engine: Inverse, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Points (…, 2) of the plane from the observed coordinate and the other."""
    pair = (second, first) if engine.first else (first, second)
    return np.stack(np.broadcast_arrays(*pair), -1).astype(np.float32)


def plane(engine: Inverse) -> list[Panel]:
    dataset = engine.pool.dataset
    box, guess = dataset.extent, not dataset.exact
    one, two = NAMES if engine.first == 0 else NAMES[::-1]
    low, high = box[2 - 2 * engine.first : 4 - 2 * engine.first]
    right = numbers.known(engine)
    p = right.p
    at = f"{engine.at:.2f}".replace("-", "−")
    tall = nice(1.15 * float(p.max())) if p is not None else 1.0
    hat = "p̂, kernel estimate" if guess else "p, exact"

    def line() -> list[Mark]:
        ends = np.array([low, high])
        r = engine.r * engine.scale
        up = 0.86 if engine.first else 0.94  # its name stands to the right of it
        held = place(engine, np.float64(engine.at), np.array([low + up * (high - low)]))
        band = [] if not r else [
            Paths(np.stack([place(engine, np.float64(engine.at + side * r), ends) for side in (-1, 1)]),
                  "truth", 1.0, opacity=0.4, label="± r"),
        ]  # fmt: skip
        return [
            *band,
            Paths(place(engine, np.float64(engine.at), ends)[None], "truth", 1.4, opacity=0.9,
                  label=f"where {one} is observed"),
            Handles(held, "slice", (one,), "truth"),
        ]  # fmt: skip

    def observe() -> Pieces[list[Mark]]:
        x = yield from numbers.drawing(engine)
        under = density_field(dataset)
        heat = [] if under is None else [
            Heat(under, box, label="p̂(x), kernel estimate" if guess else "p(x)",
                 unit="per unit area", static=True)
        ]  # fmt: skip
        drawn = Points(marked(x), "model", size=2.4, label=f"samples given {one}")
        *where, handle = line()
        return [*heat, *where, drawn, handle]  # the line does not hide what lies on it

    def graphs() -> Pieces[list[Mark]]:
        marks: list[Mark] = []
        if p is not None:
            every = max(1, len(p) // 600)
            marks.append(over(right.grid[::every], p[::every], "data", hat, fill=True))
        x = numpy((yield from numbers.drawing(engine)))[:, 1 - engine.first]
        edges = np.linspace(low, high, BINS + 1)
        height = np.histogram(x, edges)[0] / (len(x) * (edges[1] - edges[0]))
        steps = np.repeat(edges, 2)[1:-1], np.repeat(height, 2).clip(0, 3 * tall)
        marks.append(over(*steps, "model", f"samples, {asked(engine)}"))
        if engine.has_density:
            grid = np.linspace(low, high, GRAPH)
            log_q = engine.log_density(STEPS_GRAPH)
            own = truth.cut(log_q, engine.first, engine.at, engine.r * engine.scale, grid)
            own = own / max(own.mean() * (high - low), 1e-12)
            marks.append(
                over(grid, own.clip(0, 3 * tall), "density", "q, the model's own", width=1.4)
            )
        return marks

    def way() -> Pieces[list[Mark]]:
        kept = np.unique(np.linspace(0, engine.stops, min(engine.stops + 1, KEYS)).round())
        u = 1 - kept / engine.stops
        states = yield from chosen(engine.conditional(engine.observation(), WALKS), kept)
        found = [circled(engine, z, share) for share, z in zip(u, states, strict=True)]
        xy = np.stack([numpy(x) for x in found[::-1]])
        return [data_points(engine, 400, 0.2), *line()[:-1],
                Points(xy, "model", keys=u[::-1], label=f"on the way, given {one}")]  # fmt: skip

    def rivals() -> Pieces[list[Mark]]:
        if p is None:
            return []
        seen, gaps = engine.observation(), []
        for _, more in RIVALS:
            x = numpy((yield from engine.given_pieces(seen, numbers.DRAWN, **more)))
            x = x[:, 1 - engine.first]
            whole = np.isfinite(x).all()
            gaps.append(truth.w1(x, right.grid, p) / engine.scale if whole else math.nan)
        names = [name for name, _ in RIVALS]
        fair = np.full(len(names), right.floor / engine.scale)
        return [Bars(names, np.array(gaps), fair, y_label="W₁, σ", numbers=True)]

    beside = f"and {'a kernel estimate' if guess else 'the exact one'}"
    return [
        Panel("truth", f"Observe {one}", observe, f"drag the line{'; field: kernel estimate' if guess else ''}", box, "large",
              hz=2, estimate=guess, basis="line",
              help=f"The density of the data. The model was trained on whole points. Given {one}, it draws {two}: the samples "
              "should lie along the line as the data near it do."),
        Panel("conditional", f"{two} given {one} = {at}", graphs,
              beside if p is not None else f"there is no data at this {one}",
              (low, high, 0.0, tall), "small", estimate=guess, equal=False, hz=0.7, basis="line",
              help="Samples counted in bins; the exact density; and, thin, the model's own, a cut "
              "through its density by the ODE. Samples off the thin line are the method's error, the "
              "thin line off the exact one is the network's."),
        Panel("way", f"On the way, given {one}", way, asked(engine), box, "small", slider(), hz=0.4,
              help="The walk from noise to the line. Replacement holds the observed coordinate at its "
              "own noisy place from the start; guidance draws it there."),
        Panel("rivals", "How far from the exact conditional", rivals, "each method, the same network",
              None, "wide", estimate=guess, hz=0.1,
              help=f"W₁ between {numbers.DRAWN} samples given the line and the conditional density: replacement "
              "with each step made once and six times, posterior sampling down the slope, matched "
              "Gaussians. As many steps each; the mark is what as many true draws have."),
    ]  # fmt: skip


RIVALS = (
    ("×1", {"method": "replacement", "repeats": 1}),
    ("×6", {"method": "replacement", "repeats": 6}),
    ("slope", {"method": "posterior sampling"}),
    ("matched", {"method": "matched Gaussians"}),
)


# ---------------------------------------------------------------- images


def images(engine: Inverse) -> list[Panel]:
    half = engine.task == "lower half"
    about = f"observed | truth | {WAYS} samples"
    return [
        Panel("restored", "The lower half drawn" if half else "The noise removed",
              partial(restored, engine), f"{about}; {asked(engine)}", None, "large", hz=0.5,
              first=True,
              help="Held-out digits. The samples should agree with what is observed, be digits, and "
              "differ where what is observed leaves it open."),
        Panel("restoring", "On the way", partial(restoring, engine), asked(engine), None, "small",
              slider(), hz=0.3, help="The walk from noise to one sample for each digit."),
    ]  # fmt: skip


def pixels(engine: Inverse, x: Tensor) -> np.ndarray:
    dataset = engine.pool.dataset
    shown = np.clip(numpy(x) / dataset.levels, 0, 1).astype(np.float32)
    return shown.reshape(*x.shape[:-1], *dataset.shape)


def chosen(states: Iterator[Tensor], kept: np.ndarray) -> Pieces[list[Tensor]]:
    """Those of some states whose numbers are in `kept`."""
    found = []
    for i, z in enumerate(states):
        found += [z] if i in kept else []
        yield
    return found


def restored(engine: Inverse) -> Pieces[list[Mark]]:
    real = engine.pool.test[:DIGITS].float()
    seen = engine.observed(real)
    shown = engine.unstandardise(seen.value).clone()
    shown[:, ~seen.seen] = math.nan
    seen.value = seen.value.repeat_interleave(WAYS, 0)
    x = yield from engine.given_pieces(seen, DIGITS * WAYS)
    x = x.view(DIGITS, WAYS, -1)
    rows = torch.cat([shown[:, None], real[:, None], x], 1).flatten(0, 1)
    return [Images(pixels(engine, rows), 2 + WAYS, label="observed, truth, samples")]


def restoring(engine: Inverse) -> Pieces[list[Mark]]:
    kept = np.unique(np.linspace(0, engine.stops, min(engine.stops + 1, KEYS)).round())
    u = 1 - kept / engine.stops
    seen = engine.observed(engine.pool.test[:DIGITS].float())
    states = yield from chosen(engine.conditional(seen, DIGITS), kept)
    found = [circled(engine, z, share) for share, z in zip(u, states, strict=True)]
    x = torch.stack(found[::-1])
    return [Images(pixels(engine, x), 4, keys=u[::-1], label="on the way")]
