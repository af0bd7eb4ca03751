"""Clips of engines learning, recorded by the engines themselves: `make clips`.

The home page plays them. A clip holds where the same 280 samples lie at 37 moments of one
run, close together early and far apart late, and where there is a density, a small field of it
at every second moment. Its experiment is kept with it, so that a test can record it again.

Every number is kept as characters of base64's alphabet, 6 bits each and no padding:

    x, y    two characters each: 12 bits of [−½, 1½] in widths of the box, the high ones first
    field   one character a cell, rows from the bottom: 63·√(q/hi), cut off at hi
"""

from __future__ import annotations

import json
import string
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engines import DATASETS, ENGINES, Experiment, Run
from engines.arrays import numpy
from engines.cells import cell_average
from engines.marks import Box

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "clips"
VERSION = 1
SAMPLES, MOMENTS, CELLS = 280, 37, 24
DATA = "ring8soft"  # one dataset for all, so that eyes can compare how they learn
SEED = 0
ALPHABET = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
PLACES = 64 * 64 - 1


def experiment_of(engine: str) -> Experiment | None:
    """What the clip of an engine shows; None where it takes no data of the plane."""
    planes = [name for name, kind in DATASETS.items() if kind.kind == "plane"]
    kind = ENGINES[engine]
    for name in [DATA, *planes]:
        if kind.accepts(DATASETS[name]()) is None:
            return Experiment(name, engine, SEED, kind.clip_knobs)
    return None


def moments(last: int, count: int = MOMENTS) -> list[int]:
    """Steps 0 … last, `count` different ones: last · (100^t − 1)/99 at equal t in [0, 1].

    Dense in the beginning, and a ninth apart in the end. Raises ValueError for too few steps.
    """
    if last < count - 1:
        raise ValueError(f"{count} moments need at least {count - 1} steps; got {last}.")
    steps = [0]
    for k in range(1, count):
        here = round(last * (100 ** (k / (count - 1)) - 1) / 99)
        steps.append(max(steps[-1] + 1, here))
    return steps


def places(xy: np.ndarray, box: Box) -> np.ndarray:
    """Points (N, 2) in data units → whole numbers of 12 bits; what is far outside is cut off."""
    low, size = np.array([box[0], box[2]]), np.array([box[1] - box[0], box[3] - box[2]])
    share = (np.nan_to_num(xy, nan=1e9, posinf=1e9, neginf=-1e9) - low) / size
    return np.rint((share.clip(-0.5, 1.5) + 0.5) / 2 * PLACES).astype(int)


def write(numbers: np.ndarray, characters: int) -> str:
    """Whole numbers as text of so many characters each."""
    flat = numbers.reshape(-1)
    digits = [flat // 64**power % 64 for power in reversed(range(characters))]
    return "".join(ALPHABET[d] for d in np.stack(digits, -1).reshape(-1).tolist())


def read(text: str, characters: int) -> np.ndarray:
    """The inverse of `write`, as a row."""
    digits = np.array([ALPHABET.index(c) for c in text]).reshape(-1, characters)
    return digits @ np.array([64**power for power in reversed(range(characters))])


def watch(experiment: Experiment, steps: Sequence[int]) -> Iterator[tuple[Run, np.ndarray]]:
    """Train, and at each of the steps give the run and the places (SAMPLES, 2) of its samples.

    The samples keep their noise from moment to moment: they glide.
    """
    run = experiment.start("cpu")
    for step in steps:
        if step > run.step:
            run.train(steps=step - run.step)
        with run.engine.still():
            drawn = numpy(run.sample(SAMPLES))
        yield run, places(drawn, run.pool.dataset.extent)


def field(run: Run) -> np.ndarray:
    """Cell averages of the model's density, (CELLS, CELLS), rows from the bottom."""
    with torch.no_grad():
        return cell_average(run.log_prob, run.pool.dataset.extent, CELLS, CELLS**2, 3)


def record(engine: str) -> dict[str, Any] | None:
    """The clip of an engine as JSON, with what it takes to make it again."""
    experiment = experiment_of(engine)
    if experiment is None:
        return None
    steps, points, fields = moments(ENGINES[engine].clip_steps), [], []
    for moment, (run, where) in enumerate(watch(experiment, steps)):
        points.append(write(where, 2))
        if run.engine.has_density and moment % 2 == 0:
            fields.append(field(run))
    box = run.pool.dataset.extent
    hi = float(fields[-1].max()) if fields else 0.0
    shades = [np.rint(63 * np.sqrt((f / hi).clip(0, 1))).astype(int) for f in fields]
    return {
        "version": VERSION,
        "experiment": experiment.to_dict(),
        "torch": torch.__version__,
        "box": box,
        "steps": steps,
        "data": write(places(numpy(run.pool.test[:SAMPLES]), box), 2),
        "points": points,
        "cells": CELLS,
        "hi": hi,
        "fields": [write(shade, 1) for shade in shades],
    }


def path_of(engine: str) -> Path:
    return FOLDER / f"{engine}.json"


def main(names: Sequence[str]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in names or list(ENGINES):
        clip = record(name)
        if clip is None:
            print(f"{name}: takes no data of the plane, so it has no clip")
            continue
        path_of(name).write_text(json.dumps(clip, separators=(",", ":")) + "\n")
        print(f"{name}: {path_of(name).stat().st_size / 1000:.1f} kB, {clip['steps'][-1]} steps")


if __name__ == "__main__":
    main(sys.argv[1:])
