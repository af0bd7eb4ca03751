"""Exact guidance: what p(x) and p(x|y) make of each other in noise, without any network."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engines.classes import Classes
from engines.conditional.pictures import conditional_field
from engines.data.base import Dataset
from engines.data.exact import Mixture
from engines.data.own import SmearedPixels
from engines.fields.exact import ExactPath
from engines.metrics import separated

CELLS = 64  # pixels a side, where p(x|y) is known by the cell


def guide(free: Tensor, told: Tensor, weight: float) -> Tensor:
    """free + w (told − free), of denoisers, scores or guesses of the noise alike.

    0: no class is told, 1: the class is told, above 1: away from what no class would give (Ho &
    Salimans 2022, Classifier-free diffusion guidance; their w is this one less 1).
    """
    return free + weight * (told - free)


class ClassPath:
    """E[x₀ | z] and E[x₀ | z, y] of data in noise, z = a x₀ + σ ε in standardised units.

    Where the classes are the modes of a Gaussian mixture that do not touch, p(x|y) is one of
    them. Elsewhere p(x|y) is p(x) on the part of y, of which cell averages stand here: pixels, and
    pixels in noise are known again. Then p(x) is made of the same pixels, or else guidance would
    magnify the difference.

    Attributes:
        exact: whether p(x|y) is a Gaussian, and not known by its cells alone.
    """

    def __init__(self, dataset: Dataset, classes: Classes, mean: Tensor, scale: float) -> None:
        self.dataset, self.classes, self.mean, self.scale = dataset, classes, mean, scale
        modes = dataset.modes
        plain = type(dataset).classify is Dataset.classify
        self.exact = ExactPath.known(dataset) and plain and modes is not None and separated(modes)
        self._at = lru_cache(maxsize=512)(self._noised)
        self._cells = lru_cache(maxsize=32)(self._pixels)

    @staticmethod
    def known(dataset: Dataset) -> bool:
        """Whether there is a density to work with, exact or estimated."""
        return dataset.kind == "plane" and dataset.has_density

    def _pixels(self, k: int | None) -> np.ndarray:
        """Mass of each cell under p(x|y = k), or under p(x), (CELLS, CELLS)."""
        field = conditional_field(self.dataset, self.classes, k, CELLS, estimate=True)
        return field / field.sum()

    def _noised(self, k: int | None, a: float, sigma: float) -> Any:
        noise = self.scale * sigma
        if self.exact:
            if k is None:
                return self.dataset.noised(a, noise)
            modes = self.dataset.modes
            one = Mixture(modes.centres[k : k + 1], modes.sigma[k : k + 1], [1.0])
            return one.noised(a, noise)
        x0, x1, y0, _ = self.dataset.extent
        share = torch.from_numpy(self._cells(k)).double()
        return SmearedPixels(share, (x1 - x0) / CELLS, (x0, y0), a, noise)

    def denoised(self, z: Tensor, a: float, sigma: float, k: int | None = None) -> Tensor:
        """E[x₀ | z] (N, 2), of class k if one is told: Tweedie's formula (z + σ² ∇ log p(z))/a."""
        place = self.scale * z.double() + a * self.mean
        score = self.scale * self._at(k, float(a), float(sigma)).score(place)
        return ((z + sigma**2 * score) / a).to(z.dtype)

    def guided(self, z: Tensor, a: float, sigma: float, k: int, weight: float) -> Tensor:
        """What a perfect network's guidance would guess of x₀, (N, 2) → (N, 2)."""
        told = self.denoised(z, a, sigma, k)
        return told if weight == 1 else guide(self.denoised(z, a, sigma), told, weight)
