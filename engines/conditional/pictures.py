"""Pictures and numbers of a conditional GAN: every class in its colour, and one class alone."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from engines.arrays import marked, numpy
from engines.cells import centres, offsets
from engines.classes import Classes
from engines.judge import SAMPLES, obeyed, taught
from engines.marks import Bars, Heat, Mark, Metric, Panel, Points
from engines.pictures import GRID, density_field, exact_field, sheet, verdict
from engines.probes import Probe

if TYPE_CHECKING:
    from engines.conditional.engine import Conditional
    from engines.data.base import Dataset

CLOUD, ALONE = 1000, 500  # points of all classes, and of the one that is alone
FIELD, SUB = 64, 4  # cells a side of D's picture; points a side in a cell of p(x|y)
COLUMNS = 10
OBEYED = 1000

TAUGHT_HELP = (
    f"A support vector machine that has learnt from {SAMPLES:,} samples and their classes is "
    "tested on held-out real images; one taught by real ones reaches 98.4 %. Copies of the "
    "training images would do as well: read it beside the neighbour ratio."
)


def alone(engine: Conditional) -> int:
    """The class that is shown alone: the one chosen, or the last there is."""
    return min(engine.shown_class, engine.classes.count - 1)


# ---------------------------------------------------------------- the plane


def plane_panels(engine: Conditional) -> list[Panel]:
    box, k = engine.pool.dataset.extent, alone(engine)
    by = f"colours: {engine.classes.words}"
    field = "; field: p(x|y)" if engine.pool.dataset.exact else ""
    dataset = engine.pool.dataset
    estimated = dataset.has_density and not dataset.exact
    behind = f"{by}; field: kernel estimate" if estimated else by
    told = "D(x, y)" if engine.told != "not told" else "D(x)"
    return [
        Panel("model", "Samples, by the class asked for", partial(samples, engine),
              f"{by}; data in grey", box, "large",
              help="Each sample has the colour of the class that the generator was told. It "
              "ought to lie where data of this colour lie."),
        Panel("truth", "Data, by class", partial(data, engine), behind, box, "large",
              estimate=estimated, hz=0.5,
              help="Held-out points, coloured by their class, which is a matter of place here."),
        Panel("one", f"Class {k} alone", partial(one, engine),
              f"samples in orange{field}", box, "small", hz=8,
              help="Choose the class among the knobs. The exact density of one class is p(x) "
              "where that class is, divided by the share of the class."),
        Panel("discriminator", f"{told}, told class {k}", partial(discriminator, engine),
              "above ½: data; below: a sample", box, "small", hz=6,
              help="D's probability that a point is data of this class."),
        Panel("obeyed", "Does it do as it is told?", partial(obedience, engine),
              "samples of each class in its part", None, "small", hz=3,
              help="Of the samples of each class, the share that lies in the part of the data "
              "that has this class."),
    ]  # fmt: skip


def samples(engine: Conditional) -> list[Mark]:
    x, y = engine.labelled(CLOUD)
    return [
        Points(marked(engine.pool.test[:CLOUD]), "plain", 1.4, opacity=0.2, label="data",
               static=True),
        Points(marked(x), "model", group=marked(y), label="samples, by the class asked for"),
    ]  # fmt: skip


def data(engine: Conditional) -> list[Mark]:
    rows, dataset = engine.pool.test[:CLOUD], engine.pool.dataset
    field = density_field(dataset)
    marks: list[Mark] = []
    if field is not None:
        label = "p(x)" if dataset.exact else "p̂(x), kernel estimate"
        marks.append(Heat(field, dataset.extent, label=label, unit="per unit area", static=True))
    group = numpy(engine.classes.of(rows))
    return [*marks, Points(marked(rows), "data", group=group, label="data, by class")]


def conditional_field(
    dataset: Dataset, classes: Classes, k: int | None, n: int = GRID, estimate: bool = False
) -> np.ndarray | None:
    """Cell averages of p(x | y = k), (n, n), or of p(x); None where the density is not known.

    With `estimate` that may be an estimate of it.

    p(x) over the share of the class, times the part of each cell that has it, of SUB² points.
    The share is worked out on the same grid, so that the field holds all of the probability
    that the box has.
    """
    field = density_field(dataset, n) if estimate else exact_field(dataset, n)
    if field is None or k is None:
        return field
    part = np.zeros(n * n, dtype=np.float32)
    for move in offsets(dataset.extent, n, SUB):
        part += numpy(classes.of(centres(dataset.extent, n) + move) == k) / SUB**2
    x0, x1, y0, y1 = dataset.extent
    mine = field * part.reshape(n, n)
    share = mine.sum() * (x1 - x0) * (y1 - y0) / n**2
    return mine / max(share, 1e-9)


def one(engine: Conditional) -> list[Mark]:
    dataset, k = engine.pool.dataset, alone(engine)
    if k not in engine._fields:
        engine._fields[k] = conditional_field(dataset, engine.classes, k)
    field = engine._fields[k]
    y = torch.full((ALONE,), k, device=engine.device)
    mine = engine.pool.test[:5000]
    mine = mine[engine.classes.of(mine) == k][:ALONE]
    marks: list[Mark] = []
    if field is not None:
        marks.append(Heat(field, dataset.extent, label="p(x|y)", unit="per unit area", static=True))
    return [
        *marks,
        Points(marked(mine), "data", 1.6, opacity=0.35, label="data of the class", static=True),
        Points(marked(engine.sample_of(y)), "model", label="samples of the class"),
    ]


def discriminator(engine: Conditional) -> list[Mark]:
    box, k = engine.pool.dataset.extent, alone(engine)
    places = centres(box, FIELD, engine.device)
    y = torch.full((len(places),), k, device=engine.device)
    field = engine.probability(places, y).reshape(FIELD, FIELD)
    return [
        verdict(field - 0.5, box, "D − ½"),
        Points(marked(engine.sample_of(y[:300])), "model", label="samples of the class"),
    ]


def obedience(engine: Conditional) -> list[Mark]:
    count = engine.classes.count
    y = torch.arange(count, device=engine.device).repeat_interleave(200)
    right = (engine.classes.of(engine.sample_of(y)) == y).view(count, -1).float().mean(1)
    names = [str(k) for k in range(count)]
    return [Bars(names, numpy(right), np.ones(count, np.float32), "model",
                 y_label="share in its place")]  # fmt: skip


# ---------------------------------------------------------------- images


def image_panels(engine: Conditional) -> list[Panel]:
    k = alone(engine)
    return [
        Panel("classes", "A row for each class", partial(rows, engine),
              "one noise for each column", None, "large", hz=6, first=True,
              help="Down a column only the class changes: what the noise decides, such as slant "
              "and stroke, stays."),
        Panel("one", f"Class {k} alone", partial(sheet_of_one, engine), "the same noise all along",
              None, "small", hz=4,
              help="Choose the class among the knobs. How different are they?"),
        Panel("morph", f"From class {k} to the next", partial(morph, engine),
              "each row one noise", None, "small", hz=2,
              help="The class's vector moves in a straight line. The generator was never told anything "
              "in between two classes."),
    ]  # fmt: skip


def rows(engine: Conditional) -> list[Mark]:
    count = engine.classes.count
    z = engine.randn(COLUMNS, engine.latent).repeat(count, 1)
    y = torch.arange(count, device=engine.device).repeat_interleave(COLUMNS)
    return [sheet(engine, engine.decode(z, y), COLUMNS, "row: class, column: noise")]


def sheet_of_one(engine: Conditional) -> list[Mark]:
    y = torch.full((50,), alone(engine), device=engine.device)
    return [sheet(engine, engine.sample_of(y), COLUMNS, f"samples of class {alone(engine)}")]


def morph(engine: Conditional) -> list[Mark]:
    k, lines = alone(engine), 5
    code, z = engine.averaged.code, engine.randn(lines, engine.latent)
    t = torch.linspace(0, 1, COLUMNS, device=engine.device)[:, None]
    between = (1 - t) * code[k] + t * code[(k + 1) % engine.classes.count]
    both = torch.cat([z.repeat_interleave(COLUMNS, 0), between.repeat(lines, 1)], 1)
    return [sheet(engine, engine.unstandardise(engine.averaged.net(both)), COLUMNS,
                  "from one class to the next")]  # fmt: skip


# ---------------------------------------------------------------- numbers


def metrics(engine: Conditional) -> list[Metric]:
    """Whether samples lie where they were told to, on the plane."""
    if not engine.classes.places:
        return []
    x, y = engine.labelled(OBEYED)
    found = obeyed(y, engine.classes.of(x))
    return [
        Metric("obeyed", found.value, se=found.se, floor=1.0, label="Does as told",
               help=f"Share of {OBEYED:,} samples that lie in the part of the class that was asked "
               "for. True samples: 1, for the class is a matter of place."),
    ]  # fmt: skip


def probes(engine: Conditional) -> list[Probe]:
    """On labelled pictures: what a classifier learns from the samples."""
    if engine.pool.test_labels is None:
        return []

    def accuracy() -> list[Metric]:
        x, y = engine.labelled(SAMPLES)
        found = taught(x, y, engine.pool.test, engine.pool.test_labels)
        return [Metric("taught", found.value, se=found.se, floor=None, note=found.note,
                       label="Taught by samples", help=TAUGHT_HELP)]  # fmt: skip

    return [Probe("taught", ("taught",), accuracy, 0.3)]
