"""What the data are told from: distributions of the plane that can be drawn from and evaluated.

Each is made of a run's rows and of the domain on which the model is normalised; all of it in
data units. Noise that is like the data teaches most, since every mistake then shows in the
classification (Gutmann & Hyvärinen 2012, section 2.4).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from engines.data.base import Pool
from engines.marks import Box
from engines.mixture.gaussians import Gaussians, em_update, first_guess, log_density
from engines.quadrature import inside

# of the data's standard deviation: width, and how far to the right of the data's mean
WIDE, NARROW, SHIFTED = (2.0, 0.0), (0.3, 0.0), (0.7, 2.5)
SHARE = 0.02  # of the fitted noise that is uniform
ROWS_A_CLOUD = 20  # that a fitted mixture has at least, or else it takes fewer clouds
GUESSED_FROM = 4_000  # rows
CELLS = 256  # a side, of the quadrature: no cloud is narrower than half a cell
# rows, and EM iterations on them: many cheap ones to find the places, some dear ones to be exact
COURSE = ((10_000, 12), (100_000, 3))


# (pool, domain, clouds of a fitted mixture, generator) → Noise
MakeNoise = Callable[[Pool, Box, int, torch.Generator], "Noise"]


class Noise(nn.Module):
    """n(x) = (1 − share) Σ_k π_k N(x; μ_k, Σ_k) + share · U(box).

    A uniform share bounds the ratio p/n by p's height × the box's area / share, also where the
    clouds have no tail to speak of. Part of the model, it is kept in checkpoints.

    Args:
        clouds: K Gaussians in data units; those of weight 0 (log −∞) are there to be filled.
        share: 0 for clouds alone, 1 for the box alone.
    """

    def __init__(self, clouds: Gaussians, box: Box, share: float) -> None:
        super().__init__()
        like = {"dtype": torch.float64, "device": clouds.mean.device}
        for name, part in clouds._asdict().items():
            self.register_buffer(name, part.double())
        self.register_buffer("box", torch.tensor(box, **like))
        self.register_buffer("share", torch.tensor(share, **like))
        self.prepare()

    def prepare(self) -> None:
        """Work out what draws are made with; to be called when the buffers were changed."""
        self._edges = ((1 - self.share) * self.log_weight.exp().cumsum(0)).float()
        self._mean = self.mean.float()
        self._root = torch.linalg.cholesky(self.cov).float()
        self._corner, self._size = self.box[::2].float(), (self.box[1::2] - self.box[::2]).float()
        self._clouds_share = (1 - self.share).float()

    def log_prob(self, x: Tensor) -> Tensor:
        """log n(x) in nats, (N, 2) → (N,) in the dtype of x; −∞ outside the support."""
        clouds = Gaussians(self.log_weight, self.mean, self.cov)
        mixture = log_density(clouds, x.double()) + torch.log1p(-self.share)
        flat = self.share.log() - (self.box[1::2] - self.box[::2]).log().sum()
        flat = torch.where(inside(x, tuple(self.box)), flat, -math.inf)
        return torch.logaddexp(mixture, flat).to(x.dtype)

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """n draws (n, 2), float32, on the generator's device."""
        pick = torch.rand(n, generator=rng, device=rng.device)
        z = torch.randn(n, 2, generator=rng, device=rng.device)
        flat = self._corner + self._size * torch.rand(n, 2, generator=rng, device=rng.device)
        k = torch.searchsorted(self._edges, pick, right=True).clamp_max(len(self._edges) - 1)
        cloud = self._mean[k] + (self._root[k] * z[:, None]).sum(2)
        return torch.where((pick < self._clouds_share)[:, None], cloud, flat)


def fit(pool: Pool, box: Box, components: int, rng: torch.Generator) -> Noise:
    """A mixture by EM on the pool's training rows; fewer clouds where rows are few.

    It need not be the best of mixtures, for the classifier learns whatever it lacks.
    """
    order = torch.randperm(len(pool.train), generator=rng, device=pool.train.device)
    rows = pool.train[order[: max(n for n, _ in COURSE)]]
    z = (rows.double() - pool.mean) / pool.std
    k = max(1, min(components, len(z) // ROWS_A_CLOUD))
    g = first_guess(z[:GUESSED_FROM], k, "k-means++", 1e-6, rng)
    for n, iterations in COURSE:
        for _ in range(iterations):
            g, _ = em_update(g, z[:n], "full", 1e-6)
    std = pool.std.double()
    cov = g.cov * std[:, None] * std
    x0, x1, y0, y1 = box
    narrowest = 0.5 * max(x1 - x0, y1 - y0) / CELLS
    size, axes = torch.linalg.eigh(cov)
    cov = (axes * size.clamp_min(narrowest**2)[:, None]) @ axes.mT
    g = Gaussians(g.log_weight, g.mean * std + pool.mean, cov)
    spare = one(pool, 1.0, 0.0)  # as many clouds as asked for, or no other data could be fed
    none = torch.full_like(spare.log_weight, -math.inf)
    for _ in range(components - k):
        g = Gaussians(*(torch.cat(two) for two in zip(g, spare._replace(log_weight=none))))
    return Noise(g, box, SHARE)


def one(pool: Pool, width: float, shift: float) -> Gaussians:
    """A single Gaussian: the data's standard deviations times `width`, and its mean `shift` of
    them to the right of the data's."""
    mean, std = pool.mean.double().clone(), pool.std.double()
    mean[0] += shift * std[0]
    return Gaussians(torch.zeros_like(mean[:1]), mean[None], torch.diag((width * std) ** 2)[None])


def _gaussian(width: float, shift: float) -> MakeNoise:
    return lambda pool, box, components, rng: Noise(one(pool, width, shift), box, 0.0)


# by their names on the page
NOISES: dict[str, MakeNoise] = {
    "fitted mixture": fit,
    "wide": _gaussian(*WIDE),
    "narrow": _gaussian(*NARROW),
    "shifted": _gaussian(*SHIFTED),
    "uniform": lambda pool, box, components, rng: Noise(one(pool, 1.0, 0.0), box, 1.0),
}
