"""The course of the game: the strip of modes, and V beside the divergence it estimates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from torch import Tensor, nn

from app.pack import pack
from engines import Experiment
from engines.gan import GAN, LOSSES
from engines.gan.course import COLUMNS, WIDTH, Course, divergence, jensen_shannon, round_up
from engines.marks import Curves, Heat
from tests.gans import PLAIN, linear, marks, started

# ---------------------------------------------------------------- what is kept


def test_a_course_is_bounded_and_keeps_its_means():
    course = Course(limit=50)
    for step in range(1000):
        course.add(step, np.array([step, 1.0]))
    assert len(course.steps) <= 50
    assert course.steps == sorted(course.steps)
    assert np.allclose([row[0] for row in course.rows], course.steps), "a mean, at its mean step"
    assert np.allclose([row[1] for row in course.rows], 1)
    assert len(course.strip(COLUMNS)[0][0]) == COLUMNS


def test_a_course_that_is_rewound_forgets_what_came_after():
    course = Course()
    for step in (0, 10, 20, 30):
        course.add(step, np.array([float(step)]))
    course.add(20, np.array([-1.0]))
    assert course.steps == [0, 10, 20] and course.rows[-1] == -1
    course.add(20, np.array([-2.0]))
    assert course.steps == [0, 10, 20] and course.rows[-1] == -2, "one look at a step counts"


def test_a_strip_runs_from_left_to_right_with_gaps_where_nobody_looked():
    course = Course()
    for step in (*range(40), *range(80, 90)):
        course.add(step, np.array([step < 40, step >= 40], dtype=float))
    cells, end = course.strip(100)
    assert end == 100 and cells.shape == (2, 100)
    assert np.array_equal(cells[0, :40], np.ones(40)) and np.array_equal(
        cells[1, :40], np.zeros(40)
    )
    assert np.isnan(cells[:, 45:80]).all(), "a long time without a look is not filled in"
    assert np.array_equal(cells[1, 80:90], np.ones(10)) and np.isnan(cells[:, 90:]).all()
    sparse = Course()
    for step in range(0, 100, 5):
        sparse.add(step, np.array([float(step)]))
    cells, _ = sparse.strip(100)
    assert np.allclose(cells[0, :96], np.arange(96) // 5 * 5), "between two looks: the earlier"


@pytest.mark.parametrize(
    ("step", "end"), [(0, 100), (1, 100), (100, 100), (101, 200), (999, 1000), (2001, 5000)]
)
def test_ends_of_the_axis(step, end):
    assert round_up(step) == end


# ---------------------------------------------------------------- the divergence


def test_jensen_shannon_in_closed_form():
    a, b = torch.tensor([0.5, 0.5, 0, 0]), torch.tensor([0, 0, 0.25, 0.75])
    assert jensen_shannon(a, b) == pytest.approx(math.log(2))
    assert jensen_shannon(a, a) == 0
    # on two cells: H(m) − (H(p) + H(q))/2, entropies of coins
    coin = lambda s: -s * math.log(s) - (1 - s) * math.log(1 - s)  # noqa: E731
    p, q = torch.tensor([0.3, 0.7]), torch.tensor([0.8, 0.2])
    wanted = coin(0.55) - (coin(0.3) + coin(0.8)) / 2
    assert jensen_shannon(p, q) == pytest.approx(wanted, rel=1e-6)
    kl = float((p * (p / q).log()).sum())
    assert jensen_shannon(p, q) != pytest.approx(kl, rel=0.1)  # wrong twin: KL(p‖q)
    # what lies outside of the grid is one more cell
    assert jensen_shannon(torch.tensor([1.0]), torch.tensor([0.4])) == pytest.approx(
        jensen_shannon(torch.tensor([1.0, 0.0]), torch.tensor([0.4, 0.6])), rel=1e-6
    )


def blurred_jsd(apart: float, h: float) -> float:
    """JSD of N(0, 1 + h²) and the same, shifted, by quadrature; the plane adds nothing."""
    s = math.sqrt(1 + h * h)
    p, q = stats.norm(0, s), stats.norm(apart, s)

    def part(a, b):
        f = lambda x: a.pdf(x) * (a.logpdf(x) - math.log((a.pdf(x) + b.pdf(x)) / 2))  # noqa: E731
        return quad(f, -8, 10, limit=200)[0]

    return (part(p, q) + part(q, p)) / 2


def test_the_divergence_of_two_clouds():
    xy = np.random.default_rng(0).normal(size=(20_000, 2))
    engine = Experiment.from_points(xy, "gan").start("cpu").engine
    h = WIDTH * float(engine.pool.std.square().mean().sqrt())
    for apart in (0.0, 1.0, 2.5):
        shift = torch.tensor([apart, 0.0])
        x = torch.randn(8000, 2, generator=torch.Generator().manual_seed(3)) + shift
        found, wanted = divergence(engine, x), blurred_jsd(apart, h)
        assert found == pytest.approx(wanted, abs=0.03)
        if apart:
            assert found != pytest.approx(2 * wanted, abs=0.05)  # wrong twin: without the half


# ---------------------------------------------------------------- the pictures


def in_modes(*which: int):
    """A generator whose samples sit in these modes of ring8 alone."""

    def sample(n: int, generator=None) -> Tensor:
        engine = sample.engine
        modes = engine.pool.dataset.modes
        rng = torch.Generator().manual_seed(2)
        index = torch.tensor(which)[torch.arange(n) % len(which)]
        return modes.centres[index] + modes.sigma[0] * torch.randn(n, 2, generator=rng)

    return sample


def at(engine: GAN, step: int, *which: int) -> Heat:
    engine.sample = in_modes(*which)
    engine.sample.engine, engine.step_count = engine, step
    (heat,) = marks(engine, "strip")
    return heat


def test_the_strip_shows_collapse_and_hopping():
    engine = started("ring8", width=16)
    for step in range(20):
        at(engine, step, *range(8))
    for step in range(20, 40):
        at(engine, step, 2)
    for step in range(40, 60):
        heat = at(engine, step, 5)
    assert heat.box == (0, 100, 0.5, 8.5) and heat.hi == 2 and heat.crisp
    column = lambda step: heat.values[:, step * COLUMNS // 100]  # noqa: E731
    assert np.allclose(column(10), 1, atol=0.1), "all modes have their true weight"
    for step, mode in ((30, 2), (50, 5)):
        wanted = np.zeros(8)
        wanted[mode] = 8
        assert np.allclose(column(step), wanted, atol=0.05)
        assert not np.allclose(column(step), wanted[::-1], atol=0.05)  # wrong twin: upside down
    assert np.isnan(column(80)).all()
    assert len(pack(Experiment("ring8", "gan").start("cpu").frame())) > 0


@pytest.mark.slow
def test_what_was_seen_is_not_saved_and_not_shown_of_other_data():
    run = Experiment("ring8", "gan", 0, {**PLAIN, "width": 16, "batch": 32}).start("cpu")
    for _ in range(5):
        run.train(steps=5)
        run.frame()
    course = run.engine._courses["strip"]
    assert course.steps == [5, 10, 15, 20, 25]
    saved = run.checkpoint()
    again = run.branch(saved)
    again.train(steps=5)
    again.frame()
    assert again.engine._courses["strip"].steps == [30], "a branch begins its own"
    tensors, plain = run.engine.state()
    assert not any("course" in name for name in (*tensors, *plain))
    run.feed(run.experiment.but(dataset="grid25"))
    heat = next(p for p in run.frame().panels if p.id == "strip").marks[0]
    assert heat.values.shape[0] == 25 and run.engine._courses["strip"].steps == [30]


def undecided(engine: GAN, bias: float = 0.0) -> None:
    nn.init.zeros_(engine.discriminator[-1].weight)
    nn.init.constant_(engine.discriminator[-1].bias, bias)


def test_v_and_its_ceiling():
    engine = started("ring8soft", width=16)
    undecided(engine)
    rows = engine.pool.train
    engine.sample = lambda n, generator=None: rows[:n]  # a perfect generator
    (curves,) = marks(engine, "value")
    assert isinstance(curves, Curves)
    ceiling, v = (curve.y[-1] for curve in curves.lines)
    assert v == pytest.approx(-math.log(4), abs=1e-6)
    assert -math.log(4) <= ceiling < -math.log(4) + 0.05
    engine.sample = lambda n, generator=None: rows[:n] + 100.0  # one that is nowhere near
    engine.step_count = 1
    ceiling, v = (curve.y[-1] for curve in marks(engine, "value")[0].lines)
    # a little of p lies beyond the grid, too, where it is not told from q
    assert -0.01 < ceiling <= 1e-9 and v == pytest.approx(-math.log(4), abs=1e-6)
    undecided(engine, 2.0)
    engine.step_count = 2
    d = 1 / (1 + math.exp(-2))
    found = marks(engine, "value")[0].lines[1].y[-1]
    assert found == pytest.approx(math.log(d) + math.log(1 - d), rel=1e-5)
    assert len(marks(engine, "value")[0].lines[0].x) == 3


@pytest.mark.parametrize("name", LOSSES)
def test_a_critic_is_not_shown_as_a_probability(name):
    engine = started("ring8", loss=name, width=16)
    engine.discriminator = linear(2.0, 0.7, 5.0)
    shown = {p.id: p for p in engine.panels()}
    critic = LOSSES[name].probability is None
    assert ("f(x)" in shown["discriminator"].title) == critic
    assert ("D(x)" in shown["discriminator"].title) == (not critic)
    assert ("should" in shown["optimal"].title) == (not critic)
    assert ("log" in shown["optimal"].title) == (name == "relativistic")
    assert ("value" in shown) == LOSSES[name].plays_value
    heat = marks(engine, "discriminator")[0]
    spread = heat.values.max() - heat.values.min()
    assert (heat.hi == 0.5) == (not critic) and np.isfinite(spread)
    if name == "hinge":
        assert heat.values.mean() == pytest.approx(5, abs=1), "its zero means something"
    elif critic:
        assert abs(heat.values.mean()) < 1, "a constant is left out"


def test_what_a_relativistic_critic_should_be():
    """Where all samples lie on the right half, q = 2p: log ½ there, and far above 0 elsewhere."""
    engine = started("checkerboard", loss="relativistic", width=16)
    rows = engine.pool.train
    right = rows[rows[:, 0] > 0]
    engine.sample = lambda n, generator=None: right[:n]
    (heat,) = marks(engine, "optimal")
    n = len(heat.values)
    there = np.nanmedian(heat.values[:, n // 2 + 6 :])
    assert there == pytest.approx(math.log(0.5), abs=0.1)
    assert there != pytest.approx(math.log(2), abs=0.5)  # wrong twin: log q/p
    assert np.nanmedian(heat.values[:, : n // 2 - 6]) > 3


def test_in_packs_no_plain_value_is_claimed():
    ids = {p.id: p for p in started("ring8", pack=2, width=16).panels()}
    assert "value" not in ids and "beside 1 of the samples" in ids["discriminator"].subtitle
