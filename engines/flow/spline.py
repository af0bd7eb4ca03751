"""Rational-quadratic splines, and the coupling flow made of them.

A monotone spline bends one coordinate; a network that sees other coordinates says how
(Durkan, Bekasov, Murray & Papamakarios 2019, Neural spline flows).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from engines.flow.conditioner import Conditioner, Mixing, Network, swaps

LEAST = 1e-4  # width and height of a bin, as a share of the whole interval
STEEPEST = math.log(1e3)  # a knot's derivative lies between 1/1000 and 1000


def parameters(bins: int) -> int:
    """Numbers that describe one spline: K widths, K heights, K + 1 derivatives."""
    return 3 * bins + 1


class _Bins:
    """The bin that every row falls in, and where the row's spline puts it.

    Args:
        x: (M,) in [0, 1], or heights there when `by` is 1.
        theta: (M, 3K + 1) free numbers.
        by: 0 to look x up among the widths, 1 among the heights.

    Attributes:
        share: (M, 2, K) softmax of the free widths and heights.
        k: (M, 1) the bin's number.
        start, size: (M, 2) left and lower end of the bin, its width and height; in [0, 1].
        knots: (M, 2) where the derivatives at the bin's two ends stand in theta.
        bent: (M, 2) tanh of those, (M, 2) `slope` the derivatives themselves.
    """

    def __init__(self, x: Tensor, theta: Tensor, by: int = 0) -> None:
        bins = theta.shape[1] // 3
        free = 1 - bins * LEAST
        self.share = theta[:, : 2 * bins].unflatten(1, (2, bins)).softmax(2)
        ends = self.share.cumsum(2)
        # counting the ends that x has passed
        least = torch.linspace(LEAST, bins * LEAST, bins, dtype=x.dtype, device=x.device)
        line = torch.add(least, ends.detach()[:, by], alpha=free)
        self.k = torch.searchsorted(line, x.detach()[:, None], right=True).clamp_max_(bins - 1)
        both = self.k[:, :, None].expand(-1, 2, 1)
        share = self.share.gather(2, both).squeeze(2)
        before = ends.gather(2, both).squeeze(2) - share
        self.size = share * free + LEAST
        self.start = torch.add(before * free, self.k, alpha=LEAST)
        self.knots = torch.cat([self.k + 2 * bins, self.k + (2 * bins + 1)], 1)
        self.bent = torch.tanh(theta.gather(1, self.knots) / STEEPEST)
        self.slope = (STEEPEST * self.bent).exp()


def _earlier(bins: int, like: Tensor) -> Tensor:
    """(K, 2, K): in row k ones for the bins before k, for widths and for heights."""
    ones = torch.ones(bins, bins, dtype=like.dtype, device=like.device)
    return ones.tril_(-1)[:, None].repeat(1, 2, 1)


class _Spline(torch.autograd.Function):
    """The spline's value and log-derivative, with their gradients written out.

    Within a bin of width w, height h, s = h/w, with t ∈ [0, 1] along it and derivatives
    d₀, d₁ at its ends (Gregory & Delbourgo 1982):

        D = s + (d₀ + d₁ − 2s)·t(1−t)
        y = y₀ + h·(s t² + d₀ t(1−t))/D
        ℓ = log y′ = 2 log s + log(2s t(1−t) + d₀ (1−t)² + d₁ t²) − 2 log D

    Beyond the interval it goes on as a straight line. Small operations are what a step's time
    goes into; without autograd's bookkeeping for each of them it takes half of it.
    """

    @staticmethod
    def forward(ctx, x: Tensor, theta: Tensor, bound: float) -> tuple[Tensor, Tensor]:
        inside = (x / (2 * bound) + 0.5).clamp_(0, 1)
        bins = _Bins(inside, theta)
        w, h = bins.size.unbind(1)
        x0, y0 = bins.start.unbind(1)
        d0, d1 = bins.slope.unbind(1)
        outside = (inside <= 0) | (inside >= 1)
        # rounding may leave the bin by a hair, and the interval's ends shall be exact
        s, t = h / w, torch.where(outside, inside, ((inside - x0) / w).clamp_(0, 1))
        rest = 1 - t
        u, t2, bend = t * rest, t * t, d0 + d1 - 2 * s
        below = torch.addcmul(s, bend, u)
        share = torch.addcmul(s * t2, d0, u) / below
        rise = torch.addcmul(d0 * rest * rest, d1, t2) + 2 * (s * u)
        slope = rise * (s / below).square_()
        straight = torch.where(outside, x - (2 * inside - 1) * bound, 0.0)
        y = torch.addcmul(y0, h, share).mul_(2 * bound).sub_(bound)
        ctx.save_for_backward(
            bins.share, bins.k, bins.knots, bins.bent, bins.start, bins.size, d0, d1,
            s, t, rest, u, t2, bend, below, share, rise, slope, outside, straight,
        )  # fmt: skip
        ctx.bound = bound
        return torch.addcmul(y, slope, straight), slope.log()

    @staticmethod
    @once_differentiable
    def backward(ctx, g_y: Tensor, g_l: Tensor) -> tuple[Tensor, Tensor, None]:
        (
            part, k, knots, bent, start, size, d0, d1,
            s, t, rest, u, t2, bend, below, share, rise, slope, outside, straight,
        ) = ctx.saved_tensors  # fmt: skip
        w, h = size.unbind(1)
        m, bins = len(k), part.shape[2]
        steep = g_y * slope
        g_l = torch.addcmul(g_l, steep, straight)
        g_value = g_y * (2 * ctx.bound)  # of y in [0, 1]
        g_above = g_value * h / below
        g_below = torch.addcmul(g_l / below * -2, g_above, share, value=-1)
        g_rise = g_l / rise
        st, d0rest = s * t, d0 * rest
        twist = rest - t
        g_t = torch.addcmul(2 * g_above * st, twist, torch.addcmul(g_below * bend, g_above, d0))
        g_t.addcmul_(g_rise, torch.addcmul(s * twist - d0rest, d1, t), value=2)
        g_s = (g_above * t2).addcmul_(g_below, 1 - 2 * u).addcmul_(g_rise, u, value=2)
        g_s.addcdiv_(g_l, s, value=2)
        g_d0 = ((g_above + g_below) * u).addcmul_(g_rise, rest * rest)
        g_d1 = (g_below * u).addcmul_(g_rise, t2)
        along, g_s = g_t / w, g_s / w
        g_w = torch.addcmul(along * t, g_s, s)
        g_h = torch.addcmul(g_s, g_value, share)
        g_size = torch.stack([-g_w, g_h], 1)
        g_start = torch.stack([-along, g_value], 1)
        # back through softmax: an earlier bin moves the start, this one the size, and all
        # together always sum to one
        least = start - LEAST * k
        common = torch.addcmul(g_start * least, g_size, size - LEAST)
        free = 1 - bins * LEAST
        g = _earlier(bins, part).index_select(0, k[:, 0])
        g.mul_((g_start * free)[:, :, None])
        g.scatter_(2, k[:, :, None].expand(-1, 2, 1), (g_size * free)[:, :, None])
        g.sub_(common[:, :, None])
        g_theta = part.new_zeros(m, parameters(bins))
        torch.mul(part, g, out=g_theta[:, : 2 * bins].unflatten(1, (2, bins)))
        bends = torch.stack([g_d0 * d0, g_d1 * d1], 1) * (1 - bent * bent)
        g_theta.scatter_(1, knots, bends)
        g_x = torch.where(outside, steep, along / (2 * ctx.bound))
        return g_x, g_theta, None


def spline(x: Tensor, theta: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Monotone rational-quadratic splines of [−bound, bound] onto itself.

    Beyond the interval each goes on as a straight line with the slope at its end, so that
    log-densities stay finite far outside.

    Args:
        x: (M,) or any shape.
        theta: (…, 3K + 1) free numbers for each x: K widths and K heights (through a
            softmax, no bin below LEAST of the interval), and K + 1
            log-derivatives. All zero is the identity.

    Returns:
        y and log dy/dx, both of x's shape.
    """
    y, log_slope = _Spline.apply(x.reshape(-1), theta.reshape(-1, theta.shape[-1]), bound)
    return y.view_as(x), log_slope.view_as(x)


def spline_inverse(y: Tensor, theta: Tensor, bound: float) -> Tensor:
    """The x for which spline(x) is y: a quadratic equation in the bin's t."""
    shape, y, theta = y.shape, y.reshape(-1), theta.reshape(-1, theta.shape[-1])
    inside = (y / (2 * bound) + 0.5).clamp(0, 1)
    bins = _Bins(inside, theta, by=1)
    w, h = bins.size.unbind(1)
    x0, y0 = bins.start.unbind(1)
    d0, d1 = bins.slope.unbind(1)
    s = h / w
    share = ((inside - y0) / h).clamp(0, 1)
    twist = share * (d0 + d1 - 2 * s)
    # s t² + d₀ t(1−t) = share·D, as a t² + b t − c = 0
    a, b, c = s - d0 + twist, d0 - twist, s * share
    t = 2 * c / (b + (b * b + 4 * a * c).clamp_min(0).sqrt())
    x = (2 * torch.addcmul(x0, w, t) - 1) * bound
    straight = y - (2 * inside - 1) * bound
    end = torch.where(y < 0, d0, d1)
    outside = (inside <= 0) | (inside >= 1)
    return torch.where(outside, x + straight / end, x).view(shape)


class Bend(NamedTuple):
    """How splines are worked out: `spline` and `spline_inverse`, or others that give the same."""

    spline: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]
    inverse: Callable[[Tensor, Tensor, float], Tensor]


IN_TENSORS = Bend(spline, spline_inverse)


def through(x: Tensor, y: Tensor, bound: float) -> Tensor:
    """The free numbers of splines that lead through given knots.

    At every knot the log-derivative is the mean of those of the chords at either side.

    Args:
        x, y: (…, K + 1) each, from −bound to bound; they never fall, and any two that are next to
            each other are pushed apart if they lie too close for a bin.

    Returns:
        theta (…, 3K + 1), see `spline`.
    """
    bins = x.shape[-1] - 1

    def apart(knots: Tensor) -> Tensor:
        size = (knots.diff(dim=-1) / (2 * bound)).clamp_min(2 * LEAST)
        return size / size.sum(-1, keepdim=True)

    w, h = apart(x), apart(y)
    chord = (h / w).log()
    ends = chord[..., :1], chord[..., -1:]
    steep = torch.cat([ends[0], (chord[..., 1:] + chord[..., :-1]) / 2, ends[1]], -1)
    sizes = [((part - LEAST) / (1 - bins * LEAST)).log() for part in (w, h)]
    return torch.cat([*sizes, STEEPEST * torch.atanh(steep.clamp(-6, 6) / STEEPEST)], -1)


class Coupling:
    """Linear mixing, then a spline for every coordinate of one half, told by the other.

        (u, v) = x A + c
        z = (u, spline(v; θ(u))),    log|det ∂z/∂x| = log|det A| + Σ log spline′

    Args:
        matrix, shift, log_det: A (d, d), c (d,), log|det A|.
        network: θ, (N, d/2) → (N, d − d/2, 3K + 1).
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
        self.matrix, self.shift, self.log_det = matrix, shift, log_det
        self.network, self.bound, self.bend = network, bound, bend
        dim = len(shift)
        self.parts = (dim // 2, dim - dim // 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, d) → (N, d) and log|det| (N,)."""
        u, v = torch.addmm(self.shift, x, self.matrix).split(self.parts, 1)
        z, log_slopes = self.bend.spline(v, self.network(u), self.bound)
        return torch.cat([u, z], 1), log_slopes.sum(1) + self.log_det

    def inverse(self, z: Tensor) -> Tensor:
        """The x for which forward(x) is z, (N, d) → (N, d)."""
        u, v = z.split(self.parts, 1)
        mixed = torch.cat([u, self.bend.inverse(v, self.network(u), self.bound)], 1)
        return (mixed - self.shift) @ torch.linalg.inv(self.matrix)


class SplineCoupling(nn.Module):
    """L pairs of spline couplings, each after a learnt linear map (Durkan et al. 2019, RQ-NSF C).

    In a pair one half is bent as the other says, then the other way round: so one pair can do
    in the plane what one autoregressive layer can.

    Args:
        dim: d ≥ 2.
        bins, bound: K and the interval of the splines.
        waves, pitch: see Conditioner.

    Attributes:
        bend: how the splines are worked out; native code may take the place of tensors.
    """

    bend = IN_TENSORS

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
        super().__init__()
        self.bound = bound
        couplings = 2 * layers
        self.mixing = Mixing(swaps(dim, couplings, rng))
        self.conditioner = Conditioner(
            couplings, dim // 2, dim - dim // 2, parameters(bins), width, hidden, rng,
            waves=waves, pitch=pitch,
        )  # fmt: skip

    def layers(self) -> list[Coupling]:
        """The couplings in the order from data to noise."""
        pairs = zip(self.mixing.maps(), self.conditioner.networks())
        return [Coupling(*maps, network, self.bound, self.bend) for maps, network in pairs]
