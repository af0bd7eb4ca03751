"""Pictures of sequences that are continued: the three ways, and their error against horizon."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from engines.arrays import marked, numpy
from engines.marks import Curve, Curves, Handles, Mark, Panel, Paths
from engines.sequence.horizon import SHORT, true_walks

if TYPE_CHECKING:
    from engines.sequence.engine import Sequence

WALKS = 20  # continuations in a picture
ROLES = ("model", "generator", "density")  # the colours of the three losses
HELP = {
    "teacher": "Trained on true pasts alone: it was never shown what to do after a step of its own.",
    "scheduled": "Trained on pasts that are partly its own, ever more of them as ε falls.",
    "free": "Trained on pasts of its own alone: an error early on spoils all that it is told after.",
}


def panels(engine: Sequence) -> list[Panel]:
    """A picture for each way, and the error of all three against the number of steps."""
    box = engine.pool.dataset.extent
    out = [
        Panel(SHORT[i], way[0].upper() + way[1:], lambda i=i: continuations(engine, i),
              "true continuations in blue", box, "large", hz=6,
              help=HELP[SHORT[i]] + " Same start and same noise as the true ones. Drag the start.", first=True)
        for i, way in enumerate(engine.WAYS)
    ]  # fmt: skip
    steps = engine.length - engine.prefix
    out.append(
        Panel("horizon", "Error against horizon", lambda: errors(engine),
              f"after 1 to {steps} steps on its own", None, "large", hz=2, first=True,
              help="RMS distance between a model's continuation and the true one of the same start "
              "with the same noise: 0 for a perfect model. Dashed: two true continuations, each "
              "with noise of its own.")
    )  # fmt: skip
    return out


def continuations(engine: Sequence, way: int) -> list[Mark]:
    """True points, then what the process and one model make of them, with the same noise."""
    dataset = engine.pool.dataset
    given = engine.pool.test[0].view(-1, 2)[: engine.prefix]
    given = given + torch.tensor([engine.moved_x, engine.moved_y], device=engine.device)
    many = given.expand(WALKS, -1, -1)
    noise = engine.luck * engine.randn(engine.length - engine.prefix, WALKS, 2)
    true = true_walks(dataset, many[:, -1], noise, dataset.noise)
    own = engine.carry_on(many, noise)[way]
    start = many[:, -1:]
    path = lambda rest: numpy(torch.cat([start, rest], 1))  # noqa: E731
    marks: list[Mark] = [
        Paths(path(true), "data", 1.2, opacity=0.5, label="true continuations"),
        Paths(path(own), ROLES[way], 1.2, opacity=0.7, label=engine.WAYS[way]),
    ]
    if engine.prefix > 1:
        marks.append(Paths(marked(given)[None], "truth", 2.5, opacity=0.9, label="what is given"))
    return [*marks, Handles(numpy(given[-1:]), "drag", ("start",), "truth")]


def errors(engine: Sequence) -> list[Mark]:
    gaps, _, apart = (numpy(part) for part in engine.horizon.errors(engine.luck))
    h = np.arange(1, gaps.shape[1] + 1, dtype=float)
    lines = [Curve(way, h, gaps[i], ROLES[i]) for i, way in enumerate(engine.WAYS)]
    lines.append(Curve("two true continuations", h, apart, "data", dash=True))
    return [Curves(lines, x_label="steps on its own", y_label="RMS distance", log_y=True)]
