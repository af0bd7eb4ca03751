"""What every kind of flow is made of, and the fixed layers between the data and the first one.

A layer has `forward(x)` → (z, log|det ∂z/∂x|) and `inverse(z)` → x; the engine, its pictures
and its checks use nothing else of it. Only where it begins with a linear map, it has this map
as `matrix` (d, d) and `shift` (d,), so that pictures need not turn with it.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

EDGE = 1e-6  # what rounding may do to a share in [0, 1]


class Layer(Protocol):
    """One invertible map of rows."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, d) → (N, d) and log|det ∂z/∂x| (N,)."""

    def inverse(self, z: Tensor) -> Tensor:
        """The x for which forward(x) is z, (N, d) → (N, d)."""


class Kind(Protocol):
    """One kind of flow: a Module built as `make(dim, layers, width, hidden, rng, **its_knobs)`.

    Its weights come from `rng` alone, and it begins near a rotation (or a stretched one, if it
    has a `stretch`). Where first values depend on the data it has `prepare(x)`, which is called
    once with standardised rows.
    """

    def layers(self) -> list[Layer]:
        """In the order from data to noise."""


class Standardise:
    """z = (x − mean)/std per coordinate, log|det ∂z/∂x| = −Σ log std."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean, self.std = mean, std

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x - self.mean) / self.std, -self.std.log().sum().expand(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        return z * self.std + self.mean


def centred(levels: float, dim: int, half: float, device: torch.device) -> Standardise:
    """Data in [0, levels] per coordinate → [−half, half]."""
    middle = torch.full((dim,), levels / 2, device=device)
    return Standardise(middle, middle / half)


class Logit:
    """z = logit p with p = a + (1 − 2a)·x/levels: data in [0, levels] → the whole line.

    log|det ∂z/∂x| = Σ log (1 − 2a)/levels − log p(1 − p); a keeps the ends finite. Most
    pixels lie at an end, where a Gaussian would waste its tails (Dinh et al. 2017, § 4.1).
    """

    A = 1e-4

    def __init__(self, levels: float) -> None:
        self.levels = levels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p = self.A + (1 - 2 * self.A) * x / self.levels
        inside = ((p > -EDGE) & (p < 1 + EDGE)).all(1)
        p = p.clamp(EDGE, 1 - EDGE)
        log_det = (math.log((1 - 2 * self.A) / self.levels) - p.log() - (1 - p).log()).sum(1)
        return torch.logit(p), torch.where(inside, log_det, -math.inf)

    def inverse(self, z: Tensor) -> Tensor:
        return (torch.sigmoid(z) - self.A) * (self.levels / (1 - 2 * self.A))


def forward(chain: list[Layer], x: Tensor) -> tuple[Tensor, Tensor]:
    """All layers one after the other: z (N, d) and the sum of their log|det| (N,)."""
    log_dets = []
    for layer in chain:
        x, log_det = layer.forward(x)
        log_dets.append(log_det)
    return x, torch.stack(log_dets).sum(0)


def inverse(chain: list[Layer], z: Tensor) -> Tensor:
    """The x for which `forward(chain, x)` is z, (N, d) → (N, d)."""
    for layer in reversed(chain):
        z = layer.inverse(z)
    return z
