"""InfoGAN: the bound on mutual information against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from engines import BadInput, Experiment
from engines.info import InfoGAN
from engines.info.information import (
    NARROWEST,
    Codes,
    Read,
    agreement,
    category_terms,
    continuous_terms,
    estimate,
    known_classes,
    split,
)
from engines.marks import Heat, Images, Paths, Points


def started(dataset: str = "ring8soft", seed: int = 0, **knobs) -> InfoGAN:
    return Experiment(dataset, "infogan", seed, knobs).start("cpu").engine


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


NONE = torch.zeros(0, 0)


def channel(error: float, k: int, n: int = 40_000) -> tuple[Tensor, Tensor, float]:
    """The true p(c|x) of a channel that reads a wrong code with chance `error`, the code that was
    given, and I(c; x) in nats, exactly."""
    given = torch.randint(k, (n,), generator=rng(1))
    slip = torch.rand(n, generator=rng(2)) < error
    shift = torch.randint(1, k, (n,), generator=rng(3))
    seen = torch.where(slip, (given + shift) % k, given)
    p = torch.full((n, k), error / (k - 1)).double()
    p[torch.arange(n), seen] = 1 - error
    exact = math.log(k) + (1 - error) * math.log(1 - error) + error * math.log(error / (k - 1))
    return p.log(), given, exact


def test_a_perfect_code_is_worth_its_entropy_and_never_more():
    for k in (2, 8, 25):
        c = torch.randint(k, (500,), generator=rng())
        sure = Read(40 * torch.nn.functional.one_hot(c, k).double(), NONE, NONE)
        found = estimate(category_terms(sure, c))
        assert found.value == pytest.approx(math.log(k), abs=1e-9)
        # whatever the reader believes, and however the codes are given: never above H(c)
        anything = Read(5 * torch.randn(500, k, generator=rng(4)).double(), NONE, NONE)
        assert (category_terms(anything, c) <= math.log(k)).all()
        # the wrong twin without H(c): a perfect code would be worth nothing
        assert abs((category_terms(sure, c) - math.log(k)).mean()) < 1e-9


@pytest.mark.parametrize("error", [0.02, 0.3])
def test_the_bound_is_tight_for_the_true_reader_and_below_for_others(error):
    log_p, given, exact = channel(error, 8)
    found = estimate(category_terms(Read(log_p, NONE, NONE), given))

    def agrees(value: float) -> bool:
        return abs(value - exact) < 4 * found.se

    assert agrees(found.value)
    assert not agrees(found.value - math.log(8)), "the wrong twin: without H(c)"
    bold = estimate(category_terms(Read(1.6 * log_p, NONE, NONE), given))
    shy = estimate(category_terms(Read(0.4 * log_p, NONE, NONE), given))
    assert bold.value < exact and shy.value < exact, "another reader finds less"


def test_a_guess_is_worth_nothing():
    c = torch.randint(10, (1000,), generator=rng())
    found = estimate(category_terms(Read(torch.zeros(1000, 10), NONE, NONE), c))
    assert found.value == pytest.approx(0, abs=1e-6) and found.se < 1e-6


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_a_linear_gaussian_channel(noise):
    """x = u + s ε with u ~ U(−1, 1). With the reader N(x, s²), L = h(u) − ½ log 2πe s².

    I(u; x) = h(x) − h(ε) lies above it, by quadrature of h(x), and close while s is small.
    """
    u = 2 * torch.rand(100_000, 1, generator=rng()).double() - 1
    x = u + noise * torch.randn(100_000, 1, generator=rng(1)).double()
    read = Read(torch.zeros(len(u), 2), x, torch.full_like(x, math.log(noise)))
    found = estimate(continuous_terms(read, u))
    right = math.log(2) - 0.5 * math.log(2 * math.pi * math.e * noise**2)
    at = torch.linspace(-1 - 8 * noise, 1 + 8 * noise, 20_001).double()
    p = (torch.special.ndtr((at + 1) / noise) - torch.special.ndtr((at - 1) / noise)) / 2
    entropy = float(torch.special.entr(p).sum() * (at[1] - at[0]))
    information = entropy - 0.5 * math.log(2 * math.pi * math.e * noise**2)

    def agrees(value: float) -> bool:
        return abs(value - right) < 4 * found.se

    assert agrees(found.value) and found.value < information
    assert information - found.value < 2 * noise
    assert not agrees(found.value - math.log(2)), "the wrong twin: without h(u)"
    flat = continuous_terms(read._replace(log_std=read.log_std * 0), u)
    assert not agrees(float(flat.mean())), "the wrong twin: another width"


def test_two_codes_tell_the_sum_and_guesses_are_not_too_narrow():
    out = torch.tensor([[0.0, 0.0, 0.3, -0.2, -50.0, 0.1]])
    read = split(out, 2)
    assert torch.equal(read.mean, torch.tensor([[0.3, -0.2]]))
    assert read.log_std.tolist()[0] == pytest.approx([NARROWEST, 0.1])
    u = torch.tensor([[0.25, 0.5]])
    normal = torch.distributions.Normal(read.mean, read.log_std.exp())
    assert torch.allclose(continuous_terms(read, u), normal.log_prob(u).sum(1) + 2 * math.log(2))


def test_agreement_is_that_of_scikit_learn():
    a = torch.randint(6, (3000,), generator=rng())
    b = torch.where(torch.rand(3000, generator=rng(1)) < 0.3, a // 2, a)
    assert agreement(a, b) == pytest.approx(normalized_mutual_info_score(a, b), abs=1e-12)
    assert agreement(a, 5 - a) == pytest.approx(1), "whatever they are called"
    assert agreement(a, torch.randint(6, (3000,), generator=rng(2))) < 0.02
    assert agreement(a * 0, a * 0) == 1.0


# ---------------------------------------------------------------- the model


def test_codes_are_drawn_as_their_entropy_says():
    engine = started(categories=6, continuous=3, loudness=2.0)
    codes = engine.codes(60_000, rng())
    assert torch.allclose(codes.category.bincount().double() / 60_000, torch.full((6,), 1 / 6).double(), atol=0.006)  # fmt: skip
    assert codes.continuous.shape == (60_000, 3) and float(codes.continuous.abs().max()) <= 1
    assert float(codes.continuous.var()) == pytest.approx(1 / 3, abs=0.005)
    parts = engine.inputs(codes).split([6, 3, engine.latent], 1)
    assert torch.equal(parts[0].argmax(1), codes.category) and (parts[0].sum(1) == 2).all()
    assert torch.equal(parts[1], 2 * codes.continuous) and torch.equal(parts[2], codes.noise)


def test_the_metric_is_the_bound_on_the_samples_shown():
    engine = Experiment("ring8soft", "infogan").start("cpu").train(steps=60).engine
    with engine.still(stream=1), torch.no_grad():
        x, codes = engine.coded(2000)
        logits = engine.reader((x - engine._mean) / engine._std)[:, :10]
    with engine.still(stream=1):
        found = {m.name: m for m in engine.metrics()}["information"]
    right = math.log(10) - float(torch.nn.functional.cross_entropy(logits, codes.category))
    assert found.value == pytest.approx(right, abs=1e-5)
    assert found.floor == pytest.approx(math.log(10))
    assert found.value != pytest.approx(right - math.log(10), abs=0.1), "the wrong twin"


def test_the_reader_learns_at_any_weight_and_the_generator_is_paid_by_it():
    """With λ = 0 the generator's step is that of a game without a reader."""
    plain, paid = started(information=0.0), started(information=2.0)
    before = [p.clone() for p in plain.reader.parameters()]
    for engine in (plain, paid):
        engine.step()
    assert not torch.equal(before[0], next(plain.reader.parameters()))
    a, b = (next(e.generator.parameters()) for e in (plain, paid))
    assert not torch.equal(a, b)
    moved = started(information=0.0)
    with torch.no_grad():
        for p in moved.reader.parameters():
            p.mul_(3)
    moved.step()
    assert torch.equal(a, next(moved.generator.parameters())), "whatever the reader thinks"


def test_data_are_read_and_classes_only_looked_up():
    assert known_classes(started("swissroll").pool, 100) is None
    rows, classes = known_classes(started("digits").pool, 100)
    assert rows.shape == (100, 64) and classes.shape == (100,)
    engine = started()
    assert int(engine.code_of(engine.pool.test[:500]).max()) < 10


def test_what_is_not_of_the_plane_is_refused():
    with pytest.raises(BadInput, match=r"InfoGAN.*\.$"):
        Experiment("walk", "infogan")


def drawn(engine: InfoGAN) -> dict:
    with torch.no_grad(), engine.still():
        return {p.id: p.drawn() for p in engine.panels()}


def test_pictures_of_the_plane():
    engine = started(categories=5)
    panels = drawn(engine)
    cloud = panels["model"].marks[1]
    assert isinstance(cloud, Points) and set(np.unique(cloud.group)) == set(range(5))
    sweep = panels["sweep"].marks[1]
    assert isinstance(sweep, Paths) and sweep.xy.shape == (15, 41, 2)
    told = panels["told"].marks[0]
    assert isinstance(told, Heat) and np.allclose(told.values[::8, ::8].sum(0), 1, atol=1e-5)
    assert "sweep" not in drawn(started(continuous=0))


def test_a_sweep_changes_one_code_alone():
    engine = started("digits", categories=4)
    with torch.no_grad(), engine.still():
        sheet = next(p for p in engine.panels() if p.id == "codes").drawn().marks[0]
    assert isinstance(sheet, Images) and sheet.pixels.shape == (40, 8, 8)
    with engine.still():
        z = engine.randn(1, 1, 1, engine.latent).view(1, -1)
    one = Codes(torch.tensor([2]), torch.tensor([[-1.0, 0.0]]), z)
    right = (engine.decode(one) / 17).clamp(0, 1).view(8, 8)
    assert np.allclose(sheet.pixels[20], right.numpy(), atol=1e-6)
    assert not np.allclose(sheet.pixels[20], sheet.pixels[29], atol=1e-4)
