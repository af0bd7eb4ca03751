"""The kernel estimate on a grid, against scikit-learn's and against a loop over all pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KernelDensity

from engines.cells import centres
from engines.kde import kde, through_kernel

BOX = (-3.0, 2.0, -1.0, 3.0)  # not square, not centred: an exchanged axis shows
N = 8


@pytest.fixture
def points() -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.normal(size=(200, 2)) * [0.5, 0.3] + [-1.2, 1.5])


def reference(points: torch.Tensor, bandwidth: float) -> np.ndarray:
    """scikit-learn's density at 40 × 40 points in each cell, averaged."""
    sub = 40
    fine = centres(BOX, N * sub).double().numpy()
    model = KernelDensity(bandwidth=bandwidth).fit(points.numpy())
    density = np.exp(model.score_samples(fine)).reshape(N, sub, N, sub)
    return density.mean((1, 3))


def close(a, b) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return bool(np.abs(a - b).max() <= 1e-3 * np.abs(b).max())


def test_agrees_with_scikit_learn(points):
    wanted = reference(points, 0.3)
    assert close(kde(points, BOX, N, 0.3), wanted)
    # wrong twins: axes exchanged, upside down, a variance taken for a deviation
    assert not close(kde(points, BOX, N, 0.3).T, wanted)
    assert not close(kde(points, BOX, N, 0.3).flip(0), wanted)
    assert not close(kde(points, BOX, N, 0.3**2), wanted)


def test_the_product_of_two_matrices_is_the_loop_over_all_pairs(points):
    few, h = points[:7], 0.4
    dx, dy = (BOX[1] - BOX[0]) / N, (BOX[3] - BOX[2]) / N
    below = lambda u: (1 + math.erf(u / h / math.sqrt(2))) / 2  # noqa: E731
    naive = np.zeros((N, N))
    for row in range(N):
        for column in range(N):
            left, bottom = BOX[0] + column * dx, BOX[2] + row * dy
            for x, y in few.tolist():
                across = below(left + dx - x) - below(left - x)
                up = below(bottom + dy - y) - below(bottom - y)
                naive[row, column] += across * up / (len(few) * dx * dy)
    np.testing.assert_allclose(kde(few, BOX, N, h).numpy(), naive, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bandwidth", [1e-3, 0.1, 0.5])
def test_integrates_to_one(points, bandwidth):
    wide, n = (-8.0, 8.0, -8.0, 8.0), 30
    area = (16 / n) ** 2
    assert float(kde(points, wide, n, bandwidth).sum()) * area == pytest.approx(1, abs=1e-9)
    # in the precision that pictures are drawn in, too
    single = kde(points.float(), wide, n, bandwidth)
    assert single.dtype == torch.float32
    assert float(single.sum()) * area == pytest.approx(1, abs=1e-4)


def test_row_0_is_at_the_bottom():
    corner = torch.tensor([[BOX[0] + 0.1, BOX[2] + 0.1]])  # bottom left
    field = kde(corner, BOX, N, 0.01)
    assert field.argmax() == 0
    side = torch.tensor([[BOX[1] - 0.1, BOX[2] + 0.1]])  # bottom right
    assert kde(side, BOX, N, 0.01).argmax() == N - 1


def gaussian(box, n: int, mean: tuple[float, float], sd: float) -> torch.Tensor:
    """Exact cell averages of an isotropic Gaussian, from its distribution function."""

    def strip(low, high, m):
        edges = torch.linspace(low, high, n + 1, dtype=torch.float64)
        return torch.special.ndtr((edges - m) / sd).diff() * n / (high - low)

    return torch.outer(strip(box[2], box[3], mean[1]), strip(box[0], box[1], mean[0]))


def test_a_field_through_the_kernel_is_the_density_of_the_noisy_variable():
    box, mean, sd, h = (-4.0, 4.0, -3.0, 3.0), (0.5, -0.3), 0.4, 0.3
    seen = through_kernel(gaussian(box, 240, mean, sd), box, 40, h)
    wanted = gaussian(box, 40, mean, math.hypot(sd, h))
    assert close(seen, wanted)
    # wrong twins: no kernel, deviations added, axes exchanged
    assert not close(gaussian(box, 40, mean, sd), wanted)
    assert not close(gaussian(box, 40, mean, sd + h), wanted)
    assert not close(seen.T, wanted)


def test_without_a_kernel_only_the_grid_changes():
    field = torch.rand(12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(through_kernel(field, BOX, 12), field)
    blocks = field.reshape(4, 3, 4, 3).mean((1, 3))
    torch.testing.assert_close(through_kernel(field, BOX, 4), blocks)
    # cells that do not fit into each other share by overlap, so no mass is lost
    assert float(through_kernel(field, BOX, 7).mean()) == pytest.approx(float(field.mean()))


def test_an_estimate_tends_to_the_field_through_the_same_kernel():
    box, sd, h = (-4.0, 4.0, -4.0, 4.0), 0.05, 0.3
    rng = torch.Generator().manual_seed(1)
    x = sd * torch.randn(20_000, 2, generator=rng, dtype=torch.float64)
    exact = gaussian(box, 200, (0.0, 0.0), sd)
    alike = through_kernel(exact, box, 40, h)
    gap = lambda field: float((kde(x, box, 40, h) - field).abs().max() / alike.max())  # noqa: E731
    assert gap(alike) < 0.01
    assert gap(through_kernel(exact, box, 40)) > 0.5  # a sharp density is not what it tends to
