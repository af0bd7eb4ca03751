"""What the tests of planes share: draws, grids, and two distances between them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy import stats

from engines.data import DATASETS
from engines.data.base import Dataset
from engines.data.plane import Plane

PLANES = [name for name, kind in DATASETS.items() if kind.kind == "plane"]
NOISED = [name for name in PLANES if DATASETS[name].noised is not Dataset.noised]
MIXTURES = ["ring8", "ring8soft", "grid25", "unbalanced", "two_gaussians"]
# cells a side: below σ/2, and such that edges of the support fall on edges of cells
CELLS = {"ring8": 800, "grid25": 500, "checkerboard": 450, "river": 460, "picture": 480}


def make(name: str, **options) -> Plane:
    return DATASETS[name](**options)


@lru_cache(maxsize=32)
def draw(name: str, n: int = 60_000, seed: int = 7) -> torch.Tensor:
    return make(name).sample(n, torch.Generator().manual_seed(seed)).double()


def grid(box, n: int) -> tuple[torch.Tensor, float]:
    """Centres of the cells, (n, n, 2) with x₁ along the first axis, and the area of one."""
    x0, x1, y0, y1 = box
    x = x0 + (torch.arange(n).double() + 0.5) * (x1 - x0) / n
    y = y0 + (torch.arange(n).double() + 0.5) * (y1 - y0) / n
    at = torch.stack(torch.meshgrid(x, y, indexing="ij"), 2)
    return at, (x1 - x0) * (y1 - y0) / n**2


@lru_cache(maxsize=32)
def field(name: str) -> torch.Tensor:
    """Mass of every cell of the extent, (n, n)."""
    at, area = grid(make(name).extent, CELLS.get(name, 300))
    p = make(name).log_prob(at.reshape(-1, 2)).exp() * area
    return p.reshape(at.shape[:2])


def chi_square(x: torch.Tensor, mass: torch.Tensor, box) -> float:
    """p-value of the counts of x in 25 × 25 (or so) bins, given the exact mass of cells."""
    n = len(mass)
    block = next(b for b in range(n // 25, 0, -1) if n % b == 0)
    bins = n // block
    expected = mass.reshape(bins, block, bins, block).sum((1, 3)).numpy() * len(x)
    edges = np.linspace(0, 1, bins + 1)
    x0, x1, y0, y1 = box
    counts = np.histogram2d(*x.numpy().T, bins=[x0 + edges * (x1 - x0), y0 + edges * (y1 - y0)])[0]
    many = expected >= 10
    # everything else, outside the box too, is one more bin
    rest = len(x) - expected[many].sum(), len(x) - counts[many].sum()
    gaps = (counts[many] - expected[many]) ** 2 / expected[many]
    value = gaps.sum() + (rest[1] - rest[0]) ** 2 / max(rest[0], 1.0)
    return float(stats.chi2.sf(value, int(many.sum())))


def entropy_gap(log_prob: torch.Tensor, entropy: float) -> float:
    """|mean −log p − entropy| in standard errors (those of the rounding at the least)."""
    se = max(float(log_prob.std()) / len(log_prob) ** 0.5, 1e-7)
    return abs(float(-log_prob.mean()) - entropy) / se
