"""The diffusion engine: a denoiser for every level of noise, sampled in six ways."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from engines import nets
from engines.capture import Capture
from engines.data.base import Pool
from engines.diffusion import numbers, pictures
from engines.diffusion.samplers import walk
from engines.diffusion.schedules import HIGH, LOW, Schedule, make_schedule
from engines.fields import Field, FieldModel, ode
from engines.fields.engine import log_normal
from engines.knobs import action, knob
from engines.marks import Metric, Panel
from engines.pace import Pieces, finish
from engines.probes import Probe


class Diffusion(FieldModel):
    """x̂₀(z, t) ≈ E[x₀ | z] of data in noise z = α(t) x₀ + σ(t) ε, fitted by least squares.

    The network sees z/√(α² + σ²), which has variance 1 at every t, and log(σ/α)/4. What it predicts,
    F, is turned into x̂₀ = skip · z + out · F (`preconditioned`), so that whoever follows the model
    needs `denoise` alone.
    """

    name = "diffusion"
    family = "Diffusion"
    place = 11
    title = "Diffusion"
    tagline = (
        "Data drown in noise a little at a time; a network learns what they were, and walks back "
        "from pure noise."
    )
    objective = "min E_{t,x₀,ε}[w(t) |x̂₀(αx₀ + σε, t) − x₀|^{2}]"
    look_for = (
        "With many steps all samplers agree. Lower the number of steps and see which of them "
        "break first, and slide through the time to see where the shape is decided."
    )
    paper = (
        "Sohl-Dickstein et al. (2015); Ho, Jain & Abbeel (2020); Song, Meng & Ermon (2021); Song et "
        "al. (2021); Lu et al. (2022); Karras et al. (2022)"
    )
    compare = {
        "Predicting the noise": {"predicts": "noise"},
        "Predicting the data": {"predicts": "data"},
        "DDPM, 10 steps": {"sampler": "DDPM", "steps": 10},
    }
    density = "exact"
    density_kind = "tractable"
    principle = "score matching"
    loss_label = "squared error"

    lr: float = knob(
        4e-3, 1e-5, 1e-1, log=True, live=True, label="Learning rate",
        help="Adam's step size; it falls after the first thousand steps.",
    )  # fmt: skip
    waves: int = knob(
        128, 0, 256, label="Sine features", kinds=("plane",),
        help="Fixed random sines of x that the network sees beside x, each only as "
             "far as the noise leaves it visible: without them sharp edges are out of its reach.",
    )  # fmt: skip
    process: Literal["EDM", "VP", "VE"] = knob(
        "EDM",
        help="How noise comes: variance preserving, where the data fade; variance exploding, where "
             "noise is multiplied; or as Karras et al. have it, time being the noise itself.",
    )  # fmt: skip
    schedule: Literal["linear", "cosine"] = knob(
        "linear", when={"process": "VP"},
        help="Linear hides the data early and lingers in noise; cosine takes its time.",
    )  # fmt: skip
    predicts: Literal["v", "noise", "data", "score"] = knob(
        "v",
        help="What the network gives: v = (αε − σx₀)/√(α² + σ²), for data of variance 1 the same as "
             "EDM's preconditioning; the noise ε; the data x₀; or the score −ε/σ itself.",
    )  # fmt: skip
    weighting: Literal["predicted", "noise", "data"] = knob(
        "predicted", live=True,
        help="In which quantity errors count: in what the network gives, in ε, or in x₀.",
    )  # fmt: skip
    levels: Literal["log-normal", "schedule"] = knob(
        "log-normal", label="Levels of noise",
        help="Training's share of each level: log σ/α normal, or as the schedule spends its time.",
    )  # fmt: skip
    middle: float = knob(
        -1.6, -4.0, 2.0, live=True, label="Middle of log σ/α", when={"levels": "log-normal"},
        help="Where most of the training's noise is; lower is finer.",
    )  # fmt: skip
    spread: float = knob(
        1.4, 0.1, 3.0, live=True, label="Spread of log σ/α", when={"levels": "log-normal"},
        help="How far training's noise ranges around its middle.",
    )  # fmt: skip
    sampler: Literal["DDPM", "DDIM", "Euler", "Heun", "Euler-Maruyama", "DPM-Solver++"] = knob(
        "DPM-Solver++", view=True,
        help="How to walk from noise to data: ancestral, implicit, by the probability-flow ODE in "
             "first or second order, by the reverse SDE, or by a solver made for this ODE.",
    )  # fmt: skip
    steps: int = knob(
        20, 1, 250, log=True, view=True, label="Sampling steps",
        help="Steps from noise to data; each asks the network once, Heun's twice.",
    )  # fmt: skip
    eta: float = knob(
        0.0, 0.0, 1.0, view=True, label="Fresh noise η", when={"sampler": "DDIM"},
        help="0: none, and the same noise gives the same sample; 1: as much as ancestral sampling.",
    )  # fmt: skip
    asks = 1  # times the network, for one guess of the denoiser
    capture = Capture(dials=("lr", "middle", "spread"))
    RHO = 5.0
    EVERY, VALIDATED = 20, 1000  # steps between two looks at validation points; rows in each
    probe_rows = 600

    def start(self, pool: Pool) -> None:
        super().start(pool)
        self._keep()

    def feed(self, pool: Pool) -> None:
        super().feed(pool)
        self._keep()

    def _keep(self) -> None:
        """From now on remember the weights that do best on validation points, if points are few."""
        if self.keeps:
            self.kept = nets.Best(copy.deepcopy(self.net))

    @property
    def keeps(self) -> bool:
        # a few hundred points are known by heart in seconds; a thousand images are not
        return self.pool.finite and self.pool.dataset.kind == "plane"

    @property
    def shown(self) -> Field:
        if self.averaged and self.keeps and self.kept.found:
            return self.kept.module
        return super().shown

    def occasion(self, step: int) -> bool:
        return self.keeps and step % self.EVERY == 0

    def step(self) -> dict[str, Tensor]:
        losses = super().step()
        if self.keeps and self.step_count % self.EVERY == 0:
            self.kept.offer(self.average.module, self.validate(), self.number("next"))
        return losses

    def classed(self, x: Tensor) -> Tensor | None:
        """The classes (N,) of points x (N, d) in data units, for networks that are told them."""
        return None

    @torch.no_grad()
    def validate(self) -> Tensor:
        """Mean |x̂₀ − x₀|² (α/σ)² of validation points under averaged weights, 0-d.

        Over levels even in log σ/α, as in the bound of `numbers.gap`, and the same noise each time.
        """
        if self._validated is None:
            x = self.standardise(self.pool.val)
            n = self.VALIDATED
            x = x[torch.arange(n, device=self.device) % len(x)]
            rng = torch.Generator(self.device).manual_seed(8_000_009)
            place = torch.rand(n, 1, generator=rng, device=self.device)
            alpha, sigma = self.mixed(LOW * (HIGH / LOW) ** place)
            z = alpha * x + sigma * torch.randn(x.shape, generator=rng, device=self.device)
            self._validated = x, alpha, sigma, z, self.classed(self.unstandardise(x))
        x, alpha, sigma, z, y = self._validated
        skip, out = self.preconditioned(alpha, sigma)
        found = skip * z + out * self.average.module(*self.told(z, alpha, sigma), y)
        return ((found - x) * alpha / sigma).square().sum(1).mean()

    # ------------------------------------------------------------ the process

    def refresh(self) -> None:
        super().refresh()
        self._noised, self._gap, self._fields = None, None, {}
        self._validated: tuple | None = None  # the draws of `validate`
        self._compared: dict[str, list[tuple[int, float]]] = {}
        self._compared_at = 0

    @property
    def noising(self) -> Schedule:
        """α(t) and σ(t)."""
        return make_schedule(self.process, self.schedule)

    def preconditioned(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """skip and out of x̂₀ = skip · z + out · F, for α and σ of any one shape."""
        if self.predicts == "v":
            square = alpha.square() + sigma.square()
            return alpha / square, -sigma / square.sqrt()
        if self.predicts == "noise":
            return 1 / alpha, -sigma / alpha
        if self.predicts == "score":
            return 1 / alpha, sigma.square() / alpha
        return torch.zeros_like(alpha), torch.ones_like(alpha)

    def told(self, z: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the network sees of z (N, d): place, level and blur; α and σ (N, 1) or (1, 1)."""
        size = (alpha.square() + sigma.square()).sqrt()
        return z / size, (sigma / alpha).log()[:, 0] / 4, (sigma / size)[:, 0]

    def denoise(
        self, z: Tensor, t: Tensor | float, y: Tensor | None = None, net: Field | None = None
    ) -> Tensor:
        """x̂₀ (N, d), the guess of what z (N, d) was before the noise, in standardised units.

        Args:
            t: time of the process, one for all or (N,).
            y: classes (N,) of networks that know of them.
            net: the network; `shown` unless told.
        """
        t = torch.as_tensor(t, device=z.device, dtype=z.dtype).reshape(-1, 1)
        alpha, sigma = self.noising.alpha(t), self.noising.sigma(t)
        skip, out = self.preconditioned(alpha, sigma)
        place, level, blur = self.told(z, alpha, sigma)
        return skip * z + out * (self.shown if net is None else net)(place, level, blur, y)

    # ------------------------------------------------------------ training

    def noises(self, n: int) -> tuple[Tensor, Tensor]:
        """α and σ (n, 1) of as many training rows."""
        if self.levels == "schedule":
            noising = self.noising
            t = noising.place(torch.rand(n, 1, generator=self.rng, device=self.device))
            return noising.alpha(t), noising.sigma(t)
        noise = torch.randn(n, 1, generator=self.rng, device=self.device)
        middle, spread = self.number("middle"), self.number("spread")
        return self.mixed(torch.exp(middle + spread * noise).clamp(LOW / 2, HIGH))

    def mixed(self, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """α and σ of the process where σ/α is `ratio`, each (…)."""
        if self.process == "VP":
            size = (1 + ratio.square()).sqrt()
            return 1 / size, ratio / size
        return torch.ones_like(ratio), ratio

    def loss(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        alpha, sigma = self.noises(len(z))
        noise = torch.randn(z.shape, generator=self.rng, device=self.device)
        noisy = alpha * z + sigma * noise
        skip, out = self.preconditioned(alpha, sigma)
        found = self.net(*self.told(noisy, alpha, sigma), y)
        error = (found - (z - skip * noisy) / out).square()
        if self.weighting == "data":
            error = error * out.square()
        elif self.weighting == "noise":
            error = error * (out * alpha / sigma).square()
        elif self.predicts == "score":
            error = error * sigma.square()  # or else the least noise would be all that counts
        return error.mean()

    # ------------------------------------------------------------ samples

    def noise(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws (n, d) of z at the last time: data of variance 1 are in it, too."""
        alpha, sigma = self.noising.at(self.noising.high)
        return math.hypot(alpha, sigma) * self.randn(n, self.dim, generator=generator)

    def states(
        self,
        z: Tensor,
        generator: torch.Generator | None = None,
        steps: int | None = None,
        sampler: str | None = None,
    ) -> Iterator[Tensor]:
        """z (N, d) at each time from noise to data, as the sampler of the knobs walks."""
        return walk(
            sampler or self.sampler, self.denoise, self.noising, steps or self.steps, z,
            generator or self.view_rng, self.eta,
        )  # fmt: skip

    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        steps: int | None = None,
        sampler: str | None = None,
    ) -> Tensor:
        """n samples (n, dim) in data units; steps and sampler of the knobs unless told."""
        return finish(self.sample_pieces(n, generator, steps, sampler))

    def sample_pieces(
        self,
        n: int,
        generator: torch.Generator | None = None,
        steps: int | None = None,
        sampler: str | None = None,
    ) -> Pieces[Tensor]:
        """`sample`, a step of the sampler on `TILE` rows at a time."""
        ends = []
        for part in self.noise(n, generator).split(self.TILE):
            for z in self.states(part, generator, steps, sampler):
                end = z
                yield
            ends.append(end)
        return self.unstandardise(torch.cat(ends) / self.noising.at(self.noising.low)[0])

    # ------------------------------------------------------------ the density

    # Every process carries the same points to the same noise; they differ in scale and clock. So
    # the density is worked out in the one where the ODE is smoothest: z = x₀ cos φ + ε sin φ of
    # the angle φ, where dz/dφ = v̂ = ε̂ cos φ − x̂₀ sin φ.

    def _flow(self, angle: float) -> tuple[Tensor, ...]:
        at = torch.tensor([[angle]], dtype=torch.float64)
        cos, sin = at.cos(), at.sin()
        scale = self._scale(cos, sin)
        skip, out = self.preconditioned(cos * scale, sin * scale)
        # v̂ = (z cos φ − x̂₀)/sin φ of z on the circle
        of_z, of_f = (cos - skip * scale) / sin, -out / sin
        found = [part.to(self.device, torch.float32) for part in (of_z, of_f, cos, sin)]
        return tuple(found)

    def _scale(self, cos: Tensor, sin: Tensor) -> Tensor:
        """What z on the circle is multiplied with to be z of the process."""
        return torch.ones_like(cos) if self.process == "VP" else 1 / cos

    def drift(self, z: Tensor, t: float) -> Tensor:
        of_z, of_f, cos, sin = self._flow(t)
        return of_z * z + of_f * self.shown(*self.told(z, cos, sin))

    def drift_jacobian(self, z: Tensor, t: float) -> tuple[Tensor, Tensor]:
        of_z, of_f, cos, sin = self._flow(t)
        found, jacobian = self.shown.with_jacobian(*self.told(z, cos, sin))
        eye = torch.eye(self.dim, device=z.device)
        return of_z * z + of_f * found, of_z * eye + of_f[:, :, None] * jacobian

    def times(self, steps: int) -> Sequence[float]:
        """Angles from data to noise, even in φ^(1/5): fine where little noise is left.

        Of several powers this one errs least: as little in 12 steps as steps even in σ^(1/7) do in
        25, since those linger where all is noise and the way is straight.
        """
        a, b = (math.atan(ratio) ** (1 / self.RHO) for ratio in (LOW, HIGH))
        return [(a + i / steps * (b - a)) ** self.RHO for i in range(steps + 1)]

    def log_base(self, z: Tensor) -> Tensor:
        # x = z/cos φ at the first angle, whose logarithm is 2e-6
        return log_normal(z)

    def draws(self, n: int) -> Tensor:
        """n draws (n, d) of the density itself, by its ODE, whatever the sampler of the knobs."""
        return finish(self.draw_pieces(n))

    def draw_pieces(self, n: int) -> Pieces[Tensor]:
        """`draws`, a step of the ODE at a time."""
        if not self.has_density:
            return (yield from self.sample_pieces(n))
        times = self.times(self.STEPS_PROBE)[::-1]
        z = yield from ode.ending(self.drift, self.randn(n, self.dim), times)
        return self.unstandardise(z)

    # ------------------------------------------------------------ numbers and pictures

    @action("Compare samplers")
    def compare_samplers(self) -> None:
        """Draw quality against evaluations for all samplers, on the network as it stands."""
        with torch.no_grad():
            self._compared, self._compared_at = numbers.compared(self), self.step_count

    def metrics(self) -> list[Metric]:
        return numbers.metrics(self)

    def probes(self) -> list[Probe]:
        return numbers.probes(self)

    def panels(self) -> list[Panel]:
        return pictures.panels(self)
