"""What networks share that tell each coordinate from those before it (MADE), or see sines.

Germain, Gregor, Murray & Larochelle (2015), MADE: Masked autoencoder for distribution estimation.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Adam moves every number by the same step, but what a network of `width` units says moves by
# many of them at once: numbers that no network makes count this much, to keep pace
FREE = 10.0


def masks(seen: Tensor, width: int, hidden: int, told: Tensor) -> list[Tensor]:
    """Masks (n_in, n_out) of 0 and 1 for every linear layer of a network with `hidden` layers.

    Every hidden unit has a degree, and sees units of at most its own. The degrees go round
    1, 2 … max(told).

    Args:
        seen: (n_in,) degree of each input.
        told: (n_out,) for each output, the highest degree that it may see.
    """
    units = torch.arange(width) % int(told.max()) + 1
    out = []
    for _ in range(hidden):
        out.append((seen[:, None] <= units).float())
        seen = units
    return [*out, (seen[:, None] <= told).float()]


def degrees(dim: int, copies: int) -> Tensor:
    """Of `dim` coordinates 1 … dim, and of so many more numbers made of each alone, in the order
    in which `with_sines` has them: (dim · (1 + copies),)."""
    own = torch.arange(1, dim + 1)
    return torch.cat([own, own.repeat_interleave(copies)])


def with_sines(u: Tensor, frequency: Tensor, phase: Tensor) -> Tensor:
    """Rows beside sines of each of their coordinates alone, (N, n) → (N, n + n·w).

    `nets.Waves` mixes coordinates, and so would let one see what comes after it.

    Args:
        frequency, phase: (n, w).
    """
    bent = torch.sin(torch.addcmul(phase, u[:, :, None], frequency))
    return torch.cat([u, bent.flatten(1)], 1)


def thinned(u: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Dropout (Srivastava et al. 2014): each number becomes 0 with this probability, and the
    others grow to make up."""
    keep = 1 - share
    return u * ((torch.rand(u.shape, generator=rng, device=u.device) < keep) / keep)
