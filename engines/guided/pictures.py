"""Pictures of guidance: classes in their colours, one class beside exact guidance, and its price."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engines.arrays import marked, numpy
from engines.cells import centres
from engines.conditional.pictures import alone, conditional_field, data, obedience
from engines.diffusion.pictures import ARROWS, KEYS, arrows, grid, level, slider
from engines.guided import numbers
from engines.marks import Arrows, Curve, Curves, Heat, Images, Mark, Panel, Points
from engines.pace import Pieces

if TYPE_CHECKING:
    from engines.guided.engine import Guided

CLOUD, ALONE = 600, 400  # samples of all classes, and of the one that is alone
STEPS_IDEAL = 30  # of exact guidance
WEIGHTS = (1.0, 1.5, 2.0, 3.0, 4.0)  # of the curves
COURSE = 250  # samples for each of them
COLUMNS, SHEET = 10, (0.0, 1.0, 2.0, 4.0, 8.0)
KEPT = ("denoising", "by_level", "by_evaluations")  # of the pictures of any diffusion model


def panels(engine: Guided, inherited: list[Panel]) -> list[Panel]:
    plane = engine.pool.dataset.kind == "plane"
    kept = [p for p in inherited if p.id in KEPT and (plane or p.id != "denoising")]
    own = plane_panels(engine) if plane else image_panels(engine)
    return [*own, by_weight(engine), *kept]


def weighed(w: float) -> str:
    return f"w = {w:g}"


# ---------------------------------------------------------------- the plane


def plane_panels(engine: Guided) -> list[Panel]:
    dataset, k = engine.pool.dataset, alone(engine)
    box, w = dataset.extent, weighed(engine.guidance)
    by = f"colours: {engine.classes.words}"
    guess = dataset.has_density and not dataset.exact
    hat = "p̂(x|y)" if guess else "p(x|y)"
    path = engine.path
    out = [
        Panel("model", "Samples, by the class asked for", partial(samples, engine),
              f"{w}; {by}", box, "large", hz=6,
              help="Each sample has the colour of the class that was asked for. It ought to lie "
              "where data of this colour lie."),
        Panel("truth", "Data, by class", partial(data, engine),
              f"{by}; field: kernel estimate" if guess else by, box, "large", estimate=guess,
              hz=0.5, help="Held-out points, coloured by their class, which is a matter of place here."),
        Panel("one", f"Class {k}, {w}", partial(one, engine),
              f"samples in orange; field: {hat}", box, "small", estimate=guess, hz=4,
              help="Samples of one class, over the density of this class: p(x) where the class is, "
              "divided by its share. At w = 1 they should fill it."),
    ]  # fmt: skip
    if path is not None:
        rough = "" if path.exact else f"; {hat} by cells"
        out.append(
            Panel("ideal", f"Class {k} by exact guidance", partial(ideal, engine), f"{w}{rough}",
                  box, "small", estimate=guess, hz=2,
                  help="The same w with the exact denoisers of p(x) and p(x|y) in place of the "
                  "network. Above 1 it is not p(x|y) that is sampled, nor any power of it: "
                  "this is what guidance is, not an error of the network."))  # fmt: skip
    out.append(
        Panel("guided_field", "The guided score", partial(field, engine), f"class {k}, {w}", box,
              "small", slider(), hz=1,
              help="(1 − w) ∇ log p(x) + w ∇ log p(x|y) in noise, as the network has it, times σ².")
    )  # fmt: skip
    if path is not None:
        out.append(
            Panel("exact_guided", "The exact guided score", partial(exact_field, engine),
                  f"class {k}, {w}", box, "small", slider(), estimate=guess, hz=0.5,
                  help="The same of the data's own densities in noise."))  # fmt: skip
    out.append(
        Panel("obeyed", "Does it do as it is told?", partial(obedience, engine),
              "samples of each class in its part", None, "small", hz=1,
              help="Of the samples of each class, the share that lies in the part of the data "
              "that has this class."))  # fmt: skip
    return out


def samples(engine: Guided) -> Pieces[list[Mark]]:
    x, y = yield from engine.labelled_pieces(engine.some(CLOUD, 160))
    return [
        Points(
            marked(engine.pool.test[:1000]), "plain", 1.4, opacity=0.2, label="data", static=True
        ),
        Points(marked(x), "model", group=marked(y), label="samples, by the class asked for"),
    ]


def density(engine: Guided) -> list[Mark]:
    dataset, k = engine.pool.dataset, alone(engine)
    if k not in engine._fields:
        engine._fields[k] = conditional_field(dataset, engine.classes, k, estimate=True)
    label = "p(x|y)" if dataset.exact else "p̂(x|y), kernel estimate"
    field = engine._fields[k]
    if field is None:
        return []
    return [Heat(field, dataset.extent, label=label, unit="per unit area", static=True)]


def one(engine: Guided) -> Pieces[list[Mark]]:
    y = torch.full((engine.some(ALONE, 120),), alone(engine), device=engine.device)
    x = yield from engine.pieces_of(y)
    return [*density(engine), Points(marked(x), label="samples of the class")]


def ideal(engine: Guided) -> list[Mark]:
    x = engine.ideal(alone(engine), engine.guidance, ALONE)
    return [*density(engine), Points(marked(x), "truth", label="samples by exact guidance")]


def field(engine: Guided) -> Pieces[list[Mark]]:
    y = torch.full((ARROWS**2,), alone(engine), device=engine.device)
    keys, found = engine.thinned(np.linspace(0, 1, KEYS)), []
    z = grid(engine, ARROWS)
    for u in keys:
        yield
        t = engine.noising.place(u)
        size = math.hypot(*engine.noising.at(t))
        cos, sin = level(engine, u)
        x0 = engine.guided(z * size, t, y)
        found.append(arrows(engine, (z - cos * x0) / sin, u))
    return drawn(engine, found, keys, "score", "guided score")


def exact_field(engine: Guided) -> list[Mark]:
    keys, z, k = np.linspace(0, 1, KEYS), grid(engine, ARROWS), alone(engine)
    key = ("guided", k, engine.guidance, engine.guide_low, engine.guide_high, engine.process,
           engine.schedule)  # fmt: skip
    if key not in engine._fields:
        found = []
        for u in keys:
            cos, sin = level(engine, u)
            w = engine.weight(engine.noising.place(u))
            x0 = engine.path.guided(z, cos, sin, k, w)
            found.append(arrows(engine, (z - cos * x0) / sin, u))
        engine._fields[key] = found
    return drawn(engine, engine._fields[key], keys, "truth", "exact guided score")


def drawn(engine: Guided, found: list, keys: np.ndarray, role, label: str) -> list[Mark]:
    feet = numpy(centres(engine.pool.dataset.extent, ARROWS))
    return [*density(engine), Arrows(feet, np.stack(found), role, keys=keys, label=label)]


# ---------------------------------------------------------------- images


def image_panels(engine: Guided) -> list[Panel]:
    k, w = alone(engine), weighed(engine.guidance)
    return [
        Panel("classes", "A row for each class", partial(rows, engine),
              f"{w}; one noise for each column", None, "large", hz=2, first=True,
              help="Down a column only the class changes: what the noise decides, such as slant "
              "and stroke, stays."),
        Panel("more", "More and more guidance", partial(more, engine),
              f"class {k}; rows: w = " + ", ".join(f"{w:g}" for w in SHEET), None, "large", hz=1,
              first=True,
              help="Each column begins with one noise. At w = 0 it may become any digit; far above "
              "1 all of them become the same few."),
        Panel("one", f"Class {k}, {w}", partial(sheet_of_one, engine), "the same noise all along",
              None, "small", hz=2,
              help="Choose the class among the knobs. How different are they?"),
    ]  # fmt: skip


def sheet(engine: Guided, x: Tensor, columns: int, label: str) -> Images:
    dataset = engine.pool.dataset
    pixels = np.clip(numpy(x).reshape(-1, *dataset.shape) / dataset.levels, 0, 1)
    return Images(pixels.astype(np.float32), columns, label=label)


def rows(engine: Guided) -> Pieces[list[Mark]]:
    count = engine.classes.count
    z = engine.noise(COLUMNS).repeat(count, 1)
    y = torch.arange(count, device=engine.device).repeat_interleave(COLUMNS)
    x = yield from engine.pieces_of(y, z=z)
    return [sheet(engine, x, COLUMNS, "row: class, column: noise")]


def more(engine: Guided) -> Pieces[list[Mark]]:
    y = torch.full((COLUMNS,), alone(engine), device=engine.device)
    z, found = engine.noise(COLUMNS), []
    for w in SHEET:
        found.append((yield from engine.pieces_of(y, z=z, w=w)))
    return [sheet(engine, torch.cat(found), COLUMNS, "row: w, column: noise")]


def sheet_of_one(engine: Guided) -> Pieces[list[Mark]]:
    y = torch.full((50,), alone(engine), device=engine.device)
    x = yield from engine.pieces_of(y)
    return [sheet(engine, x, COLUMNS, f"samples of class {alone(engine)}")]


# ---------------------------------------------------------------- curves


def by_weight(engine: Guided) -> Panel:
    k = alone(engine)

    def marks() -> Pieces[list[Mark]]:
        mine = yield from numbers.course(engine, k, WEIGHTS, COURSE, exact=False)
        x = np.array(WEIGHTS)
        lines = [
            Curve("spread", x, np.array(mine.spread), "model"),
            Curve("shift", x, np.array(mine.shift), "score"),
        ]
        if mine.obeyed is not None:
            lines.append(Curve("does as told", x, np.array(mine.obeyed), "data"))
        if engine.path is not None:
            best = yield from numbers.course(engine, k, WEIGHTS, COURSE, exact=True)
            lines += [
                Curve("spread, exact guidance", x, np.array(best.spread), "model", dash=True),
                Curve("shift, exact guidance", x, np.array(best.shift), "score", dash=True),
            ]
        return [Curves(lines, [("the data", 1.0)], x_label="w", y_label="×")]

    return Panel(
        "by_weight", f"Class {k} as guidance grows", marks, "spread and shift ÷ the data's radius",
        None, "wide", hz=0.3, estimate=bool(engine.path and not engine.pool.dataset.exact),
        help="Spread: rms distance of samples to their mean ÷ that of the data. Shift: how far that "
             "mean has moved. Both against w, the class in the knobs, the same noise for every w.",
    )  # fmt: skip
