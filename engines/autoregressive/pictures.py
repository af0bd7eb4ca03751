"""Pictures of an autoregressive model: one conditional, its marginal, and drawing in order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engines.arrays import marked, numpy
from engines.data.line import nice
from engines.marks import (
    Bars,
    Handles,
    Heat,
    Mark,
    Metric,
    Panel,
    Paths,
    Points,
    Slider,
)
from engines.metrics import kl
from engines.pace import Pieces
from engines.pictures import GRID, SAMPLES, data_points, density_field, over, sheet
from engines.probes import reference

if TYPE_CHECKING:
    from engines.autoregressive.engine import Autoregressive

GRAPH, EXACT = 600, 2400  # points of a graph, and of the exact one that is to be normalised
SUB = 3  # sub-columns of a cell
DRAWN, COLOURS = 400, 8
SHEET, COLUMNS, STOP = 25, 5, 4  # images, a row of them, pixels from one keyframe to the next
HALVES, WAYS = 6, 5  # held-out images that are gone on from, and how often
HELD = 2_000  # points on which the parts of KL are told apart
NAMES = ("x₁", "x₂")


def panels(engine: Autoregressive) -> list[Panel]:
    kind = engine.pool.dataset.kind
    if kind == "images":
        return images(engine)
    return plane(engine) if kind == "plane" else []


# ---------------------------------------------------------------- the plane


def field(engine: Autoregressive, n: int = GRID) -> np.ndarray:
    """Averages of q over the cells of an n × n grid on the extent, (n, n), row 0 at the bottom.

    q(x₁) at SUB places of every column, times what q(x₂ | x₁) has between two edges: so a
    thousand cells share each place at which the network is asked.
    """
    low, high, bottom, top = sides(engine)
    step = (high - low) / (n * SUB)
    at = low + (torch.arange(n * SUB, device=engine.device) + 0.5) * step
    edges = torch.linspace(bottom, top, n + 1, device=engine.device)
    mass = engine.conditional_cdf(at, edges).diff(dim=1)
    q = engine.marginal(at)[:, None] * mass * (n / (top - bottom))
    cells = q.reshape(n, SUB, n).mean(1)
    return numpy(cells if engine.first else cells.T).astype(np.float32)


def sides(engine: Autoregressive) -> tuple[float, float, float, float]:
    """The extent's ends along the coordinate that is drawn first, then along the other."""
    x0, x1, y0, y1 = engine.pool.dataset.extent
    return (y0, y1, x0, x1) if engine.first else (x0, x1, y0, y1)


def place(engine: Autoregressive, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Points (…, 2) of the plane from both coordinates in drawing order."""
    pair = (second, first) if engine.first else (first, second)
    return np.stack(np.broadcast_arrays(*pair), -1).astype(np.float32)


def exact_slice(engine: Autoregressive, grid: np.ndarray) -> np.ndarray | None:
    """p(x₂ | x₁) on an even grid (N,) at the slice, or None where there is no data at all. Kept."""
    dataset = engine.pool.dataset
    key = (dataset.key, engine.first, engine.at)
    if getattr(engine, "_cut_key", None) == key:
        return engine._cut
    rows = torch.from_numpy(place(engine, np.float64(engine.at), grid)).to(engine.device)
    p = numpy(dataset.log_prob(rows).double().exp().nan_to_num(0.0))
    total = p.mean() * (grid[-1] - grid[0])
    low, high = sides(engine)[:2]
    # a millionth of what a uniform density would have there
    engine._cut_key = key
    engine._cut = p / total if total > 1e-6 / (high - low) else None
    return engine._cut


def plane(engine: Autoregressive) -> list[Panel]:
    dataset = engine.pool.dataset
    box, guess = dataset.extent, not dataset.exact
    low, high, bottom, top = sides(engine)
    one, two = NAMES if engine.first == 0 else NAMES[::-1]
    hat = "p̂, kernel estimate" if guess else "p, exact"
    grid = np.linspace(bottom, top, EXACT)
    p = exact_slice(engine, grid)
    every = EXACT // GRAPH
    tall = nice(1.15 * float(p.max())) if p is not None else None

    def model() -> Pieces[list[Mark]]:
        drawn = yield from engine.sample_pieces(engine.some(SAMPLES, 200))
        cells = round(GRID * engine.effort**0.5 / 4) * 4
        fewer = "" if cells == GRID else f", {cells} × {cells} cells"
        yield
        ends = place(engine, np.float64(engine.at), np.array([bottom, top]))
        up = 0.86 if engine.first else 0.94  # its name stands to the right of it
        held = place(engine, np.float64(engine.at), np.array([bottom + up * (top - bottom)]))
        return [
            Heat(field(engine, cells), box, label=f"q(x){fewer}", unit="per unit area"),
            data_points(engine, 600, 0.35),
            Points(marked(drawn), "model", label="samples of the model"),
            Paths(ends[None], "truth", 1.4, opacity=0.9, label=f"where {one} is held"),
            Handles(held, "slice", (one,), "truth"),
        ]  # fmt: skip

    def conditional() -> list[Mark]:
        at = torch.tensor([engine.at], device=engine.device)
        x = torch.from_numpy(grid[::every].astype(np.float32)).to(engine.device)
        q = numpy(engine.conditional_density(at, x)[0]).astype(np.float64)
        marks: list[Mark] = []
        if p is not None:
            marks.append(over(grid[::every], p[::every], "data", f"{hat}", fill=True))
        # what goes beyond the picture's top stays within reach of its resolution
        return [
            *marks,
            over(grid[::every], q.clip(0, 3 * (tall or q.max())), "model", "q, the model"),
        ]

    def marginal() -> list[Mark]:
        edges = np.linspace(low, high, GRID + 1)
        cell = (high - low) / GRID
        x = np.repeat(edges, 2)[1:-1]
        truth = density_field(dataset)
        total = truth.sum(1 if engine.first else 0) * (top - bottom) / len(truth)
        inner = torch.from_numpy(edges.astype(np.float32)).to(engine.device)
        q = numpy(engine.marginal_cdf(inner).diff()) / cell
        ends = np.array([engine.at, engine.at]), np.array([0.0, 1.15 * total.max()])
        return [
            over(x, np.repeat(total, 2), "data", f"{hat}", fill=True),
            over(x, np.repeat(q, 2), "model", "q, the model"),
            over(*ends, "truth", f"where {one} is held", width=1.4),
        ]  # fmt: skip

    def order() -> Pieces[list[Mark]]:
        x = numpy((yield from engine.sample_pieces(DRAWN)))
        a, b = x[:, engine.first], x[:, 1 - engine.first]
        spot, axis = np.full_like(a, (low + high) / 2), np.full_like(b, bottom)
        xy = np.stack([place(engine, *pair) for pair in ((spot, axis), (a, axis), (a, b))])
        group = (a.argsort().argsort() * COLOURS) // len(a)
        line = place(engine, np.array([low, high]), np.float64(bottom))
        return [
            data_points(engine, 600, 0.2),
            Paths(line[None], "plain", 1.4, opacity=0.6, label=f"the axis of {one}"),
            Points(xy, size=2.4, group=group, keys=np.arange(3.0), label=f"by their {one}"),
        ]  # fmt: skip

    at = f"{engine.at:.2f}".replace("-", "−")
    name = f"q({two} | {one} = {at})"
    beside = f"and {'a kernel estimate' if guess else 'the exact one'}"
    fit = density_field(dataset).sum(1 if engine.first else 0) * (top - bottom) / GRID
    return [
        Panel("model", "Model density", model, f"drag the line: {one} is held", box, "large",
              help="What the model believes now: its density as a field, its samples in orange. "
                   "Drag the ring: the picture of one conditional follows."),
        Panel("conditional", name, conditional,
              beside if p is not None else f"there is no data at this {one}",
              (bottom, top, 0.0, tall or 1.0), "small", estimate=guess, equal=False, hz=10,
              help=f"The density of {two} where {one} is held by the line in the model's density: "
                   "a cut through the plane, scaled so that its area is 1."),
        Panel("order", "Drawn in order", order, f"colours: {one}", box, "small",
              Slider(f"{one}, then {two}", 0, 2, 2, ("nothing", "both")), hz=3,
              help=f"First {one} is drawn, on its axis; then each point moves to the {two} that is "
                   f"drawn for its own {one}."),
        Panel("marginal", f"q({one}), drawn first", marginal,
              beside, (low, high, 0.0, nice(1.3 * float(fit.max()))), "small", estimate=guess,
              equal=False, hz=4,
              help=f"{one} depends on nothing: one density on the line, in steps of a hundredth."),
    ]  # fmt: skip


def metrics(engine: Autoregressive) -> list[Metric]:
    """The two parts of KL(p‖q) where p is known: KL = KL of x₁ + E KL of x₂ given x₁.

    The first from the masses of a hundred cells, which may hide a little of it from the second.
    """
    dataset = engine.pool.dataset
    if not dataset.exact:
        return []
    one, two = NAMES if engine.first == 0 else NAMES[::-1]
    low, high, _, _ = sides(engine)
    p = density_field(dataset).sum(1 if engine.first else 0).astype(np.float64)
    edges = torch.linspace(low, high, GRID + 1, device=engine.device)
    q = numpy(engine.marginal_cdf(edges).diff()).astype(np.float64)
    p, some = p / p.sum(), p > 0
    begin = float((p[some] * np.log(p[some] / q[some].clip(1e-12))).sum())
    x = engine.pool.test[:HELD]
    rest = kl(reference(engine.pool).log_p[:HELD], engine.log_prob(x))
    return [
        Metric("kl_first", begin, "nats", "estimate", floor=0.0, label=f"KL of {one} alone",
               help=f"How far the density of the coordinate that is drawn first is from the truth, "
                    f"on {GRID} cells."),
        Metric("kl_second", rest.value - begin, "nats", "estimate", rest.se, floor=0.0,
               label=f"KL of {two} given {one}",
               help=f"What is left of KL(p‖q), on {HELD:,} held-out points: how far the "
                    "conditionals are from the truth."),
    ]  # fmt: skip


# ---------------------------------------------------------------- images


def images(engine: Autoregressive) -> list[Panel]:
    dataset, pool, dim = engine.pool.dataset, engine.pool, engine.dim
    shown = min(engine.pixel, dim)  # the one that comes next, counted from 1

    def until(rows: Tensor, n: int) -> Tensor:
        """The first n pixels in drawing order; the others are not there yet."""
        out = engine.ordered(rows).clone()
        out[:, n:] = math.nan
        return engine.ordered(out)

    def drawing() -> Pieces[list[Mark]]:
        rows = yield from engine.sample_pieces(SHEET)
        keys = np.unique(np.append(np.arange(0, dim, STOP), dim))
        frames = torch.stack([until(rows, int(k)) for k in keys])
        return [sheet(engine, frames, COLUMNS, "samples, as they are drawn",
                      keys=keys.astype(float))]  # fmt: skip

    def halves() -> list[Mark]:
        real = pool.test[:HALVES]
        given = engine.ordered(real)[:, : dim // 2].repeat_interleave(WAYS, 0)
        u = torch.rand(3, HALVES * WAYS, dim, generator=engine.view_rng, device=engine.device)
        drawn = engine.drawn(*u, given=given).view(HALVES, WAYS, dim)
        rows = torch.cat([real[:, None], drawn], 1).reshape(-1, dim)
        return [sheet(engine, rows, 1 + WAYS, "left: real; then its first half, gone on from")]

    def seen() -> list[Mark]:
        return [sheet(engine, until(pool.test[:1], shown - 1), 1, "what comes before")]

    def following() -> list[Mark]:
        mass = numpy(engine.pixel_masses(pool.test[:1], shown - 1)[0])
        names = [str(k) for k in range(dataset.levels)]
        return [Bars(names, mass.astype(np.float64), y_label="probability")]

    real = int(engine.ordered(pool.test[:1])[0, shown - 1])
    return [
        Panel("drawing", "Drawn pixel by pixel", drawing, "a faint pixel is not drawn yet",
              None, "large", Slider("pixels", 0, dim, dim, ("none", "all")), hz=1,
              help="The model's samples in the order in which they come about: every pixel is "
                   "drawn from a distribution that the pixels before it decide."),
        Panel("halves", "Half an image, gone on from", halves, "left: real and held out", None,
              "small", hz=1,
              help="The first half of the pixels is kept; the rest is drawn five times over."),
        Panel("seen", "Before the next pixel", seen, f"{shown - 1} pixels of a held-out image",
              None, "small", hz=1, help="What the distribution of the next pixel depends on."),
        Panel("pixel", f"Pixel {shown}", following, f"given those before; really {real}", hz=4,
              help="The probability of each of its values. The knob Next pixel chooses which."),
    ]  # fmt: skip
