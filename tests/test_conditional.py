"""Conditional GAN: classes by place, exact p(x|y), the projection, and what judges pictures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons
from torch import Tensor

from engines import DATASETS, BadInput, Experiment
from engines.cells import centres
from engines.classes import MOST, Classes, quarter
from engines.conditional import Conditional
from engines.conditional.networks import Concatenation, Projection
from engines.conditional.pictures import conditional_field
from engines.data.images import digits
from engines.judge import obeyed, taught
from engines.marks import Bars, Heat, Images, Points
from engines.metrics import nearest_ratio
from engines.pictures import exact_field


def started(dataset: str = "ring8soft", seed: int = 0, **knobs) -> Conditional:
    return Experiment(dataset, "conditional_gan", seed, knobs).start("cpu").engine


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- classes


def made(dataset: str) -> tuple[np.ndarray, np.ndarray]:
    """4,000 points of a dataset with the part that each was made from, by its own formula."""
    n, draw = 4000, np.random.default_rng(0)
    if dataset == "moons":
        x, part = make_moons(n, noise=0.1, random_state=0)
        return 2 * x + [-1.0, -0.2], part
    if dataset == "rings":
        part, turn = draw.integers(4, size=n), draw.uniform(0, 2 * math.pi, n)
        radius = np.array([3, 2.25, 1.5, 0.75])[part]
        x = radius[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)
        return x + 0.08 * draw.normal(size=(n, 2)), part
    if dataset == "spirals":
        part, t = draw.integers(2, size=n), 3 * math.pi * np.sqrt(draw.uniform(size=n))
        strip = np.stack([-t * np.cos(t), t * np.sin(t)], 1) + draw.uniform(0, 0.5, (n, 2))
        x = (1 - 2 * part)[:, None] * strip / 3 + 0.1 * draw.normal(size=(n, 2))
        return x, part
    if dataset == "pinwheel":
        part, f = draw.integers(5, size=n), draw.normal(size=(n, 2)) * [0.3, 0.1] + [1, 0]
        a = 2 * math.pi / 5 * part + 0.25 * np.exp(f[:, 0])
        turn = np.stack([np.cos(a), -np.sin(a), np.sin(a), np.cos(a)], 1).reshape(n, 2, 2)
        return 2 * np.einsum("ni,nij->nj", f, turn), part
    if dataset == "checkerboard":
        part = draw.integers(8, size=n)
        row = 2 * (part % 2) + part // 2 % 2
        return 2 * np.stack([part // 2, row], 1) - 4 + 2 * draw.uniform(size=(n, 2)), part
    part, turn = draw.integers(8, size=n), math.pi / 4
    centre = 2 * np.stack([np.cos(turn * part), np.sin(turn * part)], 1)
    return centre + 0.02 * draw.normal(size=(n, 2)), part


def purity(found: Tensor, part: np.ndarray) -> float:
    """Share of the rows whose class is the commonest in their part."""
    return sum(np.bincount(found.numpy()[part == k]).max() for k in np.unique(part)) / len(part)


@pytest.mark.parametrize("name", ["ring8", "moons", "rings", "spirals", "pinwheel", "checkerboard"])
def test_a_class_is_the_part_that_a_point_was_made_from(name):
    x, part = made(name)
    dataset = DATASETS[name]()
    found = dataset.classify(torch.from_numpy(x).float())
    assert len(found.unique()) == len(np.unique(part)), "no two parts are one class"
    # noise takes a few points nearer to another part
    assert purity(found, part) > 0.97
    flipped = dataset.classify(torch.from_numpy(x[:, ::-1] * [1.3, 0.7]).float())
    if name not in ("ring8", "rings"):  # those are round
        assert purity(flipped, part) < 0.97, "the wrong twin: another plane"


def test_every_plane_has_classes_and_the_shares_that_its_rows_have():
    for name, kind in DATASETS.items():
        if kind.kind != "plane":
            continue
        engine = started(name)
        found = engine.classes
        assert 2 <= found.count <= MOST and float(found.shares.sum()) == pytest.approx(1)
        assert torch.equal(found.of(engine.pool.train), found.labels)
    shares = started("unbalanced").shares[:8]
    assert torch.allclose(shares, DATASETS["unbalanced"]().weights.float(), atol=0.01)
    drawn = started("unbalanced").classes.draw(20_000, rng()).bincount(minlength=8) / 20_000
    assert torch.allclose(drawn, shares, atol=0.015)
    assert not torch.allclose(drawn, torch.full((8,), 1 / 8), atol=0.015)


def test_the_classes_asked_for_follow_other_data():
    run = Experiment("ring8soft", "conditional_gan").start("cpu").train(steps=2)
    before = run.engine.shares.clone()
    run.feed(run.experiment.but(dataset="moons"))
    assert torch.equal(run.engine.shares, before), "the model has not learnt anything yet"
    run.train(steps=150)
    after = run.engine.shares
    assert float(after.sum()) == pytest.approx(1, abs=1e-4)
    assert torch.allclose(after[:2], torch.tensor([0.5, 0.5]), atol=0.01)
    assert float(after[2:].max()) < 1e-3 < float(before[2:8].min())


def test_quarters_go_round_the_middle():
    x = torch.tensor([[2.0, 2.0], [0.0, 2.0], [0.0, 0.0], [2.0, 0.0]])
    assert quarter(x, torch.tensor([1.0, 1.0])).tolist() == [0, 1, 2, 3]


def test_pictures_have_their_labels():
    engine = started("digits")
    assert engine.classes.count == 10 and not engine.classes.places
    assert torch.equal(engine.classes.labels, digits()["train"][1])
    with pytest.raises(ValueError, match="label"):
        engine.classes.of(engine.pool.test)


@pytest.mark.parametrize("name", ["walk", "corners", "line"])
def test_what_has_no_classes_is_refused_in_a_sentence(name):
    with pytest.raises(BadInput, match=r"told classes.*\.$"):
        Experiment(name, "conditional_gan")


# ---------------------------------------------------------------- p(x|y)


def test_the_exact_density_of_a_class():
    """Of two Gaussians that do not touch, p(x|y) is one of them."""
    dataset = DATASETS["two_gaussians"](distance=6.0, width_left=0.4, width_right=0.4, weight=0.3)
    classes = Classes(dataset.pool(0), torch.zeros(2))
    n = 100
    x = centres(dataset.extent, n).double()
    cell = (dataset.extent[1] - dataset.extent[0]) ** 2 / n**2
    left = conditional_field(dataset, classes, int(classes.of(torch.tensor([[-3.0, 0.0]]))))
    density = torch.distributions.Normal(0.0, 0.4).log_prob(x + torch.tensor([3.0, 0.0])).sum(1)

    def agrees(field: np.ndarray) -> bool:
        whole = field.sum() * cell
        centre = (field.reshape(-1, 1) * x.numpy()).sum(0) * cell
        far = np.abs(field.reshape(-1) - density.exp().numpy()).sum() * cell
        return abs(whole - 1) < 1e-5 and np.allclose(centre, [-3, 0], atol=1e-3) and far < 0.05

    assert agrees(left)
    assert not agrees(0.3 * left), "the wrong twin: p(x, y)"
    assert not agrees(exact_field(dataset)), "the wrong twin: p(x)"


def test_classes_make_up_the_whole():
    dataset = DATASETS["moons"]()
    classes = Classes(dataset.pool(0), torch.zeros(2))
    shares = [float(classes.shares[k]) for k in range(2)]
    parts = [conditional_field(dataset, classes, k) for k in range(2)]
    whole = sum(s * part for s, part in zip(shares, parts, strict=True))
    assert np.abs(whole - exact_field(dataset)).max() < 0.01 * whole.max()


# ---------------------------------------------------------------- the players


def leaky(v: Tensor) -> Tensor:
    return torch.where(v > 0, v, 0.2 * v)


def test_the_projection_is_its_formula():
    net = Projection(2, 16, 2, rng()).double()
    x, y = torch.randn(50, 2, generator=rng(1)).double(), torch.arange(50) % MOST
    first, second = net.net.body[0], net.net.body[2]
    phi = leaky(leaky(x @ first.weight.T + first.bias) @ second.weight.T + second.bias)
    head = phi @ net.net.head.weight[0] + net.net.head.bias
    right = head + torch.einsum("nw,nw->n", net.code[y], phi)
    logit = net(x, y)[:, 0]
    assert torch.allclose(logit, right, atol=1e-12)
    assert not torch.allclose(logit, head, atol=1e-3), "the wrong twin: nobody told D"
    shifted = head + torch.einsum("nw,nw->n", net.code[(y + 1) % MOST], phi)
    assert not torch.allclose(logit, shifted, atol=1e-3), "the wrong twin: another class"


def test_the_best_projection_is_the_ratio_of_two_gaussian_classes():
    """With φ(x) = x, p(x|y) = N(m_y, I) and q(x|y) = N(0, I): logit = m_y·x − |m_y|²/2."""
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    x = torch.randn(4000, 2, generator=rng(2))
    normal = torch.distributions.MultivariateNormal
    for y, mean in enumerate(means):
        ratio = normal(mean, torch.eye(2)).log_prob(x) - normal(
            torch.zeros(2), torch.eye(2)
        ).log_prob(x)
        net = Projection(2, 2, 0, rng())
        with torch.no_grad():  # no hidden layer: the features are x itself
            net.net.head.weight.zero_()
            net.net.head.bias.fill_(-0.5)
            net.code[:2] = means
        y = torch.full((len(x),), y)
        assert torch.allclose(net(x, y)[:, 0], ratio, atol=1e-4)
        assert not torch.allclose(net(x, 1 - y)[:, 0], ratio, atol=0.1), "the other class"


@pytest.mark.parametrize(("told", "listens"), [("projection", True), ("concatenation", True), ("not told", False)])  # fmt: skip
def test_d_is_told_or_not(told, listens):
    engine = started(told=told)
    x = engine.pool.test[:20]
    a, b = (engine.probability(x, torch.full((20,), k)) for k in (0, 1))
    assert torch.equal(a, b) is not listens
    assert isinstance(engine.discriminator, Concatenation) is (told == "concatenation")


def test_d_pays_half_of_r1_times_its_squared_slope_on_the_data():
    engine = started(r1=4.0)
    real, fake = torch.randn(2, 64, 2, generator=rng())
    y = torch.arange(64) % 8
    net = engine.discriminator
    weight = net.net.body[0].weight

    def slope(half: float, at: Tensor) -> Tensor:
        at = at.clone().requires_grad_()
        on_real, on_fake = net(real, y), net(fake, y)
        loss = -torch.sigmoid(on_real).log().mean() - torch.sigmoid(-on_fake).log().mean()
        (gradient,) = torch.autograd.grad(net(at, y).sum(), at, create_graph=True)
        total = loss + half * 4.0 * gradient.pow(2).sum(1).mean()
        return torch.autograd.grad(total, weight)[0]

    right, twice, samples = slope(0.5, real), slope(1.0, real), slope(0.5, fake)
    engine.duel(real.clone(), fake, y, y)
    assert torch.allclose(weight.grad, right, atol=1e-5)
    for wrong in (twice, samples):
        assert not torch.allclose(weight.grad, wrong, atol=1e-3), "a wrong twin"


def test_samples_are_asked_for_by_class_and_standardisation_is_undone():
    engine = started("digits")
    y = torch.arange(10)
    z = torch.randn(10, engine.latent, generator=rng())
    inside = engine.averaged(z, y) * engine._std + engine._mean
    assert torch.allclose(engine.decode(z, y), inside)
    with engine.still():
        a, asked = engine.labelled(40)
    with engine.still():
        b, again = engine.labelled(40)
    assert torch.equal(a, b) and torch.equal(asked, again)
    noise = a - a.mean(0)
    assert float(noise.std()) > 0.2, "with the noise that the data have"


# ---------------------------------------------------------------- the judge


def draws(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rows, labels = digits()["train"]
    index = torch.randint(len(rows), (n,), generator=rng(seed))
    return rows[index] + torch.rand(n, 64, generator=rng(seed + 1)), labels[index]


def test_real_digits_teach_and_noise_does_not():
    real, labels = digits()["test"]
    held = real + torch.rand(real.shape, generator=rng(9))
    x, y = draws(2000)
    best = taught(x, y, held, labels)
    assert best.value >= 0.98 and best.se == pytest.approx(math.sqrt(best.value * (1 - best.value) / 500))  # fmt: skip
    # the wrong twins: classes that mean nothing, and pictures of nothing
    assert taught(x, y[torch.randperm(2000, generator=rng(3))], held, labels).value < 0.25
    assert taught(17 * torch.rand(2000, 64, generator=rng(4)), y, held, labels).value < 0.35
    one = taught(x, torch.full((2000,), 3), held, labels)
    assert one.value == pytest.approx(float((labels == 3).float().mean()))
    assert math.isnan(taught(x * math.nan, y, held, labels).value)


def test_copies_teach_as_well_and_are_found_out_by_their_neighbours():
    real, labels = digits()["test"]
    train, mine = digits()["train"]
    held = real + torch.rand(real.shape, generator=rng(9))
    assert taught(train + 0.5, mine, held, labels).value >= 0.97
    assert nearest_ratio(train[:500] + 0.5, train + 0.5, held).value == 0
    unseen = digits()["val"][0] + torch.rand(200, 64, generator=rng(5))
    assert nearest_ratio(unseen, train + 0.5, held).value == pytest.approx(1, abs=0.06)
    assert nearest_ratio(17 * torch.rand(500, 64, generator=rng(6)), train + 0.5, held).value > 2


def test_obeyed_is_a_share():
    found = obeyed(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 0]))
    assert found.value == 0.75 and found.se == pytest.approx(math.sqrt(0.75 * 0.25 / 4))


# ---------------------------------------------------------------- what is shown


def test_samples_are_coloured_by_what_was_asked_for():
    engine = started()
    with torch.no_grad(), engine.still():
        panels = {p.id: p.drawn() for p in engine.panels()}
    cloud = panels["model"].marks[1]
    assert isinstance(cloud, Points) and set(np.unique(cloud.group)) == set(range(8))
    data = panels["truth"].marks[-1]
    assert np.array_equal(data.group, engine.classes.of(torch.from_numpy(data.xy)).numpy())
    assert isinstance(panels["one"].marks[0], Heat)
    assert isinstance(panels["obeyed"].marks[0], Bars)
    assert panels["one"].title == "Class 0 alone"
    engine.shown_class = 24
    assert {p.title for p in engine.panels()} >= {"Class 7 alone"}, "the last there is"


def test_digits_have_a_row_for_each_class_and_a_noise_for_each_column():
    engine = started("digits")
    with torch.no_grad(), engine.still():
        sheet = next(p for p in engine.panels() if p.id == "classes").drawn().marks[0]
    assert isinstance(sheet, Images) and sheet.pixels.shape == (100, 8, 8) and sheet.columns == 10
    with engine.still():
        z = engine.randn(10, engine.latent)
    row = engine.decode(z, torch.full((10,), 3)).reshape(10, 8, 8) / 17
    assert np.allclose(sheet.pixels[30:40], row.clamp(0, 1).numpy(), atol=1e-6)
    assert {p.name for p in engine.probes()} == {"taught"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_digits_are_learnt(seed):
    run = Experiment("digits", "conditional_gan", seed).start("cpu").train(steps=1500)
    values = {m.name: m.value for m in run.measure()}
    assert values["taught"] > 0.95 and 0.9 < values["nn_ratio"] < 1.15


def test_fresh_rows_are_learnt_from_with_their_classes():
    """Past the training rows, D sees rows that it never saw, told the classes of their places."""
    run = Experiment("ring8", "conditional_gan").start("cpu")
    pool, engine = run.pool, run.engine

    def known(x):
        """Share of rows that are training rows, but for rounding."""
        from_each = torch.cdist(
            engine.unstandardise(x), pool.train, compute_mode="donot_use_mm_for_euclid_dist"
        )
        return float((from_each.amin(1) < 1e-5).float().mean())

    x, y = engine.told_rows()
    assert known(x) == 1 and torch.equal(y, engine.classes.of(engine.unstandardise(x)))
    pool.turn(pool.EVERY)
    x, y = engine.told_rows()
    assert known(x) < 0.1
    told = engine.classes.of(engine.unstandardise(x))
    assert torch.equal(y, told)
    assert not torch.equal(y, told.roll(1)), "wrong twin: another row's class"
