"""The two players' networks, which are told a class y beside what they look at."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from engines.classes import MOST
from engines.players import Perceptron

CODE = 16  # numbers that a class is told by


def table(width: int, size: float, rng: torch.Generator) -> nn.Parameter:
    """A vector for every class that there may be, (MOST, width), from N(0, size²)."""
    return nn.Parameter(size * torch.randn(MOST, width, generator=rng, device=rng.device))


class Generator(nn.Module):
    """G(z, y): noise (N, latent) and the class's vector, side by side, → (N, dim)."""

    def __init__(
        self, latent: int, width: int, layers: int, dim: int, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.code = table(CODE, 1.0, rng)
        self.net = Perceptron(latent + CODE, width, layers, dim, rng)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.net(torch.cat([z, self.code[y]], 1))


class Projection(nn.Module):
    """logit D(x, y) = v·φ(x) + b + e_y·φ(x), (N, dim) and (N,) → (N, 1).

    The form that log p(x|y)/q(x|y) has where log p(y|x) and log q(y|x) are linear in φ(x): what
    depends on the class is one inner product (Miyato & Koyama 2018, cGANs with projection
    discriminator, equation 4).
    """

    def __init__(self, dim: int, width: int, layers: int, rng: torch.Generator) -> None:
        super().__init__()
        self.net = Perceptron(dim, width, layers, 1, rng)
        self.code = table(width, 1 / math.sqrt(width), rng)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        feature = self.net.body(x)
        return self.net.head(feature) + (self.code[y] * feature).sum(1, keepdim=True)


class Concatenation(nn.Module):
    """logit D(x, y) of x and the class's vector side by side (Mirza & Osindero 2014)."""

    def __init__(self, dim: int, width: int, layers: int, rng: torch.Generator) -> None:
        super().__init__()
        self.code = table(CODE, 1.0, rng)
        self.net = Perceptron(dim + CODE, width, layers, 1, rng)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.net(torch.cat([x, self.code[y]], 1))


class Blind(nn.Module):
    """logit D(x) that nobody tells the class: all that is left to learn is p(x)."""

    def __init__(self, dim: int, width: int, layers: int, rng: torch.Generator) -> None:
        super().__init__()
        self.net = Perceptron(dim, width, layers, 1, rng)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.net(x)


DISCRIMINATORS: dict[str, type[nn.Module]] = {
    "projection": Projection,
    "concatenation": Concatenation,
    "not told": Blind,
}
