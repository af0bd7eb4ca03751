"""How the discriminator sees its points."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Sight(nn.Module):
    """Each point x (d) of a pack as [x, a · sin(xF + φ)], (N, m·d) → (N, m·(d + w)).

    The columns of F have random directions and lengths |f| log-uniform on [1, finest], φ is
    uniform on [0, 2π]. a = exp(−|f|² blur²/2) is what is left of a wave when its points are
    moved by N(0, blur² I): what is coarse is seen first, and what is fine as `blur` shrinks.
    A small network on x alone cannot learn what is fine (Tancik et al. 2020, Fourier features
    let networks learn high frequency functions in low dimensional domains); from coarse to
    fine as in Park et al. 2021, Nerfies.

    Args:
        dim, pack: d and m.
        waves: w; 0 leaves points as they are.
        finest: in radians per unit of x.
    """

    def __init__(
        self, dim: int, pack: int, waves: int, finest: float, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.dim, self.size = dim, pack * (dim + waves)
        way = torch.randn(dim, waves, generator=rng, device=rng.device)
        length = torch.rand(waves, generator=rng, device=rng.device) * math.log(finest)
        self.register_buffer("frequency", way / way.norm(dim=0) * length.exp())
        phase = torch.rand(waves, generator=rng, device=rng.device) * (2 * math.pi)
        self.register_buffer("phase", phase)
        self.register_buffer("blur", torch.zeros((), device=rng.device))

    def forward(self, x: Tensor) -> Tensor:
        if not len(self.phase):
            return x
        each = x.reshape(-1, self.dim)
        left = torch.exp(self.frequency.square().sum(0) * self.blur.square() * -0.5)
        seen = left * torch.sin(torch.addmm(self.phase, each, self.frequency))
        return torch.cat([each, seen], 1).reshape(len(x), self.size)
