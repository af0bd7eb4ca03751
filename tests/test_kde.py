"""Kernel density estimates: scikit-learn, a naive sum and closed forms as oracles.

Each check is a comparison that a wrong twin (transposed grid, flipped rows …) must fail.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.neighbors import KernelDensity
from torch import Tensor

from engines.kde import kde, through_kernel
from engines.pictures import offsets

BOX = (-4.0, 2.0, -1.0, 3.0)  # neither square nor centred: mixed-up axes show


def scattered(n: int = 60, seed: int = 0) -> Tensor:
    """(n, 2) float64 points, some of them outside BOX."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(n, 2)) * [1.5, 0.7] + [-1.5, 0.5])


def cell_area(box: tuple, n: int) -> float:
    x0, x1, y0, y1 = box
    return (x1 - x0) * (y1 - y0) / n**2


def naive(x: Tensor, box: tuple, n: int, h: float) -> Tensor:
    """One cell and one sample at a time, by scipy's normal distribution function."""
    x0, x1, y0, y1 = box
    edge_x, edge_y = np.linspace(x0, x1, n + 1), np.linspace(y0, y1, n + 1)
    out = np.zeros((n, n))
    for row in range(n):
        for column in range(n):
            for a, b in x.numpy():
                across = norm.cdf(edge_x[column + 1], a, h) - norm.cdf(edge_x[column], a, h)
                up = norm.cdf(edge_y[row + 1], b, h) - norm.cdf(edge_y[row], b, h)
                out[row, column] += across * up
    return torch.from_numpy(out / len(x) / cell_area(box, n))


def sklearn_average(x: Tensor, box: tuple, n: int, h: float, sub: int = 8) -> Tensor:
    """scikit-learn's estimate averaged over sub × sub points of each cell."""
    x0, x1, y0, y1 = box
    cx = x0 + (np.arange(n) + 0.5) * (x1 - x0) / n
    cy = y0 + (np.arange(n) + 0.5) * (y1 - y0) / n
    middle = np.array([[a, b] for b in cy for a in cx])
    points = middle[:, None] + offsets(box, n, sub).numpy()[None]
    model = KernelDensity(bandwidth=h, kernel="gaussian").fit(x.numpy())
    density = np.exp(model.score_samples(points.reshape(-1, 2)))
    return torch.from_numpy(density.reshape(n, n, sub * sub).mean(2))


def same(a: Tensor, b: Tensor, tol: float = 1e-10) -> bool:
    return float((a - b).abs().max()) < tol * float(b.max())


@pytest.mark.parametrize("h", [0.05, 0.3, 2.0])
def test_separable_is_naive(h):
    x = scattered(25)
    wanted = naive(x, BOX, 12, h)
    found = kde(x, BOX, 12, h)
    assert same(found, wanted)
    assert same(kde(x.float(), BOX, 12, h).double(), wanted, 1e-5)
    assert not same(found.T, wanted, 1e-2), "transposed grid"
    assert not same(found.flip(0), wanted, 1e-2), "row 0 at the top"
    assert not same(kde(x, BOX, 12, 1.1 * h), wanted, 1e-2), "another bandwidth"
    assert not same(found * cell_area(BOX, 12), wanted, 1e-2), "mass instead of density"


@pytest.mark.parametrize("h", [0.3, 0.8])
def test_agrees_with_scikit_learn(h):
    x = scattered()
    wanted = sklearn_average(x, BOX, 20, h)
    assert same(kde(x, BOX, 20, h), wanted, 2e-3)
    assert not same(kde(x, BOX, 20, h).T, wanted, 2e-3), "transposed grid"
    assert not same(kde(x, BOX, 20, h * math.sqrt(2)), wanted, 2e-3), "h² for a variance of 2h²"


@pytest.mark.parametrize("h", [1e-4, 0.05, 0.5])
def test_integrates_to_one_however_sharp(h):
    x, box = scattered(), (-12.0, 9.0, -6.0, 8.0)
    assert float(kde(x, box, 64, h).sum()) * cell_area(box, 64) == pytest.approx(1, abs=1e-9)
    half = (-12.0, float(x[:, 0].median()), -6.0, 8.0)
    inside = norm.cdf((half[1] - x[:, 0].numpy()) / h).mean()
    assert float(kde(x, half, 64, h).sum()) * cell_area(half, 64) == pytest.approx(inside, abs=1e-9)


def test_row_0_is_at_the_bottom_and_column_0_at_the_left():
    x = torch.tensor([[-3.9, -0.9]], dtype=torch.float64)
    for h in (0.01, 0.5):
        assert int(kde(x, BOX, 10, h).argmax()) == 0
    right = torch.tensor([[1.9, -0.9]], dtype=torch.float64)
    assert int(kde(right, BOX, 10, 0.01).argmax()) == 9, "the last column of row 0"


# ---------------------------------------------------------------- exact fields, blurred alike


def gaussian_cells(mean: tuple, std: tuple, box: tuple, n: int) -> Tensor:
    """Averages of N(mean, diag std²) over the cells of a grid."""
    x0, x1, y0, y1 = box
    across = np.diff(norm.cdf(np.linspace(x0, x1, n + 1), mean[0], std[0])) / ((x1 - x0) / n)
    up = np.diff(norm.cdf(np.linspace(y0, y1, n + 1), mean[1], std[1])) / ((y1 - y0) / n)
    return torch.from_numpy(np.outer(up, across))


def test_a_gaussian_through_the_kernel_is_a_wider_gaussian():
    box, mean, std, h = (-8.0, 8.0, -6.0, 6.0), (-1.0, 0.5), (0.9, 0.6), 0.5
    fine = gaussian_cells(mean, std, box, 300)
    wide = tuple(math.hypot(s, h) for s in std)
    wanted = gaussian_cells(mean, wide, box, 64)
    found = through_kernel(fine, box, 64, h)
    assert same(found, wanted, 1e-3)
    assert not same(found.T, wanted, 1e-2), "transposed grid"
    assert not same(through_kernel(fine, box, 64, h**2), wanted, 1e-2), "a variance for h"
    assert not same(through_kernel(fine, box, 64), wanted, 1e-2), "forgotten kernel"


def test_one_cell_through_the_kernel_is_the_mean_of_estimates_from_it():
    """A field with all its mass in one cell: the estimate from points that fill that cell."""
    field = torch.zeros(10, 10, dtype=torch.float64)
    field[2, 7] = 1 / cell_area(BOX, 10)
    cell = torch.tensor([-4 + 7.5 * 0.6, -1 + 2.5 * 0.4], dtype=torch.float64)
    points = cell + offsets(BOX, 10, 40).double()
    wanted = kde(points, BOX, 16, 0.3)
    assert same(through_kernel(field, BOX, 16, 0.3), wanted, 1e-3)
    assert not same(through_kernel(field.T, BOX, 16, 0.3), wanted, 1e-2)


def test_without_a_bandwidth_only_the_grid_changes():
    field = torch.rand(30, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert same(through_kernel(field, BOX, 30), field, 1e-6)
    coarse = through_kernel(field, BOX, 10)
    assert same(coarse, field.reshape(10, 3, 10, 3).mean((1, 3)), 1e-6)
    uneven = through_kernel(field, BOX, 7)  # cells that do not line up
    assert float(uneven.mean()) == pytest.approx(float(field.mean()), rel=1e-6), "mass is kept"
    assert through_kernel(field.float(), BOX, 7).dtype == torch.float32
