"""One network for a field that depends on place and on the level of noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from engines.nets import linear

BEATS = 5  # sines and cosines that the level of noise is told by, an octave apart


class Field(nn.Module):
    """f(x, s, y): (N, d) → (N, d), a SiLU network told a level s and, if there are any, a class y.

    Its first layer sees [x, a · sin(xF + φ)], sines of s, and a vector for each class. The columns
    of F have random directions and lengths |f| log-uniform on [1, finest]; a = exp(−|f|² b²/2) is
    what is left of a wave when x is moved by N(0, b² I). Sharp edges are out of reach of a small
    network on x alone (Tancik et al. 2020, Fourier features let networks learn high frequency
    functions in low dimensional domains), and waves finer than the noise say nothing: with the
    blur b of the noise they cannot ripple the field.

    Args:
        dim, width, hidden: d, units and number of hidden layers.
        rng: draws the first weights; the last layer begins at 0.
        waves, finest: how many waves, and the finest of them in radians per unit of x.
        classes: K; y in 0 … K, where K means that no class is told. 0: f knows of no classes.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        hidden: int,
        rng: torch.Generator,
        waves: int = 0,
        finest: float = 16.0,
        classes: int = 0,
    ) -> None:
        super().__init__()
        device, gain = rng.device, math.sqrt(3)  # variance 1/n keeps the signal's size
        way = torch.randn(dim, waves, generator=rng, device=device)
        length = torch.rand(waves, generator=rng, device=device) * math.log(finest)
        self.register_buffer("frequency", way / way.norm(dim=0).clamp_min(1e-9) * length.exp())
        phase = torch.rand(waves, generator=rng, device=device) * (2 * math.pi)
        self.register_buffer("phase", phase)
        self.register_buffer("fineness", self.frequency.square().sum(0) * -0.5)
        beat = (math.pi / 2) * 2.0 ** torch.arange(BEATS, device=device)
        self.register_buffer("beat", beat)
        self.place = linear(dim + waves, width, rng, gain)
        self.clock = linear(2 * BEATS + 1, width, rng, gain)
        code = torch.randn(classes + 1 if classes else 0, width, generator=rng, device=device)
        self.code = nn.Parameter(code * (1 / math.sqrt(3)))
        self.inner = nn.ModuleList(linear(width, width, rng, gain) for _ in range(hidden - 1))
        self.out = linear(width, dim, rng, 0.0)
        self.waves, self.classes = waves, classes

    def _told(self, s: Tensor, y: Tensor | None) -> Tensor:
        """What the first layer is told beside the place, (N, width) or, for one s, (1, width)."""
        s = s.reshape(-1, 1)
        angle = s * self.beat
        told = self.clock(torch.cat([s, angle.sin(), angle.cos()], 1))
        if self.classes:
            nobody = torch.full((1,), self.classes, device=s.device)
            told = told + self.code[nobody if y is None else y]
        return told

    def _left(self, blur: Tensor | float | None) -> Tensor | None:
        """What is left of each wave at a blur (N,) or 0-d, (N, waves) or (1, waves)."""
        if blur is None:
            return None
        blur = torch.as_tensor(blur, device=self.phase.device, dtype=self.phase.dtype)
        return torch.exp(blur.reshape(-1, 1).square() * self.fineness)

    def forward(
        self, x: Tensor, s: Tensor, blur: Tensor | float | None = None, y: Tensor | None = None
    ) -> Tensor:
        """f at places x (N, d), at a level s and with a blur that are (N,) or one for all."""
        seen = x
        if self.waves:
            wave = torch.sin(torch.addmm(self.phase, x, self.frequency))
            left = self._left(blur)
            seen = torch.cat([x, wave if left is None else wave * left], 1)
        h = nn.functional.silu(self.place(seen) + self._told(s, y))
        for layer in self.inner:
            h = nn.functional.silu(layer(h))
        return self.out(h)

    def with_jacobian(
        self, x: Tensor, s: Tensor, blur: Tensor | float | None = None, y: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """f (N, d), and ∂fᵢ/∂xⱼ as (N, d, d) with i before j.

        Tangents are carried forward by hand: several times faster than autograd, and no graph.
        """
        dim = x.shape[1]
        tangent = torch.eye(dim, device=x.device, dtype=x.dtype)[:, None].expand(dim, len(x), dim)
        seen = x
        if self.waves:
            angle = torch.addmm(self.phase, x, self.frequency)
            wave, slope = angle.sin(), angle.cos()
            if (left := self._left(blur)) is not None:
                wave, slope = wave * left, slope * left
            seen = torch.cat([x, wave], 1)
            tangent = torch.cat([tangent, slope * self.frequency[:, None]], 2)
        a = self.place(seen) + self._told(s, y)
        tangent = tangent @ self.place.weight.T
        for layer in [*self.inner, self.out]:
            gate = torch.sigmoid(a)
            tangent = tangent * (gate * (1 + a * (1 - gate)))
            a = layer(a * gate)
            tangent = tangent @ layer.weight.T
        return a, tangent.permute(1, 2, 0)
