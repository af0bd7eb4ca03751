"""The kinds of flow that the knob `kind` offers, and a Model: one of them with its base."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engines.flow import bases
from engines.flow.affine import Glow, RealNVP
from engines.flow.autoregressive import BOUND, IAF, MAF, MANY, STRETCH, SplineAutoregressive
from engines.flow.conditioner import Conditioner
from engines.flow.continuous import Continuous
from engines.flow.layers import Layer, forward
from engines.flow.planar import Planar, Radial
from engines.flow.spline import SplineCoupling


@dataclass(frozen=True)
class Entry:
    """What the engine must know of a kind.

    Args:
        make: see `layers.Kind`.
        knobs: the engine's knobs that this kind takes beside the shared ones.
        most: the largest number of coordinates that it can be trained on.
        depth: the engine's knob that says how many layers there are.
        pace: times the learning rate, so that one setting of the knob serves all kinds.
        calm: times the pace above MANY coordinates, where rows are few for all there is to learn.
        decay: after so many steps the learning rate falls like step^−power.
        box: where data that are whole numbers with noise added, and so lie in a box, go to
            [−box, box], where the first layer's interval ends; None for the whole line.
        networked: whether it has networks, with a `width` and `hidden` layers.
    """

    make: Callable[..., nn.Module]
    knobs: tuple[str, ...] = ()
    most: int = 4096
    networked: bool = True
    depth: str = "layers"
    pace: float = 1.0
    calm: float = 1.0
    decay: tuple[int, float] = (300, 0.5)
    box: float | None = None

    def rate(self, dim: int) -> float:
        """What the learning rate is multiplied by for d coordinates."""
        return self.pace * self.calm if dim > MANY else self.pace


KINDS = {
    "spline": Entry(
        SplineAutoregressive,
        ("bins",),
        depth="splines",
        pace=3.0,
        calm=1 / 3,
        decay=(1000, 0.75),
        box=BOUND / STRETCH,
    ),
    "spline coupling": Entry(
        SplineCoupling, ("bins",), depth="splines", pace=3.0, decay=(1000, 0.75)
    ),
    "RealNVP": Entry(RealNVP, ("mixing",)),
    "Glow": Entry(Glow),
    "MAF": Entry(MAF),
    "IAF": Entry(IAF, most=IAF.MAX_DIM),
    "continuous": Entry(Continuous, most=2),
    "planar": Entry(Planar, networked=False, pace=5.0),
    "radial": Entry(Radial, networked=False, pace=5.0),
}


class Model(nn.Module):
    """A flow and its base, which learn together.

    Args:
        flow: of one kind, see `layers.Kind`.
        base: of engines/flow/bases.py.
    """

    def __init__(self, flow: nn.Module, base: bases.Gaussian) -> None:
        super().__init__()
        self.flow, self.base = flow, base

    @classmethod
    def make(cls, dim: int, knobs: Mapping[str, Any], rng: torch.Generator) -> Model:
        """As the engine's knobs say, with first weights from `rng`."""
        entry = KINDS[knobs["kind"]]
        own = {name: knobs[name] for name in entry.knobs}
        size = (knobs[entry.depth], knobs["width"], knobs["hidden"])
        flow = entry.make(dim, *size, rng, **own)
        base = {
            "Gaussian": lambda: bases.Gaussian(dim),
            "uniform": lambda: bases.Uniform(dim),
            "mixture": lambda: bases.GaussianMixture(dim, knobs["components"], rng.device),
        }[knobs["base"]]()
        return cls(flow, base)

    def prepare(self, x: Tensor, rng: torch.Generator) -> None:
        """First values that depend on the data, from standardised rows x (N, d)."""
        if hasattr(self.flow, "prepare"):
            self.flow.prepare(x)
        self.base.prepare(forward(self.layers(), x)[0], rng)

    @contextlib.contextmanager
    def dropout(self, rng: torch.Generator) -> Iterator[None]:
        """Within it the layers are those of training: some units are left out, as `rng` says."""
        parts = [part for part in self.modules() if isinstance(part, Conditioner)]
        for part in parts:
            part.dropping = rng
        try:
            yield
        finally:
            for part in parts:
                part.dropping = None

    def layers(self) -> list[Layer]:
        """In the order from data to noise."""
        return [*self.flow.layers(), *self.base.layers()]

    @functools.cached_property
    def depth(self) -> int:
        """How many layers there are, without making them."""
        return len(self.layers())
