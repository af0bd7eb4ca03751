"""Round Gaussians on the plane, whose modes are known: what mode collapse is measured on."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from engines.data.base import Modes
from engines.data.exact import LOG_2PI, Mixture, gauss_legendre
from engines.data.plane import Plane, _randn
from engines.knobs import knob


class GaussianMixture(Plane):
    """Isotropic Gaussians; subclasses call `_set` in __init__."""

    centres: Tensor  # (K, 2)
    sigma: Tensor  # (K,)
    weights: Tensor  # (K,), sum to 1

    def _set(self, centres: Any, sigma: Any, weights: Any = None) -> None:
        weights = [1 / len(centres)] * len(centres) if weights is None else weights
        self.mixture = Mixture(centres, sigma, weights)
        self.centres, self.sigma = self.mixture.centres, self.mixture.sigma
        self.weights = self.mixture.weights

    @property
    def modes(self) -> Modes:
        return Modes(self.centres.float(), self.sigma.float(), self.weights.float())

    def _draw(self, n: int, rng: torch.Generator) -> Tensor:
        index = torch.multinomial(self.weights.to(rng.device), n, True, generator=rng)
        centres, sigma = self.centres.to(rng.device), self.sigma.to(rng.device)
        return centres[index] + sigma[index, None] * _randn(rng, n, 2)

    def _log_prob(self, x: Tensor) -> Tensor:
        return self.mixture.log_prob(x)

    def noised(self, a: float, sigma: float) -> Mixture:
        """The mixture of a·x + σε, exactly."""
        return self.mixture.noised(a, sigma)

    def _apart_entropy(self) -> float:
        """Of Gaussians too far apart to overlap: E log 1/wₖ + E log 2πeσₖ²."""
        parts = self.weights * (2 * self.sigma.log() + LOG_2PI + 1 - self.weights.log())
        return float(parts.sum())


def _ring(radius: float) -> Tensor:
    """(8, 2) points on a circle at angles kπ/4, from 0."""
    angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    return radius * torch.stack([angle.cos(), angle.sin()], 1)


class Ring8(GaussianMixture):
    name: ClassVar[str] = "ring8"
    about = "Eight sharp Gaussians on a circle: the classic test for lost modes."
    source = "8 Gaussians, radius 2, σ 0.02 (Metz et al. 2017, Unrolled GANs)"
    place = 1
    extent = (-3.0, 3.0, -3.0, 3.0)

    def __init__(self) -> None:
        super().__init__()
        self._set(_ring(2.0), 0.02)

    def _entropy(self) -> float:
        return self._apart_entropy()


class Ring8Soft(GaussianMixture):
    name: ClassVar[str] = "ring8soft"
    about = "Eight softer Gaussians on a circle that almost touch."
    source = "8 Gaussians, radius 4/√2, σ 0.5/√2 (Grathwohl et al. 2019, FFJORD, 8gaussians)"
    place = 2
    known_entropy = 2.831578361
    extent = (-5.0, 5.0, -5.0, 5.0)

    def __init__(self) -> None:
        super().__init__()
        self._set(_ring(4 / math.sqrt(2)), 0.5 / math.sqrt(2))


class Grid25(GaussianMixture):
    name: ClassVar[str] = "grid25"
    about = "Twenty-five sharp Gaussians on a square grid."
    source = "25 Gaussians at {−4, −2, 0, 2, 4}², σ 0.05 (after Dumoulin et al. 2017, ALI)"
    place = 3
    extent = (-5.0, 5.0, -5.0, 5.0)

    def __init__(self) -> None:
        super().__init__()
        side = torch.tensor([-4.0, -2.0, 0.0, 2.0, 4.0])
        self._set(torch.cartesian_prod(side, side), 0.05)

    def _entropy(self) -> float:
        return self._apart_entropy()


class Unbalanced(GaussianMixture):
    name: ClassVar[str] = "unbalanced"
    about = "Eight Gaussians on a circle, from heavy to rare: does the model keep the rare ones?"
    source = "ring of radius 2, σ 0.1, weights .35 .25 .15 .10 .07 .05 .02 .01 from angle 0"
    place = 4
    extent = (-3.0, 3.0, -3.0, 3.0)

    def __init__(self) -> None:
        super().__init__()
        self._set(_ring(2.0), 0.1, [0.35, 0.25, 0.15, 0.10, 0.07, 0.05, 0.02, 0.01])

    def _entropy(self) -> float:
        return self._apart_entropy()


class TwoGaussians(GaussianMixture):
    name: ClassVar[str] = "two_gaussians"
    about = "Two Gaussians; set their distance, widths and weight yourself."
    source = "centres (∓distance/2, 0)"
    place = 12

    distance: float = knob(4.0, 0.0, 8.0, help="Distance between the two centres.")
    width_left: float = knob(0.5, 0.05, 1.5, log=True, help="Standard deviation of the left one.")
    width_right: float = knob(0.5, 0.05, 1.5, log=True, help="Standard deviation of the right one.")
    weight: float = knob(0.5, 0.01, 0.99, help="Share of the data that is in the left one.")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        half = self.distance / 2
        self._set(
            [[-half, 0.0], [half, 0.0]],
            [self.width_left, self.width_right],
            [self.weight, 1 - self.weight],
        )
        reach = half + 5 * max(self.width_left, self.width_right)
        self.extent = (-reach, reach, -reach, reach)

    def _entropy(self) -> float:
        # Gauss–Legendre on panels laid out around both centres, each as fine as its Gaussian
        reach = torch.tensor([0.0, 1, 2, 3, 4, 5, 6.5, 8.5]).double()
        sigma = self.sigma[:, None]
        across = torch.cat(
            [self.centres[:, :1] + sigma * reach, self.centres[:, :1] - sigma * reach]
        )
        x, wx = _panels(across.reshape(-1))
        y, wy = _panels((sigma * reach).reshape(-1))  # the upper half: it is symmetric
        log_p = self._log_prob(torch.cartesian_prod(x, y)).reshape(len(x), len(y))
        return -2 * float(wx @ (log_p.exp() * log_p) @ wy)


def _panels(edges: Tensor, n: int = 10) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss–Legendre with n points between each two edges."""
    edges = edges.unique()
    node, weight = (torch.from_numpy(v) for v in gauss_legendre(0, 1, n))
    width = edges.diff()[:, None]
    return (edges[:-1, None] + width * node).reshape(-1), (width * weight).reshape(-1)
