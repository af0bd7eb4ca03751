"""What a run keeps of each engine beside the engine: its curves, numbers and pictures."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engines.base import Engine
from engines.data.base import Pool
from engines.density import ModelDensity
from engines.marks import Metric, Panel
from engines.pace import Ladder
from engines.probes import Probe, Survey, forget, probes


class Track:
    """One curve of a run: every value is recorded, and at most `limit` means are kept.

    When it is full, neighbours are averaged in pairs, so that an hour fits a few kB.
    """

    def __init__(self, limit: int = 500) -> None:
        self.limit, self.stride = limit, 1
        self.steps: list[float] = []
        self.values: list[float] = []
        self._open: list[tuple[float, float]] = []

    def add(self, step: float, value: float) -> None:
        self._open.append((step, value))
        if len(self._open) < self.stride:
            return
        self.steps.append(sum(s for s, _ in self._open) / len(self._open))
        self.values.append(sum(v for _, v in self._open) / len(self._open))
        self._open.clear()
        if len(self.steps) >= self.limit:
            self.steps = [(a + b) / 2 for a, b in zip(*[iter(self.steps)] * 2, strict=False)]
            self.values = [(a + b) / 2 for a, b in zip(*[iter(self.values)] * 2, strict=False)]
            self.stride *= 2

    def dump(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "steps": self.steps,
            "values": self.values,
            "open": self._open,
        }

    @classmethod
    def load(cls, saved: dict[str, Any]) -> Track:
        track = cls()
        track.stride, track.steps, track.values = saved["stride"], saved["steps"], saved["values"]
        track._open = [tuple(pair) for pair in saved["open"]]
        return track


class Lane:
    """One engine of a run with its curves and numbers; a run has one, or up to four."""

    def __init__(self, index: int, engine: Engine) -> None:
        self.index, self.engine, self.label = index, engine, ""
        self.acts = 0  # actions so far: they may change the model without a step
        self.tracks: dict[str, Track] = defaultdict(Track)
        self.ghosts: dict[str, Track] = {}  # the curves of the run before, to compare with
        self.metric_tracks: dict[str, Track] = defaultdict(Track)
        self.metrics: dict[str, Metric] = {}
        self.own: set[str] = set()  # names of the engine's own numbers
        self.panels: dict[str, Panel] = {}
        self.drawn_at: dict[str, float] = {}
        self.drawn_step: dict[str, int] = {}
        self.panel_cost: dict[str, float] = {}  # seconds, of the last drawing
        self.probed_at: dict[str, float] = {}
        self.probed_key: dict[str, Any] = {}
        self.probe_cost: dict[str, float] = {}  # seconds, of the last measurement at once
        self.own_cost = 0.0  # seconds that the engine's own metrics took
        self.full_cost: dict[str, float] = {}  # like panel_cost, when last drawn in full
        self.work_cost: dict[str, float] = {}  # when last made in pieces, by id or basis
        self.ladders: dict[str, Ladder] = defaultdict(Ladder)  # of the panels, by id
        self.fresh = True  # whether the frame being drawn is a single one, or one of a stream
        self.density = ModelDensity(engine)  # shared by two panels
        self.survey: Survey | None = None  # numbers in the making
        self.job: Any = None  # pictures in the making: a `looking.Job`
        # losses that are still on the device: of one step, 0-d, or of several from a first one, (n,)
        self.pending: list[tuple[int, dict[str, Tensor]]] = []
        self.probes: list[Probe] = probes(engine)

    @property
    def model_key(self) -> Any:
        """Another one for every state of the model and every setting of it."""
        knobs = tuple(getattr(self.engine, name) for name in self.engine.knobs)
        return self.engine.step_count, self.acts, knobs

    @property
    def density_key(self) -> Any:
        """Another one for every density that the model has had."""
        engine, heard = self.engine, self.engine.field_views
        knobs = tuple(
            getattr(engine, name)
            for name, entry in engine.knobs.items()
            if heard is None or not entry.view or name in heard
        )
        return engine.step_count, self.acts, knobs

    def feed(self, pool: Pool) -> None:
        """Other data under the engine: the curves stay, and nothing else that tells of the old."""
        measured = {name for probe in self.probes for name in probe.names}
        self.engine.feed(pool)
        forget(self.engine)
        self.probes = probes(self.engine)
        for cache in (
            self.panels, self.drawn_at, self.drawn_step, self.probed_at, self.probed_key,
        ):  # fmt: skip
            cache.clear()
        self.density.forget()
        self.survey = self.job = None
        # the rows of the table keep their places, and are blank until measured again
        gone = measured - {name for probe in self.probes for name in probe.names}
        blank = {"value": math.nan, "se": None, "floor": None, "step": -1}
        self.metrics = {
            name: replace(old, **blank, note="not measured yet on the new data")
            for name, old in self.metrics.items()
            if name not in gone
        }
        for name in gone:  # a distance that the new data does not have
            self.metric_tracks.pop(name, None)

    def note(self, metric: Metric, step: int) -> None:
        """Keep a number that was measured at a step, in its place and on its curve."""
        metric.step, metric.lane = step, self.index
        known = self.metrics.get(metric.name)
        self.metrics[metric.name] = metric
        if np.isfinite(metric.value) and (known is None or known.step != step):
            self.metric_tracks[metric.name].add(step, metric.value)

    def flush(self) -> bool:
        """Bring pending losses to the CPU in one go; False when one is not finite."""
        if not self.pending:
            return True
        names = list(self.pending[0][1])
        flat = [row[k] for _, row in self.pending for k in names]
        if not any(part.dim() for part in flat):  # the usual case, in one go
            steps = [step for step, _ in self.pending]
            rows = torch.stack(flat).view(-1, len(names))
        else:  # a replay of several steps leaves vectors
            flat = [part.reshape(-1) for part in flat]
            many = [len(part) for part in flat[:: len(names)]]
            steps = [s + i for (s, _), n in zip(self.pending, many, strict=True) for i in range(n)]
            parts = [flat[i : i + len(names)] for i in range(0, len(flat), len(names))]
            rows = torch.cat([torch.stack(part, 1) for part in parts])
        finite = True
        for step, values in zip(steps, rows.float().tolist(), strict=True):
            for name, value in zip(names, values, strict=True):
                if not math.isfinite(value):
                    finite = False
                else:
                    self.tracks[name].add(step, value)
        self.pending.clear()
        return finite


def lane_label(kind: type[Engine], changes: dict[str, Any]) -> str:
    """A lane's short label: 'gradient · K = 4'. A choice that is a word speaks for itself."""

    def part(name: str, value: Any) -> str:
        if isinstance(value, str):
            return value
        label = kind.knobs[name].label
        return f"{label} = {value:g}" if isinstance(value, float) else f"{label} = {value}"

    parts = [part(name, value) for name, value in changes.items()]
    return " · ".join(parts)
