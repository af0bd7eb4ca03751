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

from engines.data.base import Dataset, Modes, Split
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
from engines.knobs import knob


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


# ---------------------------------------------------------------- Gaussian mixtures


class GaussianMixture(Plane):
    """Isotropic Gaussians; subclasses call `_set` in __init__."""

    centres: Tensor  # (K, 2)
    sigma: Tensor  # (K,)
    weights: Tensor  # (K,), sum to 1

    def _set(self, centres: Any, sigma: Any, weights: Any = None) -> None:
        weights = [1 / len(centres)] * len(centres) if weights is None else weights
        self.mixture = Mixture(centres, sigma, weights)
        self.centres, self.sigma = self.mixture.centres, self.mixture.sigma
        self.weights = self.mixture.weights

    @property
    def modes(self) -> Modes:
        return Modes(self.centres.float(), self.sigma.float(), self.weights.float())

    def _draw(self, n: int, rng: torch.Generator) -> Tensor:
        index = torch.multinomial(self.weights.to(rng.device), n, True, generator=rng)
        centres, sigma = self.centres.to(rng.device), self.sigma.to(rng.device)
        return centres[index] + sigma[index, None] * _randn(rng, n, 2)

    def _log_prob(self, x: Tensor) -> Tensor:
        return self.mixture.log_prob(x)

    def noised(self, a: float, sigma: float) -> Mixture:
        """The mixture of a·x + σε, exactly."""
        return self.mixture.noised(a, sigma)

    def _apart_entropy(self) -> float:
        """Of Gaussians too far apart to overlap: E log 1/wₖ + E log 2πeσₖ²."""
        parts = self.weights * (2 * self.sigma.log() + LOG_2PI + 1 - self.weights.log())
        return float(parts.sum())


def _ring(radius: float) -> Tensor:
    """(8, 2) points on a circle at angles kπ/4, from 0."""
    angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    return radius * torch.stack([angle.cos(), angle.sin()], 1)


class Ring8(GaussianMixture):
    name: ClassVar[str] = "ring8"
    about = "Eight sharp Gaussians on a circle: the classic test for lost modes."
    source = "8 Gaussians, radius 2, σ 0.02 (Metz et al. 2017, Unrolled GANs)"
    place = 1
    extent = (-3.0, 3.0, -3.0, 3.0)

    def __init__(self) -> None:
        super().__init__()
        self._set(_ring(2.0), 0.02)

    def _entropy(self) -> float:
        return self._apart_entropy()


class Ring8Soft(GaussianMixture):
    name: ClassVar[str] = "ring8soft"
    about = "Eight softer Gaussians on a circle that almost touch."
    source = "8 Gaussians, radius 4/√2, σ 0.5/√2 (Grathwohl et al. 2019, FFJORD, 8gaussians)"
    place = 2
    known_entropy = 2.831578361
    extent = (-5.0, 5.0, -5.0, 5.0)

    def __init__(self) -> None:
        super().__init__()
        self._set(_ring(4 / math.sqrt(2)), 0.5 / math.sqrt(2))


class Grid25(GaussianMixture):
    name: ClassVar[str] = "grid25"
    about = "Twenty-five sharp Gaussians on a square grid."
    source = "25 Gaussians at {−4, −2, 0, 2, 4}², σ 0.05 (after Dumoulin et al. 2017, ALI)"
    place = 3
    extent = (-5.0, 5.0, -5.0, 5.0)

    def __init__(self) -> None:
        super().__init__()
        side = torch.tensor([-4.0, -2.0, 0.0, 2.0, 4.0])
        self._set(torch.cartesian_prod(side, side), 0.05)

    def _entropy(self) -> float:
        return self._apart_entropy()


class Unbalanced(GaussianMixture):
    name: ClassVar[str] = "unbalanced"
    about = "Eight Gaussians on a circle, from heavy to rare: does the model keep the rare ones?"
    source = "ring of radius 2, σ 0.1, weights .35 .25 .15 .10 .07 .05 .02 .01 from angle 0"
    place = 4
    extent = (-3.0, 3.0, -3.0, 3.0)

    def __init__(self) -> None:
        super().__init__()
        self._set(_ring(2.0), 0.1, [0.35, 0.25, 0.15, 0.10, 0.07, 0.05, 0.02, 0.01])

    def _entropy(self) -> float:
        return self._apart_entropy()


# ---------------------------------------------------------------- shapes


class Checkerboard(Plane):
    """Uniform on the 8 squares of side 2 in [−4, 4]² where ⌊x₁/2⌋ + ⌊x₂/2⌋ is even."""

    name: ClassVar[str] = "checkerboard"
    about = "Uniform on the dark squares of a board: sharp edges are hard to learn."
    source = "8 squares of side 2 in [−4, 4]² (after Grathwohl et al. 2019, FFJORD)"
    place = 5
    extent = (-4.5, 4.5, -4.5, 4.5)

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

    def _draw(self, n: int, rng: torch.Generator) -> Tensor:
        angle, lower = math.pi * _rand(rng, n), _randint(rng, 2, n).bool()
        x = torch.where(lower, 1 - angle.cos(), angle.cos())
        y = torch.where(lower, 0.5 - angle.sin(), angle.sin())
        moons = torch.stack([x, y], 1) + 0.1 * _randn(rng, n, 2)
        return 2 * moons + torch.tensor([-1.0, -0.2], device=rng.device).double()

    def _log_prob(self, x: Tensor) -> Tensor:
        return _moons().log_prob(x)

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

    def _draw(self, n: int, rng: torch.Generator) -> Tensor:
        turn = 3 * math.pi * _rand(rng, n).sqrt()  # 540 degrees
        curve = torch.stack([-turn.cos() * turn, turn.sin() * turn], 1)
        strip = (curve + 0.5 * _rand(rng, n, 2)) / 3
        sign = 2.0 * _randint(rng, 2, n)[:, None] - 1
        return sign * strip + 0.1 * _randn(rng, n, 2)

    def _log_prob(self, x: Tensor) -> Tensor:
        return _near_spirals().log_prob(x)

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

    radii = (3.0, 2.25, 1.5, 0.75)
    width = 0.08

    def _draw(self, n: int, rng: torch.Generator) -> Tensor:
        radius = torch.tensor(self.radii, device=rng.device).double()[_randint(rng, 4, n)]
        angle = 2 * math.pi * _rand(rng, n)
        circle = radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
        return circle + self.width * _randn(rng, n, 2)

    def _log_prob(self, x: Tensor) -> Tensor:
        return NoisyRings(self.radii, self.width, [1 / 4] * 4).log_prob(x)

    def noised(self, a: float, sigma: float) -> NoisyRings:
        a, sigma = noise_scales(a, sigma)
        radii = [a * radius for radius in self.radii]
        return NoisyRings(radii, math.hypot(a * self.width, sigma), [1 / 4] * 4)

    def _entropy(self) -> float:
        # round about 0, so one integral over the radius is enough
        r, weight = (torch.from_numpy(v) for v in gauss_legendre(0, 4.5, 500))
        log_p = self._log_prob(torch.stack([r, torch.zeros_like(r)], 1))
        return -float((2 * math.pi * r * weight * log_p.exp() * log_p).sum())


def _winding(phi: Tensor, rho: Tensor) -> Tensor:
    """G(φ) = φ − ¼ e^{ρ cos φ}."""
    return phi - 0.25 * (rho * phi.cos()).exp()


def _monotone_arcs(rho: Tensor) -> tuple[Tensor, Tensor]:
    """Ends (2N,) of the arcs where G rises (first N), and where it falls (last N).

    G′ = 1 + ¼ρ sin φ e^{ρ cos φ} has its minimum at cos φ = (√(1 + 4ρ²) − 1)/2ρ, φ < 0,
    and rises to either side of it. Where the minimum is positive, the arc of falling is empty.
    """

    def slope(phi: Tensor) -> Tensor:
        return 1 + 0.25 * rho * phi.sin() * (rho * phi.cos()).exp()

    steepest = -torch.acos(2 * rho / (1 + (1 + 4 * rho**2).sqrt()))
    falls = slope(steepest) < 0
    begin, end = torch.full_like(rho, -math.pi), torch.full_like(rho, -math.pi)
    if bool(falls.any()):
        bottom = steepest[falls]
        rho = rho[falls]
        for side, edge in ((begin, -math.pi), (end, 0.0)):
            positive, negative = torch.full_like(bottom, edge), bottom
            for _ in range(52):
                middle = (positive + negative) / 2
                up = slope(middle) > 0
                positive = torch.where(up, middle, positive)
                negative = torch.where(up, negative, middle)
            side[falls] = (positive + negative) / 2
    # falling from begin to end; rising from end on to begin, once round
    return torch.cat([end, begin]), torch.cat([begin + 2 * math.pi, end])


def _solve_winding(
    target: Tensor, rho: Tensor, low: Tensor, high: Tensor, rises: Tensor, arc: Tensor
) -> Tensor:
    """φ in [low, high] with G(φ) = target, where G is monotone: Newton within a bracket."""
    sign = torch.where(rises[arc], 1.0, -1.0).double()
    out = torch.empty_like(target)
    left = torch.arange(len(target), device=target.device)
    phi = (low + high) / 2
    step = high - low
    while len(left):
        for _ in range(5):  # then those that are done drop out
            wave = 0.25 * (rho * phi.cos()).exp()
            gap = sign * (phi - wave - target)
            below = gap < 0
            low, high = torch.where(below, phi, low), torch.where(below, high, phi)
            move = -sign * gap / (1 + rho * phi.sin() * wave)
            new = phi + move
            # a step that leaves the bracket, or shrinks too little, gives way to halving
            inside = (new > low - 1e-12) & (new < high + 1e-12)  # 1e-12: rounding
            newton = inside & (move.abs() <= (step.abs() / 2).clamp_min(1e-12))
            new = torch.where(newton, new, (low + high) / 2)
            step, phi = new - phi, new
        # Newton's error is about the square of its last step
        size = step.abs()
        done = (newton & (size < 1e-8)) | (size < 1e-14) | (high - low < 1e-14)
        out[left[done]] = phi[done]
        keep = ~done
        left, target, rho, sign = left[keep], target[keep], rho[keep], sign[keep]
        low, high, step, phi = low[keep], high[keep], step[keep], phi[keep]
    return out


class Pinwheel(Plane):
    """Five arms that curl: f = (1 + 0.3ε, 0.1ε′), a = 2πk/5 + ¼e^{f₀}, x = 2 R(−a) f.

    Turning keeps lengths: |x| = 2|f|. So with ρ = |x|/2 and f = ρ(cos φ, sin φ), the arm k
    and f that lead to x are the solutions φ of

        G(φ) = φ − ¼ e^{ρ cos φ} ≡ arg x  (mod 2π/5),

    and p(x) = Σ_φ p(f) / (5 · 4 · |G′(φ)|). G rises except between two angles that a
    bisection finds, so each arc between them is monotone and no solution is missed; each
    is solved by a bracketed Newton iteration to rounding. Beyond |x| = 10, where
    log p < −80 and the arms have wound up more than sixtyfold, p is averaged over arg x.
    Where an arm folds onto itself, 5.9 standard deviations out, p has an integrable pole;
    it is cut off at |G′| = 1e-12.
    """

    name: ClassVar[str] = "pinwheel"
    about = "Five arms that curl."
    source = "5 arms, spreads 0.3 and 0.1, rate 0.25, × 2 (Johnson et al. 2016; FFJORD)"
    place = 9
    known_entropy = 2.31778801
    extent = (-5.0, 5.0, -5.0, 5.0)

    def _draw(self, n: int, rng: torch.Generator) -> Tensor:
        noise = _randn(rng, n, 2)
        f0, f1 = 1 + 0.3 * noise[:, 0], 0.1 * noise[:, 1]
        a = (2 * math.pi / 5) * _randint(rng, 5, n) + 0.25 * f0.exp()
        return 2 * torch.stack([f0 * a.cos() + f1 * a.sin(), -f0 * a.sin() + f1 * a.cos()], 1)

    def _log_prob(self, x: Tensor) -> Tensor:
        rho = x.norm(dim=1) / 2
        out = torch.full_like(rho, math.nan)
        near, far = rho <= 5, rho > 5
        for index in near.nonzero()[:, 0].split(4_000):
            out[index] = self._wound(rho[index], torch.atan2(x[index, 1], x[index, 0]))
        out[far] = self._mean(rho[far])
        return out - math.log(4)

    @staticmethod
    def _log_f(f0: Tensor, f1: Tensor) -> Tensor:
        return -0.5 * ((f0 - 1) / 0.3) ** 2 - 0.5 * (f1 / 0.1) ** 2 - LOG_2PI - math.log(0.03)

    def _mean(self, rho: Tensor) -> Tensor:
        """log of p averaged over the circle of radius ρ: ∫ p(f) df₁ / 2π f₀."""
        f1, weight = (torch.from_numpy(v).to(rho.device) for v in gauss_legendre(-1, 1, 64))
        f0 = (rho[:, None] ** 2 - f1**2).sqrt()
        return (self._log_f(f0, f1) - f0.log() + weight.log()).logsumexp(1) - LOG_2PI

    def _wound(self, rho: Tensor, angle: Tensor) -> Tensor:
        """log of p at radius ρ and angle: the sum over all solutions φ."""
        low, high = _monotone_arcs(rho)
        arc_rho = torch.cat([rho, rho])
        step = 2 * math.pi / 5
        # which multiples of 2π/5 each arc passes, and so the brackets of all solutions
        ends = torch.stack([_winding(low, arc_rho), _winding(high, arc_rho)])
        first = ((ends.amin(0) - angle.repeat(2)) / step).ceil()
        count = (((ends.amax(0) - angle.repeat(2)) / step).ceil() - first).long().clamp_min(0)
        arc = torch.repeat_interleave(torch.arange(len(count), device=rho.device), count)
        nth = torch.arange(len(arc), device=rho.device) - (count.cumsum(0) - count)[arc]
        point = arc % len(rho)
        target = angle[point] + step * (first[arc] + nth)
        phi = _solve_winding(target, arc_rho[arc], low[arc], high[arc], ends[0] < ends[1], arc)
        # sum over the solutions of each point, in logarithms
        r = rho[point]
        f0, f1 = r * phi.cos(), r * phi.sin()
        slope = (1 + 0.25 * f0.exp() * f1).abs().clamp_min(1e-12)
        part = self._log_f(f0, f1) - slope.log() - math.log(5)
        top = torch.full_like(rho, -math.inf).scatter_reduce(0, point, part, "amax")
        return top + torch.zeros_like(rho).index_add(0, point, (part - top[point]).exp()).log()


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


class TwoGaussians(GaussianMixture):
    name: ClassVar[str] = "two_gaussians"
    about = "Two Gaussians; set their distance, widths and weight yourself."
    source = "centres (∓distance/2, 0)"
    place = 12

    distance: float = knob(4.0, 0.0, 8.0, help="Distance between the two centres.")
    width_left: float = knob(0.5, 0.05, 1.5, log=True, help="Standard deviation of the left one.")
    width_right: float = knob(0.5, 0.05, 1.5, log=True, help="Standard deviation of the right one.")
    weight: float = knob(0.5, 0.01, 0.99, help="Share of the data that is in the left one.")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        half = self.distance / 2
        self._set(
            [[-half, 0.0], [half, 0.0]],
            [self.width_left, self.width_right],
            [self.weight, 1 - self.weight],
        )
        reach = half + 5 * max(self.width_left, self.width_right)
        self.extent = (-reach, reach, -reach, reach)

    def _entropy(self) -> float:
        # Gauss–Legendre on panels laid out around both centres, each as fine as its Gaussian
        reach = torch.tensor([0.0, 1, 2, 3, 4, 5, 6.5, 8.5]).double()
        sigma = self.sigma[:, None]
        across = torch.cat(
            [self.centres[:, :1] + sigma * reach, self.centres[:, :1] - sigma * reach]
        )
        x, wx = _panels(across.reshape(-1))
        y, wy = _panels((sigma * reach).reshape(-1))  # the upper half: it is symmetric
        log_p = self._log_prob(torch.cartesian_prod(x, y)).reshape(len(x), len(y))
        return -2 * float(wx @ (log_p.exp() * log_p) @ wy)


def _panels(edges: Tensor, n: int = 10) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss–Legendre with n points between each two edges."""
    edges = edges.unique()
    node, weight = (torch.from_numpy(v) for v in gauss_legendre(0, 1, n))
    width = edges.diff()[:, None]
    return (edges[:-1, None] + width * node).reshape(-1), (width * weight).reshape(-1)
