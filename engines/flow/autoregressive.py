"""Autoregressive flows: coordinate i is bent as the coordinates before it say.

The Jacobian is triangular, so its determinant is a product of d slopes. One direction takes
a single pass of the network, the other d passes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.flow.affine import REACH, Coupling, reach, turns
from engines.flow.conditioner import Conditioner, Mixing, Network, Order, reversals
from engines.flow.spline import IN_TENSORS, Bend, parameters, through

BOUND, STRETCH = 4.2, 1.5  # of the splines, see SplineAutoregressive
MANY = 8  # coordinates above which a flow has other first values and sizes


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
    """z_i = spline(y_i; θ_i(y_<i)) with y = x A + c; log|det| = log|det A| + Σ log slopes.

    Args:
        bound: the splines' interval is [−bound, bound].
        bend: how they are worked out.
    """

    def __init__(
        self,
        matrix: Tensor,
        shift: Tensor,
        log_det: Tensor,
        network: Network,
        bound: float,
        bend: Bend = IN_TENSORS,
    ) -> None:
        super().__init__(matrix, shift, log_det, network)
        self.bound, self.bend = bound, bend

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, d) → (N, d) and log|det| (N,)."""
        y = self._mix(x)
        if self.network.first is None:
            z, log_slopes = self.bend.spline(y, self.network(y), self.bound)
            return z, log_slopes.sum(1) + self.log_det
        columns = y.unbind(1)  # their splines may have different numbers of bins
        told = [self.network.column(y[:, :1], i) for i in range(2)]
        z, log_slopes = zip(*(self.bend.spline(c, t, self.bound) for c, t in zip(columns, told)))
        return torch.stack(z, 1), sum(log_slopes) + self.log_det

    def inverse(self, z: Tensor) -> Tensor:
        """The x for which forward(x) is z, (N, d) → (N, d), in d passes."""
        y = self._one_by_one(z, lambda z, theta: self.bend.inverse(z, theta, self.bound))
        return self._unmix(y)


class _AffineLayer(_Layer):
    """Has log scales and shifts; |log scale| < `most`, see `affine.reach`."""

    def __init__(
        self, matrix: Tensor, shift: Tensor, log_det: Tensor, network: Network, most: float = REACH
    ) -> None:
        super().__init__(matrix, shift, log_det, network)
        self.most = most

    def _affine(self, told: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers (N, d, 2) → log scales and shifts, (N, d) each."""
        a, m = told.unbind(2)
        return self.most * torch.tanh(a / self.most), m


class MAFLayer(_AffineLayer):
    """z_i = y_i·exp a_i(y_<i) + m_i(y_<i) with y = x A + c."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, d) → (N, d) and log|det| = log|det A| + Σ a, (N,)."""
        y = self._mix(x)
        a, m = self._affine(self._tell(y))
        return torch.addcmul(m, y, a.exp()), a.sum(1) + self.log_det

    def inverse(self, z: Tensor) -> Tensor:
        """The x for which forward(x) is z, (N, d) → (N, d), in d passes."""

        def solve(z: Tensor, told: Tensor) -> Tensor:
            a, m = self._affine(told)
            return (z - m) * (-a).exp()

        return self._unmix(self._one_by_one(z, solve))


class IAFLayer(_AffineLayer):
    """y_i = (z_i − m_i(z_<i))·exp −a_i(z_<i) with y = x A + c: fast from noise to data."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, d) → (N, d) and log|det| = log|det A| + Σ a, (N,), in d passes."""
        log_dets = []

        def solve(y: Tensor, told: Tensor) -> Tensor:
            a, m = self._affine(told)
            log_dets.append(a)
            return torch.addcmul(m, y, a.exp())

        z = self._one_by_one(self._mix(x), solve)
        return z, torch.cat(log_dets, 1).sum(1) + self.log_det

    def inverse(self, z: Tensor) -> Tensor:
        """The x for which forward(x) is z, (N, d) → (N, d), in one pass."""
        a, m = self._affine(self._tell(z))
        return self._unmix((z - m) * (-a).exp())


class _Autoregressive(nn.Module):
    """L layers with linear maps between them that mix the coordinates.

    Args:
        mixing: the L maps, Mixing or Order.
        each, waves, pitch, free, drop: see Conditioner.
    """

    def __init__(
        self,
        mixing: nn.Module,
        dim: int,
        layers: int,
        width: int,
        hidden: int,
        rng: torch.Generator,
        each: int,
        waves: int = 0,
        pitch: float = 1.0,
        free: int | None = None,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.mixing = mixing
        self.conditioner = Conditioner(
            layers, dim, dim, each, width, hidden, rng, masked=True, waves=waves, pitch=pitch,
            free=free, drop=drop,
        )  # fmt: skip

    def _parts(self) -> list[tuple[tuple[Tensor, Tensor, Tensor], Network]]:
        """Of every layer its linear map and its network."""
        return list(zip(self.mixing.maps(), self.conditioner.networks()))


def learnt(dim: int, layers: int, rng: torch.Generator) -> Mixing:
    """The linear maps between affine layers, which learn.

    A reversal would let each of them act along the axes only. In the plane they start as small
    turns, so that layers act in many directions from the beginning.
    """
    plane = dim == 2
    return Mixing(turns(dim, layers, None, rng.device) if plane else reversals(dim, layers, rng))


class SplineAutoregressive(_Autoregressive):
    """Splines told by all coordinates before (Durkan et al. 2019, RQ-NSF (AR)).

    Data of variance 1 ends at two or three standard deviations, noise at more than four: so
    the data is stretched first, and both ends lie in the same interval without many bins
    where no data is. The maps between the layers are fixed: each but the first reverses the order.

    Args:
        dim: d ≥ 2. The density takes one pass, a sample d.
        bins, bound: K and the interval [−bound, bound] of the splines. In the plane nothing
            conditions the first coordinate, and its spline must make every mode of the marginal
            at once: it has FREE·K bins. In more dimensions than MANY, where what counts is
            which coordinates are seen, a spline has FEWER·K of them.
        stretch: what the data is multiplied by before the first of them.
        width: units in a hidden layer; WIDER times as many in more dimensions than MANY, for
            a masked unit sees only some of them. There a share DROP is left out in training.
        waves, pitch: see Conditioner.

    Attributes:
        bend: how the splines are worked out; native code may take the place of tensors.
    """

    bend = IN_TENSORS
    FREE = 2
    FEWER, WIDER, DROP = 0.4, 2, 0.2
    LAST = 2.2  # the outermost quantiles that splines begin with, in standard deviations

    def __init__(
        self,
        dim: int,
        layers: int,
        width: int,
        hidden: int,
        rng: torch.Generator,
        bins: int = 20,
        bound: float = BOUND,
        stretch: float = STRETCH,
        waves: int = 32,
        pitch: float = 2.7,
    ) -> None:
        drop = 0.0
        if dim > MANY:
            bins, width, drop = max(4, round(self.FEWER * bins)), self.WIDER * width, self.DROP
        each, free = parameters(bins), parameters(self.FREE * bins)
        order = Order(reversals(dim, layers, rng), stretch)
        super().__init__(order, dim, layers, width, hidden, rng, each, waves, pitch, free, drop)
        self.bound, self.stretch = bound, stretch

    @torch.no_grad()
    def prepare(self, x: Tensor) -> None:
        """First values for more than MANY coordinates, from standardised rows x (N, d).

        The first layer's splines lead through the quantiles of their own coordinates, so that
        training begins where each of them is Gaussian by itself: what remains to be learnt is
        how they hang together. What its network sees is centred.
        """
        told = self.conditioner
        if x.shape[1] <= MANY:
            return
        x = self.stretch * x
        y = torch.linspace(-self.LAST, self.LAST, told.each // 3 - 1, device=x.device)
        inner = x.quantile(torch.special.ndtr(y), 0).T.clamp(-self.bound, self.bound)
        knots = [F.pad(part, (1, 1), value=self.bound) for part in (inner, y.expand_as(inner))]
        for part in knots:
            part[:, 0] = -self.bound
        told.biases[-1][0] = through(*knots, self.bound).flatten()
        told.biases[0][0] -= x.mean(0) @ (told.weights[0][0] * told.mask0)

    def layers(self) -> list[SplineLayer]:
        """The layers in the order from data to noise."""
        parts = self._parts()
        return [SplineLayer(*maps, network, self.bound, self.bend) for maps, network in parts]


class MAF(_Autoregressive):
    """Masked autoregressive flow (Papamakarios, Pavlakou & Murray 2017): affine layers.

    In the plane the first coordinate's scale and shift are constants, which the linear map
    before them has already: what remains of a layer is an affine coupling, and is built as one.

    Args:
        dim: d ≥ 2. The density takes one pass, a sample d.
    """

    def __init__(
        self, dim: int, layers: int, width: int, hidden: int, rng: torch.Generator
    ) -> None:
        mixing = learnt(dim, layers, rng)
        super().__init__(mixing, dim, layers, width, hidden, rng, each=2, free=0)

    def layers(self) -> list[MAFLayer] | list[Coupling]:
        """The layers in the order from data to noise."""
        parts = self._parts()
        most = reach(len(parts))
        if self.conditioner.alone:
            return [Coupling(*maps, network.parts, most) for maps, network in parts]
        return [MAFLayer(*maps, network, most) for maps, network in parts]


class IAF(_Autoregressive):
    """Inverse autoregressive flow (Kingma et al. 2016): a sample takes one pass, the density d.

    Args:
        dim: 2 ≤ d ≤ MAX_DIM, for training asks for the density.
    """

    MAX_DIM = 16

    def __init__(
        self, dim: int, layers: int, width: int, hidden: int, rng: torch.Generator
    ) -> None:
        super().__init__(learnt(dim, layers, rng), dim, layers, width, hidden, rng, each=2)

    def layers(self) -> list[IAFLayer]:
        """The layers in the order from data to noise."""
        parts = self._parts()
        most = reach(len(parts))
        return [IAFLayer(*maps, network, most) for maps, network in parts]
