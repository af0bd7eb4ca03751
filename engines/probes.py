"""What is measured on one model and one pool, and what true samples would give beside it.

`probes` says which of the statistics of `engines/metrics.py` make sense for a model on its data;
`Reference` holds what they share. Lengths are in units of the data's standard deviation: the
root mean square of the training rows' standard deviations per coordinate.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import chdtr
from torch import Tensor, nn

from engines.data.base import Modes, Pool
from engines.marks import Metric, MetricKind
from engines.metrics import (
    REACH,
    Estimate,
    ModeReport,
    as_array,
    bits_per_dim,
    directions,
    energy_noise,
    kl,
    knn_kl,
    mean_distance,
    mode_report,
    nearest_ratio,
    own_neighbour,
    percent,
    project,
    quantile_distance,
    separated,
    share_noise,
    total_variation,
)
from engines.pace import Pieces, finish, move

if TYPE_CHECKING:
    from engines.base import Engine

N_SAMPLES = 10_000  # drawn from a model for every measurement on the plane
N_IMAGES = 500
N_ENERGY = 2_000  # pairs grow as the square
KNN_DIM = 8  # beyond it neighbours are neither near nor quick to find
N_REVERSE = 4_000  # some exact densities are quadratures
FEWEST = 2_500  # of those that numbers are made of while a dear model is trained
FLOOR_DRAWS = 4  # fresh true sets that a floor is averaged over

# name: label, unit, what it sees and what it is blind to
TEXT: dict[str, tuple[str, str, str]] = {
    "kl_pq": ("KL(p‖q)", "nats", "Mean of log p − log q over held-out data: punishes whatever the "
              "model misses, and hardly notices mass where there is none."),
    "kl_qp": ("KL(q‖p)", "nats", f"Mean of log q − log p over {N_REVERSE:,} samples: punishes "
              "mass where there is none, and is blind to lost modes."),
    "nll": ("Held-out NLL", "nats", "Mean of −log q over held-out rows: lower is better, but how "
            "low it can go is not known without the true density."),
    "sliced_w2": ("Sliced W₂", "σ", "How far mass must move, over 64 directions: sees shape "
                  "and balance, and is nearly blind to fine detail."),
    "energy": ("Energy distance", "σ", f"2E|x−y| − E|x−x′| − E|y−y′| on {N_ENERGY:,} rows a side: "
               "sees large shifts, and is nearly blind to fine detail."),
    "energy_images": ("Energy distance, pixels", "σ", f"2E|x−y| − E|x−x′| − E|y−y′| of "
                      f"{N_IMAGES} samples and held-out images: sees blur and lost classes, but a "
                      "copy of the training images passes."),
    "knn_kl": ("k-NN KL", "nats", "KL(p‖q) guessed from 5th-nearest-neighbour distances: sees "
               "fine detail without any density, with a bias, so compare it with its floor."),
    "modes": ("Modes found", "", "Modes that hold at least 20 % of their fair share of samples "
              "within 3σ: blind to wrong shares and to shape within a mode."),
    "within_3sigma": ("Within 3σ", "%", "Share of samples within 3σ of a mode's centre: sees "
                      "strays, and rewards collapse, above all when it exceeds its true value."),
    "share_tv": ("Mode-share TV", "", "Share of samples that sits in the wrong mode (total "
                 "variation, nearest centre): sees imbalance, and is blind to shape."),
    "spread": ("Spread", "×", "Rms radius about each mode's own mean ÷ the true one, strays "
               "beyond 3 of its own σ left out: 1 is right, below is collapse within modes."),
    "bits_val": ("Validation", "bits/dim", "Code length of validation images: when it rises "
                 "while training's falls, the model is memorising."),
    "bits_test": ("Held-out test", "bits/dim", "Code length of test images, which nothing was "
                  "chosen by: a good one says nothing of how samples look."),
    "bits_train": ("Training", "bits/dim", "Code length of as many training images as there are "
                   "for validation: far below validation means memorised."),
    "bits_best": ("Best validation", "bits/dim", "Lowest validation value seen in this run: where "
                  "stopping early would have stopped."),
    "nn_ratio": ("Neighbour ratio", "", "Distance of samples to their nearest training image ÷ "
                 "that of held-out images: 1 is right, below are copies; blind to lost classes."),
}  # fmt: skip


def _metric(
    name: str,
    estimate: Estimate | float,
    kind: MetricKind = "estimate",
    text: str = "",
    **more: Any,
) -> Metric:
    label, unit, explained = TEXT[text or name]
    value, se, note = estimate if isinstance(estimate, Estimate) else (estimate, None, "")
    return Metric(
        name, value, unit, kind, **{"se": se, "note": note, "label": label, "help": explained, **more}
    )  # fmt: skip


def sides(engine: Engine) -> tuple[MetricKind, MetricKind]:
    """What a number is that falls as log q rises, and one that rises with it.

    Where log_prob gives no more than a lower bound of log q, −log q and KL(p‖q) come out too
    large, and KL(q‖p) too small.
    """
    if engine.density == "bound":
        return "upper bound", "lower bound"
    kind = engine.density or "estimate"
    return kind, kind


@dataclass
class Probe:
    """A measurement that Run makes from time to time: at most `hz` times a second."""

    name: str
    names: tuple[str, ...]  # of the metrics it returns, in the order of the page
    compute: Callable[[], list[Metric]]
    hz: float = 2.0
    pieces: Callable[[], Pieces[list[Metric]]] | None = None  # the same, where it can be left

    @classmethod
    def of(
        cls, name: str, names: tuple[str, ...], pieces: Callable[[], Pieces[list[Metric]]],
        hz: float = 2.0,
    ) -> Probe:  # fmt: skip
        """One that is worked out in pieces."""
        return cls(name, names, lambda: finish(pieces()), hz, pieces)

    def begun(self) -> Pieces[list[Metric]]:
        """The measurement, in as many pieces as it has."""
        if self.pieces is not None:
            return (yield from self.pieces())
        yield
        return self.compute()


OWN = Probe("", (), list)  # stands for the engine's own numbers, whatever their names


class Survey:
    """Some of an engine's probes, made in pieces on the model as it stood at the beginning.

    So what is dear holds up no frame, and samples are drawn once for all the numbers that are made
    of them.

    Attributes:
        of: what tells the state of the model from others (`Lane.model_key`).
        step: at which it stood so.
        effort: how many rows there are of the rows at rest.
        cost: seconds spent so far.
    """

    def __init__(
        self, engine: Engine, of: Any, wanted: Collection[str], effort: float = 1.0
    ) -> None:
        begin = time.perf_counter()
        self.engine, self.of, self.step = engine.snapshot(), of, engine.step_count
        self.engine._effort = effort
        with self.engine.still(stream=1):
            self._here = self.engine.view_rng.get_state()
        found = {probe.name: probe for probe in probes(self.engine)}
        found[OWN.name] = Probe.of(OWN.name, (), self._own)
        self._waiting = [found[name] for name in wanted if name in found]
        self._job: Pieces[list[Metric]] | None = None
        self.cost = time.perf_counter() - begin

    def _own(self) -> Pieces[list[Metric]]:
        if self.engine.has_density:
            yield from self.engine.prepared()
        yield
        return self.engine.metrics()

    def advance(self, seconds: float) -> tuple[str, list[Metric]] | None:
        """Go on for so long; a probe's name and its metrics once they are there."""
        begin = time.perf_counter()
        if self._job is None:
            self.engine.view_rng.set_state(self._here)
            self._job = self._waiting[0].begun()
        done, found = move(self._job, seconds)
        self.cost += time.perf_counter() - begin
        if not done:
            return None
        self._job = None
        return self._waiting.pop(0).name, found

    @property
    def over(self) -> bool:
        return not self._waiting


class Reference:
    """What the metrics of one pool share: held-out rows, ideals and floors, made when asked for.

    A floor is the mean of what `FLOOR_DRAWS` fresh true sets of the model's sample size give
    against the same held-out rows, or its expectation where that is known. Without a true
    distribution to draw from, training rows stand in for fresh ones.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        most = N_IMAGES if pool.dataset.kind == "images" else N_SAMPLES
        self.held = as_array(pool.test[:most])
        # no more samples of the model than there are true ones to compare with
        self.n = most if pool.dataset.exact else min(most, len(pool.train))
        self.scale = float(pool.train.double().var(dim=0).mean().sqrt())
        self._fresh: dict[int, np.ndarray] = {}
        self._floors: dict[tuple[str, int], float] = {}

    def fresh(self, draw: int) -> np.ndarray:
        """The same n true rows (n, dim) every time, another set for each `draw`."""
        if draw not in self._fresh:
            rng = torch.Generator().manual_seed(5_000_011 + draw)
            dataset, train = self.pool.dataset, self.pool.train
            if dataset.exact:  # never fresh draws of an estimate: they are not the truth
                rows = dataset.sample(self.n, rng, "test")
            else:
                index = torch.randperm(len(train), generator=rng)[: self.n].to(train.device)
                rows = self.pool.rows(index, torch.Generator(train.device).manual_seed(draw))
            self._fresh[draw] = as_array(rows)
        return self._fresh[draw]

    def floor(self, statistic: Callable[[np.ndarray], float]) -> float:
        return float(np.mean([statistic(self.fresh(draw)) for draw in range(FLOOR_DRAWS)]))

    def floor_of(self, name: str, n: int) -> Pieces[float]:
        """The floor of one of the distances below, of so many rows; kept."""
        if n == self.n or name == "energy":  # which looks at N_ENERGY rows, however many there are
            return getattr(self, f"{name}_floor")
        if (name, n) not in self._floors:
            found = []
            for draw in range(FLOOR_DRAWS):
                yield
                value = getattr(self, name)(self.fresh(draw)[:n])
                found.append(value.value if isinstance(value, Estimate) else value)
            self._floors[name, n] = float(np.mean(found))
        return self._floors[name, n]

    # ---- each distance to the held-out rows, and its floor

    @cached_property
    def log_p(self) -> Tensor:
        return self.pool.dataset.log_prob(self.pool.test[:N_SAMPLES])

    @cached_property
    def _along(self) -> np.ndarray:
        return directions(self.held.shape[1])

    @cached_property
    def _projected(self) -> np.ndarray:
        return project(self.held, self._along)

    def sliced_w2(self, x: np.ndarray) -> float:
        return quantile_distance(project(x, self._along), self._projected) / self.scale

    @cached_property
    def sliced_w2_floor(self) -> float:
        return self.floor(self.sliced_w2)

    @cached_property
    def _held_distance(self) -> float:
        return mean_distance(self.held[:N_ENERGY], self.held[:N_ENERGY])

    def energy(self, x: np.ndarray) -> float:
        x, held = x[:N_ENERGY], self.held[:N_ENERGY]
        return (2 * mean_distance(x, held) - mean_distance(x, x) - self._held_distance) / self.scale

    @cached_property
    def energy_floor(self) -> float:
        n, m = min(self.n, N_ENERGY), min(len(self.held), N_ENERGY)
        # the held-out mean counts each row's distance 0 to itself
        return energy_noise(self._held_distance * m / max(m - 1, 1), n, m) / self.scale

    @cached_property
    def _held_neighbour(self) -> np.ndarray:
        return own_neighbour(self.held)

    def knn_kl(self, x: np.ndarray) -> Estimate:
        return knn_kl(self.held, x, own=self._held_neighbour)

    @cached_property
    def knn_kl_floor(self) -> float:
        return self.floor(lambda x: self.knn_kl(x).value)

    # ---- modes

    @cached_property
    def modes(self) -> Modes | None:
        """The dataset's modes that have any weight."""
        modes = self.pool.dataset.modes
        if modes is None:
            return None
        some = modes.weights > 0
        return Modes(modes.centres[some], modes.sigma[some], modes.weights[some])

    @cached_property
    def ideal(self) -> ModeReport:
        """The report on the true distribution: exact where modes do not reach each other,
        otherwise that of all training rows, whose own noise is a third of the samples'."""
        modes = self.modes
        if not separated(modes):
            return mode_report(self.pool.train, modes)
        inside = float(chdtr(modes.centres.shape[1], REACH**2))
        return ModeReport(len(modes.weights), inside, as_array(modes.weights), 1.0)

    # ---- images

    @cached_property
    def train_rows(self) -> Tensor:
        """As many training rows as validation has, with noise of their own, always the same."""
        pool = self.pool
        index = torch.randperm(len(pool.train), generator=torch.Generator().manual_seed(5_000_003))
        rng = torch.Generator(pool.train.device).manual_seed(5_000_003)
        return pool.rows(index[: len(pool.val)].to(pool.train.device), rng)

    @cached_property
    def train_centres(self) -> Tensor:
        """Training rows in the middle of the noise that makes integers continuous."""
        return self.pool.train.float() + (0.5 if self.pool.dequantise else 0.0)


_REFERENCES: OrderedDict[tuple, Reference] = OrderedDict()
KEPT = 8  # references: about a megabyte each on a plane
_LOCK = threading.Lock()


def reference(pool: Pool) -> Reference:
    """The one Reference of these rows: lanes and probes share it, and so does the next run on
    the same data and seed, which would work out the same floors for half a second."""
    if not hasattr(pool, "_reference"):
        rows = hashlib.blake2b(digest_size=16)
        for part in (pool.train, pool.val, pool.test):
            rows.update(part.cpu().numpy().tobytes())
        dataset = pool.dataset
        key = (type(dataset), dataset.key, str(pool.train.device), rows.digest())
        with _LOCK:  # runs of several visitors begin in threads of their own
            pool._reference = _REFERENCES.pop(key, None) or Reference(pool)
            _REFERENCES[key] = pool._reference  # the newest last
            while len(_REFERENCES) > KEPT:
                _REFERENCES.popitem(last=False)
    return pool._reference


def draw(engine: Engine) -> tuple[Tensor, np.ndarray, str]:
    """Samples for the metrics, as a tensor and as an array, and what is wrong with them.

    Drawn once for all probes of one state of the model.
    """
    return finish(drawing(engine))


def drawing(engine: Engine) -> Pieces[tuple[Tensor, np.ndarray, str]]:
    """`draw`, in the engine's pieces."""
    state = [value for name, value in vars(engine).items() if not name.startswith("_")]
    tensors = [p for m in state if isinstance(m, nn.Module) for p in m.parameters()]
    tensors += [v for v in state if isinstance(v, Tensor)]
    # versions count changes in place: actions may move weights without taking a step
    key = (
        engine.step_count,
        tuple(getattr(engine, name) for name in engine.knobs),
        tuple((id(t), t._version) for t in tensors),
    )
    if getattr(engine, "_drawn_key", None) != key:
        most = reference(engine.pool).n
        n = most if most <= FEWEST else engine.some(most, FEWEST)
        x = yield from engine.sample_pieces(n)
        rows = as_array(x)
        bad = 1 - np.isfinite(rows).all(axis=1).mean()
        wrong = f"{percent(bad)} of the samples are not finite numbers" if bad else ""
        engine._drawn_key, engine._drawn = key, (x, rows, wrong)
    return engine._drawn


def forget(engine: Engine) -> None:
    """Drop what was measured of an engine's earlier data."""
    engine._drawn_key = engine._drawn = engine._bits_best = None


def probes(engine: Engine) -> list[Probe]:
    """The measurements that make sense for this model on this data."""
    kind = engine.pool.dataset.kind
    if kind in ("plane", "line", "vectors", "sequence"):
        return [*_space_probes(engine), *engine.probes()]
    return [*(_image_probes(engine) if kind == "images" else []), *engine.probes()]


def _space_probes(engine: Engine) -> list[Probe]:
    pool, dataset = engine.pool, engine.pool.dataset
    ref = reference(pool)
    falling, rising = sides(engine)

    def divergence(name: str, gap: Estimate, kind: MetricKind) -> Metric:
        """KL with the data's density, which may be a kernel estimate and then says so.

        Against an estimate p̂ the perfect model does not give 0: E_p[log p̂ − log p] < 0.
        """
        if dataset.exact:
            return _metric(name, gap, kind, floor=0.0)
        label, _, explained = TEXT[name]
        label = label.replace("p‖", "p̂‖").replace("‖p", "‖p̂") + ", kernel estimate"
        return _metric(name, gap, "estimate", label=label, help=(
            f"{explained} Here p̂ is a kernel estimate from the training points, so that the "
            "number may fall below 0: then the model describes the data better than p̂ does."))  # fmt: skip

    def fewer(metric: Metric, rows: str) -> Metric:
        """The same, saying of how few rows it is where they are fewer than at rest."""
        return metric.of_fewer(rows) if engine.effort < 1 else metric

    def forward() -> Pieces[list[Metric]]:
        n = engine.some(min(N_SAMPLES, engine.probe_rows), 256)
        gap = kl(ref.log_p[:n], (yield from engine.probe_pieces(pool.test[:n])))
        return [fewer(divergence("kl_pq", gap, falling), f"{n:,} points")]

    def backward() -> Pieces[list[Metric]]:
        # a model that samples in its own, approximate way says what log_prob would give
        n = engine.some(min(N_REVERSE, engine.probe_rows), 256)
        if engine.has_draws:
            x, wrong = (yield from engine.draw_pieces(n)), ""
        else:
            x, _, wrong = yield from drawing(engine)
        if wrong:
            return [divergence("kl_qp", Estimate(math.nan, None, wrong), rising)]
        x = x[:n]
        log_q = yield from engine.probe_pieces(x)
        gap = kl(log_q, dataset.log_prob(x), "q", "p")
        return [fewer(divergence("kl_qp", gap, rising), f"{len(x):,} samples")]

    def held_out() -> Pieces[list[Metric]]:
        x = pool.test[: engine.some(min(N_SAMPLES, engine.probe_rows), 256)]
        log_q = yield from engine.probe_pieces(x)
        found = _metric("nll", kl(torch.zeros_like(log_q), log_q, "the data"), falling)
        return [fewer(found, f"{len(x):,} points")]

    def distance(name: str) -> Callable[[], Pieces[list[Metric]]]:
        def pieces() -> Pieces[list[Metric]]:
            _, x, wrong = yield from drawing(engine)
            found = Estimate(math.nan, None, wrong) if wrong else getattr(ref, name)(x)
            floor = yield from ref.floor_of(name, len(x))
            return [fewer(_metric(name, found, floor=floor), f"{len(x):,} samples")]

        return pieces

    mode_names = ("modes", "within_3sigma", "share_tv", "spread")

    def modes() -> Pieces[list[Metric]]:
        _, x, wrong = yield from drawing(engine)
        ideal, k = ref.ideal, len(ref.modes.weights)
        if wrong:
            return [_metric(name, Estimate(math.nan, None, wrong)) for name in mode_names]
        seen, n = mode_report(x, ref.modes), len(x)
        se = math.sqrt(seen.inside * (1 - seen.inside) / n)
        found = [
            _metric("modes", float(seen.found), floor=float(k), of=k),
            _metric("within_3sigma", Estimate(100 * seen.inside, 100 * se),
                    floor=100 * ideal.inside),
            _metric("share_tv", total_variation(seen.shares, ideal.shares),
                    floor=share_noise(ideal.shares, n)),
            _metric("spread", seen.spread / ideal.spread, floor=1.0),
        ]  # fmt: skip
        return [fewer(metric, f"{n:,} samples") for metric in found]

    out = []
    if engine.has_density and dataset.has_density:
        out += [Probe.of("kl_pq", ("kl_pq",), forward), Probe.of("kl_qp", ("kl_qp",), backward)]
    if engine.has_density and not dataset.exact:
        out += [Probe.of("nll", ("nll",), held_out)]
    out += [Probe.of("sliced_w2", ("sliced_w2",), distance("sliced_w2"), 0.4),
            Probe.of("energy", ("energy",), distance("energy"), 0.3)]  # fmt: skip
    if len(ref.held) > 10 and pool.dim <= KNN_DIM:
        out += [Probe.of("knn_kl", ("knn_kl",), distance("knn_kl"), 0.4)]
    if ref.modes is not None:
        out += [Probe.of("modes", mode_names, modes)]
    return out


def _image_probes(engine: Engine) -> list[Probe]:
    pool, ref = engine.pool, reference(engine.pool)
    kind, _ = sides(engine)

    def bits() -> list[Metric]:
        parts = [pool.val, pool.test[:N_IMAGES], ref.train_rows]
        log_q = engine.probe_log_prob(torch.cat([part.float() for part in parts]))
        val, test, train = (
            bits_per_dim(part, pool.dim) for part in log_q.split([len(part) for part in parts])
        )
        best = getattr(engine, "_bits_best", None)
        kept = getattr(engine, "kept", None)  # the weights that did best, and their loss in nats
        if kept is not None and engine.step_count:
            lowest = float(kept.loss) / (pool.dim * math.log(2))
            best = Estimate(lowest, None, f"at step {int(kept.step):,}")
        elif math.isfinite(val.value) and (best is None or val.value < best.value):
            note = f"at step {engine.step_count:,}; test {test.value:.4g}"
            best = engine._bits_best = Estimate(val.value, val.se, note)
        out = [_metric("bits_val", val, kind), _metric("bits_test", test, kind),
               _metric("bits_train", train, kind)]  # fmt: skip
        return out if best is None else [*out, _metric("bits_best", best, kind)]

    def neighbours() -> Pieces[list[Metric]]:
        x, _, wrong = yield from drawing(engine)
        found = Estimate(math.nan, None, wrong)
        if not wrong:
            found = nearest_ratio(x, ref.train_centres, pool.test[:N_IMAGES])
        return [_metric("nn_ratio", found, floor=1.0)]

    def energy() -> Pieces[list[Metric]]:
        _, x, wrong = yield from drawing(engine)
        found = Estimate(math.nan, None, wrong) if wrong else ref.energy(x)
        return [_metric("energy", found, text="energy_images", floor=ref.energy_floor)]

    out = []
    if engine.has_density:
        out.append(Probe("bits", ("bits_val", "bits_test", "bits_train", "bits_best"), bits))
    out.append(Probe.of("nn_ratio", ("nn_ratio",), neighbours, 0.5))
    out.append(Probe.of("energy", ("energy",), energy, 0.4))
    return out
