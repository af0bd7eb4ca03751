"""Autoregressive flows: coordinate i is bent as the coordinates before it say.

The Jacobian is triangular, so its determinant is a product of d slopes. One direction takes
a single pass of the network, the other d passes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engines.flow.conditioner import Conditioner, Mixing, Network, Order, reversals
from engines.flow.spline import parameters, spline, spline_inverse


class _Layer:
    """Linear mixing, then an autoregressive transformation.

    With `one_by_one` pictures may show it halfway: y from z one coordinate after the other.

    Args:
        matrix, shift, log_det: A (d, d), c (d,), log|det A|.
        network: (N, d) → (N, d, P), row i of what only depends on coordinates before i.
    """

    one_by_one = True

    def __init__(self, matrix: Tensor, shift: Tensor, log_det: Tensor, network: Network) -> None:
        self.matrix, self.shift, self.log_det, self.network = matrix, shift, log_det, network

    def _tell(self, x: Tensor) -> Tensor:
        """What every coordinate gets, (N, d) → (N, d, P)."""
        return self.network(x if self.network.first is None else x[:, :1])

    def _mix(self, x: Tensor) -> Tensor:
        return torch.addmm(self.shift, x, self.matrix)

    def _unmix(self, x: Tensor) -> Tensor:
        return (x - self.shift) @ torch.linalg.inv(self.matrix)

    def _one_by_one(self, given: Tensor, solve) -> Tensor:
        """Fill the coordinates in their order, (N, d) → (N, d), each from those before it.

        solve(column of `given`, what the network tells for it) is the next coordinate.
        """
        columns: list[Tensor] = []
        later = torch.zeros_like(given)
        for i in range(given.shape[1]):
            if self.network.first is None:
                seen = torch.cat([*columns, later[:, i:]], 1)
            else:
                seen = columns[0] if columns else later[:, :1]
            columns.append(solve(given[:, i : i + 1], self.network.column(seen, i)[:, None]))
        return torch.cat(columns, 1)


class SplineLayer(_Layer):
    """z_i = spline(y_i; θ_i(y_<i)) with y = x A + c; log|det| = log|det A| + Σ log slopes."""

    bound: float

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, d) → (N, d) and log|det| (N,)."""
        y = self._mix(x)
        z, log_slopes = spline(y, self._tell(y), self.bound)
        return z, log_slopes.sum(1) + self.log_det

    def inverse(self, z: Tensor) -> Tensor:
        """The x for which forward(x) is z, (N, d) → (N, d), in d passes."""
        y = self._one_by_one(z, lambda z, theta: spline_inverse(z, theta, self.bound))
        return self._unmix(y)


REACH = 2.0  # |log scale| of one affine layer stays below it


def _affine(told: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers (N, d, 2) → log scales and shifts, (N, d) each."""
    a, m = told.unbind(2)
    return REACH * torch.tanh(a / REACH), m


class MAFLayer(_Layer):
    """z_i = y_i·exp a_i(y_<i) + m_i(y_<i) with y = x A + c."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, d) → (N, d) and log|det| = log|det A| + Σ a, (N,)."""
        y = self._mix(x)
        a, m = _affine(self._tell(y))
        return torch.addcmul(m, y, a.exp()), a.sum(1) + self.log_det

    def inverse(self, z: Tensor) -> Tensor:
        """The x for which forward(x) is z, (N, d) → (N, d), in d passes."""

        def solve(z: Tensor, told: Tensor) -> Tensor:
            a, m = _affine(told)
            return (z - m) * (-a).exp()

        return self._unmix(self._one_by_one(z, solve))


class IAFLayer(_Layer):
    """y_i = (z_i − m_i(z_<i))·exp −a_i(z_<i) with y = x A + c: fast from noise to data."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, d) → (N, d) and log|det| = log|det A| + Σ a, (N,), in d passes."""
        log_dets = []

        def solve(y: Tensor, told: Tensor) -> Tensor:
            a, m = _affine(told)
            log_dets.append(a)
            return torch.addcmul(m, y, a.exp())

        z = self._one_by_one(self._mix(x), solve)
        return z, torch.cat(log_dets, 1).sum(1) + self.log_det

    def inverse(self, z: Tensor) -> Tensor:
        """The x for which forward(x) is z, (N, d) → (N, d), in one pass."""
        a, m = _affine(self._tell(z))
        return self._unmix((z - m) * (-a).exp())


class _Autoregressive(nn.Module):
    """L layers, the order of the coordinates reversed before each but the first."""

    MIXING: type[nn.Module] = Mixing  # the reversal is where a learnt linear map starts

    def __init__(
        self,
        dim: int,
        layers: int,
        width: int,
        hidden: int,
        rng: torch.Generator,
        each: int,
        waves: int,
        pitch: float,
    ) -> None:
        super().__init__()
        self.mixing = self.MIXING(reversals(dim, layers, rng))
        self.conditioner = Conditioner(
            layers, dim, dim, each, width, hidden, rng, masked=True, waves=waves, pitch=pitch
        )

    def _build(self, kind: type[_Layer]) -> list:
        pairs = zip(self.mixing.maps(), self.conditioner.networks())
        return [kind(*maps, network) for maps, network in pairs]


class SplineAutoregressive(_Autoregressive):
    """Splines told by all coordinates before (Durkan et al. 2019, RQ-NSF (AR)).

    Args:
        dim: d ≥ 2. The density takes one pass, a sample d.
        bins, bound: K and the interval [−bound, bound] of the splines.
        waves, pitch: see Conditioner.
    """

    MIXING = Order

    def __init__(
        self,
        dim: int,
        layers: int,
        width: int,
        hidden: int,
        rng: torch.Generator,
        bins: int = 40,
        bound: float = 3.5,
        waves: int = 32,
        pitch: float = 4.0,
    ) -> None:
        super().__init__(dim, layers, width, hidden, rng, parameters(bins), waves, pitch)
        self.bound = bound

    def layers(self) -> list[SplineLayer]:
        """The layers in the order from data to noise."""
        layers = self._build(SplineLayer)
        for layer in layers:
            layer.bound = self.bound
        return layers


class MAF(_Autoregressive):
    """Masked autoregressive flow (Papamakarios, Pavlakou & Murray 2017): affine layers.

    Args:
        dim: d ≥ 2. The density takes one pass, a sample d.
        waves, pitch: see Conditioner.
    """

    def __init__(
        self,
        dim: int,
        layers: int,
        width: int,
        hidden: int,
        rng: torch.Generator,
        waves: int = 0,
        pitch: float = 1.0,
    ) -> None:
        super().__init__(dim, layers, width, hidden, rng, 2, waves, pitch)

    def layers(self) -> list[MAFLayer]:
        """The layers in the order from data to noise."""
        return self._build(MAFLayer)


class IAF(_Autoregressive):
    """Inverse autoregressive flow (Kingma et al. 2016): a sample takes one pass, the density d.

    Args:
        dim: 2 ≤ d ≤ MAX_DIM, for training asks for the density.
        waves, pitch: see Conditioner.
    """

    MAX_DIM = 16

    def __init__(
        self,
        dim: int,
        layers: int,
        width: int,
        hidden: int,
        rng: torch.Generator,
        waves: int = 0,
        pitch: float = 1.0,
    ) -> None:
        super().__init__(dim, layers, width, hidden, rng, 2, waves, pitch)

    def layers(self) -> list[IAFLayer]:
        """The layers in the order from data to noise."""
        return self._build(IAFLayer)
