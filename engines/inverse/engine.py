"""The inverse problems of a diffusion model: trained on x alone, asked for x given a part of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from engines.data.base import Dataset, Pool
from engines.diffusion.engine import Diffusion
from engines.inverse import methods, numbers, pictures
from engines.inverse.methods import Observation, Walk
from engines.knobs import action, knob
from engines.marks import Panel
from engines.pace import Pieces, finish
from engines.probes import Probe


class Inverse(Diffusion):
    """Trained as `Diffusion` is; then y = x_observed + r n is given and x | y is sampled.

    The network never sees an observation: `methods` use its denoiser alone.
    """

    name = "inverse_diffusion"
    place = 11.2
    title = "Diffusion: fill in the rest"
    tagline = "Observe one coordinate, or half a digit; the same diffusion model draws the rest."
    objective = "x ∼ p(x | y) ∝ p(x) N(y; x_{1}, r^{2}),  ∇_{z} log p(z | y) = ∇ log p(z) + ∇_{z} log p(y | z)"
    look_for = (
        "Drag the line: the samples given x₁ should follow the exact conditional. Overwriting what "
        "is observed does not tell the rest in time; repeating each step does."
    )
    paper = (
        "Lugmayr et al. (2022), RePaint; Chung et al. (2023), Diffusion posterior sampling; Boys et "
        "al. (2024), Tweedie moment projected diffusions"
    )
    compare = {
        "Each step once": {"method": "replacement", "repeats": 1},
        "Posterior sampling": {"method": "posterior sampling"},
        "Matched Gaussians": {"method": "matched Gaussians"},
    }

    method: Literal["replacement", "posterior sampling", "matched Gaussians"] = knob(
        "replacement", view=True,
        help="Overwrite what is observed after each step; or step down the slope of the miss; or "
             "correct each guess as if it were Gaussian, with the covariance that its slope tells.",
    )  # fmt: skip
    repeats: int = knob(
        6, 1, 30, log=True, view=True, label="Times each step is made",
        when={"method": "replacement"},
        help="In between, noise takes the points back, and what is not observed adapts.",
    )  # fmt: skip
    strength: float = knob(
        1.0, 0.0, 1.5, view=True, when={"method": "posterior sampling"},
        help="How far each step goes towards the observation; 0 ignores it.",
    )  # fmt: skip
    stops: int = knob(
        40, 5, 200, log=True, view=True, label="Steps with an observation",
        help="Ancestral steps from noise to data when a part of x is observed.",
    )  # fmt: skip
    column: Literal["x₁", "x₂"] = knob(
        "x₁", view=True, label="Observed", kinds=("plane",), help="The coordinate that is observed."
    )  # fmt: skip
    r: float = knob(
        0.0, 0.0, 1.0, view=True, label="Noise r of the observation", when={"task": "lower half"},
        help="Its standard deviation, in that of the data.",
    )  # fmt: skip
    task: Literal["lower half", "noisy digit"] = knob(
        "lower half", view=True, kinds=("images",),
        help="What is to be found: the lower half from the upper, or all pixels from noisy ones.",
    )  # fmt: skip
    grain: float = knob(
        0.8, 0.1, 3.0, view=True, label="Noise of the pixels", kinds=("images",),
        when={"task": "noisy digit"}, help="Its standard deviation, in that of the data.",
    )  # fmt: skip

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        if dataset.kind in ("plane", "images"):
            return None
        return "This one observes a coordinate of points in the plane, or half of a picture."

    def start(self, pool: Pool) -> None:
        super().start(pool)
        # where the line stands: looking, not training
        self.at = float(pool.val[:, self.first].median())

    def feed(self, pool: Pool) -> None:
        super().feed(pool)
        self._hold(self.at)  # back into the picture, if that has moved

    def changed(self, name: str) -> None:
        super().changed(name)
        if name == "column":
            self._hold(self.at)

    def refresh(self) -> None:
        super().refresh()
        self._truth_key, self._truth, self._drawn_line = None, None, None

    # ------------------------------------------------------------ the observation

    @property
    def first(self) -> int:
        """The observed column of the plane."""
        return 1 if self.column == "x₂" else 0

    @property
    def scale(self) -> float:
        """The data's standard deviation, one for all columns."""
        return float(self._std[0])

    def observation(self) -> Observation:
        """The line: x at `at`, known but for noise."""
        seen = torch.arange(self.dim, device=self.device) == self.first
        value = torch.where(seen, (self.at - self._mean) / self._std, 0.0)[None]
        return Observation(value, seen, self.r)

    def observed(self, x: Tensor) -> Observation:
        """What the task leaves of pictures x (N, d) in data units, with noise of its own."""
        z, r = self.standardise(x), self.r
        if self.task == "noisy digit":
            seen = torch.ones(self.dim, dtype=torch.bool, device=self.device)
            r = self.grain
        else:
            seen = torch.arange(self.dim, device=self.device) < self.dim // 2
        return Observation(z + r * self.randn(*z.shape), seen, r)

    def conditional(
        self,
        seen: Observation,
        n: int,
        method: str | None = None,
        repeats: int | None = None,
        start: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """States (n, d) on the way to n samples given the observation, by the knobs' method."""
        noising = self.noising
        walk = Walk(self.denoise, noising, noising.times(self.stops), "DDPM", self.view_rng)
        z = self.noise(n) if start is None else start
        method = method or self.method
        if method == "replacement":
            return methods.replacement(walk, z, seen, repeats or self.repeats)
        if method == "posterior sampling":
            return methods.posterior_sampling(walk, z, seen, self.strength)
        return methods.matched(walk, z, seen)

    def given(self, seen: Observation, n: int, **more) -> Tensor:
        """n samples (n, d) in data units given the observation."""
        return finish(self.given_pieces(seen, n, **more))

    def given_pieces(self, seen: Observation, n: int, **more) -> Pieces[Tensor]:
        """`given`, a state of the walk at a time."""
        for state in self.conditional(seen, n, **more):
            z = state
            yield
        return self.unstandardise(z / self.noising.at(self.noising.low)[0])

    @action("Hold what is observed", takes=("x", "y"))
    def slice(self, x: float, y: float) -> None:
        """Drag the line at which the coordinate is observed."""
        if self.pool.dataset.kind == "plane":
            self._hold(y if self.first else x)

    def _hold(self, at: float) -> None:
        if self.pool.dataset.kind == "plane":
            low, high = self.pool.dataset.extent[2 * self.first : 2 * self.first + 2]
            self.at = min(max(at, low), high)

    # ------------------------------------------------------------ numbers and pictures

    def probes(self) -> list[Probe]:
        return [*super().probes(), *numbers.probes(self)]

    def panels(self) -> list[Panel]:
        return pictures.panels(self, super().panels())
