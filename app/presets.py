"""Experiments that teach: one JSON file each in assets/presets, with a promise that is kept.

A preset is an Experiment with a sentence of what to look for and a promise about one of its
numbers. Nothing here knows an engine by name: the files do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from app.share import to_hash
from engines import ENGINES, BadInput, Engine, Experiment, Run
from engines.knobs import shown
from engines.lanes import lane_label
from engines.marks import Frame, Metric
from engines.probes import TEXT

FOLDER = Path(__file__).parent.parent / "assets" / "presets"
ROLES = ("break", "mend", "show")
MAX_TITLE, MAX_LOOK_FOR, MAX_STEPS = 32, 160, 20_000
LOSS = "loss:"  # what the name of a promise about a training loss begins with


# ---------------------------------------------------------------- promises


@dataclass(frozen=True)
class Promise:
    """What will be seen of one number: {metric, op, value, within_steps}.

    It is kept by the first measurement of the metric that is below (<) or above (>) the
    value. The first measurement at or after `within_steps` is the last that counts: frames
    come between many steps, so it may be a few steps late. With `still`, for what must not
    have gone away by then, that measurement is the only one that counts.

    Args:
        metric: the name of a Metric, or "loss:" and the name of a training loss.
        op: "<" or ">".
        value: in the metric's own unit.
        within_steps: training steps.
        still: judge only at the end.
        lane: 0 for the experiment's own knobs, 1 … for those that run beside.
        label, unit: the metric's own, for one that engines/probes.py does not describe.
    """

    metric: str
    op: Literal["<", ">"]
    value: float
    within_steps: int
    still: bool = False
    lane: int = 0
    label: str = ""
    unit: str = ""

    def holds(self, value: float) -> bool:
        """The comparison alone; a value that is not a number never holds."""
        return value < self.value if self.op == "<" else value > self.value

    def check(self, step: int, values: Mapping[str, float]) -> bool | None:
        """Judge one measurement: numbers by name, of this promise's lane, taken at `step`.

        True: kept. False: broken, the last measurement that counts was not so. None: not
        decided yet, or not measured. Once it was True or False it stays so: see Watch.
        """
        value = values.get(self.metric)
        if value is None:
            return None
        last = step >= self.within_steps
        if self.holds(value) and (last or not self.still):
            return True
        return False if last else None

    def kept(self, seen: Frame | Iterable[Metric]) -> bool | None:
        """`check` on a Frame, or its metrics; each says at which step it was measured.

        A frame's metrics hold no losses: for those `see` looks at the run.
        """
        for metric in seen.metrics if isinstance(seen, Frame) else seen:
            # one that has fewer rows while frames stream is too noisy to decide: Watch measures
            # it in full when it is time
            if metric.name == self.metric and metric.lane == self.lane and not metric.rough:
                return self.check(metric.step, {metric.name: metric.value})
        return None

    def see(self, run: Run) -> bool | None:
        """`check` on the newest measurement that a run has made of it by itself."""
        if self.metric.startswith(LOSS):
            return self.check(run.step, self.measure(run))
        return self.kept(run.lanes[self.lane].metrics.values())

    def measure(self, run: Run) -> dict[str, float]:
        """The metric as it is now, by name; {} when the run has no such number.

        Like all looking it never changes training. It may take tenths of a second.
        """
        lane = run.lanes[self.lane]
        if self.metric.startswith(LOSS):
            track = lane.tracks.get(self.metric.removeprefix(LOSS))
            return {self.metric: track.values[-1]} if track and track.values else {}
        sources = [probe.compute for probe in lane.probes if self.metric in probe.names]
        with torch.no_grad(), lane.engine.still(stream=1):
            found = [m for compute in sources or [lane.engine.metrics] for m in compute()]
        return {metric.name: metric.value for metric in found if metric.name == self.metric}

    def words(self) -> str:
        """'KL(p‖q) below 0.05 nats within 400 steps'."""
        label, unit = self._text()
        limit = f"{'below' if self.op == '<' else 'above'} {self.value:g} {unit}".rstrip()
        if self.still:
            return f"{label} still {limit} at step {self.within_steps:,}"
        return f"{label} {limit} within {self.within_steps:,} steps"

    def _text(self) -> tuple[str, str]:
        """The metric's label and unit."""
        if self.metric.startswith(LOSS):
            return f"{self.metric.removeprefix(LOSS)} loss".capitalize(), self.unit
        if self.metric in TEXT:
            return TEXT[self.metric][:2]
        return self.label, self.unit


class Watch:
    """Whether the promise of the preset that a run was opened with has come true.

    One for each Run that is opened. `see` is called after every frame, by whoever drives
    the run. It reads what the frame has measured; only at the end, once, it measures for
    itself, since a stream may not get round to a costly metric for many seconds.
    """

    def __init__(self, preset: Preset) -> None:
        self.preset, self.kept, self._step = preset, None, 0
        self._judged: Experiment | None = None
        self._fits = False

    def fits(self, experiment: Experiment) -> bool:
        """Whether the run is still this preset; worked out anew only when something changed."""
        if experiment is not self._judged:
            self._judged, self._fits = experiment, self.preset.matches(experiment)
        return self._fits

    def see(self, run: Run) -> bool | None:
        """True: kept; False: broken; None: not decided, or the knobs were changed before."""
        if run.step < self._step:  # begun again
            self.kept = None
        self._step = run.step
        if self.kept is None and self.fits(run.experiment):
            promise = self.preset.promise
            self.kept = promise.see(run)
            if self.kept is None and run.step >= promise.within_steps and not run.diverged:
                self.kept = promise.check(run.step, promise.measure(run))
        return self.kept


# ---------------------------------------------------------------- presets


@dataclass(frozen=True)
class Preset:
    """An experiment that shows one thing.

    role: "break" shows a failure and "mend" its cure, and `pair` names the other one;
    "show" stands alone. `order` is its place among those of the same engine.
    """

    name: str
    title: str
    look_for: str
    role: Literal["break", "mend", "show"]
    pair: str
    experiment: Experiment = field(hash=False)
    promise: Promise
    order: float = 100.0

    @property
    def engine(self) -> type[Engine]:
        return ENGINES[self.experiment.engine]

    @property
    def lane_label(self) -> str:
        """What tells the promise's lane from the others: 'k-means++'; '' for a lone run."""
        now, beside = self.experiment.knobs, self.experiment.beside
        differ = {name: now[name] for changes in beside for name in changes}
        changes = [differ, *beside][self.promise.lane]
        return lane_label(self.engine, changes)

    def matches(self, experiment: Experiment) -> bool:
        """Whether an experiment is this one, whatever its seed and how it is looked at."""
        if experiment.points is not None:  # none of ours, and long to compare
            return False
        return _essence(experiment) == _essence(self.experiment)

    def words(self) -> str:
        """The promise in words, with the lane it is about."""
        lane = self.lane_label
        return f"{lane}: {self.promise.words()}" if lane else self.promise.words()

    def spec(self) -> dict[str, Any]:
        """What the page needs of it: plain JSON. `hash` opens it as an address."""
        return {
            "name": self.name,
            "title": self.title,
            "look_for": self.look_for,
            "role": self.role,
            "pair": self.pair,
            "engine": self.experiment.engine,
            "family": self.engine.family,
            "dataset": self.experiment.dataset,
            "promise": self.words(),
            "hash": to_hash(self.experiment),
        }


def _essence(experiment: Experiment) -> dict[str, Any]:
    """An experiment without its seed and view knobs."""
    trains = lambda knobs: {k: v for k, v in knobs.items() if not kinds[k].view}  # noqa: E731
    kinds = ENGINES[experiment.engine].knobs
    out = experiment.to_dict()
    out["knobs"] = trains(out["knobs"])
    out["beside"] = [trains(changes) for changes in out["beside"]]
    del out["seed"]
    return out


@cache
def presets() -> list[Preset]:
    """All presets of assets/presets, by tab, pairs together, the failure before its cure."""
    return load(FOLDER)


def for_engine(engine: str) -> list[Preset]:
    """The presets of one engine."""
    return [preset for preset in presets() if preset.experiment.engine == engine]


def for_family(family: str) -> list[Preset]:
    """The presets of one tab."""
    return [preset for preset in presets() if preset.engine.family == family]


def named(name: str) -> Preset:
    """The preset of that name; raises BadInput when there is none."""
    for preset in presets():
        if preset.name == name:
            return preset
    raise BadInput(f"There is no preset {shown(name)}.")


def matching(experiment: Experiment) -> Preset | None:
    """The preset that an experiment is, however it was opened.

    Of two that differ in how they are looked at alone, the one that is looked at so.
    """
    found = [preset for preset in presets() if preset.matches(experiment)]
    same = [preset for preset in found if preset.experiment.knobs == experiment.knobs]
    return next(iter([*same, *found]), None)


# ---------------------------------------------------------------- reading the files


def load(folder: Path) -> list[Preset]:
    """Read and check every file. Raises BadInput: one sentence that names file and field."""
    found = {path.stem: _read(path) for path in sorted(folder.glob("*.json"))}
    for name, preset in found.items():
        if preset.role != "show":
            _check_pair(name, preset, found.get(preset.pair))

    def place(preset: Preset) -> tuple:
        # a pair stands where its first half would
        pair = found.get(preset.pair, preset)
        lead = min((pair.order, pair.name), (preset.order, preset.name))
        return preset.engine.place, lead, ROLES.index(preset.role), preset.order, preset.name

    return sorted(found.values(), key=place)


def _check_pair(name: str, preset: Preset, other: Preset | None) -> None:
    where = f"assets/presets/{name}.json: pair"
    if other is None:
        raise BadInput(f"{where} names no preset: {shown(preset.pair)}.")
    if other.pair != name or {preset.role, other.role} != {"break", "mend"}:
        raise BadInput(f"{where}: {other.name} must name {name}, one to break and one to mend.")
    if other.experiment.engine != preset.experiment.engine:
        raise BadInput(f"{where}: {other.name} belongs to another engine.")


def _read(path: Path) -> Preset:
    where = f"assets/presets/{path.name}"
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", path.stem):
        raise BadInput(f"{where}: a name is lower-case letters, digits and hyphens.")
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where} is not valid JSON.") from error
    part = _Fields(where, given, {"title", "look_for", "role", "pair", "order", "experiment",
                                  "promise"})  # fmt: skip
    title, look_for = part.text("title", MAX_TITLE), part.text("look_for", MAX_LOOK_FOR)
    # one sentence: a full stop at its end, and no other one before a space
    if not look_for.endswith(".") or re.search(r"[.!?]\s", look_for):
        part.refuse("look_for", "must be one sentence")
    role = part.choice("role", ROLES)
    pair = part.text("pair", 80) if role != "show" else ""
    if role == "show" and "pair" in given:
        part.refuse("pair", "is for presets that break or mend")
    order = part.number("order", 100.0)
    try:
        experiment = Experiment.from_dict(part.need("experiment"))
    except BadInput as error:
        raise BadInput(f"{where}: experiment: {error}") from error
    promise = _promise(f"{where}: promise", part.need("promise"), experiment)
    return Preset(path.stem, title, look_for, role, pair, experiment, promise, order)


def _promise(where: str, given: Any, experiment: Experiment) -> Promise:
    part = _Fields(where, given, set(Promise.__dataclass_fields__))
    metric = part.text("metric", 80)
    told = part.text("label", 40) if "label" in given else ""
    unit = part.text("unit", 20) if "unit" in given else ""
    if metric in TEXT and (told or unit):
        part.refuse("label", "is for metrics that engines/probes.py does not describe")
    if metric not in TEXT and not metric.startswith(LOSS) and not told:
        part.refuse("metric", f"{shown(metric)} is not in engines/probes.py: give its label, too")
    lane = part.whole("lane", 0, len(experiment.beside), 0)
    still = given.get("still", False)
    if not isinstance(still, bool):
        part.refuse("still", f"must be true or false; got {shown(still)}")
    return Promise(metric, part.choice("op", ("<", ">")), part.number("value"),
                   part.whole("within_steps", 1, MAX_STEPS), still, lane, told, unit)  # fmt: skip


class _Fields:
    """The fields of a JSON object, each checked as it is taken; `where` begins each sentence."""

    def __init__(self, where: str, given: Any, known: set[str]) -> None:
        self.where, self.given = where, given
        if not isinstance(given, dict):
            raise BadInput(f"{where}: must be a JSON object; got {shown(given)}.")
        if unknown := sorted(set(given) - known):
            raise BadInput(f"{where}: there is no field {shown(unknown[0])}.")

    def refuse(self, name: str, why: str) -> None:
        raise BadInput(f"{self.where}: {name}: {why}.")

    def need(self, name: str) -> Any:
        if name not in self.given:
            self.refuse(name, "is missing")
        return self.given[name]

    def text(self, name: str, most: int) -> str:
        value = self.need(name)
        if not isinstance(value, str) or not value.strip() or len(value) > most:
            self.refuse(name, f"must be text of at most {most} characters; got {shown(value)}")
        return value

    def choice(self, name: str, choices: tuple[str, ...]) -> Any:
        value = self.need(name)
        if value not in choices:
            self.refuse(name, f"must be one of {', '.join(choices)}; got {shown(value)}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.need(name) if default is None else self.given.get(name, default)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not abs(value) < 1e9:  # NaN fails, too
            self.refuse(name, f"must be a finite number; got {shown(value)}")
        return float(value)

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> int:
        value = self.need(name) if default is None else self.given.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.refuse(name, f"must be a whole number from {low} to {high:,}; got {shown(value)}")
        return value
