"""What the smaller games share: two players, the non-saturating loss, R1 and an averaged generator.

`Game` is no engine by itself; the conditional, the InfoGAN and the style-based one are. Each says
what its two networks are and what the discriminator is asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from engines.base import Engine
from engines.data.base import Dataset, Pool
from engines.gan import LOSSES, squared_slope
from engines.knobs import knob
from engines.nets import adam, linear, set_lr


class Perceptron(nn.Module):
    """Hidden layers of one width with leaky rectifiers, (N, n_in) → (N, n_out).

    A leaky rectifier costs a third of a SiLU, and its second derivative, which R1 asks for, is
    zero. First weights after He et al. 2015: Var W = 2/(1 + a²) / n_in.

    Attributes:
        body: everything but the last layer, (N, n_in) → (N, width); nothing with 0 layers.
        head: the last layer.
    """

    SLOPE = 0.2

    def __init__(
        self, n_in: int, width: int, layers: int, n_out: int, rng: torch.Generator
    ) -> None:
        super().__init__()
        gain = math.sqrt(6 / (1 + self.SLOPE**2))  # U(−g/√n, g/√n) has variance g²/3n
        parts: list[nn.Module] = []
        for i in range(layers):
            parts += [linear(width if i else n_in, width, rng, gain), nn.LeakyReLU(self.SLOPE)]
        self.body = nn.Sequential(*parts)
        self.head = linear(width if layers else n_in, n_out, rng)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Game(Engine):
    """A generator and a discriminator with the non-saturating loss and the R1 penalty.

    Subclasses give `networks()`, `generate()` and `step()`. The model that is shown, sampled and
    measured is the generator with its weights averaged over the last `averaging` updates.
    Where the data are integers with uniform noise, samples get the same noise.

    References: Goodfellow et al. 2014 (the game); Mescheder, Geiger & Nowozin 2018 (R1);
    Yazıcı et al. 2019 (averaged generators).
    """

    family: ClassVar[str] = "GAN"
    density_kind = "implicit"
    principle = "adversarial"
    loss_label = "loss, nats"
    if_diverged = "Try smaller step sizes, or a larger R1 penalty."

    latent: int = knob(8, 1, 64, label="Noise dimensions",
                       help="Dimensions of the noise that the generator is fed with.")  # fmt: skip
    width: int = knob(128, 16, 256, log=True, help="Units in each hidden layer.")
    d_lr: float = knob(2e-3, 1e-5, 1e-1, log=True, live=True, label="D step size",
                       help="Adam's step size for the discriminator; it falls as 1/√(1 + t/1000).")  # fmt: skip
    g_lr: float = knob(2e-3, 1e-5, 1e-1, log=True, live=True, label="G step size",
                       help="Adam's step size for the generator; it falls as 1/√(1 + t/1000).")  # fmt: skip
    batch: int = knob(128, 16, 1024, log=True, live=True,
                      help="Data points, and as many samples, in each update.")  # fmt: skip
    r1: float = knob(1.0, 0.0, 10.0, live=True, label="R1 penalty",
                     help="Adds R1/2 · |slope of D's logit|² on the data to D's loss: the game "
                     "then settles instead of circling.")  # fmt: skip
    averaging: int = knob(300, 1, 10_000, log=True, live=True,
                          help="The samples shown and measured are the generator's with its weights "
                          "averaged over about so many updates; 1 shows the newest weights.")  # fmt: skip

    BETAS = (0.0, 0.99)  # momentum makes two players circle each other
    SETTLING = 1000  # step sizes fall as 1/√(1 + t/SETTLING)

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        if dataset.kind not in ("plane", "images"):
            return f"The {cls.title} here makes points of the plane and pictures."
        return None

    # ------------------------------------------------------------ training

    def networks(self, rng: torch.Generator) -> tuple[nn.Module, nn.Module]:
        """The generator and the discriminator, with first weights from `rng`."""
        raise NotImplementedError

    def start(self, pool: Pool) -> None:
        super().start(pool)
        self.generator, self.discriminator = self.networks(self.rng)
        spare = torch.Generator(self.device).manual_seed(0)  # its weights are overwritten
        self.averaged = self.networks(spare)[0].requires_grad_(False)
        self.averaged.load_state_dict(self.generator.state_dict())
        self.g_adam = adam(self.generator.parameters(), self.g_lr, self.BETAS)
        self.d_adam = adam(self.discriminator.parameters(), self.d_lr, self.BETAS)
        self.g_updates = 0
        self.refresh()

    def feed(self, pool: Pool) -> None:
        super().feed(pool)
        self.g_updates = 0  # the average forgets the generator of the old data

    def duel(self, real: Tensor, fake: Tensor, *given: Tensor) -> Tensor:
        """One update of D on standardised rows (N, dim) of both kinds; its loss, 0-d.

        given: what D is told about the data, then about the samples; nothing by default.
        """
        about = [(part,) for part in given] or [(), ()]
        real = real.requires_grad_(self.r1 > 0)
        on_real, on_fake = self.logits(real, *about[0]), self.logits(fake, *about[1])
        loss = LOSSES["non-saturating"].discriminator(on_real, on_fake)
        total = loss
        if self.r1 > 0:
            total = loss + self.r1 / 2 * squared_slope(on_real, real).mean()
        self._descend(self.d_adam, self.discriminator.parameters(), total, self.d_lr)
        return loss.detach()

    def fool(self, fake: Tensor, *given: Tensor) -> Tensor:
        """The generator's loss −E log D on samples that still hang on its weights, 0-d."""
        return LOSSES["non-saturating"].generator(self.logits(fake, *given))

    def _descend(
        self,
        optimiser: torch.optim.Optimizer,
        parameters: Iterable[nn.Parameter],
        loss: Tensor,
        lr: float,
    ) -> None:
        """One Adam step on these parameters alone; the others get no gradient at all."""
        parameters = list(parameters)
        self._move(optimiser, parameters, torch.autograd.grad(loss, parameters), lr)

    def _move(
        self,
        optimiser: torch.optim.Optimizer,
        parameters: Iterable[nn.Parameter],
        slopes: Iterable[Tensor],
        lr: float,
    ) -> None:
        for p, slope in zip(parameters, slopes, strict=True):
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

    def logits(self, z: Tensor, *given: Tensor) -> Tensor:
        """D's logit at standardised rows, (N, dim) → (N,)."""
        return self.discriminator(z, *given).squeeze(1)

    def noisy(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Standardised samples with the noise that the data have got, if they have."""
        if not self.pool.dequantise:
            return z
        noise = torch.rand(z.shape, generator=generator, device=self.device) - 0.5
        return z + noise / self._std
