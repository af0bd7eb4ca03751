"""Generative adversarial network: a generator and a discriminator play against each other."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from engines.adversarial import Averaged
from engines.capture import Capture
from engines.data.base import Dataset, Pool
from engines.gan import pictures
from engines.gan.course import Course
from engines.gan.losses import LOSSES, Loss, equation, slope_from_one, squared_slope
from engines.gan.numbers import numbers
from engines.gan.players import Sight
from engines.gan.unroll import look_ahead
from engines.knobs import Above, action, knob
from engines.marks import Metric, Panel
from engines.nets import Layers, mlp, put

Critic = Callable[[Tensor], Tensor]  # standardised rows (N, dim) → (N/pack,)
COMPANIES = 4  # packs over which D's view of a single point is averaged


class GAN(Averaged):
    """Generator G: N(0, I) → data, and discriminator D, both SiLU networks.

    D's plain output is a logit, a probability or a critic's value: `LOSSES` says which. On the
    plane D is fed with sines of each point as well, coarse ones first (`players.Sight`), and its
    penalties R1 and R2 may fade: what is coarse is settled before what is fine.

    The game is played with the newest weights; what is shown is their average (`Averaged`).
    Noise of integer data is added to samples, for G cannot make 64 numbers of noise out of two.

    References: Goodfellow et al. 2014 (the game); Metz et al. 2017 (unrolling); Mescheder,
    Geiger & Nowozin 2018 (R1, R2); Lin, Khetan, Fanti & Oh 2018, PacGAN (packing); Yazıcı et
    al. 2019 (averaged generators). Those of each loss stand beside it in losses.py.
    """

    name: ClassVar[str] = "gan"
    place: ClassVar[float] = 8.0
    title = "Generative adversarial network"
    tagline = (
        "A generator turns noise into samples; a discriminator learns to tell them from data, "
        "and its slope shows the generator where to go."
    )
    objective = "minimax: min_{G} max_{D} V = E_{x∼p}[log D(x)] + E_{z∼N(0,I)}[log(1 − D(G(z)))]"
    look_for = (
        "D turns flat as the samples come close to the data, and then there is nothing left to "
        "tell G. Set both penalties and the waves to 0 to see modes get lost, and samples chase "
        "each other."
    )
    paper = "Goodfellow et al., 2014: Generative Adversarial Nets"
    clip_steps = 3000
    compare: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "Minimax loss": {"loss": "minimax"},
        "Without R1 and R2": {"r1": 0.0, "r2": 0.0},
        "Packs of four": {"pack": 4},
        "Newest weights only": {"averaging": 1},
    }
    loss_label = "loss of each player"
    capture = Capture(dials=("d_lr", "g_lr", "r1", "r2", "slope_one", "fade", "focus", "averaging"))

    loss: Literal[
        "non-saturating", "minimax", "least squares", "Wasserstein", "hinge", "relativistic",
        "relativistic average",
    ] = knob(
        "relativistic",
        live=True,
        help="What both players play for. Minimax is the game of 2014, whose slope vanishes for G "
        "where D is sure; relativistic ones compare samples with data; Wasserstein needs a bound on "
        "D's slope.",
    )  # fmt: skip
    latent: int = knob(2, 1, 64, help="Dimensions of the noise that the generator is fed with.")
    width: int = knob(64, 16, 256, log=True,
                      help="Units in each of the three hidden layers of both networks.")  # fmt: skip
    waves: int = knob(64, 0, 128, label="Waves D sees", kinds=("plane", "line"),
                      help="D is fed with so many sines of each point as well, of fixed random pitch: "
                      "they let a small network see what is fine.")  # fmt: skip
    focus: int = knob(150, 0, 5000, live=True, label="Waves focus", kinds=("plane", "line"),
                      when={"waves": Above(0)},
                      help="D sees the coarse waves first, as if all points were blurred, and the blur "
                      "halves every so many steps; 0 shows it all waves at once.")  # fmt: skip
    d_lr: float = knob(2.5e-3, 1e-5, 1e-1, log=True, live=True, label="D step size",
                       help="Adam's step size for the discriminator; it falls as 1/√(1 + t/200).")  # fmt: skip
    g_lr: float = knob(5e-3, 1e-5, 1e-1, log=True, live=True, label="G step size",
                       help="Adam's step size for the generator; it falls as 1/√(1 + t/200).")  # fmt: skip
    d_steps: int = knob(1, 1, 10, live=True, label="D steps per G step",
                        help="Discriminator updates before each generator update.")  # fmt: skip
    batch: int = knob(256, 16, 1024, log=True, live=True,
                      help="Data points, and as many samples, in each update.")  # fmt: skip
    r1: float = knob(0.5, 0.0, 10.0, live=True, label="R1 penalty",
                     help="Adds R1/2 · |slope of D's output|² on the data to D's loss: the game "
                     "then settles instead of circling. 0 is the game of 2014.")  # fmt: skip
    r2: float = knob(0.5, 0.0, 10.0, live=True, label="R2 penalty",
                     help="The same on the samples: it also calms D where there are no data.")  # fmt: skip
    fade: int = knob(200, 0, 5000, live=True, label="R1 and R2 fade", when={"r1 or r2": Above(0)},
                     help="Both penalties halve every so many steps, down to a tenth: first the "
                     "shares of modes are found, then their shapes; 0 keeps them as they are.")  # fmt: skip
    slope_one: float = knob(0.0, 0.0, 20.0, live=True, label="Gradient penalty",
                            help="Adds λ · (|slope of D's output| − 1)² on lines from data to samples, "
                            "in standard deviations of the data: with the Wasserstein loss, WGAN-GP. "
                            "The paper has 10.")  # fmt: skip
    clip: float = knob(0.0, 0.0, 0.5, live=True, label="Clip D's weights", when={"loss": "Wasserstein"},
                       help="Cuts each weight of D to ±this after every update, as in the first "
                       "WGAN, to bound D's slope; 0 leaves them free.")  # fmt: skip
    unroll: int = knob(0, 0, 10, live=True, label="Unrolled D steps",
                       help="G goes down its loss against D as it will be after so many more steps. "
                       "The slope passes through those steps, so a crowd of samples foresees that D "
                       "will turn on it.")  # fmt: skip
    pack: int = knob(1, 1, 8, label="Samples D sees at once",
                     help="Packing: D judges so many data points, or samples, together, and so sees "
                     "that samples are all alike.")  # fmt: skip
    averaging: int = knob(50, 1, 10_000, log=True, live=True,
                          help="The samples shown and measured are the generator's with its weights "
                          "averaged over about so many updates; 1 shows the newest weights.")  # fmt: skip
    bandwidth: float = knob(0.08, 0.02, 0.5, log=True, view=True, kinds=("plane",),
                            help="Width of the kernel in the estimate of the best D, in standard "
                            "deviations of the data.")  # fmt: skip
    blur_data: bool = knob(True, view=True, label="Blur p like q̂", kinds=("plane",),
                           help="See p through q̂'s kernel, so that equal densities give ½. Off: the "
                           "exact p, against which q̂ is too wide wherever p is sharp.")  # fmt: skip

    FINEST = 40.0  # of the waves, radians per standard deviation of the data
    WIDEST = 0.5  # blur of the waves at first, in standard deviations of the data
    LEAST = 0.1  # of R1 and R2
    SETTLING = 200

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        if dataset.kind == "sequence":
            return "The GAN here makes points and pictures, not sequences of steps or tokens."
        return None

    @classmethod
    def formula(cls, knobs: Mapping[str, Any]) -> str:
        return equation(*(knobs[name] for name in ("loss", "r1", "r2", "slope_one", "clip")))

    # ------------------------------------------------------------ training

    def networks(self, rng: torch.Generator) -> tuple[nn.Module, nn.Module]:
        hidden = [self.width] * 3
        # a gain of √3 gives weights of variance 1/n: the signal keeps its size through SiLUs
        generator = mlp([self.latent, *hidden, self.dim], rng, gain=math.sqrt(3))
        waves = self.waves if self.dim <= 2 else 0
        sight = Sight(self.dim, self.pack, waves, self.FINEST, rng)
        judge = mlp([sight.size, *hidden, 1], rng, gain=math.sqrt(3))
        return generator, Layers(sight, *judge)

    def start(self, pool: Pool) -> None:
        super().start(pool)
        self._courses = defaultdict(Course)

    def feed(self, pool: Pool) -> None:
        super().feed(pool)
        self._courses.clear()

    def refresh(self) -> None:
        self._fields: dict[float, Tensor] = {}  # the data's, by the width of the kernel

    def live_numbers(self) -> dict[str, float]:
        blur = self.WIDEST * 0.5 ** (self.age / self.focus) if self.focus else 0.0
        return {**super().live_numbers(), "faded": self.faded, "blur": blur}

    def step(self) -> dict[str, Tensor]:
        """`d_steps` updates of D, then one of G. Returns both losses, without the penalty."""
        for _ in range(self.d_steps):
            discriminator = self.update_discriminator()
        return {"discriminator": discriminator, "generator": self.update_generator()}

    @action("Step D only", trains=True)
    def step_discriminator(self) -> None:
        """One update of the discriminator; the generator stands still."""
        self.update_discriminator()

    @action("Step G only", trains=True)
    def step_generator(self) -> None:
        """One update of the generator, down the slope of a discriminator that stands still."""
        self.update_generator()

    def update_discriminator(self) -> Tensor:
        self._focus()
        real = self.data(self.rows)
        with torch.no_grad():
            fake = self.generate(self.generator, self.rows, self.rng)
        mix = self.mixing(self.rng)
        loss, penalty = self.discriminator_loss(self.logits, real, fake, mix)
        total = loss + penalty if isinstance(penalty, Tensor) else loss
        self._descend(self.d_adam, self.discriminator, total, self.number("d_lr"))
        if (bound := self.bound) is not None:
            with torch.no_grad():
                for p in self.discriminator.parameters():
                    p.clamp_(-bound, bound)
        return loss.detach()

    def update_generator(self) -> Tensor:
        fake = self.generate(self.generator, self.rows, self.rng)
        real = self.data(self.rows) if self.needs_data else None
        loss = self.generator_loss(fake, real, self.mixing(self.rng) if self.unroll else None)
        self._descend(self.g_adam, self.generator, loss, self.number("g_lr"))
        self._average()
        return loss.detach()

    def discriminator_loss(
        self, critic: Critic, real: Tensor, fake: Tensor, mix: Tensor | None
    ) -> tuple[Tensor, Tensor | float]:
        """D's loss, and its penalties, on standardised rows (N, dim) each; mix: see `mixing`."""
        both = torch.cat([real, fake])
        steep = self.r1 > 0 or self.r2 > 0
        if steep and not both.requires_grad:
            both.requires_grad_()
        outputs = critic(both)
        on_real, on_fake = outputs.chunk(2)
        penalty: Tensor | float = 0.0
        if steep:
            # a pack's slope is that in all of its points together
            on_data, on_samples = squared_slope(outputs, both).chunk(2)
            penalty = self.number("r1") * on_data.mean() + self.number("r2") * on_samples.mean()
            penalty = penalty * (self.pack * self.number("faded") / 2)
        if mix is not None:
            packs = (part.reshape(len(mix), -1) for part in (real, fake))
            flat = lambda x: critic(x.reshape(-1, self.dim))  # noqa: E731
            penalty = penalty + self.number("slope_one") * slope_from_one(flat, *packs, mix)
        return self.game.discriminator(on_real, on_fake), penalty

    def generator_loss(
        self, fake: Tensor, real: Tensor | None = None, mix: Tensor | None = None
    ) -> Tensor:
        """G's loss at standardised samples (N, dim), with data (N, dim) where `needs_data`."""
        critic = self.logits
        if self.unroll:

            def loss(parameters: Mapping[str, Tensor]) -> Tensor:
                of = partial(self.logits_of, parameters)
                return sum(self.discriminator_loss(of, real, fake, mix))

            lr = self._pace(self.number("d_lr"))
            later = look_ahead(self.discriminator, loss, self.d_adam, lr, self.unroll, self.bound)
            critic = partial(self.logits_of, later)
        on_real = critic(real) if self.game.relative else None
        return self.game.of_generator(critic(fake), on_real)

    @property
    def game(self) -> Loss:
        return LOSSES[self.loss]

    @property
    def needs_data(self) -> bool:
        """Whether the generator's loss looks at the data, too."""
        return self.game.relative or self.unroll > 0

    @property
    def bound(self) -> float | None:
        """What D's weights are clipped to."""
        return self.clip if self.loss == "Wasserstein" and self.clip > 0 else None

    @property
    def faded(self) -> float:
        """What is left of R1 and R2."""
        return max(0.5 ** (self.age / self.fade), self.LEAST) if self.fade else 1.0

    @property
    def rows(self) -> int:
        """Points, and samples, in an update: as many whole packs as there are in a batch."""
        return self.batch - self.batch % self.pack

    def data(self, n: int) -> Tensor:
        """n standardised rows (n, dim) of a batch."""
        return self.standardise(self.pool.batch(n, self.rng))

    def mixing(self, generator: torch.Generator, n: int | None = None) -> Tensor | None:
        """Where on the lines between data and samples the gradient penalty looks, (packs, 1)."""
        packs = (n or self.rows) // self.pack
        if self.slope_one > 0:
            return torch.rand(packs, 1, generator=generator, device=self.device)
        return None

    def _focus(self) -> None:
        """Set how blurred D sees its points, from the steps since the data came."""
        if isinstance(sight := next(self.discriminator.children(), None), Sight):
            put(sight.blur, self.number("blur"))

    # ------------------------------------------------------------ the two players

    def logits(self, z: Tensor) -> Tensor:
        """What D says of standardised rows (N, dim), or of packs of neighbours: (N/pack,)."""
        return self.discriminator(self._packed(z)).squeeze(1)

    def logits_of(self, parameters: Mapping[str, Tensor], z: Tensor) -> Tensor:
        """The same for a discriminator with other parameters."""
        of = torch.func.functional_call(self.discriminator, dict(parameters), (self._packed(z),))
        return of.squeeze(1)

    def _packed(self, z: Tensor) -> Tensor:
        return z.reshape(-1, self.pack * self.dim) if self.pack > 1 else z

    def generate(self, network: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        """n standardised samples (n, dim) of a generator network."""
        return self.noisy(network(self.randn(n, self.latent, generator=generator)), generator)

    def decode(self, noise: Tensor) -> Tensor:
        """The averaged generator: noise (N, latent) → (N, dim) in data units."""
        with torch.no_grad():
            return self.unstandardise(self.averaged(noise))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n samples (n, dim) of the averaged generator, in data units."""
        with torch.no_grad():
            z = self.generate(self.averaged, n, generator or self.view_rng)
        return self.unstandardise(z)

    def probability(self, x: Tensor) -> Tensor:
        """D(x): how sure the discriminator is that x is data, (N, dim) in data units → (N,).

        σ of its output, or the output itself where least squares make it the probability. A
        critic's values are none: see `judge`.
        """
        return (self.game.probability or torch.sigmoid)(self.judge(x))

    def judge(self, x: Tensor) -> Tensor:
        """D's plain output at each x, (N, dim) in data units → (N,).

        Where D judges packs, the mean over a few packs in which samples stand beside x.
        """
        with torch.no_grad():
            z = self.standardise(x)
            if self.pack == 1:
                return self.logits(z)
            others = self.generate(self.averaged, COMPANIES * (self.pack - 1), self.view_rng)
            packs = [
                torch.cat([z, company.expand(len(z), -1)], 1).reshape(-1, self.dim)
                for company in others.reshape(COMPANIES, -1)
            ]
            return torch.stack([self.logits(pack) for pack in packs]).mean(0)

    def push(self, x: Tensor) -> Tensor:
        """−∂/∂x of the generator's loss at each sample, (N, dim) per data unit.

        Where D, looked ahead at if it is unrolled, would have each sample go; N is a multiple of
        `pack`. Parameters and their gradients are not touched.
        """
        n = len(x)
        real = self.standardise(self.pool.test[torch.arange(n) % len(self.pool.test)])
        mix = self.mixing(self.view_rng, n) if self.unroll else None
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            loss = self.generator_loss(self.standardise(leaf), real, mix)
            # a mean over packs: so many times its slope is that of each one's own
            (slope,) = torch.autograd.grad(n // self.pack * loss, leaf)
        return -slope

    # ------------------------------------------------------------ numbers and pictures

    def metrics(self) -> list[Metric]:
        with self.still(stream=2), torch.no_grad():
            n = 1000 - 1000 % self.pack
            fake = self.logits(self.standardise(self.sample(n)))
            held = self.pool.test[:n]
            real = self.logits(self.standardise(held[: len(held) - len(held) % self.pack]))
        return numbers(self.game, real, fake, self.pack)

    def panels(self) -> list[Panel]:
        return pictures.panels(self)
