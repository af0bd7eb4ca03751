"""Pictures of a flow: the warped grid, the way of a point, the stretching of space, images.

They see a flow as its list of layers and nothing else, so that every kind has them all.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engines.arrays import marked, numpy
from engines.cells import centres
from engines.marks import Handles, Heat, Mark, Mesh, Panel, Paths, Points, Slider
from engines.pictures import sheet

if TYPE_CHECKING:
    from engines.flow.engine import Flow
    from engines.flow.layers import Layer

KEYFRAMES, JOURNEYS, FIELD = 9, 300, 60
# of the stretching: on so many held-out points it is looked at beside the field, and so large a
# share of all these values has a colour of its own
SEEN, SHOWN = 1000, 0.85
VERTICES = 12_000  # of a warped grid, over all its states: what a line of 1 Mbit/s can carry


class States:
    """Where points are after every layer, as the picture shows them.

    Linear mixings turn the plane from layer to layer, which would hide what the layers do
    beside. So state k is seen through the mixings that are still to come, R_k: only what is
    not linear moves points. R_0⁻¹ is blended in towards k = 0, and the data's own scale
    towards k = L, so that both ends are exact: state 0 is the noise and state L the data.
    A layer without a mixing has the identity in its place.

    A few autoregressive layers are shown in halves: from the noise on, the first coordinate
    moves, then the second as the first says. So each half is a map of one coordinate, and what
    the browser draws between two stops, (1 − t) z + t y, is one-to-one as they are.
    """

    def __init__(self, engine: Flow) -> None:
        self.engine = engine
        self.layers = engine.shown.layers()
        one_by_one = all(getattr(layer, "one_by_one", False) for layer in self.layers)
        self.halves = one_by_one and 2 * len(self.layers) < KEYFRAMES
        self.stops = np.linspace(0, len(self), len(self) * (2 if self.halves else 1) + 1)
        self.frames = self._frames()

    def __len__(self) -> int:
        return len(self.layers)

    def _matrix(self, layer: Layer) -> Tensor:
        """A layer's mixing. Seen in halves it keeps its area: a coordinate that has moved shall
        stand where it will be, and not wait for the other one to be scaled back."""
        size = torch.linalg.det(layer.matrix).abs().sqrt() if self.halves else 1.0
        return layer.matrix / size

    def _halved(self, states: list[Tensor]) -> list[Tensor]:
        """States (L+1) × (N, 2) from noise to data → one more in the middle of every layer."""
        if not self.halves:
            return states
        out = states[:1]
        for layer, z, x in zip(self.layers[::-1], states[:-1], states[1:], strict=True):
            y = torch.addmm(layer.shift, x, self._matrix(layer))
            out += [torch.cat([y[:, :1], z[:, 1:]], 1), x]
        return out

    def _frames(self) -> Tensor:
        """Affine maps (S, 3, 3), one for every stop, from the noise to the data."""
        engine, eye = self.engine, torch.eye(3, device=self.engine.device)
        rest = [eye]  # from the data side: R_L, R_{L−1}, …
        for layer in self.layers:
            mix = eye.clone()
            if hasattr(layer, "matrix"):
                mix[:2, :2], mix[2, :2] = self._matrix(layer), layer.shift
            rest.append(torch.linalg.inv(mix) @ rest[-1])
        # halfway a layer's mixing is still to come
        rest = torch.stack([rest[::-1][int(stop)] for stop in self.stops])
        scale = torch.diag(torch.cat([engine._std, torch.ones_like(engine._std[:1])]))
        scale[2, :2] = engine._mean
        k = torch.linspace(0, 1, len(self.stops), device=engine.device)[:, None, None]
        return rest @ torch.lerp(torch.linalg.inv(rest[0]), eye, k) @ torch.lerp(eye, scale, k)

    def _seen(self, states: list[Tensor]) -> Tensor:
        """States (L+1) × (N, 2), from noise to data → (S, N, 2), their places in the picture."""
        y = torch.stack([state.float() for state in self._halved(states)])
        return y @ self.frames[:, :2, :2] + self.frames[:, 2:, :2]

    def from_noise(self, z: Tensor) -> Tensor:
        """Noise (N, 2) → (S, N, 2): its place at every stop, after 0, 1, … L layers."""
        states = [z]
        for layer in reversed(self.layers):
            states.append(layer.inverse(states[-1]))
        return self._seen(states)

    def from_data(self, x: Tensor) -> Tensor:
        """Data (N, 2) → (S, N, 2), from its noise to itself."""
        states = [self.engine.standardise(x)]
        for layer in self.layers:
            states.append(layer.forward(states[-1])[0])
        return self._seen(states[::-1])

    def keys(self) -> np.ndarray:
        """Numbers of the stops that travel to the browser, which fills in what is between."""
        n = len(self.stops) - 1
        return np.unique(np.linspace(0, n, min(n + 1, KEYFRAMES)).round()).astype(int)


def panels(engine: Flow) -> list[Panel]:
    kind = engine.pool.dataset.kind
    return plane(engine) if kind == "plane" else images(engine) if kind == "images" else []


def plane(engine: Flow) -> list[Panel]:
    box = engine.pool.dataset.extent
    n = engine.shown.depth

    def slider() -> Slider:
        return Slider("layer", 0, n, n, ("noise", "data"))

    def grid() -> list[Mark]:
        e, lines, states = engine.grid_extent, engine.grid_lines, States(engine)
        keys = states.keys()
        # a bent line needs vertices between its crossings
        every = max(1, min(3, int(math.sqrt(VERTICES / len(keys)) / lines)))
        lines = (lines - 1) * every + 1
        half = e * (1 + 1 / (lines - 1))  # cell centres of this box end at ±e
        z = engine.shown.base.place(centres((-half, half, -half, half), lines, engine.device))
        xy = states.from_noise(z)[keys].reshape(len(keys), lines, lines, 2)
        at = states.stops[keys]
        return [Mesh(marked(xy), "model", every=every, keys=at, label="noise grid")]

    def journey() -> list[Mark]:
        z = engine.noise(JOURNEYS)
        sector = ((torch.atan2(z[:, 1], z[:, 0]) / math.pi + 1) * 4).floor().clamp(0, 7)
        states = States(engine)
        keys = states.keys()
        path = numpy(states.from_data(engine.probe())[:, 0])
        return [
            Points(marked(states.from_noise(z)[keys]), group=marked(sector.int()),
                   keys=states.stops[keys], label="by direction in the noise"),
            Paths(path[None], "truth", 1.6, opacity=0.9, label="the point's way"),
            Handles(path[:1], "follow_noise", ("noise",), "noise"),
            Handles(path[-1:], "follow", ("data",), "data"),
        ]  # fmt: skip

    def stretch() -> list[Mark]:
        # in the data's own standard deviations: bringing it to unit spread, which every flow
        # does first, would lay one colour over all that it learns
        _, area = engine.forward(centres(box, FIELD, engine.device))
        _, seen = engine.forward(engine.pool.test[:SEEN])
        field, there = (
            numpy((log_det + engine.log_std).nan_to_num(0.0, 1e4, -1e4)) for log_det in (area, seen)
        )
        # far from all data some flows squeeze beyond measure: it is the data's surroundings that
        # shall have the colours, in steps of half a nat so that they do not flicker
        size = np.quantile(np.abs(np.concatenate([field, there])), SHOWN)
        hi = max(1.0, np.ceil(2 * size) / 2)
        return [Heat(field.reshape(FIELD, FIELD), box, "plain", "diverging", hi=float(hi),
                     gamma=1.0, label="log|det ∂f/∂x|", unit="nats")]  # fmt: skip

    return [
        Panel("grid", "Noise grid, warped", grid,
              f"it bends, and never tears; to ±{engine.grid_extent:g} σ", box,
              "small", slider(), hz=3,
              help="A square grid in the noise, carried to the data: it may bend and squeeze, "
                   "but never tear or cross itself. It is seen without the turns between layers. "
                   "Within an autoregressive layer one coordinate moves after the other."),
        Panel("journey", "From noise to data", journey, "colours: direction in the noise",
              box, "small", slider(), hz=3,
              help="The same samples at every layer. Drag either ring: the data to see where "
                   "it lies in the noise, the noise to see what it becomes."),
        Panel("logdet", "How f stretches space", stretch, "log|det ∂f/∂x|, x in σ of the data", box, "small", hz=4,
              help="f carries data, measured in their standard deviations, to noise. Red: it "
                   "spreads a small area of data over much noise. Blue: it squeezes. Density is "
                   "high where it spreads, and where it leads to the middle of the noise."),
    ]  # fmt: skip


def images(engine: Flow) -> list[Panel]:
    pool = engine.pool

    def between() -> list[Mark]:
        rows, columns = 6, 10
        a, b = engine.encode(pool.test[: 2 * rows]).split(rows)
        t = torch.linspace(0, 1, columns, device=engine.device)[None, :, None]
        # along the great circle: halfway on a straight line the noise would be too short
        angle = torch.acos(F.cosine_similarity(a, b).clamp(-0.999, 0.999))[:, None, None]
        way = ((1 - t) * angle).sin() * a[:, None] + (t * angle).sin() * b[:, None]
        way = engine.shown.base.hold((way / angle.sin()).reshape(-1, engine.dim))
        return [sheet(engine, engine.decode(way), columns, "from one held-out image to another")]

    return [
        Panel("interpolation", "Between two held-out images", between,
              "a great circle in the noise, decoded", None, "large", hz=2,
              help="Left and right are real; a good map of the data has plausible images "
                   "all along the way."),
    ]  # fmt: skip
