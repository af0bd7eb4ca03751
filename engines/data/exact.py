"""Exact densities and scores that several datasets share.

A `Mixture` of isotropic Gaussians serves twice: as it stands, and, with the nodes of a
Gauss–Legendre rule for centres, as the quadrature of a curve smeared by Gaussian noise.
Everything is worked out in float64 and returned in the dtype of x, on its device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

TILE = 2**18  # numbers in one tile of (points × nodes): 2 MB, so it stays in the cache
LOG_2PI = math.log(2 * math.pi)
LEAST = 1e-260  # below it a sum of float64 has lost some of its parts


def tiles(x: Tensor, nodes: int) -> Iterator[Tensor]:
    """x (N, …) in pieces that meet `nodes` nodes in one tile."""
    return iter(x.split(max(1, TILE // nodes)))


def noise_scales(a: float, sigma: float) -> tuple[float, float]:
    """Check the arguments of `Dataset.noised`. Raises ValueError."""
    a, sigma = float(a), float(sigma)
    if not (math.isfinite(a) and math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"noised takes a finite a and a finite σ ≥ 0; got {a} and {sigma}.")
    return a, sigma


def gauss_legendre(low: float, high: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights (n,) of the n-point Gauss–Legendre rule on [low, high].

    Newton on Pₙ from the usual first guess; NumPy's eigenvalues take seconds for n = 500.
    """
    x = -np.cos(math.pi * (np.arange(n) + 0.75) / (n + 0.5))
    for _ in range(6):
        before, now = np.ones(n), x
        for k in range(2, n + 1):
            before, now = now, ((2 * k - 1) * x * now - (k - 1) * before) / k
        slope = n * (x * now - before) / (x * x - 1)
        x = x - now / slope
    weight = 2 / ((1 - x * x) * slope * slope)
    return low + (x + 1) * ((high - low) / 2), weight * ((high - low) / 2)


class Mixture:
    """Σₖ wₖ N(x; cₖ, σₖ² I): density and score.

    Args:
        centres: (K, D). sigma: (K,) or one number. weights: (K,) that sum to 1.
    """

    def __init__(self, centres: Any, sigma: Any, weights: Any) -> None:
        self.centres = torch.as_tensor(centres, dtype=torch.float64)
        k, dim = self.centres.shape
        self.sigma = torch.as_tensor(sigma, dtype=torch.float64).expand(k).clone()
        self.weights = torch.as_tensor(weights, dtype=torch.float64)
        if not bool((self.sigma > 0).all()):
            raise ValueError("A Gaussian needs a standard deviation above 0.")
        # log wₖ N(x; cₖ, σₖ) = constₖ + x·cₖ/σₖ² − |x|²/2σₖ²: one product of matrices
        self.precision = self.sigma**-2
        self.linear = self.centres * self.precision[:, None]
        self.const = (
            self.weights.log()
            - dim * self.sigma.log()
            - dim / 2 * LOG_2PI
            - 0.5 * (self.centres * self.linear).sum(1)
        )

    def _parts(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        linear, const = self.linear.T.to(x.device), self.const.to(x.device)
        half = (-0.5 * self.precision).to(x.device)
        for tile in tiles(x.double(), len(const)):
            square = (tile * tile).sum(1, keepdim=True)
            yield tile, torch.addmm(const, tile, linear).addcmul(square, half)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats, (N, D) → (N,)."""
        out = [torch.logsumexp(parts, 1) for _, parts in self._parts(x)]
        return (torch.cat(out) if out else x.new_zeros(0)).to(x.dtype)

    def score(self, x: Tensor) -> Tensor:
        """∇ log-density, (N, D) → (N, D)."""
        linear, precision = self.linear.to(x.device), self.precision.to(x.device)
        out = []
        for tile, parts in self._parts(x):
            share = parts.softmax(1)  # responsibilities
            out.append(share @ linear - (share @ precision)[:, None] * tile)
        return (torch.cat(out) if out else torch.zeros_like(x)).to(x.dtype)

    def noised(self, a: float, sigma: float) -> Mixture:
        """The mixture of a·x + σε."""
        a, sigma = noise_scales(a, sigma)
        spread = (a * a * self.sigma**2 + sigma * sigma).sqrt()
        return Mixture(a * self.centres, spread, self.weights)


def box_kernel(u: Tensor, half: float, sigma: float) -> tuple[Tensor, Tensor]:
    """Log-density of U[−h, h] + σε at u, and its derivative by u.

    p(u) = [Q((|u|−h)/σ) − Q((|u|+h)/σ)] / 2h with Q the normal's upper tail. Written with
    the scaled erfcx it neither underflows nor cancels far outside the box.
    """
    if half < 1e-5 * sigma:  # the box is too narrow to be seen: relative error 1e-10
        return -0.5 * (u / sigma) ** 2 - math.log(sigma) - 0.5 * LOG_2PI, -u / sigma**2
    v = u.abs()
    z1, z2 = (v - half) / sigma, (v + half) / sigma
    root = math.sqrt(0.5)
    # within the box the tail itself is of order 1; outside, e^{−z₁²/2} is taken out
    inside = z1 < 0
    out = z1.clamp_min(0.0)
    shrink = torch.exp(-0.5 * (z2 - out) * (z2 + out))
    scaled = torch.where(
        inside,
        torch.erfc(z1 * root) - torch.erfc(z2 * root),
        torch.special.erfcx(out * root) - shrink * torch.special.erfcx(z2 * root),
    )
    log_p = scaled.log() - 0.5 * out**2 - math.log(4 * half)
    edge = torch.where(inside, torch.exp(-0.5 * z1**2), 1.0) - shrink
    slope = -math.sqrt(2 / math.pi) / sigma * edge / scaled
    return log_p, slope * u.sign()


class NoisyBoxes:
    """Equal boxes of side 2h with weights, plus σε: a mixture of smeared squares.

    Args:
        centres: (K, 2). half: h. sigma: of the noise, above 0. weights: (K,) that sum to 1.
    """

    def __init__(self, centres: Any, half: float, sigma: float, weights: Any) -> None:
        self.centres = torch.as_tensor(centres, dtype=torch.float64)
        self.log_weights = torch.as_tensor(weights, dtype=torch.float64).log()
        self.half, self.sigma = abs(half), sigma
        if not sigma > 0:
            raise ValueError("Boxes need noise of a standard deviation above 0.")

    def _parts(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        centres, log_weights = self.centres.to(x.device), self.log_weights.to(x.device)
        for tile in tiles(x.double(), 2 * len(centres)):
            log_p, slope = box_kernel(tile[:, None] - centres, self.half, self.sigma)
            yield log_p.sum(2) + log_weights, slope

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats, (N, 2) → (N,)."""
        return self._at(x, 0, lambda parts, _: torch.logsumexp(parts, 1))

    def score(self, x: Tensor) -> Tensor:
        """∇ log-density, (N, 2) → (N, 2)."""
        return self._at(x, 1, lambda parts, slope: (parts.softmax(1)[:, :, None] * slope).sum(1))

    def _at(self, x: Tensor, which: int, sum_up: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        found = self._crossed(x.double())
        if found is None:
            return torch.cat([sum_up(*each) for each in self._parts(x)]).to(x.dtype)
        far, out = found[0].isinf(), found[which].to(x.dtype)
        out[far] = torch.cat([sum_up(*each) for each in self._parts(x[far])]).to(x.dtype)
        return out

    def _crossed(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """log p (N,) and ∇ log p (N, 2) where x lies on crossings of few lines, as a grid does;
        else None.

        A smeared box is a product b(x₁) b(x₂): b is worked out once a line, and

            p = Σₖ wₖ bₖ(x₁) bₖ(x₂),   ∂₁p = Σₖ wₖ bₖ′(x₁) bₖ(x₂)

        are products of matrices. Where they underflow, log p is −∞.
        """
        if x.requires_grad:
            return None
        lines, at = zip(*(column.unique(return_inverse=True) for column in x.T), strict=True)
        few = math.prod(len(u) for u in lines) <= 2 * len(x)
        if not few or max(len(u) for u in lines) * len(self.centres) > TILE:
            return None
        kernels, slopes, tops = [], [], []
        weights = (self.log_weights.to(x.device), 0.0)
        for u, own, weight in zip(lines, self.centres.T.to(x.device), weights, strict=True):
            log_b, slope = box_kernel(u[:, None] - own, self.half, self.sigma)
            log_b = log_b + weight
            tops.append(log_b.amax(1))
            kernels.append(torch.exp(log_b - tops[-1][:, None]))
            slopes.append(slope)
        (b1, b2), (s1, s2) = kernels, slopes
        p, p1, p2 = (m[at] for m in (b1 @ b2.T, (b1 * s1) @ b2.T, b1 @ (b2 * s2).T))
        log_p = torch.where(p > LEAST, p.log() + tops[0][at[0]] + tops[1][at[1]], -math.inf)
        return log_p, torch.stack([p1 / p, p2 / p], 1)


class NearBoxes:
    """`NoisyBoxes.log_prob` made quick near the data: each x meets only the boxes that matter.

    The square |x₁|, |x₂| < reach is cut into cells, and for every cell the boxes are listed
    whose share of the density may pass e⁻²⁶ somewhere in it. Elsewhere all boxes are summed.
    """

    NEGLIGIBLE = 26.0  # nats

    def __init__(self, boxes: NoisyBoxes, reach: float, cell: float) -> None:
        self.boxes, self.reach, self.cell = boxes, reach, cell
        self.side = math.ceil(2 * reach / cell)
        at = -reach + cell * (torch.arange(self.side, dtype=torch.float64) + 0.5)
        middle = torch.cartesian_prod(at, at)
        matters = torch.cat([self._matters(tile) for tile in tiles(middle, len(boxes.centres))])
        # cells with about as many boxes share one table, padded with boxes of weight 0
        count = matters.sum(1)
        self.group = (count / 8).ceil().clamp_min(1).log2().ceil().long()
        self.row = torch.zeros_like(self.group)
        self.tables: list[tuple[Tensor, Tensor, Tensor]] = []
        for group in range(int(self.group.max()) + 1):
            cells = (self.group == group).nonzero()[:, 0]
            self.row[cells] = torch.arange(len(cells))
            width = min(8 * 2**group, len(boxes.centres))
            found = matters[cells].to(torch.uint8).topk(width, dim=1)
            weight = found.values * boxes.log_weights.exp()[found.indices]
            x, y = boxes.centres[found.indices].unbind(2)
            self.tables.append((x, y, weight / (16 * boxes.half**2)))

    def _matters(self, middle: Tensor) -> Tensor:
        """Which boxes (K,) may matter in the cells round these centres (C, 2)."""
        boxes, scale = self.boxes, 2 * self.boxes.sigma**2
        out = torch.zeros(len(middle), len(boxes.centres), dtype=torch.bool)
        ends = torch.tensor([-0.5, 0.5], dtype=torch.float64) * self.cell
        for corner in torch.cartesian_prod(ends, ends):
            # the share lies below that of the box's nearest point, and, by Jensen's
            # inequality, above that of its mean squared distance
            apart = ((middle + corner)[:, None] - boxes.centres).abs_()
            lower = boxes.log_weights - (apart.square().sum(2) + 2 * boxes.half**2 / 3) / scale
            nearest = (apart - boxes.half).clamp_min_(0).square_().sum(2)
            upper = boxes.log_weights - nearest / scale
            out |= upper > lower.amax(1, keepdim=True) - self.NEGLIGIBLE
        return out

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats, (N, 2) float64 → (N,)."""
        near = (x.abs() < self.reach).all(1)
        column, row = ((x + self.reach) / self.cell).where(near[:, None], 0.0).long().unbind(1)
        cell = column * self.side + row
        group = self.group.to(x.device)[cell].where(near, -1)
        cell = self.row.to(x.device)[cell]
        out = torch.full_like(x[:, 0], -math.inf)
        for number, table in enumerate(self.tables):
            xs, ys, weights = (part.to(x.device) for part in table)
            for index in tiles((group == number).nonzero()[:, 0], xs.shape[1]):
                at, k = x[index], cell[index]
                p = self._smeared(at[:, :1] - xs[k]) * self._smeared(at[:, 1:] - ys[k])
                out[index] = (p * weights[k]).sum(1).log()
        # far from all boxes the sum underflows, so it is taken in logarithms
        far = ~(out > -600)
        out[far] = self.boxes.log_prob(x[far])
        return out

    def _smeared(self, u: Tensor) -> Tensor:
        """4h times the density of U[−h, h] + σε; the tails keep their relative precision."""
        v, scale = u.abs(), math.sqrt(0.5) / self.boxes.sigma
        near = torch.erfc((v - self.boxes.half) * scale)
        return near - torch.erfc((v + self.boxes.half) * scale)


class NoisyRings:
    """Circles about 0 with weights, plus σε.

    p(x) = Σₖ wₖ/2πσ² · exp(−(r−Rₖ)²/2σ²) · e^{−z} I₀(z), z = rRₖ/σ², r = |x|: the angle
    is integrated out by the modified Bessel function.

    Args:
        radii, weights: (K,). sigma: above 0.
    """

    def __init__(self, radii: Any, sigma: float, weights: Any) -> None:
        self.radii = torch.as_tensor(radii, dtype=torch.float64).abs()
        self.log_weights = torch.as_tensor(weights, dtype=torch.float64).log()
        self.sigma = sigma
        if not sigma > 0:
            raise ValueError("Rings need noise of a standard deviation above 0.")

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        radii = self.radii.to(x.device)
        r = x.double().norm(dim=1, keepdim=True)
        z = r * radii / self.sigma**2
        parts = (
            self.log_weights.to(x.device)
            - (r - radii) ** 2 / (2 * self.sigma**2)
            + torch.special.i0e(z).log()
            - 2 * math.log(self.sigma)
            - LOG_2PI
        )
        return r, radii, z, parts

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats, (N, 2) → (N,)."""
        return torch.logsumexp(self._parts(x)[3], 1).to(x.dtype)

    def score(self, x: Tensor) -> Tensor:
        """∇ log-density, (N, 2) → (N, 2)."""
        r, radii, z, parts = self._parts(x)
        pull = radii * (torch.special.i1e(z) / torch.special.i0e(z)) - r
        radial = (parts.softmax(1) * pull).sum(1, keepdim=True) / self.sigma**2
        return (radial * x.double() / r.clamp_min(1e-300)).to(x.dtype)


def midpoint_entropy(log_prob: Callable[[Tensor], Tensor], box: tuple[float, ...], n: int) -> float:
    """−∫ p log p over a box by the midpoint rule on n × n cells, a strip at a time."""
    x0, x1, y0, y1 = box
    x = x0 + (torch.arange(n, dtype=torch.float64) + 0.5) * ((x1 - x0) / n)
    y = y0 + (torch.arange(n, dtype=torch.float64) + 0.5) * ((y1 - y0) / n)
    total = 0.0
    for strip in y.split(max(1, 20_000 // n)):
        log_p = log_prob(torch.cartesian_prod(strip, x).flip(1))
        total -= float(torch.special.xlogy(log_p.exp(), log_p.exp()).sum())
    return total * (x1 - x0) * (y1 - y0) / n**2
