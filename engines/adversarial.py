"""What every game of networks shares: how a player moves, and a generator that is averaged."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from engines.base import Engine
from engines.data.base import Pool
from engines.nets import adam, lean, parameters, set_lr

Number = float | Tensor


class Adversarial(Engine):
    """Players that go down a loss of their own, one Adam step at a time.

    Step sizes are the knobs' over √(1 + t/SETTLING), with t the steps since the data came.
    """

    family: ClassVar[str] = "GAN"
    density_kind = "implicit"
    principle = "adversarial"
    if_diverged = "Try smaller step sizes, or a larger R1 penalty."

    BETAS = (0.0, 0.99)  # momentum makes two players circle each other
    SETTLING: ClassVar[int] = 1000

    def _descend(
        self, optimiser: torch.optim.Optimizer, player: nn.Module, loss: Tensor, lr: Number
    ) -> None:
        """One Adam step of one player; the other one's parameters get no gradient at all."""
        own = parameters(player)
        self._move(optimiser, own, torch.autograd.grad(loss, own), lr)

    def _move(
        self,
        optimiser: torch.optim.Optimizer,
        own: Iterable[nn.Parameter],
        slopes: Iterable[Tensor],
        lr: Number,
    ) -> None:
        for p, slope in zip(own, slopes, strict=True):
            p.grad = slope
        set_lr(optimiser, self._pace(lr))
        optimiser.step()

    def _pace(self, lr: Number) -> Number:
        return lr / self.number("settled")

    def live_numbers(self) -> dict[str, float]:
        return {**super().live_numbers(), "settled": math.sqrt(1 + self.age / self.SETTLING)}


class Averaged(Adversarial):
    """One generator and one discriminator. The model that is shown, sampled and measured is the
    generator with its weights averaged over about the last `averaging` updates (Yazıcı et al.
    2019). Where the data are integers with uniform noise, samples get the same noise: D must
    not win by its absence.

    Subclasses have the knobs d_lr, g_lr and averaging, and give `networks`.
    """

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

    def live_numbers(self) -> dict[str, float]:
        s = 1 / self.averaging
        s += (1 - s) * 10 / (10 + self.g_updates)
        return {**super().live_numbers(), "fade": s}

    def _average(self) -> None:
        """θ̄ ← θ̄ + s (θ − θ̄) with s from 1 down to 1/averaging, so that early weights fade."""
        s = self.number("fade")
        self.g_updates += 1
        lean(self.averaged, self.generator, s)

    def noisy(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Standardised samples with the noise that the data have got, if they have."""
        if not self.pool.dequantise:
            return z
        noise = torch.rand(z.shape, generator=generator, device=self.device) - 0.5
        return z + noise / self._std
