"""A field that is also told how far a step shall reach."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engines.fields.network import BEATS, Field
from engines.nets import linear

FINE = 64  # steps at which a leap is as good as none


class LeapingField(Field):
    """f(x, (s, d)): the level s is told as in `Field`, and the length d of a step beside it.

    d in [0, 1] enters by its logarithm, 1 + log₂(d + 1/64)/6 from 0 to 1; d = 0 means that no step
    is made at all, and f is a velocity.
    """

    def __init__(self, dim: int, width: int, hidden: int, rng: torch.Generator, *rest) -> None:
        super().__init__(dim, width, hidden, rng, *rest)
        self.leap = linear(2 * BEATS + 1, width, rng, math.sqrt(3))

    def _told(self, s: Tensor, y: Tensor | None) -> Tensor:
        s, d = s.reshape(-1, 2).split(1, 1)
        d = 1 + torch.log2(d + 1 / FINE) / math.log2(FINE)
        angle = d * self.beat
        return super()._told(s, y) + self.leap(torch.cat([d, angle.sin(), angle.cos()], 1))
