"""CycleGAN: two generators between two datasets, each the other's way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from engines import nets
from engines.adversarial import Adversarial
from engines.capture import Capture
from engines.cyclegan import pictures
from engines.cyclegan.networks import Pair
from engines.cyclegan.symmetry import energy_distance, symmetry_of
from engines.data.base import Dataset, Pool
from engines.knobs import knob
from engines.marks import Metric, Panel

HELD = 1000  # held-out rows of each dataset that the numbers are about
NEAR = 400  # of them for energy distances, whose pairs grow as the square


class CycleGAN(Adversarial):
    """G: X → Y and F: Y → X with a discriminator on each side, from unpaired rows.

    Both generators minimise their adversarial losses and

        λ (E|F(G(x)) − x|₁ + E|G(F(y)) − y|₁) + ι (E|G(y) − y|₁ + E|F(x) − x|₁)

    per coordinate, in standard deviations of the data that it is measured on (Zhu, Park, Isola &
    Efros 2017, equations 1 to 3 and section 5.2; ι is the identity loss). The discriminators
    carry the R1 penalty (Mescheder, Geiger & Nowozin 2018). What is shown and measured are the
    generators with averaged weights. A sample is G(x) of a training row x.

    The optimum is not unique: for any map S that leaves Y's distribution as it is, S∘G and
    F∘S⁻¹ have the same losses. `symmetry_of` finds the best such rotation or reflection.
    """

    name: ClassVar[str] = "cyclegan"
    place: ClassVar[float] = 8.45
    title = "CycleGAN"
    tagline = "Two translators between two datasets, learnt without a single pair."
    objective = (
        "min_{G,F} max_{D} V(D_{Y}, G) + V(D_{X}, F) + λ (E|F(G(x)) − x|_{1} + E|G(F(y)) − y|_{1})"
    )
    look_for = (
        "Neighbours keep their neighbours, as colours show: that is what the cycle asks for. But "
        "which end goes to which end it cannot know: other first weights find another pairing, "
        "with the same losses."
    )
    paper = (
        "Zhu, Park, Isola & Efros (2017), Unpaired image-to-image translation using "
        "cycle-consistent adversarial networks"
    )
    comes_from = "moons"
    clip_steps = 1200
    loss_label = "loss"
    compare: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "Other first weights": {"weights": 8},
        "Without the cycle": {"cycle": 0.0},
        "With the identity loss": {"identity": 1.0},
    }

    loss: Literal["non-saturating", "least squares"] = knob(
        "non-saturating", live=True,
        help="The adversarial loss: cross-entropy, or squared distance to the targets 0 and 1 as "
        "in the paper.",
    )  # fmt: skip
    cycle: float = knob(
        1.0, 0.0, 20.0, live=True, label="Cycle loss (λ)",
        help="Weight of what a round trip misses, there and back; 0 leaves two GANs that know "
        "nothing of each other.",
    )  # fmt: skip
    identity: float = knob(
        0.0, 0.0, 10.0, live=True, label="Identity loss (ι)",
        help="Weight of how far G moves what is in Y already, and F what is in X.",
    )  # fmt: skip
    r1: float = knob(
        0.1, 0.0, 10.0, live=True, label="R1 penalty",
        help="R1/2 times the squared slope of each discriminator on its data.",
    )  # fmt: skip
    width: int = knob(
        48, 16, 128, log=True, help="Units in each hidden layer of all four networks."
    )
    layers: int = knob(3, 1, 4, help="Hidden layers of all four networks.")
    weights: int = knob(
        0, 0, 9, label="First weights",
        help="Draws other first weights, on the same data and seed.",
    )  # fmt: skip
    g_lr: float = knob(
        5e-3, 1e-5, 1e-1, log=True, live=True, label="G and F step size",
        help="Adam's step size for both generators; it falls as 1/√(1 + t/500).",
    )  # fmt: skip
    d_lr: float = knob(
        5e-3, 1e-5, 1e-1, log=True, live=True, label="D step size",
        help="Adam's step size for both discriminators; it falls as 1/√(1 + t/500).",
    )  # fmt: skip
    batch: int = knob(128, 16, 1024, log=True, live=True, help="Rows of each dataset in a step.")
    arrows: int = knob(
        120, 10, 400, view=True, label="Arrows", help="How many x are followed to G(x)."
    )

    SETTLING, AVERAGE = 500, 0.98
    capture = Capture(dials=("g_lr", "d_lr", "cycle", "identity", "r1"))

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        if dataset.kind != "plane":
            return "The CycleGAN here goes from one plane to another: choose points of the plane."
        return None

    @classmethod
    def accepts_source(cls, source: Dataset) -> str | None:
        return cls.accepts(source)

    # ------------------------------------------------------------ training

    def start(self, pool: Pool) -> None:
        super().start(pool)
        source = pool.source
        self.x_mean, self.x_std = (
            part.to(self.device).clone() for part in (source.mean, source.std)
        )
        for _ in range(self.weights):  # each number is a place of its own in the stream
            torch.rand(1000, generator=self.rng, device=self.device)
        hidden = [self.width] * self.layers
        # index 0 is the way there: G, and the discriminator of what it makes, D_Y
        self.generators = Pair([2, *hidden, 2], self.rng)
        self.discriminators = Pair([2, *hidden, 1], self.rng)
        spare = Pair([2, *hidden, 2], torch.Generator(self.device).manual_seed(0))
        self.average = nets.Average(self.generators, spare, self.AVERAGE)
        self.g_adam = nets.adam(self.generators.parameters(), self.g_lr, self.BETAS)
        self.d_adam = nets.adam(self.discriminators.parameters(), self.d_lr, self.BETAS)
        self.refresh()

    def refresh(self) -> None:
        # the symmetry of Y by which another pairing, as good as this one, is shown
        self._other = symmetry_of(self.pool.dataset)

    def live_numbers(self) -> dict[str, float]:
        return {**super().live_numbers(), "fade": self.average.weight(self.age)}

    def step(self) -> dict[str, Tensor]:
        x = self.pool.source.batch(self.batch, self.rng)
        y = self.pool.batch(self.batch, self.rng)
        xs, ys = (x - self.x_mean) / self.x_std, self.standardise(y)
        given, wanted = torch.stack([xs, ys]), torch.stack([ys, xs])
        made = self.generators(given)
        loss_d = self._update_discriminators(wanted, made.detach())
        fooled = self._fooled(self.discriminators(made).squeeze(2))
        # what G makes is F's input, and the other way round
        missed = (self.generators(made.flip(0)).flip(0) - given).abs().mean()
        total = fooled + 2 * self.number("cycle") * missed
        if self.identity > 0:
            total = total + 2 * self.number("identity") * self._moved(x, y, wanted)
        self._descend(self.g_adam, self.generators, total, self.number("g_lr"))
        self.average.lean(self.generators, self.number("fade"))
        # means over both directions, each of them
        return {
            "discriminator": loss_d,
            "generator": fooled.detach() / 2,
            "cycle": missed.detach(),
        }

    def _update_discriminators(self, real: Tensor, fake: Tensor) -> Tensor:
        """One step of both; real and fake (2, N, 2), of Y and of X. Returns their mean loss."""
        both = torch.cat([real, fake], 1).requires_grad_(self.r1 > 0)
        values = self.discriminators(both).squeeze(2)
        on_real, on_fake = values.split([real.shape[1], fake.shape[1]], 1)
        if self.loss == "least squares":
            loss = ((on_real - 1).square().mean() + on_fake.square().mean()) / 2
        else:
            loss = softplus(-on_real).mean() + softplus(on_fake).mean()
        total = loss
        if self.r1 > 0:
            (slope,) = torch.autograd.grad(on_real.sum(), both, create_graph=True)
            total = (
                loss + self.number("r1") / 2 * slope.square().sum(2).sum(1).mean() / real.shape[1]
            )
        # the sum over both directions, of which losses above are the mean
        self._descend(self.d_adam, self.discriminators, 2 * total, self.number("d_lr"))
        return loss.detach()

    def _fooled(self, value: Tensor) -> Tensor:
        """The generators' adversarial loss, summed over both directions."""
        if self.loss == "least squares":
            return (value - 1).square().mean()
        return 2 * softplus(-value).mean()

    def _moved(self, x: Tensor, y: Tensor, wanted: Tensor) -> Tensor:
        """Mean |G(y) − y| and |F(x) − x| per coordinate, in σ of Y and of X."""
        swapped = torch.stack([(y - self.x_mean) / self.x_std, self.standardise(x)])
        return (self.generators(swapped) - wanted).abs().mean()

    # ------------------------------------------------------------ the two ways

    def there(self, x: Tensor) -> Tensor:
        """G of the averaged weights: rows of X (N, 2) → (N, 2), both in data units."""
        with torch.no_grad():
            out = self.average.module.one(0, (x - self.x_mean) / self.x_std)
        return self.unstandardise(out)

    def back(self, y: Tensor) -> Tensor:
        """F of the averaged weights: rows of Y (N, 2) → (N, 2), both in data units."""
        with torch.no_grad():
            out = self.average.module.one(1, self.standardise(y))
        return out * self.x_std + self.x_mean

    def judged(self, which: str, points: Tensor) -> Tensor:
        """D_Y(y) or D_X(x) in [0, 1] at points (N, 2) in data units."""
        with torch.no_grad():
            if which == "Y":
                value = self.discriminators.one(0, self.standardise(points))
            else:
                value = self.discriminators.one(1, (points - self.x_mean) / self.x_std)
        return value[:, 0].clamp(0, 1) if self.loss == "least squares" else value[:, 0].sigmoid()

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        rows = self.pool.source.train
        rng = generator or self.view_rng
        index = torch.randint(len(rows), (n,), generator=rng, device=self.device)
        return self.there(rows[index])

    # ------------------------------------------------------------ numbers and pictures

    def cycle_errors(self) -> tuple[Tensor, Tensor]:
        """|F(G(x)) − x| and |G(F(y)) − y| of held-out rows, (N,) and (M,), in σ of X and of Y."""
        x, y = self.pool.source.test[:HELD], self.pool.test[:HELD]
        round_x, round_y = self.back(self.there(x)), self.there(self.back(y))
        x_scale, y_scale = (std.square().mean().sqrt() for std in (self.x_std, self._std))
        return (round_x - x).norm(dim=1) / x_scale, (round_y - y).norm(dim=1) / y_scale

    def metrics(self) -> list[Metric]:
        on_x, on_y = self.cycle_errors()
        x, y = self.pool.source.test[:HELD], self.pool.test[:HELD]
        made = self.there(x)
        scale = float(self._std.square().mean().sqrt())
        fits = energy_distance(made[:NEAR].double(), y[-NEAR:].double()) / scale
        other = energy_distance(self._other(made)[:NEAR].double(), y[-NEAR:].double()) / scale
        error = lambda e: {"value": float(e.mean()), "se": float(e.std()) / len(e) ** 0.5}  # noqa: E731
        return [
            Metric("cycle", **error(on_x), unit="σ", floor=0.0, label="Cycle error, X → Y → X",
                   help="Mean distance |F(G(x)) − x| over held-out x: 0 where F undoes G."),
            Metric("cycle_back", **error(on_y), unit="σ", floor=0.0, label="Cycle error, Y → X → Y",
                   help="Mean distance |G(F(y)) − y| over held-out y."),
            Metric("moved", float((made - x).norm(dim=1).mean()), "", label="Moved by G",
                   help="Mean distance |G(x) − x|: two pairings that both fit may differ in it."),
            Metric("fits", fits, "σ", floor=0.0, label="G(X) against Y",
                   help=f"Energy distance of {NEAR} translated held-out x to {NEAR} held-out y."),
            Metric("fits_other", other, "σ", floor=0.0, label="Another pairing against Y",
                   help="The same after the symmetry of Y that the picture shows: about as small "
                   "where Y has one, and the cycle error is the same by construction."),
        ]  # fmt: skip

    def panels(self) -> list[Panel]:
        return pictures.panels(self)
