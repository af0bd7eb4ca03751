"""The guided diffusion engine: one network with and without the class, and both of them mixed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from engines.capture import Capture
from engines.classes import MOST, Classes
from engines.data.base import Dataset, Pool
from engines.diffusion.engine import Diffusion
from engines.diffusion.samplers import walk
from engines.fields import Field
from engines.guided import numbers, pictures
from engines.guided.exact import ClassPath, guide
from engines.knobs import knob
from engines.marks import Panel
from engines.pace import Pieces, finish
from engines.probes import Probe


class Guided(Diffusion):
    """x̂₀(z, t, y) ≈ E[x₀ | z, y], and x̂₀(z, t) ≈ E[x₀ | z] by the same network.

    In training a share of the labels is dropped, so that it learns both; samples follow
    x̂₀ + w (x̂₀(y) − x̂₀). The density is that of no class told.
    """

    name = "guided_diffusion"
    place = 11.1
    title = "Guided diffusion"
    tagline = "A diffusion model that is told a class, and can be pushed towards it further."
    objective = "x̂_{w}(z, y) = x̂₀(z) + w (x̂₀(z, y) − x̂₀(z)),  min E[|x̂₀(z, y or nothing) − x₀|^{2}]"
    look_for = (
        "At w = 1 each class has its own density. Raise w: samples are surer of their class, but "
        "they shrink together and overshoot, away from the others. Exact guidance does so, too."
    )
    paper = (
        "Ho & Salimans (2022), Classifier-free diffusion guidance; the interval: Kynkäänniemi et "
        "al. (2024)"
    )
    compare = {
        "Labels are never dropped": {"dropout": 0.0},
        "w = 4": {"guidance": 4.0},
        "w = 4, in little noise only": {"guidance": 4.0, "guide_high": 0.5},
    }
    field_note = "density: no class told"

    lr: float = knob(
        5e-3, 1e-5, 1e-1, log=True, live=True, label="Learning rate",
        help="Adam's step size; it falls after the first thousand steps.",
    )  # fmt: skip
    width: int = knob(192, 16, 256, log=True, help="Units in each hidden layer.")
    batch: int = knob(256, 16, 4096, log=True, live=True, help="Data points, each with noise of "
                      "its own, in each update.")  # fmt: skip
    middle: float = knob(
        -0.5, -4.0, 2.0, live=True, label="Middle of log σ/α", when={"levels": "log-normal"},
        help="Where most of the training's noise is; classes are told apart in much of it.",
    )  # fmt: skip
    spread: float = knob(
        1.2, 0.1, 3.0, live=True, label="Spread of log σ/α", when={"levels": "log-normal"},
        help="How far training's noise ranges around its middle.",
    )  # fmt: skip
    dropout: float = knob(
        0.15, 0.0, 1.0, live=True, label="Labels dropped",
        help="Share of the training rows whose class is not told: the network learns from them what "
             "there is without any class, which guidance needs.",
    )  # fmt: skip
    guidance: float = knob(
        1.0, 0.0, 10.0, view=True, label="Guidance w",
        help="0: the class is ignored; 1: samples of the class; above 1: further away from what "
             "there is without the class.",
    )  # fmt: skip
    guide_low: float = knob(
        1e-3, 1e-3, 1e2, log=True, view=True, label="Guided above σ/α",
        help="In less noise than this w is 1; without effect while w is 1 anyway.",
    )  # fmt: skip
    guide_high: float = knob(
        1e2, 1e-3, 1e2, log=True, view=True, label="Guided below σ/α",
        help="In more noise than this w is 1: there guidance decides too early, and variety is "
             "lost. Without effect while w is 1 anyway.",
    )  # fmt: skip
    shown_class: int = knob(
        0, 0, MOST - 1, view=True, label="Class shown alone",
        help="The class in the pictures of one; the last there is, if there are fewer.",
    )  # fmt: skip

    capture = Capture(dials=("lr", "middle", "spread", "dropout"))
    FOLLOWING = 0.05  # how fast the shares of classes follow other data, a step

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        if dataset.kind == "images" and not dataset.classes:
            return "These pictures have no labels that a diffusion model could be guided by."
        if dataset.kind not in ("plane", "images"):
            return (
                "Guided diffusion here takes what has classes: points in the plane, or labelled "
                "pictures."
            )
        return None

    def network(self, rng: torch.Generator) -> Field:
        waves = self.waves if self.dim == 2 else 0
        return Field(self.dim, self.width, self.hidden, rng, waves, self.FINEST, classes=MOST)

    def start(self, pool: Pool) -> None:
        super().start(pool)
        # part of the model: it does not forget what it is asked for when other data come
        self.shares = self.wanted()

    def wanted(self) -> Tensor:
        """Shares (MOST,) of the classes among the training rows."""
        shares = torch.zeros(MOST, device=self.device)
        shares[: self.classes.count] = self.classes.shares
        return shares

    def refresh(self) -> None:
        super().refresh()
        self._classes = Classes(self.pool, self._mean)
        self._path, self._ideal, self._truth = None, {}, None
        if ClassPath.known(self.pool.dataset):
            self._path = ClassPath(
                self.pool.dataset, self._classes, self._mean, self._std[0].item()
            )

    @property
    def classes(self) -> Classes:
        return self._classes

    @property
    def path(self) -> ClassPath | None:
        """Exact guidance in the plane; None for pictures."""
        return self._path

    # ------------------------------------------------------------ training

    def batch_loss(self) -> Tensor:
        if self.classes.places:
            x = self.pool.batch(self.batch, self.rng)
            y = self.classes.of(x)
        else:
            train = self.pool.train
            index = torch.randint(len(train), (self.batch,), generator=self.rng, device=self.device)
            x, y = self.pool.rows(index, self.rng), self.classes.labels[index]
        return self.loss(self.standardise(x), self.dropped(y))

    def classed(self, x: Tensor) -> Tensor | None:
        return self.classes.of(x) if self.classes.places else None

    def dropped(self, y: Tensor) -> Tensor:
        """Classes (N,) with a share of them replaced by MOST, which says nothing."""
        lost = torch.rand(len(y), generator=self.rng, device=self.device) < self.number("dropout")
        return torch.where(lost, MOST, y)

    def step(self) -> dict[str, Tensor]:
        losses = super().step()
        self.shares.lerp_(self.wanted(), self.FOLLOWING)
        return losses

    # ------------------------------------------------------------ guidance

    def weight(self, t: float, w: float | None = None) -> float:
        """w at a time t of the process: that of the knob unless told, and 1 out of its interval."""
        alpha, sigma = self.noising.at(t)
        inside = self.guide_low <= sigma / alpha <= self.guide_high
        return (self.guidance if w is None else w) if inside else 1.0

    def guided(self, z: Tensor, t: float, y: Tensor, w: float | None = None) -> Tensor:
        """x̂₀ + w (x̂₀(y) − x̂₀) for z (N, d) at one time t and classes y (N,), (N, d)."""
        weight = self.weight(t, w)
        if weight == 1:
            return self.denoise(z, t, y)
        free = self.denoise(z, t)
        return free if weight == 0 else guide(free, self.denoise(z, t, y), weight)

    @property
    def asks(self) -> int:
        return 1 if self.guidance in (0, 1) else 2

    def states(
        self,
        z: Tensor,
        generator: torch.Generator | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        y: Tensor | None = None,
        w: float | None = None,
    ) -> Iterator[Tensor]:
        """z (N, d) at each time from noise to data; of classes y (N,), or drawn in their shares."""
        generator = generator or self.view_rng
        y = self.draw_classes(len(z), generator) if y is None else y
        return walk(
            sampler or self.sampler, partial(self.guided, y=y, w=w), self.noising,
            steps or self.steps, z, generator, self.eta,
        )  # fmt: skip

    def draw_classes(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n classes (n,) in their shares."""
        return torch.multinomial(self.shares, n, True, generator=generator or self.view_rng)

    @torch.no_grad()
    def sample_of(
        self,
        y: Tensor,
        generator: torch.Generator | None = None,
        z: Tensor | None = None,
        w: float | None = None,
    ) -> Tensor:
        """A sample (N, dim) in data units of each class y (N,), from noise z (N, d) if given."""
        return finish(self.pieces_of(y, generator, z, w))

    def pieces_of(
        self,
        y: Tensor,
        generator: torch.Generator | None = None,
        z: Tensor | None = None,
        w: float | None = None,
    ) -> Pieces[Tensor]:
        """`sample_of`, a step of the sampler at a time."""
        z = self.noise(len(y), generator) if z is None else z
        ends = []
        for part, mine in zip(z.split(self.TILE), y.split(self.TILE), strict=True):
            for state in self.states(part, generator, y=mine, w=w):
                end = state
                yield
            ends.append(end)
        return self.unstandardise(torch.cat(ends) / self.noising.at(self.noising.low)[0])

    def labelled(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """n samples (n, dim) in data units and the classes (n,) that were asked for."""
        return finish(self.labelled_pieces(n, generator))

    def labelled_pieces(
        self, n: int, generator: torch.Generator | None = None
    ) -> Pieces[tuple[Tensor, Tensor]]:
        """`labelled`, a step of the sampler at a time."""
        y = self.draw_classes(n, generator)
        return (yield from self.pieces_of(y, generator)), y

    def ideal(self, k: int, w: float, n: int) -> Tensor:
        """n samples (n, 2) of class k by exact guidance: what a perfect network would give. Kept.

        They come from the noise that `sample_of` takes within `still`, by DPM-Solver++.
        """
        key = (k, w, n, self.guide_low, self.guide_high, self.process, self.schedule)
        if key not in self._ideal:
            while len(self._ideal) > 40:
                self._ideal.pop(next(iter(self._ideal)))
            path, noising = self.path, self.noising
            with self.still():
                z = self.noise(n).double()

            def denoise(z: Tensor, t: float) -> Tensor:
                return path.guided(z, *noising.at(t), k, self.weight(t, w))

            *_, z = walk("DPM-Solver++", denoise, noising, pictures.STEPS_IDEAL, z)
            self._ideal[key] = self.unstandardise((z / noising.at(noising.low)[0]).float())
        return self._ideal[key]

    # ------------------------------------------------------------ numbers and pictures

    def probes(self) -> list[Probe]:
        return [*super().probes(), *numbers.probes(self)]

    def panels(self) -> list[Panel]:
        return pictures.panels(self, super().panels())
