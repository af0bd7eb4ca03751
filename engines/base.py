"""Engine: one generative model, its training and its pictures.

A new family is one file with one subclass: knobs, `start`, `step`, `sample`, and of
`log_prob`, `score`, `path`, `encode` whatever the model truly has. The tab, the controls,
the address, the checkpoint and the contract tests come by themselves.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from engines import nets
from engines.capture import Capture
from engines.cells import cell_averages
from engines.data.base import Dataset, Pool
from engines.knobs import BadInput, Knobbed
from engines.marks import Metric, Panel
from engines.pace import Pieces

ENGINES: dict[str, type[Engine]] = {}
NOISE = "noise"  # in place of a source's name

# what can be said of the model's density q(x), after Goodfellow 2016, "NIPS 2016 tutorial:
# generative adversarial networks", figure 9
DensityKind = Literal["tractable", "approximate", "implicit"]
# what tells the model which way to change
Principle = Literal[
    "maximum likelihood", "variational bound", "adversarial", "noise contrast",
    "score matching", "velocity matching",
]  # fmt: skip


class Engine(Knobbed):
    """One model under training on one pool of data.

    Its knobs are attributes. It owns two generators: `rng` for training (first weights
    included) and `view_rng` for looking, so that looking never changes training.

    Whatever is kept between steps is an attribute holding a Module, Optimizer, Tensor,
    Generator or plain number: checkpoints collect those by themselves. Names that begin
    with an underscore are caches and are not kept, but for the standardisation
    (`_mean`, `_std`): it stays what it was at the start when other data are fed.
    """

    name: ClassVar[str] = ""
    family: ClassVar[str] = ""  # the tab's name
    place: ClassVar[float] = 100.0  # order of tabs
    title: ClassVar[str] = ""
    tagline: ClassVar[str] = ""  # one sentence of what it is
    objective: ClassVar[str] = ""  # the equation; _{…} and ^{…} are set as sub- and superscript
    look_for: ClassVar[str] = ""  # what to look for, one or two sentences
    paper: ClassVar[str] = ""  # author, year, title
    # labels of knob changes worth running in lockstep beside the present ones
    compare: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    # what log_prob is: "exact", "bound", or None for models without a density
    density: ClassVar[Literal["exact", "bound"] | None] = None
    # its place on the map of families; None is read off `density`
    density_kind: ClassVar[DensityKind | None] = None
    principle: ClassVar[Principle | None] = None
    # the one kind of data (`Dataset.kind`) that it is made for, where others could not take it
    made_for: ClassVar[str] = ""
    # the dataset that it opens on where it does not take the one at hand
    opens_on: ClassVar[str] = "ring8soft"
    # for engines that go from one dataset to another, the source where none is named; NOISE for
    # those that begin with noise unless one is. The others begin with noise and take no source
    comes_from: ClassVar[str | None] = None
    # steps between two frames at normal speed, at most: the course of a game of few numbers is
    # the picture, and it would be over before anyone looks. None: as many as there is time for
    steps_a_frame: ClassVar[int | None] = None
    # the recorded clip on the home page: steps until the picture has settled, changed knobs
    clip_steps: ClassVar[int] = 1500
    clip_knobs: ClassVar[Mapping[str, Any]] = {}
    # whether the first loss is a cross-entropy in nats, comparable to the data's entropy
    loss_is_nll: ClassVar[bool] = False
    loss_label: ClassVar[str] = "loss"
    # held-out rows that live numbers ask log_prob about; fewer where it is dear
    probe_rows: ClassVar[int] = 10_000
    # whether each sample, or each value of the density, is solved for by many passes through a
    # network: then pictures may take more of the time, at the cost of training
    dear: ClassVar[bool] = False
    # what a density shown as a picture is, where `field_log_prob` is cheaper than log_prob
    field_note: ClassVar[str] = ""
    # cells a side of that picture, how many of them are looked at closely, points a side in these;
    # and how many points are worked out at a time, between which training may go on
    field_grid: ClassVar[tuple[int, int, int]] = (100, 400, 5)
    # view knobs that this density depends on; None: any of them may
    field_views: ClassVar[tuple[str, ...] | None] = None
    field_rows: ClassVar[int] = 2048
    # own metrics whose course is drawn as a curve: name → title and unit
    followed: ClassVar[Mapping[str, tuple[str, str]]] = {}
    # what to try when the run diverges
    if_diverged: ClassVar[str] = "Try a smaller learning rate."
    # whether and how a step becomes a CUDA graph
    capture: ClassVar[Capture] = Capture("Nobody has made sure that its step can be repeated.")

    pool: Pool
    step_count: int
    fed_at: int  # the step at which the present data came; 0 unless others were fed
    # `live_numbers` of a step under way; while it is captured, their places on the device
    _numbers: Mapping[str, float | Tensor] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "accepts" in vars(cls):
            _spare_the_alone(cls)
        if "name" in vars(cls) and cls.name:
            ENGINES[cls.name] = cls

    def __init__(
        self, knobs: Mapping[str, Any] | None = None, seed: int = 0, device: str = "cpu"
    ) -> None:
        for key, value in self.complete(knobs).items():
            setattr(self, key, value)
        self.device = torch.device(device)
        self.seed = seed
        self.step_count = self.fed_at = 0
        self.rng = self.first_rng()
        self.view_rng = torch.Generator(self.device).manual_seed(3_000_017 * (seed + 1))

    # ------------------------------------------------------------ to be implemented

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        """None, or the reason why this model cannot be trained on the dataset.

        Data that are for some engines alone (`Dataset.alone`) need not be thought of here: they
        are refused by every engine that is not `made_for` them.
        """
        return None

    @classmethod
    def accepts_source(cls, source: Dataset) -> str | None:
        """None, or the reason why it cannot go from this dataset to another."""
        return None if cls.comes_from else "This model begins with noise and takes no source."

    @classmethod
    def refuses(cls, dataset: Dataset, knobs: Mapping[str, Any]) -> str | None:
        """None, or the reason why it cannot be trained on the dataset with these knobs (all)."""
        return None

    @classmethod
    def formula(cls, knobs: Mapping[str, Any]) -> str:
        """The equation that a page shows under these knobs (all): `objective`, unless it depends
        on them."""
        return cls.objective

    def start(self, pool: Pool) -> None:
        """Build networks, optimisers and buffers for `pool`; call super().start(pool) first."""
        self.pool = pool
        self.dim = pool.dim
        # copies: a checkpoint writes into them, and the pool's own shall stay
        self._mean, self._std = (part.to(self.device).clone() for part in (pool.mean, pool.std))

    def step(self) -> dict[str, Tensor]:
        """One training step. Returns detached 0-d losses; never .item(), .cpu(), .numpy()."""
        raise NotImplementedError

    def live_numbers(self) -> dict[str, float]:
        """Python's numbers that the next step depends on and that change with the steps, or with a
        dial: the dials themselves, and what a subclass makes of them and of the step count."""
        return {name: getattr(self, name) for name in self.capture.dials}

    def occasion(self, step: int) -> Hashable | None:
        """What is special about the step that is taken after `step` others: those that are alike
        share a graph. None: Python decides too much in it, and it is not captured."""
        return ""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n samples (n, dim) in data units, from `generator` or else the viewing generator."""
        raise NotImplementedError

    def draws(self, n: int) -> Tensor:
        """n draws (n, dim) of exactly what `log_prob` describes, from the viewing generator.

        Those of `sample`, unless a model's own way of sampling is only an approximation: what is
        averaged over q, as KL(q‖p) is, takes these.
        """
        return self.sample(n)

    def log_prob(self, x: Tensor) -> Tensor:
        """Normalised log-density in nats and data units, (N, dim) → (N,)."""
        raise NotImplementedError(f"{self.name} has no density.")

    def field_log_prob(self, x: Tensor) -> Tensor:
        """What pictures of the density take for log_prob: the same, unless that is too dear."""
        return self.log_prob(x)

    def probe_log_prob(self, x: Tensor) -> Tensor:
        """What live numbers take for log_prob: the same, unless that is too dear."""
        return self.log_prob(x)

    # The same in pieces, for whoever looks while training goes on: of a `snapshot`, since all
    # pieces must be of one model. What is quick has one piece.

    def prepared(self) -> Pieces[None]:
        """What any look at the density needs first, kept for as long as the model stays so."""
        yield

    def sample_pieces(self, n: int) -> Pieces[Tensor]:
        """`sample`."""
        yield
        return self.sample(n)

    def draw_pieces(self, n: int) -> Pieces[Tensor]:
        """`draws`."""
        if not self.has_draws:
            return (yield from self.sample_pieces(n))
        yield from self.prepared()
        return self.draws(n)

    def probe_pieces(self, x: Tensor) -> Pieces[Tensor]:
        """`probe_log_prob`, (N, dim) → (N,)."""
        yield from self.prepared()
        return self.probe_log_prob(x)

    def field_pieces(self, x: Tensor) -> Pieces[Tensor]:
        """`field_log_prob`, (N, dim) → (N,); `effort` may make it coarser."""
        yield from self.prepared()
        found = []
        for part in x.split(self.field_rows):
            yield
            found.append(self.field_log_prob(part))
        return torch.cat(found)

    def cells_pieces(self) -> Pieces[np.ndarray | Tensor]:
        """Averages of that density over the cells of a picture, (n, n) float32, row 0 at the bottom."""
        box = self.pool.dataset.extent
        return (yield from cell_averages(self.field_pieces, box, *self.cells_shown, self.device))

    @property
    def cells_shown(self) -> tuple[int, int, int]:
        """`field_grid`, with less `effort` of fewer cells."""
        cells, refine, sub = self.field_grid
        n = round(cells * self.effort ** (1 / 3) / 2) * 2
        return n, round(refine * self.effort ** (2 / 3)), sub

    def field_told(self) -> Pieces[str]:
        """What is coarser in such a picture than at rest, beside its cells, and by how much it is
        off; "" for nothing."""
        yield
        return ""

    def panels(self) -> list[Panel]:
        """The pictures that are special to the model; the shared ones come from pictures.py."""
        return []

    def metrics(self) -> list[Metric]:
        """Cheap numbers that are special to the model, at most four times a second."""
        return []

    def probes(self) -> list[Any]:
        """Dear numbers special to the model, as `engines.probes.Probe`: each at its own rate."""
        return []

    def changed(self, name: str) -> None:
        """Called after a live or view knob was set."""

    def feed(self, pool: Pool) -> None:
        """Other data of the same shape under the model as it stands.

        Weights, optimisers, the step count and the standardisation stay. Schedules of step
        sizes begin anew, for they count from the last feed (`age`): a model that has nearly
        stopped moving would never reach the new data.
        """
        self.pool, self.fed_at = pool, self.step_count
        self.refresh()

    def refresh(self) -> None:
        """Work out anew whatever was kept of the data or of the standardisation.

        Called after other data were fed and after a checkpoint was loaded. Training's
        generator stands in the middle of its stream then: draw from `first_rng()` what
        `start` drew from `rng`.
        """

    def quicken(self) -> str:
        """Take a faster way of training from here on, with the same numbers to rounding.

        Called between the steps of live runs alone, which nobody asks to repeat bit by bit. Never
        waits: what is not ready yet is taken at a later call. Returns what the page says of it, in
        a few words, or nothing where there is no such way.
        """
        return ""

    # ------------------------------------------------------------ shared by all

    def number(self, name: str) -> float | Tensor:
        """One of `live_numbers`: a float, or within a captured step its place on the device, 0-d."""
        return (self.live_numbers() if self._numbers is None else self._numbers)[name]

    def train_step(self) -> dict[str, Tensor]:
        """A `step` that works its `live_numbers` out once, however often it asks for them."""
        self._numbers = self.live_numbers()
        try:
            return self.step()
        finally:
            self._numbers = None

    @property
    def age(self) -> int:
        """Steps since the present data came."""
        return self.step_count - self.fed_at

    def first_rng(self) -> torch.Generator:
        """A generator that stands where `rng` stood at the start."""
        return torch.Generator(self.device).manual_seed(2_000_003 * (self.seed + 1))

    # what share of its full work a picture may take: 1 but where frames stream and it is dear, or
    # where many wait for a first one
    _effort: ClassVar[float] = 1.0

    @property
    def effort(self) -> float:
        return self._effort

    @contextlib.contextmanager
    def easy(self, effort: float) -> Iterator[None]:
        """Within it pictures are worked out with so much effort."""
        before, self._effort = self._effort, effort
        try:
            yield
        finally:
            self._effort = before

    def some(self, n: int, least: int = 8) -> int:
        """How many of n things a picture shows with the present effort, a multiple of 8."""
        return n if self._effort == 1 else min(n, max(least, round(n * self._effort / 8) * 8))

    def thinned(self, keys: np.ndarray) -> np.ndarray:
        """Of keyframes (K,) at rest those that are drawn with the present effort, ends included."""
        count = len(keys) if self._effort == 1 else max(3, math.ceil(len(keys) * self._effort))
        return keys[np.unique(np.linspace(0, len(keys) - 1, count).round()).astype(int)]

    def snapshot(self) -> Engine:
        """The model as it stands, with a viewing generator of its own, for looking alone.

        Whatever goes into a checkpoint is copied, but for optimisers; pool and caches are shared.
        """
        out, memo = copy.copy(self), {}
        for key, value in vars(self).items():
            if isinstance(value, nn.Module):
                setattr(out, key, copy.deepcopy(value, memo))
            elif isinstance(value, Tensor):
                setattr(out, key, value.detach().clone())
        out.view_rng = torch.Generator(self.device)
        out.view_rng.set_state(self.view_rng.get_state())
        return out

    def adopt(self, seen: Engine) -> None:
        """Keep what was measured on a snapshot and what pictures here show of it."""
        if (best := getattr(seen, "_bits_best", None)) is not None:
            self._bits_best = best

    @property
    def has_density(self) -> bool:
        return type(self).log_prob is not Engine.log_prob

    @property
    def has_draws(self) -> bool:
        """Whether `draws` are others than the model's samples."""
        return type(self).draws is not Engine.draws

    def standardise(self, x: Tensor) -> Tensor:
        """Data units → zero mean and unit variance per column."""
        return (x - self._mean) / self._std

    def unstandardise(self, z: Tensor) -> Tensor:
        return z * self._std + self._mean

    @property
    def log_std(self) -> Tensor:
        """Σ log σ: subtract it from a log-density of standardised data (the Jacobian)."""
        return self._std.log().sum()

    def randn(self, *shape: int, generator: torch.Generator | None = None) -> Tensor:
        """Standard normals; from the viewing generator unless another one is given."""
        return torch.randn(*shape, generator=generator or self.view_rng, device=self.device)

    @contextlib.contextmanager
    def still(self, stream: int = 0) -> Iterator[None]:
        """Within it the viewing generator restarts at one fixed place.

        So successive frames share their latents and samples glide instead of flickering;
        afterwards the generator stands where it stood.
        """
        state = self.view_rng.get_state()
        self.view_rng.manual_seed(4_000_037 * (self.seed + 1) + stream)
        try:
            yield
        finally:
            self.view_rng.set_state(state)

    @torch.no_grad()
    def finite(self) -> bool:
        """Whether all parameters are finite numbers; costs one transfer from the device."""
        found = [
            p.sum()
            for value in vars(self).values()
            if isinstance(value, nn.Module)
            for p in nets.parameters(value)
        ]
        return not found or bool(torch.isfinite(torch.stack([p.double() for p in found])).all())

    # ------------------------------------------------------------ checkpoints

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that training depends on: tensors by name, and plain numbers."""
        tensors: dict[str, Tensor] = {}
        plain: dict[str, Any] = {}
        for key, value in self._kept():
            if isinstance(value, nn.Module):
                for part, tensor in value.state_dict().items():
                    tensors[f"{key}.{part}"] = tensor
            elif isinstance(value, torch.optim.Optimizer):
                for index, slots in value.state_dict()["state"].items():
                    for slot, tensor in slots.items():
                        tensors[f"{key}/{index}/{slot}"] = tensor
            elif isinstance(value, torch.Generator):
                tensors[key] = value.get_state()
            elif isinstance(value, Tensor):
                tensors[key] = value
            elif isinstance(value, (int, float, str)):
                plain[key] = value
        # clones: weights go on changing, and shared memory cannot be written twice
        return {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, plain

    def load_state(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Take over what `state` returned; the engine has been started on the same pool."""
        for key, value in self._kept():
            if isinstance(value, nn.Module):
                own = {k[len(key) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{key}.")}
                value.load_state_dict(own)
            elif isinstance(value, torch.optim.Optimizer):
                state: dict[int, dict[str, Tensor]] = {}
                for name, tensor in tensors.items():
                    if name.startswith(f"{key}/"):
                        _, index, slot = name.split("/")
                        state.setdefault(int(index), {})[slot] = tensor
                value.load_state_dict(
                    {"state": state, "param_groups": value.state_dict()["param_groups"]}
                )
            elif isinstance(value, torch.Generator):
                nets.revive(value, tensors[key])
            elif isinstance(value, Tensor):
                if value.shape != tensors[key].shape:
                    raise BadInput("This checkpoint belongs to another experiment.")
                with torch.no_grad():
                    value.copy_(tensors[key])
            elif isinstance(value, (int, float, str)):
                setattr(self, key, type(value)(plain[key]))
        self.refresh()

    def _kept(self) -> list[tuple[str, Any]]:
        """The attributes that belong into a checkpoint."""
        return [
            (key, value)
            for key, value in vars(self).items()
            if key in ("_mean", "_std")
            or not (key.startswith("_") or key in self.knobs or key in ("pool", "device"))
        ]


def _spare_the_alone(cls: type[Engine]) -> None:
    """Let `cls.accepts` refuse data that are for other engines alone, before its own reasons."""
    own = vars(cls)["accepts"].__func__

    @functools.wraps(own)
    def accepts(kind: type[Engine], dataset: Dataset) -> str | None:
        if dataset.alone and kind.made_for != dataset.kind:
            return dataset.alone
        return own(kind, dataset)

    cls.accepts = classmethod(accepts)


_spare_the_alone(Engine)


def families() -> dict[str, list[str]]:
    """Tabs in their order: family → names of its engines."""
    out: dict[str, list[str]] = {}
    for name, engine in sorted(ENGINES.items(), key=lambda item: item[1].place):
        out.setdefault(engine.family, []).append(name)
    return out
