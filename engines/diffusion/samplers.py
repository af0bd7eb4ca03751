"""Ways from noise to data along a denoiser.

A sampler is a generator: given the denoiser x̂₀(z, t), a schedule, falling times (T + 1,), a first
z (N, d) and a random generator, it yields z at each of the times, the first one included; so
whoever follows it decides what to show. Between two times, t and the smaller s, it asks the
denoiser once, Heun's method twice. None needs more of the denoiser than E[x₀ | z].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from engines.diffusion.schedules import Schedule

Denoise = Callable[[Tensor, float], Tensor]  # z (N, d), t → x̂₀ (N, d)


def _noise(z: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)


def _left(schedule: Schedule, t: float, s: float) -> float:
    """Standard deviation of z_s given z_t and x₀: σ_s/σ_t √(σ_t² − (α_t/α_s)² σ_s²)."""
    (alpha, sigma), (alpha_s, sigma_s) = schedule.at(t), schedule.at(s)
    return sigma_s / sigma * math.sqrt(max(sigma**2 - (alpha / alpha_s * sigma_s) ** 2, 0.0))


def ddpm(
    denoise: Denoise,
    schedule: Schedule,
    times: Sequence[float],
    z: Tensor,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Ancestral sampling: z_s from q(z_s | z_t, x₀) with x̂₀ in place of x₀.

    With α = α_t/α_s and σ² = σ_t² − α² σ_s² of the way from s to t: the mean is
    (α σ_s² z + α_s σ² x̂₀)/σ_t² and the variance σ² σ_s²/σ_t² (Ho, Jain & Abbeel 2020).
    """
    yield z
    for t, s in itertools.pairwise(times):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.at(t), schedule.at(s)
        alpha = alpha_t / alpha_s
        grown = max(sigma_t**2 - (alpha * sigma_s) ** 2, 0.0)
        mean = (alpha * sigma_s**2 * z + alpha_s * grown * denoise(z, t)) / sigma_t**2
        z = mean + _left(schedule, t, s) * _noise(z, generator)
        yield z


def ddim(
    denoise: Denoise,
    schedule: Schedule,
    times: Sequence[float],
    z: Tensor,
    generator: torch.Generator | None = None,
    eta: float = 0.0,
) -> Iterator[Tensor]:
    """z_s = α_s x̂₀ + √(σ_s² − c²) ε̂ + c ε with ε̂ = (z − α_t x̂₀)/σ_t and fresh noise ε.

    c is η times the ancestral step's: η = 0 keeps the noise that there is and is the ODE's Euler
    step in σ/α, η = 1 is `ddpm` (Song, Meng & Ermon 2021, Denoising diffusion implicit models).
    """
    yield z
    for t, s in itertools.pairwise(times):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.at(t), schedule.at(s)
        x0 = denoise(z, t)
        c = eta * _left(schedule, t, s)
        kept = math.sqrt(max(sigma_s**2 - c**2, 0.0)) / sigma_t
        z = alpha_s * x0 + kept * (z - alpha_t * x0)
        if c:
            z = z + c * _noise(z, generator)
        yield z


def velocity(denoise: Denoise, schedule: Schedule, z: Tensor, t: float) -> Tensor:
    """dz/dt = α′ x̂₀ + σ′ ε̂ of the probability-flow ODE (Song et al. 2021), (N, d) → (N, d)."""
    (alpha, sigma), (alpha_slope, sigma_slope) = schedule.at(t), schedule.slopes(t)
    x0 = denoise(z, t)
    return alpha_slope * x0 + (sigma_slope / sigma) * (z - alpha * x0)


def euler(
    denoise: Denoise,
    schedule: Schedule,
    times: Sequence[float],
    z: Tensor,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Euler's method on the probability-flow ODE in the schedule's own time."""
    yield z
    for t, s in itertools.pairwise(times):
        z = z + (s - t) * velocity(denoise, schedule, z, t)
        yield z


def heun(
    denoise: Denoise,
    schedule: Schedule,
    times: Sequence[float],
    z: Tensor,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Heun's method on the same ODE: of second order, two evaluations (Karras et al. 2022).

    Where no noise is left the slope has no value, and a step that ends there is Euler's.
    """
    yield z
    for t, s in itertools.pairwise(times):
        first = velocity(denoise, schedule, z, t)
        then = z + (s - t) * first
        if schedule.at(s)[1] > 0:
            then = z + (s - t) / 2 * (first + velocity(denoise, schedule, then, s))
        z = then
        yield z


def euler_maruyama(
    denoise: Denoise,
    schedule: Schedule,
    times: Sequence[float],
    z: Tensor,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Euler's method on the reverse SDE dz = (v + ½ g² ε̂/σ) dt + g dw with v of the ODE.

    g² = 2 σσ′ − 2 σ² α′/α is the noise that the way to t adds in unit time (Anderson 1982,
    Reverse-time diffusion equation models; Song et al. 2021).
    """
    yield z
    for t, s in itertools.pairwise(times):
        (alpha, sigma), (alpha_slope, sigma_slope) = schedule.at(t), schedule.slopes(t)
        squared = 2 * sigma * (sigma_slope - sigma * alpha_slope / alpha)
        x0 = denoise(z, t)
        noise = (z - alpha * x0) / sigma
        drift = alpha_slope * x0 + (sigma_slope + squared / (2 * sigma)) * noise
        z = z + (s - t) * drift + math.sqrt(squared * (t - s)) * _noise(z, generator)
        yield z


def dpm_solver(
    denoise: Denoise,
    schedule: Schedule,
    times: Sequence[float],
    z: Tensor,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """DPM-Solver++(2M): z_s = (σ_s/σ_t) z − α_s (e^{−h} − 1) D, h the step in λ = log α/σ.

    D = x̂₀ + (x̂₀ − x̂₀′)/2r looks ahead by the last step's x̂₀′, r the ratio of that step's h to
    this one's: second order for one evaluation. The first step has D = x̂₀, and so has the last,
    whose h is large or infinite (Lu et al. 2022, DPM-Solver++: fast solver for guided sampling of
    diffusion probabilistic models).
    """
    yield z
    before: tuple[Tensor, float] | None = None
    for i, (t, s) in enumerate(itertools.pairwise(times), 1):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.at(t), schedule.at(s)
        decay = alpha_t * sigma_s / (alpha_s * sigma_t)  # e^{−h}
        h = -math.log(decay) if decay > 0 else math.inf
        x0 = ahead = denoise(z, t)
        if before is not None and i < len(times) - 1:
            earlier, h_before = before
            ahead = x0 + (x0 - earlier) * (h / (2 * h_before))
        before = x0, h
        z = (sigma_s / sigma_t) * z + alpha_s * (1 - decay) * ahead
        yield z


class Sampler(NamedTuple):
    """How to walk, how often a step asks the denoiser, and whether it draws noise on the way."""

    walk: Callable[..., Iterator[Tensor]]
    evaluations: int
    random: bool


SAMPLERS: dict[str, Sampler] = {
    "DDPM": Sampler(ddpm, 1, True),
    "DDIM": Sampler(ddim, 1, True),
    "Euler": Sampler(euler, 1, False),
    "Heun": Sampler(heun, 2, False),
    "Euler-Maruyama": Sampler(euler_maruyama, 1, True),
    "DPM-Solver++": Sampler(dpm_solver, 1, False),
}


def walk(
    name: str,
    denoise: Denoise,
    schedule: Schedule,
    steps: int,
    z: Tensor,
    generator: torch.Generator | None = None,
    eta: float = 0.0,
) -> Iterator[Tensor]:
    """The states of one of SAMPLERS over a schedule's own times, steps + 1 of (N, d)."""
    more = {"eta": eta} if name == "DDIM" else {}
    return SAMPLERS[name].walk(denoise, schedule, schedule.times(steps), z, generator, **more)
