"""Generative adversarial network: closed forms of the game as oracles.

Each check is a function that a wrong twin (a flipped sign, a missing half …) must fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from torch import Tensor

from engines import Experiment
from engines.gan import GAN, LOSSES, Loss, minimax, non_saturating, squared_slope, value
from engines.marks import Arrows
from tests.gans import (
    PLAIN,
    Affine,
    agrees,
    copies,
    linear,
    marks,
    on_normals,
    quality,
    same,
    started,
)

LOGITS = torch.linspace(-6, 6, 25, dtype=torch.float64)
FIRST = ("non-saturating", "minimax")  # the others have a file of their own

# ---------------------------------------------------------------- losses


def slope(loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Slope in each logit of the loss of that sample alone (the loss is a mean)."""
    logits = LOGITS.clone().requires_grad_()
    return torch.autograd.grad(loss(logits) * len(logits), logits)[0]


def test_the_generators_slopes():
    d = 1 / (1 + torch.exp(-LOGITS))
    assert agrees(slope(LOSSES["non-saturating"].generator), -(1 - d))
    assert agrees(slope(LOSSES["minimax"].generator), -d)
    # wrong twins: one for the other, and a generator that helps the discriminator
    assert not agrees(slope(LOSSES["minimax"].generator), -(1 - d))
    assert not agrees(slope(LOSSES["non-saturating"].generator), -d)
    assert not agrees(slope(lambda fake: -non_saturating(fake)), -(1 - d))
    # saturation, in numbers: where D is sure of a fake, minimax has next to no slope left
    assert -slope(minimax)[0] < 0.003 < 0.997 < -slope(non_saturating)[0]


def test_the_discriminators_slopes():
    d = 1 / (1 + torch.exp(-LOGITS))
    none = torch.zeros(1, dtype=torch.float64)
    for loss in (LOSSES[name] for name in FIRST):
        assert agrees(slope(lambda real, loss=loss: loss.discriminator(real, none)), -(1 - d))
        assert agrees(slope(lambda fake, loss=loss: loss.discriminator(none, fake)), d)
        assert not agrees(slope(lambda fake, loss=loss: loss.discriminator(fake, none)), d)


def test_the_value_is_the_papers_and_never_overflows():
    real, fake = LOGITS, LOGITS.flip(0) * 0.3 - 1
    d = lambda logits: 1 / (1 + torch.exp(-logits))  # noqa: E731
    wanted = torch.log(d(real)).mean() + torch.log(1 - d(fake)).mean()
    assert agrees(value(real, fake), wanted)
    assert not agrees(value(fake, real), wanted)
    for loss in (LOSSES[name] for name in FIRST):
        far = torch.tensor([-1e4, 1e4], requires_grad=True)
        total = loss.discriminator(far, far) + loss.generator(far)
        assert torch.isfinite(total)
        assert torch.isfinite(torch.autograd.grad(total, far)[0]).all()


P, Q = stats.norm(0.0, 1.0), stats.norm(1.5, 0.6)


def js_divergence() -> float:
    """JSD(P, Q) in nats by adaptive quadrature, from the definition."""

    def part(a, b):
        f = lambda x: a.pdf(x) * (a.logpdf(x) - math.log((a.pdf(x) + b.pdf(x)) / 2))  # noqa: E731
        return quad(f, -8, 8, limit=200)[0]

    return (part(P, Q) + part(Q, P)) / 2


def game(logit: Callable[[np.ndarray], np.ndarray]) -> float:
    """V at a discriminator, its two expectations taken over 200,000 quantiles each."""
    u = (np.arange(200_000) + 0.5) / 200_000
    on = [torch.from_numpy(logit(dist.ppf(u))) for dist in (P, Q)]
    return float(value(*on))


def test_at_the_best_discriminator_the_value_is_the_divergence():
    best = lambda x: P.logpdf(x) - Q.logpdf(x)  # noqa: E731
    wanted = -math.log(4) + 2 * js_divergence()
    assert game(best) == pytest.approx(wanted, abs=1e-4)
    # any other one has a smaller value: flipped, half as sure, shifted, undecided
    for other in (lambda x: -best(x), lambda x: best(x) / 2, lambda x: best(x) + 0.3):
        assert game(other) < wanted - 5e-3
    assert game(lambda x: 0 * x) == pytest.approx(-math.log(4), abs=1e-12)


# ---------------------------------------------------------------- the discriminator learns


def log_ratio_gap(engine: GAN) -> float:
    """Mean |logit − (log p − log q)| over the mixture of data and samples, nats."""
    rng = torch.Generator().manual_seed(3)
    real = torch.randn(1000, 2, generator=rng)
    with torch.no_grad():
        x = torch.cat([real, engine.generator(torch.randn(1000, 2, generator=rng))])
        log_p = -x.square().sum(1) / 2 - math.log(2 * math.pi)
        wanted = log_p - engine.generator.log_prob(x)
        # the ratio runs to ±∞ where hardly a training point falls: there the bulk is asked
        bulk = wanted.abs() < 3
        return float((engine.logits(engine.standardise(x)) - wanted)[bulk].abs().mean())


@pytest.mark.slow
def test_discriminator_alone_learns_the_log_ratio(monkeypatch):
    def trained(steps: int, **knobs) -> GAN:
        engine = on_normals(d_lr=5e-3, batch=512, width=64, **knobs)
        engine.generator = Affine()
        before = copies(engine.generator)
        for engine.step_count in range(steps):
            engine.step_discriminator()
        assert same(engine.generator, before)
        return engine

    assert log_ratio_gap(trained(900, r1=0.0)) < 0.1
    # wrong twins: a penalty that forbids the slope; data and samples exchanged
    assert log_ratio_gap(trained(300, r1=10.0)) > 0.3
    wrong = Loss(lambda real, fake: -value(fake, real), non_saturating)
    monkeypatch.setitem(LOSSES, "non-saturating", wrong)
    assert log_ratio_gap(trained(300, r1=0.0)) > 1


# ---------------------------------------------------------------- the R1 penalty


def test_squared_slope_of_linear_and_quadratic_critics():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(7, 3, generator=rng, dtype=torch.float64).requires_grad_()
    w = torch.randn(3, generator=rng, dtype=torch.float64)
    a = torch.randn(3, 3, generator=rng, dtype=torch.float64)
    a = a + a.T
    linear = squared_slope(x @ w + 5, x)
    assert agrees(linear, (w @ w).expand(7))
    assert not agrees(linear, w.norm().expand(7))  # wrong twin: the slope, not its square
    quadratic = squared_slope(((x @ a) * x).sum(1) / 2, x)
    assert agrees(quadratic, (x @ a).square().sum(1))
    assert quadratic.requires_grad  # or it would not train anybody


def test_r1_adds_half_its_weight_times_the_squared_slope_on_data_alone():
    def gradient(r1: float) -> Tensor:
        engine = on_normals(r1=r1)
        engine.discriminator = linear(0.7, -1.1, 0.2)
        engine.d_adam = torch.optim.SGD(engine.discriminator.parameters(), lr=0.1)
        engine.update_discriminator()
        return engine.discriminator.weight.grad.clone()

    w = torch.tensor([[0.7, -1.1]])
    added = gradient(3.0) - gradient(0.0)
    # ∇_w (r1/2 |w|²) = r1 w
    torch.testing.assert_close(added, 3.0 * w, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(added, 6.0 * w, rtol=1e-2)  # wrong twin: without the half


# ---------------------------------------------------------------- one player at a time


@pytest.mark.parametrize("loss", LOSSES)
def test_each_player_moves_alone(loss):
    engine = started(loss=loss)
    engine.step()
    g, d, mean = (copies(m) for m in (engine.generator, engine.discriminator, engine.averaged))
    engine.step_discriminator()
    assert same(engine.generator, g) and same(engine.averaged, mean)
    assert not same(engine.discriminator, d)
    d = copies(engine.discriminator)
    engine.step_generator()
    assert same(engine.discriminator, d)
    assert not same(engine.generator, g) and not same(engine.averaged, mean)


def test_a_step_is_the_two_actions():
    """They draw from the same generator in the same order, so their replay is the step."""
    together, apart = started(d_steps=2), started(d_steps=2)
    for _ in range(3):
        together.step()
        for move in (apart.step_discriminator, apart.step_discriminator, apart.step_generator):
            move()
    for name in ("generator", "discriminator", "averaged"):
        assert same(getattr(together, name), copies(getattr(apart, name)))
    assert torch.equal(together.rng.get_state(), apart.rng.get_state())
    apart.step_generator()  # wrong twin: a move too many
    assert not same(together.generator, copies(apart.generator))


def test_the_generator_goes_uphill_on_a_discriminator_that_stands_still(monkeypatch):
    def rise(loss: str) -> float:
        engine = on_normals(loss=loss, averaging=1)
        engine.discriminator = linear(1.0, -0.5)
        score = lambda: float(engine.judge(engine.sample(2000)).sigmoid().mean())  # noqa: E731
        with engine.still():
            before = score()
        for _ in range(20):
            engine.step_generator()
        with engine.still():
            return score() - before

    for loss in LOSSES:
        assert rise(loss) > 0.05
    wrong = Loss(LOSSES["minimax"].discriminator, lambda fake: -non_saturating(fake))
    monkeypatch.setitem(LOSSES, "minimax", wrong)
    assert rise("minimax") < -0.05


# ---------------------------------------------------------------- averaged weights


def test_averaged_weights_follow_their_recursion():
    engine = started(averaging=20)
    mean = [p.double() for p in copies(engine.averaged)]
    for t in range(15):
        engine.step()
        s = 1 / 20 + (1 - 1 / 20) * 10 / (10 + t)
        newest = copies(engine.generator)
        mean = [(1 - s) * a + s * b.double() for a, b in zip(mean, newest, strict=True)]
    for mine, wanted in zip(engine.averaged.parameters(), mean, strict=True):
        torch.testing.assert_close(mine.double(), wanted, rtol=1e-4, atol=1e-5)
    assert not same(engine.averaged, newest)


def test_averaging_over_one_update_is_the_newest_generator():
    engine = started(averaging=1)
    for _ in range(5):
        engine.step()
    assert same(engine.averaged, copies(engine.generator))


def test_samples_are_the_averaged_generators_in_data_units():
    engine = started("moons")
    for _ in range(5):
        engine.step()
    a, b = (torch.Generator().manual_seed(1) for _ in range(2))
    z = torch.randn(100, engine.latent, generator=b)
    wanted = engine.averaged(z) * engine.pool.std + engine.pool.mean
    assert torch.equal(engine.sample(100, a), wanted)
    newest = engine.generator(z) * engine.pool.std + engine.pool.mean
    assert not torch.allclose(wanted, newest)  # wrong twin: another generator than is said


def test_images_get_the_noise_that_their_data_have():
    engine = started("digits")
    a, b = (torch.Generator().manual_seed(1) for _ in range(2))
    x = engine.sample(400, a)
    clean = engine.decode(torch.randn(400, engine.latent, generator=b))
    noise = x - clean
    assert float(noise.abs().max()) < 0.5 + 1e-4
    assert float(noise.var()) == pytest.approx(1 / 12, rel=0.02)
    assert started("moons").pool.dequantise is False


# ---------------------------------------------------------------- what D tells each sample


def push_fits(engine: GAN, loss: str, sign: float = 1.0, scale: bool = True) -> bool:
    """For a linear D: −∂L/∂x = slope(l) · w / σ with slope 1 − D, or D for minimax."""
    x = engine.pool.test[:50]
    w = engine.discriminator.weight[0].detach()
    d = engine.probability(x)
    size = 1 - d if loss == "non-saturating" else d
    wanted = sign * size[:, None] * (w / engine._std if scale else w)
    return bool(torch.allclose(engine.push(x), wanted, rtol=1e-4, atol=1e-6))


@pytest.mark.parametrize("loss", FIRST)
def test_push_is_minus_the_slope_of_each_samples_loss(loss):
    engine = started("moons", loss=loss)
    engine.discriminator = linear(0.8, -0.3, 0.4)
    other = next(name for name in FIRST if name != loss)
    with torch.no_grad():  # as while a frame is drawn
        assert push_fits(engine, loss)
        assert not push_fits(engine, loss, sign=-1.0)  # wrong twin: towards "sample"
        assert not push_fits(engine, loss, scale=False)  # wrong twin: standardised units
        assert not push_fits(engine, other)
    assert all(p.grad is None for p in engine.discriminator.parameters())


def test_arrows_share_one_scale_and_are_cut_at_a_tenth_of_the_box():
    engine = started()
    for _ in range(20):
        engine.step()
    before = [p.grad.clone() for p in engine.discriminator.parameters()]
    arrows = next(m for m in marks(engine, "gradients") if isinstance(m, Arrows))
    with torch.no_grad(), engine.still():
        x = engine.sample(len(arrows.xy))
    assert np.allclose(arrows.xy, x.numpy())
    push = engine.push(x).numpy()
    length, drawn = (np.linalg.norm(v, axis=1) for v in (push, arrows.vectors))
    tenth = 0.1 * (engine.pool.dataset.extent[1] - engine.pool.dataset.extent[0])
    short = length <= np.quantile(length, 0.9)
    assert drawn.max() <= tenth * (1 + 1e-5)
    ratio = drawn[short] / length[short]
    assert np.allclose(ratio, ratio[0], rtol=1e-3)
    assert np.allclose(drawn[~short], tenth, rtol=1e-3)
    cosine = (push * arrows.vectors).sum(1) / (length * drawn)
    assert cosine.min() > 0.999  # along the push, not against it
    for p, b in zip(engine.discriminator.parameters(), before, strict=True):
        assert torch.equal(p.grad, b)


# ---------------------------------------------------------------- it learns


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_default_knobs_reach_all_modes_of_ring8soft(seed):
    run = Experiment("ring8soft", "gan", seed).start("cpu").train(steps=1200)
    found, distance = quality(run.engine)
    assert found == 8
    assert distance <= 0.15
    untrained = Experiment("ring8soft", "gan", seed).start("cpu").engine
    assert quality(untrained)[1] > 0.3  # the check tells a generator that has learned nothing


@pytest.mark.slow
def test_a_generator_that_helps_the_discriminator_learns_nothing(monkeypatch):
    wrong = Loss(LOSSES["minimax"].discriminator, lambda fake: -non_saturating(fake))
    monkeypatch.setitem(LOSSES, "non-saturating", wrong)
    engine = Experiment("ring8soft", "gan", 0, PLAIN).start("cpu").train(steps=300).engine
    found, distance = quality(engine)
    assert found < 8 and distance > 0.15
