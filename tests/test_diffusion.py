"""Diffusion: schedules, what the network predicts, and every sampler against others' code."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from engines.diffusion import Schedule, make_schedule, samplers
from engines.diffusion.schedules import HIGH, LOW

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
    i = np.arange(18) / 17
    assert karras == pytest.approx((80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7)


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
