"""What the contract's tests share: runs that begin, and what is compared of them."""

from __future__ import annotations

import math

import numpy as np
import torch

from engines import DATASETS, ENGINES, Experiment, Run
from engines.knobs import Knob

KNOBS = [
    (e, k) for e, kind in ENGINES.items() for k, entry in kind.knobs.items()
    if entry.kind != "payload"
]  # fmt: skip
PLANES = [name for name, kind in DATASETS.items() if kind.kind == "plane"]


def start(engine: str, dataset: str = "ring8soft", **rest) -> Run:
    return Experiment(taken(engine, dataset), engine, **rest).start("cpu")


def taken(engine: str, dataset: str) -> str:
    """The dataset, or the one that the engine opens on where it takes no such data."""
    kind = ENGINES[engine]
    return kind.opens_on if kind.accepts(DATASETS[dataset]()) else dataset


def elsewhere(experiment: Experiment, dataset: str, options: dict | None = None) -> Experiment:
    """The experiment on other data of the same shape; on other options where there are none."""
    if taken(experiment.engine, dataset) == dataset:
        return experiment.but(dataset=dataset, options=options or {})
    other = {"sequence": {"turn": 0.15}, "point": {"at": 1.0}}[experiment.data_kind]
    return experiment.but(options={**experiment.options, **other})


def where(entry: Knob) -> str:
    """A dataset on which the knob does anything."""
    return "ring8soft" if entry.suits("plane") else "digits"


def weights(run: Run) -> dict[str, torch.Tensor]:
    """All that training depends on, but for the viewing generator."""
    return {
        f"{lane.index}:{k}": v
        for lane in run.lanes
        for k, v in lane.engine.state()[0].items()
        if k != "view_rng"
    }


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def another(entry: Knob, value):
    """A value well away from `value`."""
    if entry.kind == "choice":
        return next(c for c in entry.choices if c != value)
    if entry.kind == "bool":
        return not value
    if entry.log:
        middle = math.sqrt(entry.low * entry.high)
    else:
        middle = (entry.low + entry.high) / 2
    far = entry.high if value < middle else entry.low
    out = math.sqrt(far * value) if entry.log and value > 0 and far > 0 else (far + value) / 2
    if entry.kind == "int":
        return round(out) if round(out) != value else far
    return out


def panel_bytes(panel) -> str:
    """Everything a panel shows, as text that can be compared."""

    def flat(value):
        if isinstance(value, np.ndarray):
            return (value.shape, value.tobytes())
        if hasattr(value, "__dict__"):
            return (type(value).__name__, [(k, flat(v)) for k, v in vars(value).items()])
        if isinstance(value, list | tuple):
            return [flat(v) for v in value]
        return value

    return repr(flat(panel))
