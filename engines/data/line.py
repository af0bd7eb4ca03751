"""Gaussians on a line: the smallest data on which one sees what a divergence asks for."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from engines.data.base import STEPS, Dataset, Modes, Split, gaussian_rows
from engines.data.exact import Mixture
from engines.knobs import BadInput, payload
from engines.marks import Box

MOST_MODES = 8
LIMITS = {"x": (-20.0, 20.0), "sigma": (0.05, 5.0), "weight": (1e-3, 1e3)}


def check_modes(given: Any) -> list[list[float]]:
    """1 to 8 rows [x, sigma, weight] of floats, or BadInput."""
    return gaussian_rows(given, LIMITS, MOST_MODES)


def nice(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 4, 6, 8 × 10ⁿ: an axis that moves in steps."""
    unit = 10.0 ** math.floor(math.log10(value))
    return next(s * unit for s in (1, 1.5, 2, 3, 4, 6, 8, 10) if s * unit >= value * (1 - 1e-9))


class Line(Dataset):
    """p(x) = Σₖ wₖ N(x; μₖ, σₖ²) on the line.

    `extent` is (x₀, x₁, 0, top): where the data are, and a height that any one of the
    Gaussians fits under, were all of the mass its own.
    """

    name: ClassVar[str] = "line"
    about = "Gaussians on a line, whose modes can be dragged."
    source = "a mixture of Gaussians in one dimension, set by hand"
    place = 15
    kind: ClassVar = "line"
    shape: ClassVar[tuple[int, ...]] = (1,)

    components: list = payload(
        [[-2.5, 0.5, 0.4], [0.5, 0.9, 0.25], [3.2, 0.45, 0.35]],
        check=check_modes,
        help="Rows of x, σ and weight, one for each Gaussian.",
    )

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        x, sigma, weight = torch.tensor(self.components, dtype=torch.float64).unbind(1)
        self.mixture = Mixture(x[:, None], sigma, weight / weight.sum())
        reach = float((x.abs() + 3.5 * sigma).max())
        half = next(step for step in STEPS if step >= reach)
        top = nice(1.1 * float((1 / sigma).max()) / math.sqrt(2 * math.pi))
        self.extent: Box = (-half, half, 0.0, top)

    def sample(self, n: int, generator: torch.Generator, split: Split = "train") -> Tensor:
        m, device = self.mixture, generator.device
        u = torch.rand(n, generator=generator, dtype=torch.float64, device=device)
        edges = m.weights.cumsum(0).to(device)
        k = torch.searchsorted(edges, u).clamp_max(len(edges) - 1)
        noise = torch.randn(n, generator=generator, dtype=torch.float64, device=device)
        return (m.centres[:, 0].to(device)[k] + m.sigma.to(device)[k] * noise)[:, None].float()

    def log_prob(self, x: Tensor) -> Tensor:
        return self.mixture.log_prob(x)

    def noised(self, a: float, sigma: float) -> Mixture:
        return self.mixture.noised(a, sigma)

    @property
    def modes(self) -> Modes:
        m = self.mixture
        return Modes(m.centres, m.sigma, m.weights)

    @cached_property
    def _entropy(self) -> float:
        m = self.mixture
        x = m.centres[:, 0]
        low, high = (x - 10 * m.sigma).min(), (x + 10 * m.sigma).max()
        # at most a twentieth of the narrowest σ: there the midpoint rule errs below 1e-12
        n = int(20 * float((high - low) / m.sigma.min())) + 1
        x = low + (torch.arange(n, dtype=torch.float64) + 0.5) * (high - low) / n
        log_p = m.log_prob(x[:, None])
        return -float((log_p.exp() * log_p).sum() * (high - low) / n)

    @property
    def entropy(self) -> float:
        return self._entropy

    # ------------------------------------------------------------ by hand

    def moved(self, index: int, x: float, height: float) -> dict[str, Any]:
        """Options with the top of Gaussian `index` at (x, height).

        The height of its top, w/(σ√2π), gives its weight; the others keep their proportions.
        """
        _, sigma, _ = self._row(index)
        others = sum(row[2] for i, row in enumerate(self.components) if i != index)
        share = min(max(height * sigma * math.sqrt(2 * math.pi), 0.01), 0.99)
        # alone it has all of the mass whatever its weight
        weight = others * share / (1 - share) if others else 1.0
        return self._with(index, x=x, weight=weight)

    def widened(self, index: int, x: float) -> dict[str, Any]:
        """Options with the distance from its mean to x for the σ of Gaussian `index`."""
        return self._with(index, sigma=abs(x - self._row(index)[0]))

    def _row(self, index: int) -> list[float]:
        if not 0 <= index < len(self.components):
            raise BadInput(f"There are {len(self.components)} Gaussians; got number {index + 1}.")
        return self.components[index]

    def _with(self, index: int, **changes: float) -> dict[str, Any]:
        # as far as it goes: a hand that pulls beyond the limits holds on to its Gaussian
        row = dict(zip(LIMITS, self._row(index), strict=True)) | changes
        row = [round(min(max(row[k], low), high), 6) for k, (low, high) in LIMITS.items()]
        rows = [row if i == index else list(old) for i, old in enumerate(self.components)]
        return {"components": rows}
