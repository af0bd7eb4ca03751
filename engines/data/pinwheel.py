"""The pinwheel, whose density is a sum over the points that its twist takes to one place."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from engines.data.exact import LOG_2PI, gauss_legendre
from engines.data.plane import Plane, _randint, _randn


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
    parts = "arm"

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

    def classify(self, x: Tensor) -> Tensor:
        # on the middle of an arm |x| = 2 f₀, and the angle is −a
        twist = 0.25 * (x.norm(dim=1) / 2).clamp_max(10).exp()
        turn = -(torch.atan2(x[:, 1], x[:, 0]) + twist) / (2 * math.pi / 5)
        return turn.round().long() % 5

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
