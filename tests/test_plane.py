"""Planes: every density against its samples, its integral, and what is stated of it.

Each kind of check is made once on the dataset and once on a wrong twin of it (a dropped
Jacobian, another noise), which must fail.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from engines.data import DATASETS
from engines.knobs import BadInput
from tests.planes import (
    CELLS,
    MIXTURES,
    NOISED,
    PLANES,
    chi_square,
    draw,
    entropy_gap,
    field,
    grid,
    make,
)

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
