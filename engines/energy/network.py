"""The energy: a small network with one output, and its slope in x worked out by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engines import nets


class Energy(nn.Module):
    """E(z) = w·h_L(z) + b with h_l = SiLU(W_l h_{l−1} + b_l) and h_0 = [z, sin(zF + φ)].

    Chains need its slope at every move and nothing of the graph that autograd keeps for the
    weights, so `force` goes forward and back by matrix products alone.

    Args:
        dim, width, depth: rows have `dim` numbers; `depth` hidden layers of `width` units.
        waves, pitch: of nets.Waves; 0 waves leave z as it is.
    """

    def __init__(
        self, dim: int, width: int, depth: int, waves: int, pitch: float, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.dim = dim
        self.waves = nets.Waves(dim, waves, pitch, rng)
        # a gain of √3 gives weights of variance 1/n: the signal keeps its size through SiLUs
        self.layers = nets.mlp(
            [self.waves.size, *[width] * depth, 1], rng, last_gain=0.1, gain=3**0.5
        )

    def forward(self, z: Tensor) -> Tensor:
        """E(z), (N, dim) → (N,)."""
        return self.layers(self.waves(z)).squeeze(1)

    @torch.no_grad()
    def force(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """E(z) (N,) and the force −∂E/∂z (N, dim).

        Back through h = SiLU(a) = a s with s = σ(a): ∂h/∂a = s + h (1 − s).
        """
        linear = self.layers[0::2]
        phase = None
        h = z
        if self.waves.size > self.dim:
            phase = torch.addmm(self.waves.phase, z, self.waves.frequency)
            h = torch.cat([z, torch.sin(phase)], 1)
        slopes = []
        for layer in linear[:-1]:
            a = torch.addmm(layer.bias, h, layer.weight.T)
            s = torch.sigmoid(a)
            h = a.mul_(s)
            slopes.append(torch.addcmul(s, h, 1 - s))
        last = linear[-1]
        energy = torch.addmv(last.bias, h, last.weight[0])
        back = last.weight * slopes[-1]
        for layer, slope in zip(linear[-2:0:-1], slopes[-2::-1], strict=True):
            back = torch.mm(back, layer.weight).mul_(slope)
        back = torch.mm(back, linear[0].weight)
        if phase is None:
            return energy, -back
        own, bent = back[:, : self.dim], back[:, self.dim :]
        return energy, -torch.addmm(own, bent * phase.cos(), self.waves.frequency.T)
