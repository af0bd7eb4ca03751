"""Dataset, a named source of data, and Pool, the rows of it that one run trains on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from engines.data.kernels import Kernels
from engines.knobs import BadInput, Knobbed, shown
from engines.marks import Box

DATASETS: dict[str, type[Dataset]] = {}

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Modes:
    """K separate modes: centres (K, 2), standard deviations (K,), weights (K,) that sum to 1."""

    centres: Tensor
    sigma: Tensor
    weights: Tensor


class Dataset(Knobbed):
    """A named source; its options are declared with `knob()` and become attributes.

    Subclasses set `name` and implement `sample`; a plane with an exact density implements
    `log_prob` too. A subclass with a name registers itself in DATASETS.
    """

    name: ClassVar[str] = ""
    about: ClassVar[str] = ""  # one sentence, the thumbnail's tooltip
    source: ClassVar[str] = ""  # where the parameterisation comes from
    place: ClassVar[float] = 100.0  # order on the page
    kind: ClassVar[Literal["plane", "images", "line", "sequence", "vectors", "point"]] = "plane"
    shape: ClassVar[tuple[int, ...]] = (2,)
    classes: ClassVar[int] = 0
    # why only engines that are `made_for` this kind take it; "" where any other may
    alone: ClassVar[str] = ""
    # what log_prob is: the true density, or an estimate from points. Whatever is drawn or
    # measured with an estimate says so, and fresh draws of it are never the truth.
    trust: ClassVar[Literal["exact", "estimate"]] = "exact"
    extent: Box = (-4.0, 4.0, -4.0, 4.0)
    sizes: ClassVar[tuple[int, int, int]] = (100_000, 2_000, 10_000)  # train, val, test
    parts: ClassVar[str] = "nearest mode"  # what `classify` goes by

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in vars(cls) and cls.name:
            DATASETS[cls.name] = cls

    def __init__(self, **options: Any) -> None:
        self.options = self.complete(options)
        for key, value in self.options.items():
            setattr(self, key, value)

    @property
    def dim(self) -> int:
        """Numbers per row once flattened."""
        return int(np.prod(self.shape))

    @property
    def has_density(self) -> bool:
        return type(self).log_prob is not Dataset.log_prob

    @property
    def exact(self) -> bool:
        """Whether the true density is known."""
        return self.has_density and self.trust == "exact"

    @cached_property
    def key(self) -> str:
        """Names the dataset with all its options: what is kept of it is kept under this."""
        return f"{self.name} {json.dumps(self.options, sort_keys=True)}"

    def cells(self, n: int) -> np.ndarray | None:
        """Averages of the density over an n × n grid on the extent, (n, n) float32, where there
        is a better way than many values of `log_prob`; row 0 is at the bottom."""
        return None

    def sample(self, n: int, generator: torch.Generator, split: Split = "train") -> Tensor:
        """n independent rows (n, dim) in data units, float32, on the generator's device."""
        raise NotImplementedError

    def example(self) -> Tensor:
        """One row (dim,) that stands for all, for a small picture; always the same."""
        return self.sample(1, torch.Generator().manual_seed(5))[0]

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats, (N, dim) → (N,); −∞ outside the support. See `trust`."""
        raise NotImplementedError(f"{self.name} has no exact density.")

    @property
    def entropy(self) -> float | None:
        """Differential entropy −∫ p log p in nats, where it is exact."""
        return None

    @property
    def modes(self) -> Modes | None:
        return None

    def classify(self, x: Tensor) -> Tensor | None:
        """Which part of the data each place belongs to, (N, dim) → (N,) int64 from 0 on.

        None where there are no parts.
        """
        modes = self.modes
        if modes is None or not 1 < len(modes.weights) <= 25:
            return None
        centres = self.constant("centres", modes.centres, x.double())
        return torch.cdist(x.double(), centres).argmin(1)

    def constant(self, name: str, values: Any, like: Tensor) -> Tensor:
        """Numbers that never change as a tensor of the device and dtype of `like`, brought there
        once: training steps, which ask for the class of a row, must not wait for a copy."""
        kept = self.__dict__.setdefault("_constants", {})
        key = (name, like.device, like.dtype)
        if key not in kept:
            kept[key] = torch.as_tensor(values).to(like)
        return kept[key]

    def noised(self, a: float, sigma: float) -> Any:
        """Exact density and score of a·x + σε, ε ~ N(0, I): has `log_prob` and `score`."""
        raise NotImplementedError(f"{self.name} has no exact noised density.")

    def pool(self, seed: int, device: torch.device | str = "cpu") -> Pool:
        """Draw a run's training, validation and test rows; the same for the same seed."""

        parts = []
        for stream, (n, split) in enumerate(zip(self.sizes, get_args(Split), strict=True)):
            # 4 streams a seed: the engine's own generators use other multiples
            rng = torch.Generator().manual_seed(1_000_003 * (seed + 1) + stream)
            parts.append(self.sample(n, rng, split).to(device))
        pool = Pool(self, *parts)
        if self.trust == "exact":

            def fresh(block: int) -> Tensor:
                rng = torch.Generator().manual_seed(7_000_003 * (seed + 1) + block)
                return self.sample(self.sizes[0], rng, "train").to(device)

            pool.fresh = fresh
        return pool


class Pool:
    """The rows that one run trains on, in data units, on the run's device.

    Attributes:
        train, val, test: (N, dim) float32. test is what metrics are computed on.
        labels, test_labels: (N,) int64 classes of the training and of the test rows, or None.
        mean, std: (dim,) of the training rows: engines may standardise with them, and
            count the Jacobian, since samples and log-densities are in data units.
        source: the pool that the model comes from, for engines that take one; else None.
        fresh: block number → as many training rows again, where the data are a distribution and
            not a finite set: no model learns such rows by heart.
    """

    EVERY = 200  # steps that a block of rows serves
    source: Pool | None = None
    fresh: Callable[[int], Tensor] | None = None

    def __init__(
        self,
        dataset: Dataset,
        train: Tensor,
        val: Tensor,
        test: Tensor,
        labels: Tensor | None = None,
        dequantise: bool = False,
        std: Tensor | None = None,
        test_labels: Tensor | None = None,
    ) -> None:
        self.dataset, self.test_labels = dataset, test_labels
        self.train, self.val, self.test, self.labels = train, val, test, labels
        self.dequantise = dequantise
        self._block, self._rows = 0, None  # which block `batch` draws from; None: of `train`
        self._place: Tensor | None = None  # where fresh rows are copied to, see `hold`
        self.mean = train.mean(0) + (0.5 if dequantise else 0.0)
        self.std = train.std(0).clamp_min(1e-6) if std is None else std

    @property
    def dim(self) -> int:
        return self.train.shape[1]

    @property
    def finite(self) -> bool:
        """Whether the training rows are all that there are, so that they can be learnt by heart."""
        return self.fresh is None

    def rows(self, index: Tensor, rng: torch.Generator) -> Tensor:
        """Training rows by index; integers get fresh uniform noise (dequantisation)."""
        x = self.train[index]
        return dequantised(x, rng) if self.dequantise else x

    def batch(self, n: int, rng: torch.Generator) -> Tensor:
        """n training rows drawn with replacement by the engine's own generator.

        From `train` up to step EVERY, and from a fresh block of rows every EVERY steps after.
        """
        x = self.train if self._rows is None else self._rows
        x = x.index_select(0, torch.randint(len(x), (n,), generator=rng, device=x.device))
        return dequantised(x, rng) if self.dequantise else x

    def hold(self) -> None:
        """From now on the rows of `batch` stay at one place in memory, into which fresh ones are
        copied: a captured step always reads from there."""
        if self.fresh is not None and self._place is None:
            self._rows = self._place = (self.train if self._rows is None else self._rows).clone()
        if self.source is not None:
            self.source.hold()

    def turn(self, step: int) -> None:
        """Lay out the rows that belong to training step `step`, which alone decides on them: so a
        run that is saved and opened goes on with the same ones."""
        if self.fresh is not None and (block := step // self.EVERY) != self._block:
            rows = self.fresh(block) if block else None
            if self._place is not None:
                rows = self._place.copy_(self.train if rows is None else rows, non_blocking=True)
            self._block, self._rows = block, rows
        if self.source is not None:
            self.source.turn(step)


# the most that is added to an integer below 32: float32 would round 16 + 1 − 2⁻²⁴ up to 17
MOST_NOISE = 1 - 2.0**-19


def dequantised(x: Tensor, rng: torch.Generator) -> Tensor:
    """Integers below 32 in float32, plus uniform noise: x ≤ x + u < x + 1."""
    return x + torch.rand(x.shape, generator=rng, device=x.device).clamp_max(MOST_NOISE)


def gaussian_rows(
    given: Any, limits: dict[str, tuple[float, float]], most: int
) -> list[list[float]]:
    """1 to `most` rows with one float for each name of `limits`, within them; or BadInput."""
    if not isinstance(given, (list, tuple)) or not 1 <= len(given) <= most:
        raise BadInput(f"components must be a list of 1 to {most} Gaussians.")
    out = []
    for i, row in enumerate(given, 1):
        if not isinstance(row, (list, tuple)) or len(row) != len(limits):
            raise BadInput(f"Gaussian {i} must be {len(limits)} numbers: {', '.join(limits)}.")
        for (name, (low, high)), value in zip(limits.items(), row, strict=True):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                raise BadInput(
                    f"{name} of Gaussian {i} must be between {low:g} and {high:g}; "
                    f"got {shown(value)}."
                )
        out.append([float(value) for value in row])
    return out


# what is drawn by hand is shown in a box that grows in steps: a picture that zooms with every
# move of the hand cannot be drawn in
STEPS = (4.0, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 100)


def extent_around(xy: np.ndarray) -> Box:
    """A square that holds points (N, 2): one of STEPS round 0 if they fill at least a third
    of it, else one of their own with a margin of a tenth."""
    size, most = float(np.ptp(xy, axis=0).max()), float(np.abs(xy).max())
    step = next((s for s in STEPS if s >= most), None)
    if step is not None and 3 * size >= 2 * step:
        return (-step, step, -step, step)
    (x, y), half = (xy.min(0) + xy.max(0)) / 2, max(0.6 * size, 1e-3)
    return (float(x - half), float(x + half), float(y - half), float(y + half))


class PointsDataset(Dataset):
    """Anybody's (N, 2) points, split 80 / 10 / 10 %.

    `log_prob` is a Gaussian kernel estimate from the training split: see `Kernels`.
    """

    name = ""
    about = "Points of your own."
    trust = "estimate"
    MAX_POINTS = 100_000

    def __init__(self, points: Any) -> None:
        super().__init__()
        try:
            xy = np.asarray(points, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise BadInput(
                f"Points must be an (N, 2) array of numbers; got {shown(points)}."
            ) from error
        if xy.ndim != 2 or xy.shape[1] != 2:
            raise BadInput(f"Points must be an (N, 2) array; got shape {xy.shape}.")
        if not 20 <= len(xy) <= self.MAX_POINTS:
            raise BadInput(
                f"Between 20 and {self.MAX_POINTS:,} points are needed; got {len(xy):,}."
            )
        if not (np.isfinite(xy).all() and np.abs(xy).max() < 1e6):
            raise BadInput("Points must be finite numbers below a million in size.")
        self.xy = np.ascontiguousarray(xy, dtype=np.float32)
        # as they will be used: float32 may have rounded a small difference away
        self.scale = self.xy.astype(np.float64).std(0)
        if (self.scale < 1e-9).any():
            raise BadInput("All points lie on one vertical or horizontal line or spot.")
        if abs(np.corrcoef(self.xy.astype(np.float64).T)[0, 1]) > 1 - 1e-9:
            raise BadInput("All points lie on one line: no density in the plane describes them.")
        self.extent = extent_around(self.xy)

    @cached_property
    def key(self) -> str:
        return f"points {hashlib.blake2b(self.xy.tobytes(), digest_size=16).hexdigest()}"

    @cached_property
    def kernels(self) -> Kernels:
        """The estimate; its bandwidth is chosen when a density is first asked for."""
        return Kernels(self._split("train"), self.scale, self.extent)

    def log_prob(self, x: Tensor) -> Tensor:
        """Kernel estimate of the log-density in nats, (N, 2) → (N,)."""
        return self.kernels.log_prob(x)

    def cells(self, n: int) -> np.ndarray:
        return self.kernels.cells(self.extent, n)

    def _split(self, split: Split) -> np.ndarray:
        order = np.random.default_rng(0).permutation(len(self.xy))
        a, b = int(0.8 * len(order)), int(0.9 * len(order))
        return self.xy[{"train": order[:a], "val": order[a:b], "test": order[b:]}[split]]

    def sample(self, n: int, generator: torch.Generator, split: Split = "train") -> Tensor:
        rows = torch.from_numpy(self._split(split)).to(generator.device)
        index = torch.randint(len(rows), (n,), generator=generator, device=generator.device)
        return rows[index]

    def pool(self, seed: int, device: torch.device | str = "cpu") -> Pool:
        parts = [torch.from_numpy(self._split(s)).to(device) for s in ("train", "val", "test")]
        return Pool(self, *parts)


DensityFunction = Callable[[Tensor], Tensor]
