"""Pictures and numbers of a style-based GAN: the warp z → w → x, mixing, and truncation."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engines.arrays import marked
from engines.cells import centres
from engines.marks import Mark, Mesh, Metric, Panel, Paths, Points, Slider
from engines.metrics import nearest_ratio
from engines.pictures import data_points, noise_grid, sheet, verdict
from engines.style.networks import detour

if TYPE_CHECKING:
    from engines.style.engine import StyleGAN

MESH, FIELD = 25, 64
KEYS = np.array([0.0, 0.5, 1.0], dtype=np.float32)
SOURCES, EACH = 6, 80  # sources of early layers on the plane, and mixtures with each
TRAILS, ALONG = 80, 16
TABLE = (9, 9)  # rows and columns of the table of mixtures
ROWS, COLUMNS = 8, 10
PAIRS, STEPS = 200, 24  # lines that detours are measured on, and points of each
MEASURED, AMONG = 1000, 5000


def layers(engine: StyleGAN) -> str:
    k, most = engine.crossover, engine.LAYERS
    return f"{k} layers of one source, {most - k} of another"


# ---------------------------------------------------------------- the plane


def plane_panels(engine: StyleGAN) -> list[Panel]:
    box = engine.pool.dataset.extent
    own = [
        Panel("mixing", "Style mixing", partial(mixing, engine), layers(engine), box, "small", hz=6,
              help=f"Each colour is one of {SOURCES} sources, whose style goes to the early layers; "
              "the late ones get styles of many others. A tight group: the early layers decide."),
        Panel("truncation", "Truncation, from ψ = 1 to 0", partial(trails, engine),
              "each sample's way to the mean style", box, "small", hz=6,
              help="Styles are drawn to their mean. On the way samples may cross places where "
              "there are no data, for nothing holds the mean style on them."),
        Panel("discriminator", "Discriminator D(x)", partial(discriminator, engine),
              "above ½: data; below: a sample", box, "small", hz=6,
              help="D's probability that a point is data, with data and samples."),
    ]  # fmt: skip
    if engine.latent < 2 or engine.styles < 2:
        return own
    sliced = f"; a slice, 2 of {engine.latent} noise dimensions" if engine.latent > 2 else ""
    warped = Panel(
        "warp", "Noise z, style w, data", partial(warp, engine),
        f"w: its first two dimensions{sliced}", box, "small",
        Slider("from noise to data", 0.0, 1.0, 1.0, ("noise z", "data")), hz=8,
        help="A grid over the noise; half-way stands its style, at the data's scale, and at the "
        "end what the layers make of it. In between, straight lines.",
    )  # fmt: skip
    return [warped, *own]


def warp(engine: StyleGAN) -> list[Mark]:
    z = noise_grid(MESH, engine.latent, engine.device)
    w = engine.style(z)
    flat = w[:, :2]
    flat = (flat - flat.mean(0)) / flat.std(0).clamp_min(1e-6)
    journey = torch.stack(
        [engine.unstandardise(z[:, :2]), engine.unstandardise(flat), engine.synthesise(w)]
    )
    return [Mesh(marked(journey).reshape(3, MESH, MESH, 2), "noise", keys=KEYS)]


def mixing(engine: StyleGAN) -> list[Mark]:
    early = engine.style(engine.randn(SOURCES, engine.latent)).repeat_interleave(EACH, 0)
    late = engine.style(engine.randn(EACH, engine.latent)).repeat(SOURCES, 1)
    group = np.arange(SOURCES).repeat(EACH)
    x = engine.mix(early, late, engine.crossover)
    own = engine.synthesise(early[::EACH])
    return [
        data_points(engine, 500, 0.2),
        Points(marked(x), "model", group=group, label="mixtures, by their first source"),
        Points(marked(own), "model", 5.0, group=np.arange(SOURCES), opacity=1.0, label="sources"),
    ]


def trails(engine: StyleGAN) -> list[Mark]:
    z = engine.randn(TRAILS, engine.latent)
    ways = [engine.style(z, psi) for psi in torch.linspace(1, 0, ALONG).tolist()]
    x = engine.synthesise(torch.stack(ways, 1).flatten(0, 1)).view(TRAILS, ALONG, 2)
    return [
        data_points(engine, 500, 0.25),
        Paths(marked(x), "generator", 1.0, opacity=0.6, label="from ψ = 1 to ψ = 0"),
        Points(marked(engine.sample(300)), "model", label="samples at the present ψ"),
        Points(marked(x[:1, -1]), "truth", 6.0, opacity=1.0, label="the mean style"),
    ]


def discriminator(engine: StyleGAN) -> list[Mark]:
    box = engine.pool.dataset.extent
    field = engine.probability(centres(box, FIELD, engine.device)).reshape(FIELD, FIELD)
    return [
        verdict(field - 0.5, box),
        data_points(engine, 400, 0.35),
        Points(marked(engine.sample(400)), "model", label="samples of the model"),
    ]


# ---------------------------------------------------------------- images


def image_panels(engine: StyleGAN) -> list[Panel]:
    return [
        Panel("mixing", "Style mixing", partial(table, engine), layers(engine), None, "large", hz=4,
              first=True,
              help="The left column gives the style of the early layers, the top row that of the "
              "late ones. What stays along a row, the early layers decide."),
        Panel("truncation", "Truncation, from ψ = 1 to 0", partial(fading, engine),
              "each row one noise; right: the mean", None, "small", hz=3,
              help="Styles are drawn to their mean: images grow more alike."),
        Panel("lines", "Between two images", partial(lines, engine),
              "pairs of rows: straight in z, in w", None, "small", hz=3,
              help="The same two ends in both rows of a pair. The mapping is there to make "
              "straight lines in w change evenly."),
    ]  # fmt: skip


def table(engine: StyleGAN) -> list[Mark]:
    rows, columns = TABLE
    a, b = (engine.style(engine.randn(n, engine.latent)) for n in TABLE)
    cells = engine.mix(a.repeat_interleave(columns, 0), b.repeat(rows, 1), engine.crossover)
    out = torch.full((rows + 1, columns + 1, engine.dim), math.nan, device=engine.device)
    out[0, 1:], out[1:, 0] = engine.synthesise(b), engine.synthesise(a)
    out[1:, 1:] = cells.view(rows, columns, -1)
    return [sheet(engine, out.flatten(0, 1), columns + 1, "left: early layers, top: late ones")]


def fading(engine: StyleGAN) -> list[Mark]:
    z = engine.randn(ROWS, engine.latent)
    ways = [engine.style(z, psi) for psi in torch.linspace(1, 0, COLUMNS).tolist()]
    x = engine.synthesise(torch.stack(ways, 1).flatten(0, 1))
    return [sheet(engine, x, COLUMNS, "ψ from 1 to 0")]


def straight(engine: StyleGAN, ends: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Lines between noises (2, N, latent), straight in z and straight in w: (N, steps, dim) each."""
    t = torch.linspace(0, 1, steps, device=engine.device)[:, None]
    z = torch.lerp(ends[0][:, None], ends[1][:, None], t)
    w = torch.lerp(*(engine.style(end)[:, None] for end in ends), t)
    n = len(z)
    in_z = engine.synthesise(engine.style(z.flatten(0, 1))).view(n, steps, -1)
    return in_z, engine.synthesise(w.flatten(0, 1)).view(n, steps, -1)


def lines(engine: StyleGAN) -> list[Mark]:
    pair = straight(engine, engine.randn(2, 4, engine.latent), COLUMNS)
    return [sheet(engine, torch.stack(pair, 1).flatten(0, 2), COLUMNS, "in z, then in w")]


# ---------------------------------------------------------------- numbers


def variety(x: Tensor, data: Tensor) -> float:
    """Spread of samples over that of the data: √(Σ Var x / Σ Var data), 1 is right."""
    return math.sqrt(float(x.double().var(0).sum() / data.double().var(0).sum()))


def unbent(detour_z: float, detour_w: float) -> float:
    """1 − (detour_w − 1)/(detour_z − 1): 0 when both are alike, 1 when w has no detour left."""
    return 1 - (detour_w - 1) / max(detour_z - 1, 1e-6)


def metrics(engine: StyleGAN) -> list[Metric]:
    x, pool = engine.sample(MEASURED), engine.pool
    in_z, in_w = straight(engine, engine.randn(2, PAIRS, engine.latent), STEPS)
    bends = [float(detour(path)) for path in (in_z, in_w)]
    out = [
        Metric("variety", variety(x, pool.test), "×", floor=1.0, label="Variety",
               help="Spread of the samples over that of held-out data: 1 is right, 0 is one "
               "sample only."),
        Metric("detour_z", bends[0], "×", floor=1.0, label="Detour, straight in z",
               help="Length of the way that samples take while z goes straight from one noise to "
               "another, over the distance of its ends."),
        Metric("detour_w", bends[1], "×", floor=1.0, label="Detour, straight in w",
               help="The same while w goes straight between the same ends."),
        Metric("unbent", unbent(*bends), label="Bends taken out",
               help="How much of the detour in z there is no more in w, as a share: 0 for a linear "
               "mapping. What is above 0 the mapping has unbent."),
    ]  # fmt: skip
    if pool.dataset.kind == "plane":
        found = nearest_ratio(x, pool.train[:AMONG], pool.test[:MEASURED])
        out.append(
            Metric("stray", found.value, "×", se=found.se, floor=1.0, label="Distance to data",
                   help=f"Mean distance of samples to the nearest of {AMONG:,} training points, "
                   "over that of held-out ones. Large: samples where there are no data.")
        )  # fmt: skip
    return out
