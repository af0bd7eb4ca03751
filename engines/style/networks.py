"""The style-based generator: a mapping z → w, and layers whose weights w scales."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from engines.nets import linear
from engines.players import Perceptron

EPSILON = 1e-8


class Modulated(nn.Module):
    """A linear layer whose weights a style scales, (N, n_in) and (N, W) → (N, n_out).

        s = A w + a,  V_ij = W_ij s_j,  y_i = Σ_j V_ij x_j / √(Σ_j V_ij² + ε) + b_i

    The root keeps the size of the signal, whatever the style; without `demodulate` it is left
    out. Karras et al. 2020, Analyzing and improving the image quality of StyleGAN, equations 1
    and 3. Every row has weights of its own, but they never need to be made: x is scaled by s
    before one product, and the result by the root behind it.
    """

    def __init__(
        self, n_in: int, n_out: int, styles: int, rng: torch.Generator, demodulate: bool = True
    ) -> None:
        super().__init__()
        self.style = linear(styles, n_in, rng)
        with torch.no_grad():
            self.style.bias.fill_(1.0)  # the layer of a plain network at first
        size = 1.0 if demodulate else 1 / math.sqrt(n_in)
        weight = size * torch.randn(n_out, n_in, generator=rng, device=rng.device)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(n_out, device=rng.device))
        self.demodulate = demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        s = self.style(w)
        y = (x * s) @ self.weight.T
        if self.demodulate:
            y = y * torch.rsqrt(s.square() @ self.weight.square().T + EPSILON)
        return y + self.bias


class Synthesis(nn.Module):
    """g(w₁ … w_L): a learnt constant through L modulated layers, (N, L, W) → (N, dim)."""

    def __init__(
        self, styles: int, width: int, layers: int, dim: int, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.randn(width, generator=rng, device=rng.device))
        self.layers = nn.ModuleList(Modulated(width, width, styles, rng) for _ in range(layers - 1))
        self.out = Modulated(width, dim, styles, rng, demodulate=False)

    def forward(self, w: Tensor) -> Tensor:
        x = self.constant.expand(len(w), -1)
        for i, layer in enumerate(self.layers):
            # √2 gives back what the rectifier takes from the mean square
            x = leaky_relu(layer(x, w[:, i]), 0.2) * math.sqrt(2)
        return self.out(x, w[:, -1])


class Generator(nn.Module):
    """G(z) = g(f(z), …, f(z)): mapping f and synthesis g with L styles, (N, latent) → (N, dim).

    depth: hidden layers of the mapping; with none it is linear.
    """

    def __init__(
        self,
        latent: int,
        depth: int,
        styles: int,
        width: int,
        layers: int,
        dim: int,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        self.mapping = Perceptron(latent, width // 2, depth, styles, rng)
        self.synthesis = Synthesis(styles, width, layers, dim, rng)
        self.styles = layers

    def broadcast(self, w: Tensor) -> Tensor:
        """One style (N, W) for every layer: (N, L, W)."""
        return w[:, None].expand(-1, self.styles, -1)

    def forward(self, z: Tensor) -> Tensor:
        return self.synthesis(self.broadcast(self.mapping(z)))


def truncated(w: Tensor, mean: Tensor, psi: float) -> Tensor:
    """w̄ + ψ (w − w̄): ψ = 1 leaves styles (…, W) as they are, ψ = 0 makes all of them w̄ (W,).

    Karras, Laine & Aila 2019, appendix B.
    """
    return mean + psi * (w - mean)


def mixed(early: Tensor, late: Tensor, crossover: Tensor | int) -> Tensor:
    """Styles of one source before the layer `crossover`, of another from it on.

    early, late: (N, L, W). crossover: a whole number, or one for each row (N,): 0 takes all of
    `late`, L all of `early`.
    """
    layer = torch.arange(early.shape[1], device=early.device)
    if isinstance(crossover, Tensor):
        crossover = crossover[:, None]
    take = (layer < crossover).expand(early.shape[:2])
    return torch.where(take[..., None], early, late)


def detour(path: Tensor) -> Tensor:
    """Length of paths (N, T, dim) over the distance of their ends, of the sums over N: 0-d.

    1 for straight lines, which is what a generator without any bend would make of straight lines.
    """
    length = path.diff(dim=1).norm(dim=2).sum()
    return length / (path[:, -1] - path[:, 0]).norm(dim=1).sum().clamp_min(1e-12)
