"""Two losses that a score can be learnt by, though nobody knows the true one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def denoising(score: Callable[[Tensor], Tensor], z: Tensor, sigma: Tensor, eps: Tensor) -> Tensor:
    """σ² |s(z + σε) + ε/σ|² = |σ s(z + σε) + ε|², (N, d) → (N,).

    The slope of log N(z'; z, σ²I) at z' = z + σε is −ε/σ, and its mean over all z that z' may have
    come from is the score of the *noised* data. So the least squares fit is that, and what remains
    at it, E|σ s* + ε|², is no fault of the model: the loss has a floor.

    Args:
        z, eps: rows and ε ~ N(0, I), (N, d). sigma: (N, 1), or 0-d for all.

    References: Vincent 2011, A connection between score matching and denoising autoencoders;
    summed over many σ: Song & Ermon 2019, Generative modeling by estimating gradients of the data
    distribution.
    """
    return (sigma * score(z + sigma * eps) + eps).square().sum(1)


def sliced(score: Callable[[Tensor], Tensor], z: Tensor, along: Tensor) -> Tensor:
    """½|s(z)|² + mean over k of v_kᵀ ∇(v_kᵀ s)(z), (N, d) → (N,).

    With E[vvᵀ] = I its mean over v is ½|s|² + div s, and over data ½E|s − s*|² − ½E|s*|²
    (Hyvärinen 2005, Estimation of non-normalized statistical models by score matching): no noise,
    and no true score, is asked for. Variance-reduced: ½|s|² stands for ½(vᵀs)².

    Args:
        along: v, (K, N, d).

    References: Song, Garg, Shi & Ermon 2019, Sliced score matching.
    """
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        s = score(leaf)
        bend = torch.zeros_like(s[:, 0])
        for v in along:
            (slope,) = torch.autograd.grad((s * v).sum(), leaf, create_graph=True)
            bend = bend + (slope * v).sum(1)
        return 0.5 * s.square().sum(1) + bend / len(along)
