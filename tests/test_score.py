"""Score matching and Langevin: fits, chains and bounds against closed forms, with wrong twins."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from engines import DATASETS, Experiment
from engines.metrics import mode_report, sliced_w2, total_variation
from engines.score import langevin, losses
from engines.score.engine import MANY, ONE, SLICED

torch.set_num_threads(1)
COV = torch.tensor([[1.3, 0.4], [0.4, 0.5]], dtype=torch.float64)
MEAN = torch.tensor([0.7, -0.2], dtype=torch.float64)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normals(n, d=2, seed=0):
    return torch.randn(n, d, generator=rng(seed), dtype=torch.float64)


def corners(cov=None):
    """Points of equal weight with mean 0 and covariance I, or `cov`, exactly: (4, 2)."""
    points = math.sqrt(2) * torch.cat([torch.eye(2), -torch.eye(2)]).double()
    return points if cov is None else points @ torch.linalg.cholesky(cov).T


def pairs():
    """Data with MEAN and COV and directions with covariance I that know nothing of them."""
    both = list(itertools.product(MEAN + corners(COV), corners()))
    return torch.stack([a for a, _ in both]), torch.stack([b for _, b in both])


def best_linear(loss):
    """The A (2, 2) and b (2,) of the score Az + b by which a quadratic loss is smallest."""
    theta = torch.zeros(6, dtype=torch.float64, requires_grad=True)

    def slope(theta):
        value = loss(lambda z: z @ theta[:4].reshape(2, 2).T + theta[4:])
        return torch.autograd.grad(value, theta, create_graph=True)[0]

    begin = slope(theta)
    bend = torch.stack([torch.autograd.grad(g, theta, retain_graph=True)[0] for g in begin])
    found = torch.linalg.solve(bend, -begin).detach()
    return found[:4].reshape(2, 2), found[4:]


# ---------------------------------------------------------------- the losses


def test_denoising_learns_the_score_of_the_noised_data():
    z, eps = pairs()
    sigma = torch.tensor(0.8, dtype=torch.float64)
    a, b = best_linear(lambda s: losses.denoising(s, z, sigma, eps).mean())
    inverse = torch.linalg.inv(COV + sigma**2 * torch.eye(2).double())
    assert torch.allclose(a, -inverse, atol=1e-10) and torch.allclose(b, inverse @ MEAN, atol=1e-10)
    # its wrong twins: of the clean data, and with the noise's sign turned
    clean = torch.linalg.inv(COV)
    assert (a + clean).abs().max() > 0.3
    wrong, _ = best_linear(lambda s: (sigma * s(z + sigma * eps) - eps).square().sum(1).mean())
    assert torch.allclose(wrong, inverse, atol=1e-10), "the noise's sign turned: downhill"


def test_the_denoising_loss_has_the_floor_that_it_should():
    # E|σ s* + ε|² = d − σ² E|s*|² = d − σ² tr (Σ + σ²I)⁻¹, since E s*·ε = −σ E|s*|²
    z, eps = pairs()
    sigma = torch.tensor(0.8, dtype=torch.float64)
    inverse = torch.linalg.inv(COV + sigma**2 * torch.eye(2).double())
    exact = lambda x: -(x - MEAN) @ inverse  # noqa: E731
    floor = float(losses.denoising(exact, z, sigma, eps).mean())
    assert floor == pytest.approx(2 - float(sigma**2 * inverse.trace()))
    # above it any other score is by σ² E|s − s*|²
    other = lambda x: exact(x) + x @ COV - 0.3  # noqa: E731
    gap = (other(z + sigma * eps) - exact(z + sigma * eps)).square().sum(1).mean() * sigma**2
    assert float(losses.denoising(other, z, sigma, eps).mean()) == pytest.approx(floor + float(gap))
    assert float(gap) > 1


@pytest.mark.parametrize("k", [1, 3])
def test_slices_measure_the_fisher_divergence(k):
    z, v = pairs()
    along = torch.stack([v] * k)
    exact = lambda x: -(x - MEAN) @ torch.linalg.inv(COV)  # noqa: E731
    one = lambda x: 0.3 * x @ COV - 0.5  # noqa: E731
    two = lambda x: -0.9 * x + 0.2  # noqa: E731
    fisher = lambda s: float(0.5 * (s(z) - exact(z)).square().sum(1).mean())  # noqa: E731
    measured = lambda s: losses.sliced(s, z, along).mean().item()  # noqa: E731
    constant = 0.5 * float(exact(z).square().sum(1).mean())
    for s in (one, two, exact):
        assert measured(s) == pytest.approx(fisher(s) - constant)
    # its wrong twin, without the divergence: smallest at s = 0
    without = lambda s: float(0.5 * s(z).square().sum(1).mean())  # noqa: E731
    assert without(one) - without(two) != pytest.approx(fisher(one) - fisher(two), abs=0.1)
    a, b = best_linear(lambda s: losses.sliced(s, z, along).mean())
    inverse = torch.linalg.inv(COV)
    assert torch.allclose(a, -inverse, atol=1e-9) and torch.allclose(b, inverse @ MEAN, atol=1e-9)


def test_slices_of_a_bent_field_are_its_divergence():
    bent = lambda x: torch.stack([x[:, 0] ** 3, torch.sin(x[:, 0] * x[:, 1])], 1)  # noqa: E731
    z = normals(5)
    v = torch.stack([corners()[i].expand(5, 2) for i in range(4)])
    jacobian = torch.autograd.functional.jacobian(bent, z)
    trace = torch.stack([jacobian[i, :, i].trace() for i in range(5)])
    found = losses.sliced(bent, z, v) - 0.5 * bent(z).square().sum(1)
    assert torch.allclose(found, trace)


# ---------------------------------------------------------------- chains

VARIANCE = 0.6


def gaussian(z, sigma=0.0):
    return -z / (VARIANCE + sigma**2)


def stationary(step, metropolis=False, n=40_000, moves=150):
    z = VARIANCE**0.5 * normals(n, 1)
    levels = [langevin.Level(0.0, step, moves)]
    return langevin.end(gaussian, z, levels, rng(1), metropolis=metropolis)[:, 0]


@pytest.mark.parametrize("step", [0.5, 1.2])
def test_unadjusted_chains_are_too_wide_by_a_known_factor(step):
    # z' = (1 − ε²/2v) z + ε ξ has variance ε²/(1 − (1 − ε²/2v)²) = v/(1 − ε²/4v)
    z = stationary(step)
    wanted = VARIANCE / (1 - step**2 / (4 * VARIANCE))
    noise = wanted * math.sqrt(2 / len(z))
    assert abs(float(z.var()) - wanted) < 5 * noise
    assert abs(float(z.var()) - VARIANCE) > 5 * noise, "the wrong twin: as if without an error"


def test_metropolis_takes_the_error_away():
    z = stationary(1.2, metropolis=True)
    assert stats.kstest(z.numpy(), stats.norm(scale=VARIANCE**0.5).cdf).pvalue > 1e-3
    assert stats.kstest(stationary(1.2).numpy(), stats.norm(scale=VARIANCE**0.5).cdf).pvalue < 1e-9


def test_the_share_of_accepted_moves_is_the_integral():
    step, v = 1.4, VARIANCE

    def integrand(xi, z):
        new = z - step**2 / 2 * z / v + step * xi
        log_p = (z * z - new * new) / (2 * v)
        there = xi * xi / 2
        back = ((z - new + step**2 / 2 * new / v) / step) ** 2 / 2
        accepted = min(1.0, math.exp(log_p + there - back))
        return accepted * stats.norm.pdf(xi) * stats.norm.pdf(z, scale=v**0.5)

    wanted, _ = integrate.dblquad(integrand, -5, 5, -8, 8, epsabs=1e-4)
    z = v**0.5 * normals(200_000, 1)
    ((_, yes),) = langevin.walk(
        gaussian, z, [langevin.Level(0.0, step, 1)], rng(2), metropolis=True
    )
    se = math.sqrt(wanted * (1 - wanted) / len(z))
    assert abs(float(yes.double().mean()) - wanted) < 5 * se + 1e-4
    # the wrong twin: Metropolis' rule without the proposals' own chances
    alone = integrate.quad(lambda x: min(1, math.exp(-x)) * stats.norm.pdf(x, 0, 1), -8, 8)[0]
    assert abs(float(yes.double().mean()) - alone) > 0.02


def test_climbing_is_the_difference_of_log_densities():
    # of degree four along the way: Simpson's rule is exact for the cubic slope
    log_q = lambda z: -(z[:, 0] ** 4) / 4 + z[:, 0] * z[:, 1] - z[:, 1] ** 2  # noqa: E731
    score = lambda z, _: torch.stack([z[:, 1] - z[:, 0] ** 3, z[:, 0] - 2 * z[:, 1]], 1)  # noqa: E731
    a, b = normals(50), normals(50, seed=1)
    found = langevin.climb(score, a, score(a, 0), b, score(b, 0), 0.0)
    assert torch.allclose(found, log_q(b) - log_q(a))
    assert not torch.allclose(found, log_q(a) - log_q(b), atol=0.1)
    back = langevin.climb(score, b, score(b, 0), a, score(a, 0), 0.0)
    assert torch.allclose(found, -back), "the way back undoes it"


def test_the_ladder_goes_down_in_equal_ratios_and_shares_the_moves_out():
    levels = langevin.ladder(5.0, 0.02, 16, 70, 1.2)
    sigma = np.array([level.sigma for level in levels])
    assert sigma[0] == pytest.approx(5.0) and sigma[-1] == pytest.approx(0.02)
    assert np.allclose(sigma[1:] / sigma[:-1], (0.02 / 5.0) ** (1 / 15))
    assert sum(level.count for level in levels) == 70
    assert all(level.size == pytest.approx(1.2 * level.sigma) for level in levels)
    few = langevin.ladder(5.0, 0.02, 16, 3, 1.0)
    assert [level.count for level in few] == [1, 1, 1] and few[-1].sigma == pytest.approx(0.02)
    assert [level.sigma for level in langevin.ladder(5.0, 0.02, 16, 1, 1.0)] == [0.02]


def exact_chains(name, annealed, n=4000):
    """Samples of the engine's own chains (n, 2) with the exact score in the network's place."""
    run = Experiment(name, "score", knobs={"annealed": annealed}).start("cpu")
    engine = run.engine
    engine.learned = lambda z, sigma: engine.exact.score(z, 1.0, sigma)
    return run, engine.sample(n, rng(5))


def test_annealed_chains_on_the_exact_score_draw_from_the_data():
    run, x = exact_chains("unbalanced", True)
    modes = run.dataset.modes
    floor = math.sqrt(8 / len(x)) / 2
    seen = mode_report(x.numpy(), modes)
    assert total_variation(seen.shares, modes.weights.numpy()) < 0.02 + floor
    assert seen.spread == pytest.approx(1.0, abs=0.1)
    fresh = [run.dataset.sample(len(x), rng(s)).numpy() for s in (7, 8)]
    distance = sliced_w2(fresh[0], x.numpy())
    assert distance < 3 * sliced_w2(*fresh)
    # the wrong twin: all moves at the smallest σ, which leave chains where they began
    _, stuck = exact_chains("unbalanced", False)
    wrong = mode_report(stuck.numpy(), modes)
    assert total_variation(wrong.shares, modes.weights.numpy()) > 0.2
    assert sliced_w2(fresh[0], stuck.numpy()) > 3 * sliced_w2(*fresh)


def test_fitted_noise_keeps_what_is_noise_in_a_chain():
    run = Experiment("moons", "score", knobs={"width": 16, "eta": 1.5}).start("cpu")
    sigma = 0.3
    point = lambda z, s: -z / s**2  # noqa: E731

    def spread(how):
        z = sigma * normals(40_000, 1)
        levels = [langevin.Level(sigma, run.engine.eta * sigma, 30)]
        return float(langevin.end(point, z, levels, rng(1), **how).std())

    assert spread(run.engine.how) == pytest.approx(sigma, rel=0.02)
    run.set("fitted", False)
    assert spread(run.engine.how) == pytest.approx(sigma / math.sqrt(1 - 1.5**2 / 4), rel=0.02)
    run.set("metropolis", True)
    assert run.engine.how["metropolis"] is True


def test_tweedies_formula_is_the_mean_of_what_was_there():
    # of N(0, v) in noise σ the mean of z₀ given z is v/(v + σ²) z
    z, sigma = normals(10, 1), 0.7
    found = langevin.denoised(gaussian, z, sigma)
    assert torch.allclose(found, z * VARIANCE / (VARIANCE + sigma**2))
    assert not torch.allclose(z - sigma**2 * gaussian(z, sigma), found, atol=0.05)


# ---------------------------------------------------------------- the engine


def two(engine_knobs, steps, **options):
    given = {"distance": 0.0, "width_left": 0.8, "width_right": 0.8, **options}
    experiment = Experiment("two_gaussians", "score", knobs=engine_knobs, options=given)
    return experiment.start("cpu").train(steps=steps)


@pytest.mark.parametrize("knobs", [{}, {"method": ONE, "sigma": 0.6}, {"method": SLICED}],
                         ids=["many", "one", "sliced"])  # fmt: skip
def test_a_gaussians_score_is_learnt_in_its_noise(knobs):
    run = two({"width": 32, "waves": 0, **knobs}, 300)
    engine, x = run.engine, run.pool.test[:2000]
    sigma = 0.6 * float(engine._std[0])  # in data units, as `score` takes it
    noise = 0.0 if knobs.get("method") == SLICED else sigma
    place = x + noise * torch.randn(x.shape, generator=rng(3))
    learned = engine.score(place, sigma)

    def error(variance):
        truth = -place / variance
        return float((learned - truth).square().sum() / truth.square().sum())

    assert error(0.8**2 + noise**2) < 0.01
    # the wrong twin: the score of other data, clean or noised
    assert error(0.8**2 if noise else 0.8**2 + sigma**2) > 0.04
    assert float((learned * place).mean()) < 0, "and its sign"


def test_the_error_that_is_shown_is_the_errors():
    run = two({"width": 32, "waves": 0}, 60)
    engine = run.engine
    found = {m.name: m for p in engine.probes() for m in p.compute()}["score_error"]
    from engines.score.numbers import gap

    shown = gap(engine)
    assert found.value == pytest.approx(100 * shown.share.mean())
    # loss − floor is σ² E|s − s*|², up to the noise of the rows
    assert np.allclose(shown.loss - shown.floor, shown.lost, atol=0.05)
    assert (shown.lost > 0).all() and (shown.floor < shown.loss + 0.05).all()
    engine.learned = lambda z, sigma: engine.exact.score(z, 1.0, sigma)
    assert gap(engine).share.max() == 0
    engine.learned = lambda z, sigma: 0 * z
    assert np.allclose(gap(engine).share, 1.0), "no score at all is 100 %"


def test_levels_of_training_are_those_of_the_knobs():
    run = two({"width": 16, "waves": 0, "sigma_min": 0.1, "sigma_max": 2.0, "levels": 4}, 1)
    engine = run.engine
    sigma = engine.noise_levels(4000)[:, 0]
    assert float(sigma.min()) >= 0.1 and float(sigma.max()) <= 2.0
    # even in log σ
    share = stats.kstest(sigma.log().numpy(), stats.uniform(math.log(0.1), math.log(20)).cdf)
    assert share.statistic < 0.01
    run.set("noises", "ladder")
    rungs = torch.tensor([level.sigma for level in engine.rungs()])
    assert torch.allclose(engine.noise_levels(4000).unique(), rungs.flip(0).float(), rtol=1e-5)


def test_what_is_not_known_is_said():
    run = Experiment("pinwheel", "score", knobs={"width": 16}).start("cpu").train(steps=2)
    panels = {panel.id: panel for panel in run.frame(measure=False).panels}
    assert "not known" in panels["score"].subtitle
    assert not {"score_exact", "score_error"} & set(panels)
    known = Experiment("moons", "score", knobs={"width": 16}).start("cpu").train(steps=2)
    panels = {panel.id: panel for panel in known.frame(measure=False).panels}
    sliders = [panels[i].slider for i in ("score", "score_exact", "score_error")]
    assert {s.linked for s in sliders} == {"noise"} and "not known" not in panels["score"].subtitle
    # uniform squares have no slope but in noise; and the two ends of the noise may meet
    for name, knobs in (("checkerboard", {"method": SLICED}),
                        ("moons", {"sigma_min": 0.5, "sigma_max": 0.5})):  # fmt: skip
        run = Experiment(name, "score", knobs={"width": 16, **knobs}).start("cpu").train(steps=2)
        shown = {panel.id for panel in run.frame(measure=False).panels}
        assert ("score_exact" in shown) == (name == "moons")
    heat = panels["score_error"].marks[0]
    assert heat.keys[0] == pytest.approx(math.log10(0.02)) and len(heat.values) == len(heat.keys)


def test_chains_that_fly_off_stay_finite_and_metropolis_keeps_them():
    run = Experiment("ring8", "score", knobs={"width": 16, "method": SLICED, "eta": 4.0})
    run = run.start("cpu").train(steps=5)
    x = run.sample(50)
    assert torch.isfinite(x).all()
    run.set("metropolis", True)
    names = {m.name for m in run.measure()}
    assert "accepted" in names


def test_other_data_are_refused_in_one_sentence():
    kind = Experiment("moons", "score").start("cpu").engine
    for name, dataset in DATASETS.items():
        made = dataset()
        if made.kind not in ("plane", "images"):
            said = type(kind).accepts(made)
            assert said and said.endswith("."), name


def test_methods_are_those_of_the_knob():
    assert type(Experiment("moons", "score").start("cpu").engine).knobs["method"].choices == (
        MANY, ONE, SLICED,
    )  # fmt: skip
