"""The exact field of data in noise, in the standardised units that networks see."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from engines.data.base import Dataset


class ExactPath:
    """z = a z₀ + σ ε with z₀ = (x − m)/s: density, score and denoiser at every level of noise.

    s z + a m = a x + (sσ) ε is the data's own `noised`, so that all is exact where that is.
    The scale s is one for all columns, or else the noise would not be round in data units.

    Args:
        mean, scale: m (dim,) and s, of the standardisation.
    """

    def __init__(self, dataset: Dataset, mean: Tensor, scale: float) -> None:
        self.dataset, self.mean, self.scale = dataset, mean, scale
        self._at = lru_cache(maxsize=64)(self._noised)

    @staticmethod
    def known(dataset: Dataset) -> bool:
        """Whether the density of these data is exact under any noise."""
        return dataset.exact and type(dataset).noised is not Dataset.noised

    def _noised(self, a: float, sigma: float) -> Any:
        return self.dataset.noised(a, self.scale * sigma)

    def log_prob(self, z: Tensor, a: float, sigma: float) -> Tensor:
        """log p(z) in nats per standardised unit, (N, d) → (N,)."""
        jacobian = z.shape[1] * torch.tensor(self.scale, dtype=torch.float64).log()
        place = self.scale * z + a * self.mean
        return self._at(float(a), float(sigma)).log_prob(place) + jacobian.to(z)

    def score(self, z: Tensor, a: float, sigma: float) -> Tensor:
        """∇ log p(z), (N, d) → (N, d)."""
        place = self.scale * z + a * self.mean
        return self.scale * self._at(float(a), float(sigma)).score(place)

    def denoised(self, z: Tensor, a: float, sigma: float) -> Tensor:
        """E[z₀ | z] = (z + σ² ∇ log p(z)) / a, Tweedie's formula (Robbins 1956), (N, d) → (N, d)."""
        return (z + sigma**2 * self.score(z, a, sigma)) / a
