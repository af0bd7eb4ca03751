"""Langevin dynamics on a score alone: unadjusted, Metropolis-adjusted, annealed.

Markov chains of an energy (engines/energy/langevin.py) know how likely two places are; chains here
know only the slope of log q, so what Metropolis' rule asks for is integrated along the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engines.pace import Pieces, finish

Score = Callable[[Tensor, float], Tensor]  # z (N, d), σ → ∇ log q_σ (N, d)
FAR = 200.0  # a chain that flies off stops there, in standard deviations of the data


@dataclass(frozen=True)
class Level:
    """`count` moves of size ε = `size` on the score at noise `sigma`."""

    sigma: float
    size: float
    count: int


@dataclass
class Trace:
    """What M moves went through: places (M + 1, N, d), accepted (M, N) bool, and the noise level
    of each move (M,)."""

    places: Tensor
    accepted: Tensor
    sigma: np.ndarray


def ladder(high: float, low: float, rungs: int, moves: int, step: float) -> list[Level]:
    """Levels of noise from `high` to `low` in equal ratios, with moves of ε = step · σ at each.

    `moves` are shared out evenly, what is left over to the last ones; there are never more rungs
    than moves. The size falls with σ, so that signal and noise of a move keep their ratio (Song &
    Ermon 2019, algorithm 1).
    """
    rungs = min(rungs, moves)
    each, more = divmod(moves, rungs)
    sigmas = np.geomspace(high, low, rungs) if rungs > 1 else [low]
    return [
        Level(float(sigma), step * float(sigma), each + (i >= rungs - more))
        for i, sigma in enumerate(sigmas)
    ]


def climb(score: Score, z: Tensor, slope: Tensor, new: Tensor, new_slope: Tensor, sigma: float):
    """log q(new) − log q(z) ≈ ∫₀¹ s(z + u·(new − z))·(new − z) du by Simpson's rule, (N,).

    Exact where log q is of degree four or less along the way, as a Gaussian's is. A network's
    field need not be a slope of anything; then the ratio belongs to the straight way alone.
    """
    way = new - z
    middle = score(z + way / 2, sigma)
    return ((slope + 4 * middle + new_slope) * way).sum(1) / 6


@torch.no_grad()
def walk(
    score: Score,
    z: Tensor,
    levels: Sequence[Level],
    rng: torch.Generator,
    noise: float = 1.0,
    metropolis: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """After every move: z (N, d), and which chains accepted it (N,) bool.

    A move is z' = z + ε²/2 · s(z) + κ ε ξ with ξ ~ N(0, I), κ = `noise`. With κ = 1 chains come
    to the law whose score s is, but for an error that grows with ε: of N(0, v I) they make the
    variance v / (1 − ε²/4v). Metropolis' rule removes it (Roberts & Tweedie 1996, Exponential
    convergence of Langevin distributions and their discrete approximations); κ is 1 then.
    """
    every = torch.ones(len(z), dtype=torch.bool, device=z.device)
    for level in levels:
        sigma, size = level.sigma, level.size
        slope = None
        for _ in range(level.count):
            if slope is None:
                slope = score(z, sigma)
            xi = torch.randn(z.shape, generator=rng, device=z.device, dtype=z.dtype)
            drift = slope * (size * size / 2)
            if metropolis:
                new = z + drift + size * xi
                new_slope = score(new, sigma)
                # log of the chance to propose the way back, minus that of the way there
                back = (z - new) / size - new_slope * (size / 2)
                ratio = climb(score, z, slope, new, new_slope, sigma)
                ratio = ratio + (xi.square().sum(1) - back.square().sum(1)) / 2
                u = torch.rand(len(z), generator=rng, device=z.device, dtype=z.dtype)
                yes = u.log() < ratio
                z = torch.where(yes[:, None], new, z)
                slope = torch.where(yes[:, None], new_slope, slope)
            else:
                z = (z + drift + (noise * size) * xi).clamp(-FAR, FAR)
                slope, yes = None, every
            yield z, yes


def end(score: Score, z: Tensor, levels: Sequence[Level], rng: torch.Generator, **how) -> Tensor:
    """Where chains are after all moves, (N, d)."""
    for place, _ in walk(score, z, levels, rng, **how):
        z = place
    return z


def trace(score: Score, z: Tensor, levels: Sequence[Level], rng: torch.Generator, **how) -> Trace:
    """All places on the way."""
    return finish(tracing(score, z, levels, rng, **how))


def tracing(
    score: Score, z: Tensor, levels: Sequence[Level], rng: torch.Generator, **how
) -> Pieces[Trace]:
    """`trace`, a move at a time."""
    moves = []
    for move in walk(score, z, levels, rng, **how):
        moves.append(move)
        yield
    sigma = np.repeat([level.sigma for level in levels], [level.count for level in levels])
    places = torch.stack([z, *(place for place, _ in moves)])
    return Trace(places, torch.stack([yes for _, yes in moves]), sigma)


def denoised(score: Score, z: Tensor, sigma: float) -> Tensor:
    """E[z₀ | z] = z + σ² s(z), what the last noise is taken off by: Tweedie's formula (Robbins
    1956), (N, d) → (N, d)."""
    return z + sigma**2 * score(z, sigma)
