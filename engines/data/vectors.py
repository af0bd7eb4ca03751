"""Data of many dimensions whose density is known: independent planes side by side."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from engines.data.base import Dataset, Split
from engines.data.exact import midpoint_entropy
from engines.knobs import knob

CENTRE = (1.3, 0.6)  # of one of a plane's two modes; the other lies opposite
SIGMA = 0.4


class Corners(Dataset):
    """Coordinates in pairs, each pair a plane with two Gaussian modes, independent of the others.

        p(x) = Π_i [½ N(x_i; c, σ² I) + ½ N(x_i; −c, σ² I)],  x_i = (x_{2i}, x_{2i+1})

    So there are 2^(d/2) modes, at the corners of a cube, while density and entropy are sums over
    planes. An odd dimension ends with the first coordinate of a plane, whose density is exact, too.
    """

    name: ClassVar[str] = "corners"
    about = "Two modes in each of d/2 planes: 2^(d/2) of them in all, and the density known."
    source = "Own: ½N(c, σ²I) + ½N(−c, σ²I) in each plane, c (1.3, 0.6), σ 0.4"
    place = 19
    kind = "vectors"
    shape = (16,)
    extent = (-3.5, 3.5, -3.5, 3.5)

    dimensions: int = knob(16, 2, 64, log=True, help="Coordinates: two for each plane.")

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.shape = (self.dimensions,)

    def sample(self, n: int, generator: torch.Generator, split: Split = "train") -> Tensor:
        planes, like = (self.dimensions + 1) // 2, {"device": generator.device}
        side = torch.randint(2, (n, planes, 1), generator=generator, **like) * 2 - 1
        noise = torch.randn(n, planes, 2, generator=generator, **like)
        x = side * torch.tensor(CENTRE, **like) + SIGMA * noise
        return x.flatten(1)[:, : self.dimensions].contiguous()

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats of the first k ≤ d coordinates, x (N, k) → (N,)."""
        k = x.shape[1]
        if not 1 <= k <= self.dimensions:
            raise ValueError(f"rows have 1 to {self.dimensions} coordinates; got {k}")
        z = x.double()
        whole = _two(z[:, : k // 2 * 2].reshape(len(z), k // 2, 2)).sum(1)
        if k % 2:
            whole = whole + _two(z[:, -1:])
        return whole.to(x.dtype)

    @property
    def entropy(self) -> float:
        """−∫ p log p in nats: a quadrature of one plane, to 1e-9, for each plane."""
        plane, line = _entropies()
        return self.dimensions // 2 * plane + self.dimensions % 2 * line


def _two(x: Tensor) -> Tensor:
    """log(½N(x; c, σ²I) + ½N(x; −c, σ²I)) for the first k coordinates of c, (…, k) → (…)."""
    k = x.shape[-1]
    c = torch.tensor(CENTRE[:k], dtype=x.dtype, device=x.device)
    parts = [-(x - s * c).square().sum(-1) / (2 * SIGMA**2) for s in (1, -1)]
    norm = math.log(2) + k * (0.5 * math.log(2 * math.pi) + math.log(SIGMA))
    return torch.logaddexp(*parts) - norm


@lru_cache(maxsize=1)
def _entropies() -> tuple[float, float]:
    """Entropy of one plane and of its first coordinate, in nats."""
    plane = midpoint_entropy(_two, (-6.0, 6.0, -6.0, 6.0), 1200)
    x = (torch.arange(20_000, dtype=torch.float64) + 0.5) * (12 / 20_000) - 6
    log_p = _two(x[:, None])
    return float(plane), -float((log_p.exp() * log_p).sum()) * (12 / 20_000)
