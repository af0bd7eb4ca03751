"""The walk: its density, entropy and draws against SciPy and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from app.thumbs import svg
from engines import DATASETS, ENGINES, BadInput, Experiment
from engines.data import walks
from engines.data.walks import GROWTH, RADIUS, SPREAD, START


def walk(**options):
    return DATASETS["walk"](**options)


def draw(n, seed=0, **options):
    return walk(**options).sample(n, torch.Generator().manual_seed(seed))


def by_complex_numbers(x: np.ndarray, turn: float) -> np.ndarray:
    """f in polar form, (…, 2): x e^(iω) (1 + g (1 − |x|²/R²))."""
    z = x[..., 0] + 1j * x[..., 1]
    z = z * np.exp(1j * turn) * (1 + GROWTH * (1 - np.abs(z) ** 2 / RADIUS**2))
    return np.stack([z.real, z.imag], -1)


def test_log_prob_is_scipys_product_of_steps():
    data = walk(noise=0.1, turn=0.5, length=16)
    rows = draw(20, noise=0.1, turn=0.5, length=16)
    x = rows.double().numpy().reshape(20, 16, 2)

    def log_p(turn, given=0):
        first = stats.norm(START, SPREAD).logpdf(x[:, 0]).sum(1)
        mean = by_complex_numbers(x[:, :-1], turn)
        after = x[:, 1:] if not given else x[:, :-1]
        return first + stats.norm(mean, 0.1).logpdf(after).sum((1, 2))

    ours = data.log_prob(rows.double()).numpy()
    assert ours == pytest.approx(log_p(0.5), abs=1e-8)
    assert np.abs(ours - log_p(-0.5)).max() > 1, "the wrong twin turns the other way"
    assert np.abs(ours - log_p(0.5, given=1)).max() > 1, (
        "and another takes the present for the next"
    )


def test_entropy_is_minus_the_mean_log_density():
    for options in ({}, {"noise": 0.2, "length": 20}):
        data, rows = walk(**options), draw(4000, 1, **options)
        log_p = data.log_prob(rows).double()
        se = float(log_p.std()) / len(rows) ** 0.5
        assert abs(float(log_p.mean()) + data.entropy) < 4 * se
        # the wrong twin forgets that noise has two coordinates
        assert abs(float(log_p.mean()) + data.entropy - math.log(data.noise)) > 10 * se


def test_draws_take_steps_of_the_noise_round_f():
    x = draw(500, 2).view(500, 32, 2).double().numpy()
    gap = (x[:, 1:] - by_complex_numbers(x[:, :-1], 0.35)) / 0.06
    assert stats.kstest(gap.ravel(), "norm").pvalue > 1e-3
    backwards = (x[:, :-1] - by_complex_numbers(x[:, 1:], 0.35)) / 0.06
    assert stats.kstest(backwards.ravel(), "norm").pvalue < 1e-6, "time runs one way"
    first = (x[:, 0] - START) / SPREAD
    assert stats.kstest(first.ravel(), "norm").pvalue > 1e-3


def test_errors_shrink_across_the_circle_and_stay_along_it():
    """The Jacobian of f on the circle has singular values 1 − 2g and 1."""
    data = walk()
    x = torch.tensor([RADIUS, 0.0], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(data.follow, x)
    assert torch.linalg.svdvals(jacobian).tolist() == pytest.approx([1, 1 - 2 * GROWTH], abs=1e-9)
    assert data.follow(x).norm() == pytest.approx(RADIUS)


def test_walks_stay_in_the_picture_and_pools_repeat():
    assert draw(2000, 3).abs().max() < walks.Walk.extent[1]
    wild = draw(2000, 3, noise=0.3, turn=1.0, length=64)
    assert torch.isfinite(wild).all() and wild.abs().max() < 6
    a, b = (walk().pool(5) for _ in range(2))
    assert torch.equal(a.train, b.train) and not torch.equal(a.train, walk().pool(6).train)
    assert a.train.shape == (8192, 64) and not torch.equal(a.val[:100], a.test[:100])


def test_it_has_a_thumbnail_of_its_paths():
    assert svg(walk()).count("L") > 60


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_take_it_or_say_why_not(engine):
    reason = ENGINES[engine].accepts(walk())
    if reason is None:
        assert Experiment("walk", engine).make_dataset().shape == (32, 2)
        return
    assert reason.endswith(".") and len(reason) < 200
    assert "not symbols" not in reason, "a walk is made of numbers"
    with pytest.raises(BadInput):
        Experiment("walk", engine)
