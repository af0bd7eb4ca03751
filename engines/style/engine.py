"""Style-based GAN: noise becomes a style, and the style is told to every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from engines.capture import Capture
from engines.knobs import knob
from engines.players import Game, Perceptron
from engines.style import pictures
from engines.style.networks import Generator, mixed, truncated

FOR_MEAN = 1000  # noises whose styles are averaged


class StyleGAN(Game):
    """Generator G(z) = g(w, …, w), w = f(z): a mapping f, and layers that w modulates.

    In training a share of the samples has one style in the early layers and another in the late
    ones, so that layers learn to do without each other. What is shown, sampled and measured is
    truncated: w̄ + ψ (w − w̄) with w̄ = E[f(z)].

    References: Karras, Laine & Aila 2019 (mapping, mixing, truncation); Karras et al. 2020
    (weights are modulated and demodulated).
    """

    name: ClassVar[str] = "style_gan"
    place: ClassVar[float] = 8.5
    title = "Style-based GAN"
    tagline = (
        "Noise is first mapped to a style, and the style is told to every layer of the generator: "
        "so layers can be given different ones."
    )
    objective = "w = f(z),  G(z) = g(w, …, w),  shown: w̄ + ψ (w − w̄);  min_{f,g} max_{D} V"
    look_for = (
        "The mapping bends the noise before the layers see it, so that they need not. Lower ψ: "
        "samples come closer to the middle of all styles, surer and more alike."
    )
    paper = "Karras, Laine & Aila, 2019: A Style-Based Generator Architecture for GANs"
    clip_steps = 1500
    pictures = pictures
    compare: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "A linear mapping": {"depth": 0},
        "Never mixed in training": {"mixing": 0.0},
        "Half truncated (ψ = 0.5)": {"psi": 0.5},
        "Without the R1 penalty": {"r1": 0.0},
    }

    width: int = knob(64, 16, 256, log=True, help="Units in each hidden layer.")
    latent: int = knob(2, 1, 64, label="Noise dimensions", help="Dimensions of z.")
    depth: int = knob(2, 0, 4, label="Layers of the mapping",
                      help="Hidden layers between z and w; with none of them w is linear in z, "
                      "and bends nothing.")  # fmt: skip
    styles: int = knob(8, 1, 64, label="Style dimensions", help="Dimensions of w.")
    mixing: float = knob(0.5, 0.0, 1.0, live=True, label="Mixed in training",
                         help="Share of training samples whose early and late layers get styles "
                         "of two different noises.")  # fmt: skip
    psi: float = knob(1.0, 0.0, 1.5, view=True, label="Truncation (ψ)",
                      help="How far from the mean style samples are shown and measured: 1 is as "
                      "trained, 0 is one sample only.")  # fmt: skip
    crossover: int = knob(2, 0, 4, view=True, label="Layers of the first source",
                          help="In the pictures of mixing, so many of the four layers get the "
                          "style of one source, and the rest that of the other.")  # fmt: skip

    capture = Capture(dials=(*Game.capture.dials, "mixing"))
    LAYERS = 4  # styles: three hidden layers and the last

    # ------------------------------------------------------------ training

    def refresh(self) -> None:
        self._mean_style = self._mean_key = None

    def networks(self, rng: torch.Generator) -> tuple[nn.Module, nn.Module]:
        return (
            Generator(self.latent, self.depth, self.styles, self.width, self.LAYERS, self.dim, rng),
            Perceptron(self.dim, self.width, 2, 1, rng),
        )

    def step(self) -> dict[str, Tensor]:
        """One update of D, then one of G. Returns both losses, without the penalty."""
        real = self.standardise(self.pool.batch(self.batch, self.rng))
        with torch.no_grad():
            fake = self.train_samples()
        discriminator = self.duel(real, fake)
        loss = self.fool(self.train_samples())
        self._descend(self.g_adam, self.generator, loss, self.number("g_lr"))
        self._average()
        return {"discriminator": discriminator, "generator": loss.detach()}

    def train_samples(self) -> Tensor:
        """A batch of standardised samples (batch, dim), some of two styles each."""
        n, net = self.batch, self.generator
        noise = self.randn(2 * n, self.latent, generator=self.rng)
        # drawn at any knob, so that a slider moved to and fro changes nothing
        chance = torch.rand(n, generator=self.rng, device=self.device)
        layer = torch.randint(1, self.LAYERS, (n,), generator=self.rng, device=self.device)
        if self.mixing > 0:
            early, late = (net.broadcast(w) for w in net.mapping(noise).split(n))
            w = mixed(early, late, layer.masked_fill(chance >= self.number("mixing"), self.LAYERS))
        else:
            w = net.broadcast(net.mapping(noise[:n]))
        return self.noisy(net.synthesis(w), self.rng)

    # ------------------------------------------------------------ the model

    @torch.no_grad()
    def mean_style(self) -> Tensor:
        """w̄ = E[f(z)] of the averaged generator over always the same noises, (W,); kept until its
        weights change."""
        key = tuple((id(p), p._version) for p in self.averaged.mapping.parameters())
        if self._mean_key != key:
            rng = torch.Generator(self.device).manual_seed(6_000_011)
            noise = self.randn(FOR_MEAN, self.latent, generator=rng)
            self._mean_style, self._mean_key = self.averaged.mapping(noise).mean(0), key
        return self._mean_style

    @torch.no_grad()
    def style(self, z: Tensor, psi: float | None = None) -> Tensor:
        """Truncated styles of noise (N, latent): (N, W); ψ is the knob's unless one is given."""
        w = self.averaged.mapping(z)
        return truncated(w, self.mean_style(), self.psi if psi is None else psi)

    @torch.no_grad()
    def synthesise(self, w: Tensor) -> Tensor:
        """One style a row (N, W), or one a layer (N, L, W): (N, dim) in data units."""
        w = self.averaged.broadcast(w) if w.ndim == 2 else w
        return self.unstandardise(self.averaged.synthesis(w))

    def mix(self, early: Tensor, late: Tensor, crossover: int) -> Tensor:
        """Styles of two sources (N, W), mixed at a layer: (N, dim) in data units."""
        pair = (self.averaged.broadcast(w) for w in (early, late))
        return self.synthesise(mixed(*pair, crossover))

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        generator = generator or self.view_rng
        w = self.style(self.randn(n, self.latent, generator=generator))
        z = self.averaged.synthesis(self.averaged.broadcast(w))
        return self.unstandardise(self.noisy(z, generator))
