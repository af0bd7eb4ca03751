"""MADE: one network that tells every coordinate's conditional from the coordinates before it."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.masked import FREE, degrees, masks, thinned, with_sines


class Made(nn.Module):
    """x (N, d) ↦ θ (N, d, P), row i of which depends on x_1 … x_{i−1} alone.

    Every hidden unit has a degree m and sees coordinates 1 … m; what is told of coordinate i
    comes from units of degree below i (Germain et al. 2015, MADE: Masked autoencoder for
    distribution estimation). θ_1 depends on nothing: it is P free numbers. In the plane there is
    one more conditional, every degree is 1, and no mask is needed.

    Args:
        first: (d, P), what θ is to begin with, whatever x.
        width, hidden: units in each hidden layer, and how many of these.
        waves, pitch: sines of every coordinate with random frequencies, and their spread in
            radians per unit of x; none for more than WAVY coordinates.
        drop: share of the hidden units that each training row is told without (Srivastava et al.
            2014, Dropout), for few rows.
    """

    WAVY = 8

    def __init__(
        self,
        first: Tensor,
        width: int,
        hidden: int,
        rng: torch.Generator,
        waves: int = 0,
        pitch: float = 1.0,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        device = rng.device
        self.dim, self.each = first.shape
        self.drop = drop
        self.register_buffer("begin", first[0].clone())
        self.free = nn.Parameter(torch.zeros_like(first[0]))
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        n_in = self.dim - 1  # nothing is told from the last coordinate
        if n_in == 0:
            return
        waves = waves if n_in < self.WAVY else 0
        frequency = pitch * torch.randn(n_in, waves, generator=rng, device=device)
        phase = torch.rand(n_in, waves, generator=rng, device=device) * (2 * math.pi)
        self.register_buffer("frequency", frequency)
        self.register_buffer("phase", phase)
        sizes = [n_in * (1 + waves), *[width] * hidden, n_in * self.each]
        for i, (a, b) in enumerate(itertools.pairwise(sizes)):
            # the last layer starts near zero: every conditional starts as the marginal's guess
            bound = (0.1 if i == hidden else math.sqrt(3)) / math.sqrt(a)
            w = torch.empty(a, b, device=device).uniform_(-bound, bound, generator=rng)
            c = torch.empty(b, device=device).uniform_(-bound, bound, generator=rng)
            self.weights.append(nn.Parameter(w))
            self.biases.append(nn.Parameter(c))
        with torch.no_grad():
            self.biases[-1].copy_(first[1:].flatten())
        self.masked = n_in > 1
        if self.masked:
            # what coordinate i + 1 is told has degree i, so that it sees x_1 … x_i
            told = torch.arange(1, n_in + 1).repeat_interleave(self.each)
            for i, mask in enumerate(masks(degrees(n_in, waves), width, hidden, told)):
                self.register_buffer(f"mask{i}", mask.to(device))

    def alone(self) -> Tensor:
        """θ_1 (P,), which nothing conditions."""
        return self.begin + FREE * self.free

    def _hidden(self, x: Tensor, rng: torch.Generator | None) -> Tensor:
        """The last hidden layer, (N, d) → (N, width)."""
        u = x[:, : self.dim - 1]
        if self.frequency.numel():
            u = with_sines(u, self.frequency, self.phase)
        for i in range(self._last):
            u = F.leaky_relu(torch.addmm(self.biases[i], u, self._weight(i)), 0.01)
            if rng is not None and self.drop > 0:
                u = thinned(u, self.drop, rng)
        return u

    def _weight(self, i: int) -> Tensor:
        return self.weights[i] * getattr(self, f"mask{i}") if self.masked else self.weights[i]

    @property
    def _last(self) -> int:
        return len(self.weights) - 1

    def rest(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """θ_2 … θ_d, (N, d) → (N, d − 1, P); with `rng` some of the hidden units are left out."""
        out = torch.addmm(self.biases[-1], self._hidden(x, rng), self._weight(self._last))
        return out.view(len(x), -1, self.each)

    def forward(self, x: Tensor) -> Tensor:
        """θ (N, d, P)."""
        alone = self.alone().expand(len(x), 1, -1)
        return alone if self.dim == 1 else torch.cat([alone, self.rest(x)], 1)

    def column(self, x: Tensor, i: int) -> Tensor:
        """θ_{i+1} alone, (N, P), i from 0: only the i columns of x before it are looked at."""
        if i == 0:
            return self.alone().expand(len(x), -1)
        part = slice((i - 1) * self.each, i * self.each)
        w = self._weight(self._last)[:, part]
        return torch.addmm(self.biases[-1][part], self._hidden(x, None), w)
