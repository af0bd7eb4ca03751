"""Pictures of the game: what D sees and should see, where it pushes, and what G covers."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engines.arrays import marked, numpy
from engines.cells import centres
from engines.gan import course
from engines.gan.course import GRID
from engines.kde import kde
from engines.marks import Arrows, Bars, Mark, Mesh, Panel, Paths, Points, Slider
from engines.metrics import COVERED, REACH, mode_report
from engines.pictures import data_points, noise_grid, sheet, verdict
from engines.probes import reference

if TYPE_CHECKING:
    from engines.gan.engine import GAN

ARROWS = 150
FOR_KERNEL = 4000  # samples that the generator's density is estimated from
MESH = 25
KEYS = np.array([0.0, 1.0], dtype=np.float32)  # of the slider from noise to data


def panels(gan: GAN) -> list[Panel]:
    kind = gan.pool.dataset.kind
    if kind == "plane":
        return plane_panels(gan)
    return image_panels(gan) if kind == "images" else []


def plane_panels(gan: GAN) -> list[Panel]:
    box, game = gan.pool.dataset.extent, gan.game
    exact = gan.pool.dataset.exact
    p = "p" if exact else "p̂"
    estimated = "q̂: kernel estimate" if exact else "p̂, q̂: kernel estimates"
    sliced = f"a slice: 2 of {gan.latent} noise dimensions" if gan.latent > 2 else ""
    name = "Discriminator D(x)" if game.probability else "Critic f(x)"
    sides = "above ½: data; below: a sample"
    if game.probability is None:
        sides = "above 0: data; below: a sample" if game.zero else "high: data; low: samples"
    if gan.pack > 1:
        sides = f"of x beside {gan.pack - 1} of the samples; {sides}"
    about = "D's probability that a point is data" if game.probability else (
        "What the critic says of a point: no probability" + (
            ", but its sign tells" if game.zero else ", and known but for a constant"))  # fmt: skip
    share, aim = f"{p}/({p} + q̂)", "The best D for the present generator."
    if gan.pack == 1 and game.ratio:
        best, aim = f"Best f: log {p}/q̂", "The best critic, but for a constant."
    elif gan.pack == 1 and game.probability is not None:
        best = f"What D should be: {share}"
    else:
        best = f"Who is there: {share}"
        aim = ("Data's share of what lies at each place. The loss that is played makes another "
               "function of it, or looks at more than one point.")  # fmt: skip
    panels = [
        Panel("discriminator", name, partial(discriminator, gan), sides, box, "small", hz=8,
              help=f"{about}, with held-out data and samples. A large R1 penalty flattens it even "
              "where samples and data still differ."),
        Panel("optimal", best, partial(optimal, gan),
              f"{estimated}, h = {kernel(gan):.2g}", box, "small", estimate=True, hz=4,
              help=f"{aim} The generator has no density, so q̂ is a Gaussian kernel estimate from "
              f"{FOR_KERNEL:,} samples; blank where fewer than four of them would decide."),
        Panel("warp", "Noise, warped by G", partial(warp, gan), sliced or "cells of equal probability",
              box, "small",
              Slider("from noise to data", 0.0, 1.0, 1.0, ("noise", "data"))
              if gan.latent > 1 else None, hz=8,
              help="A grid over the noise and where G takes it (in between, straight lines). G is "
              "continuous: between modes it stretches cells thin, but cannot cut them. Noise is "
              "drawn at the data's scale."),
        Panel("gradients", "Where D pushes each sample", partial(gradients, gan),
              "longest tenth of arrows = 10 % of the box", box, "small", hz=8,
              help="Minus the slope of the generator's loss at each of "
              f"{ARROWS - ARROWS % gan.pack} samples. One scale "
              "for all arrows of a frame: the 90th percentile is a tenth of the box, and longer "
              "ones are cut there."),
    ]  # fmt: skip
    if gan.pool.dataset.modes is not None:
        panels += [
            Panel("modes", "Modes covered and lost", partial(modes, gan),
                  "covered: ≥ 20 % of its share within 3σ", box, "small", hz=8,
                  help="Every mode's centre: covered, or lost when under a fifth of the samples "
                  "that it should get lie within 3σ of it."),
            Panel("shares", "Share of samples per mode", partial(shares, gan),
                  "samples nearest to each centre, beside the true weight", None, "small", hz=4,
                  help="A model may cover all modes and still give them the wrong weights."),
        ]  # fmt: skip
    return [*panels, *course.panels(gan)]


def image_panels(gan: GAN) -> list[Panel]:
    said = "D(x)" if gan.game.probability else "f(x)"
    return [
        Panel("scores", "Samples, sorted by D", partial(scores, gan), f"{said} below each", None,
              "large", hz=4, help="From what fools the discriminator most to what fools it least."),
        Panel("interpolation", "Between two noises", partial(interpolation, gan),
              "each row turns one noise into another", None, "large", hz=4,
              help="z = a cos t + b sin t has the noise's own distribution all the way."),
    ]  # fmt: skip


def kernel(gan: GAN) -> float:
    """The kernel's standard deviation in data units."""
    return gan.bandwidth * course.scale(gan)


def discriminator(gan: GAN) -> list[Mark]:
    game, box = gan.game, gan.pool.dataset.extent
    points = [data_points(gan, 400, 0.35),
              Points(marked(gan.sample(400)), "model", label="samples of the model")]  # fmt: skip
    said = gan.judge(centres(box, GRID, gan.device)).reshape(GRID, GRID)
    if game.probability is not None:
        field, hi, label = game.probability(said) - 0.5, 0.5, "D(x) − ½"
    else:
        on_real, on_fake = (gan.judge(x).mean() for x in (gan.pool.test[:500], gan.sample(500)))
        middle = 0.0 if game.zero else (on_real + on_fake) / 2
        field = said - middle
        hi = max(float(field.abs().quantile(0.98)), 1e-6)
        label = "f(x)" if game.zero else "f(x) − the middle of data and samples"
    return [verdict(field, box, label, hi), *points]


def optimal(gan: GAN) -> list[Mark]:
    box, h = gan.pool.dataset.extent, kernel(gan)
    blur = h if gan.blur_data or not gan.pool.dataset.exact else 0.0
    p, q = course.data_field(gan, blur), kde(gan.sample(FOR_KERNEL), box, GRID, h)
    # a kernel averages over 4πh²: of so many samples q̂ is made, where p = q
    support = 4 * math.pi * h * h * FOR_KERNEL * (p + q) / 2
    if gan.game.ratio and gan.pack == 1:
        best, hi, label = (p / q.clamp_min(1e-30)).clamp_min(1e-30).log(), 3.0, "log p/q̂, nats"
    else:
        best, hi, label = p / (p + q) - 0.5, 0.5, "estimate of the best D − ½"
    best = torch.where(support < 4, math.nan, best)
    return [verdict(best, box, label, hi)]


def warp(gan: GAN) -> list[Mark]:
    if gan.latent == 1:
        line = torch.special.ndtri(torch.linspace(0.005, 0.995, 200, device=gan.device))
        return [Paths(marked(gan.decode(line[:, None]))[None], "noise", 1.5,
                      label="the noise's line")]  # fmt: skip
    noise = noise_grid(MESH, gan.latent, gan.device)
    return [Mesh(journey(gan, noise).reshape(2, MESH, MESH, 2), "noise", keys=KEYS)]


def journey(gan: GAN, noise: Tensor) -> np.ndarray:
    """(2, N, 2): the noise's first two dimensions at the data's scale, and G of it."""
    return numpy(torch.stack([gan.unstandardise(noise[:, :2]), gan.decode(noise)]))


def gradients(gan: GAN) -> list[Mark]:
    box = gan.pool.dataset.extent
    x = gan.sample(ARROWS - ARROWS % gan.pack)
    push = gan.push(x)
    length = push.norm(dim=1)
    longest = length.quantile(0.9).clamp_min(1e-12)
    arrow = push / torch.maximum(length, longest)[:, None] * (0.1 * (box[1] - box[0]))
    return [
        data_points(gan, 300, 0.25),
        Arrows(marked(x), numpy(arrow), "generator", label="−∇ of G's loss"),
    ]


def modes(gan: GAN) -> list[Mark]:
    modes, x = reference(gan.pool).modes, gan.sample(2000)
    # counted in float64 like the metric: at the threshold itself the two must agree
    y, centre, sigma, weight = (
        part.to(x.device, torch.float64) for part in (x, modes.centres, modes.sigma, modes.weights)
    )
    close = (torch.cdist(y, centre) <= REACH * sigma).sum(0)
    found = numpy(close >= (COVERED * weight * len(x)).clamp_min(1))
    centre = numpy(modes.centres)
    return [
        Points(marked(x[:500]), "model", opacity=0.4, label="samples of the model"),
        Points(centre[found], "truth", 5.0, opacity=1.0, label="covered"),
        Points(centre[~found], "lost", 7.0, opacity=1.0, label="lost"),
    ]


def shares(gan: GAN) -> list[Mark]:
    ref = reference(gan.pool)
    share = mode_report(gan.sample(2000), ref.modes).shares
    names = [str(k + 1) for k in range(len(share))]
    return [Bars(names, share, ref.ideal.shares, "model", y_label="share of samples")]


# ---------------------------------------------------------------- of images


def scores(gan: GAN) -> list[Mark]:
    x = gan.sample(50)
    said = gan.probability(x) if gan.game.probability else gan.judge(x)
    score, order = said.sort(descending=True)
    tags = [f"{s:.2f}" for s in score.tolist()]
    return [sheet(gan, x[order], 10, "samples, most convincing first", tags)]


def interpolation(gan: GAN) -> list[Mark]:
    ends = gan.randn(2, 6, 1, gan.latent)
    turn = torch.linspace(0, math.pi / 2, 10, device=gan.device)[:, None]
    noise = ends[0] * turn.cos() + ends[1] * turn.sin()
    return [sheet(gan, gan.decode(noise.reshape(-1, gan.latent)), 10, "from noise to noise")]
