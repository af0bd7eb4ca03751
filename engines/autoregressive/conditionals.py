"""What one coordinate may look like, given those before it: densities on the line with parameters.

Each of them is a row θ of P numbers, unconstrained, that a network tells. A density on the line
has `log_prob`, its distribution function `cdf`, and `draw`, which turns uniform numbers into
draws; on integers `mass` is the probability of a cell.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

FINEST = 1e-3  # the least scale of a component, in standard deviations of the data
WIDEST = 7.0  # the log of the greatest scale: a component that nothing needs drifts until e^… is ∞
FAR = 1e4  # stands for infinity: no distribution function here differs from 0 or 1 beyond it
TINY = 1e-6


def log_sum_exp(x: Tensor) -> Tensor:
    """log Σ_k e^{x_k}, (…, K) → (…). What is e^−60 of the largest or less counts as that much:
    numbers too small for float32 take ten times as long."""
    most = x.detach().amax(-1, keepdim=True)
    return (x - most).clamp_min(-60).exp().sum(-1).log() + most[..., 0]


class Gaussian:
    """N(0, 1)."""

    @staticmethod
    def log_prob(z: Tensor) -> Tensor:
        return -0.5 * z.square() - 0.5 * math.log(2 * math.pi)

    @staticmethod
    def cdf(z: Tensor) -> Tensor:
        return 0.5 * torch.erfc(-z / math.sqrt(2))  # special.ndtr rounds small values away

    @staticmethod
    def quantile(u: Tensor) -> Tensor:
        return torch.special.ndtri(u)


class Logistic:
    """Density σ(z) σ(−z), with σ(z) = 1/(1 + e^{−z}) for a distribution function."""

    @staticmethod
    def log_prob(z: Tensor) -> Tensor:
        return F.logsigmoid(z) + F.logsigmoid(-z)

    @staticmethod
    def cdf(z: Tensor) -> Tensor:
        return torch.sigmoid(z)

    @staticmethod
    def quantile(u: Tensor) -> Tensor:
        return torch.logit(u)


class Mixture:
    """q(x; θ) = Σ_k w_k f((x − m_k)/s_k)/s_k, of K Gaussians or logistics.

    θ (…, 3K) holds logits of the weights, then means, then log scales; s = e^… + FINEST, and at
    most e^WIDEST.
    """

    def __init__(self, components: int, of: Literal["Gaussian", "logistic"] = "Gaussian") -> None:
        self.components, self.each = components, 3 * components
        self.of = Gaussian if of == "Gaussian" else Logistic

    def parts(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights, means and scales, (…, K) each."""
        logits, mean, log_scale = theta.chunk(3, -1)
        return logits.log_softmax(-1), mean, log_scale.clamp_max(WIDEST).exp() + FINEST

    def first(self, places: Tensor) -> Tensor:
        """θ (d, 3K) to begin with: components side by side at places (d, K), in standard deviations."""
        scale = torch.full_like(places, math.log(min(1.0, 2.0 / self.components)))
        return torch.cat([torch.zeros_like(places), places, scale], -1)

    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        """Log-density in nats, θ (…, 3K) and x (…) → (…)."""
        log_weight, mean, scale = self.parts(theta)
        z = (x[..., None] - mean) / scale
        return log_sum_exp(self.of.log_prob(z) - scale.log() + log_weight)

    def cdf(self, theta: Tensor, x: Tensor) -> Tensor:
        """The distribution function, θ (…, 3K) and x (…) → (…)."""
        log_weight, mean, scale = self.parts(theta)
        return (log_weight.exp() * self.of.cdf((x[..., None] - mean) / scale)).sum(-1)

    def mass(self, theta: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """∫ q from low to high (…): differences of distribution functions, as in PixelCNN++
        (Salimans et al. 2017). Beyond ±FAR lies infinity."""
        log_weight, mean, scale = self.parts(theta)
        a, b = ((edge[..., None] - mean) / scale for edge in (low, high))
        # in the left tail, where both are small: near 1 their difference would be rounded away
        side = torch.where(a + b > 0, -1.0, 1.0)
        between = side * (self.of.cdf(side * b) - self.of.cdf(side * a))
        return (log_weight.exp() * between).sum(-1)

    def draw(self, theta: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Draws (…) of q(·; θ) from uniform u (…), which choose a component, and v, a place in it."""
        log_weight, mean, scale = self.parts(theta)
        k = _chosen(log_weight.exp(), u)
        mean, scale = (part.gather(-1, k)[..., 0] for part in (mean, scale))
        return mean + scale * self.of.quantile(v.clamp(TINY, 1 - TINY))


class Binned:
    """A histogram: softmax(θ)_b / width on each of B equal bins, (…, B), with thin tails.

    It would be 0 outside its range, and KL(p‖q) ∞ as soon as one point lies there. So OUTSIDE of
    the mass lies beyond either end, falling exponentially over a length of REACH.

    Args:
        low, high: the range, scalars or (d,) for as many coordinates.
    """

    OUTSIDE, REACH = 1e-4, 0.25

    def __init__(self, bins: int, low: Tensor, high: Tensor) -> None:
        self.each, self.low, self.high = bins, low, high
        self.width = (high - low) / bins
        self._inside = math.log1p(-2 * self.OUTSIDE)

    def at(self, i: slice) -> Binned:
        """The same for some of the coordinates."""
        return Binned(self.each, self.low[i], self.high[i])

    def first(self, places: Tensor) -> Tensor:
        """θ (d, B) to begin with: all bins alike."""
        return places.new_zeros(len(places), self.each)

    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        """Log-density in nats, θ (…, B) and x (…) → (…)."""
        b = ((x - self.low) / self.width).floor().clamp(0, self.each - 1).long()
        inside = theta.log_softmax(-1).expand(*x.shape, -1).gather(-1, b[..., None])[..., 0]
        inside = inside - self.width.log() + self._inside
        beyond = torch.maximum(self.low - x, x - self.high)
        tail = math.log(self.OUTSIDE / self.REACH) - beyond / self.REACH
        return torch.where(beyond > 0, tail, inside)

    def cdf(self, theta: Tensor, x: Tensor) -> Tensor:
        """The distribution function, θ (…, B) and x (…) → (…)."""
        weight = theta.softmax(-1).expand(*x.shape, -1)
        place = ((x - self.low) / self.width).clamp(0, self.each)
        b = place.floor().clamp_max(self.each - 1)
        before = F.pad(weight.cumsum(-1), (1, 0)).gather(-1, b.long()[..., None])[..., 0]
        part = (place - b) * weight.gather(-1, b.long()[..., None])[..., 0]
        inside = self.OUTSIDE + (1 - 2 * self.OUTSIDE) * (before + part)
        below = self.OUTSIDE * ((x - self.low) / self.REACH).clamp_max(0).exp()
        above = 1 - self.OUTSIDE * ((self.high - x) / self.REACH).clamp_max(0).exp()
        return torch.where(x < self.low, below, torch.where(x > self.high, above, inside))

    def draw(self, theta: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Draws (…) of q(·; θ) from uniform u (…), which choose a bin or a tail, and v."""
        v = v.clamp(TINY, 1 - TINY)
        inner = ((u - self.OUTSIDE) / (1 - 2 * self.OUTSIDE)).clamp(0, 1)
        b = _chosen(theta.softmax(-1), inner)[..., 0]
        x = self.low + (b + v) * self.width
        tail = -v.log() * self.REACH
        x = torch.where(u < self.OUTSIDE, self.low - tail, x)
        return torch.where(u > 1 - self.OUTSIDE, self.high + tail, x)


class Categorical:
    """softmax(θ) over L levels 0 … L − 1, (…, L): a histogram with a bin for every integer."""

    def __init__(self, levels: int) -> None:
        self.each = levels

    def first(self, places: Tensor) -> Tensor:
        """θ (d, L) to begin with: all levels alike."""
        return places.new_zeros(len(places), self.each)

    def mass(self, theta: Tensor, level: Tensor) -> Tensor:
        """Probability of integers (…), θ (…, L) → (…)."""
        weight = theta.softmax(-1).expand(*level.shape, -1)
        return weight.gather(-1, level.long()[..., None])[..., 0]

    def draw(self, theta: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Levels (…) from uniform u (…)."""
        return _chosen(theta.softmax(-1), u)[..., 0].to(u.dtype)


def _chosen(weight: Tensor, u: Tensor) -> Tensor:
    """The index at which the cumulative weights (…, K) pass u (…), (…, 1): a small change of the
    weights moves few draws to another one."""
    edges = weight.expand(*u.shape, -1).cumsum(-1)
    k = torch.searchsorted(edges, (u[..., None] * edges[..., -1:]).contiguous(), right=True)
    return k.clamp_max(weight.shape[-1] - 1)
