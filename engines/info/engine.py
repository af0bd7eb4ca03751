"""InfoGAN: part of the noise is a code, and a third network reads it off the samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from engines.capture import Capture
from engines.data.base import Pool
from engines.info import pictures
from engines.info.information import Codes, Read, category_terms, continuous_terms, split
from engines.knobs import Above, knob
from engines.nets import adam
from engines.players import Game, Perceptron

CONTINUOUS_WEIGHT = 0.1  # of λ: what a continuous code tells has no ceiling, and would take over


class InfoGAN(Game):
    """Generator G(c, u, z), discriminator D(x), and a reader Q(c, u | x).

    c is a category, u are continuous codes uniform on [−1, 1] and z is noise. The generator
    minimises −E log D − λ L_I, and the reader −L_I with L_I = E[log Q(c|x)] + H(c), a lower
    bound of I(c; x). Of the continuous codes a tenth of λ is used.

    Reference: Chen, Duan, Houthooft, Schulman, Sutskever & Abbeel 2016.
    """

    name: ClassVar[str] = "infogan"
    place: ClassVar[float] = 8.4
    title = "InfoGAN"
    tagline = (
        "Part of the noise is a code that the samples must tell, so that kinds of data get "
        "names of their own, without any label."
    )
    objective = "min_{G,Q} max_{D} V(D, G) − λ L_{I},  L_{I} = E[log Q(c|x)] + H(c) ≤ I(c; x) ≤ H(c)"  # fmt: skip
    look_for = (
        "Each code gets a place of its own, though nobody said which. With λ = 0 the reader "
        "finds nothing to read: the colours are mixed."
    )
    paper = "Chen et al., 2016: InfoGAN: Interpretable Representation Learning"
    clip_steps = 1500
    pictures = pictures
    compare: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "Codes need not be told (λ = 0)": {"information": 0.0},
        "Four codes only": {"categories": 4},
        "Without the R1 penalty": {"r1": 0.0},
    }
    followed: ClassVar[Mapping[str, tuple[str, str]]] = {
        "information": ("What samples tell of their code", "nats, at least")
    }

    categories: int = knob(10, 2, 25, help="Values of the categorical code, all equally likely.")
    continuous: int = knob(2, 0, 4, label="Continuous codes", help="Codes that are uniform on [−1, 1].")  # fmt: skip
    loudness: float = knob(3.0, 0.3, 10.0, log=True, label="Loudness of the codes",
                           help="How large codes stand beside the noise, which has spread 1. A "
                           "loud code takes modes for itself even where nothing is gained by it.")  # fmt: skip
    information: float = knob(0.3, 0.0, 5.0, live=True, label="Weight of information (λ)",
                              help="How much the generator gains by samples that tell their code; "
                              "0 is a GAN with an audience that may read along.")  # fmt: skip
    swept: int = knob(1, 1, 4, view=True, label="Continuous code swept", when={"continuous": Above(0)},
                      help="Which continuous code runs from −1 to 1 in the pictures; the last "
                      "there is, if there are fewer.")  # fmt: skip

    capture = Capture(dials=(*Game.capture.dials, "information"))
    LAYERS = 2

    # ------------------------------------------------------------ training

    def networks(self, rng: torch.Generator) -> tuple[nn.Module, nn.Module]:
        given = self.categories + self.continuous + self.latent
        return (
            Perceptron(given, self.width, self.LAYERS, self.dim, rng),
            Perceptron(self.dim, self.width, self.LAYERS, 1, rng),
        )

    def start(self, pool: Pool) -> None:
        super().start(pool)
        read = self.categories + 2 * self.continuous
        self.reader = Perceptron(self.dim, self.width, self.LAYERS, read, self.rng)
        self.q_adam = adam(self.reader.parameters(), self.g_lr, self.BETAS)

    def step(self) -> dict[str, Tensor]:
        """One update of D, then one of G and Q. Returns both players' losses, and −L_I as untold."""
        real = self.standardise(self.pool.batch(self.batch, self.rng))
        with torch.no_grad():
            fake = self.generate(self.generator, self.codes(self.batch, self.rng), self.rng)
        discriminator = self.duel(real, fake)
        codes = self.codes(self.batch, self.rng)
        fake = self.generate(self.generator, codes, self.rng)
        fooled, read = self.fool(fake), self.read(fake)
        told = category_terms(read, codes.category).mean()
        untold = -told
        if self.continuous:
            untold = untold - CONTINUOUS_WEIGHT * continuous_terms(read, codes.continuous).mean()
        # the reader learns at any λ: only what the generator gains by being read depends on it
        reader = list(self.reader.parameters())
        slopes = torch.autograd.grad(untold, reader, retain_graph=True)
        loss = fooled + self.number("information") * untold
        self._descend(self.g_adam, self.generator, loss, self.number("g_lr"))
        self._move(self.q_adam, reader, slopes, self.number("g_lr"))
        self._average()
        return {
            "discriminator": discriminator,
            "generator": fooled.detach(),
            "untold": -told.detach(),
        }

    # ------------------------------------------------------------ the model

    def codes(self, n: int, generator: torch.Generator) -> Codes:
        """n draws of what the generator is given."""
        like = {"generator": generator, "device": self.device}
        return Codes(
            torch.randint(self.categories, (n,), **like),
            2 * torch.rand(n, self.continuous, **like) - 1,
            self.randn(n, self.latent, generator=generator),
        )

    def inputs(self, codes: Codes) -> Tensor:
        """Codes, the category as a row of 0 and 1, and noise: (N, K + C + latent)."""
        every = torch.arange(self.categories, device=self.device)
        hot = (codes.category[:, None] == every).long()
        told = torch.cat([hot, codes.continuous], 1)
        return torch.cat([self.loudness * told, codes.noise], 1)

    def generate(self, network: nn.Module, codes: Codes, generator: torch.Generator) -> Tensor:
        """A standardised sample of each row of the codes: (N, dim)."""
        return self.noisy(network(self.inputs(codes)), generator)

    def read(self, z: Tensor) -> Read:
        """Q at standardised rows (N, dim)."""
        return split(self.reader(z), self.categories)

    @torch.no_grad()
    def coded(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Codes]:
        """n samples (n, dim) in data units, and the codes that made them."""
        generator = generator or self.view_rng
        codes = self.codes(n, generator)
        return self.unstandardise(self.generate(self.averaged, codes, generator)), codes

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self.coded(n, generator)[0]

    def decode(self, codes: Codes) -> Tensor:
        """The averaged generator without noise of pixels: (N, dim) in data units."""
        with torch.no_grad():
            return self.unstandardise(self.averaged(self.inputs(codes)))

    def code_of(self, x: Tensor) -> Tensor:
        """The category (N,) that the reader takes rows (N, dim) in data units for."""
        with torch.no_grad():
            return self.read(self.standardise(x)).logits.argmax(1)
