"""Conditional GAN: a class is told to both players, so that one can ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from engines.classes import MOST, Classes
from engines.conditional import pictures
from engines.conditional.networks import DISCRIMINATORS, Generator
from engines.data.base import Dataset, Pool
from engines.knobs import knob
from engines.players import Game
from engines.probes import Probe


class Conditional(Game):
    """Generator G(z, y) and discriminator D(x, y), both told the class y.

    For each class it is a game of its own with p(x|y), and all of them share their networks.
    Classes are drawn in the shares that they have among the training rows.

    References: Mirza & Osindero 2014; Miyato & Koyama 2018 (projection).
    """

    name: ClassVar[str] = "conditional_gan"
    place: ClassVar[float] = 8.3
    title = "Conditional GAN"
    tagline = "Both players are told a class, so that the generator can be asked for one."
    objective = (
        "min_{G} max_{D} E_{(x,y)∼p}[log D(x, y)] + E_{y∼p, z∼N(0,I)}[log(1 − D(G(z, y), y))]"
    )
    look_for = (
        "Each class has one colour, in data and samples. Set “How D is told” to “not told”: "
        "the samples are as good as before, but the class that was asked for means nothing."
    )
    paper = "Mirza & Osindero, 2014: Conditional Generative Adversarial Nets"
    clip_steps = 1500
    pictures = pictures
    compare: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "Class beside x": {"told": "concatenation"},
        "D is not told the class": {"told": "not told"},
        "Without the R1 penalty": {"r1": 0.0},
    }

    # more than its siblings have: labelled digits are few, and D would learn them by heart
    r1: float = knob(3.0, 0.0, 10.0, live=True, label="R1 penalty",
                     help="Adds R1/2 · |slope of D's logit|² on the data to D's loss: the game "
                     "then settles instead of circling.")  # fmt: skip
    told: Literal["projection", "concatenation", "not told"] = knob(
        "projection",
        label="How D is told",
        help="Projection adds an inner product of D's features with the class's vector; "
        "concatenation puts the class beside x; not told leaves D with p(x).",
    )
    shown_class: int = knob(0, 0, MOST - 1, view=True, label="Class shown alone",
                            help="The class in the pictures of one; the last there is, if there "
                            "are fewer.")  # fmt: skip

    LAYERS = 2
    FOLLOWING = 0.05  # how fast the shares of classes follow other data, a step

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        if dataset.kind == "images" and not dataset.classes:
            return "These pictures have no labels that a conditional GAN could be told."
        if dataset.kind not in ("plane", "images"):
            return "The conditional GAN here is told classes: of points in the plane, or of labelled pictures."  # fmt: skip
        return None

    def networks(self, rng: torch.Generator) -> tuple[nn.Module, nn.Module]:
        return (
            Generator(self.latent, self.width, self.LAYERS, self.dim, rng),
            DISCRIMINATORS[self.told](self.dim, self.width, self.LAYERS, rng),
        )

    def start(self, pool: Pool) -> None:
        super().start(pool)
        # part of the model: it does not forget what it asks for when other data come
        self.shares = self.wanted()

    def wanted(self) -> Tensor:
        """Shares (MOST,) of the classes among the training rows."""
        shares = torch.zeros(MOST, device=self.device)
        shares[: self.classes.count] = self.classes.shares
        return shares

    def refresh(self) -> None:
        self._classes = Classes(self.pool, self._mean)
        self._fields: dict[int, Any] = {}  # exact p(x|y) of the classes looked at

    @property
    def classes(self) -> Classes:
        return self._classes

    def step(self) -> dict[str, Tensor]:
        """One update of D, then one of G. Returns both losses, without the penalty."""
        real, y = self.told_rows()
        # the samples of D's turn are asked for the classes of the data beside them
        with torch.no_grad():
            fake = self.generate(self.generator, y, self.rng)
        discriminator = self.duel(real, fake, y, y)
        y = self.classes.draw(self.batch, self.rng)
        loss = self.fool(self.generate(self.generator, y, self.rng), y)
        self._descend(self.g_adam, self.generator, loss, self.number("g_lr"))
        self._average()
        self.shares.lerp_(self.wanted(), self.FOLLOWING)
        return {"discriminator": discriminator, "generator": loss.detach()}

    def told_rows(self) -> tuple[Tensor, Tensor]:
        """A batch of standardised rows (batch, dim) and their classes (batch,).

        Where classes are places, rows that are drawn afresh have them, too; elsewhere it is the
        labelled rows alone that have any.
        """
        if self.classes.places:
            x = self.pool.batch(self.batch, self.rng)
            return self.standardise(x), self.classes.of(x)
        index = torch.randint(
            len(self.pool.train), (self.batch,), generator=self.rng, device=self.device
        )
        return self.standardise(self.pool.rows(index, self.rng)), self.classes.labels[index]

    # ------------------------------------------------------------ the model

    def generate(self, network: nn.Module, y: Tensor, generator: torch.Generator) -> Tensor:
        """A standardised sample of each class y (N,): (N, dim)."""
        z = network(self.randn(len(y), self.latent, generator=generator), y)
        return self.noisy(z, generator)

    @torch.no_grad()
    def sample_of(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A sample (N, dim) in data units of each class y (N,)."""
        return self.unstandardise(self.generate(self.averaged, y, generator or self.view_rng))

    def labelled(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """n samples (n, dim) in data units and the classes (n,) that were asked for."""
        y = torch.multinomial(self.shares, n, True, generator=generator or self.view_rng)
        return self.sample_of(y, generator), y

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self.labelled(n, generator)[0]

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """The averaged generator: noise (N, latent) and classes (N,) → (N, dim) in data units."""
        with torch.no_grad():
            return self.unstandardise(self.averaged(z, y))

    def probes(self) -> list[Probe]:
        return pictures.probes(self)
