"""Normalising constants against closed forms, and draws against the density they come from."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import kstest, norm

from engines.data import DATASETS, PointsDataset
from engines.quadrature import Quadrature, domain, inside

PLANES = [n for n, kind in DATASETS.items() if kind.kind == "plane"]


def box_of(name):
    return domain(DATASETS[name]().pool(0))


@pytest.mark.parametrize("name", PLANES)
def test_an_exact_density_integrates_to_one(name):
    dataset = DATASETS[name]()
    found = Quadrature(dataset.log_prob, box_of(name)).log_z
    # edges of a support run through cells, which one value stands for
    sharp = name in ("checkerboard", "river", "picture")
    assert abs(float(found)) < (0.01 if sharp else 2e-4)


def test_a_factor_is_found_and_fewer_cells_would_miss_it():
    """Modes of ring8 have a standard deviation of 0.02 on a domain of 6.6."""
    dataset, box = DATASETS["ring8"](), box_of("ring8")

    def log_f(x):
        return dataset.log_prob(x) + 3.5

    found = Quadrature(log_f, box)
    assert float(found.log_z) == pytest.approx(3.5, abs=1e-4)
    few = Quadrature(log_f, box, n=64)
    assert abs(float(few.log_z) - 3.5) > 1e-3
    x = dataset.sample(1000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.log_prob(x), dataset.log_prob(x), atol=1e-3, rtol=0)


def test_outside_there_is_nothing():
    q = Quadrature(lambda x: torch.zeros(len(x)), (0.0, 2.0, 0.0, 3.0))
    assert float(q.log_z) == pytest.approx(math.log(6), abs=1e-6)
    x = torch.tensor([[1.0, 1.0], [2.1, 1.0], [1.0, -0.1]])
    assert q.log_prob(x).exp().tolist() == pytest.approx([1 / 6, 0, 0])


@pytest.mark.parametrize("sigma", [0.05, 1.0])
def test_draws_follow_the_density(sigma):
    def log_f(x):
        return -(((x - 0.3) / sigma) ** 2).sum(1) / 2

    q = Quadrature(log_f, (-6.0, 6.0, -6.0, 6.0))
    x = q.sample(20_000, torch.Generator().manual_seed(1))
    assert x.dtype == torch.float32 and x.shape == (20_000, 2)
    for column in x.numpy().T:
        assert kstest(column, norm(0.3, sigma).cdf).pvalue > 1e-3
        assert kstest(column, norm(0.3, 1.08 * sigma).cdf).pvalue < 1e-3


def test_the_domain_holds_extent_and_rows():
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(2)).numpy()
    pool = PointsDataset(x).pool(0)
    box = domain(pool)
    assert bool(inside(pool.train, box).all())
    x0, x1, y0, y1 = pool.dataset.extent
    assert box[0] < x0 and box[1] > x1 and box[2] < y0 and box[3] > y1
