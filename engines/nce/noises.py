"""What the data are told from: distributions of the plane that can be drawn from and evaluated.

Each is made of a run's rows and of the domain on which the model is normalised; all of it in
data units. Noise that is like the data teaches most, since every mistake then shows in the
classification (Gutmann & Hyvärinen 2012, section 2.4).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from engines.data.base import Pool
from engines.marks import Box
from engines.mixture.gaussians import Gaussians, em_update, first_guess, log_density
from engines.quadrature import inside

# of the data's standard deviation: width, and how far to the right of the data's mean
WIDE, NARROW, SHIFTED = (2.0, 0.0), (0.3, 0.0), (1.0, 3.0)
SHARE = 0.02  # of the fitted noise that is uniform
ROWS_A_CLOUD = 20  # that a fitted mixture has at least, or else it takes fewer clouds
CELLS = 256  # a side, of the quadrature: no cloud is narrower than half a cell
# rows, and EM iterations on them: many cheap ones to find the places, some dear ones to be exact
COURSE = ((4_000, 12), (20_000, 12))


class Noise(Protocol):
    """A distribution n(x) of the plane."""

    def log_prob(self, x: Tensor) -> Tensor:
        """log n(x) in nats, (N, 2) → (N,) in the dtype of x; −∞ outside the support."""
        ...

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """n draws (n, 2), float32, on the generator's device."""
        ...


class Gaussian:
    """N(mean, diag(std²)); mean, std (2,)."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean, self.std = mean, std
        self._constant = std.double().log().sum() + math.log(2 * math.pi)

    def log_prob(self, x: Tensor) -> Tensor:
        z = (x.double() - self.mean) / self.std
        return (-0.5 * z.square().sum(1) - self._constant).to(x.dtype)

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        return self.mean + self.std * torch.randn(n, 2, generator=rng, device=rng.device)


class Box2:
    """Uniform on a box."""

    def __init__(self, box: Box) -> None:
        x0, x1, y0, y1 = self.box = box
        self.low, self.size = (x0, y0), (x1 - x0, y1 - y0)
        self.log_area = math.log(self.size[0] * self.size[1])

    def log_prob(self, x: Tensor) -> Tensor:
        flat = torch.full_like(x[:, 0], -self.log_area)
        return torch.where(inside(x, self.box), flat, -math.inf)

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        u = torch.rand(n, 2, generator=rng, device=rng.device)
        return u * torch.tensor(self.size, device=rng.device) + torch.tensor(
            self.low, device=rng.device
        )


class Fitted:
    """n(x) = (1 − share) Σ_k π_k N(x; μ_k, Σ_k) + share · U(box).

    The uniform share bounds the ratio p/n by p's height × the box's area / share, also where
    the clouds have no tail to speak of.

    Args:
        clouds: K Gaussians in data units, float64.
    """

    def __init__(self, clouds: Gaussians, box: Box, share: float = SHARE) -> None:
        self.clouds, self.flat, self.share = clouds, Box2(box), share
        self._edges = ((1 - share) * clouds.log_weight.exp().cumsum(0)).float()
        self._mean = clouds.mean.float()
        self._root = torch.linalg.cholesky(clouds.cov).float()

    def log_prob(self, x: Tensor) -> Tensor:
        mixture = log_density(self.clouds, x.double()) + math.log1p(-self.share)
        flat = self.flat.log_prob(x).double() + math.log(self.share)
        return torch.logaddexp(mixture, flat).to(x.dtype)

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        pick = torch.rand(n, generator=rng, device=rng.device)
        z = torch.randn(n, 2, generator=rng, device=rng.device)
        flat = self.flat.sample(n, rng)
        k = torch.searchsorted(self._edges, pick).clamp_max(len(self._edges) - 1)
        cloud = self._mean[k] + (self._root[k] * z[:, None]).sum(2)
        return torch.where((pick < 1 - self.share)[:, None], cloud, flat)


def fit(pool: Pool, box: Box, components: int, rng: torch.Generator) -> Fitted:
    """A mixture by EM on some of the pool's training rows; fewer clouds where rows are few.

    It need not be the best of mixtures, for the classifier learns whatever it lacks.
    """
    order = torch.randperm(len(pool.train), generator=rng, device=pool.train.device)
    rows = pool.train[order[: max(n for n, _ in COURSE)]]
    z = (rows.double() - pool.mean) / pool.std
    k = max(1, min(components, len(z) // ROWS_A_CLOUD))
    g = first_guess(z[: COURSE[0][0]], k, "k-means++", 1e-6, rng)
    for n, iterations in COURSE:
        for _ in range(iterations):
            g, _ = em_update(g, z[:n], "full", 1e-6)
    std = pool.std.double()
    cov = g.cov * std[:, None] * std
    x0, x1, y0, y1 = box
    narrowest = 0.5 * max(x1 - x0, y1 - y0) / CELLS
    size, axes = torch.linalg.eigh(cov)
    cov = (axes * size.clamp_min(narrowest**2)[:, None]) @ axes.mT
    return Fitted(Gaussians(g.log_weight, g.mean * std + pool.mean, cov), box)


def _gaussian(width: float, shift: float) -> Callable[..., Gaussian]:
    def make(pool: Pool, box: Box, components: int, rng: torch.Generator) -> Gaussian:
        mean = pool.mean.clone()
        mean[0] += shift * pool.std[0]
        return Gaussian(mean, width * pool.std)

    return make


# by their names on the page: (pool, domain, clouds of a fitted mixture, generator) → Noise
NOISES: dict[str, Callable[[Pool, Box, int, torch.Generator], Noise]] = {
    "fitted mixture": fit,
    "wide": _gaussian(*WIDE),
    "narrow": _gaussian(*NARROW),
    "shifted": _gaussian(*SHIFTED),
    "uniform": lambda pool, box, components, rng: Box2(box),
}
