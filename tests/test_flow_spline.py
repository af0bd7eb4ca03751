"""Rational-quadratic splines: zuko, finite differences and autograd's Jacobian as oracles.

Each check is a function that a wrong twin (dropped Jacobian, swapped derivatives …) must fail.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
import zuko
from torch import Tensor

from engines.flow import spline as splines
from engines.flow.conditioner import Conditioner
from engines.flow.spline import SplineCoupling, parameters, spline, spline_inverse
from tests.flows import decode, encode, far, jacobian_gap

pytestmark = pytest.mark.slow  # dear: `make test` runs them, `make check` does not

BOUND, BINS = 3.0, 7


def some(n: int, size: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points over ±6 and the numbers of a spline for each, in float64."""
    rng = torch.Generator().manual_seed(seed)
    x = (torch.rand(n, generator=rng, dtype=torch.float64) - 0.5) * 12
    theta = torch.randn(n, parameters(BINS), generator=rng, dtype=torch.float64)
    return x, size * theta


# ---------------------------------------------------------------- against zuko


def zukos(theta: Tensor) -> zuko.transforms.MonotonicRQSTransform:
    """zuko's spline with the same knots: its free numbers, solved for from ours.

    It squeezes each number softly before softmax and exp; undone here, v = a/(1 − |c·a|).
    """
    slope = 1e-12  # so far away that every knot of ours can be had
    shares = theta[:, : 2 * BINS].unflatten(1, (2, BINS)).softmax(2)
    logs = (splines.LEAST + (1 - BINS * splines.LEAST) * shares).log()
    logs = logs - logs.mean(2, keepdim=True)
    a = splines.STEEPEST * torch.tanh(theta[:, 2 * BINS + 1 : -1] / splines.STEEPEST)
    w, h = (logs / (1 - (2 * logs / math.log(slope)).abs())).unbind(1)
    d = a / (1 - (a / math.log(slope)).abs())
    return zuko.transforms.MonotonicRQSTransform(w, h, d, bound=BOUND, slope=slope)


def gap_to_zuko(mine, x: Tensor, theta: Tensor) -> float:
    """Largest difference of values and log-derivatives, the ends' derivatives being 1."""
    theta = theta.clone()
    theta[:, [2 * BINS, -1]] = 0
    y, log_slope = zukos(theta).call_and_ladj(x)
    z, mine_log = mine(x, theta, BOUND)
    return float(torch.maximum((y - z).abs().max(), (log_slope - mine_log).abs().max()))


def test_the_spline_is_zukos():
    x, theta = some(400)
    assert gap_to_zuko(spline, x, theta) < 1e-9

    def swapped(x, theta, bound):  # the derivatives at a bin's two ends change places
        return spline(x, torch.cat([theta[:, : 2 * BINS], theta[:, 2 * BINS :].flip(1)], 1), bound)

    def upside(x, theta, bound):  # widths for heights
        w, h, d = theta.split([BINS, BINS, BINS + 1], 1)
        return spline(x, torch.cat([h, w, d], 1), bound)

    def silent(x, theta, bound):
        y, log_slope = spline(x, theta, bound)
        return y, torch.zeros_like(log_slope)

    for twin in (swapped, upside, silent):
        assert gap_to_zuko(twin, x, theta) > 0.1, twin.__name__


# ---------------------------------------------------------------- derivatives


def slope_gap(mine, x: Tensor, theta: Tensor) -> float:
    """Largest |log dy/dx by autograd − what is claimed|."""
    x = x.clone().requires_grad_()
    y, log_slope = mine(x, theta, BOUND)
    (slope,) = torch.autograd.grad(y.sum(), x)
    return float((slope.log() - log_slope).detach().abs().max())


def test_the_claimed_slope_is_the_gradients_also_far_outside():
    x, theta = some(400)
    x[:4] = torch.tensor([-BOUND, BOUND, -1e6, 1e6], dtype=torch.float64)
    assert slope_gap(spline, x, theta) < 1e-9
    assert torch.isfinite(spline(x.float(), theta.float(), BOUND)[1]).all()

    def flipped(x, theta, bound):
        y, log_slope = spline(x, theta, bound)
        return y, -log_slope

    assert slope_gap(flipped, x, theta) > 0.1


def test_the_hand_written_gradient_is_that_of_finite_differences():
    x, theta = some(60, 0.7)
    given = (x.requires_grad_(), theta.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, theta: spline(x, theta, BOUND), given)

    class Twin(torch.autograd.Function):
        """Forgets that widths move all bins after them."""

        @staticmethod
        def forward(ctx, x, theta):
            ctx.save_for_backward(x, theta)
            return spline(x, theta, BOUND)

        @staticmethod
        def backward(ctx, g_y, g_l):
            x, theta = (part.detach().requires_grad_() for part in ctx.saved_tensors)
            with torch.enable_grad():
                out = spline(x, theta, BOUND)
                g_x, g_theta = torch.autograd.grad(out, [x, theta], [g_y, g_l])
            g_theta[:, :BINS] = 0
            return g_x, g_theta

    with pytest.raises(RuntimeError, match="mismatch"):
        torch.autograd.gradcheck(Twin.apply, given)


def test_the_inverse_has_gradients_too():
    y, theta = some(40, 0.7)
    given = (y.requires_grad_(), theta.requires_grad_())
    assert torch.autograd.gradcheck(lambda y, theta: spline_inverse(y, theta, BOUND), given)


# ---------------------------------------------------------------- inverse, shape


def round_trip(x: Tensor, theta: Tensor, inverse=spline_inverse) -> float:
    y, _ = spline(x, theta, BOUND)
    return float((inverse(y, theta, BOUND) - x).abs().max())


def test_inverse_undoes_the_spline():
    x, theta = some(5000)
    assert round_trip(x, theta) < 1e-9
    assert round_trip(x.float(), 0.7 * theta.float()) < 1e-4
    assert round_trip(x, theta, lambda y, theta, bound: spline(y, -theta, bound)[0]) > 0.1


def test_rising_everywhere_continuous_and_at_rest_the_identity():
    _, theta = some(20, 2.0)
    x = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    y, _ = spline(x.repeat(20), theta.repeat_interleave(4001, 0), BOUND)
    rise = y.view(20, -1).diff(dim=1)
    assert (rise > 0).all()
    steepest = math.exp(splines.STEEPEST)
    assert rise.max() < 2 * steepest * 12 / 4000
    still, log_slope = spline(x, torch.zeros(4001, parameters(BINS)).double(), BOUND)
    assert torch.allclose(still, x, atol=1e-12) and log_slope.abs().max() < 1e-12


def test_the_steepest_numbers_stay_finite_in_float32():
    x, theta = some(2000, 200.0)
    x, theta = x.float().requires_grad_(), theta.float().requires_grad_()
    y, log_slope = spline(x, theta, BOUND)
    (y.sum() + log_slope.sum()).backward()
    for part in (y, log_slope, x.grad, theta.grad, spline_inverse(y, theta, BOUND)):
        assert torch.isfinite(part).all()


# ---------------------------------------------------------------- the coupling flow


def made(dim: int) -> SplineCoupling:
    return far(SplineCoupling, dim, width=16, size=0.1, bins=8)


@pytest.mark.parametrize(("dim", "n"), [(2, 20), (3, 10), (16, 3)])
def test_couplings_log_determinant_and_inverse(dim, n):
    net = made(dim).double()
    x = 2 * torch.randn(200, dim, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        assert float((decode(net, encode(net, x)[0]) - x).abs().max()) < 1e-7
        net32 = copy.deepcopy(net).float()
        there = encode(net32, x.float())[0]
        assert float((decode(net32, there) - x.float()).abs().max()) < 1e-4
        far = encode(net32, 1e4 * x.float())
        assert torch.isfinite(far[0]).all() and torch.isfinite(far[1]).all()
    assert jacobian_gap(lambda x: encode(net, x), x[:n]) < 1e-8

    def dropped(x):
        z, log_det = encode(net, x)
        return z, torch.zeros_like(log_det)

    def unmixed(x):
        z, log_det = encode(net, x)
        return z, log_det - net.mixing.log_diagonal.sum()

    assert jacobian_gap(dropped, x[:n]) > 0.1
    assert jacobian_gap(unmixed, x[:n]) > 0.01


def test_it_begins_near_a_rotation_and_draws_from_its_own_generator():
    state = torch.random.get_rng_state()
    a, b = (SplineCoupling(2, 4, 32, 2, torch.Generator().manual_seed(5), bins=8) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    x = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        z, log_det = encode(a, x)
    assert log_det.abs().max() < 0.1
    assert (z.norm(dim=1) - x.norm(dim=1)).abs().max() < 0.1


def test_a_copy_computes_the_same_and_its_state_is_all_there_is():
    net = made(3)
    other = SplineCoupling(3, 3, 16, 2, torch.Generator().manual_seed(9), bins=8)
    other.load_state_dict(net.state_dict())
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(1))
    for twin in (copy.deepcopy(net), other):
        assert torch.equal(encode(twin, x)[1], encode(net, x)[1])


def test_waves_are_for_a_few_coordinates():
    rng = torch.Generator().manual_seed(0)
    few = Conditioner(1, 2, 2, 1, 8, 1, rng, waves=5)
    many = Conditioner(1, 64, 2, 1, 8, 1, rng, waves=5)
    assert few.weights[0].shape[1] == 12 and many.weights[0].shape[1] == 64
