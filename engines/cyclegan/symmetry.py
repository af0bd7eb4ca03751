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
    own = lambda z: torch.pdist(z).mean()  # noqa: E731
    return float(2 * torch.cdist(x, y).mean() - own(x) - own(y))


def best_symmetry(y: Tensor, rows: int = 600) -> Symmetry:
    """The rotation or reflection about the mean under which rows y (N, 2) change least.

    Tried: rotations by multiples of 360°/48, but those of less than 22°, which any blurred
    distribution nearly has, and reflections with axes at multiples of half of that. The image of one half
    of the rows is compared with the other half, by their energy distance.
    """
    first, second = y[:rows].double(), y[rows : 2 * rows].double()
    if len(second) < 50:  # few rows: the same ones twice
        first, second = y[::2].double(), y[1::2].double()
    centre = y.double().mean(0)
    found: list[Symmetry] = []
    for k in range(TURNS):
        angle = 2 * math.pi * k / TURNS
        c, s = math.cos(angle), math.sin(angle)
        turn, mirror = [[c, -s], [s, c]], [[c, s], [s, -c]]
        degrees = round(360 * k / TURNS, 1)
        if 22 <= degrees <= 338:
            found.append(_tried(turn, first, second, centre, f"turned by {degrees:g}°"))
        found.append(_tried(mirror, first, second, centre, f"mirrored, axis at {degrees / 2:g}°"))
    return min(found, key=lambda symmetry: symmetry.energy)


def _tried(
    matrix: list[list[float]], first: Tensor, second: Tensor, centre: Tensor, words: str
) -> Symmetry:
    a = torch.tensor(matrix, dtype=torch.float64, device=first.device)
    image = centre + (first - centre) @ a.T
    return Symmetry(a.float(), centre.float(), energy_distance(image, second), words)
