"""Autoregressive flows: autograd's Jacobian, its triangular shape and closed forms as oracles.

Each check is a function that a wrong twin (an unmasked network, a flipped sign …) must fail.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from engines.flow.autoregressive import IAF, MAF, REACH, MAFLayer, SplineAutoregressive
from engines.flow.conditioner import Conditioner
from tests.flows import decode, encode, far, jacobian

pytestmark = pytest.mark.slow  # dear: `make test` runs them, `make check` does not

KINDS = (SplineAutoregressive, MAF, IAF)


def made(kind, dim: int, **knobs):
    return far(kind, dim, **knobs).double()


def rows(n: int, dim: int, size: float = 1.5) -> Tensor:
    return size * torch.randn(n, dim, generator=torch.Generator().manual_seed(1)).double()


# ---------------------------------------------------------------- determinant and inverse


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dim", "n"), [(2, 12), (3, 8), (8, 3)])
def test_log_determinant_is_that_of_autograds_jacobian(kind, dim, n):
    net, x = made(kind, dim), rows(n, dim)
    truth = torch.linalg.slogdet(jacobian(lambda x: encode(net, x), x))[1]
    with torch.no_grad():
        claimed = encode(net, x)[1]
    assert (truth - claimed).abs().max() < 1e-8
    assert (truth + claimed).abs().max() > 0.1, "flipped sign"
    if kind is not SplineAutoregressive:  # whose mixing is a fixed order
        forgetful = claimed - net.mixing.log_diagonal.sum()
        assert (truth - forgetful).abs().max() > 0.01, "forgotten mixing"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [2, 3, 8])
def test_inverse_undoes_the_flow_and_tails_are_finite(kind, dim):
    # in float32 only a flow can be undone that is not too steep, and few bins are steeper
    knobs = {"bins": 40} if kind is SplineAutoregressive else {}
    net, x = made(kind, dim, size=0.1, **knobs), rows(300, dim).clamp(-6, 6)
    with torch.no_grad():
        assert (decode(net, encode(net, x)[0]) - x).abs().max() < 1e-9
        single = copy.deepcopy(net).float()
        there = encode(single, x.float())[0]
        assert (decode(single, there) - x.float()).abs().max() < 1e-4
        wrong = x
        for layer in net.layers():  # the layers undone in the wrong order
            wrong = layer.inverse(wrong)
        assert (wrong - decode(net, x)).abs().max() > 0.1
        z, log_det = encode(single, 1e4 * x.float())
        assert torch.isfinite(z).all() and torch.isfinite(log_det).all()


@pytest.mark.parametrize("kind", [SplineAutoregressive, MAF])
def test_digits_have_64_coordinates(kind):
    net, x = made(kind, 64, size=0.1).float(), rows(20, 64).float()
    with torch.no_grad():
        z, log_det = encode(net, x)
        assert torch.isfinite(log_det).all()
        assert (decode(net, z) - x).abs().max() < 1e-3


# ---------------------------------------------------------------- the order of coordinates


def above_diagonal(layer, x: Tensor) -> float:
    """How much any coordinate depends on a later one."""
    return float(jacobian(layer.forward, x).triu(1).abs().max())


def unmixed(net):
    """Its first layer, whose mixing is the identity again."""
    (layer,) = net.layers()
    layer.matrix, layer.shift = torch.eye(len(layer.shift)).double(), 0 * layer.shift
    return layer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [2, 3, 5])
def test_every_coordinate_sees_only_those_before_it(kind, dim):
    net, x = made(kind, dim, layers=1, size=0.5), rows(6, dim)
    layer = unmixed(net)
    assert above_diagonal(layer, x) < 1e-12
    below = jacobian(layer.forward, x).tril(-1).abs().amax(0)
    i, j = torch.tril_indices(dim, dim, -1)
    assert (below[i, j] > 1e-6).all(), "and all of those"


def test_without_masks_they_see_more():
    net, x = made(MAF, 5, layers=1, size=0.5), rows(6, 5)
    for name, buffer in net.conditioner.named_buffers():
        if name.startswith("mask"):
            buffer.fill_(1.0)
    assert above_diagonal(unmixed(net), x) > 1e-3


def test_in_the_plane_no_mask_is_needed():
    rng = torch.Generator().manual_seed(0)
    net = Conditioner(1, 2, 2, 4, 8, 2, rng, masked=True)
    assert net.alone and not net.masked and net.weights[0].shape[1] == 1


@pytest.mark.parametrize("dim", [2, 5])
def test_one_column_is_that_column_of_all(dim):
    rng = torch.Generator().manual_seed(0)
    (network,) = Conditioner(1, dim, dim, 3, 16, 2, rng, masked=True).networks()
    seen = rows(7, dim).float() if dim > 2 else rows(7, 1).float()
    everything = network(seen)
    for i in range(dim):
        assert torch.allclose(network.column(seen, i), everything[:, i], atol=1e-6)
    assert not torch.allclose(network.column(seen, 1), everything[:, 0], atol=1e-6)


# ---------------------------------------------------------------- closed forms


def constant(kind, scale: Tensor, shift: Tensor):
    """One affine layer whose network is deaf: coordinate i always gets the same numbers."""
    net = kind(3, 1, 8, 1, torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for weight in net.conditioner.weights:
            weight.zero_()
        net.conditioner.biases[-1].copy_(torch.stack([scale, shift], 1).view(1, -1))
    return net


@pytest.mark.parametrize("kind", [MAF, IAF])
def test_a_deaf_affine_layer_is_a_gaussian(kind):
    scale = torch.tensor([0.3, -0.2, 0.1]).double()
    shift = torch.tensor([1.0, -2.0, 0.5]).double()
    net, x = constant(kind, scale, shift), rows(50, 3)
    with torch.no_grad():
        z, log_det = encode(net, x)
    a = REACH * torch.tanh(scale / REACH)
    std = (-a).exp()
    normal = torch.distributions.Normal(-shift * std, std)
    mine = torch.distributions.Normal(0, 1).log_prob(z).sum(1) + log_det
    assert torch.allclose(mine, normal.log_prob(x).sum(1), atol=1e-9)
    assert not torch.allclose(mine - 2 * log_det, normal.log_prob(x).sum(1), atol=0.1)


def test_maf_and_iaf_are_each_others_inverses():
    """With the same weights and mixing one layer's map, of z → x, is the other's of x → z."""
    maf, iaf = made(MAF, 3, layers=1), made(IAF, 3, layers=1)
    iaf.load_state_dict(maf.state_dict())
    a, b = unmixed(maf), unmixed(iaf)
    x = rows(20, 3)
    with torch.no_grad():
        m = b.network(x)  # IAF's inverse reads the noise as MAF's forward reads the data
        back = b.inverse(x)
        assert torch.allclose(a.network(x), m)
        scale, shift = REACH * torch.tanh(m[..., 0] / REACH), m[..., 1]
        assert torch.allclose(back, (x - shift) * (-scale).exp(), atol=1e-9)
        assert torch.allclose(a.forward(x)[0], x * scale.exp() + shift, atol=1e-9)
        assert not torch.allclose(back, a.inverse(x), atol=1e-2)


# ---------------------------------------------------------------- in the plane


def test_in_the_plane_the_first_coordinate_has_a_finer_spline_of_its_own():
    """Alone it is a 1-D change of variables: its slope does not depend on the second."""
    net, x = made(SplineAutoregressive, 2, layers=1, size=0.5, bins=6), rows(40, 2)
    assert net.conditioner.first.shape[1] == 3 * net.FREE * 6 + 1
    assert net.conditioner.weights[-1].shape[-1] == 3 * 6 + 1
    j = jacobian(net.layers()[0].forward, x)
    lone = torch.cat([x[:, :1], torch.zeros(40, 1)], 1)
    assert torch.allclose(j[:, 0, 0], jacobian(net.layers()[0].forward, lone)[:, 0, 0], atol=1e-9)
    assert not torch.allclose(j[:, 1, 1], jacobian(net.layers()[0].forward, lone)[:, 1, 1])


def test_in_the_plane_maf_is_couplings_and_loses_nothing():
    """A first coordinate's constants are a linear map's: with them folded into it both agree."""
    rng = torch.Generator().manual_seed(3)
    net = made(MAF, 2, layers=1)
    (coupling,) = net.layers()
    network = net.conditioner.networks()[0]
    a, m = torch.randn(2, generator=rng).double()
    network.first = torch.stack([a, m])
    bent = REACH * torch.tanh(a / REACH)
    layer = MAFLayer(coupling.matrix, coupling.shift, coupling.log_det, network)
    x = rows(30, 2)
    z, log_det = layer.forward(x)
    u, claimed = coupling.forward(x)
    assert torch.allclose(z[:, 1], u[:, 1], atol=1e-9)
    assert torch.allclose(z[:, 0], u[:, 0] * bent.exp() + m, atol=1e-9)
    assert torch.allclose(log_det, claimed + bent, atol=1e-9)
    assert not torch.allclose(log_det, claimed, atol=1e-3), "forgotten constants"


# ---------------------------------------------------------------- first weights


@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_near_a_rotation_and_draws_from_its_own_generator(kind):
    state = torch.random.get_rng_state()
    a, b = (kind(2, 3, 32, 2, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    x = rows(500, 2).float()
    with torch.no_grad():
        z, log_det = encode(a, x)
    stretch = getattr(a, "stretch", 1.0)  # and, of splines, a stretch that it declares
    assert (log_det - 2 * math.log(stretch)).abs().max() < 0.15
    assert (z.norm(dim=1) - stretch * x.norm(dim=1)).abs().max() < 0.15
