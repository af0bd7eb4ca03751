"""The encoder's Gaussian, and the bounds of log p(x) that are made with it.

    ELBO(x) = E_r[log p(x|z)] − KL(r(z|x)‖p(z)) = log p(x) − KL(r(z|x)‖p(z|x))
    L_K(x)  = E_r[log 1/K Σ_k p(x|z_k) p(z_k) / r(z_k|x)],   z_1 … z_K ~ r(z|x)

L_1 is the ELBO; L_K grows with K and tends to log p(x) (Burda, Grosse & Salakhutdinov 2016,
Importance weighted autoencoders). The prior p(z) is N(0, I).

To *measure* log p(x), z is drawn from more than the guess r: where r is narrower than p(z|x), as
an ellipse in a slice of the prior is, all of a thousand draws would miss the same mass. Half come
from r, a quarter from r made wider, a quarter from the prior, each weighed by the density of the
mixture of the three (Hesterberg 1995, Weighted average importance sampling and defensive mixture
distributions). So the mean of the weights is p(x) as before, and the mean of its log lies below.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)
WIDER = 3.0


class Posterior(NamedTuple):
    """r(z|x) = N(mean, T Tᵀ) for N rows, T = diag(exp log_scale) (I + lower).

    Attributes:
        mean, log_scale: (N, L).
        lower: (N, L, L), strictly lower triangular; None for independent latents.
    """

    mean: Tensor
    log_scale: Tensor
    lower: Tensor | None

    def draw(self, noise: Tensor) -> Tensor:
        """z = mean + T ε for noise ε (N, K, L), as (N, K, L)."""
        turned = noise if self.lower is None else noise + noise @ self.lower.mT
        return torch.addcmul(self.mean[:, None], self.log_scale.exp()[:, None], turned)

    def log_prob(self, noise: Tensor) -> Tensor:
        """log r(z|x) at z = mean + T ε, from ε (N, K, L), as (N, K)."""
        inner = -0.5 * noise.square().sum(2)
        return inner - (self.log_scale.sum(1) + 0.5 * noise.shape[2] * LOG_2PI)[:, None]

    def whiten(self, z: Tensor) -> Tensor:
        """The noise ε = T⁻¹(z − mean) behind z (N, K, L), as (N, K, L)."""
        off = (z - self.mean[:, None]) * (-self.log_scale).exp()[:, None]
        if self.lower is None:
            return off
        root = self.lower + torch.eye(self.lower.shape[1], device=z.device)
        return torch.linalg.solve_triangular(root, off.mT, upper=False, unitriangular=True).mT

    def variance(self) -> Tensor:
        """Of each latent by itself, (N, L)."""
        own = (2 * self.log_scale).exp()
        return own if self.lower is None else own * (1 + self.lower.square().sum(2))

    def covariance(self) -> Tensor:
        """T Tᵀ, (N, L, L)."""
        root = torch.diag_embed(self.log_scale.exp())
        if self.lower is not None:
            root = root + self.log_scale.exp()[:, :, None] * self.lower
        return root @ root.mT

    def kl(self) -> tuple[Tensor, Tensor]:
        """KL(r(z|x)‖N(0, I)) in nats as a sum of two parts: of each latent, and of all together.

        Σ_j KL(r(z_j|x)‖N(0, 1)) (N, L), and the total correlation KL(r‖Π_j r_j) (N,), which is
        0 for independent latents.
        """
        variance = self.variance()
        if self.lower is None:
            each = 0.5 * (self.mean.square() + variance - 1) - self.log_scale
            return each, each.new_zeros(len(each))
        log_variance = variance.log()
        each = 0.5 * (self.mean.square() + variance - 1 - log_variance)
        return each, 0.5 * log_variance.sum(1) - self.log_scale.sum(1)


def log_prior(z: Tensor) -> Tensor:
    """log N(z; 0, I) over the last axis."""
    return -0.5 * z.square().sum(-1) - 0.5 * z.shape[-1] * LOG_2PI


def log_weights(log_lik: Tensor, z: Tensor, noise: Tensor, r: Posterior) -> Tensor:
    """log p(x|z) + log p(z) − log r(z|x) of K draws, (N, K).

    Args:
        log_lik: log p(x|z), (N, K).
        z, noise: draws of r and the noise that made them, (N, K, L).
    """
    return log_lik + log_prior(z) - r.log_prob(noise)


def importance_bound(log_w: Tensor) -> Tensor:
    """log 1/K Σ_k w_k from log-weights (N, K), as (N,): in the mean a lower bound of log p(x)."""
    return log_w.logsumexp(1) - math.log(log_w.shape[1])


def parts(k: int) -> tuple[int, int, int]:
    """Of K draws: how many from the guess, from the wider one, and from the prior."""
    return k - 2 * (k // 4), k // 4, k // 4


def proposed(r: Posterior, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draws z (N, K, L) for measuring log p(x), and the log-density (N, K) that they come from.

    The first of them, `parts(K)[0]`, are draws of r itself.
    """
    k, latents = noise.shape[1:]
    own, wide, free = parts(k)
    white = torch.cat([noise[:, :own], WIDER * noise[:, own : own + wide]], 1)
    z = torch.cat([r.draw(white), noise[:, own + wide :]], 1)
    white = torch.cat([white, r.whiten(z[:, own + wide :])], 1)
    guess = r.log_prob(white)
    if not free:
        return z, guess
    # the wider guess at the same places, from the same squares
    wider = guess + 0.5 * (1 - WIDER**-2) * white.square().sum(2) - latents * math.log(WIDER)
    shares = torch.tensor([own / k, wide / k, free / k], device=z.device).log()
    each = torch.stack([guess, wider, log_prior(z)], 2)
    return z, (each + shares).logsumexp(2)


def freed(each: Tensor, bits: float) -> Tensor:
    """Σ_j max(λ, mean over rows of KL_j), 0-d, for KL of each latent (N, L) in nats.

    Free bits (Kingma et al. 2016, Improved variational inference with inverse autoregressive
    flow): below λ nats a latent costs the same whatever it says, so that it may begin to speak.
    """
    return each.mean(0).clamp_min(bits).sum()
