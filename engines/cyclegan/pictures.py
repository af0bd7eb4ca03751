"""Pictures of a translation without pairs: who goes where, the round trip, and what else fits."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engines.arrays import marked, numpy
from engines.cells import centres
from engines.marks import Arrows, Box, Mark, Panel, Paths, Points, Slider
from engines.pictures import data_points, verdict

if TYPE_CHECKING:
    from engines.cyclegan.engine import CycleGAN

SECTORS = 8  # colours of the places in X
SHOWN = 800
GRID = 50
ALIKE = 0.3  # nats between Y and its image, up to which both pairings are called equally good
KEYS = np.array([0.0, 1.0], dtype=np.float32)


def panels(engine: CycleGAN) -> list[Panel]:
    here, there = engine.pool.source.dataset.extent, engine.pool.dataset.extent
    wide = around(here, there)
    symmetry = engine._other
    alike = "as good" if symmetry.gap < ALIKE else "not as good: Y has no symmetry"
    return [
        Panel("source", "X, coloured by place", partial(source, engine), "where it comes from", here,
              "large", hz=0.5, first=True,
              help="Held-out rows of the source, in eight colours by their angle about the mean."),
        Panel("model", "G(X) on Y", partial(target, engine), "in the colours of x; Y in blue", there,
              "large", first=True,
              help="Every x taken to G(x), in the colour of the place it came from. No pairs were "
              "ever given: any arrangement of the colours that fits Y and can be undone will do."),
        Panel("pairing", "From x to G(x)", partial(pairing, engine), "", wide, "large",
              Slider("from x to G(x)", 0.0, 1.0, 1.0, ("X", "Y")), hz=8,
              help="The same points on their straight way from X to Y."),
        Panel("arrows", "Arrows x → G(x)", partial(arrows, engine), "", wide, "large", hz=8,
              help="Where G takes each of some held-out x, over both datasets."),
        Panel("other", "Another pairing", partial(other, engine), f"{symmetry.words}, {alike}", there,
              "small", hz=8,
              help="S(G(x)), with S the rotation or reflection under which Y changes least. With "
              "F(S⁻¹(y)) for the way back the cycle error is exactly the same, and the adversarial "
              "losses are as nearly so as Y is symmetric: nothing in them tells the two apart."),
        Panel("round", "Round trip x → G(x) → F(G(x))", partial(round_trip, engine),
              "lines: what it misses", here, "small", hz=8,
              help="Each held-out x and where it comes back to. Without the cycle loss F need not "
              "undo G, and lines cross the whole picture."),
        Panel("d_y", "Discriminator of Y", partial(judge, engine, "Y"), "above ½: looks like Y", there,
              "small", hz=4, help="What D_Y thinks of every place, with G's samples."),
        Panel("d_x", "Discriminator of X", partial(judge, engine, "X"), "above ½: looks like X", here,
              "small", hz=4, help="What D_X thinks of every place, with F's samples."),
    ]  # fmt: skip


def around(a: Box, b: Box) -> Box:
    """The smallest square that holds two boxes."""
    x0, x1, y0, y1 = min(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), max(a[3], b[3])
    half = max(x1 - x0, y1 - y0) / 2
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return (x - half, x + half, y - half, y + half)


def rows(engine: CycleGAN, n: int = SHOWN) -> tuple[Tensor, np.ndarray]:
    """Held-out x (n, 2), and the sector of each about X's mean, (n,)."""
    x = engine.pool.source.test[:n]
    z = (x - engine.pool.source.mean) / engine.pool.source.std
    angle = torch.atan2(z[:, 1], z[:, 0])
    sector = ((angle + math.pi) / (2 * math.pi) * SECTORS).long() % SECTORS
    return x, numpy(sector)


def source(engine: CycleGAN) -> list[Mark]:
    x, group = rows(engine)
    return [Points(marked(x), "data", 2.2, group=group, label="x, held out", static=True)]


def target(engine: CycleGAN) -> list[Mark]:
    x, group = rows(engine)
    made = numpy(engine.there(x))
    return [data_points(engine, 600, 0.3), Points(made, "model", 2.2, group=group, label="G(x)")]


def pairing(engine: CycleGAN) -> list[Mark]:
    x, group = rows(engine)
    way = numpy(torch.stack([x, engine.there(x)]))
    return [Points(way, "model", 2.2, group=group, keys=KEYS, label="on the way")]


def arrows(engine: CycleGAN) -> list[Mark]:
    x, _ = rows(engine, engine.arrows)
    made = engine.there(x)
    some, _ = rows(engine, 400)
    return [
        Points(marked(some), "noise", opacity=0.4, label="X", static=True),
        data_points(engine, 400, 0.4),
        Arrows(marked(x), numpy(made - x), "generator", opacity=0.6, label="x → G(x)"),
    ]


def other(engine: CycleGAN) -> list[Mark]:
    x, group = rows(engine)
    made = numpy(engine._other(engine.there(x)))
    return [data_points(engine, 600, 0.3), Points(made, "model", 2.2, group=group, label="S(G(x))")]


def round_trip(engine: CycleGAN) -> list[Mark]:
    x, _ = rows(engine, 200)
    home = engine.back(engine.there(x))
    return [
        Paths(marked(torch.stack([x, home], 1)), "lost", 1.0, label="what the round trip misses"),
        Points(marked(x), "data", 2.2, label="x"),
        Points(marked(home), "model", 2.2, label="F(G(x))"),
    ]


def judge(engine: CycleGAN, which: str) -> list[Mark]:
    pool = engine.pool if which == "Y" else engine.pool.source
    box = pool.dataset.extent
    field = engine.judged(which, centres(box, GRID, engine.device)).reshape(GRID, GRID)
    if which == "Y":
        made, label = engine.there(engine.pool.source.test[:300]), "G(x)"
    else:
        made, label = engine.back(engine.pool.test[:300]), "F(y)"
    return [
        verdict(field - 0.5, box, f"D_{which} − ½"),
        Points(marked(pool.test[:300]), "data", opacity=0.35, label=which, static=True),
        Points(marked(made), "model", label=label),
    ]  # fmt: skip
