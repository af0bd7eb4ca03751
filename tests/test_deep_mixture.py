"""Deep Gaussian mixture: brute force over paths by SciPy, ancestral samples, and the flat one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from engines import Experiment
from engines.data.base import Dataset
from engines.deep_mixture import DeepMixture, Layers, hierarchical, numbers_in
from engines.mixture.gaussians import Gaussians, free_parameters, log_density

pytestmark = pytest.mark.slow  # dear: `make test` runs them, `make check` does not


def engine_of(steps: int = 40, dataset: str = "moons", **knobs) -> DeepMixture:
    run = Experiment(dataset, "deep_mixture", knobs={"floor": 1e-3, **knobs}).start("cpu")
    return run.train(steps=steps).engine


def by_hand(engine: DeepMixture, z: np.ndarray, floor: float | None = None, square: bool = True):
    """log density of standardised rows z by a loop over all paths, one matrix at a time."""
    net = engine.net
    part = lambda p: [a.detach().numpy() for a in p]  # noqa: E731
    logits, shift, load, noise = (part(p) for p in (net.logits, net.shift, net.load, net.log_noise))
    total = np.zeros(len(z))
    for path in itertools.product(*(range(len(w)) for w in logits)):
        weight, mean, cov = 1.0, shift[0][path[0]].copy(), np.zeros((z.shape[1],) * 2)
        through = np.eye(z.shape[1])  # the product of the loads so far
        for layer, k in enumerate(path):
            weight *= np.exp(logits[layer][k]) / np.exp(logits[layer]).sum()
            if layer:
                mean += through @ shift[layer][k]
            psi = np.diag(np.exp((2 if square else 1) * noise[layer][k]))
            cov += through @ psi @ through.T
            through = through @ load[layer][k]
        cov += through @ through.T + (engine.floor if floor is None else floor) * np.eye(len(cov))
        total += weight * stats.multivariate_normal(mean, cov).pdf(z)
    return np.log(total)


@pytest.mark.parametrize(("layers", "latent"), [(1, 2), (1, 1), (2, 2), (2, 1), (3, 2)])
def test_log_prob_is_the_sum_over_all_paths(layers, latent):
    engine = engine_of(layers=layers, latent=latent, k1=4, k2=3, k3=2)
    x = engine.pool.test[:200]
    z = ((x.double() - engine._mean) / engine._std).numpy()
    jacobian = float(engine._std.double().log().sum())
    ours = engine.log_prob(x).double().numpy()
    np.testing.assert_allclose(ours, by_hand(engine, z) - jacobian, atol=2e-5)
    for wrong in (
        by_hand(engine, z),  # no Jacobian
        by_hand(engine, z, floor=0.05) - jacobian,
        by_hand(engine, z, square=False) - jacobian,  # deviations taken for variances
    ):
        assert np.abs(ours - wrong).max() > 0.01


def test_samples_follow_the_density():
    """Ancestral samples against the exact distribution of a projection of the paths' sum."""
    engine = engine_of(layers=3, k1=3, k2=3, k3=2, floor=1e-2)
    weight, mean, cov = (part.numpy() for part in engine.components())

    def p_value(x: torch.Tensor) -> float:
        out = []
        for angle in np.linspace(0, np.pi, 7)[:-1]:
            u = np.array([np.cos(angle), np.sin(angle)])
            centre, sigma = mean @ u, np.sqrt(np.einsum("i,kij,j->k", u, cov, u))
            steps = lambda v, c=centre, s=sigma: stats.norm.cdf((v[:, None] - c) / s)  # noqa: E731
            cdf = lambda v, f=steps: f(v) @ weight  # noqa: E731
            out.append(stats.kstest(x.double().numpy() @ u, cdf).pvalue)
        return min(out)

    assert p_value(engine.sample(20_000)) > 1e-4
    with torch.no_grad():
        for noise in engine.net.log_noise:  # wrong: samples without the layers' noise
            noise -= 9
    assert p_value(engine.sample(20_000)) < 1e-6


def test_one_layer_is_a_flat_mixture():
    """With one layer every component is N(η, ΛΛᵀ + Ψ), and no other than a mixture's."""
    engine = engine_of(layers=1, k1=6)
    net = engine.net
    load, noise = net.load[0].detach(), net.log_noise[0].detach()
    eye = torch.eye(2, dtype=torch.float64)
    cov = load @ load.mT + torch.diag_embed((2 * noise).exp()) + engine.floor * eye
    flat = Gaussians(net.logits[0].detach().log_softmax(0), net.shift[0].detach(), cov)
    for a, b in zip(engine.gaussians(), flat):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    z = engine._z[:500]
    assert torch.equal(log_density(engine.gaussians(), z), log_density(flat, z))
    narrow = flat._replace(cov=flat.cov - load @ load.mT + 0.5 * load @ load.mT)
    assert (log_density(narrow, z) - log_density(flat, z)).abs().max() > 0.01


def test_training_lowers_the_loss_and_floor_bites():
    run = Experiment("grid25", "deep_mixture").start("cpu")
    x = run.pool.test
    first = -float(run.log_prob(x).mean())
    run.train(steps=150)
    assert -float(run.log_prob(x).mean()) < first - 1
    assert torch.linalg.eigvalsh(run.engine.gaussians().cov).min() < 0.01
    run.set("floor", 0.2)
    assert torch.linalg.eigvalsh(run.engine.gaussians().cov).min() >= 0.2


def test_numbers():
    # one layer with as many latent numbers as data: a full covariance, and no more
    assert numbers_in([7], [2, 2]) == free_parameters(7, 2, "full")
    assert numbers_in([7], [2, 1]) == 6 + 7 * (2 + 3)
    # (5 − 1) + 5·(2 + 4 + 2), and (5 − 1) + 5·(2 + 3)
    assert numbers_in([5, 5], [2, 2, 2]) == 44 + 29
    engine = engine_of(0, layers=2, k1=5, k2=5)
    shown = {m.name: m.value for m in engine.metrics()}
    assert shown["numbers"] == 73 < free_parameters(25, 2, "full") == 149
    stored = sum(p.numel() for p in engine.net.parameters())
    assert stored > 73  # wrong: what rotations make twice is counted twice


def test_the_picture_groups_paths_by_a_layer():
    engine = engine_of(5, layers=3, k1=3, k2=4, k3=2)
    picture = lambda: {p.id: p.drawn() for p in engine.panels()}  # noqa: E731
    points, ellipses = picture()["paths"].marks
    assert len(ellipses.mean) == 24
    order = list(itertools.product(range(3), range(4), range(2)))
    for layer in (1, 2, 3):
        engine.group_by_layer = layer
        points, ellipses = picture()["paths"].marks
        assert ellipses.group.tolist() == [path[layer - 1] for path in order]
        assert points.group.max() < (3, 4, 2)[layer - 1]
    # the centre of a path of the first layer's cloud i lies at η_i + Λ_i m
    net = engine.net
    top = net.shift[1][0] + net.load[1][0] @ net.shift[2][0]
    first = net.shift[0][0] + net.load[0][0] @ top
    expected = first.detach() * engine._std + engine._mean
    np.testing.assert_allclose(ellipses.mean[0], expected, rtol=1e-6)
    weights = picture()["layers"].marks[0]
    assert weights.names[0].startswith("1.") and weights.names[-1].startswith("3.")
    assert sum(weights.values) == pytest.approx(3)


def test_other_data():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(300, 7, generator=rng, dtype=torch.float64)
    net = Layers(hierarchical(x, [3, 2], [4, 4], rng))
    g = net.paths(1e-3)
    assert g.mean.shape == (6, 7)
    assert math.isclose(float(g.log_weight.detach().exp().sum()), 1, rel_tol=1e-9)
    assert torch.linalg.eigvalsh(g.cov).min() >= 1e-3

    class Words(Dataset):
        kind = "sequence"

    class Huge(Dataset):
        kind, shape = "images", (28, 28)

    assert "numbers" in DeepMixture.accepts(Words())
    assert "64" in DeepMixture.accepts(Huge())
    run = Experiment("digits", "deep_mixture", knobs={"floor": 0.1}).start("cpu").train(steps=3)
    frame = run.frame()
    assert "means" in [p.id for p in frame.panels]
