"""The pictures that every model shares: model, truth, their difference, and the curves.

They need nothing but `sample`, `log_prob` and the dataset, so each new family has them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engines.arrays import marked, numpy
from engines.cells import cell_average
from engines.kde import through_kernel
from engines.marks import Box, Curve, Curves, Heat, Images, Mark, Panel, Paths, Points
from engines.pace import Pieces

if TYPE_CHECKING:
    from engines.base import Engine
    from engines.data.base import Dataset
    from engines.lanes import Lane

GRID = 100
SAMPLES = 1000

_fields: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()  # read-only, for all visitors
_fields_lock = threading.Lock()
FIELDS = 64  # kept; 40 kB each


def density_field(dataset: Dataset, n: int = GRID) -> np.ndarray | None:
    """Cell averages of the data's density, (n, n); None where there is none. Kept.

    It is exact, or an estimate where `dataset.trust` says so.
    """
    if not dataset.has_density or dataset.dim != 2:
        return None
    key = (dataset.key, n)
    with _fields_lock:
        if key in _fields:
            _fields.move_to_end(key)
            return _fields[key]
    field = dataset.cells(n)
    if field is None:
        field = cell_average(dataset.log_prob, dataset.extent, n, refine=n * n // 4, sub=6)
    with _fields_lock:
        _fields[key] = field
        while len(_fields) > FIELDS:
            _fields.popitem(last=False)
    return field


def exact_field(dataset: Dataset, n: int = GRID) -> np.ndarray | None:
    """Cell averages of the exact density, (n, n); None where it is not known."""
    return density_field(dataset, n) if dataset.exact else None


def log_ratio(q: np.ndarray, p: np.ndarray, box: Box) -> tuple[np.ndarray, float]:
    """log (q + ε)/(p + ε) cell by cell, and ε: 2 % of the box's uniform density.

    The floor ε keeps places where both are practically zero from filling the picture.
    """
    epsilon = 0.02 / ((box[1] - box[0]) * (box[3] - box[2]))
    return np.log((q + epsilon) / (p + epsilon)), epsilon


# ---------------------------------------------------------------- panels


def shared(lane: Lane) -> list[Panel]:
    """The shared panels of one lane, for its kind of data."""
    kind = lane.engine.pool.dataset.kind
    draw = {"plane": _plane, "line": _line, "images": _images, "vectors": _vectors,
            "sequence": _sequence}.get(kind)  # fmt: skip
    pictures = draw(lane) if draw else []
    return [*pictures, *_curves(lane)]


def _name(lane: Lane, title: str) -> str:
    return f"{title} · {lane.label}" if lane.label else title


def data_points(engine: Engine, n: int = SAMPLES, opacity: float = 0.45) -> Points:
    """The first n held-out points, in the data's colour."""
    return Points(
        marked(engine.pool.test[:n]), "data", size=1.6, opacity=opacity, label="data", static=True
    )


def shades(dataset: Dataset, x: Tensor) -> Tensor:
    """Rows of images (…, dim) in data units → (…, H, W) float32 in [0, 1], what `Images` takes."""
    shape = (*x.shape[:-1], *dataset.shape[-2:])
    return (x / dataset.levels).clamp(0, 1).reshape(shape).float()


def pixels(dataset: Dataset, x: Tensor) -> np.ndarray:
    """The same as an array, for further work."""
    return numpy(shades(dataset, x))


def sheet(
    engine: Engine, x: Tensor, columns: int, label: str, tags: list[str] | None = None, **more
) -> Images:
    """Images (N, dim) in data units, `columns` of them in a row."""
    return Images(marked(shades(engine.pool.dataset, x)), columns, tags, label, **more)


def verdict(field: Tensor, box: Box, label: str = "D(x) − ½", hi: float = 0.5) -> Heat:
    """What a discriminator says in the cells of a grid, (n, n), less its middle, which is pale."""
    return Heat(marked(field), box, "discriminator", "diverging", hi=hi, gamma=1.0, label=label)


def noise_grid(n: int, dim: int, device: torch.device) -> Tensor:
    """Crossings of n × n lines (n², dim ≥ 2) that cut N(0, I)'s first two dimensions into cells
    of equal probability, from its 1 % to its 99 % quantile; the other dimensions are 0."""
    edge = torch.special.ndtri(torch.linspace(0.01, 0.99, n, device=device))
    z = torch.zeros(n * n, dim, device=device)
    z[:, :2] = torch.cartesian_prod(edge, edge)
    return z


def _plane(lane: Lane) -> list[Panel]:
    engine = lane.engine
    dataset = engine.pool.dataset
    box = dataset.extent
    field = density_field(dataset)
    exact = dataset.exact
    hat = "p" if exact else "p̂"  # what is estimated wears a hat, and says so

    def density() -> np.ndarray | Tensor:
        return lane.density.get(lane.density_key, lane.fresh)  # the same for both panels

    def model() -> Pieces[list[Mark]]:
        drawn = yield from engine.sample_pieces(engine.some(SAMPLES, 200))
        marks: list[Mark] = [heat()] if engine.has_density else []
        marks.append(data_points(engine, 600, 0.35))
        marks.append(Points(marked(drawn), "model", label="samples of the model"))
        return marks

    def heat() -> Heat:
        return Heat(density(), box, label="q(x)", unit="per unit area")

    def renew(panel: Panel) -> None:
        panel.marks, panel.subtitle = [heat(), *panel.marks[1:]], about()

    def truth() -> list[Mark]:
        heat = [] if field is None else [
            Heat(field, box, label=f"{hat}(x)", unit="per unit area", static=True)
        ]  # fmt: skip
        return [*heat, data_points(engine)]

    def error() -> list[Mark]:
        q = numpy(torch.as_tensor(density()))
        if len(q) == engine.field_grid[0]:
            p = density_field(dataset, len(q))
        else:  # a coarser one: the same cells of the density, without working it out anew
            p = numpy(through_kernel(torch.from_numpy(density_field(dataset)), box, len(q)))
        ratio, epsilon = log_ratio(q, p, box)
        return [Heat(ratio, box, "plain", "diverging", hi=3.0, gamma=1.0,
                     label=f"log (q+ε)/({hat}+ε), ε = {epsilon:.1g}", unit="nats")]  # fmt: skip

    def about() -> str:
        if not engine.has_density:
            return "data in blue"
        told = "; ".join(part for part in (engine.field_note, lane.density.told) if part)
        return f"{told}; samples in orange" if told else "its samples in orange, data in blue"

    def apart() -> str:
        said = "log q − log p, nats" if exact else "log q − log p̂, nats"
        return f"{said}; {lane.density.told}" if lane.density.told else said

    title = "Model density" if engine.has_density else "Samples of the model"
    panels = [
        Panel("model", _name(lane, title), model, about, box, "large",
              renew=renew if engine.has_density else None,
              help="What the model believes now: its density as a field, its samples in orange."),
    ]  # fmt: skip
    guess = field is not None and not exact
    if lane.index == 0:
        title = "Data" if field is None else "Exact density" if exact else "Data, kernel estimate"
        what = "the exact density and points the model never saw."
        if guess:
            what = ("points the model never saw. The field is a kernel estimate from the training "
                    "points: the true density behind points is not known.")  # fmt: skip
        panels.append(
            Panel("truth", title, truth, "held-out points in blue", box, "large", estimate=guess,
                  hz=0.5, help=f"What there is to learn: {what}")
        )  # fmt: skip
    if field is not None and engine.has_density:
        misses = "Red: the model puts mass that is not there. Blue: it misses mass that is."
        if guess:
            misses = ("Red: the model puts more mass than p̂, the kernel estimate. Blue: less. The "
                      "estimate blurs, so sharp true edges look too sharp.")  # fmt: skip
        panels.append(
            Panel("error", _name(lane, "Learned − exact" if exact else "Learned − estimate"),
                  error, apart, box, "large", estimate=guess, hz=10, help=misses),
        )  # fmt: skip
    return panels


def _vectors(lane: Lane) -> list[Panel]:
    """The first two coordinates: of the model's samples on the data, and of the data alone."""
    engine = lane.engine
    box, about = engine.pool.dataset.extent, f"the first two of {engine.pool.dim} coordinates"

    def first(points: Points) -> Points:
        points.xy = points.xy[:, :2]
        return points

    def model() -> list[Mark]:
        rows = engine.sample(engine.some(SAMPLES, 200))
        drawn = Points(marked(rows), "model", label="samples of the model")
        return [first(data_points(engine, 600, 0.35)), first(drawn)]

    panels = [Panel("model", _name(lane, "Samples of the model"), model, about, box, "large",
                    help="Samples in orange, data in blue, as far as a plane can show them.")]  # fmt: skip
    if lane.index == 0:
        panels.append(Panel("truth", "Data", lambda: [first(data_points(engine))], about, box,
                            "large", hz=0.5, help="Points that the model never saw."))  # fmt: skip
    return panels


def _sequence(lane: Lane) -> list[Panel]:
    """Whole walks (T, 2) of the model, on those of the data."""
    engine = lane.engine
    dataset = engine.pool.dataset

    def walks(rows: Tensor, role: str, label: str, **more) -> Paths:
        return Paths(marked(rows).reshape(-1, *dataset.shape), role, label=label, **more)

    def model() -> list[Mark]:
        held = walks(engine.pool.test[:40], "data", "data", opacity=0.3, static=True)
        return [held, walks(engine.sample(40), "model", "walks of the model")]

    return [
        Panel("model", _name(lane, "Walks of the model"), model, "from start to end; data in blue",
              dataset.extent, "large", hz=10, help="Walks that the model makes all by itself."),
    ]  # fmt: skip


def over(x: np.ndarray, y: np.ndarray, role: str = "model", label: str = "", **more) -> Paths:
    """The graph of y (N,) over x (N,), or of several y (P, N), for a panel that is not `equal`."""
    y = np.atleast_2d(y)
    xy = np.stack([np.broadcast_to(x, y.shape), y], -1).astype(np.float32)
    return Paths(xy, role, **{"width": 2.0, "opacity": 1.0, "label": label, **more})


LINE = 400  # cells across the line


def _line(lane: Lane) -> list[Panel]:
    """Densities as graphs; of a model without one, a histogram of its samples."""
    engine = lane.engine
    dataset = engine.pool.dataset
    x0, x1 = dataset.extent[:2]
    x = np.linspace(x0, x1, LINE + 1)
    rows = torch.from_numpy(x[:, None]).float().to(engine.device)
    log_p = numpy(dataset.log_prob(rows)).astype(np.float64)

    def model() -> list[Mark]:
        marks: list[Mark] = [over(x, np.exp(log_p), "data", "p, the data", fill=True)]
        if engine.has_density:
            q = numpy(engine.field_log_prob(rows).exp())
            return [*marks, over(x, q, "model", "q, the model", fill=True)]
        edges = np.linspace(x0, x1, 81)
        counts = np.histogram(numpy(engine.sample(4 * SAMPLES)), edges)[0]
        height = counts / (4 * SAMPLES * (edges[1] - edges[0]))
        steps = np.repeat(edges, 2)[1:-1], np.repeat(height, 2)
        return [*marks, over(*steps, "model", "samples of the model, counted", fill=True)]

    def error() -> list[Mark]:
        log_q = numpy(engine.field_log_prob(rows)).astype(np.float64)
        epsilon = 0.02 / (x1 - x0)
        ratio = np.log((np.exp(log_q) + epsilon) / (np.exp(log_p) + epsilon))
        label = f"log (q+ε)/(p+ε), ε = {epsilon:.1g}"
        return [over(x, ratio.clip(-3, 3), "lost", label, fill=True)]

    title = "Model density" if engine.has_density else "Samples of the model"
    panels = [
        Panel("model", _name(lane, title), model, "and the exact density", dataset.extent, "large",
              equal=False, help="What there is to learn, and what the model believes now."),
    ]  # fmt: skip
    if engine.has_density:
        panels.append(
            Panel("error", _name(lane, "Learned − exact"), error, "log q − log p, nats",
                  (x0, x1, -3.0, 3.0), "large", hz=10, equal=False,
                  help="Above 0 the model puts mass that is not there; below, it misses mass that is.")
        )  # fmt: skip
    return panels


def _images(lane: Lane) -> list[Panel]:
    engine = lane.engine

    def samples() -> Pieces[list[Mark]]:
        return [sheet(engine, (yield from engine.sample_pieces(100)), 10, "samples of the model")]

    def data() -> list[Mark]:
        return [sheet(engine, engine.pool.test[:100], 10, "held-out data", static=True)]

    def neighbours() -> Pieces[list[Mark]]:
        from engines.metrics import nearest

        drawn = yield from engine.sample_pieces(30)
        found = engine.pool.train[nearest(drawn, engine.pool.train.float())[1]]
        pairs = torch.stack([drawn, found.float()], 1).flatten(0, 1)
        return [sheet(engine, pairs, 10, "sample, then its nearest training image")]

    panels = [
        Panel("samples", _name(lane, "Samples of the model"), samples, "the same noise all along",
              None, "large", hz=10, help="Each cell keeps its noise, so you watch it take shape."),
        Panel("neighbours", _name(lane, "Memory or invention?"), neighbours,
              "sample, then nearest training image", None, "small", hz=2,
              help="Pairs that look the same are copies, not inventions."),
    ]  # fmt: skip
    if lane.index == 0:
        panels.insert(1, Panel("data", "Held-out data", data, "the model never sees these",
                               None, "large", hz=0.5))  # fmt: skip
    return panels


def _curves(lane: Lane) -> list[Panel]:
    engine = lane.engine
    dataset = engine.pool.dataset

    def line(name: str, track, role: str, ghost: bool = False) -> Curve:
        return Curve(name, np.asarray(track.steps), np.asarray(track.values), role, ghost=ghost)

    def above_zero(curve: Curve) -> Curve:
        # an estimate may fall below zero, where a logarithmic axis has no place: a gap
        curve.y = np.where(curve.y > 0, curve.y, np.nan)
        return curve

    def losses() -> list[Mark]:
        roles = dict(
            zip(
                lane.tracks or lane.ghosts, ("model", "generator", "density", "score"), strict=False
            )
        )
        for name in ("discriminator", "generator"):
            if name in roles:
                roles[name] = name
        lines = [
            line(f"{k}, before", t, roles.get(k, "plain"), ghost=True)
            for k, t in lane.ghosts.items()
        ]
        lines += [line(k, t, roles.get(k, "plain")) for k, t in lane.tracks.items()]
        known = engine.loss_is_nll and dataset.kind in ("line", "plane", "vectors", "sequence")
        exact = dataset.entropy if known else None
        levels = [] if exact is None else [("entropy of the data", float(exact))]
        return [Curves(lines, levels, y_label=engine.loss_label)]

    def distances() -> list[Mark]:
        tracks = lane.metric_tracks
        names = {"kl_pq": ("KL(p‖q)", "model"), "kl_qp": ("KL(q‖p)", "generator"),
                 "bits_val": ("validation", "model"), "bits_train": ("training", "data"),
                 "sliced_w2": ("sliced W₂", "model"), "energy": ("energy distance", "model")}  # fmt: skip
        first = [k for k in ("kl_pq", "kl_qp", "bits_val", "bits_train") if k in tracks]
        # without a density there is one distance in the unit of the data
        chosen = first or [k for k in ("sliced_w2", "energy") if k in tracks][:1]
        lines = [line(names[k][0], tracks[k], names[k][1]) for k in chosen]
        lines = lines if first and first[0].startswith("bits") else [above_zero(c) for c in lines]
        if not dataset.exact:
            for curve in lines:
                curve.name = curve.name.replace("p‖", "p̂‖").replace("‖p", "‖p̂")
        bits = any(k.startswith("bits") for k in chosen)
        unit = "bits/dim" if bits else "nats" if first else "data σ"
        return [Curves(lines, y_label=unit, log_y=not bits)]

    def followed(name: str, unit: str) -> Panel:
        def course() -> list[Mark]:
            track = lane.metric_tracks.get(name)
            return [Curves([line(title, track, "model")] if track else [], y_label=unit)]

        title = engine.followed[name][0]
        return Panel(f"distance_{name}", _name(lane, title), course, unit, None, "wide", hz=2)

    guess = dataset.has_density and not dataset.exact and engine.has_density
    far = {
        "plane": "Distance to the data" if guess else "Distance to the truth",
        "images": "Distance to held-out data",
    }
    if dataset.kind == "images" and engine.has_density:
        far["images"] = "Held-out and training"
    return [
        Panel("loss", _name(lane, "Loss"), losses, engine.loss_label, None, "wide", hz=4),
        Panel("distance", _name(lane, far.get(dataset.kind, "Distance to the truth")), distances,
              "p̂: kernel estimate" if guess else "", None, "wide", estimate=guess, hz=2),
        *(followed(name, unit) for name, (_, unit) in engine.followed.items()
          if name in lane.metrics or name in lane.metric_tracks),
    ]  # fmt: skip
