"""What coupling and autoregressive layers share: the networks that tell each layer how to
bend, and the linear maps that mix coordinates between layers.

All weights are stacked along a leading axis of length L, one entry a layer, so that the
optimiser and the weight average see a handful of tensors instead of a hundred.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.masked import FREE, degrees, masks, thinned, with_sines


class Network:
    """One layer's network: waves, hidden layers of leaky ReLU, a linear layer.

    Args:
        waves: frequencies and phases (n, w) each, or None.
        parts: weights (n_in, n_out) and biases (n_out,), masked already.
        first: numbers of a first coordinate that nothing conditions, or None.
        each: P, how many numbers every coordinate gets.
        drop: share of the hidden units that is left out of each row, and the generator that
            says which; or None.
    """

    def __init__(
        self,
        waves: tuple[Tensor, Tensor] | None,
        parts: list[tuple[Tensor, Tensor]],
        first: Tensor | None,
        each: int,
        drop: tuple[float, torch.Generator] | None = None,
    ) -> None:
        self.waves, self.parts, self.first, self.each = waves, parts, first, each
        self.drop = drop

    def _hidden(self, u: Tensor) -> Tensor:
        if self.waves is not None:
            u = with_sines(u, *self.waves)
        for w, b in self.parts[:-1]:
            u = F.leaky_relu_(torch.addmm(b, u, w), 0.01)
            if self.drop is not None:
                u = thinned(u, *self.drop)
        return u

    def __call__(self, u: Tensor) -> Tensor:
        """(N, n) → (N, d, P)."""
        w, b = self.parts[-1]
        out = torch.addmm(b, self._hidden(u), w)
        if self.first is not None:
            out = torch.cat([self.first.expand(len(u), -1), out], 1)
        return out.view(len(u), -1, self.each)

    def column(self, u: Tensor, i: int) -> Tensor:
        """What coordinate i gets alone, (N, n) → (N, P)."""
        if self.first is not None:
            if i == 0:
                return self.first.expand(len(u), -1)
            i -= 1
        w, b = self.parts[-1]
        part = slice(i * self.each, (i + 1) * self.each)
        return torch.addmm(b[part], self._hidden(u), w[:, part])


class Conditioner(nn.Module):
    """L networks n → d × P.

    Args:
        n_in, n_out: coordinates that are seen, and that get numbers.
        each: P, numbers for each of the latter.
        masked: coordinate i sees only those before it (MADE: Germain et al. 2015). Of two
            coordinates only the second sees anything, and no mask is needed.
        waves: sines of every input with random frequencies, so that sharp edges can be
            learnt (Tancik et al. 2020); none for more than `WAVY` inputs.
        pitch: spread of the frequencies, in radians per standard deviation of the data.
        free: of two coordinates, how many numbers the first gets, which nothing conditions;
            P unless told.
        gain: first weights and biases of hidden layers are U(−gain/√n_in, gain/√n_in).
        drop: share of the hidden units that is left out of each row in training (Srivastava et
            al. 2014, Dropout), while `dropping` is the generator that says which.
    """

    dropping: torch.Generator | None = None

    WAVY = 8

    def __init__(
        self,
        layers: int,
        n_in: int,
        n_out: int,
        each: int,
        width: int,
        hidden: int,
        rng: torch.Generator,
        masked: bool = False,
        waves: int = 0,
        pitch: float = 1.0,
        free: int | None = None,
        gain: float = math.sqrt(3),
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        dev, self.drop = rng.device, drop
        self.each, self.alone = each, masked and n_in == 2
        self.free = (each if free is None else free) if self.alone else 0
        if self.alone:
            n_in, n_out = 1, 1
        if self.free:
            self.first = nn.Parameter(torch.zeros(layers, self.free, device=dev))
        waves = waves if n_in <= self.WAVY else 0
        self.wavy = waves > 0
        if self.wavy:
            frequency = pitch * torch.randn(layers, n_in, waves, generator=rng, device=dev)
            phase = torch.rand(layers, n_in, waves, generator=rng, device=dev) * 2 * math.pi
            self.register_buffer("frequency", frequency)
            self.register_buffer("phase", phase)
        sizes = [n_in * (1 + waves), *[width] * hidden, n_out * each]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for i, (a, b) in enumerate(itertools.pairwise(sizes)):
            # the last layer starts near zero, so that every layer starts near the identity
            most = (0.01 if i == hidden else gain) / math.sqrt(a)
            w = torch.empty(layers, a, b, device=dev).uniform_(-most, most, generator=rng)
            self.weights.append(nn.Parameter(w))
            c = torch.empty(layers, b, device=dev).uniform_(-most, most, generator=rng)
            self.biases.append(nn.Parameter(c))
        self.masked = masked and not self.alone
        if self.masked:
            # a coordinate's numbers see those before it, the first one's nothing
            told = torch.arange(n_in).repeat_interleave(each)
            parts = masks(degrees(n_in, waves), width, hidden, told)
            for i, mask in enumerate(parts):
                self.register_buffer(f"mask{i}", mask.to(dev))

    def networks(self) -> list[Network]:
        """The L networks, in order."""
        weights = list(self.weights)
        if self.masked:
            weights = [w * getattr(self, f"mask{i}") for i, w in enumerate(weights)]
        parts = list(zip(*(zip(w.unbind(0), b.unbind(0)) for w, b in zip(weights, self.biases))))
        n = len(parts)
        first = (FREE * self.first).unbind(0) if self.free else [None] * n
        waves = list(zip(self.frequency, self.phase)) if self.wavy else [None] * n
        drop = (self.drop, self.dropping) if self.dropping is not None and self.drop else None
        return [Network(a, list(p), f, self.each, drop) for a, p, f in zip(waves, parts, first)]


class Mixing(nn.Module):
    """L invertible linear maps y = x A + c that learn.

    A = P·(I + lower)·(upper + diag ±eᵃ) as in Glow (Kingma & Dhariwal 2018), so that
    log|det A| = Σ a and A cannot become singular; the permutation P and the signs are fixed.

    Args:
        start: (L, d, d) first matrices.
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        swap, lower, upper = torch.linalg.lu(start.double())
        diagonal = upper.diagonal(dim1=1, dim2=2)
        layers, dim = start.shape[:2]
        self.shift = nn.Parameter(torch.zeros(layers, dim, device=start.device))
        self.lower = nn.Parameter(lower.tril(-1).float())
        self.upper = nn.Parameter(upper.triu(1).float())
        self.log_diagonal = nn.Parameter(diagonal.abs().log().float())
        self.register_buffer("swap", swap.float())
        self.register_buffer("sign", diagonal.sign().float())
        self.register_buffer("eye", torch.eye(dim, device=start.device))

    def matrices(self) -> Tensor:
        """A, (L, d, d)."""
        lower = self.lower.tril(-1) + self.eye
        upper = self.upper.triu(1) + torch.diag_embed(self.sign * self.log_diagonal.exp())
        return self.swap @ (lower @ upper)

    def maps(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """A (d, d), c (d,) and log|det A| of every layer."""
        log_dets = self.log_diagonal.sum(1)
        return list(zip(self.matrices().unbind(0), self.shift.unbind(0), log_dets.unbind(0)))


class Order(nn.Module):
    """L fixed orders of the coordinates, as maps of determinant ±1; the first may stretch, too.

    Args:
        start: (L, d, d) matrices of the orders.
        stretch: s, which the first one is multiplied by, and log|det A| = d log s.
    """

    def __init__(self, start: Tensor, stretch: float = 1.0) -> None:
        super().__init__()
        layers, dim = start.shape[:2]
        scale = torch.ones(layers, device=start.device)
        scale[0] = stretch
        self.register_buffer("matrix", scale[:, None, None] * start)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros(layers, dim, device=start.device))

    def maps(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """A (d, d), c = 0 (d,) and log|det A| of every layer."""
        log_dets = self.zero.shape[1] * self.scale.log()
        return list(zip(self.matrix.unbind(0), self.zero.unbind(0), log_dets.unbind(0)))


def swaps(dim: int, layers: int, rng: torch.Generator) -> Tensor:
    """First matrices (L, d, d) for couplings: nothing, then the halves change places.

    By quarter turns of one half into the other, (u, v) → (−v, u): in the plane these keep the
    orientation, and an odd coordinate in the middle stays where it is.
    """
    half, turn = dim // 2, torch.eye(dim, device=rng.device)
    i = torch.arange(half)
    j = i + dim - half
    turn[i, i] = turn[j, j] = 0.0
    turn[i, j], turn[j, i] = 1.0, -1.0
    return torch.stack([torch.eye(dim, device=rng.device), *[turn] * (layers - 1)])


def reversals(dim: int, layers: int, rng: torch.Generator) -> Tensor:
    """First matrices (L, d, d) for autoregressive layers: nothing, then the order reversed.

    In the plane by a quarter turn, (x₁, x₂) → (−x₂, x₁), which keeps its orientation.
    """
    eye = torch.eye(dim, device=rng.device)
    flip = eye.flip(1)
    if dim == 2:
        flip[1, 0] = -1.0
    return torch.stack([eye, *[flip] * (layers - 1)])
