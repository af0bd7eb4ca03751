"""The way from source to data that training draws: z = α(t) x₁ + σ(t) x₀ + γ(t) ε."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["straight", "variance-preserving", "stochastic"]


@dataclass(frozen=True)
class At:
    """A path at times t: α, σ, γ and their derivatives, each of the shape of t."""

    alpha: Tensor
    sigma: Tensor
    gamma: Tensor
    alpha_dot: Tensor
    sigma_dot: Tensor
    gamma_dot: Tensor

    def place(self, x0: Tensor, x1: Tensor, noise: Tensor | None = None) -> Tensor:
        """z, (N, d)."""
        z = rows(self.alpha) * x1 + rows(self.sigma) * x0
        return z if noise is None else z + rows(self.gamma) * noise

    def pace(self, x0: Tensor, x1: Tensor, noise: Tensor | None = None) -> Tensor:
        """dz/dt along the way of each pair, (N, d): what a velocity is taught."""
        pace = rows(self.alpha_dot) * x1 + rows(self.sigma_dot) * x0
        return pace if noise is None else pace + rows(self.gamma_dot) * noise


@dataclass(frozen=True)
class Path:
    """One of three paths from t = 0, the source, to t = 1, the data.

    straight             α = t, σ = 1 − t (Lipman et al. 2023, Flow matching for generative
                         modeling; Liu, Gong & Liu 2023, Flow straight and fast)
    variance-preserving  α = sin(πt/2), σ = cos(πt/2) (Albergo & Vanden-Eijnden 2023, Building
                         normalizing flows with stochastic interpolants)
    stochastic           straight, and γ = g sin²(πt): noise on the way that is gone at both ends
                         (Albergo, Boffi & Vanden-Eijnden 2023, Stochastic interpolants)

    Args:
        bump: g, the noise in the middle of the way.
    """

    kind: Kind = "straight"
    bump: float = 0.0

    def at(self, t: Tensor) -> At:
        """The path at times t in [0, 1], of any shape."""
        nil = torch.zeros_like(t)
        if self.kind == "variance-preserving":
            angle = math.pi / 2 * t
            sin, cos = angle.sin(), angle.cos()
            return At(sin, cos, nil, math.pi / 2 * cos, -math.pi / 2 * sin, nil)
        one = torch.ones_like(t)
        if self.kind == "straight":
            return At(t, 1 - t, nil, one, -one, nil)
        gamma = self.bump * (math.pi * t).sin().square()
        gamma_dot = self.bump * math.pi * (2 * math.pi * t).sin()
        return At(t, 1 - t, gamma, one, -one, gamma_dot)


@dataclass(frozen=True)
class Scales:
    """What is known of the velocity before any training, from two variances alone.

    Were source and data round Gaussians with variances v₀ and 1, drawn independently, the best
    guess of dz/dt at a place z would be c z, and k² what is left of its variance there:

        r² = α² + σ² v₀ + γ²,  c = ṙ/r,  k² = α̇² + σ̇² v₀ + γ̇² − ṙ²,   s² = σ² v₀ + γ²

    So v(z, t) = c z + k f(z/r, t) asks for a network f with inputs and outputs of unit size at
    every t, as Karras et al. (2022, Elucidating the design space of diffusion-based generative
    models) do for a denoiser. s is how much of z is not data, and k > 0 on all of [0, 1].
    """

    r: Tensor
    c: Tensor
    k: Tensor
    s: Tensor

    @classmethod
    def of(cls, at: At, variance: float) -> Scales:
        s2 = at.sigma.square() * variance + at.gamma.square()
        r2 = at.alpha.square() + s2
        both = at.alpha * at.alpha_dot + at.sigma * at.sigma_dot * variance
        both = both + at.gamma * at.gamma_dot
        speed = at.alpha_dot.square() + at.sigma_dot.square() * variance + at.gamma_dot.square()
        return cls(r2.sqrt(), both / r2, (speed - both.square() / r2).sqrt(), s2.sqrt())


def exact_velocity(z: Tensor, at: At, score: Tensor) -> Tensor:
    """E[dz/dt | z] for data in Gaussian noise, (N, d); `at` of one time in (0, 1].

    With x₀ ~ N(0, I) drawn independently of x₁, z = α x₁ + s ε with s² = σ² + γ², and Tweedie's
    formula tells both parts from the score of z:

        v = (α̇/α) z + (s² α̇/α − s ṡ) ∇ log p_t(z)
    """
    s2 = at.sigma.square() + at.gamma.square()
    s_s_dot = at.sigma * at.sigma_dot + at.gamma * at.gamma_dot
    rate = at.alpha_dot / at.alpha
    return rate * z + (s2 * rate - s_s_dot) * score


def rows(x: Tensor) -> Tensor:
    """One number a row, (N,) → (N, 1); or one for all."""
    return x[:, None] if x.dim() else x
