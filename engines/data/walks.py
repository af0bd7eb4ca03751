"""Sequences: a noisy walk in the plane that spirals outwards onto a circle."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from engines.data.base import Dataset, Split
from engines.knobs import knob

RADIUS = 2.6  # of the circle that the walk ends on
GROWTH = 0.12  # share by which a small spiral grows in a step
START = (0.5, 0.0)
SPREAD = 0.1  # standard deviation of the first place, each coordinate


class Walk(Dataset):
    """A Markov chain x_1 … x_T in the plane, a row being (x_1, x_2, …) laid flat.

        x_1 ~ N(a, s² I),   x_{t+1} = f(x_t) + σ ε_t,   ε_t ~ N(0, I)
        f(x) = (1 + g (1 − |x|²/R²)) · rotation(ω) x

    f is one step of the normal form of a Hopf bifurcation (Strogatz 2015, Nonlinear dynamics and
    chaos, section 8.2): it turns by ω radians, grows near the centre and settles at radius R.
    Across the circle errors shrink by 1 − 2g a step; along it nothing takes them back.
    """

    name: ClassVar[str] = "walk"
    about = "A noisy spiral walk: sequences of points, each from the one before."
    source = "Own: Hopf normal form in steps, growth 0.12, radius 2.6, from N((0.5, 0), 0.1² I)"
    place = 19.5
    kind = "sequence"
    shape = (32, 2)
    extent = (-3.6, 3.6, -3.6, 3.6)
    sizes: ClassVar = (8192, 500, 2000)  # walks are learnt from few: each is many steps

    noise: float = knob(
        0.06, 0.01, 0.3, log=True, help="Standard deviation of each step, each coordinate."
    )
    turn: float = knob(0.35, 0.1, 1.0, help="Radians that a step turns round the centre.")
    length: int = knob(32, 16, 64, help="Points in a walk.")

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.shape = (self.length, 2)

    def follow(self, x: Tensor) -> Tensor:
        """f, where the next point lies on average: (…, 2) → (…, 2)."""
        c, s = math.cos(self.turn), math.sin(self.turn)
        turned = torch.stack([c * x[..., 0] - s * x[..., 1], s * x[..., 0] + c * x[..., 1]], -1)
        return turned * (1 + GROWTH * (1 - x.square().sum(-1, keepdim=True) / RADIUS**2))

    def log_step(self, x: Tensor, after: Tensor) -> Tensor:
        """log N(after; f(x), σ² I) in nats, (…, 2) and (…, 2) → (…)."""
        return _log_normal(after - self.follow(x), self.noise)

    def sample(self, n: int, generator: torch.Generator, split: Split = "train") -> Tensor:
        noise = torch.randn(self.length, n, 2, generator=generator, device=generator.device)
        x = SPREAD * noise[0] + torch.tensor(START, device=generator.device)
        walk = [x]
        for step in noise[1:]:
            x = self.follow(x) + self.noise * step
            walk.append(x)
        return torch.stack(walk, 1).flatten(1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of whole walks in nats, (N, 2T) → (N,)."""
        walk = x.double().view(len(x), -1, 2)
        start = torch.tensor(START, dtype=walk.dtype, device=x.device)
        steps = self.log_step(walk[:, :-1], walk[:, 1:]).sum(1)
        return (_log_normal(walk[:, 0] - start, SPREAD) + steps).to(x.dtype)

    @property
    def entropy(self) -> float:
        """−∫ p log p in nats: every step adds the entropy of its noise, whatever f is."""
        one = math.log(2 * math.pi * math.e)
        return self.length * one + 2 * (math.log(SPREAD) + (self.length - 1) * math.log(self.noise))


def _log_normal(gap: Tensor, sigma: float) -> Tensor:
    """log N(gap; 0, σ² I) over the last axis of 2."""
    return -gap.square().sum(-1) / (2 * sigma**2) - math.log(2 * math.pi) - 2 * math.log(sigma)
