"""Two-dimensional data with exact densities.

Every dataset here states its generating process in one formula, draws from exactly that
process, and knows its density: in closed form, by a change of variables, or by quadrature
to 1e-6. Densities are worked out in float64, whatever the dtype of x.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from engines.data.base import Dataset, Split
from engines.data.exact import (
    LOG_2PI,
    Mixture,
    NearBoxes,
    NoisyBoxes,
    NoisyRings,
    gauss_legendre,
    midpoint_entropy,
    noise_scales,
)


class Plane(Dataset):
    """A plane with an exact density. Subclasses implement `_draw` and `_log_prob` in float64."""

    # −∫ p log p in nats where the integral takes long; a test works it out again
    known_entropy: ClassVar[float | None] = None

    def sample(self, n: int, generator: torch.Generator, split: Split = "train") -> Tensor:
        return self._draw(n, generator).float()

    def log_prob(self, x: Tensor) -> Tensor:
        return self._log_prob(x.double()).to(x.dtype)

    @property
    def entropy(self) -> float:
        """−∫ p log p in nats; worked out at the first call for these options, then kept."""
        if self.known_entropy is not None:
            return self.known_entropy
        return _entropy(type(self), tuple(sorted(self.options.items())))

    def _draw(self, n: int, rng: torch.Generator) -> Tensor:
        raise NotImplementedError

    def _log_prob(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _entropy(self, n: int = 400) -> float:
        x0, x1, y0, y1 = self.extent
        x, y = (x1 - x0) / 20, (y1 - y0) / 20  # up to 1e-5 of the mass lies beyond the extent
        return midpoint_entropy(self._log_prob, (x0 - x, x1 + x, y0 - y, y1 + y), n)


@lru_cache(maxsize=256)
def _entropy(kind: type[Plane], options: tuple[tuple[str, Any], ...]) -> float:
    return kind(**dict(options))._entropy()


def _rand(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=rng, device=rng.device, dtype=torch.float64)


def _randn(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng, device=rng.device, dtype=torch.float64)


def _randint(rng: torch.Generator, high: int, n: int) -> Tensor:
    return torch.randint(high, (n,), generator=rng, device=rng.device)


class Checkerboard(Plane):
    """Uniform on the 8 squares of side 2 in [−4, 4]² where ⌊x₁/2⌋ + ⌊x₂/2⌋ is even."""

    name: ClassVar[str] = "checkerboard"
    about = "Uniform on the dark squares of a board: sharp edges are hard to learn."
    source = "8 squares of side 2 in [−4, 4]² (after Grathwohl et al. 2019, FFJORD)"
    place = 5
    extent = (-4.5, 4.5, -4.5, 4.5)
    parts = "square"

    def _draw(self, n: int, rng: torch.Generator) -> Tensor:
        square = _randint(rng, 8, n)
        column = square // 2  # 0…3 from the left
        row = 2 * (square % 2) + column % 2  # column + row is even
        low = 2.0 * torch.stack([column, row], 1) - 4
        # the clamp keeps float32 from rounding a point up onto the next square
        return low + 2 * _rand(rng, n, 2).clamp_max(1 - 2.0**-22)

    def _log_prob(self, x: Tensor) -> Tensor:
        even = (x / 2).floor().sum(1) % 2 == 0
        inside = even & ((x >= -4) & (x < 4)).all(1)
        out = torch.full_like(x[:, 0], -math.log(32.0)).masked_fill(~inside, -math.inf)
        return out.masked_fill(x.isnan().any(1), math.nan)

    def classify(self, x: Tensor) -> Tensor:
        column, row = ((x + 4) / 2).floor().clamp(0, 3).long().unbind(1)
        return 2 * column + row // 2

    def _entropy(self) -> float:
        return math.log(32.0)

    def noised(self, a: float, sigma: float) -> NoisyBoxes:
        """The squares of side 2|a| smeared by σ > 0: products of differences of erf."""
        a, sigma = noise_scales(a, sigma)
        column = torch.arange(4)
        centre = 2.0 * torch.cartesian_prod(column, column) - 3
        dark = centre[(column[:, None] + column).reshape(-1) % 2 == 0]
        return NoisyBoxes(a * dark, a, sigma, [1 / 8] * 8)


@lru_cache(maxsize=1)
def _moons() -> Mixture:
    """Both half-circles as 2 × 100 Gaussians of σ 0.2 at Gauss–Legendre nodes."""
    angle, weight = gauss_legendre(0, math.pi, 100)
    upper = np.stack([2 * np.cos(angle) - 1, 2 * np.sin(angle) - 0.2], 1)
    lower = np.stack([1 - 2 * np.cos(angle), 0.8 - 2 * np.sin(angle)], 1)
    return Mixture(np.concatenate([upper, lower]), 0.2, np.tile(weight, 2) / (2 * math.pi))


class Moons(Plane):
    """make_moons of scikit-learn, noise 0.1, then × 2 + (−1, −0.2).

    Angles are uniform on [0, π] and each moon has half of the mass; scikit-learn spaces
    the angles evenly and splits the rows evenly, which is no independent sample.

    p(x) = ½ Σ ∫₀^π N(x; c(angle), 0.2²) dangle/π, by Gauss–Legendre, to 1e-9.
    """

    name: ClassVar[str] = "moons"
    about = "Two interleaving half-circles."
    source = "scikit-learn make_moons with noise 0.1, × 2 + (−1, −0.2)"
    place = 6
    known_entropy = 2.393879196
    extent = (-4.2, 4.2, -4.2, 4.2)
    parts = "nearest moon"

    def _draw(self, n: int, rng: torch.Generator) -> Tensor:
        angle, lower = math.pi * _rand(rng, n), _randint(rng, 2, n).bool()
        x = torch.where(lower, 1 - angle.cos(), angle.cos())
        y = torch.where(lower, 0.5 - angle.sin(), angle.sin())
        moons = torch.stack([x, y], 1) + 0.1 * _randn(rng, n, 2)
        return 2 * moons + torch.tensor([-1.0, -0.2], device=rng.device).double()

    def _log_prob(self, x: Tensor) -> Tensor:
        return _moons().log_prob(x)

    def classify(self, x: Tensor) -> Tensor:
        def away(centre: tuple[float, float], up: float) -> Tensor:
            """Distance to a half-circle of radius 2, which ends at the height of its centre."""
            across, high = (x - self.constant(f"centre {centre}", centre, x)).unbind(1)
            arc = (torch.hypot(across, high) - 2).abs()
            return torch.where(up * high >= 0, arc, torch.hypot(across.abs() - 2, high))

        return (away((1.0, 0.8), -1.0) < away((-1.0, -0.2), 1.0)).long()

    def noised(self, a: float, sigma: float) -> Mixture:
        return _moons().noised(a, sigma)


@lru_cache(maxsize=1)
def _spirals() -> tuple[np.ndarray, np.ndarray]:
    """Centres (2K, 2) of the boxes along both spirals, and their weights.

    Gauss–Legendre in the arc length s of c(t) = (−t cos t, t sin t)/3; the density of t is
    2t/9π², and dt = 3 ds/√(1 + t²).
    """
    fine = np.linspace(0, 3 * math.pi, 200_001)
    length = (fine * np.hypot(1, fine) + np.arcsinh(fine)) / 6
    s, weight = gauss_legendre(0, length[-1], 340)
    t = np.interp(s, length, fine)
    for _ in range(2):  # Newton: interpolation alone is right to 1e-9
        t -= ((t * np.hypot(1, t) + np.arcsinh(t)) / 6 - s) * 3 / np.hypot(1, t)
    weight = weight * 3 / np.hypot(1, t) * t / (9 * math.pi**2)
    strip = (np.stack([-t * np.cos(t), t * np.sin(t)], 1) + 0.25) / 3
    return np.concatenate([strip, -strip]), np.tile(weight, 2)


@lru_cache(maxsize=1)
def _near_spirals() -> NearBoxes:
    centres, weight = _spirals()
    return NearBoxes(NoisyBoxes(centres, 1 / 12, 0.1, weight), 4.8, 0.25)


class Spirals(Plane):
    """2spirals of FFJORD: a strip of width 1/6 along each of two spirals, plus noise.

    t = 3π√U, c = (−t cos t, t sin t), x = ±(c + U[0, ½]²)/3 + 0.1 ε.

    p(x) = ½ Σ± ∫ 2t/9π² B(x ∓ c(t)/3) dt with B the box of side 1/6 smeared by 0.1, a
    product of two differences of erf; the integral by Gauss–Legendre, to 1e-7.
    """

    name: ClassVar[str] = "spirals"
    about = "Two spirals wound into each other: a hard one."
    source = "2spirals of Grathwohl et al. 2019, FFJORD"
    place = 7
    known_entropy = 2.645450284
    extent = (-4.2, 4.2, -4.2, 4.2)
    parts = "arm"

    def _draw(self, n: int, rng: torch.Generator) -> Tensor:
        turn = 3 * math.pi * _rand(rng, n).sqrt()  # 540 degrees
        curve = torch.stack([-turn.cos() * turn, turn.sin() * turn], 1)
        strip = (curve + 0.5 * _rand(rng, n, 2)) / 3
        sign = 2.0 * _randint(rng, 2, n)[:, None] - 1
        return sign * strip + 0.1 * _randn(rng, n, 2)

    def _log_prob(self, x: Tensor) -> Tensor:
        return _near_spirals().log_prob(x)

    def classify(self, x: Tensor) -> Tensor:
        # on one arm the angle is π − 3|x|, on the other −3|x|
        return (torch.cos(torch.atan2(x[:, 1], x[:, 0]) + 3 * x.norm(dim=1)) > 0).long()

    def noised(self, a: float, sigma: float) -> NoisyBoxes:
        a, sigma = noise_scales(a, sigma)
        centres, weight = _spirals()
        return NoisyBoxes(a * centres, a / 12, math.hypot(0.1 * a, sigma), weight)


class Rings(Plane):
    """Four circles of equal weight, smeared by Gaussian noise; see `NoisyRings` for p."""

    name: ClassVar[str] = "rings"
    about = "Four circles, one inside the other."
    source = "radii 3, 2.25, 1.5, 0.75, σ 0.08, equal weights (after FFJORD's rings)"
    place = 8
    extent = (-4.0, 4.0, -4.0, 4.0)
    parts = "nearest circle"

    radii = (3.0, 2.25, 1.5, 0.75)
    width = 0.08

    def _draw(self, n: int, rng: torch.Generator) -> Tensor:
        radius = torch.tensor(self.radii, device=rng.device).double()[_randint(rng, 4, n)]
        angle = 2 * math.pi * _rand(rng, n)
        circle = radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
        return circle + self.width * _randn(rng, n, 2)

    def _log_prob(self, x: Tensor) -> Tensor:
        return NoisyRings(self.radii, self.width, [1 / 4] * 4).log_prob(x)

    def classify(self, x: Tensor) -> Tensor:
        return (x.norm(dim=1, keepdim=True) - self.constant("radii", self.radii, x)).abs().argmin(1)

    def noised(self, a: float, sigma: float) -> NoisyRings:
        a, sigma = noise_scales(a, sigma)
        radii = [a * radius for radius in self.radii]
        return NoisyRings(radii, math.hypot(a * self.width, sigma), [1 / 4] * 4)

    def _entropy(self) -> float:
        # round about 0, so one integral over the radius is enough
        r, weight = (torch.from_numpy(v) for v in gauss_legendre(0, 4.5, 500))
        log_p = self._log_prob(torch.stack([r, torch.zeros_like(r)], 1))
        return -float((2 * math.pi * r * weight * log_p.exp() * log_p).sum())


@lru_cache(maxsize=1)
def _swissroll() -> Mixture:
    """The roll as 240 Gaussians of σ 0.2, at Gauss–Legendre nodes in t², so evenly in length."""
    square, weight = gauss_legendre((1.5 * math.pi) ** 2, (4.5 * math.pi) ** 2, 240)
    t = np.sqrt(square)
    curve = np.stack([t * np.cos(t), t * np.sin(t)], 1) / 5
    return Mixture(curve, 0.2, weight / (2 * t) / (3 * math.pi))


class SwissRoll(Plane):
    """make_swiss_roll of scikit-learn, noise 1, axes 0 and 2, ÷ 5.

    t = 1.5π(1 + 2U), x = ((t cos t, t sin t) + ε)/5.

    p(x) = ∫ N(x; (t cos t, t sin t)/5, 0.2²) dt/3π, by Gauss–Legendre, to 1e-8.
    """

    name: ClassVar[str] = "swissroll"
    about = "One long strip, rolled up."
    source = "scikit-learn make_swiss_roll with noise 1, axes 0 and 2, ÷ 5"
    place = 10
    known_entropy = 2.669646174
    extent = (-4.2, 4.2, -4.2, 4.2)

    def _draw(self, n: int, rng: torch.Generator) -> Tensor:
        t = 1.5 * math.pi * (1 + 2 * _rand(rng, n))
        return (torch.stack([t * t.cos(), t * t.sin()], 1) + _randn(rng, n, 2)) / 5

    def _log_prob(self, x: Tensor) -> Tensor:
        return _swissroll().log_prob(x)

    def noised(self, a: float, sigma: float) -> Mixture:
        return _swissroll().noised(a, sigma)


class River(Plane):
    """exp(−U₃) of Rezende & Mohamed on |x₁| < 4: a stream that splits round an island.

    w₁ = sin(2πx₁/4), w₃ = 3 sigmoid((x₁ − 1)/0.3),
    p(x) = ⅛ · ½ [N(x₂; w₁, 0.35²) + N(x₂; w₁ − w₃, 0.35²)]: x₁ is uniform.
    """

    name: ClassVar[str] = "river"
    about = "A winding stream that splits round an island."
    source = "potential U₃ of Rezende & Mohamed 2015 on |x₁| < 4, σ 0.35"
    place = 11
    extent = (-4.6, 4.6, -6.0, 3.2)

    def _banks(self, x1: Tensor) -> tuple[Tensor, Tensor]:
        """Centres of the two streams at x₁."""
        upper = torch.sin(2 * math.pi * x1 / 4)
        return upper, upper - 3 * torch.sigmoid((x1 - 1) / 0.3)

    def _draw(self, n: int, rng: torch.Generator) -> Tensor:
        x1 = 8 * _rand(rng, n) - 4
        upper, lower = self._banks(x1)
        centre = torch.where(_randint(rng, 2, n).bool(), upper, lower)
        return torch.stack([x1, centre + 0.35 * _randn(rng, n)], 1)

    def _log_prob(self, x: Tensor) -> Tensor:
        banks = [((x[:, 1] - bank) / 0.35) ** 2 for bank in self._banks(x[:, 0])]
        inner = torch.logaddexp(-0.5 * banks[0], -0.5 * banks[1])
        inside = x[:, 0].abs() <= 4  # closed, since float32 may round onto the edge
        return torch.where(inside | x.isnan().any(1), inner, -math.inf) - (
            math.log(16 * 0.35) + 0.5 * LOG_2PI
        )

    def _entropy(self) -> float:
        # given x₁ it depends on the distance of the streams only: integrate over x₁ and x₂
        x1, w1 = (torch.from_numpy(v) for v in gauss_legendre(-4, 4, 200))
        x2 = torch.linspace(-8, 5, 801, dtype=torch.float64)
        log_p = self._log_prob(torch.cartesian_prod(x1, x2)).reshape(200, 801)
        return -float((w1 @ (log_p.exp() * log_p)).sum() * (x2[1] - x2[0]))
