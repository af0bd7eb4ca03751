"""What mixtures are fitted to: rows that stay, standardised, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from engines.base import Engine


class OnRows(Engine):
    """An engine that fits the same `n_points` of its pool's rows at every step.

    Attributes:
        _z: (N, D) these rows, standardised.
        _log_std: the standardisation's log-Jacobian Σ log std, 0-d.
    """

    def _choose(self, rng: torch.Generator) -> None:
        """Draw the rows."""
        rows = len(self.pool.train)
        order = torch.randperm(rows, generator=rng, device=self.device)[: self.n_points]
        # one draw of dequantisation noise: EM climbs the likelihood of points that stay put
        self._z = self._whiten(self.pool.rows(order, rng))
        self._log_std = self._std.double().log().sum()

    def _whiten(self, x: Tensor) -> Tensor:
        """(x − mean)/std in float64, (N, D) → (N, D)."""
        return (x.double() - self._mean) / self._std

    def _unwhiten(self, z: Tensor) -> Tensor:
        """The rows in data units, float32."""
        return (z * self._std + self._mean).float()
