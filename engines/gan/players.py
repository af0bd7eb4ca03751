"""How the discriminator sees its points."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engines.nets import Waves


class Sight(Waves):
    """Each point x (d) of a pack as [x, a · sin(xF + φ)], (N, m·d) → (N, m·(d + w)).

    The columns of F have random directions and lengths |f| log-uniform on [1, finest], φ is
    uniform on [0, 2π]. a = exp(−|f|² blur²/2) is what is left of a wave when its points are
    moved by N(0, blur² I): what is coarse is seen first, and what is fine as `blur` shrinks.
    From coarse to fine as in Park et al. 2021, Nerfies.

    Args:
        dim, pack: d and m.
        waves: w; 0 leaves points as they are.
        finest: in radians per unit of x.
    """

    def __init__(
        self, dim: int, pack: int, waves: int, finest: float, rng: torch.Generator
    ) -> None:
        super().__init__(dim, waves, finest, rng)
        self.dim, self.size = dim, pack * (dim + waves)
        self.register_buffer("blur", torch.zeros((), device=rng.device))

    @staticmethod
    def frequencies(dim: int, waves: int, pitch: float, rng: torch.Generator) -> Tensor:
        """F (d, w), its columns' lengths log-uniform on [1, pitch]."""
        way = torch.randn(dim, waves, generator=rng, device=rng.device)
        length = torch.rand(waves, generator=rng, device=rng.device) * math.log(pitch)
        return way / way.norm(dim=0) * length.exp()

    def forward(self, x: Tensor) -> Tensor:
        if not len(self.phase):
            return x
        each = x.reshape(-1, self.dim)
        left = torch.exp(self.frequency.square().sum(0) * self.blur.square() * -0.5)
        return torch.cat([each, left * self.sines(each)], 1).reshape(len(x), self.size)
