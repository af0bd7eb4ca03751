"""The domain cut into cells: what noise, data and model are there, and integrals over it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from engines.cells import centres
from engines.data.base import Pool
from engines.marks import Box
from engines.nce.noises import CELLS, Noise
from engines.pace import Pieces, finish
from engines.quadrature import TILE, Quadrature


class Grid:
    """A pool's domain and the noise on it; log n is worked out there once and for all.

    Attributes:
        box, noise; at: (C, 2) centres of the cells, and log_n: (C,) in float64.
    """

    def __init__(self, pool: Pool, noise: Noise, box: Box) -> None:
        self.pool, self.noise, self.box = pool, noise, box
        self.at = centres(box, CELLS, pool.train.device)
        x0, x1, y0, y1 = box
        self.log_cell = math.log((x1 - x0) * (y1 - y0) / CELLS**2)
        self.log_n = torch.cat([noise.log_prob(part.double()) for part in self.at.split(TILE)])

    @property
    def log_p(self) -> Tensor:
        """The exact log-density of the data at the cells, (C,) float64.

        Taken when it is first asked for, and kept with the pool for the runs and lanes that
        share it: some exact densities are quadratures themselves.
        """
        kept = getattr(self.pool, "_log_p_on_grid", None)
        if kept is None or kept[0] != self.box:
            log_p = self.pool.dataset.log_prob
            parts = [log_p(part.double()).double() for part in self.at.split(TILE)]
            kept = self.pool._log_p_on_grid = (self.box, torch.cat(parts))
        return kept[1]

    def integral(self, log_f: Tensor) -> float:
        """∫ exp(log_f) over the domain, from values at the cells, (C,)."""
        return float((log_f + self.log_cell).exp().sum())

    def best_accuracy(self, ratio: float) -> float:
        """∫ max(p, νn) / (1 + ν): how often the best classifier is right."""
        log_noise = self.log_n + math.log(ratio)
        # noise beyond the domain is told by its place
        outside = ratio * max(0.0, 1 - self.integral(self.log_n))
        return (self.integral(torch.maximum(self.log_p, log_noise)) + outside) / (1 + ratio)

    def effective(self, log_q: Tensor) -> float:
        """1 / E_n[(q/n)²] for a normalised log_q (C,): the effective share of noise draws
        that importance weights leave, as their number grows."""
        known = log_q > -math.inf
        square = torch.where(known, 2 * log_q - self.log_n, -math.inf)
        return 1 / max(self.integral(square), 1e-300)


class Implied(Quadrature):
    """q = n·exp(h)/Z on the domain.

    Attributes:
        log_h: (C,) of the cells, and all of a Quadrature.
    """

    def __init__(self, grid: Grid, log_ratio: Callable[[Tensor], Tensor]) -> None:
        self._begin(grid, log_ratio)
        finish(self._fill())

    def _begin(self, grid: Grid, log_ratio: Callable[[Tensor], Tensor]) -> None:
        self._grid, self._log_ratio = grid, log_ratio

        def log_f(x: Tensor) -> Tensor:
            return grid.noise.log_prob(x) + log_ratio(x)

        super()._begin(log_f, grid.box, grid.at.device, CELLS)

    def _fill(self) -> Pieces[None]:
        # the noise has not changed since the last time
        found = []
        for part in self.centres.split(TILE):
            yield
            found.append(self._log_ratio(part))
        self.log_h = torch.cat(found).double()
        self._settle(self._grid.log_n + self.log_h)

    @property
    def log_q(self) -> Tensor:
        """Normalised, at the cells, (C,) float64."""
        return self._values - self.log_z
