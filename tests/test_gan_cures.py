"""Unrolling, packing, and what D sees when, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engines.gan import GAN, value
from engines.gan.unroll import look_ahead
from tests.gans import Still, copies, linear, on_normals, same, started

pytestmark = pytest.mark.slow  # dear: `make test` runs them, `make check` does not

# ---------------------------------------------------------------- unrolling


class Weight(nn.Module):
    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))


def by_hand(w: float, theta: float, steps: int, lr: float, a: float) -> tuple[float, float, float]:
    """Descent in L = a w²/2 − w θ with Adam's scale (β = 0, 0.5): w, dw/dθ and V = w θ's slope.

    Its slope is g = a w − θ, so that dw' = dw − lr/s (a dw − dθ), with s taken as constant.
    """
    second, dw = 0.0, 0.0
    for t in range(1, steps + 1):
        g = a * w - theta
        second = 0.5 * second + 0.5 * g * g
        s = math.sqrt(second / (1 - 0.5**t)) + 1e-8
        w, dw = w - lr * g / s, dw - lr / s * (a * dw - 1)
    return w, dw, w + theta * dw


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_unrolled_gradient_of_a_tiny_game(steps):
    theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    player = Weight(-0.4)
    adam = torch.optim.Adam(player.parameters(), betas=(0.0, 0.5))
    loss = lambda now: 1.3 * now["w"] ** 2 / 2 - now["w"] * theta  # noqa: E731
    later = look_ahead(player, loss, adam, 0.1, steps)["w"]
    w, _, wanted = by_hand(-0.4, 0.7, steps, 0.1, 1.3)
    assert float(later.detach()) == pytest.approx(w, abs=1e-12)
    (found,) = torch.autograd.grad(later * theta, theta)
    assert float(found) == pytest.approx(wanted, abs=1e-9)
    # wrong twins: a discriminator that does not answer; a step too many or too few
    assert float(found) != pytest.approx(w, abs=1e-3)
    for other in (steps - 1, steps + 1):
        assert float(found) != pytest.approx(by_hand(-0.4, 0.7, other, 0.1, 1.3)[2], abs=1e-3)
    assert float(player.w.detach()) == -0.4 and not adam.state


@pytest.mark.parametrize("bound", [None, 0.05])
def test_what_is_looked_ahead_to_is_what_adam_would_reach(bound):
    """Three steps ahead, in the middle of training with moments, on one batch."""
    engine = started("moons", width=16, batch=32, unroll=3, r1=0.7, r2=0.2)
    for _ in range(5):
        engine.step()
    rng = torch.Generator().manual_seed(1)
    real, fake = (torch.randn(32, 2, generator=rng) for _ in range(2))

    def loss(parameters):
        of = lambda z: engine.logits_of(parameters, z)  # noqa: E731
        return sum(engine.discriminator_loss(of, real, fake, None))

    lr = engine._pace(engine.d_lr)
    later = look_ahead(engine.discriminator, loss, engine.d_adam, lr, 3, bound)
    for _ in range(3):
        total = sum(engine.discriminator_loss(engine.logits, real, fake, None))
        engine._descend(engine.d_adam, engine.discriminator, total, engine.d_lr)
        if bound:
            for p in engine.discriminator.parameters():
                p.data.clamp_(-bound, bound)
    for name, p in engine.discriminator.named_parameters():
        torch.testing.assert_close(later[name].detach(), p.detach(), rtol=1e-4, atol=1e-6)


def test_unrolling_moves_only_the_generator_and_changes_where_it_goes():
    plain, ahead = (started(unroll=k, width=16, batch=32) for k in (0, 4))
    for engine in (plain, ahead):
        engine.step_discriminator()
    d = copies(ahead.discriminator)
    assert same(plain.discriminator, d)
    for engine in (plain, ahead):
        engine.step_generator()
    assert same(ahead.discriminator, d)
    assert not same(ahead.generator, copies(plain.generator))


# ---------------------------------------------------------------- packing


def test_one_sample_at_once_is_the_plain_game():
    """At m = 1 the loss is the plain formula; at m = 2 that of sums, for a D that adds up."""
    rng = torch.Generator().manual_seed(4)
    real, fake = (torch.randn(30, 2, generator=rng) for _ in range(2))
    w = torch.tensor([0.8, -0.5])

    def loss(m: int) -> float:
        engine = on_normals(pack=m, r1=0.0, batch=30)
        engine.discriminator = nn.Linear(2 * m, 1)
        with torch.no_grad():
            engine.discriminator.weight.copy_(w.repeat(m)[None])
            engine.discriminator.bias.fill_(0.1)
        assert engine.logits(real).shape == (30 // m,)
        return float(engine.discriminator_loss(engine.logits, real, fake, None)[0].detach())

    def wanted(m: int) -> float:
        sums = [(x @ w).reshape(-1, m).sum(1) + 0.1 for x in (real, fake)]
        return -float(value(*sums))

    for m in (1, 2, 5):
        assert loss(m) == pytest.approx(wanted(m), rel=1e-5)
    assert loss(2) != pytest.approx(wanted(1), rel=1e-2)  # wrong twin: packs that are not made


def test_packs_never_mix_data_with_samples():
    """A D that sees whether two of its points differ is right only about whole packs."""
    engine = on_normals(pack=2, r1=0.0, batch=64)
    engine.data = lambda n: torch.ones(n, 2)
    engine.generator = Still(-1.0, -1.0)
    seen = []
    engine.discriminator.register_forward_pre_hook(lambda _, at: seen.append(at[0].detach()))
    engine.update_discriminator()
    (rows,) = seen
    assert rows.shape == (64, 4)
    assert bool((rows == rows[:, :1]).all())
    assert int((rows[:, 0] == 1).sum()) == 32


@pytest.mark.parametrize("m", [3, 8])
def test_shapes_of_packs(m):
    engine = started(pack=m, batch=50, width=16, r1=1.0, r2=1.0, slope_one=1.0)
    engine.step()
    assert engine.rows == 50 - 50 % m
    x = engine.sample(7)
    assert engine.judge(x).shape == (7,) and x.shape == (7, 2)
    assert engine.push(engine.sample(6 * m)).shape == (6 * m, 2)


def test_the_push_within_a_pack_is_each_samples_own():
    engine = on_normals(pack=2, loss="Wasserstein")
    engine.discriminator = nn.Linear(4, 1)
    with torch.no_grad():
        engine.discriminator.weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    wanted = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat(5, 1) / engine._std
    torch.testing.assert_close(engine.push(engine.sample(10)), wanted)


# ---------------------------------------------------------------- what D sees


@pytest.mark.parametrize("m", [1, 3])
def test_waves_are_of_each_point(m):
    engine = started(pack=m, width=16, waves=5, focus=0)
    sight = engine.discriminator[0]
    x = torch.randn(12 * m, 2, generator=torch.Generator().manual_seed(1))
    waves = torch.sin(x @ sight.frequency + sight.phase)
    wanted = torch.cat([x, waves], 1).reshape(12, -1)
    torch.testing.assert_close(sight(x.reshape(12, -1)), wanted)
    assert engine.discriminator[1].in_features == 7 * m
    assert started(waves=0, width=16).discriminator[1].in_features == 2
    assert started("digits", width=16).discriminator[1].in_features == 64, "none of pictures"


def test_blurred_waves_are_means_over_blurred_points():
    """E[sin(f·(x + σε) + φ)] = exp(−|f|² σ²/2) sin(f·x + φ), by Gauss-Hermite quadrature."""
    sight = started(width=16, waves=40).discriminator[0].double()
    sight.blur.fill_(0.06)
    x = torch.tensor([[0.3, -1.1]], dtype=torch.float64)
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(40))
    moved = x + 0.06 * torch.cartesian_prod(nodes, nodes)
    mass = (weights[:, None] * weights).reshape(-1) / (2 * math.pi)
    plain = torch.sin(moved @ sight.frequency + sight.phase)
    wanted = (mass[:, None] * plain).sum(0)
    torch.testing.assert_close(sight(x)[0, 2:], wanted, rtol=1e-6, atol=1e-9)
    sight.blur.fill_(0.12)  # wrong twin: twice as wide
    assert not torch.allclose(sight(x)[0, 2:], wanted, rtol=1e-2, atol=1e-3)
    length = sight.frequency.norm(dim=0)
    assert float(length.min()) >= 1 and float(length.max()) <= GAN.FINEST * (1 + 1e-6)


def test_waves_come_into_focus_by_halves():
    engine = started(width=16, waves=8, focus=100)
    for step, wanted in ((0, 0.5), (100, 0.25), (300, 0.0625)):
        engine.step_count = step
        engine.update_discriminator()
        assert float(engine.discriminator[0].blur) == pytest.approx(wanted)
    engine.focus = 0
    engine.update_discriminator()
    assert float(engine.discriminator[0].blur) == 0


def test_penalties_fade_by_halves():
    engine = started(fade=100, width=16)
    engine.step_count = 0
    assert engine.faded == 1
    engine.step_count = 100
    assert engine.faded == pytest.approx(0.5)
    engine.step_count = 300
    assert engine.faded == pytest.approx(1 / 8)
    assert started(fade=0, width=16).faded == 1

    # what is added to D's gradient is that share of it
    def slope(step: int) -> Tensor:
        parts = []
        for r1 in (2.0, 0.0):
            engine = on_normals(r1=r1, fade=100)
            engine.discriminator = linear(0.7, -1.1)
            engine.d_adam = torch.optim.SGD(engine.discriminator.parameters(), lr=0.0)
            engine.step_count = step
            engine.update_discriminator()
            parts.append(engine.discriminator.weight.grad.clone())
        return parts[0] - parts[1]

    torch.testing.assert_close(slope(200), slope(0) / 4, rtol=1e-3, atol=1e-4)
