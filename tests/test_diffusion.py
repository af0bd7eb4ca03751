"""Diffusion: schedules, what the network predicts, and every sampler against others' code."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from engines import DATASETS, Experiment
from engines.diffusion import SAMPLERS, Schedule, make_schedule, numbers, samplers
from engines.diffusion.schedules import HIGH, LOW
from engines.fields import ExactPath, ode
from engines.metrics import kl, knn_kl

PROCESSES = [("VP", "linear"), ("VP", "cosine"), ("VE", "linear"), ("EDM", "linear")]
float64 = torch.float64


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- schedules


@pytest.mark.parametrize(("process", "kind"), PROCESSES)
def test_a_schedule_goes_from_data_to_noise(process, kind):
    s = make_schedule(process, kind)
    t = torch.tensor(s.times(200), dtype=float64)
    assert t[0] == pytest.approx(s.high) and t[-1] == pytest.approx(s.low)
    assert (s.log_snr(t).diff() > 0).all(), "a sampler's times rise in signal"
    for at, ratio in ((s.low, LOW), (s.high, HIGH), (s.time(0.7), 0.7)):
        alpha, sigma = s.at(at)
        assert sigma / alpha == pytest.approx(ratio, rel=1e-9)
    alpha, sigma = s.alpha(t), s.sigma(t)
    wanted = alpha**2 + sigma**2 if process == "VP" else alpha
    assert torch.allclose(wanted, torch.ones_like(t), atol=1e-12)


@pytest.mark.parametrize(("process", "kind"), PROCESSES)
def test_a_schedules_slopes_are_its_derivatives(process, kind):
    s = make_schedule(process, kind)
    for at in s.times(9)[:-1]:
        leaf = torch.tensor(at, dtype=float64, requires_grad=True)
        for value, slope in zip((s.alpha(leaf), s.sigma(leaf)), s.slopes(at), strict=True):
            (wanted,) = (
                torch.autograd.grad(value, leaf, allow_unused=True)
                if value.requires_grad
                else (None,)
            )
            assert slope == pytest.approx(float(wanted or 0.0), rel=1e-9, abs=1e-12)


def test_closed_forms_of_the_schedules():
    linear, cosine, exploding = (make_schedule(*p) for p in PROCESSES[:3])
    # log α = −½ ∫ β by the trapezoid rule, which is exact for a straight β
    t = torch.linspace(0, 0.8, 101, dtype=float64)
    integral = torch.trapezoid(0.1 + 19.9 * t, t)
    assert linear.at(0.8)[0] == pytest.approx(math.exp(-0.5 * float(integral)), rel=1e-12)
    assert cosine.at(0.5) == pytest.approx((math.sqrt(0.5), math.sqrt(0.5)))
    ratios = torch.tensor([exploding.at(t)[1] for t in exploding.times(4)]).log().diff()
    assert torch.allclose(ratios, ratios[:1].expand(4))
    karras = make_schedule("EDM").times(17)  # table 1 of Karras et al., with 18 values of σ
    i, a, b = np.arange(18) / 17, HIGH ** (1 / 7), LOW ** (1 / 7)
    assert karras == pytest.approx((a + i * (b - a)) ** 7)


# ---------------------------------------------------------------- against diffusers


class Discrete(Schedule):
    """The schedule of another's table of products ᾱ: t is an index, and −1 the data."""

    def __init__(self, products):
        self.products = products.double()

    def at(self, t):
        left = float(self.products[int(t)]) if t >= 0 else 1.0
        return math.sqrt(left), math.sqrt(1 - left)


def theirs(scheduler, z, model, seed, **more):
    """Their samples from z (N, d), their noise drawn by our generator."""
    generator, states = rng(seed), [z]
    for t in scheduler.timesteps:
        z = scheduler.step(model(z, int(t)), t, z, generator=generator, **more).prev_sample
        states.append(z)
    return states


def a_model(table):
    """Some noise prediction that no schedule is simple for, and the x̂₀ that it means."""

    def noise(z, t):
        return torch.sin(2 * z) + z.flip(1) * 0.3 + math.cos(t / 100)

    def denoise(z, t):
        alpha, sigma = table.at(t)
        return (z - sigma * noise(z, t)) / alpha

    return noise, denoise


BETAS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}


@pytest.mark.parametrize("kind", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("eta", [None, 0.0, 0.5, 1.0])
def test_ancestral_and_implicit_sampling_are_those_of_diffusers(kind, eta):
    known = {**BETAS, "beta_schedule": kind, "clip_sample": False}
    scheduler = (DDPMScheduler if eta is None else DDIMScheduler)(**known)
    scheduler.set_timesteps(10)
    table = Discrete(scheduler.alphas_cumprod)
    noise, denoise = a_model(table)
    z = torch.randn(50, 2, generator=rng(1), dtype=float64)
    more = {} if eta is None else {"eta": eta}
    wanted = theirs(scheduler, z, noise, 7, **more)
    times = [*scheduler.timesteps.tolist(), -1]
    walk = samplers.ddpm if eta is None else samplers.ddim
    found = list(walk(denoise, table, times, z, rng(7), **more))
    assert len(found) == 11
    for ours, other in zip(found, wanted, strict=True):
        assert torch.allclose(ours, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
    # its wrong twin: another amount of noise on the way
    twin = list(samplers.ddim(denoise, table, times, z, rng(7), eta=0.9))[-1]
    assert not torch.allclose(twin, wanted[-1], rtol=1e-2)


@pytest.mark.parametrize("steps", [2, 10, 20])
def test_the_second_order_solver_is_that_of_diffusers(steps):
    scheduler = DPMSolverMultistepScheduler(**BETAS, beta_schedule="linear")
    scheduler.set_timesteps(steps)
    table = Discrete(scheduler.alphas_cumprod)
    noise, denoise = a_model(table)
    z = torch.randn(50, 2, generator=rng(1), dtype=float64)
    wanted = theirs(scheduler, z, noise, 7)
    times = [*scheduler.timesteps.tolist(), -1]
    found = list(samplers.dpm_solver(denoise, table, times, z))
    for ours, other in zip(found, wanted, strict=True):
        assert torch.allclose(ours, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
    first = list(samplers.ddim(denoise, table, times, z))[-1]  # its wrong twin: of first order
    assert steps == 2 or not torch.allclose(first, wanted[-1], rtol=1e-2)


@pytest.mark.parametrize(("process", "kind"), PROCESSES)
def test_ancestral_sampling_is_ddim_with_all_of_the_noise(process, kind):
    s = make_schedule(process, kind)
    denoise = lambda z, t: torch.tanh(z)  # noqa: E731
    z = s.at(s.high)[1] * torch.randn(20, 2, generator=rng(1), dtype=float64)
    a = list(samplers.ddpm(denoise, s, s.times(12), z, rng(2)))[-1]
    b = list(samplers.ddim(denoise, s, s.times(12), z, rng(2), eta=1.0))[-1]
    assert torch.allclose(a, b, atol=1e-9)
    assert not torch.allclose(a, list(samplers.ddim(denoise, s, s.times(12), z))[-1], atol=0.01)


# ---------------------------------------------------------------- with the exact score


def exact_denoiser(path, s, wrong=1.0):
    """E[x₀ | z] of the data themselves; told a wrong amount of noise where `wrong` is not 1."""

    def denoise(z, t):
        alpha, sigma = s.at(t)
        return path.denoised(z, alpha, wrong * sigma)

    return denoise


@pytest.fixture(scope="module")
def ring():
    """A ring of soft modes, standardised; held-out rows; and the distance of fresh true ones."""
    dataset = DATASETS["ring8soft"]()
    pool = dataset.pool(0)
    scale = float(pool.std.square().mean().sqrt())
    path = ExactPath(dataset, pool.mean, scale)
    z = lambda x: ((x - pool.mean) / scale).double().numpy()  # noqa: E731
    held = z(pool.test[:2000])
    floor = np.mean([
        knn_kl(held, z(dataset.sample(2000, rng(50 + i)))).value for i in range(4)
    ])  # fmt: skip
    return path, held, float(floor)


QUICK = [("VP", "linear"), ("EDM", "linear")]
SLOW = [pytest.param(*p, marks=pytest.mark.slow) for p in PROCESSES if p not in QUICK]


@pytest.mark.parametrize(("process", "kind"), [*QUICK, *SLOW])
@pytest.mark.parametrize("name", SAMPLERS)
def test_with_the_exact_score_every_sampler_draws_the_data(ring, name, process, kind):
    path, held, floor = ring
    s = make_schedule(process, kind)
    first = math.hypot(*s.at(s.high)) * torch.randn(2000, 2, generator=rng(3), dtype=float64)
    # Euler's method in the time of VE, where each step multiplies the noise, needs many
    steps = 600 if (name, process) == ("Euler", "VE") else 120 // SAMPLERS[name].evaluations

    def distance(wrong):
        """k-NN KL above what fresh true samples have, which scatters by 0.01."""
        walk = samplers.walk(name, exact_denoiser(path, s, wrong), s, steps, first, rng(4), 0.5)
        *_, z = walk
        return knn_kl(held, (z / s.at(s.low)[0]).numpy()).value - floor

    assert distance(1.0) < 0.05
    assert distance(2.0) > 0.1, "the wrong twin: told of twice the noise"


class Optimal(torch.nn.Module):
    """What a network with nothing left to learn gives, from the closed forms of each prediction."""

    def __init__(self, path, predicts, preserving, sign=1.0):
        super().__init__()
        self.path, self.predicts, self.preserving, self.sign = path, predicts, preserving, sign

    def forward(self, place, level, blur=None, y=None):
        ratio = math.exp(4 * float(level.reshape(-1)[0]))
        cos, sin = 1 / math.hypot(1, ratio), ratio / math.hypot(1, ratio)
        x0 = self.path.denoised(place, cos, sin)
        noise = -sin * self.path.score(place, cos, sin) * self.sign
        size = 1.0 if self.preserving else 1 / cos  # of z against the place that is told
        return {
            "data": x0,
            "noise": noise,
            "v": cos * noise - sin * x0,
            "score": self.path.score(place, cos, sin) / size,
        }[self.predicts]

    def with_jacobian(self, x, s, blur=None, y=None):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = self(x, s, blur)
            rows = [torch.autograd.grad(value[:, i].sum(), x, retain_graph=True)[0] for i in (0, 1)]
        return value.detach(), torch.stack(rows, 1)


def optimal(dataset, **knobs):
    """An engine whose network is the optimal one, in double precision."""
    engine = Experiment(dataset, "diffusion", knobs=knobs).start("cpu").engine
    engine.averaged = False
    engine.net = Optimal(engine.exact, engine.predicts, engine.process == "VP")
    return engine


@pytest.mark.parametrize("process", ["VP", "VE", "EDM"])
@pytest.mark.parametrize("predicts", ["v", "noise", "data", "score"])
def test_whatever_is_predicted_the_best_guess_is_the_same(process, predicts):
    engine = optimal("two_gaussians", process=process, predicts=predicts)
    s, exact = engine.noising, engine.exact
    z = torch.randn(100, 2, generator=rng(1), dtype=float64)
    for ratio in (0.01, 0.3, 2.0, 20.0):
        t = s.time(ratio)
        alpha, sigma = s.at(t)
        here = z * math.hypot(alpha, sigma)
        wanted = exact.denoised(here, alpha, sigma)
        assert torch.allclose(engine.denoise(here, t), wanted, atol=2e-5)
    # its wrong twin: a network that gives −v, −ε, −s, and for the data twice what they are
    right = engine.net.forward
    engine.net.forward = lambda *a: -right(*a) if predicts != "data" else 2 * right(*a)
    assert not torch.allclose(engine.denoise(here, t), wanted, atol=0.05)


@pytest.mark.parametrize(
    ("dataset", "process", "predicts"),
    [("ring8", "EDM", "v"), ("moons", "VP", "noise"), ("ring8soft", "VE", "data")],
)
def test_with_the_exact_score_the_density_is_exact(dataset, process, predicts):
    engine = optimal(dataset, process=process, predicts=predicts)
    x = engine.pool.test[:60].double()
    found = engine.log_density(80)(x)
    z, first = engine.standardise(x), engine.times(1)[0]
    # what the ODE begins with is data in the least noise that there is
    wanted = engine.exact.log_prob(z, math.cos(first), math.sin(first)) - engine.log_std
    assert (found - wanted).abs().mean() < 0.004
    assert abs(kl(wanted, found).value) < 0.002
    assert abs(kl(engine.pool.dataset.log_prob(x), found).value) < 0.02
    # and its wrong twin: the Jacobian of the way dropped
    end = ode.end(engine.drift, z, engine.times(80))
    dropped = engine.log_base(end) - engine.log_std
    assert (dropped - wanted).abs().mean() > 0.5


def test_the_error_of_solving_the_ode_falls_with_its_steps():
    engine = optimal("ring8soft")
    x = engine.pool.test[:50].double()
    best = engine.log_density(120)(x)
    errors = [float((engine.log_density(n)(x) - best).abs().mean()) for n in (10, 20, 40)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2], "second order: a quarter for twice the steps"


def test_the_noise_at_the_end_is_nearly_the_datas_own():
    # KL(p_T‖N(0, (α² + σ²) I)) in nats: what taking pure noise for the end costs
    for name in ("unbalanced", "moons"):
        engine = Experiment(name, "diffusion").start("cpu").engine
        last = engine.times(1)[1]
        cos, sin = math.cos(last), math.sin(last)
        z0 = engine.standardise(engine.pool.test[:2000]).double()
        z = cos * z0 + sin * torch.randn(z0.shape, generator=rng(2), dtype=float64)
        gap = kl(engine.exact.log_prob(z, cos, sin), engine.log_base(z))
        assert abs(gap.value) < 1e-5 + 4 * gap.se < 1e-3
        twin = kl(engine.exact.log_prob(z, cos, sin), engine.log_base(1.1 * z))
        assert twin.value > 1e-3


# ---------------------------------------------------------------- training and its numbers


@pytest.mark.parametrize("process", ["VP", "EDM"])
@pytest.mark.parametrize("predicts", ["v", "noise", "data", "score"])
def test_the_loss_is_least_at_the_best_guess(process, predicts):
    """Its slope is 0 there, along constants and along F: in 5 standard errors over batches."""
    engine = optimal("two_gaussians", process=process, predicts=predicts)
    s = engine.noising
    alpha, sigma = s.at(s.time(0.7))
    right, level = engine.net.forward, lambda n: torch.full((n, 1), alpha, dtype=float64)
    engine.noises = lambda n: (level(n), torch.full((n, 1), sigma, dtype=float64))

    def slopes(turn):
        """Of the loss by c₀ and c₁, where the network gives (turn + c₁) F + c₀ in place of F."""
        found = []
        for i in range(40):
            c = torch.zeros(2, dtype=float64, requires_grad=True)
            engine.net.forward = lambda z, *a: (turn + c[1]) * right(z, *a) + c[0]  # noqa: B023
            x = engine.pool.train[500 * i : 500 * (i + 1)]
            found.append(torch.autograd.grad(engine.loss(engine.standardise(x)), c)[0])
        found = torch.stack(found)
        return found.mean(0).abs() / (found.std(0) / len(found) ** 0.5)

    assert (slopes(1.0) < 5).all()
    assert slopes(0.9).max() > 5, "the wrong twin: a tenth too little"


def test_what_the_score_loses_is_the_integral_of_its_error():
    engine = optimal("two_gaussians")
    assert numbers.gap(engine).total == pytest.approx(0, abs=1e-6)
    right, c = engine.net.forward, 0.3
    engine.net.forward = lambda *a: right(*a) + c  # off by c in both coordinates
    engine._gap = None
    found = numbers.gap(engine).total
    # |Δx̂₀|² (α/σ)² is 2c² cos²φ with tan φ = σ/α, and ∫ cos²φ dlog tan φ = log sin φ
    wanted = 2 * c**2 * math.log(math.sin(math.atan(HIGH)) / math.sin(math.atan(LOW)))
    assert found == pytest.approx(wanted, rel=0.02)
    assert 2 * c**2 * math.log(HIGH / LOW) > 1.3 * wanted  # its wrong twin


def test_all_samplers_are_compared_on_one_network():
    engine = optimal("ring8soft")
    assert not engine._compared
    engine.compare_samplers()
    assert set(engine._compared) == set(SAMPLERS)
    for name, found in engine._compared.items():
        assert [budget for budget, _ in found] == list(numbers.BUDGETS)
        first, last = found[0][1], found[-1][1]
        assert first > 0.5 and last < first
        assert last < (0.6 if SAMPLERS[name].random else 0.1), name
    panel = next(p for p in engine.panels() if p.id == "by_evaluations").drawn()
    assert len(panel.marks[0].lines) == len(SAMPLERS) and "at step 0" in panel.subtitle


def test_pictures_under_one_slider():
    engine = Experiment("moons", "diffusion", knobs={"steps": 3}).start("cpu").engine
    with torch.no_grad():
        panels = {p.id: p.drawn() for p in engine.panels()}
    linked = [p for p in panels.values() if p.slider]
    assert len(linked) == 5 and {p.slider.linked for p in linked} == {"time"}
    # a walk of three steps has four stops, and goes against the slider
    paths, points = panels["denoising"].marks
    assert paths.keys.tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert points.keys.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert np.allclose(paths.xy[:, -1], points.xy[0, : len(paths.xy)])
    # forward: the data at one end, noise of the data's own size at the other
    (cloud,) = panels["noising"].marks
    assert np.abs(cloud.xy[0] - engine.pool.test[:400].numpy()).max() < 0.02
    spread = ((cloud.xy[-1] - engine._mean.numpy()) / engine._std.numpy()).std()
    assert spread == pytest.approx(1, abs=0.1)
    # no exact field, no picture of it
    river = Experiment("river", "diffusion").start("cpu").engine
    ids = {p.id: p for p in river.panels()}
    assert "exact_field" not in ids and "not known" in ids["field"].subtitle


@pytest.mark.slow
def test_few_points_are_not_learnt_by_heart():
    xy = DATASETS["moons"]().sample(200, rng(5)).numpy()
    run = Experiment.from_points(xy, "diffusion", knobs={"batch": 128}).start("cpu")
    fresh = DATASETS["moons"]().sample(300, rng(9))
    engine = run.train(steps=500).engine

    def nll():
        with torch.no_grad():
            return -float(engine.log_density(14)(fresh).mean())

    kept, step = nll(), int(engine.kept.step)
    assert 0 < step < 400
    engine.averaged = False  # the wrong twin: the weights of now
    assert nll() > kept + 0.1
    engine.averaged = True  # and they go along
    again = Experiment.from_json(run.experiment.to_json()).start("cpu").restore(run.checkpoint())
    assert torch.equal(again.sample(20), run.sample(20))
    # of data without an end nothing is known by heart
    assert not hasattr(Experiment("moons", "diffusion").start("cpu").engine, "kept")
