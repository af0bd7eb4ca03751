"""Markov chains that draw from exp(−E(z)/T): Langevin moves, with or without Metropolis."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.pace import Pieces, finish

Force = Callable[[Tensor], tuple[Tensor, Tensor]]
FAR = 1.5  # the longest drift of one move, in lengths √dim·ε of its noise


@dataclass(frozen=True)
class Moves:
    """How chains move.

    A Langevin move of size ε is z' = z + ε²/2 · F(z)/T + κ ε ξ, with F = −∇E and ξ ~ N(0, I).
    For small ε and κ = 1 its stationary law is exp(−E/T). On N(0, s²) the move alone leaves the
    variance s²/(1 − ε²/4s²); Metropolis' rule makes it exact at every ε.

    The drift is never longer than FAR √dim ε: where the energy is steep, chains neither fly off
    nor, being refused again and again, stand still (truncated MALA, Roberts & Tweedie 1996).
    Sizes fall from `step` to `fall` · `step` and begin anew every `steps` moves: coarse moves
    first, then fine ones. Each of them leaves exp(−E/T) as it is, so any order of them does.

    Attributes:
        low, high: (dim,) the domain. A move out of it is refused or, without the correction,
            reflected at its walls.
        steps: moves of one chain between two updates of the weights.
        step: ε of the first one, in the units of z. fall: of the last one ÷ of the first.
        noise: κ, without the correction only. temperature: T. metropolis: accept or refuse.
    """

    low: Tensor
    high: Tensor
    steps: int = 10
    step: float = 0.1
    fall: float = 1.0
    noise: float = 1.0
    temperature: float = 1.0
    metropolis: bool = True

    def size(self, i: int) -> float:
        """ε of move number i."""
        return self.step * self.fall ** ((i % self.steps) / max(self.steps - 1, 1))

    def drift(self, force: Tensor, size: float) -> Tensor:
        """ε²/2 · F/T (N, dim), cut to a length of FAR √dim ε."""
        drift = force * (size * size / 2 / self.temperature)
        length = torch.linalg.vector_norm(drift, dim=1, keepdim=True)
        longest = FAR * math.sqrt(force.shape[1]) * size
        return drift * (longest / length.clamp_min(1e-30)).clamp_max(1.0)

    def inside(self, z: Tensor) -> Tensor:
        """Which rows (N, dim) lie in the domain, (N,) bool."""
        return ((z >= self.low) & (z <= self.high)).all(1)

    def reflected(self, z: Tensor) -> Tensor:
        """Rows (N, dim) back in the domain, as from mirrors at its walls."""
        side = self.high - self.low
        turn = torch.remainder(z - self.low, 2 * side)
        return self.low + torch.minimum(turn, 2 * side - turn)

    def anywhere(self, n: int, rng: torch.Generator) -> Tensor:
        """n places (n, dim), uniform on the domain: the noise that chains begin from."""
        u = torch.rand(n, len(self.low), generator=rng, device=self.low.device)
        return torch.lerp(self.low, self.high, u)


@dataclass
class Trace:
    """What a run of n moves went through: (n + 1, N, dim) places, (n, N, dim) proposals and
    (n, N) bool, which of them were accepted."""

    places: Tensor
    proposals: Tensor
    accepted: Tensor


@torch.no_grad()
def run(
    force: Force, z: Tensor, moves: Moves, rng: torch.Generator, count: int | None = None
) -> tuple[Tensor, Tensor, Trace]:
    """`count` Langevin moves of every chain; moves.steps of them unless told.

    Args:
        force: z (N, dim) → E (N,) and −∇E (N, dim).

    Returns:
        z (N, dim), E(z) (N,), and how it came there.
    """
    return finish(running(force, z, moves, rng, count))


def running(
    force: Force, z: Tensor, moves: Moves, rng: torch.Generator, count: int | None = None
) -> Pieces[tuple[Tensor, Tensor, Trace]]:
    """`run`, a move at a time."""
    count = moves.steps if count is None else count
    energy, slope = force(z)
    places, proposals, accepted = [z], [], []
    for i in range(count):
        size = moves.size(i)
        drift = moves.drift(slope, size)
        xi = torch.randn(z.shape, generator=rng, device=z.device)
        if moves.metropolis:
            new = z + drift + size * xi
            new_energy, new_slope = force(new)
            # log of the chance to propose the way back, minus that of the way there
            back = (z - new - moves.drift(new_slope, size)) / size
            ratio = (energy - new_energy) / moves.temperature
            ratio += (xi.square().sum(1) - back.square().sum(1)) / 2
            u = torch.rand(len(z), generator=rng, device=z.device)
            yes = (u.log() < ratio) & moves.inside(new)
            slope = torch.where(yes[:, None], new_slope, slope)
            energy = torch.where(yes, new_energy, energy)
            z = torch.where(yes[:, None], new, z)
        else:
            z = new = moves.reflected(z + drift + moves.noise * size * xi)
            energy, slope = force(z)
            yes = torch.ones_like(energy, dtype=torch.bool)
        places.append(z)
        proposals.append(new)
        accepted.append(yes)
        yield
    return z, energy, Trace(torch.stack(places), torch.stack(proposals), torch.stack(accepted))


@torch.no_grad()
def leap(
    energy_of: Callable[[Tensor], Tensor],
    z: Tensor,
    energy: Tensor,
    new: Tensor,
    moves: Moves,
    rng: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """One Metropolis move of each chain to a far place `new` (N, dim), whatever lies between.

    Accepted with probability min(1, exp((E(z) − E(new))/T)), and never outside the domain. That
    is right where the way back is as likely to be proposed: a place that is uniform on the
    domain, or z plus the difference of two other chains (ter Braak 2006, differential evolution
    Markov chain Monte Carlo).

    Returns:
        z (N, dim) and E(z) (N,).
    """
    new_energy = energy_of(new)
    u = torch.rand(len(z), generator=rng, device=z.device)
    yes = (u.log() < (energy - new_energy) / moves.temperature) & moves.inside(new)
    return torch.where(yes[:, None], new, z), torch.where(yes, new_energy, energy)
