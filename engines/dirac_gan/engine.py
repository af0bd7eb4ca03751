"""The Dirac GAN: a generator and a discriminator of one parameter each, and how they circle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from engines.base import Engine
from engines.capture import Capture
from engines.data.base import Dataset, Pool
from engines.dirac_gan import pictures
from engines.dirac_gan.game import Game, equation, values
from engines.knobs import action, knob
from engines.marks import Metric, Panel


class DiracGAN(Engine):
    """Data δ(x − x*), generator δ(x − θ), discriminator D(x) = ψ · (x − x*).

    Plain gradient descent of both players, by the exact field of `game.Game`, in float64. D(x)
    is the logit of "x is data", so that both stand at ½ where ψ = 0; the one equilibrium is
    θ = x*, ψ = 0. Nothing is drawn at random but the direction of the start, by the seed.

    References: Mescheder, Geiger & Nowozin 2018 (the game, its eigenvalues, R1, R2 and instance
    noise in it); Mescheder, Nowozin & Geiger 2017 (consensus optimisation); Gulrajani et al.
    2017 (WGAN-GP); Arjovsky, Chintala & Bottou 2017 (clipping); Sønderby et al. 2017
    (instance noise); Mao et al. 2017 (least squares, with targets ±1 as D has no offset);
    Lim & Ye 2017 (hinge). A relativistic D compares with its value on data, which is 0 here:
    that is the non-saturating game.
    """

    name: ClassVar[str] = "dirac_gan"
    family: ClassVar[str] = "GAN"
    place: ClassVar[float] = 8.05
    title = "Dirac GAN"
    tagline = (
        "A GAN of one parameter a player: its whole game is a field of arrows in a plane, and "
        "one sees why training circles and what lets it settle."
    )
    objective = "min_{θ} max_{ψ} log σ(D(x*)) + log σ(−D(θ)),  D(x) = ψ·(x − x*)"
    look_for = (
        "Left to themselves, the two players chase each other round the equilibrium. Set the cure "
        "to none, then try each; drag the point in the field, also while it plays."
    )
    paper = (
        "Mescheder, Geiger & Nowozin (2018), Which training methods for GANs do actually converge?"
    )
    density_kind = "implicit"
    principle = "adversarial"
    capture = Capture(
        "Where a step writes down its place is counted in Python, and the game is shown at a few "
        "steps a frame anyway."
    )
    made_for = "point"
    opens_on = "point"
    clip_steps = 300
    steps_a_frame = 3
    loss_label = "loss, without the cure's part"
    if_diverged = "Try a smaller step size, or a smaller γ."
    compare: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "Without a cure": {"cure": "none"},
        "Wasserstein, without a cure": {"loss": "Wasserstein", "cure": "none"},
        "Both players at once": {"order": "at once"},
    }

    loss: Literal["non-saturating", "minimax", "Wasserstein", "least squares", "hinge"] = knob(
        "non-saturating", live=True, help="What the two players minimise, as functions of D."
    )
    cure: Literal["none", "R1", "WGAN-GP", "instance noise", "clipping", "consensus"] = knob(
        "R1", live=True,
        help="What is done against the circling. R1 and R2 are the same here: a penalty on D's "
        "slope, which is ψ everywhere.",
    )  # fmt: skip
    gamma: float = knob(
        0.4, 0.01, 10.0, log=True, live=True, label="γ, strength of the cure",
        when={"cure": ("R1", "WGAN-GP", "consensus")},
        help="γ/2 times ψ² (R1), (|ψ| − 1)² (WGAN-GP) or the squared length of the field "
        "(consensus) is added.",
    )  # fmt: skip
    noise: float = knob(
        1.0, 0.05, 3.0, log=True, live=True, label="Width of the noise (σ)",
        when={"cure": "instance noise"}, help="Standard deviation of the noise on data and samples.",
    )  # fmt: skip
    clip: float = knob(
        0.5, 0.05, 3.0, log=True, live=True, label="Clip ψ at", when={"cure": "clipping"},
        help="ψ is kept within ± this after each of D's steps.",
    )  # fmt: skip
    lr: float = knob(
        0.1, 1e-3, 2.0, log=True, live=True, label="Step size (h)",
        help="Both players' step size; the arrows are what happens as it goes to 0.",
    )  # fmt: skip
    order: Literal["in turn", "at once"] = knob(
        "in turn", live=True, label="Players move",
        help="In turn: G answers to the newest D. At once: both use the old values.",
    )  # fmt: skip
    d_steps: int = knob(
        1, 1, 10, live=True, label="D steps per G step", when={"order": "in turn"},
        help="Steps of the discriminator before each step of the generator.",
    )  # fmt: skip
    radius: float = knob(
        1.5, 0.1, 2.8, label="Distance of the start",
        help="How far from the equilibrium the game begins; the seed draws the direction.",
    )  # fmt: skip
    others: Literal["cures", "losses"] = knob(
        "cures", view=True, label="Small pictures",
        help="The same start under every cure, or under every loss.",
    )  # fmt: skip

    TRAIL, COURSE = 600, 512  # last places kept for the orbit; distances kept for its course

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        if dataset.kind != "point":
            return "The Dirac GAN has a point for its data: choose the data named point."
        return None

    @classmethod
    def formula(cls, knobs: Mapping[str, Any]) -> str:
        return equation(knobs["loss"], knobs["cure"])

    # ------------------------------------------------------------ training

    def start(self, pool: Pool) -> None:
        super().start(pool)
        self._std.fill_(1.0)
        angle = 2 * math.pi * float(torch.rand((), generator=self.rng, device=self.device))
        self.players = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.trail = self.players.repeat(self.TRAIL, 1)
        self.course = torch.zeros(self.COURSE, dtype=torch.float64, device=self.device)
        x = pool.dataset.at
        self.put(x + self.radius * math.cos(angle), self.radius * math.sin(angle))

    def put(self, theta: float, psi: float) -> None:
        """Begin an orbit at θ (in data units) and ψ; what came before is forgotten."""
        self.players.copy_(torch.tensor([theta, psi], dtype=torch.float64))
        self._begin(theta, psi)

    def _begin(self, theta: float, psi: float) -> None:
        self.first_theta, self.first_psi = theta, psi
        self.moves, self.stride = 0, 1  # steps of this orbit; steps between two of `course`

    def feed(self, pool: Pool) -> None:
        super().feed(pool)
        theta, psi = self.players.tolist()
        self._begin(theta, psi)

    @property
    def target(self) -> float:
        """x*, where the data are."""
        return self.pool.dataset.at

    def game(self, **changes: Any) -> Game:
        """The game as the knobs have it, or with some of its arguments changed."""
        once = self.order == "at once"
        args = {
            "loss": self.loss, "cure": self.cure, "gamma": self.gamma, "noise": self.noise,
            "clip": self.clip, "step": self.lr, "alternating": not once,
            "d_steps": 1 if once else self.d_steps,
        }  # fmt: skip
        return Game(**{**args, **changes})

    def step(self) -> dict[str, Tensor]:
        """One step of the game. Returns both players' losses before it."""
        theta, psi = self.players[0] - self.target, self.players[1]
        loss_d, loss_g = values(self.loss, psi * 0, psi * theta)
        theta, psi = self.game().take(theta, psi)
        self.players.copy_(torch.stack([theta + self.target, psi]))
        self._record(torch.hypot(theta, psi))
        return {"discriminator": loss_d, "generator": loss_g}

    def _record(self, distance: Tensor) -> None:
        self.trail[self.moves % self.TRAIL] = self.players
        self.moves += 1
        if self.moves % self.stride:
            return
        place = self.moves // self.stride - 1
        if place == self.COURSE:  # full: every second one is let go
            self.course[: self.COURSE // 2] = self.course[1::2].clone()
            self.stride *= 2
        else:
            self.course[place] = distance

    # ------------------------------------------------------------ the model

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n times θ: all of the generator's samples are one point."""
        return self.players[0].float().expand(n, 1).clone()

    # ------------------------------------------------------------ looking back

    def seen(self) -> Tensor:
        """The last places of this orbit, (at most TRAIL + 1, 2), oldest first, its start included
        while it is not long gone."""
        if self.moves < self.TRAIL:
            first = self.players.new_tensor([[self.first_theta, self.first_psi]])
            return torch.cat([first, self.trail[: self.moves]])
        return self.trail.roll(-(self.moves % self.TRAIL), 0)

    def measured_growth(self) -> float:
        """Change of log distance a step in nats, over the last turn of this orbit; NaN at first.

        A turn, since an orbit of alternating steps is an ellipse: within one, distances swing.
        Without turning, over the last 40 steps.
        """
        x = self.seen().cpu().numpy() - [self.target, 0.0]
        if len(x) < 3:
            return math.nan
        z = x[:, 0] + 1j * x[:, 1]
        far = abs(z)
        if not far.min() > 0:
            return math.nan
        angle = np.unwrap(np.angle(z))
        turned = np.abs(angle - angle[-1])
        whole = np.nonzero(turned >= 2 * math.pi)[0]
        if len(whole):
            back = whole[-1]
        elif turned[max(0, len(x) - 41)] < 0.2 and len(x) > 41:
            back = len(x) - 41
        else:
            return math.nan
        return float(np.log(far[-1] / far[back]) / (len(x) - 1 - back))

    # ------------------------------------------------------------ numbers and pictures

    def metrics(self) -> list[Metric]:
        theta, psi = self.players.tolist()
        game = self.game()
        percent = lambda rate: 100 * math.expm1(rate)  # noqa: E731
        return [
            Metric("distance", math.hypot(theta - self.target, psi), "", "exact", floor=0.0,
                   label="Distance", help="√((θ − x*)² + ψ²), from the equilibrium."),
            Metric("growth_predicted", percent(game.growth()), "% a step", "exact",
                   label="Growth, predicted",
                   note="" if game.linear else "the penalty has a kink at ψ = 0",
                   help="How fast distances near the equilibrium change, by the larger eigenvalue "
                   "of one step: below 0 the game settles, at 0 it circles."),
            Metric("growth", percent(self.measured_growth()), "% a step", "exact",
                   label="Growth, seen", help="The same as it was over the last turn."),
        ]  # fmt: skip

    def panels(self) -> list[Panel]:
        return pictures.panels(self)

    @action("Put both players elsewhere", takes=("x", "y"), trains=True,
            help="Drag the point (θ, ψ): the game goes on from there.")  # fmt: skip
    def drag(self, x: float, y: float) -> None:
        reach = pictures.REACH
        x = self.target + min(max(x - self.target, -reach), reach)
        self.put(x, min(max(y, -reach), reach))
