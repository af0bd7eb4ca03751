"""Base distributions: what the noise is. Each is a Module with a density and samples of it.

    log q(x) = log p_z(f(x)) + log |det ∂f/∂x|

A base may add fixed `layers` of its own at the noise end of the flow.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.flow.layers import Layer

LOG_2PI = math.log(2 * math.pi)


def log_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I), (N, d) → (N,)."""
    return -0.5 * (z * z).sum(1) - 0.5 * z.shape[1] * LOG_2PI


class Gaussian(nn.Module):
    """z ~ N(0, I)."""

    FAR = 4.0

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def layers(self) -> list[Layer]:
        """Fixed layers between the flow and this noise."""
        return []

    def prepare(self, z: Tensor, rng: torch.Generator) -> None:
        """First values, from the rows z (N, d) that the untrained flow makes of data."""

    def log_prob(self, z: Tensor) -> Tensor:
        """log p_z in nats, (N, d) → (N,)."""
        return log_normal(z)

    def cost(self, z: Tensor) -> Tensor:
        """−log N(z; 0, I) where noise lies, growing linearly beyond r = √d + FAR, (N, d) → (N,).

        Of normal noise less than one point in a million lies beyond r, so a good fit is judged
        by its likelihood. But while a fit is bad, one point at z = 1000 would outshout the
        whole batch, and the step that it asks for would spoil all the rest (Huber 1964).
        """
        far = z.shape[1] ** 0.5 + self.FAR
        r = (z * z).sum(1).clamp_min(1e-12).sqrt()
        near = r.clamp_max(far)
        return near * (r - 0.5 * near) + 0.5 * z.shape[1] * LOG_2PI

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """n draws (n, d)."""
        return torch.randn(n, self.dim, generator=rng, device=rng.device)

    def place(self, z: Tensor) -> Tensor:
        """Where a grid meant for N(0, I) lies in this noise, (N, d) → (N, d)."""
        return z

    def hold(self, z: Tensor) -> Tensor:
        """The nearest places where this noise can lie, (N, d) → (N, d)."""
        return z


class Squash:
    """z = √3·tanh(y·π/√12) per coordinate: the whole line into the box ±√3.

    It is the distribution function of a logistic variable of variance 1, stretched to the
    box of variance 1. With a = y·π/√3: log|det ∂z/∂y| = Σ log 2π + log σ(a) σ(−a).

    z is float64, for near an edge of the box a float32 has no digits left to come back with.
    """

    HALF = math.sqrt(3.0)
    RATE = math.pi / math.sqrt(3.0)

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype  # of y

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        a = self.RATE * y
        log_det = (F.logsigmoid(a) + F.logsigmoid(-a) + math.log(2 * math.pi)).sum(1)
        return self.HALF * torch.tanh(0.5 * a.double()), log_det

    def inverse(self, z: Tensor) -> Tensor:
        inside = (z.double() / self.HALF).clamp(-1 + 1e-15, 1 - 1e-15)
        return ((2 / self.RATE) * torch.atanh(inside)).to(self.dtype)


class Uniform(Gaussian):
    """z ~ U(−√3, √3) per coordinate: mean 0 and variance 1, as the Gaussian has.

    The flow itself ends on the whole line, so a last layer squashes the line into the box.
    """

    EDGE = 1 - 1e-6  # of the box, so that what is held in it comes from finite data

    def layers(self) -> list[Layer]:
        return [Squash()]

    def log_prob(self, z: Tensor) -> Tensor:
        inside = (z.abs() <= Squash.HALF).all(1)
        flat = z.new_full((), -self.dim * math.log(2 * Squash.HALF))
        return torch.where(inside, flat, -math.inf)

    def cost(self, z: Tensor) -> Tensor:
        # constant: what z does is all in the squash's Jacobian, which grows linearly far out
        return z.new_full((len(z),), self.dim * math.log(2 * Squash.HALF))

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        u = torch.rand(n, self.dim, generator=rng, device=rng.device)
        return self.hold(Squash.HALF * (2 * u - 1))

    def place(self, z: Tensor) -> Tensor:
        return self.hold(Squash.HALF * torch.erf(z / math.sqrt(2.0)))

    def hold(self, z: Tensor) -> Tensor:
        most = self.EDGE * Squash.HALF
        return z.clamp(-most, most)


class GaussianMixture(Gaussian):
    """p_z(z) = Σ_k π_k N(z; μ_k, diag s_k²); weights, means and scales are learnt with the flow.

    A continuous invertible map cannot tear one Gaussian into separate modes, and so leaves
    filaments between them (Stimper, Schölkopf & Hernández-Lobato 2022); from noise that is in
    pieces it need not (Izmailov, Kirichenko, Finzi & Wilson 2020).
    """

    FIRST, LEAST = 0.5, 1e-2  # scales in standard deviations

    def __init__(self, dim: int, components: int, device: torch.device | str = "cpu") -> None:
        super().__init__(dim)
        self.mean = nn.Parameter(torch.zeros(components, dim, device=device))
        first = math.log(self.FIRST - self.LEAST)
        self.log_scale = nn.Parameter(torch.full((components, dim), first, device=device))
        self.logit = nn.Parameter(torch.zeros(components, device=device))

    @torch.no_grad()
    def prepare(self, z: Tensor, rng: torch.Generator) -> None:
        """Means on rows far from each other: each next one with probability ∝ distance².

        As k-means++ begins (Arthur & Vassilvitskii 2007).
        """
        far = torch.ones(len(z), device=z.device)
        for k in range(len(self.mean)):
            self.mean[k] = z[torch.multinomial(far, 1, generator=rng)[0]]
            # where all rows are alike, any of them will do
            distance = ((z - self.mean[k]) ** 2).sum(1) + 1e-9
            far = torch.minimum(far, distance) if k else distance

    def scale(self) -> Tensor:
        """(K, d) standard deviations, bounded below: no component may fall onto a point."""
        return self.LEAST + self.log_scale.exp()

    def log_prob(self, z: Tensor) -> Tensor:
        scale = self.scale()
        t = (z[:, None] - self.mean) / scale
        parts = -0.5 * (t * t).sum(2) - scale.log().sum(1) + self.logit.log_softmax(0)
        return parts.logsumexp(1) - 0.5 * self.dim * LOG_2PI

    def cost(self, z: Tensor) -> Tensor:
        return -self.log_prob(z)

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        u = torch.rand(n, generator=rng, device=rng.device)
        total = self.logit.softmax(0).cumsum(0)
        k = torch.searchsorted(total, u).clamp_max(len(total) - 1)
        noise = torch.randn(n, self.dim, generator=rng, device=rng.device)
        return self.mean[k] + self.scale()[k] * noise
