"""p(x|z): what the decoder's numbers mean, for real numbers and for integer pixels.

Both have one of three noises: of z, which the decoder tells for every number; one that is
learnt for all; one that is fixed. Rows are standardised real numbers, or integer levels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG_2PI = math.log(2 * math.pi)
LOWEST, HIGHEST = -7.0, 3.0  # of log σ, in standard deviations of the data


class Gaussian(nn.Module):
    """p(x|z) = N(x; μ(z), diag σ²), x standardised.

    Args:
        noise: "of z" (σ(z) > e^LOWEST from the decoder), "learnt" or "fixed" (one σ for all).
        start: log σ at the beginning.
    """

    def __init__(self, dim: int, noise: str, start: float, device: torch.device) -> None:
        super().__init__()
        self.dim, self.noise = dim, noise
        self.size = 2 * dim if noise == "of z" else dim  # numbers that the decoder tells
        self.log_sigma = nn.Parameter(torch.full((), float(start), device=device))
        self.log_sigma.requires_grad_(noise != "fixed")

    def mean(self, told: Tensor) -> Tensor:
        """E[x|z], (N, d)."""
        return told[:, : self.dim]

    def log_scale(self, told: Tensor) -> Tensor:
        """log σ, (N, d), or 0-d for one."""
        if self.noise != "of z":
            return self.log_sigma.clamp_min(LOWEST)
        return LOWEST + F.softplus(told[:, self.dim :] + (self.log_sigma - LOWEST))

    def log_prob(self, told: Tensor, x: Tensor) -> Tensor:
        """log p(x|z) in nats, told (N, size) and x (N, d) → (N,)."""
        scale = self.log_scale(told)
        z = (x - self.mean(told)) * torch.exp(-scale)
        total = scale.sum(1) if scale.ndim else scale * self.dim
        return -0.5 * z.square().sum(1) - total - 0.5 * self.dim * LOG_2PI

    def sample(self, told: Tensor, generator: torch.Generator) -> Tensor:
        """A draw of x for each row, (N, d)."""
        noise = torch.randn(
            len(told), self.dim, generator=generator, device=told.device, dtype=told.dtype
        )
        return self.mean(told) + self.log_scale(told).exp() * noise


class Levels(nn.Module):
    """p(x|z) of integer pixels 0 … levels − 1, each on its own given z: logistics, rounded.

        P(v|z) = S((v + ½ − μ)/s) − S((v − ½ − μ)/s),   S(a) = 1/(1 + e^−a),   s = σ√3/π

    The tails belong to the first and the last level (Salimans et al. 2017, PixelCNN++).

    Args:
        levels: how many.
        unit: levels in one standard deviation of the data, in which μ and σ are counted.
    """

    def __init__(
        self, dim: int, levels: int, unit: float, noise: str, start: float, device: torch.device
    ) -> None:
        super().__init__()
        self.dim, self.levels, self.unit, self.noise = dim, levels, unit, noise
        self.size = 2 * dim if noise == "of z" else dim
        self.log_sigma = nn.Parameter(torch.full((), float(start), device=device))
        self.log_sigma.requires_grad_(noise != "fixed")
        self.register_buffer("values", torch.arange(levels, device=device).float())

    def centre(self, told: Tensor) -> Tensor:
        """μ(z) of the logistic in levels, (N, d)."""
        return self.levels / 2 + self.unit * told[:, : self.dim]

    def scale(self, told: Tensor) -> Tensor:
        """s in levels, (N, d), or 0-d for one."""
        log_sigma = self.log_sigma
        if self.noise == "of z":
            log_sigma = log_sigma + told[:, self.dim :]
        return self.unit * math.sqrt(3) / math.pi * log_sigma.clamp(LOWEST, HIGHEST).exp()

    def log_prob(self, told: Tensor, x: Tensor) -> Tensor:
        """log P(x|z) in nats, told (N, size) and x (N, d) of integers → (N,)."""
        return self._rounded(self.centre(told), self.scale(told), x).sum(1)

    def _rounded(self, centre: Tensor, scale: Tensor, x: Tensor) -> Tensor:
        """log P(x|z) of every pixel, in the shape of all three together."""
        wide = 1 / scale
        off = (x - centre) * wide
        # S(a) − S(b) = S(a) S(−b) (1 − exp(b − a)); at an end only one of the three is left
        # a product with 0 or 1: `where` takes three times as long there and back, `masked_fill` ten
        below, above = (x > 0).to(off.dtype), (x < self.levels - 1).to(off.dtype)
        up = above * F.logsigmoid(off + 0.5 * wide)
        down = below * F.logsigmoid(0.5 * wide - off)
        between = below * above * torch.log(-torch.expm1(-wide))
        return up + down + between

    def probabilities(self, told: Tensor) -> Tensor:
        """P(v|z) of every pixel and level, (N, d, levels)."""
        scale = self.scale(told)
        scale = scale[:, :, None] if scale.ndim else scale
        return self._rounded(self.centre(told)[:, :, None], scale, self.values).exp()

    def mean(self, told: Tensor) -> Tensor:
        """E[x|z] in levels, (N, d)."""
        return self.probabilities(told) @ self.values

    def sample(self, told: Tensor, generator: torch.Generator) -> Tensor:
        """A draw of integers for each row, (N, d): a logistic draw, rounded and held within."""
        shape = (len(told), self.dim)
        u = torch.rand(shape, generator=generator, device=told.device).clamp(1e-6, 1 - 1e-6)
        x = self.centre(told) + self.scale(told) * torch.logit(u)
        return x.round().clamp(0, self.levels - 1)
