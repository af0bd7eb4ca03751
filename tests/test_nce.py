"""Noise-contrastive estimation: closed forms, quadrature and scikit-learn as oracles.

Each check is a function that a wrong twin (forgotten log ν, swapped labels …) must fail.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import kstest, norm
from sklearn.mixture import GaussianMixture
from torch.nn.functional import softplus

from engines import DATASETS, Experiment
from engines.data.base import Dataset, PointsDataset
from engines.marks import Heat, Paths, Points
from engines.mixture.gaussians import Gaussians
from engines.nce import NCE, NOISES, Noise, contrast
from engines.nce.grid import Grid
from engines.nce.pictures import effective, zero_line
from engines.quadrature import Quadrature, domain

WIDE = (-8.0, 8.0, -8.0, 8.0)


class Gaussian:
    """N(mean, diag(std²)) by torch's own distribution; mean, std (2,)."""

    def __init__(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        self.mean, self.std = mean, std
        self.law = torch.distributions.Independent(torch.distributions.Normal(mean, std), 1)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        return self.law.log_prob(x)

    def sample(self, n: int, rng: torch.Generator) -> torch.Tensor:
        return self.mean + self.std * torch.randn(n, 2, generator=rng)


def uniform(n: int, box, rng: torch.Generator) -> torch.Tensor:
    x0, x1, y0, y1 = box
    size = torch.tensor([x1 - x0, y1 - y0])
    return torch.tensor([x0, y0]) + size * torch.rand(n, 2, generator=rng)


class OneGaussian(Dataset):
    """N(mean, std²), round; nameless, so that it does not register."""

    extent = (-4.0, 4.0, -4.0, 4.0)

    def __init__(self, std: float = 1.0, x: float = 0.0) -> None:
        super().__init__()
        self.law = Gaussian(torch.tensor([x, 0.0]), torch.full((2,), std))

    def sample(self, n, generator, split="train"):
        return self.law.sample(n, generator)

    def log_prob(self, x):
        return self.law.log_prob(x)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(dataset: str = "ring8soft", **knobs) -> NCE:
    return Experiment(dataset, "nce", knobs=knobs).start("cpu").engine


def knowing(std: float, x: float = 0.0, offset: float = 0.0, **knobs) -> NCE:
    """An engine whose log ratio is put in by hand: the exact one, plus `offset`."""
    engine = NCE({"noise": "wide", **knobs}, seed=0)
    dataset = OneGaussian(std, x)
    engine.start(dataset.pool(0))
    noise = engine.law
    engine.log_ratio = lambda at: dataset.log_prob(at) - noise.log_prob(at) + offset
    return engine


# ---------------------------------------------------------------- the loss

P = Gaussian(torch.zeros(2), torch.tensor([1.0, 1.0]))
N = Gaussian(torch.tensor([1.0, 0.0]), torch.tensor([1.5, 1.0]))


def ratio_of(x: torch.Tensor) -> torch.Tensor:
    return P.log_prob(x) - N.log_prob(x)


def swapped(on_data, on_noise, ratio):
    return contrast(-on_data, -on_noise, ratio)


def without_prior(on_data, on_noise, ratio):
    return softplus(-on_data).mean() + ratio * softplus(on_noise).mean()


def jensen_shannon(ratio: float) -> float:
    """The best classifier's loss, by adaptive quadrature on the line: y tells nothing."""
    p, n = norm(0, 1).pdf, norm(1, 1.5).pdf

    def f(x):
        a, b = p(x), ratio * n(x)
        return -a * math.log(a / (a + b)) - b * math.log(b / (a + b))

    return quad(f, -9, 10, limit=200)[0]


@pytest.mark.parametrize("nu", [1, 4])
def test_the_best_classifiers_loss_is_that_of_quadrature(nu):
    data, noise = P.sample(200_000, rng(1)), N.sample(200_000, rng(2))
    truth = jensen_shannon(nu)
    h = ratio_of(data), ratio_of(noise)
    assert float(contrast(*h, nu)) == pytest.approx(truth, abs=0.01 * nu)
    assert abs(float(swapped(*h, nu)) - truth) > 0.3
    if nu > 1:
        assert abs(float(without_prior(*h, nu)) - truth) > 0.3


def slopes(loss, data, noise, nu, turn=0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """d loss / dε of h + ε·φ for several φ, at the exact ratio h, and rough standard errors."""

    def features(x):
        return torch.stack([torch.ones(len(x)), x[:, 0], x[:, 0].square(), x[:, 1].sin()], 1)

    weight = torch.zeros(4, requires_grad=True)
    a, b = features(data), features(noise)
    h = ratio_of(data) + turn + a @ weight, ratio_of(noise) + turn + b @ weight
    (slope,) = torch.autograd.grad(loss(*h, nu), weight)
    error = a.std(0) / len(a) ** 0.5 + nu * b.std(0) / len(b) ** 0.5 + 2 / len(a) ** 0.5
    return slope, error


def test_the_exact_ratio_is_where_the_loss_is_flat():
    data, noise, nu = P.sample(100_000, rng(3)), N.sample(400_000, rng(4)), 4
    slope, error = slopes(contrast, data, noise, nu)
    assert bool((slope.abs() < 4 * error).all())
    for wrong in (swapped, without_prior):
        slope, error = slopes(wrong, data, noise, nu)
        assert bool((slope.abs() > 8 * error).any())
    slope, error = slopes(contrast, data, noise, nu, turn=-math.log(nu))  # twice the prior
    assert bool((slope.abs() > 8 * error).any())


@pytest.mark.parametrize("nu", [1, 5])
def test_a_gaussian_without_its_constant_learns_it(nu):
    """log q̃ = −a x²/2 − b y²/2 + c: c must become −log(2π/√(ab))."""
    std = torch.tensor([0.7, 1.6])
    data = Gaussian(torch.zeros(2), std).sample(20_000, rng(5))
    law = Gaussian(torch.zeros(2), torch.tensor([2.0, 2.0]))
    noise = law.sample(20_000 * nu, rng(6))

    def learned(loss) -> torch.Tensor:
        theta = torch.tensor([1.0, 1.0, 0.0], requires_grad=True)

        def h(x):
            return -0.5 * x.square() @ theta[:2] + theta[2] - law.log_prob(x)

        optimiser = torch.optim.LBFGS([theta], max_iter=60, line_search_fn="strong_wolfe")

        def closure():
            optimiser.zero_grad()
            out = loss(h(data), h(noise), nu)
            out.backward()
            return out

        optimiser.step(closure)
        return theta.detach()

    wanted = torch.cat([std**-2, -(2 * math.pi * std.prod()).log()[None]])
    assert torch.allclose(learned(contrast), wanted, rtol=0.04, atol=0.03)
    if nu > 1:  # off by log ν
        assert abs(float(learned(without_prior)[2] - wanted[2])) > 1
    assert not torch.allclose(learned(swapped), wanted, rtol=0.2, atol=0.2)


# ---------------------------------------------------------------- noises


@pytest.mark.parametrize("name", NOISES)
def test_every_noise_has_mass_one_and_draws_what_it_says(name):
    pool = DATASETS["moons"]().pool(0)
    noise = NOISES[name](pool, domain(pool), 12, rng(7))
    x0, x1, y0, y1 = domain(pool)
    far = (x0 - 16, x1 + 16, y0 - 16, y1 + 16)
    whole = domain(pool) if name == "uniform" else far
    found = Quadrature(noise.log_prob, whole, n=512)
    assert abs(float(found.log_z)) < 2e-3
    x = noise.sample(20_000, rng(8))
    assert x.dtype == torch.float32 and x.shape == (20_000, 2)
    log_n = noise.log_prob(x).double()
    mass = found.log_mass.exp()
    entropy = -float((mass * found._values.clamp_min(-99)).sum())
    # the mean of log n over draws is −entropy, and draws moved aside would not have it
    gap = abs(float(log_n.mean()) + entropy)
    assert gap < 5 * float(log_n.std()) / 141 + 5e-3
    aside = noise.log_prob(x + 1.5 * pool.std).double()
    assert abs(float(aside.mean()) + entropy) > 0.1
    again = noise.sample(20_000, rng(8))
    assert torch.equal(x, again), "from the generator that is passed"


def test_the_fitted_noise_is_scikit_learns_mixture_and_a_share_of_a_box():
    weight, mean = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([[0.0, 0], [2, 1], [-1, 2]])
    root = torch.tensor([[[1.0, 0], [0.3, 0.5]], [[0.4, 0], [-0.2, 0.9]], [[0.2, 0], [0, 0.2]]])
    cov = root @ root.mT
    clouds = Gaussians(weight.double().log(), mean.double(), cov.double())
    box = (-3.0, 4.0, -2.0, 5.0)
    x = uniform(500, box, rng(9)).double()
    theirs = GaussianMixture(3, covariance_type="full")
    theirs.weights_, theirs.means_ = weight.numpy().astype(float), mean.numpy().astype(float)
    theirs.covariances_ = cov.numpy().astype(float)
    precision = np.linalg.cholesky(np.linalg.inv(theirs.covariances_))
    theirs.precisions_cholesky_ = precision
    log_q = torch.from_numpy(theirs.score_samples(x.numpy()))

    def agrees(share: float) -> bool:
        mine = Noise(clouds, box, 0.1).log_prob(x)
        exact = (log_q.exp() * (1 - share) + share / 49).log()
        return torch.allclose(mine, exact, atol=1e-5)

    assert agrees(0.1)
    assert not agrees(0.0)
    outside = torch.tensor([[5.0, 5.0]]).double()
    assert torch.isfinite(Noise(clouds, box, 0.1).log_prob(outside)).all()


def test_a_fitted_mixture_is_near_the_data_and_takes_fewer_clouds_from_few_rows():
    pool = DATASETS["ring8"]().pool(0)
    many, one = (NOISES["fitted mixture"](pool, domain(pool), k, rng(10)) for k in (16, 1))
    log_p = pool.dataset.log_prob(pool.test)
    gap = [float((log_p - noise.log_prob(pool.test)).mean()) for noise in (many, one)]
    assert gap[0] < 0.03 and gap[1] > 1
    # nowhere in the domain is the ratio larger than the uniform share allows
    x0, x1, y0, y1 = domain(pool)
    at = uniform(5000, domain(pool), rng(11))
    least = math.log(float(many.share) / ((x1 - x0) * (y1 - y0)))
    assert float(many.log_prob(at).min()) >= least - 1e-4
    few = PointsDataset(torch.randn(60, 2, generator=rng(12)).numpy()).pool(0)
    noise = NOISES["fitted mixture"](few, domain(few), 48, rng(13))
    assert len(noise.mean) == 48 and int((noise.log_weight > -math.inf).sum()) == 2
    assert torch.isfinite(noise.log_prob(few.test)).all()


# ---------------------------------------------------------------- what the ratio implies


@pytest.mark.parametrize("offset", [0.0, 1.7, -3.0])
def test_the_exact_ratio_implies_the_exact_density_whatever_its_constant(offset):
    engine = knowing(0.8, 0.5, offset)
    assert float(engine.implied().log_z) == pytest.approx(offset, abs=1e-3)
    x = engine.pool.test[:500]
    assert torch.allclose(engine.log_prob(x), engine.pool.dataset.log_prob(x), atol=2e-3)
    numbers = {m.name: m for m in engine.metrics()}
    assert numbers["log_mass"].value == pytest.approx(offset, abs=1e-3)
    assert numbers["accuracy"].value == pytest.approx(numbers["accuracy"].floor, abs=2.5) or offset
    assert numbers["ess_exact"].value == pytest.approx(numbers["ess_exact"].floor, abs=0.1)
    assert numbers["ess"].floor == pytest.approx(numbers["ess_exact"].value)


def test_log_z_says_what_the_constant_should_be():
    engine = start("moons")
    with torch.no_grad():
        for net in (engine.net, engine.average.module):
            net.c.fill_(0.6)
    numbers = {m.name: m for m in engine.metrics()}
    # f is 0, and the noise all but all within the domain
    assert numbers["log_z"].value == pytest.approx(-0.6)
    assert numbers["log_z"].floor == pytest.approx(0.0, abs=2e-3)
    assert numbers["log_mass"].value == pytest.approx(0.6, abs=2e-3)


@pytest.mark.parametrize("s", [0.4, 0.8, 1.2])
def test_effective_share_of_two_gaussians(s):
    """N(0, s²I) from N(0, I): 1/E_n[w²] = s²(2 − s²)."""
    exact = s**2 * (2 - s**2)
    n, q = Gaussian(torch.zeros(2), torch.ones(2)), OneGaussian(s)
    grid = Grid(OneGaussian().pool(0), n, WIDE)
    assert grid.effective(q.log_prob(grid.at.double())) == pytest.approx(exact, rel=1e-3)
    x = n.sample(400_000, rng(14))
    log_w = q.log_prob(x) - n.log_prob(x)
    for offset in (0.0, 3.0):  # weights need not be normalised: they normalise themselves
        mine = effective(log_w + offset)
        assert mine == pytest.approx(exact, rel=0.05)
        not_normalised = 1 / float((2 * (log_w + offset)).exp().mean())
        assert abs(not_normalised - exact) > 0.1 * exact or offset == 0
    assert effective(torch.zeros(50)) == pytest.approx(1)
    assert effective(torch.tensor([0.0, -900.0, -900.0, -900.0])) == pytest.approx(0.25)


def test_the_best_accuracy_of_two_gaussians():
    """Two unit Gaussians d apart: Φ(d/2) are classified rightly, and a prior moves the border."""
    for d in (0.5, 2.0):
        grid = Grid(OneGaussian().pool(0), Gaussian(torch.tensor([d, 0.0]), torch.ones(2)), WIDE)
        assert grid.best_accuracy(1) == pytest.approx(norm.cdf(d / 2), abs=1e-3)
        border = d / 2 - math.log(3) / d
        right = norm.cdf(border) / 4 + 3 * norm.cdf(d - border) / 4
        assert grid.best_accuracy(3) == pytest.approx(right, abs=1e-3)
        assert abs(norm.cdf(d / 2) - right) > 5e-3


def test_samples_are_noise_chosen_by_weight():
    engine = knowing(0.7, 0.4, offset=2.0, proposals=32)

    def fits(x: torch.Tensor) -> bool:
        laws = norm(0.4, 0.7), norm(0.0, 0.7)
        found = [kstest(c, law.cdf).pvalue for c, law in zip(x.numpy().T, laws, strict=True)]
        return min(found) > 1e-3

    assert fits(engine.sample(3000, rng(15)))
    assert fits(engine.draws(3000))
    engine.proposals = 1
    assert not fits(engine.sample(3000, rng(15))), "one proposal is the noise itself"
    engine.proposals = 32
    right = engine.log_ratio
    engine.log_ratio = lambda x: -right(x)
    assert not fits(engine.sample(3000, rng(15)))


def test_at_first_the_model_is_the_noise():
    engine = start("moons", noise="wide")
    x = engine.pool.test[:200]
    inside = engine._grid.integral(engine._grid.log_n)
    wanted = engine.law.log_prob(x) - math.log(inside)
    assert torch.allclose(engine.log_prob(x), wanted, atol=1e-4)
    assert not torch.allclose(engine.log_prob(x), engine.pool.dataset.log_prob(x), atol=0.5)


# ---------------------------------------------------------------- training


def test_it_learns_density_and_mass():
    engine = start("moons", width=64)
    x = engine.pool.test
    log_p = engine.pool.dataset.log_prob(x)
    for _ in range(120):
        engine.step()
        engine.step_count += 1
    q = engine.log_prob(x)
    assert float((log_p - q).mean()) < 0.02
    assert abs(float(engine.implied().log_z)) < 0.02
    # the wrong twin: the noise forgotten, as if the ratio alone were the density
    alone = Quadrature(engine.log_ratio, engine._grid.box).log_prob(x)
    assert float((log_p - alone).mean()) > 0.5


def test_what_was_known_of_the_grid_is_never_out_of_date():
    engine = start("moons", width=16)
    engine.step_count += 1
    before = engine.log_prob(engine.pool.test[:50])
    kept = engine.implied()
    assert engine.implied() is kept
    engine.step()
    assert engine.implied() is not kept
    assert not torch.equal(before, engine.log_prob(engine.pool.test[:50]))
    fresh = Quadrature(lambda x: engine.law.log_prob(x) + engine.log_ratio(x), engine._grid.box)
    assert float(engine.implied().log_z) == pytest.approx(float(fresh.log_z), abs=1e-6)


@pytest.mark.slow
def test_the_noise_is_fitted_anew_once_training_goes_on_with_other_data():
    run = Experiment("two_gaussians", "nce").start("cpu").train(steps=3)
    x = run.pool.test[:300]
    noise, model = run.engine.law.log_prob(x), run.log_prob(x)
    run.feed(run.experiment.but(dataset="moons", options={}))
    assert torch.equal(run.engine.law.log_prob(x), noise)
    # the same model but for the domain, which is another
    moved = run.log_prob(x) - model
    assert float(moved.std()) < 1e-5
    run.train(steps=1)
    fresh = Experiment("moons", "nce").start("cpu").engine
    x = run.pool.test[:300]
    assert torch.equal(run.engine.law.log_prob(x), fresh.law.log_prob(x))
    assert not torch.allclose(run.engine.law.log_prob(x), noise, atol=0.3)
    again = Experiment("moons", "nce").start("cpu").restore(run.checkpoint())
    assert torch.equal(again.engine.law.sample(50, rng(16)), run.engine.law.sample(50, rng(16)))


def test_images_and_lines_are_refused_with_a_reason():
    assert "plane" in NCE.accepts(DATASETS["digits"]())
    assert "plane" in NCE.accepts(DATASETS["line"]())
    assert NCE.accepts(DATASETS["moons"]()) is None


# ---------------------------------------------------------------- pictures


def test_the_half_line_is_where_the_logit_is_zero():
    box = (-2.0, 2.0, -1.0, 3.0)
    x = np.linspace(-2, 2, 50, endpoint=False) + 0.04
    y = np.linspace(-1, 3, 50, endpoint=False) + 0.04
    field = np.hypot(*np.meshgrid(x, y - 1)) - 1.2
    pieces = zero_line(field, box)
    assert pieces.shape[1:] == (2, 2) and pieces.dtype == np.float32

    def on_circle(centre: float) -> float:
        return float(np.abs(np.hypot(pieces[..., 0], pieces[..., 1] - centre) - 1.2).max())

    assert on_circle(1.0) < 2e-3
    assert on_circle(1.1) > 0.05
    length = np.linalg.norm(pieces[:, 1] - pieces[:, 0], axis=1).sum()
    assert length == pytest.approx(2 * math.pi * 1.2, rel=5e-3)
    assert zero_line(np.ones((4, 4)), box).shape == (0, 2, 2)


def panel(engine: NCE, name: str):
    found = next(p for p in engine.panels() if p.id == name)
    with torch.no_grad(), engine.still():
        return found.drawn()


def mark(engine: NCE, name: str, kind, role: str = ""):
    marks = panel(engine, name).marks
    return next(m for m in marks if isinstance(m, kind) and role in ("", m.role))


def test_pictures_of_the_exact_ratio_are_right():
    engine = knowing(0.8, 0.5, ratio=2)
    learned, best = (mark(engine, name, Heat).values for name in ("classifier", "best"))
    assert learned.shape == best.shape == (80, 80)
    assert np.abs(learned - best).max() < 1e-4
    assert np.abs(learned + best).max() > 0.2
    dots = mark(engine, "agreement", Points, "noise").xy
    assert np.abs(dots[:, 0] - dots[:, 1]).max() < 1e-3
    chosen = mark(engine, "weights", Points, "model").xy
    assert chosen[:, 0].mean() == pytest.approx(0.5, abs=0.1)
    assert chosen.std(0) == pytest.approx([0.8, 0.8], abs=0.12)
    points, carried = (m for m in panel(engine, "log_weights").marks if isinstance(m, Paths))
    for one in (points, carried):
        assert one.xy[0, ::2, 1].sum() == pytest.approx(1, abs=1e-5)
    # the mean of log w is −KL(n‖q) over the noise, and KL(q‖n) by weight
    middle = points.xy[0, :, 0].reshape(-1, 2).mean(1)
    assert (middle * points.xy[0, ::2, 1]).sum() < 0 < (middle * carried.xy[0, ::2, 1]).sum()
