"""How much of the data is left at time t, and how much noise has come: z = α(t) x₀ + σ(t) ε.

All begin where σ/α is LOW, which no picture of standardised data can tell from 0, and end where
it is HIGH, where they are a Gaussian of variance α² + σ² but for 1e-5 nats. t runs from `low` to
`high`, data to noise.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

LOW, HIGH = 0.002, 20.0  # of σ/α; images need 80, at half the spread (Karras et al. 2022)


class Schedule:
    """α(t) and σ(t) of any shape of t, their slopes, and the times that a sampler stops at.

    Subclasses give `alpha`, `sigma`, `slopes` and `time`.
    """

    def alpha(self, t: Tensor) -> Tensor:
        """What is left of the data, (…) → (…)."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise, (…) → (…)."""
        raise NotImplementedError

    def slopes(self, t: float) -> tuple[float, float]:
        """dα/dt and dσ/dt."""
        raise NotImplementedError

    def time(self, ratio: float) -> float:
        """The time at which σ/α is `ratio`."""
        raise NotImplementedError

    def at(self, t: float) -> tuple[float, float]:
        """α and σ as numbers, worked out in double precision."""
        t = torch.tensor(t, dtype=torch.float64)
        return float(self.alpha(t)), float(self.sigma(t))

    @property
    def low(self) -> float:
        return self.time(LOW)

    @property
    def high(self) -> float:
        return self.time(HIGH)

    def place(self, u: Any) -> Any:
        """The time that lies a share u of a sampler's steps above the data, a number or a tensor.

        Steps are even in t unless a schedule has it otherwise.
        """
        return self.low + u * (self.high - self.low)

    def times(self, steps: int) -> list[float]:
        """Where a sampler stops, from noise to data: steps + 1 times."""
        return [self.place(1 - i / steps) for i in range(steps + 1)]

    def log_snr(self, t: Tensor) -> Tensor:
        """log α²/σ², (…) → (…); it falls with t."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())


class Linear(Schedule):
    """Variance preserving, α² + σ² = 1, with β(t) rising in a straight line from β₀ to β₁.

    log α(t) = −½ ∫β = −¼ t² (β₁ − β₀) − ½ t β₀ (Ho, Jain & Abbeel 2020, Denoising diffusion
    probabilistic models, in the continuous time of Song et al. 2021, Score-based generative
    modeling through stochastic differential equations).
    """

    BEGIN, END = 0.1, 20.0  # β₀, β₁

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -t * (self.BEGIN / 2 + t * ((self.END - self.BEGIN) / 4))

    def alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()

    def slopes(self, t: float) -> tuple[float, float]:
        alpha, sigma = self.at(t)
        half = (self.BEGIN + t * (self.END - self.BEGIN)) / 2
        return -half * alpha, half * alpha**2 / sigma

    def time(self, ratio: float) -> float:
        # −2 log α = log(1 + ratio²), a quadratic in t, written so that nothing cancels
        b, c = self.BEGIN, math.log1p(ratio**2)
        return 2 * c / (b + math.sqrt(b * b + 2 * (self.END - b) * c))


class Cosine(Schedule):
    """Variance preserving, α = cos(πt/2) and σ = sin(πt/2).

    The share of noise grows evenly, where `Linear` hides the data early and lingers in noise
    (Nichol & Dhariwal 2021, Improved denoising diffusion probabilistic models; their small offset
    is what beginning at LOW is for).
    """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(t * (math.pi / 2))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(t * (math.pi / 2))

    def slopes(self, t: float) -> tuple[float, float]:
        alpha, sigma = self.at(t)
        return -math.pi / 2 * sigma, math.pi / 2 * alpha

    def time(self, ratio: float) -> float:
        return 2 / math.pi * math.atan(ratio)


class Exploding(Schedule):
    """Variance exploding, α = 1 and σ = LOW (HIGH/LOW)^t: every step multiplies the noise.

    Song & Ermon (2019), Generative modeling by estimating gradients of the data distribution, as
    Song et al. (2021) made it continuous.
    """

    RATE = math.log(HIGH / LOW)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return LOW * torch.exp(t * self.RATE)

    def slopes(self, t: float) -> tuple[float, float]:
        return 0.0, self.RATE * self.at(t)[1]

    def time(self, ratio: float) -> float:
        return math.log(ratio / LOW) / self.RATE


class Karras(Schedule):
    """α = 1 and σ = t: time is the noise itself, and steps are even in σ^(1/7).

    So they are short where little noise is left and paths bend (Karras, Aittala, Aila & Laine
    2022, Elucidating the design space of diffusion-based generative models).
    """

    RHO = 7.0

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def slopes(self, t: float) -> tuple[float, float]:
        return 0.0, 1.0

    def time(self, ratio: float) -> float:
        return ratio

    def place(self, u: Any) -> Any:
        a, b = LOW ** (1 / self.RHO), HIGH ** (1 / self.RHO)
        return (a + u * (b - a)) ** self.RHO


def make_schedule(process: str, kind: str = "linear") -> Schedule:
    """The schedule of a process: "VP" of a `kind` "linear" or "cosine", "VE" or "EDM"."""
    if process == "VP":
        return Linear() if kind == "linear" else Cosine()
    return Exploding() if process == "VE" else Karras()
