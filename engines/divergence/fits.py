"""The simple q: one Gaussian or several, as many of them at once as are to be started, or a flow.

All of it in standardised units and float64; `log_prob` is batched over starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.nets import mlp

LOG_2PI = math.log(2 * math.pi)


class Gaussians(nn.Module):
    """S independent mixtures of K Gaussians in D = 1 or 2 dimensions.

        q_s(z) = Σ_k π_sk N(z; μ_sk, A Aᵀ + diag f²), A lower triangular, exp on its diagonal

    f (D,) is the floor: no Gaussian is narrower than the cells that it is summed over.

    Args:
        draw: draw(K, D) gives the standard normals of one start's means; called S times, so
            that the first starts are the same however many follow.
        spread, width: of the first means about 0, and of the first Gaussians.
        full: whether the axes may turn.
    """

    def __init__(
        self, starts: int, k: int, d: int, full: bool,
        draw: Callable[[int, int], Tensor], spread: float, width: float,
    ) -> None:  # fmt: skip
        super().__init__()
        mean = torch.stack([draw(k, d) for _ in range(starts)]).double() * spread
        new = lambda *shape: torch.zeros(*shape, dtype=torch.float64, device=mean.device)  # noqa: E731
        self.mean = nn.Parameter(mean)
        self.log_scale = nn.Parameter(new(starts, k, d) + math.log(width))
        self.tilt = nn.Parameter(new(starts, k)) if full and d == 2 else None
        self.logits = nn.Parameter(new(starts, k)) if k > 1 else None
        self.k, self.d = k, d

    pace = 1.0

    @property
    def starts(self) -> int:
        return len(self.mean)

    def weights(self) -> Tensor:
        """π (S, K)."""
        if self.logits is None:
            return torch.ones_like(self.mean[..., 0])
        return self.logits.softmax(1)

    def cov(self, floor: Tensor) -> Tensor:
        """Σ (S, K, D, D)."""
        return self.shape() + torch.diag(floor**2)

    def shape(self) -> Tensor:
        """A Aᵀ (S, K, D, D), what the floor is added to."""
        root = torch.diag_embed(self.log_scale.exp())
        if self.tilt is not None:
            lower = torch.ones(2, 2, dtype=torch.float64, device=root.device).tril(-1)
            root = root + self.tilt[..., None, None] * lower
        return root @ root.mT

    def log_prob(self, z: Tensor, floor: Tensor) -> Tensor:
        """(N, D) → (S, N): log-densities are quadratics, so all of them are one product."""
        cov = self.cov(floor)
        a = cov[..., 0, 0]
        one = torch.ones_like(z[:, :1])
        x = z[:, 0:1]
        if self.d == 1:
            mean = self.mean[..., 0]
            log_det = a.log()
            parts = [mean / a, -0.5 / a, mean**2 / a]
            features = torch.cat([one, x, x * x], 1)
        else:
            b, c = cov[..., 0, 1], cov[..., 1, 1]
            det = a * c - b * b
            log_det = det.log()
            # the precision [[c, −b], [−b, a]] / det
            pa, pb, pc = c / det, -b / det, a / det
            mx, my = self.mean.unbind(-1)
            hx, hy = pa * mx + pb * my, pb * mx + pc * my
            parts = [hx, hy, -0.5 * pa, -pb, -0.5 * pc, hx * mx + hy * my]
            y = z[:, 1:2]
            features = torch.cat([one, x, y, x * x, x * y, y * y], 1)
        const = -0.5 * (log_det + self.d * LOG_2PI + parts[-1])
        if self.logits is not None:
            const = const + self.logits.log_softmax(1)
        joint = torch.stack([const, *parts[:-1]], -1) @ features.T  # (S, K, N)
        return joint[:, 0] if self.k == 1 else torch.logsumexp(joint, 1)

    def on_grid(self, axes: list[Tensor], z: Tensor, floor: Tensor) -> Tensor:
        return self.log_prob(z, floor)

    def sample(self, noise: Tensor, u: Tensor, floor: Tensor) -> Tensor:
        """Of the first start: normals (n, D) and uniforms (n,) → (n, D)."""
        edges = self.weights()[0].cumsum(0)
        which = torch.searchsorted(edges, u * edges[-1]).clamp_max(self.k - 1)
        root = torch.linalg.cholesky(self.cov(floor)[0])[which]
        return self.mean[0][which] + (root @ noise[:, :, None])[:, :, 0]

    # ------------------------------------------------------------ by hand

    def put(self, k: int, mean: Tensor) -> None:
        """Move Gaussian k of the first start."""
        self.mean[0, k] = mean

    def reshape(self, k: int, cov: Tensor, floor: Tensor) -> None:
        """Give Gaussian k of the first start the covariance nearest to `cov` that it can have."""
        if self.tilt is None:
            variance = (cov.diagonal() - floor**2).clamp_min(1e-8)
            self.log_scale[0, k] = 0.5 * variance.log()
            return
        value, axes = torch.linalg.eigh(cov - torch.diag(floor**2))
        root = torch.linalg.cholesky(axes @ torch.diag(value.clamp_min(1e-8)) @ axes.T)
        self.log_scale[0, k] = root.diagonal().log()
        self.tilt[0, k] = root[1, 0]


class Flow(nn.Module):
    """A triangular flow: u₁ = F(x₁), u₂ = F(x₂ | x₁), with u uniform on the unit square.

        F(x) = Σ_j π_j sigmoid((x − c_j)/s_j), π_j > 0 that sum to 1, s_j > 0

    F grows from 0 to 1, so log q(x) = Σ log F′(x_i), a logistic mixture; the numbers of the
    second map are a small network of x₁ (Ho et al. 2019, "Flow++", has such maps in its
    couplings). In one dimension it is the first map alone. Nothing needs to be inverted but
    for samples, which is done by bisection.

    Args: as for `Gaussians`, and rng, which the network's weights come from.
    """

    BUMPS, HIDDEN = 10, 48
    FAR = 40.0  # s_j beyond which a sigmoid is 0 or 1 in float64
    k = starts = 1
    pace = 0.4  # of the step size: what suits a mean is too much for a network

    def __init__(
        self, d: int, rng: torch.Generator,
        draw: Callable[[int, int], Tensor], spread: float, width: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.d = d
        self.mean = nn.Parameter(draw(1, d)[0].double() * spread)
        c = torch.linspace(-1.5, 1.5, self.BUMPS, dtype=torch.float64, device=rng.device) * width
        # a logistic's standard deviation is π/√3 of its s: together they are about `width`
        first = torch.cat([0 * c, c, 0 * c + math.log(0.25 * width)])
        self.base = nn.Parameter(first.repeat(d, 1))
        self.net = None
        if d == 2:
            sizes = [1, self.HIDDEN, self.HIDDEN, len(first)]
            self.net = mlp(sizes, rng, nn.Tanh, last_gain=0.1, gain=3.0).double()

    def _bumps(self, x: Tensor, theta: Tensor, floor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log π, (x − c)/s and log s for each bump: x (…), numbers θ (…, 3J) → (…, J)."""
        logits, c, log_s = theta.unflatten(-1, (3, -1)).unbind(-2)
        s = 0.5 * floor + log_s.exp()
        return logits.log_softmax(-1), (x[..., None] - c) / s, s.log()

    def _log_slope(self, x: Tensor, theta: Tensor, floor: Tensor) -> Tensor:
        """log F′(x): log σ′(y) = −y − 2 log(1 + e^{−y})."""
        log_pi, y, log_s = self._bumps(x, theta, floor)
        return torch.logsumexp(log_pi - log_s - y - 2 * functional.softplus(-y), -1)

    def _second(self, x1: Tensor) -> Tensor:
        """Numbers of the second map, (…,) → (…, 3J)."""
        return self.base[1] + self.net(x1[..., None])

    def on_grid(self, axes: list[Tensor], z: Tensor, floor: Tensor) -> Tensor:
        """As `log_prob` of the grid of these axes, with the network asked once a column."""
        x = [axis - m for axis, m in zip(axes, self.mean, strict=True)]
        out = self._log_slope(x[0], self.base[0], floor[0])
        if self.d == 2:
            out = out + self._log_slope(x[1][:, None], self._second(x[0]), floor[1])
        return out.reshape(1, -1)

    def log_prob(self, z: Tensor, floor: Tensor) -> Tensor:
        """(N, D) → (1, N)."""
        x = (z - self.mean).unbind(1)
        out = self._log_slope(x[0], self.base[0], floor[0])
        if self.d == 2:
            out = out + self._log_slope(x[1], self._second(x[0]), floor[1])
        return out[None]

    def _inverse(self, u: Tensor, theta: Tensor, floor: Tensor) -> Tensor:
        """F⁻¹(u) (n,), by bisection between places where F is 0 and 1."""
        _, c, log_s = theta.unflatten(-1, (3, -1)).unbind(-2)
        reach = self.FAR * (0.5 * floor + log_s.exp())
        low, high = ((c + sign * reach) for sign in (-1, 1))
        low, high = low.amin(-1).expand_as(u), high.amax(-1).expand_as(u)
        for _ in range(50):
            middle = (low + high) / 2
            log_pi, y, _ = self._bumps(middle, theta, floor)
            below = (log_pi.exp() * torch.sigmoid(y)).sum(-1) < u
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def sample(self, noise: Tensor, u: Tensor, floor: Tensor) -> Tensor:
        """Normals (n, D) → (n, D), through their own distribution function; u is not needed."""
        u = torch.special.ndtr(noise)
        x = [self._inverse(u[:, 0], self.base[0], floor[0])]
        if self.d == 2:
            x.append(self._inverse(u[:, 1], self._second(x[0]), floor[1]))
        return torch.stack(x, 1) + self.mean

    def put(self, k: int, mean: Tensor) -> None:
        """Move the whole flow."""
        self.mean.copy_(mean)
