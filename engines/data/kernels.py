"""A Gaussian kernel estimate of the density of a few points, quick enough to be live."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from engines.data.exact import Mixture
from engines.kde import kde
from engines.marks import Box

MOST = 2_000  # kernels; more are thinned, since every density is a sum over all of them
JUDGED = 500  # of the kernels are left out, each in its turn, to choose the bandwidth
STRAY = 0.01  # share of the points that may lie anywhere in the picture


class Kernels:
    """p̂(x) = 1/n Σᵢ N(x; xᵢ, h² diag s²), with h by leave-one-out likelihood.

        h = argmax Σᵢ log [ (1 − ε)/nᵢ Σ_{xⱼ ≠ xᵢ} N(xᵢ; xⱼ, h² diag s²) + ε/A ]

    Copies of xᵢ are left out with it: otherwise h = 0 would win wherever a point stands
    twice. ε = 1 % of strays, uniform over the box of area A, keep one lonely point from
    widening all kernels, which is the known weakness of the plain likelihood (Duin 1976;
    Silverman 1986, § 3.4.4); they only judge h, and p̂ is without them.

    Args:
        rows: (N, d) points in data units, d of 1 or 2; of more than `most` the first are used, so they
            are to be in random order. At most 500 of these judge h.
        scale: s (d,), the data's standard deviations. box: where strays may lie.
    """

    def __init__(self, rows: np.ndarray, scale: np.ndarray, box: Box, most: int = MOST) -> None:
        self.scale = torch.as_tensor(np.asarray(scale, dtype=np.float64))
        self.z = torch.as_tensor(np.asarray(rows[:most], dtype=np.float64)) / self.scale
        self.box = box

    @cached_property
    def _squares(self) -> tuple[Tensor, Tensor]:
        """Squared distances (M, n) of those that judge to all kernels, ∞ to their copies and
        to themselves, and the number (M, 1) of finite ones."""
        square = self._distances(self.z[:JUDGED], self.z)
        square = square.float().masked_fill_(square == 0, math.inf)
        return square, square.isfinite().sum(1, keepdim=True).clamp_min(1)

    @staticmethod
    def _distances(x: Tensor, y: Tensor) -> Tensor:
        """Squared distances of x (M, d) to y (n, d), (M, n): differences, not products, so
        that single precision loses nothing."""
        square = (x[:, :1] - y[:, 0]).square_()
        return square.add_((x[:, 1:] - y[:, 1]).square_()) if x.shape[1] == 2 else square

    def _constant(self, h: float) -> float:
        """log ∫ exp(−|z|²/2h²) dz, of standardised z."""
        return self.z.shape[1] * (0.5 * math.log(2 * math.pi) + math.log(h))

    def score(self, h: float) -> float:
        """Mean leave-one-out log-likelihood at bandwidth h, in standardised units."""
        square, count = self._squares
        # e^-80 counts as nothing beside the strays; what is smaller takes ten times as long
        near = torch.mul(square, -0.5 / h**2).clamp_min_(-80).exp_().sum(1, keepdim=True) / count
        x0, x1, y0, y1 = self.box
        sides = (x1 - x0, y1 - y0)[: self.z.shape[1]]
        area = math.prod(sides) / float(self.scale.prod())
        p = (1 - STRAY) * near.double() * math.exp(-self._constant(h)) + STRAY / area
        return float(p.log().mean())

    @cached_property
    def bandwidth(self) -> float:
        """h in standard deviations of the data: a coarse search, then golden sections."""
        usual = len(self.z) ** (-1 / (4 + self.z.shape[1]))  # Scott's rule
        tries = np.geomspace(0.01 * usual, 2 * usual, 12)
        best = int(np.argmax([self.score(h) for h in tries]))
        low, high = (math.log(tries[min(max(best + i, 0), 11)]) for i in (-1, 1))
        golden = (math.sqrt(5) - 1) / 2
        score = lambda log_h: (self.score(math.exp(log_h)), log_h)  # noqa: E731
        left, right = score(high - golden * (high - low)), score(low + golden * (high - low))
        for _ in range(7):
            if left[0] > right[0]:
                high, right = right[1], left
                left = score(high - golden * (high - low))
            else:
                low, left = left[1], right
                right = score(low + golden * (high - low))
        return math.exp((low + high) / 2)

    @cached_property
    def _mixture(self) -> Mixture:
        n = len(self.z)
        return Mixture(self.z, self.bandwidth, torch.full((n,), 1 / n, dtype=torch.float64))

    def log_prob(self, x: Tensor) -> Tensor:
        """log p̂ in nats, (N, 2) in data units → (N,)."""
        z = x.double() / self.scale.to(x.device)
        return (self._mixture.log_prob(z) - float(self.scale.log().sum())).to(x.dtype)

    def quick_log_prob(self, x: Tensor) -> Tensor:
        """`log_prob` in float32 tiles: six times as fast with many kernels, and right to 1e-4."""
        h, scale, y = self.bandwidth, self.scale.float(), self.z.float()
        out = []
        for tile in (x.float() / scale).split(max(1, 2**18 // len(y))):
            square = self._distances(tile, y)
            least = square.amin(1, keepdim=True)
            # what counts e^-80 times the nearest kernel or less is nothing
            near = square.sub_(least).mul_(-0.5 / h**2).clamp_min_(-80).exp_().sum(1).double()
            out.append(near.log() - 0.5 * least[:, 0].double() / h**2)
        constant = math.log(len(y)) + self._constant(h) + float(self.scale.log().sum())
        return torch.cat(out) - constant

    def cells(self, box: Box, n: int) -> np.ndarray:
        """Exact averages of p̂ over the cells of an n × n grid, (n, n) float32."""
        sx, sy = self.scale.tolist()
        scaled = (box[0] / sx, box[1] / sx, box[2] / sy, box[3] / sy)
        return (kde(self.z, scaled, n, self.bandwidth) / (sx * sy)).float().numpy()
