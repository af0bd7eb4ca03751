"""Normalising what is only known up to a factor: ∫ exp(f) over a box of the plane.

Energy models and noise-contrastive estimation learn f(x), and a density only by dividing:
q(x) = exp(f(x)) / Z on a declared domain, and 0 outside of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from engines.cells import centres
from engines.data.base import Pool
from engines.marks import Box
from engines.pace import Pieces, finish

TILE = 4096  # rows at a time, so that a network's activations stay in the cache
MANY = 8  # places tried for each draw
MARGIN = 0.05  # of the domain's side, beyond what it has to hold


def domain(pool: Pool) -> Box:
    """The box on which a model of the pool's plane is normalised.

    It holds the picture's extent and every training row, with a twentieth of its side around.
    """
    x0, x1, y0, y1 = pool.dataset.extent
    (low_x, low_y), (high_x, high_y) = pool.train.min(0).values, pool.train.max(0).values
    x0, x1 = min(x0, float(low_x)), max(x1, float(high_x))
    y0, y1 = min(y0, float(low_y)), max(y1, float(high_y))
    dx, dy = MARGIN * (x1 - x0), MARGIN * (y1 - y0)
    return (x0 - dx, x1 + dx, y0 - dy, y1 + dy)


def inside(x: Tensor, box: Box) -> Tensor:
    """Which rows (N, 2) lie in the box, (N,) bool."""
    x0, x1, y0, y1 = box
    return (x[:, 0] >= x0) & (x[:, 0] <= x1) & (x[:, 1] >= y0) & (x[:, 1] <= y1)


class Quadrature:
    """∫ exp(f) over a box by the midpoint rule on n × n cells, and draws from exp(f)/Z.

    The rule is exact but for 2 exp(−2π²σ²/h²) where exp(f) looks like a Gaussian of standard
    deviation σ ≥ h, the cell's side: 256 cells resolve a mode 300 times narrower than the box
    to one in 10⁴ (cells of several sizes would not: the errors of equal neighbours cancel). An
    exp(f) that jumps costs up to a hundredth.

    Args:
        log_f: f, (N, 2) → (N,) in nats; −∞ is allowed.

    Attributes:
        log_z: log ∫ exp(f), a 0-d tensor in float64.
        centres: (n², 2) of the cells, row 0 at the bottom; log_mass: (n²,), log of each cell's
            share of Z.
    """

    def __init__(
        self,
        log_f: Callable[[Tensor], Tensor],
        box: Box,
        device: torch.device | str = "cpu",
        n: int = 256,
    ) -> None:
        self._begin(log_f, box, device, n)
        finish(self._fill())

    @classmethod
    def made(cls, *given: Any) -> Pieces[Self]:
        """The same from the same arguments, a tile of cells at a time."""
        out = cls.__new__(cls)
        out._begin(*given)
        yield from out._fill()
        return out

    def _begin(
        self,
        log_f: Callable[[Tensor], Tensor],
        box: Box,
        device: torch.device | str = "cpu",
        n: int = 256,
    ) -> None:
        x0, x1, y0, y1 = box
        self.log_f, self.box = log_f, box
        self.centres = centres(box, n, device)
        self.cell = torch.tensor([(x1 - x0) / n, (y1 - y0) / n], device=device)

    def _fill(self) -> Pieces[None]:
        found = []
        for part in self.centres.split(TILE):
            yield
            found.append(self.log_f(part))
        self._settle(torch.cat(found).double())

    def _settle(self, values: Tensor) -> None:
        """Take over log_f at the centres, (n²,)."""
        area = self.cell.double().log().sum()
        self._values = values.nan_to_num(-math.inf, math.inf, -math.inf)
        self.log_z = self._values.logsumexp(0) + area
        self.log_mass = self._values + area - self.log_z

    def _tiled(self, x: Tensor) -> Tensor:
        found = torch.cat([self.log_f(part) for part in x.split(TILE)]).double()
        return found.nan_to_num(-math.inf, math.inf, -math.inf)

    def log_prob(self, x: Tensor) -> Tensor:
        """f(x) − log Z in nats, (N, 2) → (N,); −∞ outside the box."""
        found = torch.cat([self.log_f(part) for part in x.split(TILE)]) - self.log_z.to(x.dtype)
        return torch.where(inside(x, self.box), found, -math.inf)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws (n, 2) of exp(f)/Z, float32.

        A cell by its mass, a place in it, and of eight such one by exp(f) there over the cell's:
        so the draws follow f within the cells, too.
        """
        pick = self.log_mass.exp().multinomial(MANY * n, replacement=True, generator=generator)
        place = torch.rand(MANY * n, 2, generator=generator, device=self.cell.device) - 0.5
        x = self.centres[pick] + place * self.cell
        weight = (self._tiled(x) - self._values[pick]).clamp(-20, 20).exp().view(n, MANY)
        one = weight.multinomial(1, generator=generator)[:, 0]
        return x.view(n, MANY, 2)[torch.arange(n, device=x.device), one]
