"""Pictures of a VAE: the latent space, what the decoder makes of it, and what gets lost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engines.arrays import numpy
from engines.marks import Arrows, Bars, Ellipses, Images, Mark, Mesh, Panel, Paths, Points, Slider
from engines.pictures import data_points, noise_grid
from engines.vae import numbers

if TYPE_CHECKING:
    from engines.vae.engine import VAE

CLOUD, GUESSES = 600, 40  # codes drawn as points, and as ellipses
MESH, SHEET = 33, 12  # lines of the decoded grid each way, images of the sheet
PAIRS = 5  # of points, in the plane
STRIPS, BETWEEN = 10, 10  # of images, and images in each
PROBES = 256  # draws of noise that tell which directions matter
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


def directions(engine: VAE) -> Tensor:
    """What the pictures show of the latent space: two directions of unit length, (L, 2).

    Of one or two latents, the latents. Of more, those along which decoded noise moves most on
    the two principal axes of the data (by least squares, then made orthogonal): along a single
    one of many latents hardly anything changes. The prior is N(0, I) in any such plane.
    """
    latents = engine.shown.latents
    if latents <= 2:
        return torch.eye(latents, device=engine.device)
    # the same noise every time, so that the plane turns with the model alone
    rng = torch.Generator(engine.device).manual_seed(5_000_011)
    z = torch.randn(PROBES, latents, generator=rng, device=engine.device)
    moved = engine.standardise(engine.decode(z)) @ axes(engine)
    slope = torch.linalg.lstsq(z - z.mean(0), moved - moved.mean(0)).solution
    # on a line there is one axis: any second direction will do
    slope = torch.cat([slope, torch.eye(latents, 2, device=engine.device)], 1)[:, :2]
    q, r = torch.linalg.qr(slope)
    return q * torch.where(r.diagonal() < 0, -1.0, 1.0)


def axes(engine: VAE) -> Tensor:
    """The data's two principal axes, (d, 2); kept until the data change."""
    if getattr(engine, "_axes", (None,))[0] is not engine.pool:
        rows = engine.standardise(engine.pool.test)
        v = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)[2][:2].T
        # of the two signs, the one by which the longest entry is positive
        sign = v.gather(0, v.abs().argmax(0, keepdim=True)).sign()
        engine._axes = (engine.pool, v * sign)
    return engine._axes[1]


def named(engine: VAE) -> str:
    n = engine.shown.latents
    return {1: "one latent, across", 2: "z₁ across, z₂ up"}.get(n, f"2 directions of {n}")


def labelled(engine: VAE, n: int) -> tuple[Tensor, np.ndarray, str]:
    """n rows, their groups (n,) for the colours, and what the groups are."""
    pool = engine.pool
    if pool.labels is not None:
        rows = pool.rows(torch.arange(n), torch.Generator(engine.device).manual_seed(0))
        return rows, numpy(pool.labels[:n]), "class"
    rows, modes = pool.test[:n], pool.dataset.modes
    if modes is not None and len(modes.weights) <= MOST_MODES:
        centres = modes.centres.to(rows)
        return rows, numpy(torch.cdist(rows, centres).argmin(1)), "nearest mode"
    if engine.dim == 1:
        place = engine.standardise(rows)[:, 0]
        return rows, numpy((place + 2).floor().clamp(0, 3).int()), "place"
    x, y = engine.standardise(rows)[:, :2].unbind(1)
    turn = (torch.atan2(y, x) / math.pi + 1) * (SECTORS / 2)
    return rows, numpy(turn.floor().clamp(0, SECTORS - 1).int()), "direction"


def flat(mean: Tensor, plane: Tensor) -> np.ndarray:
    """Codes (N, L) → (N, 2) in a plane (L, 2); one latent alone lies on the axis."""
    xy = mean @ plane
    return numpy(xy if xy.shape[1] == 2 else torch.cat([xy, torch.zeros_like(xy)], 1))


def latent_panel(engine: VAE) -> Panel:
    guesses = engine.has_density

    def draw() -> list[Mark]:
        shown = directions(engine)
        rows, group, _ = labelled(engine, min(CLOUD, len(engine.pool.test)))
        r = engine.encode(rows)
        codes = flat(r.mean, shown)
        prior = Ellipses(np.zeros((1, 2), np.float32), np.eye(2, dtype=np.float32)[None],
                         role="noise", label="the prior, at 1 and 2 σ", static=True)  # fmt: skip
        marks: list[Mark] = [prior]
        if guesses:
            n = min(GUESSES, len(rows))
            cov = np.zeros((n, 2, 2), np.float32)
            cov[:, 0, 0] = cov[:, 1, 1] = 1e-4
            two = shown.shape[1]
            cov[:, :two, :two] = numpy(shown.T @ r.covariance()[:n] @ shown)
            marks.append(Ellipses(codes[:n], cov, group=group[:n], label="the encoder's guesses"))
        marks.append(Points(codes, size=1.8, group=group, opacity=0.7, label="codes"))
        return marks

    colours = labelled(engine, 1)[2]
    about = "each ellipse is the encoder's guess behind one point" if guesses else (
        "each dot is the code of one point; the circles are where noise is drawn from")  # fmt: skip
    more = "" if engine.shown.latents < 3 else (
        " Of more than two latents, the two directions that move what is decoded most along the "
        "two principal axes of the data.")  # fmt: skip
    return Panel(
        "latent", "Latent space", draw, f"colours: {colours}; {named(engine)}", BOX, "large",
        hz=6,
        help=f"What the encoder makes of data: {about}. Where the circles are empty, the decoder "
        "was never told what to make of the noise that falls there." + more,
    )  # fmt: skip


def grid(engine: VAE, n: int) -> tuple[Tensor, Tensor]:
    """n × n quantiles of the prior in the plane that is shown, 0 across it; row 0 at the bottom.

    With one latent: its n² quantiles.

    Returns:
        codes (n², L), and where they lie in that plane (n², 2), or (n², 1).
    """
    shown = directions(engine)
    if shown.shape[1] == 1:
        at = torch.special.ndtri(torch.linspace(0.01, 0.99, n * n, device=engine.device))[:, None]
    else:
        at = noise_grid(n, 2, engine.device).flip(1)
    return at @ shown.T, at


# ---------------------------------------------------------------- the plane


def plane(engine: VAE) -> list[Panel]:
    """Of the plane, or of the first two coordinates of vectors."""
    box = engine.pool.dataset.extent
    more = "" if engine.dim == 2 else f"; the first 2 of {engine.dim} coordinates"

    def two(x: Tensor) -> np.ndarray:
        return np.ascontiguousarray(numpy(x)[:, :2])

    def data() -> Points:
        points = data_points(engine, 600, 0.35)
        points.xy = points.xy[:, :2]
        return points

    def warped() -> list[Mark]:
        z, at = grid(engine, MESH)
        x = two(engine.decode(z))
        if engine.shown.latents == 1:
            return [data(), Paths(x[None], "model", 1.6, label="the latent's line, decoded")]
        # begins at the data's own scale, so that the eye can follow
        begin = at * engine._std[:2] + engine._mean[:2]
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
              help="A grid over the latent space's picture and what the decoder makes of it (in "
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
        x = engine.decode(grid(engine, SHEET)[0]).view(SHEET, SHEET, -1).flip(0)
        return [sheet(x.reshape(SHEET * SHEET, -1), SHEET, "decoded quantiles of the prior")]

    def rebuilt() -> list[Mark]:
        rows = engine.pool.test[:40]
        pairs = torch.stack([rows.floor() + 0.5, engine.decode(engine.encode(rows).mean)], 1)
        return [sheet(pairs.flatten(0, 1), 10, "held-out image, then its reconstruction")]

    def between() -> list[Mark]:
        codes = engine.encode(ends(engine, STRIPS)).mean.view(STRIPS, 2, -1)
        t = torch.linspace(0, 1, BETWEEN, device=engine.device)[None, :, None]
        z = codes[:, :1] * (1 - t) + codes[:, 1:] * t
        x = engine.decode(z.reshape(-1, z.shape[2]))
        return [sheet(x, BETWEEN, "from one held-out image to another")]

    return [
        Panel("grid", "Latent plane, decoded", decoded,
              f"quantiles; {named(engine)}", None, "large", hz=4,
              help="What the decoder makes of evenly spread quantiles of the prior, in the plane "
                   "of the latent space's picture; means, without the noise of pixels."),
        Panel("rebuilt", "Reconstructions", rebuilt, "held-out image, then rebuilt",
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
        return f"{count} of {len(variance)} active; KL of each"

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
