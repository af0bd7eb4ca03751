"""Encoder and decoder: two small networks, each beside a straight way of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines import nets
from engines.vae.bounds import Posterior

NARROWEST, WIDEST = -9.0, 2.0
ACTIVATION = nn.SiLU


class Net(nn.Module):
    """x ↦ r(z|x) and z ↦ what the decoder tells of x.

        mean(x) = x E + f(x),   told(z) = z D + b + g(z)

    f and g see sines beside their input (`nets.Waves`). In the plane E and D begin as identities
    and f, g near zero: so the model begins as the data's own plane with a little noise, and what
    it learns is how to bend it, rather than how to undo a tangle.

    Args:
        dim, latents, width, hidden: sizes d and L, and of the hidden layers.
        head: the decoder's noise, see decoders.py; a submodule, for its σ may be learnt.
        waves, pitch: of the inputs' sines; none for images.
        full: whether the latents of r(z|x) may depend on each other.
        bias: (size,) where the decoder begins, b.
    """

    def __init__(
        self,
        dim: int,
        latents: int,
        width: int,
        hidden: int,
        head: nn.Module,
        waves: int,
        pitch: float,
        full: bool,
        bias: Tensor,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        self.latents, self.head, dev = latents, head, rng.device
        pairs = latents * (latents - 1) // 2 if full else 0
        self.before_encoder = nets.Waves(dim, waves, pitch, rng)
        self.before_decoder = nets.Waves(latents, waves, pitch, rng)
        layers = [width] * hidden
        sizes = [self.before_encoder.size, *layers, 2 * latents + pairs]
        self.encoder = nets.mlp(sizes, rng, ACTIVATION, last_gain=0.1)
        sizes = [self.before_decoder.size, *layers, head.size]
        self.decoder = nets.mlp(sizes, rng, ACTIVATION, last_gain=0.1 if waves else 1.0)
        self.straight = waves > 0
        if self.straight:
            self.into = nn.Parameter(torch.eye(dim, latents, device=dev))
            self.out = nn.Parameter(torch.eye(latents, head.size, device=dev))
        self.bias = nn.Parameter(bias)
        places = torch.zeros(pairs, latents * latents, device=dev)
        row, column = torch.tril_indices(latents, latents, -1, device=dev)
        if pairs:
            places[torch.arange(pairs, device=dev), row * latents + column] = 1.0
        self.register_buffer("places", places)

    def encode(self, x: Tensor) -> Posterior:
        """r(z|x) of standardised rows x (N, d)."""
        n, told = self.latents, self.encoder(self.before_encoder(x))
        # `split` and `hardtanh`, for the slopes of slices and of `clamp` take three times as long
        mean, scale, *more = told.split([n, n] + [len(self.places)] * (len(self.places) > 0), 1)
        mean = torch.addmm(mean, x, self.into) if self.straight else mean
        lower = (more[0] @ self.places).view(-1, n, n) if more else None
        return Posterior(mean, F.hardtanh(scale, NARROWEST, WIDEST), lower)

    def decode(self, z: Tensor) -> Tensor:
        """What the decoder tells, (N, L) → (N, size); `head` knows what it means."""
        h, (*layers, last) = self.before_decoder(z), self.decoder
        for layer in layers:
            h = layer(h)
        told = F.linear(h, last.weight, last.bias + self.bias)
        return torch.addmm(told, z, self.out) if self.straight else told
