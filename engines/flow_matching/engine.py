"""Flow matching: a velocity learnt from straight guesses, followed from a source to the data."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from engines import nets
from engines.capture import Capture
from engines.data.base import Dataset, Pool
from engines.fields import ExactPath, Field, FieldModel, ode
from engines.fields.engine import log_normal
from engines.flow_matching import couplings, leaps, numbers, pictures
from engines.flow_matching.network import LeapingField
from engines.flow_matching.paths import At, Path, Scales, exact_velocity, rows
from engines.knobs import action, knob
from engines.marks import Metric, Panel
from engines.pace import Pieces, finish
from engines.probes import Probe


class FlowMatching(FieldModel):
    """v(z, t) ≈ E[dz/dt | z] along ways from source to data; a sample is the end of dz/dt = v."""

    name: ClassVar[str] = "flow_matching"
    family: ClassVar[str] = "Flow matching"
    place: ClassVar[float] = 12
    title = "Flow matching"
    tagline = (
        "Draw a line from every source point to a data point, and learn the mean velocity at each "
        "place and time: followed from the source, it carries the whole cloud to the data."
    )
    objective = "min_{v} E |v(z, t) − (x_{1} − x_{0})|^{2},  z = (1 − t) x_{0} + t x_{1}"
    look_for = (
        "Lines that are drawn cross, but what flows cannot: paths turn where lines meet, and that is "
        "why one long step misses. Slide through time, and compare one step with sixty-four."
    )
    paper = (
        "Lipman, Chen, Ben-Hamu, Nickel & Le (2023), Flow matching for generative modeling; "
        "Liu, Gong & Liu (2023), Flow straight and fast"
    )
    compare: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "Optimal transport": {"coupling": "optimal transport"},
        "Variance-preserving path": {"interpolant": "variance-preserving"},
        "Shortcuts": {"distil": "shortcut"},
    }
    density = "exact"
    density_kind = "tractable"
    principle = "velocity matching"
    comes_from = "noise"
    followed = {"straightness": ("Bend of the paths", "σ²")}
    if_diverged = "Try a smaller learning rate."

    lr: float = knob(
        4e-3, 1e-5, 1e-1, log=True, live=True, label="Learning rate",
        help="Adam's step size; it falls after the first thousand steps.",
    )  # fmt: skip
    batch: int = knob(256, 16, 4096, log=True, live=True, help="Lines from source to data in each "
                      "update.")  # fmt: skip
    waves: int = knob(
        128, 0, 256, label="Sine features", kinds=("plane",),
        help="Fixed random sines of z that the network sees beside z, each only as "
             "far as the noise leaves it visible: without them sharp edges are out of its reach.",
    )  # fmt: skip
    interpolant: Literal["straight", "variance-preserving", "stochastic"] = knob(
        "straight",
        help="How a pair is joined: at an even pace along a line, on an arc that keeps the cloud's "
        "size, or along a line with noise on the way.",
    )  # fmt: skip
    bump: float = knob(
        0.5, 0.05, 2.0, log=True, when={"interpolant": "stochastic"}, label="Noise on the way (γ)",
        help="Standard deviation of the noise halfway, in σ of the data; it is gone at both ends.",
    )  # fmt: skip
    coupling: Literal["independent", "optimal transport"] = knob(
        "independent",
        help="Which source point goes to which data point: by chance, or so that the lines within "
        "each piece of a batch are short together.",
    )  # fmt: skip
    distil: Literal["none", "shortcut"] = knob(
        "none", label="Few-step model",
        help="Also learn leaps: a network that is told how far a step shall reach makes it in one, "
        "since two half leaps must lead to the same place.",
    )  # fmt: skip
    reflow_every: int = knob(
        0, 0, 5000, live=True, label="Reflow every … steps",
        help="After so many steps take the model's own paths, from start to end, for the pairs to "
        "be joined: they hardly cross, so paths get straighter. 0: only when told to.",
    )  # fmt: skip
    solver: Literal["Euler", "midpoint", "Heun", "RK4"] = knob(
        "midpoint", view=True, when={"distil": "none"},
        help="The rule that follows the velocity: Euler asks for it once a step, RK4 four times.",
    )  # fmt: skip
    steps: int = knob(
        8, 1, 64, log=True, view=True, label="Steps of the solver",
        help="Into how many steps the way of a sample is cut.",
    )  # fmt: skip
    ways: int = knob(60, 0, 300, view=True, label="Paths shown", kinds=("plane",),
                     help="How many points leave a trail in the picture of the cloud.")  # fmt: skip

    STEPS_PROBE, STEPS_DRAWS = 24, 24
    best: bool = knob(
        True, view=True, label="Best weights", when={"averaged": True}, kinds=("images",),
        help="On images, and always on points of your own: show the averaged weights that did best on "
             "the validation rows, before the rows are learnt by heart.",
    )  # fmt: skip

    capture = Capture(
        dials=("lr",),
        unless=(({"coupling": "optimal transport"},
                 "Optimal transport within a batch waits for the device at every step."),),
    )  # fmt: skip
    POWER = 1.0  # of the fall of the step size: what is sharp wants small steps in the end
    EDGE = 0.002  # nearer to either end the network is told no difference of time
    PAIRS, PAIRS_IMAGES = 8192, 4096  # that a reflow takes
    STEPS_PAIRS = 16  # of the midpoint rule, from the start of each to its end
    BLUR_TOLD = 0.2  # of what a start tells of its end
    LEAPING = 4  # one row of so many learns leaps

    @classmethod
    def accepts_source(cls, source: Dataset) -> str | None:
        if source.kind == "plane":
            return None
        return f"{cls.title} here comes from noise or from points of the plane."

    # ------------------------------------------------------------ training

    def network(self, rng: torch.Generator) -> Field:
        waves = self.waves if self.dim == 2 else 0
        kind = LeapingField if self.distil == "shortcut" else Field
        return kind(self.dim, self.width, self.hidden, rng, waves, self.FINEST)

    def start(self, pool: Pool) -> None:
        self.reflows = 0
        super().start(pool)
        self.teacher = copy.deepcopy(self.average.module)
        self._keep()

    def _keep(self) -> None:
        """From now on remember the weights that do best on validation rows, if rows are few."""
        if self.pool.finite:
            self.kept = nets.Best(copy.deepcopy(self.net))

    def refresh(self) -> None:
        super().refresh()
        self._path, self._pairs, self._held = Path(self.interpolant, self.bump), None, None
        self._few_key, self._few_last, self._few_floor = (
            None,
            None,
            {},
        )  # what few steps cost is of the data, too
        self._known: dict[str, list[Tensor]] = {}  # exact fields of pictures, which never change
        self._source_mean = torch.zeros(self.dim, device=self.device)
        self._source_scale = 1.0
        if (source := self.pool.source) is not None:
            self._source_mean = self.standardise(source.mean)
            self._source_scale = float(source.std.square().mean().sqrt() / self._std[0])

    def feed(self, pool: Pool) -> None:
        self.reflows = 0  # pairs of the old data
        super().feed(pool)
        self._keep()

    def starts(self, n: int, rng: torch.Generator, held: bool = False) -> Tensor:
        """n rows (n, d) of the source, standardised as the data are; held-out ones if wanted."""
        source = self.pool.source
        if source is None:
            return torch.randn(n, self.dim, generator=rng, device=self.device)
        if not held and rng is self.rng:
            return self.standardise(source.batch(n, rng))
        given = source.test if held else source.train
        index = torch.randint(len(given), (n,), generator=rng, device=self.device)
        return self.standardise(given[index])

    def times_drawn(self, n: int) -> Tensor:
        """n times in (0, 1), one in each nth of their distribution, (n,).

        Logit-normal (Esser et al. 2024, Scaling rectified flow transformers), and late: what is
        fine in the data shows only when little is left of the noise.
        """
        u = torch.rand(n, generator=self.rng, device=self.device)
        u = (torch.arange(n, device=self.device) + u) / n
        return torch.sigmoid(1.8 + 1.4 * torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6)))

    def occasion(self, step: int) -> tuple[int, bool] | None:
        age = step - self.fed_at
        if self.reflow_every and age and age % self.reflow_every == 0:
            return None
        looks = self.pool.finite and not self.reflows and step % nets.Best.EVERY == 0
        return self.reflows, looks  # each reflow has pairs of its own

    def step(self) -> dict[str, Tensor]:
        if self.reflow_every and self.age and self.age % self.reflow_every == 0:
            self.reflow()
        losses = super().step()
        if self.pool.finite and not self.reflows and self.step_count % nets.Best.EVERY == 0:
            net = self.average.module
            self.kept.offer(net, self.held_loss(net), self.number("next"))
        return losses

    @torch.no_grad()
    def held_loss(self, net: Field) -> Tensor:
        """The loss on validation rows, 0-d: always with the same starts at the same times."""
        if self._held is None:
            rng = torch.Generator(self.device).manual_seed(6_000_023 * (self.seed + 1))
            z = self.standardise(self.pool.val[: nets.Best.ROWS].float())
            t = torch.rand(len(z), generator=rng, device=self.device)
            self._held = *self.drawn(*self.paired(z, rng), t, rng), t
        place, wanted, t = self._held
        got, k = self.velocity(net, place, t)
        return ((got - wanted) / k).square().mean()

    @property
    def shown(self) -> Field:
        if self.averaged and self.best and self.pool.finite and self.kept.found:
            return self.kept.module
        return super().shown

    def paired(self, z1: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Ends (x₀, x₁) of the lines that training draws, for data rows x₁ (N, d)."""
        if self.reflows:
            start, end = self.pairs
            index = torch.randint(len(start), (len(z1),), generator=rng, device=self.device)
            return start[index], end[index]
        z0 = self.starts(len(z1), rng)
        if self.coupling == "optimal transport":
            z1 = couplings.optimal(z0, z1, rng)
        return z0, z1

    def drawn(
        self, z0: Tensor, z1: Tensor, t: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """A place on the way of each pair at times t (N,), and dz/dt there: (N, d) and (N, d)."""
        at, noise = self._path.at(t), None
        if self._path.kind == "stochastic":
            noise = torch.randn(z0.shape, generator=rng, device=self.device)
        return at.place(z0, z1, noise), at.pace(z0, z1, noise)

    def loss(self, z: Tensor) -> Tensor:
        z0, z1 = self.paired(z, self.rng)
        n = len(z) // self.LEAPING if self.distil == "shortcut" else 0
        t, d = self.times_drawn(len(z) - n), None
        if n:
            leaping, length = leaps.drawn(n, self.rng)
            t, d = torch.cat([leaping, t]), torch.cat([length, torch.zeros_like(t)])
        place, wanted = self.drawn(z0, z1, t, self.rng)
        if n:
            mean = lambda *given: self.velocity(self.average.module, *given)[0]  # noqa: E731
            with torch.no_grad():
                goal = leaps.target(mean, place[:n], leaping, length)
            wanted = torch.cat([goal, wanted[n:]])
        got, k = self.velocity(self.net, place, t, d)
        # the network's own error, which is of unit size at every t
        return ((got - wanted) / k).square().mean()

    # ------------------------------------------------------------ reflow

    @action("Reflow", trains=True)
    @torch.no_grad()
    def reflow(self) -> None:
        """From now on join the start of each of the model's own paths to its end."""
        self.teacher.load_state_dict(self.average.module.state_dict())
        self.reflows += 1
        self._pairs = None
        if self.pool.finite:
            self.kept.forget()  # it did best on other pairs

    @property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """Starts and ends (N, d) of the teacher's paths (Liu, Gong & Liu 2023), standardised.

        The starts are the same ones after every reflow, so that a checkpoint need not hold them.
        """
        if self._pairs is None:
            n = self.PAIRS if self.dim == 2 else self.PAIRS_IMAGES
            rng = torch.Generator(self.device).manual_seed(6_000_011 * (self.seed + 1))
            times = [i / self.STEPS_PAIRS for i in range(self.STEPS_PAIRS + 1)]
            drift = lambda z, t: self.velocity(self.teacher, z, self.now(t))[0]  # noqa: E731
            with torch.no_grad():
                z0 = self.starts(n, rng)
                parts = [ode.end(drift, part, times, ode.midpoint) for part in z0.split(self.TILE)]
            self._pairs = z0, torch.cat(parts)
        return self._pairs

    # ------------------------------------------------------------ the velocity

    def velocity(
        self, net: Field, z: Tensor, t: Tensor, d: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """c (z − σ m₀) + σ̇ m₀ + k f, (N, d), and k; t and d are (N,) or 0-d.

        m₀ is the source's mean. With d, of a network that knows of leaps: the mean velocity over
        [t, t + d], of which the ODE's own is the limit.
        """
        at, scales, inputs = self._inputs(net, z, t, d)
        middle = z - rows(at.sigma) * self._source_mean
        known = rows(scales.c) * middle + rows(at.sigma_dot) * self._source_mean
        k = rows(scales.k)
        return known + k * net(*inputs), k

    def _inputs(
        self, net: Field, z: Tensor, t: Tensor, d: Tensor | None
    ) -> tuple[At, Scales, tuple[Tensor, Tensor, Tensor]]:
        """The path and the scales at t, and what the network is given: place, level and blur."""
        at, variance = self._path.at(t), self._source_scale**2
        scales = Scales.of(at, variance)
        place = (z - rows(at.sigma) * self._source_mean) / rows(scales.r)
        inner = self._path.at(t.clamp(self.EDGE, 1 - self.EDGE))
        seen = Scales.of(inner, variance)
        level = (seen.s / inner.alpha).log() / 4
        if isinstance(net, LeapingField):
            d = torch.zeros_like(t) if d is None else d
            level = torch.stack([level, d], -1)
            # the end of a long leap is as sharp as the data are there
            seen = Scales.of(self._path.at((t + d).clamp(max=1 - self.EDGE)), variance)
        return at, scales, (place, level, self.hidden_by * seen.s / seen.r)

    @property
    def hidden_by(self) -> float:
        """How much of what is not data blurs the velocity: all of it if it is independent noise."""
        if self.pool.source is not None or self.reflows:
            return self.BLUR_TOLD
        return 1.0 if self.coupling == "independent" else self.BLUR_TOLD

    def now(self, t: float) -> Tensor:
        return torch.tensor(t, device=self.device)

    def drift(self, z: Tensor, t: float) -> Tensor:
        return self.velocity(self.shown, z, self.now(t))[0]

    def drift_jacobian(self, z: Tensor, t: float) -> tuple[Tensor, Tensor]:
        at, scales, inputs = self._inputs(self.shown, z, self.now(t), None)
        value, slope = self.shown.with_jacobian(*inputs)
        known = scales.c * (z - at.sigma * self._source_mean) + at.sigma_dot * self._source_mean
        eye = torch.eye(self.dim, device=self.device)
        return known + scales.k * value, scales.c * eye + scales.k / scales.r * slope

    def exact_velocity(self, z: Tensor, t: float) -> Tensor:
        """E[dz/dt | z] of the data themselves, (N, d), where `exact` knows them in noise."""
        at = self._path.at(torch.tensor(max(t, self.EDGE), dtype=torch.float64))
        noise = float((at.sigma.square() + at.gamma.square()).sqrt())
        score = self.exact.score(z, float(at.alpha), max(noise, self.EDGE))
        return exact_velocity(z, at, score).to(z)

    def exact_log_prob(self, z: Tensor, t: float) -> Tensor:
        """log p_t(z) of the data themselves, (N, d) → (N,), where `exact_velocity` is known."""
        at = self._path.at(torch.tensor(t, dtype=torch.float64))
        noise = float((at.sigma.square() + at.gamma.square()).sqrt())
        return self.exact.log_prob(z, max(float(at.alpha), 1e-6), max(noise, self.EDGE))

    @property
    def exact(self) -> ExactPath | None:
        independent = self.coupling == "independent" and not self.reflows
        return self._exact if self.pool.source is None and independent else None

    # ------------------------------------------------------------ samples and density

    def way(self, z: Tensor) -> Iterator[Tensor]:
        """A start (N, d) at each step that a sample takes: steps + 1 states."""
        times = [i / self.steps for i in range(self.steps + 1)]
        if self.distil == "shortcut":
            return self.leaps(z, times)
        return ode.solve(self.drift, z, times, ode.STEPS[self.solver])

    def leaps(self, z: Tensor, times: Sequence[float]) -> Iterator[Tensor]:
        """z (N, d) at each of `times` by one leap from each to the next."""
        return leaps.way(lambda *given: self.velocity(self.shown, *given)[0], z, times)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return finish(self.sample_pieces(n, generator))

    def sample_pieces(self, n: int, generator: torch.Generator | None = None) -> Pieces[Tensor]:
        """`sample`, a step of the solver on `TILE` rows at a time."""
        z, ends = self.starts(n, generator or self.view_rng), []
        for part in z.split(self.TILE):
            for state in self.way(part):
                end = state
                yield
            ends.append(end)
        return self.unstandardise(torch.cat(ends))

    def draws(self, n: int) -> Tensor:
        """n draws (n, d) of what `log_prob` describes, by its own solver the other way round."""
        return finish(self.draw_pieces(n))

    def draw_pieces(self, n: int) -> Pieces[Tensor]:
        """`draws`, a step of the ODE on `TILE` rows at a time."""
        times, ends = self.times(self.STEPS_DRAWS)[::-1], []
        for part in self.starts(n, self.view_rng, held=True).split(self.TILE):
            ends.append((yield from ode.ending(self.drift, part, times)))
        return self.unstandardise(torch.cat(ends))

    @property
    def has_density(self) -> bool:
        source = self.pool.source
        return super().has_density and (source is None or source.dataset.exact)

    def times(self, steps: int) -> Sequence[float]:
        # short steps near the data, where little is left of the noise
        return [1 - (i / steps) ** 3 for i in range(steps + 1)]

    def log_base(self, z: Tensor) -> Tensor:
        if (source := self.pool.source) is None:
            return log_normal(z)
        return source.dataset.log_prob(self.unstandardise(z)).to(z.dtype) + self.log_std

    # ------------------------------------------------------------ numbers and pictures

    def adopt(self, seen: FlowMatching) -> None:
        super().adopt(seen)
        if seen._few_key is not None and seen.step_count == seen._few_key[0]:
            self._few_last = seen._few

    def metrics(self) -> list[Metric]:
        return numbers.metrics(self)

    def probes(self) -> list[Probe]:
        return numbers.probes(self)

    def panels(self) -> list[Panel]:
        return pictures.panels(self)
