"""Two-dimensional data with exact densities."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from engines.data.base import Dataset, Modes, Split


class GaussianMixture(Dataset):
    """Isotropic Gaussians; subclasses set centres, sigma, weights in __init__."""

    centres: Tensor
    sigma: Tensor
    weights: Tensor

    def _set(self, centres: Any, sigma: Any, weights: Any = None) -> None:
        self.centres = torch.as_tensor(centres, dtype=torch.float64)
        k = len(self.centres)
        self.sigma = torch.as_tensor(sigma, dtype=torch.float64).expand(k).clone()
        weights = torch.ones(k) / k if weights is None else torch.as_tensor(weights)
        self.weights = weights.double()

    @property
    def modes(self) -> Modes:
        return Modes(self.centres.float(), self.sigma.float(), self.weights.float())

    def sample(self, n: int, generator: torch.Generator, split: Split = "train") -> Tensor:
        device = generator.device
        index = torch.multinomial(self.weights.to(device), n, True, generator=generator)
        noise = torch.randn(n, 2, generator=generator, device=device)
        return (self.centres.to(device)[index] + self.sigma.to(device)[index, None] * noise).float()

    def log_prob(self, x: Tensor) -> Tensor:
        x64 = x.double()
        centres, sigma = self.centres.to(x.device), self.sigma.to(x.device)
        square = ((x64[:, None] - centres) ** 2).sum(2)
        parts = -square / (2 * sigma**2) - 2 * sigma.log() - math.log(2 * math.pi)
        return torch.logsumexp(parts + self.weights.to(x.device).log(), 1).to(x.dtype)


class Ring8(GaussianMixture):
    name: ClassVar[str] = "ring8"
    about = "Eight sharp Gaussians on a circle."
    place = 1
    extent = (-3.0, 3.0, -3.0, 3.0)

    def __init__(self) -> None:
        super().__init__()
        angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
        self._set(2 * torch.stack([angle.cos(), angle.sin()], 1), 0.02)
