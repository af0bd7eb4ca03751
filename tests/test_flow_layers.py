"""The layers and bases of flows one by one, against closed forms and reference libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from engines.flow import (
    MAF,
    Coupling,
    GaussianMixture,
    Glow,
    Logit,
    Planar,
    Radial,
    RealNVP,
    Squash,
    Standardise,
    Uniform,
)
from engines.flow.affine import REACH, TOGETHER
from engines.flow.planar import PlanarLayer, RadialLayer, root
from tests.flows import doubled, jacobian_gap, made, perturbed, round_trip, shake, twins


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- fixed layers


def test_fixed_layers():
    x = torch.rand(6, 5, dtype=torch.float64) * 17
    logit = Logit(17)
    assert jacobian_gap(logit.forward, x) < 1e-8
    assert torch.allclose(logit.inverse(logit.forward(x)[0]), x, atol=1e-9)
    assert jacobian_gap(lambda x: (logit.forward(x)[0], -logit.forward(x)[1]), x) > 0.1
    assert logit.forward(torch.full((1, 5), 18.0))[1] == -math.inf, "no mass outside the pixels"
    scale = Standardise(x.mean(0), x.std(0))
    assert jacobian_gap(scale.forward, x) < 1e-8
    assert torch.allclose(scale.inverse(scale.forward(x)[0]), x)


def test_the_squash_is_the_logistic_distributions():
    y = torch.linspace(-6, 6, 41, dtype=torch.float64)[:, None]
    squash = Squash(torch.float64)
    z, log_det = squash.forward(y)
    exact = stats.logistic(scale=math.sqrt(3) / math.pi)  # variance 1
    assert np.allclose(z[:, 0], math.sqrt(3) * (2 * exact.cdf(y[:, 0]) - 1))
    assert exact.var() == pytest.approx(1)
    assert jacobian_gap(squash.forward, y) < 1e-8
    assert torch.allclose(squash.inverse(z), y)
    base = Uniform(1)
    assert np.allclose(base.log_prob(z) + log_det, exact.logpdf(y[:, 0]))
    assert not np.allclose(base.log_prob(z) - log_det, exact.logpdf(y[:, 0]), atol=0.1)
    far = torch.tensor([[-7.0], [9.0]])  # a float32 box would have lost them
    assert torch.allclose(Squash().inverse(Squash().forward(far)[0]), far, atol=1e-4)
    lost = Squash().inverse(Squash().forward(far)[0].float())
    assert not torch.allclose(lost, far, atol=1e-4)


# ---------------------------------------------------------------- affine couplings


def test_the_mixings_determinant_counts():
    engine = doubled(perturbed(2, kind="RealNVP"))
    net = engine.average.module.flow.mixing
    with torch.no_grad():
        net.log_diagonal += 0.2
    sign, log_det = torch.linalg.slogdet(net.matrices())
    assert torch.allclose(log_det, net.log_diagonal.sum(1), atol=1e-10)
    assert (sign.abs() == 1).all()
    assert not torch.allclose(log_det, net.upper.diagonal(dim1=1, dim2=2).sum(1), atol=1e-2)

    def forgetful(x):
        z, log_det = engine.forward(x)
        return z, log_det - net.log_diagonal.sum()

    assert jacobian_gap(forgetful, engine.pool.train[:5]) > 0.1


def test_with_idle_networks_the_flow_is_one_linear_map():
    """Conditioners at zero: q is the Gaussian N(m, Σ) with Σ = (S⁻¹ΠA)⁻ᵀ(S⁻¹ΠA)⁻¹."""
    engine = perturbed(2, kind="RealNVP")
    net = engine.average.module.flow
    with torch.no_grad():
        net.conditioner.weights[-1].zero_()
        net.conditioner.biases[-1].zero_()
    matrix, shift = torch.eye(2), torch.zeros(2)
    for a, c in zip(net.mixing.matrices(), net.mixing.shift):
        matrix, shift = matrix @ a, shift @ a + c
    matrix = torch.diag(1 / engine._std) @ matrix  # z = (x − mean)·matrix + shift
    undo = torch.linalg.inv(matrix)
    cov = undo.T @ undo
    exact = torch.distributions.MultivariateNormal(engine._mean - shift @ undo, cov)
    x = engine.pool.train[:200]
    with torch.no_grad():
        assert torch.allclose(engine.log_prob(x), exact.log_prob(x), atol=2e-3, rtol=1e-4)
        for name, wrong in twins(engine).items():
            assert not torch.allclose(wrong(x), exact.log_prob(x), atol=0.1), name


@pytest.mark.parametrize("dim", [2, 3, 64])
@pytest.mark.parametrize("mixing", ["linear", "swap"])
def test_a_coupling_is_undone_in_its_own_order(dim, mixing):
    engine = perturbed(dim, kind="RealNVP", mixing=mixing)
    x = engine.pool.train[:300]

    class Backwards(Coupling):  # forgets that s multiplies: adds t after scaling back
        def inverse(self, z: Tensor) -> Tensor:
            u, v = z.split(self.parts, 1)
            s, t = self._scale_shift(u)
            mixed = torch.cat([u, v * (-s).exp() - t], 1)
            return (mixed - self.shift) @ torch.linalg.inv(self.matrix)

    def wrong(z: Tensor) -> Tensor:
        for layer in engine.chain()[::-1]:
            z = Backwards.inverse(layer, z) if isinstance(layer, Coupling) else layer.inverse(z)
        return z

    with torch.no_grad():
        assert round_trip(engine, engine.decode, x) < 1e-4
        assert round_trip(engine, wrong, x) > 1e-3


@pytest.mark.parametrize("kind", [RealNVP, MAF])
@pytest.mark.parametrize("layers", [3, 24])
def test_however_large_the_weights_affine_layers_together_stretch_only_so_much(kind, layers):
    net = kind(2, layers, 16, 1, rng(1))
    with torch.no_grad():
        for p in net.parameters():
            p += 30 * torch.randn(p.shape, generator=rng(2)) * (p is not net.mixing.log_diagonal)
        x = 10 * torch.randn(200, 2, generator=rng(3))
        # each layer on the same rows: what it may say, not what becomes of them
        most = sum((one.forward(x)[1] - one.log_det).abs().max() for one in net.layers())
        limit = min(TOGETHER, layers * REACH)
        assert 0.9 * limit < most < 1.001 * limit
        loose = net.layers()
        for one in loose:
            one.most = 2 * REACH
        assert sum((one.forward(x)[1] - one.log_det).abs().max() for one in loose) > 1.5 * limit


@pytest.mark.parametrize("dim", [2, 5])
def test_an_actnorm_begins_with_mean_zero_and_variance_one(dim):
    net = Glow(dim, 4, 16, 2, rng())
    shake(net, 1, 0.2)
    x = torch.randn(400, dim, generator=rng(2)) * torch.linspace(0.2, 3, dim) + 4

    def entering(net: Glow) -> list[Tensor]:
        """What leaves each actnorm, worked out by the paper's formula alone."""
        out, state = [], x
        for layer, a, b in zip(net.layers(), net.log_scale, net.bias):
            out.append(state * a.exp() + b)
            state, _ = layer.forward(state)
        return out

    def crooked(net: Glow) -> float:
        parts = torch.stack([torch.stack(torch.std_mean(y, 0)) for y in entering(net)])
        return float((parts - torch.tensor([1.0, 0.0])[:, None]).abs().max())

    with torch.no_grad():
        assert crooked(net) > 0.5, "the wrong twin: first values that saw no data"
        net.prepare(x)
        assert crooked(net) < 1e-4
        # the layer is actnorm, then the linear map, then a RealNVP coupling
        first, matrix = net.layers()[0], net.mixing.matrices()[0]
        y = entering(net)[0] @ matrix + net.mixing.shift[0]
        assert torch.allclose(first.forward(x)[0][:, : dim // 2], y[:, : dim // 2], atol=1e-4)


# ---------------------------------------------------------------- planar and radial


def test_the_root_search_finds_the_root():
    c = torch.cat(
        [torch.rand(500, generator=rng()) - 0.999, torch.rand(500, generator=rng(1)) * 90]
    )
    q = torch.randn(1000, generator=rng(2)) * 20
    s = root(c, q)
    assert float((s + c.double() * torch.tanh(s) - q.double()).abs().max()) < 1e-9
    assert root(torch.tensor(math.nan), torch.tensor(1.0)).shape == (), "and always comes back"


def test_the_planar_constraint_is_the_papers():
    net = Planar(3, 6, 0, 0, rng())
    shake(net, 0, 2.0)
    raw = (net.w * net.u).sum(1)
    assert (raw < -1).any(), "else there is nothing to constrain"
    u, bend = net.constrained()
    assert torch.allclose((u * net.w).sum(1), bend, atol=1e-4) and (bend > -1).all()
    paper = torch.log1p(raw.exp()) - 1
    assert torch.allclose(bend, paper, atol=2e-3)
    across = net.u - u  # only along w
    along = across - (across * net.w).sum(1, keepdim=True) * net.w / (net.w**2).sum(1, keepdim=True)
    assert float(along.detach().abs().max()) < 1e-5


def test_without_its_constraint_a_planar_layer_has_no_inverse():
    u, w, b = torch.tensor([-2.0, 1.0]), torch.tensor([1.5, 0.2]), torch.tensor(0.1)
    x = torch.randn(400, 2, generator=rng())

    def gap(layer: PlanarLayer) -> float:
        return float((layer.inverse(layer.forward(x)[0]) - x).abs().max())

    assert gap(PlanarLayer(u, w, b, u @ w)) > 0.1, "û·w < −1 folds the plane over"
    net = Planar(2, 2, 0, 0, rng())
    with torch.no_grad():
        net.u[:], net.w[:], net.b[:] = u, w, b
        layer = net.layers()[0]
        assert gap(layer) < 1e-4
    double = [v.detach().double() for v in (layer.u, layer.w, layer.b)]
    right = PlanarLayer(*double, double[0] @ double[1])
    assert jacobian_gap(right.forward, x[:20]) < 1e-8
    free = PlanarLayer(*double, (u @ w).double())  # the log-determinant of the free u
    assert not jacobian_gap(free.forward, x[:20]) < 0.1


def test_a_radial_layer_moves_along_its_rays_and_back():
    net = Radial(3, 8, 0, 0, rng())
    shake(net, 0, 2.0)
    x = torch.randn(200, 3, generator=rng(1)) * 3
    with torch.no_grad():
        for layer in net.layers():
            assert layer.alpha > 0 and layer.beta > -layer.alpha
            z, _ = layer.forward(x)
            cosine = torch.cosine_similarity(x - layer.centre, z - layer.centre)
            assert float(cosine.min()) > 1 - 1e-4
            assert float((layer.inverse(z) - x).abs().max()) < 1e-4
    layer = RadialLayer(torch.zeros(2), torch.tensor(0.5), torch.tensor(-0.9))
    folded = x[:, :2] * 0.1
    assert float((layer.inverse(layer.forward(folded)[0]) - folded).abs().max()) > 0.01, (
        "the wrong twin: β < −α"
    )


# ---------------------------------------------------------------- the mixture base


def mixture(dim: int = 2) -> GaussianMixture:
    base = GaussianMixture(dim, 4)
    shake(base, 3, 0.6)
    return base


def test_the_mixture_bases_density_and_draws():
    base = mixture()
    scale = base.LEAST + base.log_scale.exp()
    exact = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=base.logit),
        torch.distributions.Independent(torch.distributions.Normal(base.mean, scale), 1),
    )
    with torch.no_grad():
        z = base.sample(40_000, rng(1))
        assert torch.allclose(base.log_prob(z), exact.log_prob(z), atol=1e-4)
        assert torch.allclose(base.cost(z), -exact.log_prob(z), atol=1e-4)
        assert torch.allclose(z.mean(0), exact.mean, atol=0.02)
        assert torch.allclose(z.var(0), exact.variance, rtol=0.03)
        equal = mixture()
        equal.logit.zero_()
        assert not torch.allclose(equal.log_prob(z), exact.log_prob(z), atol=0.1)
        assert not torch.allclose(equal.sample(40_000, rng(1)).mean(0), exact.mean, atol=0.02)


def test_the_mixture_base_begins_on_rows_apart():
    modes = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]])
    rows = modes.repeat(50, 1) + 0.05 * torch.randn(200, 2, generator=rng())
    base = GaussianMixture(2, 4)
    base.prepare(rows, rng(1))
    assert torch.cdist(modes, base.mean).min(1).values.max() < 0.5, "one for each"
    base.prepare(torch.ones(20, 2), rng(1))
    assert torch.isfinite(base.mean).all()


@pytest.mark.parametrize("base", ["Gaussian", "uniform", "mixture"])
def test_each_base_with_a_flow_that_does_little(base):
    """The flow at its start is nearly linear: q must be what its twins are not."""
    engine = made(2, base=base)
    x = engine.pool.train[:100]
    with torch.no_grad():
        right = engine.log_prob(x)
        assert right.dtype == torch.float32
        for name, wrong in twins(engine).items():
            assert not torch.allclose(wrong(x).float(), right, atol=0.05), name
