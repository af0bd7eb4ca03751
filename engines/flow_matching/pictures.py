"""Pictures of flow matching: the cloud on its way, the velocity, and what it is taught."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engines.arrays import marked, numpy
from engines.cells import centres
from engines.flow_matching.numbers import FEW, NOISE, few_pieces
from engines.marks import (
    Arrows,
    Box,
    Curve,
    Curves,
    Heat,
    Images,
    Mark,
    Panel,
    Paths,
    Points,
    Slider,
)
from engines.pace import Pieces
from engines.pictures import data_points

if TYPE_CHECKING:
    from engines.flow_matching.engine import FlowMatching

SECTORS = 8  # colours of the places that points start from
CLOUD, LINES, SHEET = 500, 120, 36
KEYS = np.linspace(0, 1, 9, dtype=np.float32)
MOST_KEYS = 16  # steps of a cloud's way that travel to the browser
FEET, CELLS = 15, 40  # a side, of the arrows and of the field of errors
FAINT = 2e-3  # of a density's largest value: where there is less nobody asks for the velocity


def panels(engine: FlowMatching) -> list[Panel]:
    kind = engine.pool.dataset.kind
    own = plane(engine) if kind == "plane" else images(engine) if kind == "images" else []
    return [*own, steps_panel(engine)]


def slider(value: float = 1.0) -> Slider:
    return Slider("time", 0.0, 1.0, value, ("source", "data"), linked="flow time")


def plane(engine: FlowMatching) -> list[Panel]:
    box, source = field_box(engine), engine.pool.source
    start = "noise" if source is None else "the source"
    how = engine.coupling if not engine.reflows else f"reflow {engine.reflows}: its own paths"
    out = [
        Panel("cloud", f"From {start} to data", partial(cloud, engine), "colours: where it started",
              box, "large", slider(), hz=2,
              help="The same points at every time, on the very steps that a sample takes. Each keeps "
              "the colour of the place that it started from."),
        Panel("velocity", "Velocity", partial(arrows, engine),
              "exact in green" if engine.exact else "", box, "large", slider(0.5), hz=2,
              help="Where the learned velocity sends a point at this place and time; long arrows are "
              "shortened. Beside it the exact one, where it is known: with noise for a source and "
              "pairs by chance."),
    ]  # fmt: skip
    if engine.exact is not None:
        out.append(
            Panel("velocity_error", "Learned − exact velocity", partial(errors, engine),
                  "|v − v*| in σ, where data in noise are", box, "small", slider(0.5), hz=0.5,
                  help="How far the learned velocity is from the exact one, E[dz/dt | z], in places "
                  "that the cloud passes."))  # fmt: skip
    out.append(
        Panel("lines", "What it is taught", partial(lines, engine), how, box, "small", hz=2,
              help="Ways that training draws from source points to data points. Where they cross, "
              "the velocity can only be their mean."))  # fmt: skip
    return out


def field_box(engine: FlowMatching) -> Box:
    """A square that holds the data's box and what they come from."""
    a = engine.pool.dataset.extent
    if (source := engine.pool.source) is not None:
        b = source.dataset.extent
    else:
        (x, y), r = engine._mean.tolist(), 2.6 * float(engine._std[0])
        b = (x - r, x + r, y - r, y + r)
    x0, x1, y0, y1 = min(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), max(a[3], b[3])
    half, x, y = max(x1 - x0, y1 - y0) / 2, (x0 + x1) / 2, (y0 + y1) / 2
    return (x - half, x + half, y - half, y + half)


def sectors(engine: FlowMatching, z: Tensor) -> np.ndarray:
    """The sector of each start (N, 2) about the middle of the source, (N,)."""
    x, y = (z - engine._source_mean).unbind(1)
    turn = (torch.atan2(y, x) + math.pi) / (2 * math.pi)
    return numpy((turn * SECTORS).long() % SECTORS)


def cloud(engine: FlowMatching) -> Pieces[list[Mark]]:
    z, found = engine.starts(engine.some(CLOUD, 120), engine.view_rng, held=True), []
    for state in engine.way(z):
        found.append(engine.unstandardise(state))
        yield
    states = torch.stack(found)
    chosen = np.unique(np.linspace(0, len(states) - 1, MOST_KEYS + 1).round().astype(int))
    keys = (chosen / (len(states) - 1)).astype(np.float32)
    way = numpy(states)[chosen]
    out: list[Mark] = [data_points(engine, 500, 0.3)]
    if engine.ways:
        trails = np.ascontiguousarray(way[:, : engine.ways].transpose(1, 0, 2))
        out.append(Paths(trails, "plain", 1.0, opacity=0.5, keys=keys, label="their ways"))
    group = sectors(engine, z)
    return [*out, Points(way, "model", 2.2, group=group, keys=keys, label="on the way")]


def lines(engine: FlowMatching) -> list[Mark]:
    rng = engine.view_rng
    z0, z1 = engine.paired(engine.standardise(engine.pool.test[:LINES]), rng)
    bent = engine.interpolant != "straight"
    noise = torch.randn(z0.shape, generator=rng, device=engine.device)
    times = torch.linspace(0, 1, 17 if bent else 2, device=engine.device)
    way = [engine._path.at(t).place(z0, z1, noise) for t in times]
    drawn = numpy(engine.unstandardise(torch.stack(way, 1)))
    return [
        Paths(drawn, "plain", 1.0, opacity=0.5, label="pairs of training"),
        Points(drawn[:, 0], "noise", 2.0, label="start"),
        Points(drawn[:, -1], "data", 2.0, label="end"),
    ]


def _feet(engine: FlowMatching) -> tuple[Tensor, float]:
    """Feet of the arrows in data units (N, 2), and how long an arrow may be."""
    box = field_box(engine)
    return centres(box, FEET, engine.device), (box[1] - box[0]) / FEET


def _drawn(velocity: Tensor, longest: float) -> np.ndarray:
    """Arrows (N, 2) along a velocity in σ a unit of time, as long as tanh of half its size."""
    size = velocity.norm(dim=1, keepdim=True).clamp_min(1e-9)
    return numpy(velocity / size * (size / 2).tanh() * longest)


def arrows(engine: FlowMatching) -> list[Mark]:
    feet, longest = _feet(engine)
    z, keys = engine.standardise(feet), engine.thinned(KEYS)
    learned = np.stack([_drawn(engine.drift(z, float(t)), longest) for t in keys])
    out: list[Mark] = [data_points(engine, 400, 0.25)]
    if engine.exact is not None:
        exact = np.stack([_drawn(v, longest) for v in _exact(engine, z, "arrows")])
        out.append(Arrows(marked(feet), exact, "truth", 0.8, "exact velocity", KEYS, static=True))
    return [*out, Arrows(marked(feet), learned, "score", 0.9, "learned velocity", keys)]


def _exact(engine: FlowMatching, z: Tensor, name: str) -> list[Tensor]:
    """The exact velocity at places z (N, 2) at each of KEYS, worked out once for these data."""
    if name not in engine._known:
        engine._known[name] = [engine.exact_velocity(z, float(t)) for t in KEYS]
    return engine._known[name]


def _visited(engine: FlowMatching, z: Tensor) -> list[Tensor]:
    """Whether the cloud passes places z (N, 2) at each of KEYS, (N,) of truth values."""
    if "visited" not in engine._known:
        log_p = [engine.exact_log_prob(z, float(t)) for t in KEYS]
        engine._known["visited"] = [p > p.max() + math.log(FAINT) for p in log_p]
    return engine._known["visited"]


def errors(engine: FlowMatching) -> Pieces[list[Mark]]:
    box = field_box(engine)
    z = engine.standardise(centres(box, CELLS, engine.device))
    fields, keys = [], engine.thinned(KEYS)
    for t, exact, there in zip(KEYS, _exact(engine, z, "field"), _visited(engine, z), strict=True):
        if t not in keys:
            continue
        yield
        off = (engine.drift(z, float(t)) - exact).norm(dim=1)
        fields.append(torch.where(there, off, math.nan).reshape(CELLS, CELLS))
    return [Heat(marked(torch.stack(fields)), box, "lost", hi=2.0, gamma=0.7, keys=keys,
                 label="|learned − exact|", unit="σ")]  # fmt: skip


def steps_panel(engine: FlowMatching) -> Panel:
    plane = engine.pool.dataset.kind == "plane"
    unit = "k-NN KL above its floor, nats" if plane else "energy distance above its floor, σ"
    least = NOISE if plane else 0.001

    def quality() -> Pieces[list[Mark]]:
        if engine.effort < 1 and engine._few_last is not None:
            found = engine._few_last  # what was measured last: here it is too dear
        else:
            found = yield from few_pieces(engine)
        x = np.array(FEW, dtype=np.float64)
        told = {"Euler": ("Euler steps along the velocity", "plain"), "leaps": ("leaps", "model")}
        told = told if len(found) > 1 else {"Euler": ("Euler steps", "model")}
        drawn = [
            Curve(told[how][0], x, np.maximum(values, least), told[how][1])
            for how, values in found.items()
        ]
        return [Curves(drawn, [("as good as data, about", least)], "steps", unit,
                       log_x=True, log_y=True)]  # fmt: skip

    return Panel("by_steps", "How many steps it takes", quality, "1, 2, 4, 8 and 64", None, "wide",
                 hz=0.15, help="How far samples made in so many steps are from the data.")  # fmt: skip


def images(engine: FlowMatching) -> list[Panel]:
    dataset = engine.pool.dataset

    def sheet() -> Pieces[list[Mark]]:
        states = []
        for state in engine.way(engine.starts(SHEET, engine.view_rng)):
            states.append(state)
            yield
        chosen = np.unique(np.linspace(0, len(states) - 1, len(KEYS)).round().astype(int))
        pixels = [engine.unstandardise(states[i]) / dataset.levels for i in chosen]
        pixels = numpy(torch.stack(pixels)).reshape(len(chosen), SHEET, *dataset.shape)
        keys = (chosen / (len(states) - 1)).astype(np.float32)
        return [Images(np.clip(pixels, 0, 1).astype(np.float32), 6, label="on the way", keys=keys)]

    return [
        Panel("cloud", "From noise to digits", sheet, "on the steps that a sample takes", None,
              "large", slider(), hz=2, help="The same pictures at every time of their way."),
    ]  # fmt: skip
