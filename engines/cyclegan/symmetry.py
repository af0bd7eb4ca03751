"""What a CycleGAN cannot know: a symmetry of the target makes another pairing, just as good."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engines.data.base import Dataset

TURNS = 48  # a full turn is divided into so many
KEPT = 64  # datasets
FEW = 8  # of all that are tried, compared on more rows


@dataclass(frozen=True)
class Symmetry:
    """y ↦ m + A (y − m), a rotation or a reflection that leaves a distribution nearly as it was.

    Attributes:
        matrix: A (2, 2), orthogonal.
        centre: m (2,).
        energy: the energy distance between the data and their image.
        gap: E_p[log p(y) − log p(S(y))], the divergence KL(p‖p∘S) in nats; NaN without a density.
        words: "turned by 45°", or "mirrored, axis at 30°".
    """

    matrix: Tensor
    centre: Tensor
    energy: float
    words: str
    gap: float = math.nan

    def __call__(self, y: Tensor) -> Tensor:
        centre = self.centre.to(y)
        return centre + (y - centre) @ self.matrix.to(y).T

    def back(self, y: Tensor) -> Tensor:
        """The inverse, (N, 2) → (N, 2)."""
        centre = self.centre.to(y)
        return centre + (y - centre) @ self.matrix.to(y)


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2E|x−y| − E|x−x′| − E|y−y′| of two samples of independent rows (Székely & Rizzo 2013)."""
    return float(2 * torch.cdist(x, y).mean() - torch.pdist(x).mean() - torch.pdist(y).mean())


def best_symmetry(
    y: Tensor, log_prob: Callable[[Tensor], Tensor] | None = None, rows: int = 300
) -> Symmetry:
    """The rotation or reflection about the mean under which the distribution changes least.

    Tried: rotations by multiples of 360°/48, but for those below 22°, which many a distribution
    hardly notices, and reflections with axes at multiples of half of that. They are compared by
    the divergence where there is a density, on few rows of y (N, 2) first and the best of them
    on more; else by the energy distance between the image of some rows and as many others, which
    is nearly blind to fine detail.
    """
    half = min(rows, len(y) // 2)
    first, second = y[:half].double(), y[half : 2 * half].double()
    centre = y.double().mean(0)
    # an isometry leaves distances within the image as they were
    own = float(torch.pdist(first).mean() + torch.pdist(second).mean())
    found = []
    for matrix, words in candidates():
        a = torch.tensor(matrix, dtype=torch.float64, device=y.device)
        far = 2 * float(torch.cdist(centre + (first - centre) @ a.T, second).mean()) - own
        found.append(Symmetry(a.float(), centre.float(), far, words))
    if log_prob is None:
        return min(found, key=lambda symmetry: symmetry.energy)
    for n, few in ((60, FEW), (half, 1)):
        here = log_prob(y[:n]).mean()
        found = [replace(s, gap=float(here - log_prob(s(y[:n])).mean())) for s in found]
        found = sorted(found, key=lambda symmetry: symmetry.gap)[:few]
    return found[0]


_found: OrderedDict[str, Symmetry] = OrderedDict()  # read-only, for all visitors
_lock = threading.Lock()


def symmetry_of(dataset: Dataset) -> Symmetry:
    """`best_symmetry` of a dataset, from the same rows whoever asks; kept."""
    with _lock:
        if dataset.key in _found:
            _found.move_to_end(dataset.key)
            return _found[dataset.key]
    rows = dataset.sample(10_000, torch.Generator().manual_seed(5_000_021), "test")
    best = best_symmetry(rows, dataset.log_prob if dataset.has_density else None)
    with _lock:
        _found[dataset.key] = best
        while len(_found) > KEPT:
            _found.popitem(last=False)
    return best


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
