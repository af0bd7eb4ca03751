"""Inverse problems: every method on exact scores, against conditionals in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm, wasserstein_distance

from engines import DATASETS, BadInput, Experiment
from engines.data.own import Ellipses
from engines.diffusion.schedules import make_schedule
from engines.inverse import methods, numbers, truth
from engines.inverse.methods import Observation, Walk
from engines.marks import Handles, Images, Points

N = 1000
FIRST = torch.tensor([True, False])
TILTED = Ellipses([[0.2, -0.1]], [[1.3, 0.4]], [0.7], [1.0])  # one Gaussian, ρ far from 0
MODES = Ellipses(
    [[-1, -0.8], [-1, 0.9], [1, 0.0]], [[0.3, 0.15], [0.25, 0.25], [0.4, 0.2]],
    [0.4, 0, 1.2], [0.2, 0.3, 0.5],
)  # fmt: skip
SCHEDULE = make_schedule("EDM")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exact(data: Ellipses, schedule=SCHEDULE):
    """E[x₀ | z] of these data by Tweedie's formula, which no network has learnt."""

    def denoise(z, t):
        alpha, sigma = schedule.at(t)
        return (z + sigma**2 * data.noised(alpha, sigma).score(z)) / alpha

    return denoise


def walk(data: Ellipses, steps: int, sampler: str = "DDPM", schedule=SCHEDULE) -> Walk:
    return Walk(exact(data, schedule), schedule, schedule.times(steps), sampler, rng(1))


def start(n: int = N, dim: int = 2) -> torch.Tensor:
    return SCHEDULE.high * torch.randn(n, dim, generator=rng(2), dtype=torch.float64)


def end(states) -> torch.Tensor:
    *_, z = states
    return z


def line(x1: float, noise: float = 0.0) -> Observation:
    return Observation(torch.tensor([[x1, 0.0]], dtype=torch.float64), FIRST, noise)


def gaussian_given(x1: float, noise: float) -> tuple[float, float]:
    """x₂ | y of TILTED: μ₂ + Σ₂₁ (y − μ₁)/(Σ₁₁ + r²), and its standard deviation."""
    cov, mean = TILTED.cov[0], TILTED.centres[0]
    gain = float(cov[1, 0] / (cov[0, 0] + noise**2))
    return float(mean[1]) + gain * (x1 - float(mean[0])), math.sqrt(
        float(cov[1, 1] - gain * cov[0, 1])
    )


def agrees(x: torch.Tensor, mean: float, sd: float, slack: float = 0.0) -> bool:
    """Whether mean and standard deviation of N draws are these, to four standard errors."""
    se = sd / math.sqrt(len(x))
    off = abs(float(x.mean()) - mean), abs(float(x.std()) - sd)
    return off[0] < 4 * se + slack and off[1] < 4 * se / math.sqrt(2) + slack


# ---------------------------------------------------------------- one Gaussian


@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("sampler", ["Heun", "DDPM"])
def test_matched_gaussians_are_exact_for_a_gaussian(noise, sampler):
    steps = 40 if sampler == "Heun" else 200
    way, seen = walk(TILTED, steps, sampler), line(0.8, noise)
    mean, sd = gaussian_given(0.8, noise)
    x = end(methods.matched(way, start(), seen))
    assert agrees(x[:, 1], mean, sd)
    if not noise:
        assert torch.allclose(x[:, 0], torch.tensor(0.8, dtype=torch.float64), atol=0.02)
    # its wrong twins: nobody observed anything, and a push away from what was observed
    assert not agrees(end(way.states(start()))[:, 1], mean, sd)
    if sampler == "Heun":
        pushed = way.states(
            start(), lambda z, t: 2 * way.denoise(z, t) - methods.informed(way, seen, z, t)
        )
        assert not agrees(end(pushed)[:, 1], mean, sd)
        # and an observation taken for another one's noise
        other = end(methods.matched(way, start(), line(0.8, 0.5 - noise)))
        assert not agrees(other[:, 1], mean, sd)


def test_the_informed_guess_is_the_kalman_update():
    way, seen, t = walk(TILTED, 10), line(0.8, 0.3), 0.7
    z = torch.randn(20, 2, generator=rng(3), dtype=torch.float64)
    # x₀ and z = x₀ + σε and y = x₀₁ + rn together are Gaussian: regress x₀ on (z, y)
    cov, mean = TILTED.cov[0], TILTED.centres[0]
    cross = torch.cat([cov, cov[:, :1]], 1)
    whole = torch.zeros(3, 3, dtype=torch.float64)
    whole[:2, :2] = cov + t**2 * torch.eye(2)
    whole[:2, 2] = whole[2, :2] = cov[:, 0]
    whole[2, 2] = cov[0, 0] + 0.3**2
    off = torch.cat([z - mean, torch.full((20, 1), 0.8 - float(mean[0]))], 1)
    wanted = mean + off @ torch.linalg.solve(whole, cross.T)
    found = methods.informed(way, seen, z, t)
    assert torch.allclose(found, wanted, atol=1e-9)
    assert not torch.allclose(methods.informed(way, line(0.8), z, t), wanted, atol=0.01)


def test_replacement_is_wrong_until_steps_are_repeated():
    mean, sd = gaussian_given(0.8, 0.0)
    once = end(methods.replacement(walk(TILTED, 40), start(), line(0.8), 1))
    often = end(methods.replacement(walk(TILTED, 40), start(), line(0.8), 20))
    # ancestral steps as long as these lose a tenth of the spread
    assert agrees(often[:, 1], mean, sd, slack=0.1 * sd)
    assert not agrees(once[:, 1], mean, sd, slack=0.1 * sd)
    assert float((often[:, 0] - 0.8).abs().max()) < 0.02, "what is observed is kept"


def test_posterior_sampling_goes_down_the_slope():
    mean, sd = gaussian_given(0.8, 0.0)
    draw = lambda strength: end(  # noqa: E731
        methods.posterior_sampling(walk(TILTED, 100), start(), line(0.8), strength)
    )
    x = draw(1.0)
    assert agrees(x[:, 1], mean, sd, slack=0.1 * sd)
    assert float((x[:, 0] - 0.8).abs().max()) < 0.02
    nothing = draw(0.0)  # its wrong twin: the observation is ignored
    assert agrees(nothing[:, 0], 0.2, float(TILTED.cov[0, 0, 0]) ** 0.5, slack=0.1)
    assert not agrees(nothing[:, 1], mean, sd, slack=0.1 * sd)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_methods_do_the_same_in_a_process_that_preserves_variance(kind):
    schedule = make_schedule("VP", kind)
    mean, sd = gaussian_given(0.8, 0.0)
    z = torch.randn(N, 2, generator=rng(2), dtype=torch.float64)
    way = walk(TILTED, 100, "DDPM", schedule)
    assert agrees(end(methods.posterior_sampling(way, z, line(0.8)))[:, 1], mean, sd, 0.15 * sd)
    way = walk(TILTED, 60, "Heun", schedule)
    assert agrees(end(methods.matched(way, z, line(0.8)))[:, 1], mean, sd, 0.02)


# ---------------------------------------------------------------- several modes


def shares(x1: float) -> np.ndarray:
    """Of MODES given x₁, in closed form."""
    cov, centre = MODES.cov.numpy(), MODES.centres.numpy()
    p = MODES.weights.numpy() * norm.pdf(x1, centre[:, 0], np.sqrt(cov[:, 0, 0]))
    return p / p.sum()


def test_repeats_find_the_weights_of_modes_that_one_pass_gets_wrong():
    # nearly all are of the third mode, which lies well below the others there
    cov, centre = MODES.cov.numpy(), MODES.centres.numpy()
    means = centre[:, 1] + cov[:, 1, 0] / cov[:, 0, 0] * (0.2 - centre[:, 0])
    mean = float(shares(0.2) @ means)
    draw = lambda k: end(methods.replacement(walk(MODES, 40), start(300), line(0.2), k))  # noqa: E731
    assert abs(float(draw(20)[:, 1].mean()) - mean) < 0.15
    assert abs(float(draw(1)[:, 1].mean()) - mean) > 0.3


# ---------------------------------------------------------------- observations in noise


def test_what_is_pinned_has_the_noise_of_its_time():
    way, seen = walk(TILTED, 10), line(0.8, 0.5)
    z = torch.zeros(20_000, 2, dtype=torch.float64)
    at = methods.pinned(way, z, 2.0, seen)
    # y = x₁ + 0.5 n, so z₁ − x₁ of y's own noise and the added one: √(2² − 0.5²) is added
    assert float(at[:, 0].std()) == pytest.approx(math.sqrt(4 - 0.25), rel=0.02)
    assert float(at[:, 0].mean()) == pytest.approx(0.8, abs=0.06) and not at[:, 1].any()
    assert torch.equal(methods.pinned(way, z, 0.4, seen), z), "less noise than the observation's"


def test_all_of_a_noisy_row_is_denoised_as_bayes_would():
    data = Ellipses([[0.0, 0.0]], [[1.0, 1.0]], [0.0], [1.0])
    everything = torch.tensor([True, True])
    seen = Observation(torch.tensor([[1.2, -0.6]], dtype=torch.float64), everything, 0.8)
    mean, sd = 1.2 / (1 + 0.64), math.sqrt(0.64 / 1.64)
    for found in (
        methods.replacement(walk(data, 200), start(), seen),
        methods.matched(walk(data, 40, "Heun"), start(), seen),
    ):
        x = end(found)
        assert agrees(x[:, 0], mean, sd, 0.05 * sd)
        assert agrees(x[:, 1], -mean / 2, sd, 0.05 * sd)
        assert not agrees(x[:, 0], 1.2, sd, 0.05 * sd), "the wrong twin: the noisy value"


# ---------------------------------------------------------------- the truth beside them


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.5])
def test_the_exact_conditional_of_a_tilted_gaussian(first, noise):
    row = [0.2, -0.1, 1.3, 0.4, 0.7, 1.0]
    dataset = DATASETS["gaussians"](components=[row])
    grid, p = truth.conditional(dataset, first, 0.8, noise)
    cov, centre = TILTED.cov[0].numpy(), TILTED.centres[0].numpy()
    gain = cov[0, 1] / (cov[first, first] + noise**2)
    mean = centre[1 - first] + gain * (0.8 - centre[first])
    sd = math.sqrt(cov[1 - first, 1 - first] - gain * cov[0, 1])
    step = grid[1] - grid[0]

    def close(p):
        seen = (p * grid).sum() * step
        return (
            abs(p.sum() * step - 1) < 2e-3
            and abs(seen - mean) < 0.01
            and abs(math.sqrt((p * (grid - seen) ** 2).sum() * step) - sd) < 0.01
        )

    assert close(p)
    _, other = truth.conditional(dataset, 1 - first, 0.8, noise)
    assert not close(other), "the wrong twin: the other coordinate"


def test_where_there_is_no_data_there_is_no_conditional():
    assert truth.conditional(DATASETS["ring8"](), 0, 2.9, 0.0)[1] is None


def test_w1_of_a_shift_is_the_shift():
    grid = np.linspace(-6, 6, 1201)
    p = norm.pdf(grid)
    x = norm.ppf((np.arange(2000) + 0.5) / 2000)
    assert truth.w1(x + 0.3, grid, p) == pytest.approx(0.3, abs=0.005)
    assert truth.w1(x, grid, p) < 0.01
    fresh = np.random.default_rng(5).normal(size=(200, 400))
    want = np.mean([wasserstein_distance(row, grid, None, p) for row in fresh[:50]])
    assert truth.w1_floor(grid, p, 400) == pytest.approx(want, rel=0.35)


# ---------------------------------------------------------------- the engine


def started(dataset: str = "two_gaussians", **knobs):
    return Experiment(dataset, "inverse_diffusion", 0, {"width": 16, "stops": 5, **knobs}).start(
        "cpu"
    )


def test_the_line_is_dragged_and_stays_in_the_picture():
    run = started()
    engine = run.engine
    engine.slice(1.5, -0.5)
    assert engine.at == 1.5
    seen = engine.observation()
    inside = (1.5 - engine._mean[0]) / engine._std[0]
    assert seen.value[0, 0] == inside and seen.seen.tolist() == [True, False]
    engine.slice(99.0, 0.0)
    assert engine.at == engine.pool.dataset.extent[1]
    engine.column = "x₂"
    engine.slice(0.0, -0.5)
    assert engine.at == -0.5 and engine.observation().seen.tolist() == [False, True]
    with torch.no_grad():
        x = engine.given(engine.observation(), 50)
    assert torch.allclose(x[:, 1], torch.tensor(-0.5), atol=0.05)
    # what was kept follows the line
    first = numbers.drawn(engine)
    assert torch.equal(numbers.drawn(engine), first)
    engine.slice(0.0, 0.5)
    assert not torch.equal(numbers.drawn(engine), first)


def test_the_plane_shows_the_line_and_what_is_given_it():
    run = started("ring8soft", r=0.3)
    with torch.no_grad(), run.engine.still():
        panels = {p.id: p.drawn() for p in run.engine.panels()}
    handle = next(m for m in panels["truth"].marks if isinstance(m, Handles))
    assert handle.action == "slice"
    cloud = next(m for m in panels["truth"].marks if isinstance(m, Points))
    assert len(cloud.xy) == numbers.DRAWN
    names = [m.label for m in panels["conditional"].marks]
    assert names[0] == "p, exact" and "q, the model's own" in names
    values = {m.name: m for p in run.engine.probes() for m in p.compute() if p.name == "given"}
    assert values["w1_given"].floor > 0 and math.isfinite(values["w1_given"].value)
    assert values["missed"].value < 1


@pytest.mark.parametrize("task", ["lower half", "noisy digit"])
@pytest.mark.parametrize("method", ["replacement", "posterior sampling", "matched Gaussians"])
def test_digits_are_observed_in_part(task, method):
    engine = started("digits", task=task, method=method).engine
    real = engine.pool.test[:3]
    with torch.no_grad():
        seen = engine.observed(real)
        x = engine.given(seen, 3)
    assert torch.isfinite(x).all() and x.shape == (3, 64)
    if task == "lower half":
        assert seen.seen.sum() == 32 and torch.equal(seen.value, engine.standardise(real))
        # observed rows are the upper ones, and an untrained network does not move them far
        assert float((x - real)[:, :32].abs().mean()) < 0.5 * float((x - real)[:, 32:].abs().mean())
    else:
        assert seen.seen.all() and seen.noise == engine.grain
        assert float((seen.value - engine.standardise(real)).std()) == pytest.approx(0.8, rel=0.2)
    with torch.no_grad(), engine.still():
        sheet = next(p for p in engine.panels() if p.id == "restored").drawn().marks[0]
    assert isinstance(sheet, Images) and sheet.columns == 8 and len(sheet.pixels) == 64
    hidden = np.isnan(sheet.pixels[0])
    assert hidden.sum() == (32 if task == "lower half" else 0) and not hidden[:4].any()


@pytest.mark.parametrize("name", ["walk", "corners", "line"])
def test_what_has_no_coordinate_to_observe_is_refused(name):
    with pytest.raises(BadInput, match=r"observes.*\.$"):
        Experiment(name, "inverse_diffusion")


def test_repeats_do_not_forget_an_observation_in_noise():
    data = Ellipses([[0.0, 0.0]], [[1.0, 1.0]], [0.0], [1.0])
    seen = Observation(torch.tensor([[1.2, -0.6]], dtype=torch.float64), ~FIRST | FIRST, 0.8)
    x = end(methods.replacement(walk(data, 40), start(300), seen, 10))
    assert agrees(x[:, 0], 1.2 / 1.64, math.sqrt(0.64 / 1.64), 0.1)
    assert not agrees(x[:, 0], 0.0, 1.0, 0.1), "the wrong twin: forgotten"
