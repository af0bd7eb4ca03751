"""Losses and penalties of the GAN against closed forms.

Each check is a function that a wrong twin (a flipped sign, a missing square …) must fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from engines.gan import GAN, LOSSES, Loss
from engines.gan.losses import climb, slope_from_one, squares
from tests.gans import (
    PLAIN,
    Affine,
    Still,
    agrees,
    copies,
    linear,
    on_normals,
    quality,
    same,
    started,
)

pytestmark = pytest.mark.slow  # dear: `make test` runs them, `make check` does not

NEW = ("least squares", "Wasserstein", "hinge", "relativistic", "relativistic average")
X = torch.linspace(-3, 3, 13, dtype=torch.float64)
Y = (1.7 * X).sin() * 2 - 0.4


def slopes(loss: Callable[..., Tensor], *at: Tensor) -> list[Tensor]:
    """N times the slope of a mean over N, in each of its arguments."""
    leaves = [a.clone().requires_grad_() for a in at]
    return [len(a) * g for a, g in zip(at, torch.autograd.grad(loss(*leaves), leaves), strict=True)]


# ---------------------------------------------------------------- slopes, by hand


def generator_slope(name: str, f: Tensor, r: Tensor) -> Tensor:
    """∂/∂f of each sample's own term."""
    sigma = torch.sigmoid
    if name == "least squares":
        return f - 1
    if name in ("Wasserstein", "hinge"):
        return -torch.ones_like(f)
    if name == "relativistic":
        return -sigma(r - f)
    # the average form: a sample's own term, and its part in the mean of the samples
    centred, others = f - r.mean(), r - f.mean()
    return -sigma(-centred) - sigma(others).mean()


def discriminator_slopes(name: str, r: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    sigma, zero, one = torch.sigmoid, torch.zeros_like(r), torch.ones_like(r)
    if name == "least squares":
        return r - 1, f
    if name == "Wasserstein":
        return -one, one
    if name == "hinge":
        return torch.where(r < 1, -one, zero), torch.where(f > -1, one, zero)
    if name == "relativistic":
        return -sigma(f - r), sigma(f - r)
    on_real, on_fake = sigma(-(r - f.mean())), sigma(f - r.mean())
    return -on_real - on_fake.mean(), on_fake + on_real.mean()


@pytest.mark.parametrize("name", NEW)
def test_slopes_of_both_players(name):
    loss = LOSSES[name]
    (found,) = slopes(lambda f: loss.of_generator(f, Y), X)
    wanted = generator_slope(name, X, Y)
    assert agrees(found, wanted)
    assert not agrees(found, -wanted)  # wrong twin: a generator that helps the discriminator
    found = slopes(loss.discriminator, Y, X)
    assert all(agrees(a, b) for a, b in zip(found, discriminator_slopes(name, Y, X), strict=True))
    exchanged = discriminator_slopes(name, X, Y)[::-1]  # wrong twin: data for samples
    assert not all(agrees(a, b) for a, b in zip(found, exchanged, strict=True))
    other = NEW[NEW.index(name) - 1]
    there = discriminator_slopes(other, Y, X)
    assert not all(agrees(a, b) for a, b in zip(found, there, strict=True))


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_overflows(name):
    loss = LOSSES[name]
    far = torch.tensor([-1e4, 1e4], requires_grad=True)
    total = loss.discriminator(far, far.flip(0)) + loss.of_generator(far, far.flip(0))
    assert torch.isfinite(total)
    assert torch.isfinite(torch.autograd.grad(total, far)[0]).all()


# ---------------------------------------------------------------- the best discriminator

# five places with known probabilities: so many of twenty data points, and of twenty samples
P, Q = torch.tensor([5, 3, 1, 7, 4]), torch.tensor([2, 6, 4, 3, 5])


def best_table(loss: Loss, box: float | None = None) -> Tensor:
    """D's best output at each of five places, found by descent in it, (5,)."""
    at = torch.arange(5)
    real, fake = at.repeat_interleave(P), at.repeat_interleave(Q)
    if loss.relative:  # every data point with every sample
        real, fake = real.repeat_interleave(20), fake.repeat(20)
    table = torch.full((5,), 0.1, dtype=torch.float64, requires_grad=True)
    for step in range(240):  # signs of slopes, in steps that shrink by a third every twenty
        (slope,) = torch.autograd.grad(loss.discriminator(table[real], table[fake]), table)
        with torch.no_grad():
            table -= 0.3 * (2 / 3) ** (step // 20) * slope.sign() * (slope.abs() > 1e-9)
            if box is not None:
                table.clamp_(-box, box)
    return table.detach()


RATIO = (P.double() / Q.double()).log()


def near(a: Tensor, b: Tensor, by: float = 0.02) -> bool:
    return bool(((a - b).abs() < by).all())


def test_the_best_discriminator_between_five_places():
    assert near(best_table(LOSSES["non-saturating"]), RATIO)
    found = best_table(LOSSES["least squares"])
    assert near(found, P / (P + Q).double())
    assert not near(found, RATIO)  # wrong twin: the logit of it
    flipped = replace(LOSSES["least squares"], discriminator=lambda r, f: squares(f, r))
    assert not near(best_table(flipped), P / (P + Q).double())
    assert near(best_table(LOSSES["hinge"]), RATIO.sign())
    # with a bound on the critic alone, and none on its slope: twice the total variation
    assert near(best_table(LOSSES["Wasserstein"], box=1.0), RATIO.sign())
    found = best_table(LOSSES["relativistic"])
    assert near(found - found.mean(), RATIO - RATIO.mean())
    assert not near(found - found.mean(), RATIO.mean() - RATIO)
    assert not near(found - found.mean(), (RATIO - RATIO.mean()) / 2)


def told(engine: GAN) -> tuple[Tensor, Tensor]:
    """What D says where p and q both have mass, and log p − log q there."""
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        samples = engine.generator(torch.randn(1000, 2, generator=rng))
        x = torch.cat([torch.randn(1000, 2, generator=rng), samples])
        log_p = -x.square().sum(1) / 2 - math.log(2 * math.pi)
        ratio = log_p - engine.generator.log_prob(x)
        bulk = ratio.abs() < 3
        return engine.logits(engine.standardise(x))[bulk], ratio[bulk]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["least squares", "hinge", "relativistic"])
def test_discriminator_alone_learns_what_its_loss_asks_for(name):
    """Between N(0, I) and N(a, 0.49 I), trained by the engine's own steps."""
    engine = on_normals(loss=name, d_lr=5e-3, batch=512, width=64, r1=0.0)
    engine.generator = Affine()
    before = copies(engine.generator)
    for engine.step_count in range(700):
        engine.step_discriminator()
    assert same(engine.generator, before)
    output, ratio = told(engine)
    if name == "least squares":
        assert float((output - ratio.sigmoid()).abs().mean()) < 0.03
        assert float((output - (-ratio).sigmoid()).abs().mean()) > 0.2
    elif name == "hinge":
        sure = ratio.abs() > 0.7
        gap = lambda sign: float((output - sign * ratio.sign())[sure].abs().mean())  # noqa: E731
        assert gap(1) < 0.15 and gap(-1) > 1
    else:
        spread = lambda x: float((x - x.mean()).abs().mean())  # noqa: E731
        gap = lambda sign: spread(output - sign * ratio)  # noqa: E731
        assert gap(1) < 0.12 and gap(-1) > 1


# ---------------------------------------------------------------- penalties


def added(critic: nn.Module, **knobs) -> Tensor:
    """What penalties add to the gradient in the weight of D."""

    def gradient(**knobs) -> Tensor:
        engine = on_normals(**{"r1": 0.0, **knobs})
        engine.discriminator = critic
        engine.d_adam = torch.optim.SGD(critic.parameters(), lr=0.0)
        engine.update_discriminator()
        return critic.weight.grad.clone()

    return gradient(**knobs) - gradient()


def test_the_gradient_penalty_of_a_linear_critic():
    w = torch.tensor([0.9, -1.2])  # of length 1.5
    rng = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(50, 2, generator=rng) for _ in range(2))
    mix = torch.rand(50, 1, generator=rng)
    found = slope_from_one(lambda x: x @ w + 3, real, fake, mix)
    assert float(found) == pytest.approx((1.5 - 1) ** 2, rel=1e-5)
    assert float(found) != pytest.approx((1.5**2 - 1) ** 2, rel=0.1)  # wrong twin: the square
    # flatter than 1 costs as well, and the penalty's slope in w is 2λ(|w| − 1) w/|w|
    for scale in (1.0, 0.4):
        critic = linear(0.9 * scale, -1.2 * scale, 0.3)
        length = 1.5 * scale
        wanted = 2 * 7.0 * (length - 1) * w / 1.5
        torch.testing.assert_close(added(critic, slope_one=7.0)[0], wanted, rtol=1e-3, atol=1e-3)


def test_the_gradient_penalty_looks_between_data_and_samples():
    """Of f = |x|²/2 the slope is |x|: at u of the way from y to x."""
    real, fake = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    half = lambda x: x.square().sum(1) / 2  # noqa: E731
    for u in (0.0, 0.25, 1.0):
        found = slope_from_one(half, real, fake, torch.tensor([[u]]))
        assert float(found.detach()) == pytest.approx((4 * u - 1) ** 2, abs=1e-4)


class Bowl(nn.Module):
    """f = a |x|²/2: its slope a·x tells on which points it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.8))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x.square().sum(1, keepdim=True) / 2


def test_r1_and_r2_by_hand():
    # R/2 · a² E|x|², whose slope in a is R a E|x|²: 2 for the data, 0.49·2 + |shift|² for samples
    def slope(**knobs) -> float:
        def gradient(**knobs) -> float:
            engine = on_normals(batch=1024, **{"r1": 0.0, **knobs})
            engine.discriminator, engine.generator = Bowl(), Affine()
            engine.generator.shift.data.mul_(2)
            engine.d_adam = torch.optim.SGD(engine.discriminator.parameters(), lr=0.0)
            engine.update_discriminator()
            return float(engine.discriminator.weight.grad)

        return gradient(**knobs) - gradient()

    on_data, on_samples = 0.8 * 2, 0.8 * (0.49 * 2 + 1.8**2 + 0.8**2)
    assert slope(r1=3.0) == pytest.approx(3 * on_data, rel=0.1)
    assert slope(r2=3.0) == pytest.approx(3 * on_samples, rel=0.1)
    assert slope(r1=1.0, r2=2.0) == pytest.approx(on_data + 2 * on_samples, rel=0.1)
    # wrong twin: one for the other would be seen
    assert slope(r2=3.0) != pytest.approx(3 * on_data, rel=0.1)


def gap(engine: GAN, steps: int) -> float:
    """f(x) − f(y) for data at (1.2, 0.9) and samples at the origin, of distance 1.5."""
    point = torch.tensor([[1.2, 0.9]])
    engine.data = lambda n: point.expand(n, 2)
    engine.generator = Still(0.0, 0.0)
    for engine.step_count in range(steps):
        engine.step_discriminator()
    with torch.no_grad():
        return float(engine.logits(point) - engine.logits(torch.zeros(1, 2)))


def test_wasserstein_between_two_points():
    # a critic of slope s on the line from one to the other wins s·d − λ(s − 1)² at the most:
    # s = 1 + d/2λ, so that its gap is d (1 + d/2λ), and the distance itself as λ grows
    made = {"loss": "Wasserstein", "r1": 0.0, "width": 32, "batch": 64, "d_lr": 3e-3, "waves": 0}
    wanted = 1.5 * (1 + 1.5 / (2 * 10))
    found = gap(on_normals(**made, slope_one=10.0), 250)
    assert found == pytest.approx(wanted, rel=0.02)
    # wrong twin: a penalty on the slope itself, whose gap knows nothing of the distance
    flat = gap(on_normals(**made | {"r1": 10.0}), 250)
    assert flat != pytest.approx(wanted, rel=0.3)


def test_wasserstein_between_two_points_with_clipped_weights():
    """A linear critic with weights in [−c, c] reaches c (|Δx| + |Δy|)."""

    def clipped(c: float, loss: str = "Wasserstein") -> GAN:
        engine = on_normals(loss=loss, r1=0.0, batch=16, d_lr=3e-2, clip=c)
        engine.discriminator = linear(-0.02, 0.03)
        engine.d_adam = torch.optim.Adam(engine.discriminator.parameters())
        return engine

    assert gap(clipped(0.25), 60) == pytest.approx(0.25 * 2.1, rel=1e-4)
    assert gap(clipped(0.1), 60) == pytest.approx(0.1 * 2.1, rel=1e-4)
    assert gap(clipped(0.0), 60) > 1  # 0 leaves the weights free
    assert gap(clipped(0.1, "minimax"), 60) > 0.5  # where the knob is hidden, nothing is clipped


# ---------------------------------------------------------------- all of it together


@pytest.mark.parametrize("name", LOSSES)
def test_push_is_where_g_is_sent(name):
    """Minus the slope by finite differences of the generator's loss, N times."""
    engine = started("moons", loss=name, width=16)
    engine.discriminator = engine.discriminator.double()
    engine._mean, engine._std = engine._mean.double(), engine._std.double()
    engine.pool.test = engine.pool.test.double()
    x = engine.pool.test[20:26].clone()
    real = engine.standardise(engine.pool.test[:6])
    found, h = engine.push(x), 1e-5

    def total(x: Tensor) -> float:
        return 6 * float(engine.generator_loss(engine.standardise(x), real).detach())

    for i, j in ((0, 0), (3, 1), (5, 0)):
        step = torch.zeros_like(x)
        step[i, j] = h
        wanted = -(total(x + step) - total(x - step)) / (2 * h)
        assert float(found[i, j]) == pytest.approx(wanted, rel=1e-5, abs=1e-9)
        assert float(found[i, j]) != pytest.approx(-wanted, rel=1e-2, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_numbers_are_what_they_say(name):
    engine = started(loss=name, width=16)
    engine.discriminator = linear(0.0, 0.0, 0.3)
    found = {m.name: m.value for m in engine.metrics()}
    if LOSSES[name].probability is None:
        assert found == {"gap": pytest.approx(0.0, abs=1e-6)}
        return
    d = 0.3 if name == "least squares" else 1 / (1 + math.exp(-0.3))
    assert found["d_real"] == pytest.approx(d) and found["d_fake"] == pytest.approx(d)
    assert ("game" in found) == (name != "least squares")


def test_a_loss_may_be_changed_while_it_runs():
    from engines import Experiment

    run = (
        Experiment("ring8soft", "gan", 0, {**PLAIN, "width": 16, "batch": 32})
        .start("cpu")
        .train(steps=2)
    )
    for name in LOSSES:
        assert run.set("loss", name) is False
        run.train(steps=2)
        shown = {m.name for m in run.frame().metrics}
        assert ("gap" in shown) != ("d_real" in shown), "no number of another game stays"


@pytest.mark.slow
@pytest.mark.parametrize(
    "knobs",
    [
        {"loss": "least squares"},
        {"loss": "hinge"},
        {"loss": "relativistic"},
        {"loss": "relativistic average"},
        {"loss": "Wasserstein", "r1": 0.0, "slope_one": 1.0, "d_steps": 5},  # as in the paper
        {"unroll": 3},
        {"pack": 3},
    ],
)
def test_every_game_finds_the_modes(knobs, monkeypatch):
    from engines import Experiment

    made = {**PLAIN, "width": 64, "batch": 128, **knobs}
    found, distance = quality(
        Experiment("ring8soft", "gan", 0, made).start("cpu").train(500).engine
    )
    assert found == 8 and distance < 0.25
    wrong = replace(LOSSES[made["loss"]], relative=False,
                    generator=lambda fake: -climb(fake))  # fmt: skip
    monkeypatch.setitem(LOSSES, made["loss"], wrong)
    found, distance = quality(
        Experiment("ring8soft", "gan", 0, made).start("cpu").train(500).engine
    )
    assert found < 8 or distance > 0.25
