"""Planes: every density against its samples, its integral, and an independent reference.

Each kind of check is made once on the dataset and once on a wrong twin of it (a dropped
Jacobian, another noise), which must fail.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from sklearn.datasets import make_moons, make_swiss_roll

from engines.data import DATASETS
from engines.data.base import Dataset
from engines.data.plane import Plane, _near_spirals
from engines.knobs import BadInput

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


# ---------------------------------------------------------------- every plane


def test_all_planes_are_there():
    assert PLANES == [
        "ring8", "ring8soft", "grid25", "unbalanced", "checkerboard", "moons", "spirals",
        "rings", "pinwheel", "swissroll", "river", "two_gaussians", "gaussians", "picture",
    ]  # fmt: skip
    for name in PLANES:
        assert DATASETS[name].about.endswith((".", "?"))
        assert DATASETS[name].source


@pytest.mark.parametrize("name", PLANES)
def test_integrates_to_one_and_the_extent_holds_it(name):
    total = float(field(name).sum())
    assert abs(total - 1) < 2e-5
    x0, x1, y0, y1 = make(name).extent
    assert x1 - x0 == pytest.approx(y1 - y0)  # a square, so that axes are equal
    # the wrong twin forgets the Jacobian of a change of scale by 3 %
    at, area = grid(make(name).extent, CELLS.get(name, 300))
    twin = float((make(name).log_prob(at.reshape(-1, 2) * 1.03).exp() * area).sum())
    assert abs(twin - 1) > 0.01


@pytest.mark.parametrize("name", PLANES)
def test_samples_agree_with_the_density(name):
    dataset, x = make(name), draw(name)
    assert chi_square(x, field(name), dataset.extent) > 1e-3
    assert chi_square(x * 1.03, field(name), dataset.extent) < 1e-6  # the wrong twin


@pytest.mark.parametrize("name", PLANES)
def test_entropy_is_the_mean_of_minus_log_p(name):
    dataset, x = make(name), draw(name)
    log_p = dataset.log_prob(x)
    assert torch.isfinite(log_p).all()
    assert entropy_gap(log_p, dataset.entropy) < 4
    assert entropy_gap(log_p + 2 * math.log(1.03), dataset.entropy) > 4  # the wrong twin


@pytest.mark.parametrize("name", [n for n in PLANES if make(n).known_entropy is not None])
def test_known_entropies_are_worked_out_again(name):
    assert make(name)._entropy(350) == pytest.approx(make(name).entropy, abs=2e-6)


@pytest.mark.parametrize("name", PLANES)
def test_sampling_depends_on_its_generator_alone(name):
    torch.manual_seed(0)
    first = make(name).sample(100, torch.Generator().manual_seed(5))
    torch.manual_seed(1)
    again = make(name).sample(100, torch.Generator().manual_seed(5))
    assert first.dtype == torch.float32
    assert first.shape == (100, 2)
    assert torch.equal(first, again)
    assert not torch.equal(first, make(name).sample(100, torch.Generator().manual_seed(6)))


@pytest.mark.parametrize("name", PLANES)
def test_log_prob_keeps_its_shape_and_dtype_and_survives_odd_input(name):
    dataset, x = make(name), draw(name)[:200]
    single = dataset.log_prob(x.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), dataset.log_prob(x.float().double()), atol=1e-5)
    assert dataset.log_prob(x[:0]).shape == (0,)
    far = dataset.log_prob(torch.tensor([[30.0, -20.0], [-300.0, 1.0], [4.2, -4.2]]))
    assert not far.isnan().any()
    assert (far[:2] < -100).all()
    odd = dataset.log_prob(torch.tensor([[math.nan, 0.0], [0.1, 0.2]]))
    assert odd[0].isnan()
    assert torch.equal(odd[1:], dataset.log_prob(torch.tensor([[0.1, 0.2]])))


# ---------------------------------------------------------------- what is stated of each


def test_ring_modes_stand_at_multiples_of_45_degrees():
    for name, radius, sigma in (
        ("ring8", 2.0, 0.02),
        ("ring8soft", 4 / math.sqrt(2), 0.5 / math.sqrt(2)),
        ("unbalanced", 2.0, 0.1),
    ):
        modes = make(name).modes
        for k, centre in enumerate(modes.centres.double().numpy()):
            angle = k * math.pi / 4
            assert centre == pytest.approx([radius * math.cos(angle), radius * math.sin(angle)])
        assert modes.sigma.tolist() == pytest.approx([sigma] * 8)
        assert float(modes.weights.sum()) == pytest.approx(1)
    assert make("unbalanced").modes.weights.tolist() == pytest.approx(
        [0.35, 0.25, 0.15, 0.10, 0.07, 0.05, 0.02, 0.01]
    )
    assert make("ring8").modes.weights.tolist() == pytest.approx([1 / 8] * 8)


def test_grid_has_25_modes():
    modes = make("grid25").modes
    want = {(float(a), float(b)) for a in range(-4, 5, 2) for b in range(-4, 5, 2)}
    assert {tuple(c) for c in modes.centres.tolist()} == want
    assert modes.sigma.tolist() == pytest.approx([0.05] * 25)


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_draw_their_modes_in_proportion(name):
    mixture, x = make(name).mixture, draw(name)
    counts = torch.bincount(torch.cdist(x, mixture.centres).argmin(1))
    # where neighbours overlap, they lose as much as they win
    assert stats.chisquare(counts, mixture.weights * len(x)).pvalue > 1e-3
    twin = mixture.weights.roll(1) if name == "unbalanced" else mixture.weights * 0.9
    twin[0] += 1 - twin.sum()  # weights in another order, or one mode favoured
    assert stats.chisquare(counts, twin * len(x)).pvalue < 1e-6


def test_mixture_density_is_that_of_scipy():
    for name in MIXTURES:
        modes, x = make(name).mixture, draw(name)[:50].numpy()
        want = sum(
            w * stats.multivariate_normal(c, s**2).pdf(x)
            for w, c, s in zip(modes.weights.tolist(), modes.centres.numpy(), modes.sigma.tolist())
        )
        assert make(name).log_prob(torch.from_numpy(x)).numpy() == pytest.approx(np.log(want))


def test_checkerboard_is_uniform_on_the_even_squares():
    for i in range(-3, 3):
        for j in range(-3, 3):
            middle = torch.tensor([[2.0 * i + 1, 2.0 * j + 1]]).double()
            dark = (i + j) % 2 == 0 and -2 <= i < 2 and -2 <= j < 2
            want = -math.log(32) if dark else -math.inf
            assert float(make("checkerboard").log_prob(middle)) == want
    x = draw("checkerboard")
    squares = (x / 2).floor()
    assert (squares.sum(1) % 2 == 0).all()
    counts = np.unique(squares.numpy(), axis=0, return_counts=True)[1]
    assert len(counts) == 8
    assert stats.chisquare(counts).pvalue > 1e-3


def test_checkerboard_never_rounds_off_its_squares(monkeypatch):
    largest = 1 - 2.0**-53
    monkeypatch.setattr(
        torch, "rand", lambda *shape, **_: torch.full(shape, largest, dtype=torch.float64)
    )
    x = make("checkerboard").sample(500, torch.Generator().manual_seed(0))
    assert torch.isfinite(make("checkerboard").log_prob(x)).all()


def test_rings_have_equal_weights():
    radius = draw("rings").norm(dim=1)
    counts = torch.histogram(radius, torch.tensor([0.0, 1.125, 1.875, 2.625, 9.0]).double()).hist
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    outer = radius[radius > 2.625]
    # R + σ²/2R is the mean length of a point of the circle with noise
    assert float(outer.mean()) == pytest.approx(3 + 0.08**2 / 6, abs=4 * 0.08 / len(outer) ** 0.5)
    assert float(outer.std()) == pytest.approx(0.08, rel=0.03)


def test_river_is_the_exponential_of_its_potential():
    x = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)).double() * 6 - 3
    w1 = torch.sin(2 * math.pi * x[:, 0] / 4)
    w3 = 3 * torch.sigmoid((x[:, 0] - 1) / 0.3)
    first = torch.exp(-0.5 * ((x[:, 1] - w1) / 0.35) ** 2)
    second = torch.exp(-0.5 * ((x[:, 1] - w1 + w3) / 0.35) ** 2)
    gap = make("river").log_prob(x) - (first + second).log()
    assert float(gap.max() - gap.min()) < 1e-9  # alike up to the constant
    assert float(make("river").log_prob(torch.tensor([[4.01, 1.0]]))) == -math.inf
    # draws of exactly −4, or rounded up to 4, still have a density
    assert torch.isfinite(make("river").log_prob(torch.tensor([[-4.0, 0.0], [4.0, 0.0]]))).all()


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


# ---------------------------------------------------------------- two_gaussians

ENDS = [
    {"distance": 0.0, "width_left": 0.05, "width_right": 1.5, "weight": 0.01},
    {"distance": 8.0, "width_left": 1.5, "width_right": 0.05, "weight": 0.99},
    {"distance": 1.0, "width_left": 0.05, "width_right": 0.05, "weight": 0.3},
    {"distance": 2.0, "width_left": 1.5, "width_right": 0.05, "weight": 0.5},
]


@pytest.mark.parametrize("options", ENDS)
def test_two_gaussians_at_the_ends_of_their_options(options):
    dataset = make("two_gaussians", **options)
    x = dataset.sample(100_000, torch.Generator().manual_seed(0)).double()
    assert entropy_gap(dataset.log_prob(x), dataset.entropy) < 4
    x0, x1, y0, y1 = dataset.extent
    outside = (x[:, 0] < x0) | (x[:, 0] > x1) | (x[:, 1] < y0) | (x[:, 1] > y1)
    assert int(outside.sum()) <= 5
    modes = dataset.modes
    assert modes.centres.tolist() == [[-options["distance"] / 2, 0], [options["distance"] / 2, 0]]
    assert modes.sigma.tolist() == pytest.approx([options["width_left"], options["width_right"]])
    assert modes.weights.tolist() == pytest.approx([options["weight"], 1 - options["weight"]])


def test_two_gaussians_entropy_in_closed_form():
    together = make("two_gaussians", distance=0.0, width_left=0.7, width_right=0.7, weight=0.2)
    assert together.entropy == pytest.approx(1 + math.log(2 * math.pi * 0.49), abs=1e-8)
    apart = make("two_gaussians", distance=8.0, width_left=0.2, width_right=0.4, weight=0.25)
    want = 0.25 * math.log(2 * math.pi * math.e * 0.04 / 0.25)
    want += 0.75 * math.log(2 * math.pi * math.e * 0.16 / 0.75)
    assert apart.entropy == pytest.approx(want, abs=1e-8)


def test_two_gaussians_refuse_what_is_out_of_range():
    for name, entry in DATASETS["two_gaussians"].knobs.items():
        for value in (entry.low, entry.high):
            assert make("two_gaussians", **{name: value}).options[name] == value
        for value in (entry.low - 1e-3, entry.high + 1e-3, math.nan, "1"):
            with pytest.raises(BadInput, match=name):
                make("two_gaussians", **{name: value})


# ---------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("name", PLANES)
def test_the_gpu_gives_the_same_densities(name):
    dataset, x = make(name), draw(name)[:3000]
    got = dataset.log_prob(x.cuda())
    assert got.is_cuda
    assert torch.allclose(got.cpu(), dataset.log_prob(x), atol=1e-8)
    ours = dataset.sample(20_000, torch.Generator("cuda").manual_seed(0))
    assert ours.is_cuda
    assert entropy_gap(dataset.log_prob(ours.double()).cpu(), dataset.entropy) < 4
    if name in NOISED:
        noised = dataset.noised(0.7, 0.4)
        assert torch.allclose(noised.score(x.cuda()).cpu(), noised.score(x), atol=1e-8)
