"""Gaussian mixture: scikit-learn and SciPy as oracles, each check with a twin that must fail."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits

from engines import Experiment, mixture
from engines.base import Engine
from engines.data.base import Dataset, PointsDataset
from engines.knobs import BadInput
from engines.mixture import Mixture
from engines.mixture.gaussians import (
    Gaussians,
    e_step,
    em_update,
    first_guess,
    log_density,
    log_joint,
    m_step,
    plus_plus,
)
from tests.mixtures import KINDS, blob_run, blobs, standardised, theirs


def digits() -> np.ndarray:
    rng = np.random.default_rng(0)
    rows = load_digits().data[:700]
    return rows + rng.random(rows.shape)


# ---------------------------------------------------------------- EM against scikit-learn


def gap(update, x: torch.Tensor, covariance: str, k: int, floor: float, steps: int = 7) -> float:
    """Largest difference from scikit-learn in weights, means, covariances and likelihood."""
    start = first_guess(x, k, "k-means++", floor, torch.Generator().manual_seed(3))
    g = start
    for _ in range(steps):
        g, log_q = update(g, x, covariance, floor)
    model, cov = theirs(x, start, covariance, floor, steps)
    return max(
        np.abs(g.log_weight.exp().numpy() - model.weights_).max(),
        np.abs(g.mean.numpy() - model.means_).max(),
        np.abs(g.cov.numpy() - cov).max(),
        abs(float(log_q) - model.lower_bound_),
    )


def unnormalised(g, x, covariance, floor):
    """Wrong: responsibilities are the joint densities, never divided by their sum."""
    joint = log_joint(g, x)
    return m_step(x, joint.exp(), covariance, floor, g), torch.logsumexp(joint, 0).mean()


def uncentred(g, x, covariance, floor):
    """Wrong: covariances are second moments; the mean is not subtracted."""
    new, log_q = em_update(g, x, covariance, floor)
    return new._replace(cov=new.cov + new.mean[:, :, None] * new.mean[:, None, :]), log_q


def floorless(g, x, covariance, floor):
    """Wrong: the floor is forgotten."""
    return em_update(g, x, covariance, 0.0)


def weightless(g, x, covariance, floor):
    """Wrong: the E-step forgets the weights."""
    flat = g._replace(log_weight=torch.full_like(g.log_weight, -math.log(len(g.mean))))
    log_q, r = e_step(flat, x)
    return m_step(x, r, covariance, floor, g), log_q.mean()


@pytest.mark.parametrize("covariance", KINDS)
@pytest.mark.parametrize("data", ["blobs", pytest.param("digits", marks=pytest.mark.slow)])
def test_em_is_scikit_learns(covariance, data):
    x, k, floor = {
        "blobs": lambda: (standardised(blobs()), 5, 1e-3),
        "digits": lambda: (standardised(digits()), 6, 0.1),
    }[data]()
    assert gap(em_update, x, covariance, k, floor) < 1e-8
    for twin in (unnormalised, uncentred, floorless, weightless):
        assert not gap(twin, x, covariance, k, floor) < 1e-5, twin.__name__


def test_restricted_covariances_are_not_the_full_one():
    x = standardised(blobs())
    for covariance in ("diagonal", "spherical", "tied"):
        assert gap(lambda g, x, _, f: em_update(g, x, "full", f), x, covariance, 5, 1e-3) > 1e-3


def worst_step(update, covariance: str) -> float:
    """The largest fall of the mean log-likelihood over runs from several starts, floor 0."""
    x, falls = standardised(blobs()), []
    for seed in range(3):
        for init in ("random points", "one spot"):
            g = first_guess(x, 4, init, 0.0, torch.Generator().manual_seed(seed))
            likelihood = []
            for _ in range(25):
                g, log_q = update(g, x, covariance, 0.0)
                likelihood.append(float(log_q))
            falls.append(-np.diff(likelihood).min())
    return max(falls)


@pytest.mark.parametrize("covariance", KINDS)
def test_em_never_lowers_the_likelihood(covariance):
    assert worst_step(em_update, covariance) < 1e-12
    for twin in (unnormalised, uncentred):
        assert not worst_step(twin, covariance) < 1e-6, twin.__name__


def test_responsibilities_are_bayes_rule():
    g = first_guess(standardised(blobs()), 4, "random points", 0.01, torch.Generator())
    x = standardised(blobs())[:50]
    parts = np.stack([
        w * stats.multivariate_normal(m, c).pdf(x)
        for w, m, c in zip(g.log_weight.exp().numpy(), g.mean.numpy(), g.cov.numpy())
    ])  # fmt: skip
    log_q, r = e_step(g, x)
    np.testing.assert_allclose(r, parts / parts.sum(0), atol=1e-12)
    np.testing.assert_allclose(log_q, np.log(parts.sum(0)), rtol=1e-10)
    assert torch.allclose(r.sum(0), torch.ones(50, dtype=torch.float64))


def textbook(g, x, covariance, floor):
    """One EM iteration from all responsibilities at once, and the old mean log-likelihood."""
    log_q, r = e_step(g, x)
    return *m_step(x, r, covariance, floor, g), log_q.mean()


@pytest.mark.parametrize("covariance", KINDS)
def test_em_by_blocks_is_em_on_all_rows(covariance):
    x = standardised(blobs(70_000))  # several blocks; and far from the origin, after a feed
    for far in (0.0, 300.0):
        g = first_guess(x[:1000], 4, "random points", 0.01, torch.Generator().manual_seed(1))
        g, rows = g._replace(mean=g.mean + far), x + far

        def difference(a, b) -> float:
            return max(float((one - other).abs().max()) for one, other in zip(a, b))

        new, log_q = em_update(g, rows, covariance, 0.01)
        assert difference((*new, log_q), textbook(g, rows, covariance, 0.01)) < 1e-8
        forgotten = textbook(g, rows[:60_000], covariance, 0.01)  # wrong: a block too few
        assert difference((*new, log_q), forgotten) > 1e-5
        np.testing.assert_allclose(log_density(g, rows), e_step(g, rows)[0], atol=1e-8)


# ---------------------------------------------------------------- gradient


@pytest.mark.slow
@pytest.mark.parametrize("covariance", KINDS)
def test_gradient_reaches_the_optimum_of_em(covariance, monkeypatch):
    def train(fit: str, steps: int):
        run = blob_run(fit=fit, covariance=covariance, floor=1e-4, batch=50_000, lr=0.1)
        loss = [run.engine.step()["loss"] for _ in range(steps)][-1]
        return float(loss), run.engine.components()

    def distance(a, b) -> float:
        order = [int((a[1] - mean).norm(dim=1).argmin()) for mean in b[1]]
        return max(float((part[order] - other).abs().max()) for part, other in zip(a, b))

    loss, parts = train("EM", 60)
    other_loss, other_parts = train("gradient", 300)
    assert abs(loss - other_loss) < 1e-4
    assert distance(other_parts, parts) < 0.02

    right = mixture.log_joint

    def no_determinant(g, x):  # wrong: the normaliser without log |Σ|, half of it put back
        log_root = torch.linalg.cholesky(g.cov).diagonal(dim1=1, dim2=2).log().sum(1)
        return right(g, x) + 0.5 * log_root[:, None]

    monkeypatch.setattr(mixture, "log_joint", no_determinant)
    assert distance(train("gradient", 300)[1], parts) > 0.1


def test_both_fits_start_at_the_same_mixture():
    for covariance in KINDS:
        a, b = (blob_run(fit=f, covariance=covariance, floor=0.3).engine.gaussians()
                for f in ("EM", "gradient"))  # fmt: skip
        for one, other in zip(a, b):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_live_knobs_bite():
    run = blob_run(fit="gradient").train(steps=5)
    run.set("lr", 0.3)
    run.set("batch", 16)
    before = run.engine.free.mean.detach().clone()
    run.train(steps=1)
    assert (run.engine.free.mean - before).abs().max() > 0.1
    run = blob_run().train(steps=5)
    run.set("floor", 0.5)
    run.train(steps=1)
    assert torch.linalg.eigvalsh(run.engine.cov).min() >= 0.5


# ---------------------------------------------------------------- density and samples


def density_gap(engine: Engine, log_prob) -> float:
    """Largest difference of log_prob from SciPy's density of the components in data units."""
    x = torch.tensor(blobs(200, seed=5), dtype=torch.float32)
    weight, mean, cov = (part.numpy() for part in engine.components())
    parts = [w * stats.multivariate_normal(m, c).pdf(x) for w, m, c in zip(weight, mean, cov)]
    return float(np.abs(log_prob(x).numpy() - np.log(np.sum(parts, 0))).max())


@pytest.mark.parametrize("fit", ["EM", "gradient"])
@pytest.mark.parametrize("covariance", KINDS)
def test_log_prob_is_scipys(fit, covariance):
    engine = blob_run(fit=fit, covariance=covariance).train(steps=20).engine
    assert density_gap(engine, engine.log_prob) < 2e-5
    jacobian = engine._log_std
    assert density_gap(engine, lambda x: engine.log_prob(x) + jacobian) > 0.1  # dropped
    assert density_gap(engine, lambda x: engine.log_prob(x) + 2 * jacobian) > 0.1  # wrong sign


def test_log_prob_is_scikit_learns_on_standardised_rows():
    run = blob_run(n_components=5, floor=1e-3)
    engine = run.engine
    start, x = engine.gaussians(), engine._z
    run.train(steps=12)
    model, _ = theirs(x, start, "full", 1e-3, 12)
    held = torch.tensor(blobs(200, seed=5), dtype=torch.float32)
    z = (held.double() - engine._mean) / engine._std
    expected = model.score_samples(z.numpy()) - float(engine._std.double().log().sum())
    np.testing.assert_allclose(run.log_prob(held).double(), expected, atol=2e-5)


def test_density_integrates_to_one():
    run = blob_run().train(steps=30)
    _, mean, cov = run.engine.components()
    reach = 9 * cov.diagonal(dim1=1, dim2=2).max(0).values.sqrt()
    low, high = mean.min(0).values - reach, mean.max(0).values + reach
    axes = [torch.linspace(float(a), float(b), 500) for a, b in zip(low, high)]
    grid = torch.cartesian_prod(*axes)
    cell = float(axes[0][1] - axes[0][0]) * float(axes[1][1] - axes[1][0])
    mass = float(run.log_prob(grid).exp().double().sum()) * cell
    assert abs(mass - 1) < 1e-4
    assert abs(mass * float(run.engine._std.prod()) - 1) > 0.01  # without the Jacobian


def p_value(engine: Mixture, x: torch.Tensor) -> float:
    """Smallest Kolmogorov–Smirnov p-value of x over several directions.

    Along a direction u a mixture is Σ π_k N(μ_k·u, uᵀΣ_k u), whose CDF is exact.
    """
    weight, mean, cov = (part.numpy() for part in engine.components())
    std = engine._std.double().numpy()
    out = []
    for angle in np.linspace(0, np.pi, 7)[:-1]:
        u = np.array([np.cos(angle), np.sin(angle)]) / std
        centre, sigma = mean @ u, np.sqrt(np.einsum("i,kij,j->k", u, cov, u))
        cdf = lambda v, c=centre, s=sigma: (weight * stats.norm.cdf((v[:, None] - c) / s)).sum(1)  # noqa: E731
        out.append(stats.kstest(x.double().numpy() @ u, cdf).pvalue)
    return min(out)


def test_samples_follow_the_density(monkeypatch):
    run = blob_run().train(steps=30)
    engine = run.engine
    x = run.sample(20_000)
    assert x.shape == (20_000, 2)
    assert x.dtype == torch.float32
    assert p_value(engine, x) > 1e-4
    assert p_value(engine, engine.standardise(x)) < 1e-6  # wrong units
    right = torch.linalg.cholesky_ex
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda a: (right(a)[0].mT, None))
    assert p_value(engine, run.sample(20_000)) < 1e-6  # Lᵀ in place of L


def test_fixed_latents_glide():
    engine = Experiment("ring8", "mixture").start("cpu").train(steps=10).engine

    def draw():
        with engine.still():
            return engine.sample(4000)

    before = draw()
    assert torch.equal(before, draw())
    shift = torch.zeros(8, dtype=torch.float64)
    shift[2] = 0.05
    engine.log_weight = (engine.log_weight + shift).log_softmax(0)
    moved = ((draw() - before).norm(dim=1) > 0.2).double().mean()
    assert 0.001 < moved < 0.05


# ---------------------------------------------------------------- the engine


@pytest.mark.slow
def test_ring8_is_learned_from_every_seed():
    for seed in range(10):
        run = Experiment("ring8", "mixture", seed=seed).start("cpu").train(steps=25)
        x = run.pool.test
        kl = (run.dataset.log_prob(x).double() - run.log_prob(x).double()).mean()
        assert -0.005 < float(kl) <= 0.01, seed


@pytest.mark.slow
def test_gradient_learns_ring8():
    run = Experiment("ring8", "mixture", seed=1, knobs={"fit": "gradient"}).start("cpu")
    x = run.train(steps=4000).pool.test
    assert float((run.dataset.log_prob(x) - run.log_prob(x)).mean()) < 0.03


@pytest.mark.parametrize("fit", ["EM", "gradient"])
def test_the_loss_is_the_nll_of_the_training_points(fit):
    run = blob_run(fit=fit, batch=50_000).train(steps=3)
    engine = run.engine
    x = engine.unstandardise(engine._z)
    for _ in range(3):
        nll = -engine.log_prob(x).double().mean()
        assert abs(float(engine.step()["loss"] - nll)) < 1e-5


@pytest.mark.parametrize("covariance", KINDS)
def test_dead_components_stay_finite(covariance):
    x = standardised(blobs(100))
    g = first_guess(x, 4, "random points", 1e-8, torch.Generator().manual_seed(0))
    weight = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64)
    far = g.mean.clone()
    far[3] += 1e4
    g = Gaussians(weight.log(), far, g.cov)
    for _ in range(10):
        g, log_q = em_update(g, x, covariance, 1e-8)
        assert log_q.isfinite()
    assert g.mean.isfinite().all()
    assert g.cov.isfinite().all()
    torch.testing.assert_close(g.mean[2:], far[2:])  # nobody called them


@pytest.mark.parametrize("init", ["k-means++", "random points", "one spot"])
@pytest.mark.parametrize("fit", ["EM", "gradient"])
def test_forty_components_on_a_few_points(fit, init):
    rows = np.repeat(blobs(12), 2, axis=0)  # fewer distinct points than components
    knobs = {"n_components": 40, "init": init, "fit": fit, "floor": 1e-8, "n_points": 100}
    run = Experiment.from_points(rows, "mixture", knobs=knobs).start("cpu").train(steps=30)
    assert run.log_prob(rows).isfinite().all()
    assert run.sample(100).isfinite().all()
    run.frame()


@pytest.mark.slow
def test_plus_plus_finds_separate_clouds():
    rng = torch.Generator().manual_seed(0)
    x = Experiment("ring8", "mixture").start("cpu").engine._z
    for _ in range(20):
        assert torch.cdist(*[plus_plus(x, 8, rng)] * 2).fill_diagonal_(9).min() > 0.5
    crowded = [torch.cdist(*[x[torch.randperm(len(x), generator=rng)[:8]]] * 2)
               .fill_diagonal_(9).min() > 0.5 for _ in range(20)]  # fmt: skip
    assert not all(crowded)  # rows drawn evenly do fall together


@pytest.mark.parametrize("fit", ["EM", "gradient"])
def test_checkpoint_and_frames_change_nothing(fit):
    plain = blob_run(fit=fit).train(steps=40).engine.gaussians()
    run = blob_run(fit=fit).train(steps=20)
    saved = run.checkpoint()
    for _ in range(20):
        run.frame()
        run.train(steps=1)
    resumed = blob_run(fit=fit).restore(saved).train(steps=20).engine.gaussians()
    for a, b, c in zip(plain, run.engine.gaussians(), resumed):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_refusals():
    class Words(Dataset):
        kind = "sequence"

    class Huge(Dataset):
        kind, shape = "images", (28, 28)

    assert "numbers" in Mixture.accepts(Words())
    assert "256" in Mixture.accepts(Huge())
    assert Mixture.accepts(PointsDataset(blobs())) is None
    with pytest.raises(BadInput):
        Experiment("ring8", "mixture", knobs={"n_components": 129})


def test_a_collapsing_cloud_shows_in_the_numbers():
    def numbers(floor: float):
        knobs = {"n_components": 20, "n_points": 100, "floor": floor}
        run = Experiment("moons", "mixture", seed=1, knobs=knobs).start("cpu").train(steps=100)
        return run.engine, {m.name: m.value for m in run.engine.metrics()}

    engine, low = numbers(1e-8)
    spread = min(np.linalg.eigvalsh(cov)[0] for cov in engine.cov.numpy())
    assert low["smallest_sigma"] == pytest.approx(math.sqrt(spread), rel=1e-6)
    assert low["smallest_sigma"] != pytest.approx(spread, rel=0.1)  # a variance
    _, high = numbers(0.05)
    assert low["smallest_sigma"] < 0.002 < 0.2 < high["smallest_sigma"]
    assert low["unseen"] > 10 * abs(high["unseen"])


# ---------------------------------------------------------------- other data


def after_two_strokes(covariance: str) -> tuple[torch.Tensor, int]:
    """Weights, and how many of eight modes have a component of their own, when one spot has
    starved all components but one before the modes appeared."""
    rng = np.random.default_rng(0)
    spot = rng.normal(0, 0.05, (400, 2))
    run = Experiment.from_points(spot, "mixture", knobs={"covariance": covariance}).start("cpu")
    run.engine.log_weight = torch.log(torch.tensor([0.993] + [0.001] * 7, dtype=torch.float64))
    angle = 2 * np.pi * np.arange(8) / 8
    modes = 3 * np.stack([np.cos(angle), np.sin(angle)], 1)
    ring = modes[rng.integers(0, 8, 1600)] + rng.normal(0, 0.15, (1600, 2))
    for stroke in (ring[:-1], ring):
        run.feed(run.experiment.but(points=stroke))
        run.train(steps=60)
    weight, mean, _ = run.engine.components()
    near = torch.cdist(torch.from_numpy(modes), mean.double()).min(1).values
    return weight, int((near < 0.3).sum())


@pytest.mark.parametrize("covariance", ["full", "diagonal", "spherical", "tied"])
def test_what_the_old_data_starved_finds_the_new_data(covariance, monkeypatch):
    # two that land on one mode share it for ever: EM has such optima, and they are left to it
    follows = lambda weight, found: bool((weight > 0.05 / 8).all()) and found >= 6  # noqa: E731
    assert follows(*after_two_strokes(covariance))
    monkeypatch.setattr(mixture, "revive", lambda g, z, covariance: g)
    assert not follows(*after_two_strokes(covariance))
