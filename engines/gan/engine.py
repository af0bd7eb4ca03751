"""Generative adversarial network: a generator and a discriminator play against each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from engines.base import Engine
from engines.data.base import Dataset, Pool
from engines.gan import pictures
from engines.gan.losses import LOSSES, squared_slope, value
from engines.knobs import action, knob
from engines.marks import (
    Metric,
    Panel,
)
from engines.nets import adam, mlp, set_lr


class GAN(Engine):
    """Generator G: N(0, I) → data, and discriminator D = σ(logit), both SiLU networks.

    The model shown, sampled and measured is G with its weights averaged over the last
    `averaging` updates; the game itself is played with the newest weights. Where the data
    are integers with uniform noise, samples get the same noise: D must not win by its
    absence, and G cannot make 64 numbers of noise out of two.

    References: Goodfellow et al. 2014 (the game); Mescheder, Geiger & Nowozin 2018 (R1);
    Yazıcı et al. 2019 (averaged generators).
    """

    name: ClassVar[str] = "gan"
    family: ClassVar[str] = "GAN"
    place: ClassVar[float] = 8.0
    title = "Generative adversarial network"
    tagline = (
        "A generator turns noise into samples; a discriminator learns to tell them from data, "
        "and its slope shows the generator where to go."
    )
    objective = "min_{G} max_{D} V = E_{x∼p}[log D(x)] + E_{z∼N(0,I)}[log(1 − D(G(z)))]"
    look_for = (
        "D turns flat, for two reasons: the samples come close to the data, and the R1 penalty "
        "holds its slope down. Set R1 to 0 to see it sharpen, the modes get lost, and the samples "
        "chase each other."
    )
    paper = "Goodfellow et al., 2014: Generative Adversarial Nets"
    density_kind = "implicit"
    principle = "adversarial"
    clip_steps = 3000
    compare: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "Minimax loss": {"loss": "minimax"},
        "Without the R1 penalty": {"r1": 0.0},
        "Newest weights only": {"averaging": 1},
    }
    loss_label = "loss, nats"
    if_diverged = "Try smaller step sizes, or a larger R1 penalty."

    loss: Literal["non-saturating", "minimax"] = knob(
        "non-saturating",
        live=True,
        help="What the generator minimises: −log D(G(z)), or log(1 − D(G(z))), whose slope "
        "vanishes where D is sure that a sample is fake.",
    )
    latent: int = knob(2, 1, 64, help="Dimensions of the noise that the generator is fed with.")
    width: int = knob(128, 16, 256, log=True,
                      help="Units in each of the three hidden layers of both networks.")  # fmt: skip
    d_lr: float = knob(1e-3, 1e-5, 1e-1, log=True, live=True, label="D step size",
                       help="Adam's step size for the discriminator; it falls as 1/√(1 + t/200).")  # fmt: skip
    g_lr: float = knob(2e-3, 1e-5, 1e-1, log=True, live=True, label="G step size",
                       help="Adam's step size for the generator; it falls as 1/√(1 + t/200).")  # fmt: skip
    d_steps: int = knob(1, 1, 10, live=True, label="D steps per G step",
                        help="Discriminator updates before each generator update.")  # fmt: skip
    batch: int = knob(256, 16, 1024, log=True, live=True,
                      help="Data points, and as many samples, in each update.")  # fmt: skip
    r1: float = knob(2.0, 0.0, 10.0, live=True, label="R1 penalty",
                     help="Adds R1/2 · |slope of D's logit|² on the data to D's loss: the game "
                     "then settles instead of circling. 0 is the game of 2014.")  # fmt: skip
    averaging: int = knob(50, 1, 10_000, log=True, live=True,
                          help="The samples shown and measured are the generator's with its weights "
                          "averaged over about so many updates; 1 shows the newest weights.")  # fmt: skip
    bandwidth: float = knob(0.08, 0.02, 0.5, log=True, view=True,
                            help="Width of the kernel in the estimate of the best D, in standard "
                            "deviations of the data.")  # fmt: skip
    blur_data: bool = knob(True, view=True, label="Blur p like q̂",
                           help="See p through q̂'s kernel, so that equal densities give ½. Off: the "
                           "exact p, against which q̂ is too wide wherever p is sharp.")  # fmt: skip

    BETAS = (0.0, 0.99)  # momentum makes two players circle each other
    SETTLING = 200  # step sizes fall as 1/√(1 + t/SETTLING)

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        if dataset.kind == "sequence":
            return "The GAN here makes points and pictures, not sequences of steps or tokens."
        return None

    # ------------------------------------------------------------ training

    def start(self, pool: Pool) -> None:
        super().start(pool)
        hidden = [self.width] * 3
        shape = [self.latent, *hidden, self.dim]
        # a gain of √3 gives weights of variance 1/n: the signal keeps its size through SiLUs
        self.generator = mlp(shape, self.rng, gain=math.sqrt(3))
        self.discriminator = mlp([self.dim, *hidden, 1], self.rng, gain=math.sqrt(3))
        spare = torch.Generator(self.device).manual_seed(0)  # its weights are overwritten
        self.averaged = mlp(shape, spare).requires_grad_(False)
        self.averaged.load_state_dict(self.generator.state_dict())
        self.g_adam = adam(self.generator.parameters(), self.g_lr, self.BETAS)
        self.d_adam = adam(self.discriminator.parameters(), self.d_lr, self.BETAS)
        self.g_updates = 0
        self._blurred: dict[Any, Tensor] = {}

    def feed(self, pool: Pool) -> None:
        super().feed(pool)
        self.g_updates = 0  # the average forgets the generator of the old data

    def refresh(self) -> None:
        self._blurred = {}

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
        real = self.standardise(self.pool.batch(self.batch, self.rng))
        with torch.no_grad():
            fake = self.generate(self.generator, self.batch, self.rng)
        both = torch.cat([real, fake]).requires_grad_(self.r1 > 0)
        logits = self.logits(both)
        on_real, on_fake = logits.split(self.batch)
        loss = LOSSES[self.loss].discriminator(on_real, on_fake)
        total = loss
        if self.r1 > 0:
            total = loss + self.r1 / 2 * squared_slope(on_real, both)[: self.batch].mean()
        self._descend(self.d_adam, self.discriminator, total, self.d_lr)
        return loss.detach()

    def update_generator(self) -> Tensor:
        fake = self.generate(self.generator, self.batch, self.rng)
        loss = LOSSES[self.loss].generator(self.logits(fake))
        self._descend(self.g_adam, self.generator, loss, self.g_lr)
        self._average()
        return loss.detach()

    def _descend(
        self, optimiser: torch.optim.Optimizer, player: nn.Module, loss: Tensor, lr: float
    ) -> None:
        """One Adam step of one player; the other one's parameters get no gradient at all."""
        parameters = list(player.parameters())
        for p, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.grad = slope
        set_lr(optimiser, lr / math.sqrt(1 + self.age / self.SETTLING))
        optimiser.step()

    @torch.no_grad()
    def _average(self) -> None:
        """θ̄ ← θ̄ + s (θ − θ̄) with s from 1 down to 1/averaging, so that early weights fade."""
        s = 1 / self.averaging
        s += (1 - s) * 10 / (10 + self.g_updates)
        self.g_updates += 1
        mine, newest = self.averaged.parameters(), self.generator.parameters()
        torch._foreach_lerp_(list(mine), [p.detach() for p in newest], s)

    # ------------------------------------------------------------ the two players

    def logits(self, z: Tensor) -> Tensor:
        """D's logit at standardised rows, (N, dim) → (N,)."""
        return self.discriminator(z).squeeze(1)

    def generate(self, network: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        """n standardised samples (n, dim) of a generator network."""
        z = network(self.randn(n, self.latent, generator=generator))
        if self.pool.dequantise:
            noise = torch.rand(z.shape, generator=generator, device=self.device) - 0.5
            z = z + noise / self._std
        return z

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
        """D(x): how sure the discriminator is that x is data, (N, dim) in data units → (N,)."""
        with torch.no_grad():
            return torch.sigmoid(self.logits(self.standardise(x)))

    def push(self, x: Tensor) -> Tensor:
        """−∂/∂x of the generator's loss at each sample, (N, dim) per data unit.

        Where D would have each sample go. Parameters and their gradients are not touched.
        """
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            loss = LOSSES[self.loss].generator(self.logits(self.standardise(leaf)))
            # the loss is a mean over samples: n times its slope is that of each one's own
            (slope,) = torch.autograd.grad(len(x) * loss, leaf)
        return -slope

    # ------------------------------------------------------------ numbers and pictures

    def metrics(self) -> list[Metric]:
        with self.still(stream=2), torch.no_grad():
            fake = self.logits(self.standardise(self.sample(1000)))
            real = self.logits(self.standardise(self.pool.test[:1000]))
        return [
            Metric("d_real", float(real.sigmoid().mean()), floor=0.5, label="D on data",
                   help="Mean D(x) over held-out data; ½ when D cannot tell."),
            Metric("d_fake", float(fake.sigmoid().mean()), floor=0.5, label="D on samples",
                   help="Mean D(x) over samples of the model; ½ when D cannot tell."),
            Metric("game", float(value(real, fake)), "nats", floor=-math.log(4), label="V(D, G)",
                   help="E log D on held-out data + E log(1 − D) on samples. (V + log 4)/2 is a lower "
                   "bound of the Jensen–Shannon divergence, and tight for the best D."),
        ]  # fmt: skip

    def panels(self) -> list[Panel]:
        return pictures.panels(self)
