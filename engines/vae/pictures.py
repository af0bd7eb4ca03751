"""Pictures of a VAE: the latent space, what the decoder makes of it, and what gets lost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engines.marks import Arrows, Bars, Ellipses, Images, Mark, Mesh, Panel, Paths, Points, Slider
from engines.pictures import data_points, numpy
from engines.vae import numbers

if TYPE_CHECKING:
    from engines.vae.engine import VAE

CLOUD, GUESSES = 600, 40  # codes drawn as points, and as ellipses
MESH, SHEET = 33, 12  # lines of the decoded grid each way, images of the sheet
PAIRS, BETWEEN = 5, 10  # strips of images, and images in each
ARROWS = 150
REACH = 3.5  # of the latent picture, in standard deviations of the prior
BOX = (-REACH, REACH, -REACH, REACH)
SECTORS = 8
MOST_MODES = 25


def panels(engine: VAE) -> list[Panel]:
    kind = engine.pool.dataset.kind
    own = images(engine) if kind == "images" else [] if kind == "line" else plane(engine)
    return [latent_panel(engine), *own, *bars(engine)]


# ---------------------------------------------------------------- the latent space


def chosen(engine: VAE) -> Tensor:
    """Indices of the two latents that tell most, or of the only one, in their order."""
    variance = numbers.activity(engine)
    return variance.topk(min(2, len(variance))).indices.sort().values


def named(engine: VAE, pair: Tensor) -> str:
    if len(pair) < 2:
        return "one latent, across"
    if engine.shown.latents == 2:
        return "z₁ across, z₂ up"
    a, b = (int(i) + 1 for i in pair)
    return f"z{a} across and z{b} up, the most active of {engine.shown.latents}"


def labelled(engine: VAE, n: int) -> tuple[Tensor, np.ndarray, str]:
    """n rows, their groups (n,) for the colours, and what the groups are."""
    pool = engine.pool
    if pool.labels is not None:
        rows = pool.rows(torch.arange(n), torch.Generator(engine.device).manual_seed(0))
        return rows, numpy(pool.labels[:n]), "by class, training rows"
    rows, modes = pool.test[:n], pool.dataset.modes
    if modes is not None and len(modes.weights) <= MOST_MODES:
        centres = modes.centres.to(rows)
        return rows, numpy(torch.cdist(rows, centres).argmin(1)), "by nearest mode"
    if engine.dim == 1:
        place = engine.standardise(rows)[:, 0]
        return rows, numpy((place + 2).floor().clamp(0, 3).int()), "by place"
    x, y = engine.standardise(rows)[:, :2].unbind(1)
    turn = (torch.atan2(y, x) / math.pi + 1) * (SECTORS / 2)
    return rows, numpy(turn.floor().clamp(0, SECTORS - 1).int()), "by direction from the middle"


def flat(mean: Tensor, pair: Tensor) -> np.ndarray:
    """Codes (N, L) → (N, 2), those of `pair`; one alone lies on the axis."""
    xy = mean[:, pair]
    return numpy(xy if len(pair) == 2 else torch.cat([xy, torch.zeros_like(xy)], 1))


def latent_panel(engine: VAE) -> Panel:
    guesses = engine.has_density

    def draw() -> list[Mark]:
        pair = chosen(engine)
        rows, group, _ = labelled(engine, min(CLOUD, len(engine.pool.test)))
        r = engine.encode(rows)
        codes = flat(r.mean, pair)
        prior = Ellipses(np.zeros((1, 2), np.float32), np.eye(2, dtype=np.float32)[None],
                         role="noise", label="the prior, at 1 and 2 σ", static=True)  # fmt: skip
        marks: list[Mark] = [prior]
        if guesses:
            n = min(GUESSES, len(rows))
            cov = np.zeros((n, 2, 2), np.float32)
            cov[:, 0, 0] = cov[:, 1, 1] = 1e-4
            cov[:, : len(pair), : len(pair)] = numpy(r.covariance()[:n, pair[:, None], pair])
            marks.append(Ellipses(codes[:n], cov, group=group[:n], label="the encoder's guesses"))
        marks.append(Points(codes, size=1.8, group=group, opacity=0.7, label="codes"))
        return marks

    pair = chosen(engine)
    colours = labelled(engine, 1)[2]
    about = "each ellipse is the encoder's guess behind one point" if guesses else (
        "each dot is the code of one point; the circles are where noise is drawn from")  # fmt: skip
    return Panel(
        "latent", "Latent space", draw, f"{named(engine, pair)}; colours: {colours}", BOX, "large",
        hz=6,
        help=f"What the encoder makes of data: {about}. Where the circles are empty, the decoder "
        "was never told what to make of the noise that falls there.",
    )  # fmt: skip


def grid(engine: VAE, n: int) -> Tensor:
    """n × n codes (n², L) at quantiles of the prior in the two most active latents, 0 elsewhere.

    Row 0 is at the bottom. With one latent: its n² quantiles.
    """
    z = torch.zeros(n * n, engine.shown.latents, device=engine.device)
    pair = chosen(engine)
    if len(pair) == 1:
        z[:, 0] = torch.special.ndtri(torch.linspace(0.01, 0.99, n * n, device=engine.device))
        return z
    edge = torch.special.ndtri(torch.linspace(0.01, 0.99, n, device=engine.device))
    up, across = torch.meshgrid(edge, edge, indexing="ij")
    z[:, pair[0]], z[:, pair[1]] = across.flatten(), up.flatten()
    return z


# ---------------------------------------------------------------- the plane


def plane(engine: VAE) -> list[Panel]:
    """Of the plane, or of the first two coordinates of vectors."""
    box = engine.pool.dataset.extent
    more = "" if engine.dim == 2 else f"; the first 2 of {engine.dim} coordinates"

    def two(x: Tensor) -> np.ndarray:
        return np.ascontiguousarray(numpy(x)[:, :2])

    def data() -> Points:
        points = data_points(engine, 600, 0.35)
        points.xy = np.ascontiguousarray(points.xy[:, :2])
        return points

    def warped() -> list[Mark]:
        z = grid(engine, MESH)
        x = two(engine.decode(z))
        if engine.shown.latents == 1:
            return [data(), Paths(x[None], "model", 1.6, label="the latent's line, decoded")]
        pair = chosen(engine)
        # begins at the data's own scale, so that the eye can follow
        begin = z[:, pair] * engine._std[:2] + engine._mean[:2]
        xy = np.stack([numpy(begin), x]).reshape(2, MESH, MESH, 2)
        return [data(), Mesh(xy, "model", every=2, keys=np.array([0.0, 1.0]),
                             label="a grid of equal probability, decoded")]  # fmt: skip

    def rebuilt() -> list[Mark]:
        rows = engine.pool.test[:ARROWS]
        feet, heads = two(rows), two(engine.decode(engine.encode(rows).mean))
        return [
            Points(feet, "data", 2.2, label="held-out data"),
            Arrows(feet, heads - feet, "model", label="to its reconstruction"),
            Points(heads, "model", 1.6, label="reconstructed"),
        ]

    def between() -> list[Mark]:
        marks: list[Mark] = [data()]
        codes = engine.encode(ends(engine, PAIRS)).mean.view(PAIRS, 2, -1)
        t = torch.linspace(0, 1, 60, device=engine.device)[None, :, None]
        z = codes[:, :1] * (1 - t) + codes[:, 1:] * t
        x = two(engine.decode(z.reshape(-1, z.shape[2]))).reshape(PAIRS, 60, 2)
        marks.append(Paths(x, "generator", 1.6, opacity=0.9, label="straight in the latent space"))
        marks.append(Points(x[:, [0, -1]].reshape(-1, 2), "generator", 4.0, label="reconstructed"))
        return marks

    return [
        Panel("grid", "Latent plane, decoded", warped, f"cells of equal probability{more}", box,
              "small",
              Slider("from noise to data", 0.0, 1.0, 1.0, ("noise", "data"))
              if engine.shown.latents > 1 else None, hz=6,
              help="A grid over the two most active latents and what the decoder makes of it (in "
                   "between, straight lines). Wide cells are places that the noise seldom reaches."),
        Panel("rebuilt", "Reconstructions", rebuilt, f"from each point to what becomes of it{more}",
              box, "small", hz=4,
              help="A point is encoded, and its code decoded: long arrows show what the code does "
                   "not tell."),
        Panel("between", "Between two points", between,
              f"decoded straight lines{more}", box, "small", hz=4,
              help="Five pairs of held-out points: between their codes runs a straight line, and "
                   "this is what the decoder makes of it."),
    ]  # fmt: skip


def ends(engine: VAE, pairs: int) -> Tensor:
    """Two held-out rows for each of so many strips, (2 pairs, d), as `pair` has them."""
    first = 2 * pairs * engine.pair
    index = (torch.arange(2 * pairs) + first) % len(engine.pool.test)
    return engine.pool.test[index.to(engine.device)]


# ---------------------------------------------------------------- images


def images(engine: VAE) -> list[Panel]:
    dataset = engine.pool.dataset

    def sheet(x: Tensor, columns: int, label: str) -> Images:
        # rows run from 0 to `levels`, a level's cell from it to the next
        pixels = (numpy(x) - 0.5) / (dataset.levels - 1)
        pixels = np.clip(pixels, 0, 1).reshape(-1, *dataset.shape).astype(np.float32)
        return Images(pixels, columns, label=label)

    def decoded() -> list[Mark]:
        x = engine.decode(grid(engine, SHEET)).view(SHEET, SHEET, -1).flip(0)
        return [sheet(x.reshape(SHEET * SHEET, -1), SHEET, "decoded quantiles of the prior")]

    def rebuilt() -> list[Mark]:
        rows = engine.pool.test[:30]
        pairs = torch.stack([rows.floor() + 0.5, engine.decode(engine.encode(rows).mean)], 1)
        return [sheet(pairs.flatten(0, 1), 10, "held-out image, then its reconstruction")]

    def between() -> list[Mark]:
        codes = engine.encode(ends(engine, PAIRS)).mean.view(PAIRS, 2, -1)
        t = torch.linspace(0, 1, BETWEEN, device=engine.device)[None, :, None]
        z = codes[:, :1] * (1 - t) + codes[:, 1:] * t
        x = engine.decode(z.reshape(-1, z.shape[2]))
        return [sheet(x, BETWEEN, "from one held-out image to another")]

    return [
        Panel("grid", "Latent plane, decoded", decoded,
              f"{named(engine, chosen(engine))}; the others 0", None, "large", hz=4,
              help="What the decoder makes of evenly spread quantiles of the two most active "
                   "latents; means, without the noise of pixels."),
        Panel("rebuilt", "Reconstructions", rebuilt, "held-out image, then what becomes of it",
              None, "small", hz=2,
              help="An image is encoded, and its code decoded: what is lost, the code does not tell."),
        Panel("between", "Between two images", between, "a straight line of codes, decoded",
              None, "large", hz=2,
              help="Left and right are two held-out images as their codes have them; in between a "
                   "straight line runs through the latent space."),
    ]  # fmt: skip


# ---------------------------------------------------------------- numbers as bars


def bars(engine: VAE) -> list[Panel]:
    if not engine.has_density:
        return []

    def gap() -> list[Mark]:
        found = numbers.bounds(engine)
        high, low = float(found.importance.mean()), float(found.elbo.mean())
        values = np.array([low, high, high - low], np.float32)
        names = ["ELBO", "log p, sampled", "the gap"]
        return [Bars(names, values, role="density", y_label="nats", numbers=True)]

    def units() -> list[Mark]:
        each, _ = engine.encode(engine.pool.test[: numbers.CODES]).kl()
        values = numpy(each.mean(0))
        names = [f"z{j + 1}" for j in range(len(values))]
        return [Bars(names, values, role="generator", y_label="nats", numbers=len(values) <= 8)]

    def active() -> str:
        variance = numbers.activity(engine)
        count = int((variance > numbers.ACTIVE).sum())
        return f"{count} of {len(variance)} active; KL of each to the prior"

    k = engine.live_draws
    return [
        Panel("gap", "The bound and log p(x)", gap, "gap: KL(r(z|x)‖p(z|x))", None, "small", hz=2,
              help=f"Means over {numbers.ROWS} held-out rows of the ELBO, and of log p(x) by "
                   f"importance sampling with {k:,} draws. What lies between is how far the "
                   "encoder's Gaussian is from the true guess p(z|x)."),
        Panel("units", "What each latent tells", units, active(), None, "small", hz=2,
              help="Nats that each latent tells of a point, on average. One at 0 has collapsed: "
                   "the encoder answers with the prior, and the decoder ignores it."),
    ]  # fmt: skip
