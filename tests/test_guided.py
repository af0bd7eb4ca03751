"""Guided diffusion: exact guidance in closed form, dropped labels, and what guidance costs."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch

from engines import DATASETS, BadInput, Experiment
from engines.classes import MOST, Classes
from engines.data.images import digits
from engines.data.own import Ellipses
from engines.diffusion.samplers import walk
from engines.diffusion.schedules import make_schedule
from engines.guided import ClassPath, Guided, numbers
from engines.guided.exact import guide
from engines.marks import Curves, Images, Points


def started(dataset: str = "two_gaussians", seed: int = 0, **knobs) -> Guided:
    return Experiment(dataset, "guided_diffusion", seed, {"width": 16, **knobs}).start("cpu").engine


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def awake(engine: Guided) -> Guided:
    """The engine with a last layer that is not 0, so that what goes in can be seen."""
    with torch.no_grad():
        for net in (engine.net, engine.average.module):
            net.out.weight.normal_(generator=rng(7))
    return engine


# ---------------------------------------------------------------- exact guidance

M, WIDTH = 2.0, 0.5  # two Gaussians at ∓M with this width, of equal weight


def two() -> tuple:
    dataset = DATASETS["two_gaussians"](distance=2 * M, width_left=WIDTH, width_right=WIDTH)
    mean, scale = torch.tensor([0.3, -0.2]), 1.7
    pool = dataset.pool(0)
    return dataset, Classes(pool, mean), mean, scale


def closed(z: torch.Tensor, a: float, sigma: float, w: float, mean, scale) -> torch.Tensor:
    """(1 − w) s(z) + w s(z|right) of the two Gaussians in noise, z in standardised units."""
    centre = (
        a * (torch.tensor([M, 0.0]) - mean) / scale,
        a * (torch.tensor([-M, 0.0]) - mean) / scale,
    )
    v = (a * WIDTH / scale) ** 2 + sigma**2
    pull = [(c - z) / v for c in centre]
    log_odds = ((z - centre[1]).square().sum(1) - (z - centre[0]).square().sum(1)) / (2 * v)
    right = torch.sigmoid(log_odds)[:, None]
    return (1 - w) * (right * pull[0] + (1 - right) * pull[1]) + w * pull[0]


@pytest.mark.parametrize("w", [0.0, 1.0, 3.0])
def test_the_guided_score_of_two_gaussians(w):
    dataset, classes, mean, scale = two()
    path = ClassPath(dataset, classes, mean, scale)
    assert path.exact
    k = int(classes.of(torch.tensor([[M, 0.0]])))
    z = torch.randn(50, 2, generator=rng(1), dtype=torch.float64)
    for a, sigma in ((1.0, 0.4), (0.6, 0.8), (1.0, 5.0)):
        x0 = path.guided(z, a, sigma, k, w)
        score = (a * x0 - z) / sigma**2
        assert torch.allclose(score, closed(z, a, sigma, w, mean, scale), atol=1e-5)
        # its wrong twins: the other sign of guidance, and w counted from 0 as in the paper
        if w != 1:
            assert not torch.allclose(score, closed(z, a, sigma, 2 - w, mean, scale), atol=0.01)
        assert not torch.allclose(score, closed(z, a, sigma, w + 1, mean, scale), atol=0.01)


def test_classes_known_by_their_cells_are_nearly_those_known_in_closed_form():
    dataset, classes, mean, scale = two()
    path = ClassPath(dataset, classes, mean, scale)
    cells = ClassPath(dataset, classes, mean, scale)
    cells.exact = False
    k = int(classes.of(torch.tensor([[M, 0.0]])))
    rows = dataset.sample(400, rng(1))
    rows = (rows[classes.of(rows) == k].double() - mean) / scale
    noise = torch.randn(rows.shape, generator=rng(1), dtype=torch.float64)
    for sigma in (0.1, 0.3, 1.0, 5.0):
        z = rows + sigma * noise
        for which in (None, k):
            right, found = (p.denoised(z, 1.0, sigma, which) for p in (path, cells))
            assert (found - right).abs().max() < 0.01
        # its wrong twin: the other class
        assert (cells.denoised(z, 1.0, sigma, 1 - k) - right).abs().max() > 0.5


def test_classes_that_touch_are_known_by_their_cells():
    assert ClassPath.known(DATASETS["moons"]()) and not ClassPath.known(DATASETS["digits"]())
    for name in ("moons", "checkerboard"):
        engine = started(name)
        assert not engine.path.exact
        x = engine.ideal(0, 1.0, 200)
        # at w = 1 exact guidance gives the class itself
        assert float((engine.classes.of(x) == 0).float().mean()) > 0.97
        mine = engine.pool.train[engine.classes.labels == 0]
        assert (x.mean(0) - mine.mean(0)).abs().max() < 0.25


def test_exact_guidance_samples_the_class_and_then_overshoots():
    engine = started()
    k = int(engine.classes.of(torch.tensor([[M, 0.0]])))
    x = {w: engine.ideal(k, w, 1000) for w in (0.0, 1.0, 3.0)}
    one = x[1.0]
    assert (one.mean(0) - torch.tensor([M, 0.0])).abs().max() < 4 * WIDTH / math.sqrt(1000)
    assert float(one.std(0).mean()) == pytest.approx(WIDTH, rel=0.05)
    # w = 0 knows of no class; w = 3 leaves the class away from the other, and is narrower
    assert abs(float(x[0.0][:, 0].mean())) < 0.25
    assert float(x[3.0][:, 0].mean()) > M + 0.3 * WIDTH
    assert float(x[3.0][:, 0].std()) < 0.8 * WIDTH
    # along x₂ the two classes are alike, and guidance does nothing
    assert float(x[3.0][:, 1].std()) == pytest.approx(WIDTH, rel=0.08)


def test_guidance_is_not_a_power_of_the_class():
    """The widely told p(x|y)^w p(x)^(1−w) is not what the samples have, even by exact scores."""
    dataset, *_ = two()
    engine = started()
    k = int(engine.classes.of(torch.tensor([[M, 0.0]])))
    right = Ellipses([[M, 0.0]], [[WIDTH, WIDTH]], [0.0], [1.0])
    grid = torch.linspace(-4.5, 4.5, 901, dtype=torch.float64)
    x = torch.stack([grid, torch.zeros_like(grid)], 1)
    tilted = (3 * right.log_prob(x) - 2 * dataset.log_prob(x)).softmax(0)
    power = float((tilted * grid).sum())
    found = float(engine.ideal(k, 3.0, 1000)[:, 0].mean())
    assert found - power > 0.2 * WIDTH


# ---------------------------------------------------------------- the network, told or not


def test_w_of_1_is_the_class_and_w_of_0_is_nobody():
    engine = awake(started())
    z = torch.randn(20, 2, generator=rng(1))
    y, t = torch.ones(20, dtype=torch.long), 0.7
    with torch.no_grad():
        free, told = engine.denoise(z, t), engine.denoise(z, t, y)
        assert not torch.allclose(free, told, atol=1e-3)
        assert torch.equal(engine.guided(z, t, y, 1.0), told)
        assert torch.equal(engine.guided(z, t, y, 0.0), free)
        assert torch.allclose(engine.guided(z, t, y, 3.0), free + 3 * (told - free), atol=1e-5)
        nobody = torch.full((20,), MOST)
        assert torch.allclose(engine.denoise(z, t, nobody), free)
        # told is what no sample of another class follows
        assert not torch.allclose(engine.guided(z, t, 1 - y, 1.0), told, atol=1e-3)
    a, b = torch.randn(2, 5, 2, generator=rng(2))
    assert torch.allclose(guide(a, b, 0.5), (a + b) / 2, atol=1e-6)


def test_out_of_its_interval_w_is_1():
    engine = awake(started(guidance=4.0, guide_low=0.1, guide_high=2.0))
    assert [engine.weight(t) for t in (0.05, 0.5, 3.0)] == [1.0, 4.0, 1.0]
    assert [engine.weight(t, 2.0) for t in (0.05, 0.5, 3.0)] == [1.0, 2.0, 1.0]
    whole = started(guidance=4.0)
    noising = whole.noising
    assert {whole.weight(t) for t in noising.times(20)} == {4.0}, "both ends included"
    with torch.no_grad():
        z, y = torch.randn(9, 2, generator=rng(1)), torch.zeros(9, dtype=torch.long)
        assert torch.equal(engine.guided(z, 3.0, y), engine.denoise(z, 3.0, y))
        assert not torch.allclose(engine.guided(z, 0.5, y), engine.denoise(z, 0.5, y), atol=1e-3)


@pytest.mark.parametrize(("dropout", "share"), [(0.0, 0.0), (1.0, 1.0), (0.15, 0.15)])
def test_so_many_labels_are_dropped(dropout, share):
    engine = started(dropout=dropout)
    y = torch.arange(20_000) % 2
    found = engine.dropped(y)
    lost = found == MOST
    assert float(lost.float().mean()) == pytest.approx(share, abs=0.01)
    assert torch.equal(found[~lost], y[~lost])
    before = engine.net.code.detach().clone()
    engine.step()
    engine.step()
    moved = (engine.net.code != before).any(1)
    assert bool(moved[MOST]) is (dropout > 0), "what no class is learns from dropped labels alone"
    assert bool(moved[:2].any()) is (dropout < 1), "what a class is learns from told ones alone"


def test_rows_are_told_their_own_class():
    for name in ("ring8soft", "digits"):
        engine = started(name, dropout=0.0)
        seen = []
        engine.loss = lambda z, y, seen=seen: (
            seen.append((z, y)) or torch.zeros((), requires_grad=True)
        )
        engine.batch_loss()
        z, y = seen[0]
        x = engine.unstandardise(z)
        if engine.classes.places:
            assert torch.equal(engine.classes.of(x), y)
            continue
        rows, labels = digits()["train"]
        index = torch.cdist(x.floor(), rows).argmin(1)
        assert torch.equal(labels[index], y)
        assert not torch.equal(labels[index].roll(1), y), "a wrong twin: the labels of others"


def test_few_points_are_validated_with_their_classes():
    xy = np.random.default_rng(0).normal(size=(400, 2)) * [2.0, 0.5]
    run = Experiment.from_points(xy, "guided_diffusion", knobs={"width": 16}).start("cpu")
    engine = awake(run.engine)
    before = float(engine.validate())
    assert torch.equal(engine.classed(engine.pool.val), engine.classes.of(engine.pool.val))
    with torch.no_grad():  # what nobody is told says nothing here; what a class is told does
        engine.average.module.code[MOST] += 1
        assert float(engine.validate()) == before
        engine.average.module.code[:4] += 1
        assert float(engine.validate()) != before
    run.train(steps=21)
    assert engine.kept.found and engine.shown is engine.kept.module
    assert torch.isfinite(run.sample(20)).all() and run.frame().panels


def test_samples_come_with_the_class_that_was_asked_for():
    engine = awake(started("ring8soft", guidance=2.0, steps=5))
    with engine.still():
        x, y = engine.labelled(300)
    with engine.still():
        again, same = engine.labelled(300)
    assert torch.equal(x, again) and torch.equal(y, same) and x.shape == (300, 2)
    # by the very walk, from the very noise
    with engine.still():
        asked = engine.draw_classes(300)
        z = engine.noise(300)
        *_, end = walk("DPM-Solver++", partial(engine.guided, y=asked), engine.noising, 5, z)
    scale = engine.noising.at(engine.noising.low)[0]
    assert torch.equal(asked, y) and torch.allclose(x, engine.unstandardise(end / scale))
    assert engine.asks == 2 and started(guidance=1.0).asks == 1
    assert torch.isfinite(engine.sample(50, steps=3, sampler="DDPM")).all()


# ---------------------------------------------------------------- numbers


def test_spread_and_shift_of_known_rows():
    y = torch.arange(6000) % 3
    centre = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    radius = torch.tensor([1.0, 0.5, 0.1])
    noise = torch.randn(6000, 2, generator=rng())
    true = numbers.places(centre[y] + radius[y, None] * noise, y, 3)
    assert torch.allclose(true.mean, centre.double(), atol=0.1)
    assert torch.allclose(true.square, 2 * radius.double() ** 2, rtol=0.1)
    half = numbers.places(centre[y] + 0.5 * radius[y, None] * noise, y, 3)
    assert numbers.spread(half, true) == pytest.approx(0.5, abs=0.01)
    assert numbers.spread(true, true) == 1 and numbers.shift(true, true) == 0
    # each class by its own radius √2 σ, sideways
    away = centre[y] + radius[y, None] * (noise + torch.tensor([math.sqrt(2), 0.0]))
    moved = numbers.places(away, y, 3)
    assert numbers.shift(moved, true) == pytest.approx(1, abs=0.02)
    assert numbers.spread(moved, true) == pytest.approx(1, abs=0.01), "about its own mean"
    # its wrong twin: rows that are told another class
    wrong = numbers.places(away, y[torch.randperm(6000, generator=rng(1))], 3)
    assert numbers.spread(wrong, true) > 3


def test_the_data_themselves_have_spread_1_on_pixels_too():
    engine = started("digits")
    pool, true = engine.pool, numbers.truth(engine)
    x = pool.rows(torch.arange(len(pool.train)), rng())
    found = numbers.places(x, pool.labels, 10)
    assert numbers.spread(found, true) == pytest.approx(1, abs=0.005)
    assert numbers.shift(found, true) < 0.05
    assert [p.name for p in numbers.probes(engine)] == ["told", "taught"]


def test_what_is_shown():
    engine = started("ring8soft", steps=4, guidance=2.0)
    with torch.no_grad(), engine.still():
        panels = {p.id: p.drawn() for p in engine.panels()}
    cloud = panels["model"].marks[1]
    assert isinstance(cloud, Points) and set(np.unique(cloud.group)) == set(range(8))
    assert panels["one"].title == "Class 0, w = 2"
    assert panels["ideal"].marks[-1].role == "truth"
    lines = next(m for m in panels["by_weight"].marks if isinstance(m, Curves)).lines
    assert [line.name for line in lines if line.dash] == [
        "spread, exact guidance", "shift, exact guidance",
    ]  # fmt: skip
    spread = next(line for line in lines if line.name == "spread, exact guidance")
    assert spread.y[0] == pytest.approx(1, abs=0.15) and spread.y[-1] < 0.6
    engine = started("digits", steps=3)
    with torch.no_grad(), engine.still():
        panels = {p.id: p.drawn() for p in engine.panels()}
    for name, n in (("classes", 100), ("more", 50)):
        sheet = panels[name].marks[0]
        assert isinstance(sheet, Images) and len(sheet.pixels) == n and sheet.columns == 10


@pytest.mark.parametrize("name", ["walk", "corners", "line"])
def test_what_has_no_classes_is_refused_in_a_sentence(name):
    with pytest.raises(BadInput, match=r"has classes.*\.$"):
        Experiment(name, "guided_diffusion")


def test_schedules_do_not_change_what_exact_guidance_is():
    """Noise, clock and scale are the process's own; the samples are the data's."""
    engine = started()
    k = int(engine.classes.of(torch.tensor([[M, 0.0]])))
    wanted = engine.ideal(k, 3.0, 400).mean(0)
    for process in ("VP", "VE"):
        other = started(process=process, schedule="cosine")
        assert make_schedule(process, "cosine").high == other.noising.high
        assert (other.ideal(k, 3.0, 400).mean(0) - wanted).abs().max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_digits_are_learnt(seed):
    run = Experiment("digits", "guided_diffusion", seed).start("cpu").train(steps=2000)
    values = {m.name: m.value for m in run.measure()}
    assert values["taught"] > 0.95 and 0.9 < values["nn_ratio"] < 1.5
