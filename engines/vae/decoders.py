"""p(x|z): what the decoder's numbers mean, for real numbers and for integer pixels.

Both have one of three noises: of z, which the decoder tells for every number; one that is
learnt for all; one that is fixed. Rows are standardised real numbers, or integer levels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LOG_2PI = math.log(2 * math.pi)
LOWEST, HIGHEST = -7.0, 3.0  # of log σ, in standard deviations of the data
SPREAD = math.sqrt(3) / math.pi  # s of a logistic whose standard deviation is 1
TINY = torch.finfo(torch.float32).tiny


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


class _Rounded(torch.autograd.Function):
    """log P(x) of a logistic rounded to 0 … last, at integers x, with its gradient written out.

    With w = 1/s, a = (x + ½ − μ)w, b = (x − ½ − μ)w, S(a) = 1/(1 + e^−a), and u = 0 at the last
    level, v = 0 at the first (1 elsewhere), for at an end one of the two edges lies at infinity:

        log P     = u log S(a) + v log S(−b) + uv log(1 − e^−w),   log S(a) = min(a, 0) + log S(|a|)
        ∂/∂μ      = −w (A − B),            A = u S(−a),   B = v S(b)
        ∂/∂log s  = −(x − μ)w (A − B) − w (½A + ½B + uv/(e^w − 1))

    A step's time goes into operations as small as these; written out they take two thirds of it.
    """

    @staticmethod
    def forward(ctx, centre: Tensor, log_scale: Tensor, x: Tensor, last: int) -> Tensor:
        wide = torch.exp(-log_scale)
        off = (x - centre).mul_(wide)
        # masks as numbers, which are multiplied by: `where` takes three times as long
        not_last, not_first = (x - last).neg_().clamp_max_(1), x.clamp_max(1)
        inner = not_last * not_first
        up, down = torch.add(off, wide, alpha=0.5), torch.sub(off, wide, alpha=0.5)
        above, below = up.neg().sigmoid_().mul_(not_last), down.sigmoid().mul_(not_first)
        between = wide.neg().expm1_().mul_(inner)
        # S(|a|) = ½ + |S(−a) − ½|; at an end it is 1, and so is what lies between
        rest = (above - 0.5).abs_().add_(0.5).mul_((below - 0.5).abs_().add_(0.5))
        out = rest.mul_((inner - 1).add_(between).neg_()).log_()
        out.addcmul_(up.clamp_max_(0), not_last).addcmul_(down.clamp_min_(0), not_first, value=-1)
        ctx.save_for_backward(off, wide, above, below, inner, between)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, slope: Tensor) -> tuple[Tensor | None, ...]:
        off, wide, above, below, inner, between = ctx.saved_tensors
        # 1/(e^w − 1) = e^−w/(1 − e^−w); at an end it is 0 over next to nothing
        spread = (inner + between).div_((between - TINY).neg_())
        spread.add_(above, alpha=0.5).add_(below, alpha=0.5).mul_(wide)
        tilt, slope = above - below, -slope
        by_scale = spread.addcmul_(off, tilt).mul_(slope)
        return tilt.mul_(wide).mul_(slope), by_scale, None, None


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

    def _logistic(self, told: Tensor) -> tuple[Tensor, Tensor]:
        """μ(z) and log s, in levels, (N, d), or 0-d for one s."""
        log_sigma = self.log_sigma
        # `split` and `hardtanh`, for the slopes of slices and of `clamp` take three times as long
        if self.noise == "of z":
            told, own = told.split(self.dim, 1)
            log_sigma = log_sigma + own
        log_sigma = F.hardtanh(log_sigma, LOWEST, HIGHEST)
        return self.levels / 2 + self.unit * told, log_sigma + math.log(self.unit * SPREAD)

    def centre(self, told: Tensor) -> Tensor:
        """μ(z) of the logistic in levels, (N, d)."""
        return self._logistic(told)[0]

    def scale(self, told: Tensor) -> Tensor:
        """s in levels, (N, d), or 0-d for one."""
        return self._logistic(told)[1].exp()

    def log_prob(self, told: Tensor, x: Tensor) -> Tensor:
        """log P(x|z) in nats, told (N, size) and x (N, d) of integers → (N,)."""
        centre, log_scale = self._logistic(told)
        return self._rounded(centre, log_scale, x).sum(1)

    def _rounded(self, *centre_log_scale_x: Tensor) -> Tensor:
        """log P(x|z) of every pixel, in the shape of all three together."""
        return _Rounded.apply(*torch.broadcast_tensors(*centre_log_scale_x), self.levels - 1)

    def probabilities(self, told: Tensor) -> Tensor:
        """P(v|z) of every pixel and level, (N, d, levels)."""
        centre, log_scale = self._logistic(told)
        log_scale = log_scale[:, :, None] if log_scale.ndim else log_scale
        return self._rounded(centre[:, :, None], log_scale, self.values).exp()

    def mean(self, told: Tensor) -> Tensor:
        """E[x|z] in levels, (N, d)."""
        return self.probabilities(told) @ self.values

    def sample(self, told: Tensor, generator: torch.Generator) -> Tensor:
        """A draw of integers for each row, (N, d): a logistic draw, rounded and held within."""
        shape = (len(told), self.dim)
        u = torch.rand(shape, generator=generator, device=told.device).clamp(1e-6, 1 - 1e-6)
        centre, log_scale = self._logistic(told)
        x = centre + log_scale.exp() * torch.logit(u)
        return x.round().clamp(0, self.levels - 1)
