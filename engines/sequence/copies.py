"""Several networks of one shape side by side, trained in one go without knowing of each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Copies(nn.Module):
    """C multi-layer perceptrons with the same first weights, (C, N, a) → (C, N, b).

    One batched product serves all of them, and each sees only its own slice: so they differ by
    what they are shown and by nothing else.

    Args:
        count: C.
        sizes: of the layers, the first a and the last b; the last one starts at zero.
    """

    def __init__(self, count: int, sizes: Sequence[int], rng: torch.Generator) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for index, (a, b) in enumerate(itertools.pairwise(sizes)):
            last = index == len(sizes) - 2
            bound = 0.0 if last else 1 / math.sqrt(a)
            weight = torch.rand(1, a, b, generator=rng, device=rng.device) * 2 - 1
            bias = torch.rand(1, 1, b, generator=rng, device=rng.device) * 2 - 1
            self.weights.append(nn.Parameter((bound * weight).repeat(count, 1, 1)))
            self.biases.append(nn.Parameter((bound * bias).repeat(count, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, F.silu(x) if index else x, weight)
        return x

    def clip(self, most: float) -> None:
        """Shorten each copy's gradient to the length `most`, by its own length alone."""
        parts = [p.grad for p in self.parameters()]
        squares = torch.stack([part.flatten(1).square().sum(1) for part in parts]).sum(0)
        factor = (most / squares.sqrt().clamp_min(1e-12)).clamp_max(1.0)[:, None, None]
        for part in parts:
            part.mul_(factor)
