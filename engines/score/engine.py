"""The score-matching engine: a network's score, and Langevin chains that walk along it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from engines.base import Engine
from engines.capture import Capture
from engines.fields import Field, FieldModel
from engines.knobs import knob
from engines.marks import Metric, Panel
from engines.pace import Pieces, finish
from engines.probes import Probe
from engines.score import langevin, losses, numbers, pictures
from engines.score.langevin import Level, Trace

MANY, ONE, SLICED = "denoising, many σ", "denoising, one σ", "sliced"


class ScoreMatching(FieldModel):
    """s(z, σ) ≈ ∇ log p_σ(z), p_σ the standardised data in noise σ; samples by Langevin's chains.

    The network F (`Field`) corrects what would be right of N(0, I):
    s = −z/(1 + σ²) + F(z/√(1+σ²), log σ)/(σ √(1+σ²)), so that F has the same size at every σ
    (Karras, Aittala, Aila & Laine 2022, Elucidating the design space of diffusion-based generative
    models). A score alone gives no density and no likelihood: those are for the other tabs.

    References: Hyvärinen 2005; Vincent 2011; Song, Garg, Shi & Ermon 2019; Song & Ermon 2019.
    """

    name: ClassVar[str] = "score"
    family: ClassVar[str] = "Score matching"
    place: ClassVar[float] = 10.0
    title = "Score matching"
    tagline = (
        "Learn only the slope of log p: which way the data get denser. Then walk uphill, with "
        "noise in every step."
    )
    objective = "min_{s} E σ^{2} |s(x + σε, σ) + ε/σ|^{2},   x ← x + η²σ²/2 · s(x, σ) + ησ ξ"
    look_for = (
        "Move the slider: much noise leaves one wide hill whose slope is easy and leads everywhere, "
        "little noise leaves sharp peaks with nothing to learn from between them. Chains that go "
        "from one to the other find every mode in its right share."
    )
    paper = (
        "Hyvärinen, 2005; Vincent, 2011: A Connection Between Score Matching and Denoising "
        "Autoencoders; Song et al., 2019: Sliced Score Matching; Song & Ermon, 2019: Generative "
        "Modeling by Estimating Gradients of the Data Distribution"
    )
    density = None
    density_kind = "implicit"
    principle = "score matching"
    loss_label = "weighted loss"
    if_diverged = "Try a smaller learning rate, or a larger smallest σ."
    log_prob = Engine.log_prob  # a score alone has none
    compare: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "One σ": {"method": ONE},
        "Sliced": {"method": SLICED},
        "Not annealed": {"annealed": False},
        "Metropolis": {"metropolis": True},
    }

    method: Literal["denoising, many σ", "denoising, one σ", "sliced"] = knob(
        MANY, help="Learn from data in noise of all sizes, or of one; or from data without noise.",
    )  # fmt: skip
    sigma: float = knob(
        0.2, 0.01, 5.0, log=True, live=True, label="Noise σ", when={"method": ONE},
        help="The one noise, in standard deviations of the data: chains draw data blurred by it.",
    )  # fmt: skip
    sigma_min: float = knob(
        0.02, 0.005, 0.5, log=True, live=True, label="Smallest σ", when={"method": MANY},
        help="Where annealing ends, in standard deviations of the data: finer detail is lost.",
    )  # fmt: skip
    sigma_max: float = knob(
        5.0, 0.5, 20.0, log=True, live=True, label="Largest σ", when={"method": MANY},
        help="Where annealing begins: so large that the data look like one round cloud.",
    )  # fmt: skip
    noises: Literal["continuous", "ladder"] = knob(
        "continuous", live=True, label="Trained at", when={"method": MANY},
        help="Train at all σ between, or only at those of the ladder that chains go down.",
    )  # fmt: skip
    projections: int = knob(
        1, 1, 16, live=True, when={"method": SLICED},
        help="Random directions a row, along which the score's divergence is measured.",
    )  # fmt: skip
    annealed: bool = knob(
        True, live=True, when={"method": MANY},
        help="Chains go from the largest σ to the smallest. Without it all their moves are made "
             "at the smallest.",
    )  # fmt: skip
    levels: int = knob(
        16, 2, 64, log=True, live=True, label="Levels of noise",
        when={"method": MANY, "annealed": True},
        help="Rungs of the ladder of σ, in equal ratios; the moves are shared out among them.",
    )  # fmt: skip
    moves: int = knob(
        64, 1, 250, log=True, live=True, label="Langevin moves",
        help="Moves of each chain from its beginning to the sample, all together.",
    )  # fmt: skip
    eta: float = knob(
        1.0, 0.05, 4.0, log=True, live=True, label="Langevin step η",
        help="Noise of a move in units of σ (in tenths of the data's standard deviation where "
             "nothing was learnt in noise); its drift grows as the square, and from 2 on chains fly "
             "off.",
    )  # fmt: skip
    metropolis: bool = knob(
        False, live=True, label="Metropolis correction",
        help="Accept or refuse each move, so that large steps do no harm. The ratio of densities "
             "that it asks for is the score's integral along the move, by Simpson's rule.",
    )  # fmt: skip
    fitted: bool = knob(
        True, live=True, label="Noise fitted to the step",
        when={"method": MANY, "annealed": True, "metropolis": False},
        help="Lessen the noise of each move to √(1 − η²/4) of Langevin's, by which what is noise in "
             "a chain stays σ: else large moves make it too hot, and rare modes too full.",
    )  # fmt: skip
    noise: float = knob(
        1.0, 0.0, 2.0, live=True, when={"metropolis": False},
        help="Multiplies the noise of each move: 1 is Langevin's, 0 only climbs.",
    )  # fmt: skip
    denoise: bool = knob(
        True, live=True, label="Denoise at the end", when={"method": (MANY, ONE)},
        help="Take the last noise off each sample by Tweedie's formula, x + σ² s(x).",
    )  # fmt: skip
    chains: int = knob(
        300, 20, 1000, log=True, view=True, label="Chains drawn",
        help="Chains in the pictures, at most; fewer where each makes many moves.",
    )  # fmt: skip

    capture = Capture(dials=("lr", "sigma_min", "sigma_max", "moves", "eta", "noise"))
    UNIT = 0.1  # stands for σ where nothing was learnt in noise
    ROWS = 20_000  # chains × moves of the pictures, at most

    # ------------------------------------------------------------ training

    def refresh(self) -> None:
        super().refresh()
        self._course_key = self._rows_key = self._grid_key = None

    def loss(self, z: Tensor) -> Tensor:
        n, d = z.shape
        if self.method == SLICED:
            along = self.randn(self.projections, n, d, generator=self.rng)
            return losses.sliced(lambda x: self.score_by(self.net, x), z, along).mean() / d
        sigma = self.noise_levels(n)
        eps = self.randn(n, d, generator=self.rng)
        each = losses.denoising(lambda x: self.score_by(self.net, x, sigma), z, sigma, eps)
        # what the network is asked for has then the same size at every σ
        return ((1 + sigma[:, 0].square()) * each).mean() / d

    def live_numbers(self) -> dict[str, float]:
        low, high = self.sigma_min, self.sigma_max
        more = {"lowest": math.log(low), "range": math.log(high / low)}
        return {**super().live_numbers(), **more}

    def noise_levels(self, n: int) -> Tensor:
        """σ of n rows, (n, 1), evenly spread in log σ over their range."""
        if self.method == ONE:
            return torch.full((n, 1), self.sigma, device=self.device)
        # one in each of n strata: evener than independent draws
        u = torch.arange(n, device=self.device)
        u = (u + torch.rand(n, generator=self.rng, device=self.device)) / n
        if self.noises == "ladder":
            u = (u * self.levels).floor().clamp_max(self.levels - 1) / (self.levels - 1)
        return (self.number("lowest") + u * self.number("range")).exp()[:, None]

    # ------------------------------------------------------------ the model

    def score_by(self, net: Field, z: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        """The score of a network at noise σ, (N, 1) or one for all; of sliced score matching at
        no noise, whatever σ. (N, d) → (N, d), in standardised units."""
        sliced = self.method == SLICED
        like = {"device": z.device, "dtype": z.dtype}
        sigma = torch.full((), self.UNIT, **like) if sliced else torch.as_tensor(sigma, **like)
        small = (1 + sigma.square()).rsqrt()
        blur = None if sliced else (sigma * small).reshape(-1)
        told = net(z * small, (sigma.log() / 4).reshape(-1), blur)
        return told * (small / sigma) - z * small.square()

    @torch.no_grad()
    def learned(self, z: Tensor, sigma: float) -> Tensor:
        """s(z, σ) of the network that is shown, (N, d), in standardised units."""
        return torch.cat([self.score_by(self.shown, part, sigma) for part in z.split(self.TILE)])

    def score(self, x: Tensor, sigma: float) -> Tensor:
        """∇ log p of the data in noise σ, both in data units, (N, d) → (N, d)."""
        scale = float(self._std[0])
        return self.learned(self.standardise(x), sigma / scale) / scale

    def rungs(self) -> list[Level]:
        """The levels of noise that chains go through, under the present knobs."""
        if self.method == MANY and self.annealed:
            return langevin.ladder(
                self.sigma_max, self.sigma_min, self.levels, self.moves, self.eta
            )
        sigma = {MANY: self.sigma_min, ONE: self.sigma, SLICED: 0.0}[self.method]
        return [Level(sigma, self.eta * (sigma or self.UNIT), self.moves)]

    def begin(self, n: int, rng: torch.Generator | None = None) -> Tensor:
        """Where n chains begin, (n, d): annealed, in a round cloud as wide as the data in the
        largest noise; or else anywhere in the picture, or, of images, at any pixels."""
        rng = rng or self.view_rng
        if self.method == MANY and self.annealed:
            return math.sqrt(1 + self.sigma_max**2) * self.randn(n, self.dim, generator=rng)
        u = torch.rand(n, self.dim, generator=rng, device=self.device)
        if self.dim != 2:
            return self.standardise(u * self.pool.dataset.levels)
        x0, x1, y0, y1 = self.pool.dataset.extent
        low, side = u.new_tensor([x0, y0]), u.new_tensor([x1 - x0, y1 - y0])
        return self.standardise(low + u * side)

    @property
    def how(self) -> dict[str, Any]:
        """The noise of the moves, times ε, and whether they are accepted or refused.

        Of a lone point in noise σ a move keeps 1 − η²/2 of what is there and adds η κ σ: it stays
        σ if κ² = 1 − η²/4 (as in consistent annealed sampling, Jolicoeur-Martineau, Piché-Taillefer,
        Tachet des Combes & Mitliagkas 2021, Adversarial score matching and improved sampling).
        """
        noise = self.noise
        if self.fitted and self.annealed and self.method == MANY:
            noise *= math.sqrt(max(0.0, 1 - self.eta**2 / 4))
        return {"noise": noise, "metropolis": self.metropolis}

    def cleaned(self, z: Tensor) -> Tensor:
        """Chains at their end (N, d) → samples: without the last noise, if that is asked for."""
        if self.method == SLICED or not self.denoise:
            return z
        return langevin.denoised(self.learned, z, self.rungs()[-1].sigma)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return finish(self.sample_pieces(n, generator))

    def sample_pieces(self, n: int, generator: torch.Generator | None = None) -> Pieces[Tensor]:
        """`sample`, a move of `TILE` chains at a time."""
        rng = generator or self.view_rng
        out = []
        for part in self.begin(n, rng).split(self.TILE):  # small enough to stay in the cache
            for place, _ in langevin.walk(self.learned, part, self.rungs(), rng, **self.how):
                end = place
                yield
            out.append(self.cleaned(end))
        return self.unstandardise(torch.cat(out))

    def course(self) -> Trace:
        """Chains of the pictures, always with the same noise; made once for all pictures."""
        return finish(self.course_pieces())

    def course_pieces(self) -> Pieces[Trace]:
        """`course`, a move at a time."""
        # versions count changes in place, but not those by fused Adam, of which steps tell
        shown = tuple((id(p), p._version) for p in self.shown.parameters())
        key = (
            self.step_count,
            shown,
            self.effort,
            tuple(getattr(self, name) for name in self.knobs),
        )
        if self._course_key != key:
            dear = self.moves * (2 if self.metropolis else 1)
            n = self.some(min(self.chains, max(50, self.ROWS // dear)), 48)
            with self.still():
                self._course = yield from langevin.tracing(
                    self.learned, self.begin(n), self.rungs(), self.view_rng, **self.how
                )
            self._course_key = key
        return self._course

    # ------------------------------------------------------------ numbers and pictures

    def seen(self, n: int) -> list[float]:
        """Up to n levels of noise that pictures and numbers look at, rising; 0 is no noise."""
        if self.method != MANY:
            return [self.rungs()[0].sigma]
        low, high = self.sigma_min, self.sigma_max
        if high < 1.01 * low:
            return [low]
        return [low * (high / low) ** (i / (n - 1)) for i in range(n)]

    def metrics(self) -> list[Metric]:
        return numbers.metrics(self)

    def probes(self) -> list[Probe]:
        return numbers.probes(self)

    def panels(self) -> list[Panel]:
        return pictures.panels(self)
