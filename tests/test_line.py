"""Gaussians on the line: density, entropy and draws against SciPy; what a hand may do to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from app.thumbs import svg
from engines import DATASETS, ENGINES, BadInput, Experiment
from engines.marks import Paths

ROWS = [[-2.0, 0.3, 1.0], [1.5, 0.8, 3.0]]


def line(rows=ROWS):
    return DATASETS["line"](components=rows)


def density(x):
    w = np.array([r[2] for r in ROWS]) / sum(r[2] for r in ROWS)
    return sum(wk * stats.norm.pdf(x, m, s) for wk, (m, s, _) in zip(w, ROWS, strict=True))


def test_density_entropy_and_score_are_scipys():
    x = np.linspace(-5, 6, 301)
    rows = torch.from_numpy(x[:, None])
    log_p = line().log_prob(rows).numpy()
    assert log_p == pytest.approx(np.log(density(x)), abs=1e-10)
    assert np.abs(line([[-2.0, 0.3, 3.0], ROWS[1]]).log_prob(rows).numpy() - log_p).max() > 0.1
    h = integrate.quad(lambda t: -density(t) * np.log(density(t)), -8, 9, limit=400,
                       points=[-2, 1.5])[0]  # fmt: skip
    assert line().entropy == pytest.approx(h, abs=1e-8)
    step = 1e-5
    slope = (line().log_prob(rows + step) - line().log_prob(rows - step)) / (2 * step)
    assert torch.allclose(line().mixture.score(rows)[:, 0], slope, atol=1e-6)


def test_draws_follow_the_density():
    x = line().sample(20_000, torch.Generator().manual_seed(3))
    assert x.shape == (20_000, 1) and x.dtype == torch.float32
    w = np.array([0.25, 0.75])

    def p_value(shift: float) -> float:
        cdf = lambda t: sum(wk * stats.norm.cdf(t - shift, r[0], r[1]) for wk, r in zip(w, ROWS))  # noqa: E731
        return stats.kstest(x[:, 0].numpy(), cdf).pvalue

    assert p_value(0.0) > 1e-3 > 1e-6 > p_value(0.1)


def test_noise_widens_each_mode():
    got = line().noised(0.5, 0.4)
    assert got.centres.tolist() == [[-1.0], [0.75]]
    assert got.sigma.numpy() == pytest.approx([math.hypot(0.15, 0.4), math.hypot(0.4, 0.4)])
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    assert float(got.log_prob(x).exp().sum() * 24 / 4000) == pytest.approx(1, abs=1e-8)


def test_the_extent_holds_the_modes_and_any_q_upon_one_of_them():
    x0, x1, y0, top = line().extent
    assert (x0, x1, y0) == (-5, 5, 0) and 1.0 / (0.3 * math.sqrt(2 * math.pi)) < top < 2
    assert line([[15, 1, 1]]).extent[1] == 20


def test_a_hand_moves_weighs_and_widens_a_mode():
    moved = line(rows=line().moved(0, 1.0, 0.4)["components"])
    assert moved.components[0][:2] == [1.0, 0.3] and moved.components[1] == ROWS[1]
    weight = float(moved.mixture.weights[0])
    assert weight / (0.3 * math.sqrt(2 * math.pi)) == pytest.approx(0.4, rel=1e-4)
    assert line().widened(1, -0.5)["components"][1] == [1.5, 2.0, 3.0]
    # beyond the limits it holds on
    assert line().moved(0, 900.0, -3.0)["components"][0][0] == 20
    assert line().widened(0, -2.0)["components"][0][1] == 0.05
    with pytest.raises(BadInput, match="2 Gaussians"):
        line().moved(2, 0.0, 0.1)


@pytest.mark.parametrize(
    "bad",
    [None, [], "abc", [[0, 1]], [[0, 0, 1]], [[0, 1, True]], [[math.nan, 1, 1]], [[0, 1, 1]] * 9],
)
def test_what_is_no_list_of_modes_is_refused(bad):
    with pytest.raises(BadInput):
        line(bad)


def test_it_has_a_thumbnail_of_its_curve():
    assert svg(line()).count("L") > 100


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_show_it_or_say_why_not(engine):
    reason = ENGINES[engine].accepts(line())
    if reason:
        with pytest.raises(BadInput):
            Experiment("line", engine)
        return
    run = Experiment("line", engine).start("cpu").train(steps=3)
    model = next(p for p in run.frame().panels if p.id == "model")
    assert not model.equal and sum(isinstance(m, Paths) for m in model.marks) == 2
    first, second = (m.xy for m in model.marks if isinstance(m, Paths))
    for xy in (first, second):  # both are densities: their areas are 1, or what is on the picture
        area = np.trapezoid(xy[0, :, 1], xy[0, :, 0])
        assert 0.5 < area < 1.02
    assert abs(np.trapezoid(first[0, :, 1], first[0, :, 0]) - 1) < 1e-3
