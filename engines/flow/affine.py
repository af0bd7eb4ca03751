"""Affine couplings: RealNVP, and Glow, which normalises what enters each of them.

z = (u, v · exp s(u) + t(u)),    log|det ∂z/∂x| = Σ s(u)
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.flow.conditioner import Conditioner, Mixing

REACH, TOGETHER = 2.0, 12.0


def reach(layers: int) -> float:
    """How large the log-scale of each of so many affine layers may become.

    Never more than REACH, so that no single layer can blow up; and all of them together no
    more than TOGETHER: on sharp data a deep flow jumps when every layer may stretch so much.
    """
    return min(REACH, TOGETHER / layers)


class Coupling:
    """Linear mixing, then an affine coupling (Dinh, Sohl-Dickstein & Bengio 2017, eq. 7–8).

        (u, v) = x A + c
        z = (u, v · exp s(u) + t(u)),    log|det ∂z/∂x| = log|det A| + Σ s(u)

    u passes unchanged, so s and t can be worked out again from z and undone; they come from
    one network of u. |s| < `most`, see `reach`.

    Args:
        matrix, shift: A (d, d) and c (d,).
        log_det: log|det A|, 0-d.
        network: weights (n_in, n_out) and biases (n_out,) of the layers of s and t.
        most: the limit of |s|.
    """

    def __init__(
        self,
        matrix: Tensor,
        shift: Tensor,
        log_det: Tensor,
        network: list[tuple[Tensor, Tensor]],
        most: float = REACH,
    ) -> None:
        self.matrix, self.shift, self.log_det = matrix, shift, log_det
        self.network, self.most = network, most
        dim = len(shift)
        self.parts = (dim // 2, dim - dim // 2)  # numbers in u and in v

    def _scale_shift(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """s(u) and t(u), each (N, d₂)."""
        *hidden, (weight, bias) = self.network
        for w, b in hidden:
            u = F.leaky_relu_(torch.addmm(b, u, w))
        s, t = torch.addmm(bias, u, weight).split(self.parts[1], 1)
        return self.most * torch.tanh(s / self.most), t

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, d) → (N, d) and log|det| (N,)."""
        u, v = torch.addmm(self.shift, x, self.matrix).split(self.parts, 1)
        s, t = self._scale_shift(u)
        return torch.cat([u, torch.addcmul(t, v, s.exp())], 1), s.sum(1) + self.log_det

    def inverse(self, z: Tensor) -> Tensor:
        """The x for which forward(x) is z, (N, d) → (N, d)."""
        u, v = z.split(self.parts, 1)
        s, t = self._scale_shift(u)
        mixed = torch.cat([u, (v - t) * (-s).exp()], 1)
        return (mixed - self.shift) @ torch.linalg.inv(self.matrix)


class RealNVP(nn.Module):
    """L couplings (Dinh, Sohl-Dickstein & Bengio 2017).

    Args:
        mixing: "linear" learns A, "swap" keeps it exchanging the two halves (up to a sign).
    """

    def __init__(
        self,
        dim: int,
        layers: int,
        width: int,
        hidden: int,
        rng: torch.Generator,
        mixing: str = "linear",
    ) -> None:
        super().__init__()
        half = dim // 2
        # s and t of each coordinate of the second half
        self.conditioner = Conditioner(layers, half, dim - half, 2, width, hidden, rng, gain=1.0)
        start = turns(dim, layers, 0.25 if mixing == "swap" else None, rng.device)
        self.mixing = Mixing(start).requires_grad_(mixing == "linear")

    def maps(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of the linear map before each coupling: matrix (d, d), shift (d,), log|det|."""
        return self.mixing.maps()

    def layers(self) -> list[Coupling]:
        """The couplings in the order from data to noise."""
        networks = self.conditioner.networks()
        most = reach(len(networks))
        pairs = zip(self.maps(), networks)
        return [Coupling(*maps, network.parts, most) for maps, network in pairs]


class Glow(RealNVP):
    """RealNVP with an actnorm before each linear map (Kingma & Dhariwal 2018).

        y = b + x · exp a,    log|det ∂y/∂x| = Σ a

    Its first values make mean 0 and variance 1 of what the first rows become at its place.
    Being linear, it is multiplied into the map: y A = x (exp(a) ∘ A) + b A.
    """

    def __init__(
        self, dim: int, layers: int, width: int, hidden: int, rng: torch.Generator
    ) -> None:
        super().__init__(dim, layers, width, hidden, rng)
        self.log_scale = nn.Parameter(torch.zeros(layers, dim, device=rng.device))
        self.bias = nn.Parameter(torch.zeros(layers, dim, device=rng.device))
        self.mixing.shift.requires_grad_(False)  # the bias does the same

    @torch.no_grad()
    def prepare(self, x: Tensor) -> None:
        """Set every actnorm by rows x (N, d), each after those before it."""
        for i in range(len(self.bias)):
            std, mean = torch.std_mean(x, 0)
            self.log_scale[i] = -std.clamp_min(1e-3).log()
            self.bias[i] = -mean * self.log_scale[i].exp()
            x, _ = self.layers()[i].forward(x)

    def maps(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        maps = zip(super().maps(), self.log_scale, self.bias)
        return [(a.exp()[:, None] * m, b @ m + c, d + a.sum()) for (m, c, d), a, b in maps]


def turns(dim: int, layers: int, turn: float | None, device: torch.device) -> Tensor:
    """First matrices (L, d, d): rotations of one half into the other.

    By `turn` of a full turn; else by about a sixth each and by whole turns in all, so that
    the picture of the layers starts without a twist, and couplings act in three directions.
    """
    if turn is None:
        turn = max(1, round(layers / 6)) / layers if layers > 2 else 0.125
    half = dim // 2
    a = torch.eye(dim, device=device)
    c, s = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    i = torch.arange(half)
    j = i + dim - half
    a[i, i] = a[j, j] = c
    a[i, j], a[j, i] = s, -s
    return a.repeat(layers, 1, 1)
