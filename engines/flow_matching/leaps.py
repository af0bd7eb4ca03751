"""Shortcut models: leaps over whole stretches of time, learnt from two leaps of half the length.

Frans, Hafner, Levine & Abbeel (2024), One step diffusion via shortcut models.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from engines.flow_matching.network import FINE

LENGTHS = 6  # leaps of 1, 1/2 … 2⁻⁵

Mean = Callable[[Tensor, Tensor, Tensor], Tensor]  # z, t, d → mean velocity over [t, t + d]


def drawn(n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Times t and lengths d of n leaps, (n,) and (n,): d = 2⁻ʲ, and t a multiple of it."""
    j = torch.randint(LENGTHS, (n,), generator=rng, device=rng.device)
    u = torch.rand(n, generator=rng, device=rng.device)
    parts = 2.0**j
    return (u * parts).floor() / parts, 1 / parts


def target(mean: Mean, z: Tensor, t: Tensor, d: Tensor) -> Tensor:
    """The mean velocity over [t, t + d] by two leaps of half the length, (N, d).

    s(z, t, d) = ½ s(z, t, d/2) + ½ s(z′, t + d/2, d/2) with z′ = z + d/2 s(z, t, d/2). The
    shortest halves are steps along the velocity itself, s(z, t, 0).
    """
    half = d / 2
    told = torch.where(half < 1.5 / FINE, 0.0, half)
    first = mean(z, t, told)
    second = mean(z + half[:, None] * first, t + half, told)
    return (first + second) / 2


def way(mean: Mean, z: Tensor, times: Sequence[float]) -> Iterator[Tensor]:
    """z (N, d) at each of `times`, by one leap from each to the next."""
    yield z
    for t, then in itertools.pairwise(times):
        d = then - t if then - t > 1.5 / FINE else 0.0
        z = z + (then - t) * mean(z, *torch.tensor([t, d], device=z.device))
        yield z
