"""Experiment: the only thing that is ever shared.

The address, a preset, an exported script, the HTTP API and the tests all carry the same
JSON, with a format version and *all* knobs: defaults may change, links must not.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from engines.base import ENGINES, NOISE
from engines.data.base import DATASETS, Dataset, PointsDataset, Pool
from engines.knobs import BadInput, listed, shown

if TYPE_CHECKING:
    from engines.run import Run

VERSION = 1
MAX_SEED = 2**31 - 1
MAX_BESIDE = 3
MAX_JSON = 6_000_000  # characters: 100,000 points fit


@dataclass(frozen=True)
class Experiment:
    """A dataset (with options, or points), an engine with its knobs, and a seed.

    Args:
        dataset: a name in DATASETS.
        engine: a name in ENGINES.
        seed: of everything random in the run.
        knobs: changes to the engine's defaults; completed to all knobs.
        options: changes to the dataset's options; completed likewise.
        points: (N, 2) points in place of a named dataset; use `from_points`.
        source: a second dataset, for engines that go from one to another; None is the one that
            the engine comes from by itself. "noise" is the same as None for those that begin with
            noise by themselves.
        beside: up to three sets of knob changes run in lockstep on the same data and seed.

    Raises BadInput, one sentence, when anything does not fit.
    """

    dataset: str
    engine: str
    seed: int = 0
    knobs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    points: Any = None
    source: str | None = None
    source_options: Mapping[str, Any] = field(default_factory=dict)
    beside: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731 (frozen)
        if not isinstance(self.engine, str) or self.engine not in ENGINES:
            raise BadInput(f"There is no engine {shown(self.engine)}; try {listed(ENGINES)}.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise BadInput(f"seed must be a whole number; got {shown(self.seed)}.")
        if not 0 <= self.seed <= MAX_SEED:
            raise BadInput(f"seed must be between 0 and {MAX_SEED}; got {shown(self.seed)}.")
        if self.points is not None:
            put("points", PointsDataset(self.points).xy)
            put("dataset", "points")
            if self.options:
                raise BadInput("Points have no options.")
        else:
            put("options", _dataset_class(self.dataset).complete(self.options))
        engine = ENGINES[self.engine]
        if self.source is None or self.source == NOISE == engine.comes_from:
            if self.source_options:
                raise BadInput("source_options without a source.")
            put("source", None if engine.comes_from == NOISE else engine.comes_from)
        if self.source is not None:
            put("source_options", _dataset_class(self.source).complete(self.source_options))
            if reason := engine.accepts_source(self.make_source()):
                raise BadInput(reason)
        put("knobs", engine.complete(self.knobs))
        if isinstance(self.beside, (str, Mapping)) or not isinstance(self.beside, Sequence):
            raise BadInput("beside must be a list of knob changes.")
        if len(self.beside) > MAX_BESIDE:
            raise BadInput(f"At most {MAX_BESIDE} settings can run beside; got {len(self.beside)}.")
        for changes in self.beside:
            if not isinstance(changes, Mapping):
                raise BadInput(f"beside must be a list of knob changes; got {shown(changes)}.")
            engine.complete(changes)  # checks them; only the changes are kept
        put("beside", tuple(dict(changes) for changes in self.beside))
        dataset = self.make_dataset()
        if reason := engine.accepts(dataset):
            raise BadInput(reason)
        if self.source is not None and (source := self.make_source()).shape != dataset.shape:
            raise BadInput(
                f"A model goes between data of one shape: {self.source} has {source.dim} numbers a "
                f"row, {self.dataset} has {dataset.dim}."
            )
        for knobs in self.lanes():
            if reason := engine.refuses(dataset, knobs):
                raise BadInput(reason)

    # ------------------------------------------------------------ making things

    def make_dataset(self) -> Dataset:
        """The dataset with its options, or the points."""
        if self.points is not None:
            return PointsDataset(self.points)
        return DATASETS[self.dataset](**self.options)

    def make_source(self) -> Dataset | None:
        """The dataset that the model comes from; None where it begins with noise."""
        return None if self.source is None else DATASETS[self.source](**self.source_options)

    def make_pool(self, device: str) -> Pool:
        """The rows of a run, and those of the source, which are drawn independently of them."""
        pool = self.make_dataset().pool(self.seed, device)
        if self.source is not None:
            pool.source = self.make_source().pool(self.seed + MAX_SEED, device)
        return pool

    @property
    def data_kind(self) -> str:
        """The dataset's `kind`: "plane", "images" …"""
        return (PointsDataset if self.points is not None else DATASETS[self.dataset]).kind

    def lanes(self) -> list[dict[str, Any]]:
        """Knobs of the run itself, then of each one beside it."""
        return [dict(self.knobs), *({**self.knobs, **changes} for changes in self.beside)]

    def start(self, device: str | None = None) -> Run:
        """A Run with data and engine ready, at step 0.

        device: "cpu", "cuda" …; None takes the GPU where there is one. Training is eager
        and at a fixed precision, so the same Experiment on the same device repeats.
        """
        from engines.run import Run

        return Run(self, device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def but(self, **changes: Any) -> Experiment:
        """The same experiment with some fields replaced."""
        return replace(self, **changes)

    def acted(self, name: str, arguments: Mapping[str, float]) -> Experiment:
        """The experiment after one of the engine's actions that change the data."""
        kind = ENGINES[self.engine]
        kind.actions[name].check(arguments)
        changes = getattr(kind, name)(self.make_dataset(), **arguments)
        return self.but(options={**self.options, **changes})

    def check_feed(self, other: Experiment) -> None:
        """Raise BadInput unless a run of this experiment can go on with the data of `other`.

        Engine, knobs, seed, source and what runs beside must be the same, and the data's
        kind and shape, which the model was built for.
        """
        for name in ("engine", "knobs", "seed", "beside", "source", "source_options"):
            if getattr(self, name) != getattr(other, name):
                raise BadInput(f"Only the data can change under a running model, not its {name}.")
        mine, theirs = self.make_dataset(), other.make_dataset()
        if (mine.kind, mine.shape) != (theirs.kind, theirs.shape):
            raise BadInput(
                f"This model was built for rows of {mine.dim} numbers ({mine.kind}); the other "
                f"data has {theirs.dim} ({theirs.kind})."
            )

    @classmethod
    def from_points(cls, points: Any, engine: str, **rest: Any) -> Experiment:
        """An experiment on anybody's (N, 2) points."""
        return cls("points", engine, points=points, **rest)

    # ------------------------------------------------------------ JSON

    def to_dict(self, points: bool = True) -> dict[str, Any]:
        """All of it as plain JSON types; without the points if they travel otherwise."""
        out: dict[str, Any] = {
            "version": VERSION,
            "dataset": self.dataset,
            "options": copy.deepcopy(dict(self.options)),
            "engine": self.engine,
            "knobs": dict(self.knobs),
            "seed": self.seed,
            "beside": [dict(changes) for changes in self.beside],
        }
        if self.points is not None and points:
            out["points"] = self.points.tolist()
        if self.source is not None:
            out["source"], out["source_options"] = self.source, dict(self.source_options)
        return out

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, given: Any) -> Experiment:
        """The inverse of `to_dict`; everything in it is checked. Raises BadInput."""
        if not isinstance(given, Mapping):
            raise BadInput(f"An experiment is a JSON object; got {shown(given)}.")
        given = dict(given)
        version = given.pop("version", None)
        if isinstance(version, bool) or not isinstance(version, int):
            raise BadInput("This experiment has no version number.")
        if version != VERSION:
            raise BadInput(
                f"This experiment has version {shown(version)}; this page reads {VERSION}."
            )
        known = set(cls.__dataclass_fields__)
        if unknown := [k for k in given if k not in known]:
            raise BadInput(f"An experiment has no field {shown(unknown[0])}.")
        if missing := [k for k in ("dataset", "engine") if k not in given]:
            raise BadInput(f"This experiment does not name its {missing[0]}.")
        return cls(**given)

    @classmethod
    def from_json(cls, text: str) -> Experiment:
        """Read what `to_json` wrote. Raises BadInput, one sentence, on anything else."""
        return cls.from_dict(cls.parse(text))

    @staticmethod
    def parse(text: str) -> Any:
        """What stands in JSON text of bounded size. Raises BadInput when it is not JSON."""
        if not isinstance(text, str):
            raise BadInput(f"An experiment is JSON text; got {shown(text)}.")
        if len(text) > MAX_JSON:
            raise BadInput("That experiment is too large.")
        try:
            # NaN and Infinity are not JSON; refuse them here with the rest
            return json.loads(text, parse_constant=lambda c: shown(c))
        except (ValueError, RecursionError) as error:
            raise BadInput("That is not an experiment: it is not valid JSON.") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Experiment) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __repr__(self) -> str:
        where = f"{len(self.points)} points" if self.points is not None else self.dataset
        return f"Experiment({where!r}, {self.engine!r}, seed={self.seed}, knobs={self.knobs})"


def _dataset_class(name: Any) -> type[Dataset]:
    if not isinstance(name, str) or name not in DATASETS:
        raise BadInput(f"There is no dataset {shown(name)}; try {listed(DATASETS)}.")
    return DATASETS[name]
