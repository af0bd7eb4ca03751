"""Planar and radial flows: the simplest invertible layers (Rezende & Mohamed 2015).

Here they go from data to noise, so that the density is a closed form and drawing a sample
is the inverse: by a root search for the planar one, by a quadratic equation for the radial.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NARROW = 1e-3  # how near to flat a map may come: float32 must find its way back
TURNS = 40  # at most, of the root search


def root(c: Tensor, q: Tensor) -> Tensor:
    """The s with s + c·tanh s = q for c > −1, elementwise.

    Newton's method, kept in a bracket that every turn makes smaller: |s − q| ≤ |c|, since
    |tanh| ≤ 1. A step that leaves the bracket, or does not halve the residual, is replaced
    by the bracket's middle.
    """
    c, q = c.double(), q.double()
    low, high = q - c.abs(), q + c.abs()
    s, before = q, torch.full_like(q, math.inf)
    for _ in range(TURNS):
        t = torch.tanh(s)
        f = s + c * t - q
        low, high = torch.where(f < 0, s, low), torch.where(f < 0, high, s)
        step = s - f / (1 + c * (1 - t * t))
        middle = 0.5 * (low + high)
        good = (step >= low) & (step <= high) & (f.abs() <= 0.5 * before)
        s, before = torch.where(good, step, middle), f.abs()
    return s


class PlanarLayer:
    """z = x + û tanh(w·x + b),    log|det ∂z/∂x| = log(1 + û·w (1 − tanh²)).

    û = u + (m(w·u) − w·u) w/|w|² with m(t) = −1 + softplus(t) keeps û·w > −1, so that the
    map goes one way along w and has an inverse (Rezende & Mohamed 2015, appendix A.1).

    Args:
        u, w, b: (d,), (d,) and 0-d. u is the constrained û.
        bend: û·w, 0-d.
    """

    def __init__(self, u: Tensor, w: Tensor, b: Tensor, bend: Tensor) -> None:
        self.u, self.w, self.b, self.bend = u, w, b, bend

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.tanh(x @ self.w + self.b)
        return torch.addcmul(x, t[:, None], self.u), torch.log1p(self.bend * (1 - t * t))

    def inverse(self, z: Tensor) -> Tensor:
        """Along w it is s + û·w tanh s = w·z + b with s = w·x + b; across w, x = z."""
        s = root(self.bend, z @ self.w + self.b)
        return z - torch.tanh(s).to(z.dtype)[:, None] * self.u


class Planar(nn.Module):
    """L planar layers; each bends space along one direction only."""

    def __init__(
        self, dim: int, layers: int, width: int, hidden: int, rng: torch.Generator
    ) -> None:
        super().__init__()
        shape = {"generator": rng, "device": rng.device}
        self.w = nn.Parameter(torch.randn(layers, dim, **shape) / math.sqrt(dim))
        self.b = nn.Parameter(torch.randn(layers, **shape))
        # nearly the identity: û·w = 0 at u·w = log(e − 1)
        u = 0.01 * torch.randn(layers, dim, **shape)
        square = (self.w.detach() ** 2).sum(1, keepdim=True)
        self.u = nn.Parameter(u + math.log(math.e - 1) * self.w.detach() / square)

    def constrained(self) -> tuple[Tensor, Tensor]:
        """û (L, d) and û·w (L,)."""
        along = (self.w * self.u).sum(1)
        bend = F.softplus(along) - (1 - NARROW)
        square = (self.w * self.w).sum(1).clamp_min(1e-8)
        return self.u + ((bend - along) / square)[:, None] * self.w, bend

    def layers(self) -> list[PlanarLayer]:
        """In the order from data to noise."""
        u, bend = self.constrained()
        return list(map(PlanarLayer, u.unbind(0), self.w.unbind(0), self.b.unbind(0),
                        bend.unbind(0)))  # fmt: skip


class RadialLayer:
    """z = x + β (x − c)/(α + r) with r = |x − c|: space is spread from, or drawn to, a centre.

        log|det ∂z/∂x| = (d − 1) log(1 + β/(α + r)) + log(1 + αβ/(α + r)²)

    β = −α + softplus(β̂) > −α keeps it invertible (Rezende & Mohamed 2015, appendix A.2).

    Args:
        centre: c (d,).
        alpha, beta: 0-d; α > 0, β > −α.
    """

    def __init__(self, centre: Tensor, alpha: Tensor, beta: Tensor) -> None:
        self.centre, self.alpha, self.beta = centre, alpha, beta

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        away = x - self.centre
        h = 1 / (self.alpha + away.norm(dim=1))
        bh = self.beta * h
        log_det = (x.shape[1] - 1) * torch.log1p(bh) + torch.log1p(self.alpha * bh * h)
        return torch.addcmul(x, bh[:, None], away), log_det

    def inverse(self, z: Tensor) -> Tensor:
        """r solves r (1 + β/(α + r)) = ρ = |z − c|: r² + (α + β − ρ) r − αρ = 0, the root > 0."""
        away = (z - self.centre).double()
        rho = away.norm(dim=1)
        alpha, beta = self.alpha.double(), self.beta.double()
        p = alpha + beta - rho
        square = torch.sqrt(p * p + 4 * alpha * rho)
        # the form without a difference of like numbers, on either side of p = 0
        r = torch.where(p > 0, 2 * alpha * rho / (p + square).clamp_min(1e-300), (square - p) / 2)
        back = away / (1 + beta / (alpha + r))[:, None]
        return self.centre + back.to(z.dtype)


class Radial(nn.Module):
    """L radial layers, whose first centres are strewn over the data."""

    def __init__(
        self, dim: int, layers: int, width: int, hidden: int, rng: torch.Generator
    ) -> None:
        super().__init__()
        shape = {"generator": rng, "device": rng.device}
        self.centre = nn.Parameter(torch.randn(layers, dim, **shape))
        self.log_alpha = nn.Parameter(0.1 * torch.randn(layers, **shape))
        # nearly the identity: β = 0 at softplus(β̂) = α
        beta = torch.expm1(self.log_alpha.detach().exp()).log()
        self.beta = nn.Parameter(beta + 0.01 * torch.randn(layers, **shape))

    def layers(self) -> list[RadialLayer]:
        """In the order from data to noise."""
        alpha = self.log_alpha.exp()
        beta = F.softplus(self.beta) - (1 - NARROW) * alpha
        return list(map(RadialLayer, self.centre.unbind(0), alpha.unbind(0), beta.unbind(0)))
