"""The kernel estimate that every density is held against."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from sklearn.neighbors import KernelDensity

from engines import Experiment, rival
from engines.data.base import DATASETS, PointsDataset
from engines.data.kernels import Kernels
from engines.metrics import kl


@pytest.fixture(scope="module", params=["ring8", "line"])
def kernels(request):
    pool = DATASETS[request.param]().pool(0)
    rows = pool.train[:3000].numpy()
    return Kernels(rows, rows.std(0), pool.dataset.extent, most=3000), pool.test[:500]


def sklearns(kernels, x, bandwidth):
    """The same estimate by scikit-learn: round kernels on standardised points."""
    scale = kernels.scale.numpy()
    tree = KernelDensity(bandwidth=bandwidth).fit(kernels.z.numpy())
    return tree.score_samples(x.double().numpy() / scale) - np.log(scale).sum()


def by_definition(kernels, x):
    """log Σ exp(…), for scikit-learn's trees only bound what lies far from every kernel."""
    scale, h = kernels.scale.numpy(), kernels.bandwidth
    square = cdist(x.double().numpy() / scale, kernels.z.numpy(), "sqeuclidean")
    total = logsumexp(-square / (2 * h * h), axis=1) - np.log(square.shape[1])
    return total - np.log(np.sqrt(2 * np.pi * h * h) * scale).sum()


def test_the_quick_density_is_the_kernel_estimate(kernels):
    estimate, x = kernels
    far = torch.tensor([[60.0, -80.0], [0.0, 0.0], [9.0, 9.0]])[:, : x.shape[1]]
    wanted_near = sklearns(estimate, x, estimate.bandwidth)
    for points, wanted in ((x, wanted_near), (far, by_definition(estimate, far))):
        if x.shape[1] == 2:
            assert estimate.log_prob(points).numpy() == pytest.approx(wanted, rel=1e-5)
        assert estimate.quick_log_prob(points).numpy() == pytest.approx(wanted, rel=1e-6, abs=1e-4)


def test_another_width_is_another_estimate(kernels):
    # the wrong twin of the test above
    estimate, x = kernels
    other = sklearns(estimate, x, 1.1 * estimate.bandwidth)
    assert estimate.quick_log_prob(x).numpy() != pytest.approx(other, rel=1e-6, abs=1e-4)


@pytest.mark.slow
def test_what_it_measures_is_the_divergence_on_the_held_out_points():
    pool = DATASETS["moons"]().pool(0)
    found = rival.measure(pool)
    rows = pool.train[: rival.SAMPLES]
    estimate = Kernels(rows.numpy(), rows.std(0).numpy(), pool.dataset.extent, most=len(rows))
    tree = KernelDensity(bandwidth=estimate.bandwidth, rtol=1e-6)
    tree.fit(rows.double().numpy() / estimate.scale.numpy())
    x = pool.test[:2000]
    log_q = tree.score_samples(x.double().numpy() / estimate.scale.numpy())
    log_q -= float(estimate.scale.log().sum())
    reference = kl(pool.dataset.log_prob(x), log_q)
    assert found["kl_pq"] == pytest.approx(reference.value, abs=4 * reference.se)
    assert 0.005 < found["kl_pq"] < 0.02  # and it is a good estimate
    assert found["kl_qp"] > 0


@pytest.mark.slow
def test_a_rival_that_leaves_the_support_is_infinitely_far():
    pool = DATASETS["checkerboard"]().pool(0)
    assert math.isinf(rival.measure(pool)["kl_qp"])


@pytest.mark.slow
def test_it_comes_by_itself_and_stands_beside_the_divergences(monkeypatch):
    monkeypatch.setattr("engines.run.rival", rival.rival)
    run = Experiment("moons", "mixture", seed=12345).start("cpu")
    first = {m.name: m for m in run.measure()}
    assert first["kl_pq"].rival is None  # the run does not wait for it
    rival.wait()
    after = {m.name: m for m in run.measure()}
    expected = rival.measure(run.pool)
    for name in ("kl_pq", "kl_qp"):
        assert after[name].rival == expected[name]
    assert after["sliced_w2"].rival is None


def test_points_have_none():
    points = np.random.default_rng(0).normal(size=(30_000, 2))
    pool = PointsDataset(points).pool(0)
    assert not rival.has_rival(pool)
    assert rival.rival(pool) == {}
