"""Planes against independent references, and noised: densities, scores and draws.

Each kind of check is made once on the dataset and once on a wrong twin of it (a dropped
Jacobian, another noise), which must fail.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from sklearn.datasets import make_moons, make_swiss_roll

from engines import cells
from engines.data.exact import NoisyBoxes
from engines.data.plane import _near_spirals
from tests.planes import NOISED, draw, entropy_gap, make

pytestmark = pytest.mark.slow  # dear: `make test` runs them, `make check` does not

# ---------------------------------------------------------------- independent references


def ffjord_spirals(n: int, rng: np.random.Generator) -> np.ndarray:
    t = np.sqrt(rng.random((n, 1))) * 540 * (2 * np.pi) / 360
    half = np.hstack([-np.cos(t) * t, np.sin(t) * t]) + rng.random((n, 2)) * 0.5
    sign = np.where(np.arange(n)[:, None] % 2 == 0, 1, -1)
    return sign * half / 3 + rng.normal(size=(n, 2)) * 0.1


def numpy_pinwheel(n: int, rng: np.random.Generator, rate: float = 0.25) -> np.ndarray:
    f = rng.normal(size=(n, 2)) * [0.3, 0.1] + [1, 0]
    a = 2 * np.pi * rng.integers(5, size=n) / 5 + rate * np.exp(f[:, 0])
    turn = np.stack([np.cos(a), -np.sin(a), np.sin(a), np.cos(a)], 1).reshape(-1, 2, 2)
    return 2 * np.einsum("ti,tij->tj", f, turn)


# the right process and a wrong twin of it: another noise or another rate
REFERENCES = {
    "moons": (
        lambda n, s: 2 * make_moons(n, noise=0.1, random_state=s)[0] + [-1, -0.2],
        lambda n, s: 2 * make_moons(n, noise=0.11, random_state=s)[0] + [-1, -0.2],
    ),
    "swissroll": (
        lambda n, s: make_swiss_roll(n, noise=1.0, random_state=s)[0][:, [0, 2]] / 5,
        lambda n, s: make_swiss_roll(n, noise=1.1, random_state=s)[0][:, [0, 2]] / 5,
    ),
    "spirals": (
        lambda n, s: ffjord_spirals(n, np.random.default_rng(s)),
        lambda n, s: -ffjord_spirals(n, np.random.default_rng(s))[:, ::-1],
    ),
    "pinwheel": (
        lambda n, s: numpy_pinwheel(n, np.random.default_rng(s)),
        lambda n, s: numpy_pinwheel(n, np.random.default_rng(s), 0.26),
    ),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_samples_are_those_of_the_reference_process(name):
    """Two-sample Kolmogorov–Smirnov along eight directions, and the mean of log p."""
    right, wrong = REFERENCES[name]
    dataset, ours = make(name), draw(name).numpy()
    angle = np.arange(8) * np.pi / 8
    directions = np.stack([np.cos(angle), np.sin(angle)])
    theirs = right(60_000, 1)
    for a, b in zip((ours @ directions).T, (theirs @ directions).T):
        assert stats.ks_2samp(a, b).pvalue > 1e-3
    log_p = dataset.log_prob(torch.from_numpy(theirs))
    assert entropy_gap(log_p, dataset.entropy) < 4
    twin = dataset.log_prob(torch.from_numpy(np.ascontiguousarray(wrong(60_000, 1))))
    assert entropy_gap(twin, dataset.entropy) > 4


def points(name: str, n: int = 12) -> np.ndarray:
    """Some of the data, and some anywhere in the extent."""
    x0, x1, y0, y1 = make(name).extent
    rng = np.random.default_rng(0)
    anywhere = rng.uniform([x0, y0], [x1, y1], (n, 2))
    return np.concatenate([draw(name)[:n].numpy(), anywhere])


def smeared_curve(curve, low: float, high: float, kernel) -> np.ndarray | float:
    """∫ kernel(curve(t)) dt by adaptive quadrature on 60 pieces."""
    edges = np.linspace(low, high, 61)
    piece = lambda a, b: integrate.quad(  # noqa: E731
        lambda t: kernel(*curve(t)), a, b, epsabs=0, epsrel=1e-10, limit=200
    )[0]
    return sum(piece(a, b) for a, b in pairwise(edges))


@pytest.mark.parametrize("name", ["moons", "swissroll", "spirals"])
def test_curve_densities_against_adaptive_quadrature(name):
    def gauss(x, sigma):
        return lambda a, b: math.exp(
            -((x[0] - a) ** 2 + (x[1] - b) ** 2) / (2 * sigma**2)
        ) / (2 * math.pi * sigma**2)  # fmt: skip

    def moons(x):
        arcs = [
            lambda t: (2 * math.cos(t) - 1, 2 * math.sin(t) - 0.2),
            lambda t: (1 - 2 * math.cos(t), 0.8 - 2 * math.sin(t)),
        ]
        return sum(smeared_curve(c, 0, math.pi, gauss(x, 0.2)) for c in arcs) / (2 * math.pi)

    def swissroll(x):
        roll = lambda t: (t * math.cos(t) / 5, t * math.sin(t) / 5)  # noqa: E731
        return smeared_curve(roll, 1.5 * math.pi, 4.5 * math.pi, gauss(x, 0.2)) / (3 * math.pi)

    def spirals(x):
        def box(u):  # density of U[0, 1/6] + 0.1 ε, its tail without cancellation
            low, high = sorted((u / 0.1, (u - 1 / 6) / 0.1), key=abs)
            same = low * high > 0
            tail = stats.norm._sf if low > 0 else stats.norm._cdf
            return 6 * abs(tail(low) - tail(high) if same else stats.norm._cdf(u / 0.1)
                           - stats.norm._cdf((u - 1 / 6) / 0.1))  # fmt: skip

        def one(x):
            def kernel(t, _):
                return (
                    (2 * t / (9 * math.pi**2))
                    * box(x[0] + t * math.cos(t) / 3)
                    * box(x[1] - t * math.sin(t) / 3)
                )

            return smeared_curve(lambda t: (t, 0), 0, 3 * math.pi, kernel)

        return (one(x) + one(-x)) / 2

    x = points(name, 3 if name == "spirals" else 8)
    want = np.log(
        [{"moons": moons, "swissroll": swissroll, "spirals": spirals}[name](p) for p in x]
    )
    got = make(name).log_prob(torch.from_numpy(x)).numpy()
    assert np.abs(got - want).max() < 1e-6
    # the wrong twin forgets that the density along the curve is not even
    if name != "moons":
        slip = np.log(np.hypot(*x.T)[: len(x) // 2])
        assert np.abs(got[: len(slip)] - slip - want[: len(slip)]).max() > 1e-3


def test_the_near_boxes_are_all_that_matter():
    every = _near_spirals().boxes
    x = torch.cat([draw("spirals")[:500], torch.from_numpy(points("spirals", 300)) * 1.3])
    assert (make("spirals").log_prob(x) - every.log_prob(x)).abs().max() < 1e-9


def pinwheel_by_scanning(x: np.ndarray, jacobian: bool = True) -> float:
    """p(x) from every f₀ that solves (R(a) x/2)₀ = f₀, found by scanning, and autograd's det."""

    def forward(f: torch.Tensor, k: int) -> torch.Tensor:
        a = 2 * math.pi * k / 5 + 0.25 * f[0].exp()
        return 2 * torch.stack([f[0] * a.cos() + f[1] * a.sin(), -f[0] * a.sin() + f[1] * a.cos()])

    total, y, scan = 0.0, x / 2, np.linspace(-2.6, 2.6, 20_001)
    for k in range(5):

        def f(f0, k=k):
            a = 2 * np.pi * k / 5 + 0.25 * np.exp(f0)
            return y[0] * np.cos(a) - y[1] * np.sin(a), y[0] * np.sin(a) + y[1] * np.cos(a)

        gap = f(scan)[0] - scan
        for i in np.nonzero(np.sign(gap[:-1]) != np.sign(gap[1:]))[0]:
            f0 = optimize.brentq(lambda s: f(s)[0] - s, scan[i], scan[i + 1], xtol=1e-15)
            f1 = f(f0)[1]
            at = torch.tensor([f0, f1], dtype=torch.float64)
            det = torch.linalg.det(
                torch.autograd.functional.jacobian(lambda v, k=k: forward(v, k), at)
            )
            density = stats.norm.pdf(f0, 1, 0.3) * stats.norm.pdf(f1, 0, 0.1) / 5
            total += density / (abs(float(det)) if jacobian else 4.0)
    return total


def test_pinwheel_density_against_scanning():
    x = points("pinwheel", 15)
    x = x[np.hypot(*x.T) < 5]  # the scan sees |f₀| < 2.6
    got = make("pinwheel").log_prob(torch.from_numpy(x)).numpy()
    want = np.log([pinwheel_by_scanning(p) for p in x])
    assert np.abs(got - want).max() < 1e-6
    twin = np.log([pinwheel_by_scanning(p, jacobian=False) for p in x])
    assert np.abs(got - twin).max() > 1e-2


def test_pinwheel_goes_on_smoothly_where_it_is_averaged():
    angle = torch.linspace(-math.pi, math.pi, 2001).double()[:-1]
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    inner = make("pinwheel").log_prob(9.999 * circle).exp().mean().log()
    outer = make("pinwheel").log_prob(10.001 * circle)
    assert float(outer.std()) < 1e-9
    assert float(inner) == pytest.approx(float(outer[0]), abs=0.2)


# ---------------------------------------------------------------- noised data


def noised_gap(name: str, density, a: float, sigma: float) -> float:
    """Largest gap, in standard errors, to the mean of N(x; a·xᵢ, σ²) over 60,000 data xᵢ."""
    data = draw(name)
    rng = torch.Generator().manual_seed(3)
    x = a * data[:30] + sigma * torch.randn(30, 2, generator=rng).double()
    square = ((x[:, None] - a * data) ** 2).sum(2)
    parts = (-square / (2 * sigma**2)).exp() / (2 * math.pi * sigma**2)
    se = parts.std(1) / len(data) ** 0.5
    return float(((density.log_prob(x).exp() - parts.mean(1)) / se).abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("name", NOISED)
@pytest.mark.parametrize(("a", "sigma"), [(1.0, 0.3), (0.6, 0.8)])
def test_noised_density_against_monte_carlo(name, a, sigma):
    dataset = make(name)
    assert noised_gap(name, dataset.noised(a, sigma), a, sigma) < 5
    assert noised_gap(name, dataset.noised(a, 1.3 * sigma), a, sigma) > 5  # the wrong twin
    assert noised_gap(name, dataset.noised(0.8 * a, sigma), a, sigma) > 5


@pytest.mark.parametrize("name", NOISED)
@pytest.mark.parametrize(("a", "sigma"), [(1.0, 0.05), (0.6, 0.8), (0.0, 1.0), (-0.5, 0.1)])
def test_score_is_the_gradient_of_the_noised_density(name, a, sigma):
    noised = make(name).noised(a, sigma)
    rng = torch.Generator().manual_seed(2)
    x = torch.cat([a * draw(name)[:40], 4 * torch.randn(20, 2, generator=rng).double()])
    x.requires_grad_(True)
    (want,) = torch.autograd.grad(noised.log_prob(x).sum(), x)
    got = noised.score(x.detach())
    scale = 1 + want.abs()
    assert ((got - want).abs() / scale).max() < 1e-7
    assert ((-got - want).abs() / scale).max() > 1e-2  # a flipped sign
    assert noised.score(x.detach().float()).dtype == torch.float32
    assert torch.isfinite(noised.score(torch.tensor([[40.0, 30.0], [0.0, 0.0]]))).all()


@pytest.mark.parametrize("name", NOISED)
def test_noise_alone_and_next_to_none(name):
    dataset, x = make(name), draw(name)[:100]
    # a = 0 leaves the standard normal
    only = dataset.noised(0.0, 1.0).log_prob(x)
    assert torch.allclose(only, -0.5 * (x**2).sum(1) - math.log(2 * math.pi))
    # a = 2 and nearly no noise is the density of 2x, with its Jacobian
    if name == "checkerboard":
        x = x[((x / 2 - (x / 2).floor() - 0.5).abs() < 0.49).all(1)]  # off the edges
    if name == "picture":
        x = x[((6 * x - (6 * x).floor() - 0.5).abs() < 0.49).all(1)]
    twice = dataset.noised(2.0, 1e-4).log_prob(2 * x)
    assert torch.allclose(twice, dataset.log_prob(x) - math.log(4), atol=1e-3)
    with pytest.raises(ValueError, match="σ ≥ 0"):
        dataset.noised(1.0, -0.1)


@pytest.mark.parametrize("sigma", [0.05, 1.0])
def test_boxes_on_a_grid_are_those_of_scattered_points(sigma, monkeypatch):
    rng = torch.Generator().manual_seed(0)
    centres = 8 * torch.rand(40, 2, generator=rng) - 4
    boxes = NoisyBoxes(centres, 0.1, sigma, torch.rand(40, generator=rng).softmax(0))
    # beyond the boxes, too: there the sum underflows with little noise
    grid = cells.centres((-9.0, 9.0, -6.0, 6.0), 24).double()
    mixed = grid[torch.randperm(len(grid), generator=rng)[:400]]
    found = [(boxes.log_prob(x), boxes.score(x)) for x in (grid, mixed, grid[:0])]
    crossed = boxes._crossed(grid)
    assert crossed is not None and bool(crossed[0].isinf().any()) == (sigma < 0.1)
    assert boxes._crossed(torch.randn(400, 2, generator=rng).double()) is None
    monkeypatch.setattr(NoisyBoxes, "_crossed", lambda self, x: None)
    for (log_p, score), x in zip(found, (grid, mixed, grid[:0]), strict=True):
        assert torch.allclose(log_p, boxes.log_prob(x), rtol=1e-12, atol=1e-11)
        assert torch.allclose(score, boxes.score(x), rtol=1e-9, atol=1e-9)
