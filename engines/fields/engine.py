"""What engines that learn a field in noise have in common."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from engines import nets
from engines.base import Engine
from engines.capture import Capture
from engines.cells import carried_averages
from engines.data.base import Dataset, Pool
from engines.fields import ode
from engines.fields.exact import ExactPath
from engines.fields.network import Field
from engines.knobs import knob
from engines.pace import Pieces, finish


class FieldModel(Engine):
    """A `Field` fitted by least squares, with averaged weights, and a density by its ODE.

    Subclasses give `network`, `loss`, `sample`; and, where an ODE carries data to noise, `drift`,
    `drift_jacobian`, `times` and `log_base`. Data are standardised by one scale for all columns, so
    that round noise is round in data units too, and the exact field is known there (`exact`).
    """

    loss_label: ClassVar[str] = "squared error"
    capture = Capture(dials=("lr",))

    lr: float = knob(
        2e-3, 1e-5, 1e-1, log=True, live=True, label="Learning rate",
        help="Adam's step size; it falls after the first thousand steps.",
    )  # fmt: skip
    batch: int = knob(512, 16, 4096, log=True, live=True, help="Data points, each with noise of "
                      "its own, in each update.")  # fmt: skip
    width: int = knob(128, 16, 256, log=True, help="Units in each hidden layer.")
    hidden: int = knob(3, 1, 5, label="Hidden layers", help="Hidden layers of the network.")
    waves: int = knob(
        64, 0, 256, label="Sine features", kinds=("plane",),
        help="Fixed random sines of x that the network sees beside x, each only "
             "as far as the noise leaves it visible: without them sharp edges are out of its reach.",
    )  # fmt: skip
    averaged: bool = knob(
        True, view=True, label="Averaged weights",
        help="Show the network with weights averaged over recent steps, or the weights themselves.",
    )  # fmt: skip

    WARM, BEGIN, POWER = 100, 1000, 0.5  # steps of warming up; then lr falls as (BEGIN/t)^POWER
    AVERAGE = 0.999
    FINEST = 16.0  # of the waves, radians per standard deviation of the data
    dear: ClassVar[bool] = True
    field_grid: ClassVar[tuple[int, int, int]] = (100, 200, 3)
    field_views: ClassVar[tuple[str, ...] | None] = ("averaged",)  # samplers are not asked
    TILE = 1024  # rows at a time, so that activations stay in the cache
    PIECE = 512  # rows of a density, whose slopes are carried along
    CHECKED = 64  # held-out rows on which a coarse picture's ODE is solved again
    STEPS_DENSITY, STEPS_PROBE, STEPS_FIELD = 40, 20, 16  # of the ODE: asked for; live; pictures
    probe_rows: ClassVar[int] = 1000

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        if dataset.kind in ("plane", "images"):
            return None
        return f"The {cls.title} here takes points of the plane and pictures."

    # ------------------------------------------------------------ to be implemented

    def network(self, rng: torch.Generator) -> Field:
        """The network, its first weights drawn from `rng`."""
        waves = self.waves if self.dim == 2 else 0
        return Field(self.dim, self.width, self.hidden, rng, waves, self.FINEST)

    def loss(self, z: Tensor) -> Tensor:
        """The loss on standardised rows (N, dim), 0-d, with noise from `self.rng`."""
        raise NotImplementedError

    def batch_loss(self) -> Tensor:
        """`loss` on a batch of the pool's rows."""
        return self.loss(self.standardise(self.pool.batch(self.batch, self.rng)))

    def drift(self, z: Tensor, t: float) -> Tensor:
        """dz/dt of the shown network's ODE, (N, dim) → (N, dim)."""
        raise NotImplementedError

    def drift_jacobian(self, z: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """`drift`, and its Jacobian (N, dim, dim)."""
        raise NotImplementedError

    def times(self, steps: int) -> Sequence[float]:
        """Times from data to noise, steps + 1 of them."""
        raise NotImplementedError

    def log_base(self, z: Tensor) -> Tensor:
        """Log-density of the noise at the last of `times`, (N, dim) → (N,)."""
        raise NotImplementedError

    # ------------------------------------------------------------ training

    def start(self, pool: Pool) -> None:
        super().start(pool)
        self._std = self._std.square().mean().sqrt().expand(self.dim).clone()
        self.net = self.network(self.rng)
        self.average = nets.Average(self.net, copy.deepcopy(self.net), self.AVERAGE)
        self.optimiser = nets.adam(self.net.parameters(), self.lr)
        self.refresh()

    def refresh(self) -> None:
        self._exact: ExactPath | None = None
        if self.dim == 2 and ExactPath.known(self.pool.dataset):
            self._exact = ExactPath(self.pool.dataset, self._mean, float(self._std[0]))

    def live_numbers(self) -> dict[str, float]:
        t = self.age + 1
        pace = min(t / self.WARM, (self.BEGIN / t) ** self.POWER, 1)
        more = {"rate": self.lr * pace, "fade": self.average.weight(t), "next": self.step_count + 1}
        return {**super().live_numbers(), **more}

    def step(self) -> dict[str, Tensor]:
        loss = self.batch_loss()
        nets.set_lr(self.optimiser, self.number("rate"))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.average.lean(self.net, self.number("fade"))
        return {"loss": loss.detach()}

    # ------------------------------------------------------------ the model

    @property
    def shown(self) -> Field:
        """The network that is looked at, sampled and measured: averaged, or as it is."""
        return self.average.module if self.averaged else self.net

    @property
    def exact(self) -> ExactPath | None:
        """The data's exact field in noise, in standardised units; None where it is not known."""
        return self._exact

    @property
    def has_density(self) -> bool:
        # in many dimensions the Jacobian of every step of the ODE costs as many passes
        return self.dim == 2 and type(self).drift_jacobian is not FieldModel.drift_jacobian

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats by the ODE from data to noise, (N, 2) → (N,)."""
        return self.log_density(self.STEPS_DENSITY)(x)

    def field_log_prob(self, x: Tensor) -> Tensor:
        return finish(self.field_pieces(x))

    def field_pieces(self, x: Tensor) -> Pieces[Tensor]:
        return (yield from self.density_pieces(x, self.steps_shown))

    def cells_pieces(self) -> Pieces[np.ndarray | Tensor]:
        # no slopes are needed: the corners of the cells are carried along
        box, times = self.pool.dataset.extent, self.times(self.steps_shown)

        def carry(x: Tensor) -> Pieces[Tensor]:
            there = []
            for part in x.split(self.TILE):
                there.append((yield from ode.ending(self.drift, self.standardise(part), times)))
            return torch.cat(there)

        return (
            yield from carried_averages(carry, self.log_base, box, *self.cells_shown, self.device)
        )

    def field_told(self) -> Pieces[str]:
        x = self.pool.test[: self.CHECKED]
        log_q = yield from self.density_pieces(x, self.steps_shown)
        apart = (log_q - (yield from self.density_pieces(x, self.STEPS_PROBE))).abs().mean()
        return f"off by {float(apart):.2g} nats, {self.steps_shown} steps of its ODE"

    @property
    def steps_shown(self) -> int:
        """Steps of the ODE in a picture: fewer with less effort, as their cube root."""
        return round(self.STEPS_FIELD * self.effort ** (1 / 3))

    def probe_log_prob(self, x: Tensor) -> Tensor:
        return finish(self.probe_pieces(x))

    def probe_pieces(self, x: Tensor) -> Pieces[Tensor]:
        return (yield from self.density_pieces(x, self.STEPS_PROBE))

    def snapshot(self) -> FieldModel:
        out = copy.copy(self)
        # what is looked at, as the weights themselves; it will not change, and nothing else is asked
        out.net, out.averaged = copy.deepcopy(self.shown), False
        out.view_rng = torch.Generator(self.device)
        out.view_rng.set_state(self.view_rng.get_state())
        return out

    def log_density(self, steps: int) -> Callable[[Tensor], Tensor]:
        """The log-density (N, 2) → (N,) by so many steps of the ODE."""
        return lambda x: finish(self.density_pieces(x, steps))

    def density_pieces(self, x: Tensor, steps: int) -> Pieces[Tensor]:
        """That log-density at x (N, 2), a step of the ODE on `PIECE` rows at a time."""
        if not self.has_density:
            raise NotImplementedError(f"The {self.title} has a density here in the plane only.")
        times, found = self.times(steps), []
        for part in x.split(self.PIECE):
            z = self.standardise(part)
            z, log_det = yield from ode.carrying(self.drift_jacobian, z, times)
            found.append(self.log_base(z) + log_det - self.log_std)
        return torch.cat(found)


def log_normal(z: Tensor, sigma: float = 1.0) -> Tensor:
    """log N(z; 0, σ² I), (N, d) → (N,)."""
    d = z.shape[1]
    return -0.5 * (z / sigma).square().sum(1) - d * (math.log(sigma) + 0.5 * math.log(2 * math.pi))
