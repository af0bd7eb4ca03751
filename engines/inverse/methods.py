"""Ways of sampling x given a part of it, y = x_observed + r n, by a denoiser that never saw any y.

Each is a generator, as samplers are: the states (N, d) at falling times. None of them is exact but
for Gaussian data; which of them errs how is what there is to see.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from engines.diffusion.samplers import SAMPLERS, Denoise
from engines.diffusion.schedules import Schedule


@dataclass
class Observation:
    """What is known of x, in standardised units.

    Args:
        value: (N, d) or (1, d); only observed columns count.
        seen: (d,) bool, the columns that are observed.
        noise: r ≥ 0, the standard deviation of the observation's own noise.
    """

    value: Tensor
    seen: Tensor
    noise: float = 0.0


@dataclass
class Walk:
    """How to walk: a denoiser, a schedule, falling times, one of SAMPLERS, and where noise is from."""

    denoise: Denoise
    schedule: Schedule
    times: Sequence[float]
    sampler: str = "DDPM"
    generator: torch.Generator | None = None
    eta: float = 0.0

    def states(self, z: Tensor, denoise: Denoise | None = None, times=None) -> Iterator[Tensor]:
        more = {"eta": self.eta} if self.sampler == "DDIM" else {}
        return SAMPLERS[self.sampler].walk(
            denoise or self.denoise, self.schedule, times or self.times, z, self.generator, **more
        )

    def step(self, z: Tensor, t: float, s: float) -> Tensor:
        """z at s from z at t; a solver that needs earlier steps takes one of first order."""
        _, z = self.states(z, times=(t, s))
        return z

    def randn(self, z: Tensor) -> Tensor:
        return torch.randn(z.shape, generator=self.generator, device=z.device, dtype=z.dtype)


def pinned(walk: Walk, z: Tensor, s: float, seen: Observation) -> Tensor:
    """z (N, d) at s with the observed columns replaced by α y + √(σ² − α² r²) ε.

    So their noise is that of time s, the observation's own included. In less noise than that of
    the observation they are left to the walk.
    """
    alpha, sigma = walk.schedule.at(s)
    left = sigma**2 - (alpha * seen.noise) ** 2
    if left < 0:
        return z
    known = alpha * seen.value + math.sqrt(left) * walk.randn(z)
    return torch.where(seen.seen, known, z)


def replacement(walk: Walk, z: Tensor, seen: Observation, repeats: int = 1) -> Iterator[Tensor]:
    """After each step the observed columns are overwritten by the observation in noise.

    The others never learn in time what was written: what they are at t was decided beside other
    noise. So each step may be made several times, with fresh noise from s back to t in between
    (Song et al. 2021; the repeats: Lugmayr et al. 2022, RePaint).
    """
    z = pinned(walk, z, walk.times[0], seen)
    yield z
    for t, s in itertools.pairwise(walk.times):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = walk.schedule.at(t), walk.schedule.at(s)
        ratio = alpha_t / alpha_s
        grown = math.sqrt(max(sigma_t**2 - (ratio * sigma_s) ** 2, 0.0))
        # once the observation is what is noisier, going back and forth would only forget it
        held = sigma_s >= alpha_s * seen.noise
        for again in range(repeats if held else 1):
            if again:
                z = ratio * z + grown * walk.randn(z)
            z = pinned(walk, walk.step(z, t, s), s, seen)
        yield z


def posterior_sampling(
    walk: Walk, z: Tensor, seen: Observation, strength: float = 1.0
) -> Iterator[Tensor]:
    """A step of the sampler, then `strength` times the slope of ½‖y − x̂₀(z)‖² downhill, both at t.

    In the units of the variance preserving process, where its authors state it: on z divided by
    √(α² + σ²), before and after (Chung et al. 2023, Diffusion posterior sampling for general noisy
    inverse problems, algorithm 1). They divide the step by the norm, which hardly changes in
    thousands of columns, while in one it has to become small; and in less noise than that of the
    observation, ρ = σ/α < r, it fades as ρ²/(ρ² + r²): there z knows better.
    """
    yield z
    for t, s in itertools.pairwise(walk.times):
        (alpha, sigma), size_s = walk.schedule.at(t), math.hypot(*walk.schedule.at(s))
        trust = sigma**2 / (sigma**2 + (alpha * seen.noise) ** 2)
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            far = torch.where(seen.seen, seen.value - walk.denoise(leaf, t), 0.0).square().sum() / 2
            (slope,) = torch.autograd.grad(far, leaf)
        pace = strength * trust * math.hypot(alpha, sigma) * size_s
        z = walk.step(z, t, s) - pace * slope
        yield z


def informed(walk: Walk, seen: Observation, z: Tensor, t: float) -> Tensor:
    """E[x₀ | z, y] (N, d) as if x₀ given z were Gaussian, with Tweedie's mean and covariance.

    cov(x₀ | z) = (σ²/α) ∂x̂₀/∂z, so this is the Kalman update x̂₀ + C_{·o} (C_oo + r²)⁻¹ (y − x̂₀),
    which is exact for Gaussian data. Of several observed columns C_oo is taken as diagonal, each
    with the sum of its row (Boys et al. 2024, Tweedie moment projected diffusions).
    """
    alpha, sigma = walk.schedule.at(t)
    scale = sigma**2 / alpha
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        x0 = walk.denoise(leaf, t)
        rows = seen.seen.to(x0).expand_as(x0)
        (first,) = torch.autograd.grad(x0, leaf, rows, retain_graph=True)
        # a network's covariance may be next to nothing, or negative: not below a hundredth of
        # what data of variance 1 would have
        least = 0.01 * sigma**2 / (alpha**2 + sigma**2)
        spread = (scale * first).abs().clamp_min(least)
        off = torch.where(seen.seen, seen.value - x0.detach(), 0.0)
        (move,) = torch.autograd.grad(x0, leaf, off / (seen.noise**2 + spread))
    return x0.detach() + scale * move


def matched(walk: Walk, z: Tensor, seen: Observation) -> Iterator[Tensor]:
    """The sampler itself, with the denoiser that has seen the observation: `informed`."""
    return walk.states(z, partial(informed, walk, seen))
