"""What a CycleGAN cannot know: a symmetry of the target makes another pairing, just as good."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

TURNS = 48  # a full turn is divided into so many


@dataclass(frozen=True)
class Symmetry:
    """y ↦ m + A (y − m), a rotation or a reflection that leaves a distribution nearly as it was.

    Attributes:
        matrix: A (2, 2), orthogonal.
        centre: m (2,).
        energy: the energy distance between the data and their image.
        words: "turned by 45°", or "mirrored, axis at 30°".
    """

    matrix: Tensor
    centre: Tensor
    energy: float
    words: str

    def __call__(self, y: Tensor) -> Tensor:
        return self.centre + (y - self.centre) @ self.matrix.T

    def back(self, y: Tensor) -> Tensor:
        """The inverse, (N, 2) → (N, 2)."""
        return self.centre + (y - self.centre) @ self.matrix


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2E|x−y| − E|x−x′| − E|y−y′| of two samples of independent rows (Székely & Rizzo 2013)."""
    return float(2 * torch.cdist(x, y).mean() - torch.pdist(x).mean() - torch.pdist(y).mean())


def best_symmetry(y: Tensor, rows: int = 300) -> Symmetry:
    """The rotation or reflection about the mean under which rows y (N, 2) change least.

    Tried: rotations by multiples of 360°/48, but for those below 22°, which many a distribution
    hardly notices, and reflections with axes at multiples of half of that. The image of some rows
    is compared with as many others, by their energy distance.
    """
    half = min(rows, len(y) // 2)
    first, second = y[:half].double(), y[half : 2 * half].double()
    centre = y.double().mean(0)
    # an isometry leaves distances within the image as they were
    own = float(torch.pdist(first).mean() + torch.pdist(second).mean())
    found = []
    for matrix, words in candidates():
        a = torch.tensor(matrix, dtype=torch.float64, device=y.device)
        gap = 2 * float(torch.cdist(centre + (first - centre) @ a.T, second).mean()) - own
        found.append(Symmetry(a.float(), centre.float(), gap, words))
    return min(found, key=lambda symmetry: symmetry.energy)


def candidates() -> list[tuple[list[list[float]], str]]:
    """The matrices that are tried, with words for each."""
    out = []
    for k in range(TURNS):
        angle, degrees = 2 * math.pi * k / TURNS, 360 * k / TURNS
        c, s = math.cos(angle), math.sin(angle)
        if 22 <= degrees <= 338:
            out.append(([[c, -s], [s, c]], f"turned by {degrees:g}°"))
        out.append(([[c, s], [s, -c]], f"mirrored, axis at {degrees / 2:g}°"))
    return out
