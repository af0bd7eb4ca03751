"""What is to be found: the density of one coordinate given the other, observed with or without noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engines.arrays import numpy
from engines.pictures import GRID, density_field

if TYPE_CHECKING:
    from engines.data.base import Dataset

FINE, NODES = 1200, 9  # points of an exact graph; places across a thin band
FLOOR_DRAWS = 4


def cut(
    log_prob: Callable[[Tensor], Tensor], first: int, at: float, r: float, grid: np.ndarray
) -> np.ndarray:
    """∫ N(y; x₁, r²) p(x₁, x₂) dx₁ over a grid (N,) of the other coordinate, by Gauss–Hermite.

    Args:
        log_prob: (N, 2) → (N,). first: the observed column. at, r: y and r in data units.
    """
    node, weight = np.polynomial.hermite_e.hermegauss(NODES) if r > 0 else (np.zeros(1), np.ones(1))
    where = np.repeat(at + r * node, len(grid))
    other = np.tile(grid, len(node))
    pair = (other, where) if first else (where, other)
    p = numpy(log_prob(torch.from_numpy(np.stack(pair, 1)).float()).double().exp().nan_to_num(0.0))
    return (weight / weight.sum()) @ p.reshape(len(node), -1)


def conditional(
    dataset: Dataset, first: int, at: float, r: float
) -> tuple[np.ndarray, np.ndarray | None]:
    """A grid (N,) of the other coordinate, and the density given y = x₁ + r n on it, in data units.

    None where there is no data. A band wider than a cell of the picture is summed over cells: then
    the density is in steps of one. Exact, or by a kernel estimate where the data's density is.
    """
    box = dataset.extent
    low, high = box[2 - 2 * first : 4 - 2 * first]
    start, end = box[2 * first : 2 * first + 2]
    if r * GRID < end - start:
        grid = np.linspace(low, high, FINE)
        p = cut(dataset.log_prob, first, at, r, grid)
    else:
        centre = start + (np.arange(GRID) + 0.5) * ((end - start) / GRID)
        weight = np.exp(-0.5 * ((centre - at) / r) ** 2)
        field = density_field(dataset).astype(np.float64)
        p = weight @ (field if first else field.T) / max(weight.sum(), 1e-300)
        grid = low + (np.arange(GRID) + 0.5) * ((high - low) / GRID)
    total = p.mean() * (high - low)
    # a millionth of what a uniform density would have there
    return grid, p / total if total > 1e-6 / (end - start) else None


def w1(x: np.ndarray, grid: np.ndarray, p: np.ndarray) -> float:
    """Wasserstein distance from samples (n,) to a density p (N,) on an even grid (N,)."""
    from scipy.stats import wasserstein_distance  # slow to load, and not asked for at the start

    return float(wasserstein_distance(x, grid, None, p))


def w1_floor(grid: np.ndarray, p: np.ndarray, n: int) -> float:
    """The mean of `w1` over FLOOR_DRAWS sets of n true draws."""
    rng = np.random.default_rng(0)
    edges, step = np.cumsum(p / p.sum()), grid[1] - grid[0]
    draws = grid[np.searchsorted(edges, rng.uniform(size=(FLOOR_DRAWS, n))).clip(0, len(grid) - 1)]
    draws = draws + step * (rng.uniform(size=draws.shape) - 0.5)
    return float(np.mean([w1(row, grid, p) for row in draws]))
