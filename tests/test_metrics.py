"""Metrics against POT, SciPy, brute force and closed forms; each beside a wrong twin."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch
from scipy import stats

from engines import metrics
from engines.data.base import Modes
from engines.data.mixtures import Ring8

RNG = np.random.default_rng


def gauss(x: np.ndarray, mean: float, std: float) -> np.ndarray:
    return stats.norm(mean, std).logpdf(x).sum(-1)


def kl_gauss(dim: int, m0: float, s0: float, m1: float, s1: float) -> float:
    """KL(N(m0, s0²I) ‖ N(m1, s1²I)) in nats; both means along (1, …, 1)."""
    return dim * (math.log(s1 / s0) + (s0**2 + (m0 - m1) ** 2) / (2 * s1**2) - 0.5)


# ---------------------------------------------------------------- KL from densities


@pytest.mark.parametrize("dim", [1, 2, 64])
def test_kl_is_that_of_two_gaussians(dim):
    x = RNG(0).normal(0.0, 1.0, (10_000, dim))
    log_p, log_q = gauss(x, 0.0, 1.0), gauss(x, 0.3, 1.5)
    exact = kl_gauss(dim, 0.0, 1.0, 0.3, 1.5)
    found = metrics.kl(log_p, log_q)
    assert abs(found.value - exact) < 4 * found.se
    swapped = metrics.kl(log_q, log_p)
    assert abs(swapped.value - exact) > 4 * swapped.se
    reverse = kl_gauss(dim, 0.3, 1.5, 0.0, 1.0)
    assert abs(found.value - reverse) > 4 * found.se
    assert found.se == pytest.approx((log_p - log_q).std(ddof=1) / 100)


def test_kl_is_paired_so_that_a_perfect_model_gives_zero():
    x = RNG(0).normal(size=(1000, 2))
    log_p = gauss(x, 0.0, 1.0)
    assert metrics.kl(log_p, log_p) == metrics.Estimate(0.0, 0.0, "")
    other = gauss(RNG(1).normal(size=(1000, 2)), 0.0, 1.0)  # cross-entropy minus entropy
    assert metrics.kl(log_p, other).value != 0.0


def test_kl_says_where_it_is_infinite_or_not_a_number():
    log_p, log_q = np.zeros(1000), np.zeros(1000)
    log_q[:30] = -np.inf
    found = metrics.kl(log_p, log_q, "q", "p")
    assert found.value == math.inf
    assert found.note == "∞: 3 % of q lies where p is 0"
    log_q[0] = np.nan
    found = metrics.kl(log_p, log_q)
    assert math.isnan(found.value)
    assert "0.1 %" in found.note
    # one draw rounded over the edge of p's own support does not spoil the rest
    log_p, log_q = np.zeros(1000), np.full(1000, -0.5)
    log_p[7] = -np.inf
    assert metrics.kl(log_p, log_q).value == pytest.approx(0.5)
    log_p[:30] = -np.inf
    assert math.isnan(metrics.kl(log_p, log_q).value)


def test_bits_per_dim_of_a_uniform_guess():
    log_q = torch.full((10,), -64 * math.log(17.0))  # uniform on [0, 17)^64
    found = metrics.bits_per_dim(log_q, 64)
    assert found.value == pytest.approx(math.log2(17))
    assert found.se == pytest.approx(0.0, abs=1e-9)
    in_nats = float(-log_q.mean() / 64)
    assert in_nats != pytest.approx(math.log2(17), rel=0.1)
    log_q[3] = float("nan")
    assert "10 %" in metrics.bits_per_dim(log_q, 64).note


# ---------------------------------------------------------------- sliced Wasserstein


def unsorted_w2(x, y, along):
    return math.sqrt((((x - y) @ along.T) ** 2).mean())


@pytest.mark.parametrize(("dim", "n", "m"), [(2, 500, 500), (2, 500, 333), (64, 200, 300)])
def test_sliced_w2_is_pots(dim, n, m):
    x = RNG(0).normal(0.0, 1.0, (n, dim))
    y = RNG(1).normal(0.5, 1.3, (m, dim))
    along = metrics.directions(dim)
    assert along.shape == (64, dim)
    np.testing.assert_allclose(np.linalg.norm(along, axis=1), 1.0)
    pot = ot.sliced_wasserstein_distance(x, y, projections=along.T)
    assert metrics.sliced_w2(x, y, along) == pytest.approx(pot, rel=1e-5)
    assert metrics.sliced_w2(torch.tensor(x), torch.tensor(y)) == pytest.approx(pot, rel=1e-5)
    if n == m:
        assert unsorted_w2(x, y, along) != pytest.approx(pot, rel=0.1)
    assert metrics.sliced_w2(x, y) ** 2 != pytest.approx(pot, rel=0.05)  # forgotten root


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_sliced_w2_of_shifted_points_is_the_mean_projected_shift(dim):
    """W₂ of a set and itself shifted by v is |θ·v| on each line, so SW₂ → |v|/√D."""
    x = RNG(0).normal(size=(200, dim))
    v = np.arange(1.0, dim + 1)
    along = metrics.directions(dim, 4096 if dim > 2 else 64)
    exact = np.linalg.norm(v) / math.sqrt(dim)
    # evenly spaced directions integrate the plane exactly; random ones to about 1 %
    assert metrics.sliced_w2(x, x + v, along) == pytest.approx(exact, rel=0.02 if dim > 2 else 1e-5)


# ---------------------------------------------------------------- energy distance


def test_energy_distance_is_scipys_squared_on_the_line():
    x, y = RNG(0).normal(0, 1, 300), RNG(1).normal(0.7, 2, 200)
    theirs = stats.energy_distance(x, y)
    ours = metrics.energy_distance(x[:, None], y[:, None])
    assert ours == pytest.approx(theirs**2, rel=1e-9)
    assert ours != pytest.approx(theirs, rel=0.05)  # SciPy's is the root


def test_energy_distance_is_brute_force_in_64_dimensions():
    x, y = RNG(0).normal(0, 1, (20, 64)), RNG(1).normal(0.3, 1, (15, 64))

    def mean(a, b):
        return np.mean([[math.dist(i, j) for j in b] for i in a])

    exact = 2 * mean(x, y) - mean(x, x) - mean(y, y)
    assert metrics.energy_distance(x, y) == pytest.approx(exact, rel=1e-9)
    twin = mean(x, y) - mean(x, x) - mean(y, y)  # forgotten factor
    assert twin != pytest.approx(exact, rel=0.1)
    assert metrics.energy_distance(x, x) == pytest.approx(0.0, abs=1e-12)


def test_energy_noise_is_the_mean_over_true_pairs():
    rng, n, m = RNG(0), 40, 60
    seen = [
        metrics.energy_distance(rng.normal(size=(n, 2)), rng.normal(size=(m, 2)))
        for _ in range(2000)
    ]
    error = 4 * np.std(seen) / math.sqrt(len(seen))
    between = math.sqrt(math.pi)  # E|X−X′| of the plane's standard normal
    assert metrics.energy_noise(between, n, m) == pytest.approx(np.mean(seen), abs=error)
    assert between / n != pytest.approx(np.mean(seen), abs=error)  # one set's noise forgotten


# ---------------------------------------------------------------- k-NN KL


@pytest.mark.parametrize(("dim", "n", "m"), [(1, 4000, 4000), (2, 4000, 12_000), (3, 4000, 8000)])
def test_knn_kl_is_that_of_two_gaussians(dim, n, m):
    x = RNG(0).normal(0.0, 1.0, (n, dim))
    y = RNG(1).normal(0.4, 1.4, (m, dim))
    exact = kl_gauss(dim, 0.0, 1.0, 0.4, 1.4)
    found = metrics.knn_kl(x, y)

    # neighbours are shared and the bias is a few hundredths: 0.06 nats was allowed for both
    def close(value):
        return abs(value - exact) < 0.06

    assert 0 < found.se < 0.03
    assert close(found.value)
    if n != m:
        assert not close(found.value - math.log(m / (n - 1)))  # the term forgotten
    if dim > 1:
        d_less = (found.value - math.log(m / (n - 1))) / dim + math.log(m / (n - 1))
        assert not close(d_less)  # the dimension forgotten
    self_counted = metrics.knn_kl(x, y, own=metrics.own_neighbour(x, 4))
    assert not close(self_counted.value)  # each row taken for its own first neighbour


def test_knn_kl_sees_what_wasserstein_is_blind_to():
    ring = Ring8()
    p = ring.sample(10_000, torch.Generator().manual_seed(0))
    twin = ring.sample(10_000, torch.Generator().manual_seed(1))
    wide = twin + 0.04 * torch.randn(twin.shape, generator=torch.Generator().manual_seed(2))
    assert metrics.sliced_w2(p, wide) < 1.5 * metrics.sliced_w2(p, twin)
    assert abs(metrics.knn_kl(p, twin).value) < 0.06
    assert metrics.knn_kl(p, wide).value > 0.5


def test_knn_kl_of_copies_and_of_too_few():
    x = RNG(0).normal(size=(100, 2))
    copies = np.repeat(x, 10, axis=0)
    assert math.isnan(metrics.knn_kl(copies, x).value)
    assert math.isfinite(metrics.knn_kl(x, np.zeros((100, 2))).value)
    assert math.isfinite(metrics.knn_kl(np.concatenate([x, x[:1].repeat(20, 0)]), x).value)
    with pytest.raises(ValueError, match="neighbours"):
        metrics.knn_kl(x[:5], x)


# ---------------------------------------------------------------- modes


def ring_rows(n: int = 8000, spread: float = 1.0, weights=None, seed: int = 0) -> torch.Tensor:
    ring = Ring8()
    g = torch.Generator().manual_seed(seed)
    w = torch.ones(8) if weights is None else torch.as_tensor(weights, dtype=torch.float32)
    k = torch.multinomial(w, n, True, generator=g)
    return ring.modes.centres[k] + spread * 0.02 * torch.randn(n, 2, generator=g)


def true_like(report: metrics.ModeReport, n: int = 8000) -> bool:
    """The check that true samples pass and every wrong set must fail."""
    weights = np.full(8, 1 / 8)
    inside = 1 - math.exp(-4.5)
    return (
        report.found == 8
        and abs(report.inside - inside) < 4 * math.sqrt(inside * (1 - inside) / n)
        and metrics.total_variation(report.shares, weights) < 2 * metrics.share_noise(weights, n)
        and abs(report.spread - 1) < 4 / math.sqrt(2 * n)
    )


@pytest.mark.parametrize("seed", range(5))
def test_mode_report_of_true_samples(seed):
    assert true_like(metrics.mode_report(ring_rows(seed=seed), Ring8().modes))


def test_mode_report_of_constructed_failures():
    modes = Ring8().modes
    report = metrics.mode_report

    collapsed = report(modes.centres[:1].repeat(8000, 1), modes)
    assert (collapsed.found, collapsed.inside, collapsed.spread) == (1, 1.0, 0.0)
    assert metrics.total_variation(collapsed.shares, np.full(8, 1 / 8)) == pytest.approx(7 / 8)

    missing = report(ring_rows(weights=[1, 1, 1, 0, 1, 1, 1, 1]), modes)
    assert missing.found == 7
    assert missing.shares[3] == 0

    doubled = report(ring_rows(weights=[2, 1, 1, 1, 1, 1, 1, 1]), modes)
    off = metrics.total_variation(doubled.shares, np.full(8, 1 / 8))
    assert off == pytest.approx(2 / 9 - 1 / 8, abs=0.015)

    half, double = report(ring_rows(spread=0.5), modes), report(ring_rows(spread=2.0), modes)
    assert half.spread == pytest.approx(0.5, abs=0.02)
    assert double.spread == pytest.approx(2.0, abs=0.08)
    assert half.inside > 1 - math.exp(-4.5)  # collapse is rewarded by this one

    point = ring_rows()  # off its centre, and still no spread
    shrunk = modes.centres[metrics.nearest(point, modes.centres)[1]] + 0.02
    assert report(shrunk, modes).spread == pytest.approx(0.0, abs=1e-5)

    rare = report(ring_rows(weights=[0.1, 1, 1, 1, 1, 1, 1, 1]), modes)
    assert rare.found == 7  # 11 % of its fair share is a lost mode
    for wrong in (collapsed, missing, doubled, half, double, rare):
        assert not true_like(wrong)


def test_spread_is_not_moved_by_strays():
    rows = ring_rows()
    strays = 2 * torch.randn(800, 2, generator=torch.Generator().manual_seed(3))
    found = metrics.mode_report(torch.cat([rows, strays]), Ring8().modes)
    assert found.spread == pytest.approx(1.0, abs=0.1)
    assert found.inside < 0.92
    modes = Ring8().modes
    raw = (torch.cat([rows, strays])[:, None] - modes.centres).norm(dim=2).min(1).values
    assert float((raw**2).mean().sqrt()) / (0.02 * math.sqrt(2)) > 5  # rms without the cut


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_spread_of_true_gaussians_is_one_in_any_dimension(dim):
    modes = Modes(torch.zeros(1, dim), torch.ones(1), torch.ones(1))
    found = metrics.mode_report(RNG(0).normal(size=(40_000, dim)), modes)
    assert found.spread == pytest.approx(1.0, abs=4 / math.sqrt(2 * 40_000 * dim))
    assert found.inside == pytest.approx(stats.chi2.cdf(9, dim), abs=0.002 * dim)


def test_share_noise_is_that_of_drawn_shares():
    weights = np.array([0.5, 0.3, 0.15, 0.05])
    drawn = RNG(0).multinomial(1000, weights, 4000) / 1000
    seen = np.abs(drawn - weights).sum(1).mean() / 2
    assert metrics.share_noise(weights, 1000) == pytest.approx(seen, rel=0.03)
    assert metrics.share_noise(weights, 2000) != pytest.approx(seen, rel=0.03)
    assert metrics.total_variation(np.array([1.0, 0.0]), np.array([0.5, 0.5])) == 0.5


# ---------------------------------------------------------------- neighbours


def test_nearest_ratio_tells_copies_from_inventions():
    g = torch.Generator().manual_seed(0)
    train, held, fresh = (torch.randn(1000, 16, generator=g) for _ in range(3))
    found = metrics.nearest_ratio(fresh, train, held)
    assert abs(found.value - 1) < 5 * found.se
    copies = train + 0.01 * torch.randn(train.shape, generator=g)
    assert metrics.nearest_ratio(copies, train, held).value < 0.05
    assert metrics.nearest_ratio(3 * fresh, train, held).value > 1.5
    twin = metrics.nearest_ratio(copies, held, train)  # rows swapped
    assert abs(twin.value - 1) < 0.1
    distance, index = metrics.nearest(held, train)
    brute = torch.tensor([[math.dist(a, b) for b in train.tolist()] for a in held[:5].tolist()])
    torch.testing.assert_close(distance[:5], brute.min(1).values, rtol=1e-4, atol=1e-4)
    assert index[:5].tolist() == brute.argmin(1).tolist()


def test_share_noise_is_that_of_the_binomial():
    for weights, n in (([0.1, 0.2, 0.7], 10_000), ([0.04] * 25, 2000), ([1.0], 50), ([1.0, 0], 9)):
        w = np.array(weights)
        m = np.floor(n * w) + 1
        wanted = float((m * (1 - w) * stats.binom.pmf(m, n, w)).sum() / n)
        assert metrics.share_noise(w, n) == pytest.approx(wanted, rel=1e-9, abs=1e-15)
