"""What the smaller games share: two players, the non-saturating loss, R1 and an averaged generator.

`Game` is no engine by itself; the conditional, the InfoGAN and the style-based one are. Each says
what its two networks are and what the discriminator is asked.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor, nn

from engines.adversarial import Averaged
from engines.capture import Capture
from engines.data.base import Dataset
from engines.gan import LOSSES, squared_slope
from engines.knobs import knob
from engines.marks import Metric, Panel
from engines.nets import Layers, linear


class Perceptron(nn.Module):
    """Hidden layers of one width with leaky rectifiers, (N, n_in) → (N, n_out).

    A leaky rectifier costs a third of a SiLU, and its second derivative, which R1 asks for, is
    zero. First weights after He et al. 2015: Var W = 2/(1 + a²) / n_in.

    Attributes:
        body: everything but the last layer, (N, n_in) → (N, width); nothing with 0 layers.
        head: the last layer.
    """

    SLOPE = 0.2

    def __init__(
        self, n_in: int, width: int, layers: int, n_out: int, rng: torch.Generator
    ) -> None:
        super().__init__()
        gain = math.sqrt(6 / (1 + self.SLOPE**2))  # U(−g/√n, g/√n) has variance g²/3n
        parts: list[nn.Module] = []
        for i in range(layers):
            parts += [linear(width if i else n_in, width, rng, gain), nn.LeakyReLU(self.SLOPE)]
        self.body = Layers(*parts)
        self.head = linear(width if layers else n_in, n_out, rng)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Game(Averaged):
    """A generator and a discriminator with the non-saturating loss and the R1 penalty.

    Subclasses give `networks()`, `generate()`, `step()`, and the module of their pictures, which
    has metrics(engine), plane_panels(engine) and image_panels(engine).

    References: Goodfellow et al. 2014 (the game); Mescheder, Geiger & Nowozin 2018 (R1).
    """

    loss_label = "loss, nats"
    capture = Capture(dials=("d_lr", "g_lr", "r1", "averaging"))
    pictures: ClassVar[ModuleType]

    latent: int = knob(8, 1, 64, label="Noise dimensions",
                       help="Dimensions of the noise that the generator is fed with.")  # fmt: skip
    width: int = knob(128, 16, 256, log=True, help="Units in each hidden layer.")
    d_lr: float = knob(2e-3, 1e-5, 1e-1, log=True, live=True, label="D step size",
                       help="Adam's step size for the discriminator; it falls as 1/√(1 + t/1000).")  # fmt: skip
    g_lr: float = knob(2e-3, 1e-5, 1e-1, log=True, live=True, label="G step size",
                       help="Adam's step size for the generator; it falls as 1/√(1 + t/1000).")  # fmt: skip
    batch: int = knob(128, 16, 1024, log=True, live=True,
                      help="Data points, and as many samples, in each update.")  # fmt: skip
    r1: float = knob(1.0, 0.0, 10.0, live=True, label="R1 penalty",
                     help="Adds R1/2 · |slope of D's logit|² on the data to D's loss: the game "
                     "then settles instead of circling.")  # fmt: skip
    averaging: int = knob(300, 1, 10_000, log=True, live=True,
                          help="The samples shown and measured are the generator's with its weights "
                          "averaged over about so many updates; 1 shows the newest weights.")  # fmt: skip

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        if dataset.kind not in ("plane", "images"):
            return f"The {cls.title} here makes points of the plane and pictures."
        return None

    # ------------------------------------------------------------ training

    def duel(self, real: Tensor, fake: Tensor, *given: Tensor) -> Tensor:
        """One update of D on standardised rows (N, dim) of both kinds; its loss, 0-d.

        given: what D is told about the data, then about the samples; nothing by default.
        """
        about = [(part,) for part in given] or [(), ()]
        real = real.requires_grad_(self.r1 > 0)
        on_real, on_fake = self.logits(real, *about[0]), self.logits(fake, *about[1])
        loss = LOSSES["non-saturating"].discriminator(on_real, on_fake)
        total = loss
        if self.r1 > 0:
            total = loss + self.number("r1") / 2 * squared_slope(on_real, real).mean()
        self._descend(self.d_adam, self.discriminator, total, self.number("d_lr"))
        return loss.detach()

    def fool(self, fake: Tensor, *given: Tensor) -> Tensor:
        """The generator's loss −E log D on samples that still hang on its weights, 0-d."""
        return LOSSES["non-saturating"].generator(self.logits(fake, *given))

    def logits(self, z: Tensor, *given: Tensor) -> Tensor:
        """D's logit at standardised rows, (N, dim) → (N,)."""
        return self.discriminator(z, *given).squeeze(1)

    def probability(self, x: Tensor, *given: Tensor) -> Tensor:
        """D's probability of "data" at rows (N, dim) in data units: (N,)."""
        with torch.no_grad():
            return torch.sigmoid(self.logits(self.standardise(x), *given))

    # ------------------------------------------------------------ numbers and pictures

    def metrics(self) -> list[Metric]:
        return self.pictures.metrics(self)

    def panels(self) -> list[Panel]:
        images = self.pool.dataset.kind == "images"
        return (self.pictures.image_panels if images else self.pictures.plane_panels)(self)
