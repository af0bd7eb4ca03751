"""Pictures of a diffusion model: noising and denoising under one slider, and its field."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engines.arrays import marked, numpy
from engines.cells import centres
from engines.diffusion import numbers
from engines.marks import (
    Arrows,
    Curve,
    Curves,
    Heat,
    Images,
    Mark,
    Panel,
    Paths,
    Points,
    Role,
    Slider,
)
from engines.pace import Pieces

if TYPE_CHECKING:
    from engines.diffusion.engine import Diffusion

KEYS = 9  # frames along the slider
VERTICES = 33  # of a path, at most
POINTS, PATHS, SHEET = 400, 60, 64
ARROWS, CELLS = 16, 36  # a side
SEEN = 0.003  # of a density's peak: fainter places hardly ever meet the network
ROLES: dict[str, Role] = {
    "DDPM": "generator", "DDIM": "data", "Euler": "lost", "Heun": "density",
    "Euler-Maruyama": "score", "DPM-Solver++": "model",
}  # fmt: skip


def slider() -> Slider:
    return Slider("time", 0.0, 1.0, 0.3, ("data", "noise"), linked="time")


def level(engine: Diffusion, u: float) -> tuple[float, float]:
    """cos φ and sin φ a share u of the way from data to noise: z = x₀ cos φ + ε sin φ."""
    alpha, sigma = engine.noising.at(engine.noising.place(u))
    size = math.hypot(alpha, sigma)
    return alpha / size, sigma / size


def circled(engine: Diffusion, z: Tensor, u: float) -> Tensor:
    """States (N, d) of the process as pictures show them: of the data's size at every time."""
    return engine.unstandardise(z / math.hypot(*engine.noising.at(engine.noising.place(u))))


def forward(engine: Diffusion, x: Tensor) -> Tensor:
    """Rows (N, d) at each of KEYS times, each with one noise of its own, (KEYS, N, d)."""
    noise = engine.randn(*x.shape)
    found = [level(engine, u) for u in np.linspace(0, 1, KEYS)]
    z = engine.standardise(x)
    return torch.stack([engine.unstandardise(cos * z + sin * noise) for cos, sin in found])


def backward(engine: Diffusion, n: int, most: int) -> Pieces[tuple[np.ndarray, list[Tensor]]]:
    """At most so many of the states on the way from noise to data, and their shares u, falling."""
    kept = np.unique(np.linspace(0, engine.steps, min(engine.steps + 1, most)).round())
    found = []
    for i, z in enumerate(engine.states(engine.noise(n))):
        found += [z] if i in kept else []
        yield
    return 1 - kept / engine.steps, found


def panels(engine: Diffusion) -> list[Panel]:
    kind = engine.pool.dataset.kind
    return [*(plane(engine) if kind == "plane" else images(engine)), by_level(engine)]


# ---------------------------------------------------------------- the plane


def plane(engine: Diffusion) -> list[Panel]:
    dataset, pool = engine.pool.dataset, engine.pool
    box = dataset.extent
    keys = np.linspace(0, 1, KEYS)

    def noising() -> list[Mark]:
        xy = forward(engine, pool.test[:POINTS].float())
        return [Points(marked(xy), "data", keys=keys, label="the same data points")]

    def denoising() -> Pieces[list[Mark]]:
        u, states = yield from backward(engine, engine.some(POINTS, 96), VERTICES)
        xy = np.stack([numpy(circled(engine, z, at)) for at, z in zip(u, states, strict=True)])
        end = torch.from_numpy(xy[-1])
        group = dataset.classify(end)
        if group is None:  # by direction from the middle
            way = end - engine._mean.cpu()
            group = ((torch.atan2(way[:, 1], way[:, 0]) / math.pi + 1) * 4).floor().clamp(0, 7)
        some = np.unique(np.linspace(0, len(u) - 1, min(len(u), KEYS)).round()).astype(int)[::-1]
        return [
            Paths(np.ascontiguousarray(xy[:, :PATHS].transpose(1, 0, 2)), "plain", tail=True,
                  opacity=0.35, keys=u, label="ways of some"),
            Points(np.ascontiguousarray(xy[some]), group=marked(group.int()), keys=u[some],
                   label="samples, by where they end"),
        ]  # fmt: skip

    panels = [
        Panel("noising", "Data into noise", noising, "each point with one noise of its own", box,
              "small", slider(), hz=0.5,
              help="What training sees: x₀ shrunk and noise added, here always shown at the data's "
                   "own size. All pictures with this slider move together."),
        Panel("denoising", "Noise into data", denoising,
              f"{engine.sampler}, {engine.steps} steps; by end", box,
              "small", slider(), hz=2,
              help="The sampler's own walk. With few steps it is a walk with large strides: the "
                   "slider goes straight between two stops."),
    ]  # fmt: skip
    return [*panels, by_evaluations(engine), *fields(engine)]


def grid(engine: Diffusion, n: int) -> Tensor:
    """Centres of n × n cells over the picture, in standardised units, (n², 2)."""
    return engine.standardise(centres(engine.pool.dataset.extent, n, engine.device))


def exact_noise(engine: Diffusion, n: int, u: float) -> tuple[Tensor, Tensor]:
    """E[ε | z] (n², 2) and log p(z) (n²,) over the picture a share u of the way. Kept."""
    key = (n, u, engine.process, engine.schedule)
    if key not in engine._fields:
        cos, sin = level(engine, u)
        z = grid(engine, n)
        engine._fields[key] = (
            (-sin * engine.exact.score(z, cos, sin)).float(),
            engine.exact.log_prob(z, cos, sin).float(),
        )
    return engine._fields[key]


def learned_noise(engine: Diffusion, n: int, u: float) -> Tensor:
    """ε̂ (n², 2) of the network over the picture."""
    cos, sin = level(engine, u)
    z = grid(engine, n)
    return sin * z + cos * engine.drift(z, math.atan2(sin, cos))


def arrows(engine: Diffusion, noise: Tensor, u: float) -> np.ndarray:
    """σ² ∇ log p = −σ ε̂ as it is drawn: in data units, long ones cut to little above a cell."""
    x0, x1, *_ = engine.pool.dataset.extent
    most = 1.3 * (x1 - x0) / ARROWS
    way = -level(engine, u)[1] * noise * engine._std
    return numpy(way * (most / (most + way.norm(dim=1, keepdim=True))))


def fields(engine: Diffusion) -> list[Panel]:
    box, keys = engine.pool.dataset.extent, np.linspace(0, 1, KEYS)
    feet = numpy(centres(box, ARROWS))

    def learned() -> list[Mark]:
        some = engine.thinned(keys)
        way = [arrows(engine, learned_noise(engine, ARROWS, u), u) for u in some]
        return [*under(), Arrows(feet, np.stack(way), "score", keys=some, label="learned score")]

    def under() -> list[Mark]:
        if engine.exact is None:
            return []
        values = np.stack([numpy(exact_noise(engine, CELLS, u)[1].exp()) for u in keys])
        values = values.reshape(KEYS, CELLS, CELLS)
        hi = np.quantile(values, 0.995, axis=(1, 2)).clip(1e-9)
        return [Heat(values, box, hi=hi, keys=keys, label="p in noise", static=True)]

    def exact() -> list[Mark]:
        way = [arrows(engine, exact_noise(engine, ARROWS, u)[0], u) for u in keys]
        drawn = Arrows(feet, np.stack(way), "truth", keys=keys, label="exact score", static=True)
        return [*under(), drawn]

    def error() -> Pieces[list[Mark]]:
        found, some = [], engine.thinned(keys)
        for u in some:
            yield
            right, log_p = exact_noise(engine, CELLS, u)
            apart = (learned_noise(engine, CELLS, u) - right).norm(dim=1)
            met = log_p > log_p.max() + math.log(SEEN)
            found.append(numpy(torch.where(met, apart, math.nan)))
        values = np.stack(found).reshape(-1, CELLS, CELLS)
        return [Heat(values, box, "lost", hi=0.5, gamma=0.7, keys=some,
                     label="|ε̂ − E[ε|z]|", unit="of the noise")]  # fmt: skip

    known = engine.exact is not None
    about = "over the data's density in noise" if known else "the exact one is not known"
    out = [
        Panel("field", "The learned score", learned, f"σ² × score; {about}", box, "small", slider(),
              hz=0.5, help="Where the network sends a point at this level of noise: to the mean of "
              "all the data that it may have been. Long arrows are cut short."),
    ]  # fmt: skip
    if known:
        out += [
            Panel("exact_field", "The exact score", exact, "σ² × score of the data in noise", box,
                  "small", slider(), hz=0.2,
                  help="The same for the data's own density in noise, which is known exactly."),
            Panel("field_error", "Learned − exact score", error, "in units of the noise", box,
                  "small", slider(), hz=0.3,
                  help="How far the guessed noise is from its exact mean, 0.5 and more in full "
                       "colour; left out where data in noise hardly ever come."),
        ]  # fmt: skip
    return out


# ---------------------------------------------------------------- images


def images(engine: Diffusion) -> list[Panel]:
    dataset, keys = engine.pool.dataset, np.linspace(0, 1, KEYS)

    def pixels(x: Tensor) -> np.ndarray:
        shown = np.clip(numpy(x) / dataset.levels, 0, 1).astype(np.float32)
        return shown.reshape(*x.shape[:-1], *dataset.shape)

    def way() -> Pieces[list[Mark]]:
        u, states = yield from backward(engine, SHEET, KEYS)
        x = torch.stack([circled(engine, z, at) for at, z in zip(u, states, strict=True)][::-1])
        return [Images(pixels(x), 8, keys=u[::-1], label="on the way to digits")]

    def guesses() -> Pieces[list[Mark]]:
        u, states = yield from backward(engine, SHEET, KEYS)
        noising = engine.noising
        found = [engine.denoise(z, noising.place(at)) for at, z in zip(u, states, strict=True)]
        x = engine.unstandardise(torch.stack(found[::-1]))
        return [Images(pixels(x), 8, keys=u[::-1], label="what they may become")]

    def noising() -> list[Mark]:
        x = forward(engine, engine.pool.test[:SHEET].float())
        return [Images(pixels(x), 8, keys=keys, label="held-out digits")]

    about = f"{engine.sampler}, {engine.steps} steps"
    return [
        Panel("denoising", "Noise into digits", way, about, None, "large", slider(), hz=2,
              help="The sampler's own states, at the data's size."),
        Panel("guesses", "Guessed on the way", guesses, "x̂₀ of the same states", None, "large",
              slider(), hz=2,
              help="The mean of all digits that the noisy one may have been: a blur in much "
                   "noise, and decided long before the noise is gone."),
        Panel("noising", "Digits into noise", noising, "held-out ones", None, "large", slider(),
              hz=0.5, help="What training sees, each with one noise of its own."),
        by_evaluations(engine),
    ]  # fmt: skip


# ---------------------------------------------------------------- curves


def by_level(engine: Diffusion) -> Panel:
    def curve() -> list[Mark]:
        gap = numbers.gap(engine)
        name = "learned − exact" if gap.excess else "guess − data"
        line = Curve(name, gap.ratio, gap.error.clip(1e-6), "score")
        return [Curves([line], x_label="σ/α", y_label="nats per e-fold", log_x=True, log_y=True)]

    known = engine.exact is not None
    about = "area: nats lost by the reverse SDE" if known else "the exact score is not known"
    return Panel(
        "by_level", "Error by level of noise", curve, about, None, "wide", hz=0.7,
        help="|x̂₀ − x₀|² (α/σ)²; against the exact mean of x₀ where it is known, and else against "
             "the held-out row itself, which no model can guess.",
    )  # fmt: skip


def by_evaluations(engine: Diffusion) -> Panel:
    images = engine.pool.dataset.kind == "images"
    far = "energy distance" if images else "k-NN KL, nats"

    def curve() -> list[Mark]:
        lines = [
            # dashed: under EDM the first is DDIM without noise, and would hide it
            Curve(name, *np.array(found).T.clip([[1], [0.01]]), ROLES[name], name == "Euler")
            for name, found in engine._compared.items()
        ]
        return [Curves(lines, x_label="evaluations a sample", y_label=far, log_x=True, log_y=True)]

    when = "press Compare samplers"
    if engine._compared:
        when = f"{far.partition(',')[0]} above its floor, at step {engine._compared_at:,}"
    return Panel(
        "by_evaluations", "Quality by evaluations", curve, when, None,
        "large" if images else "small", hz=2,
        help="All samplers on the network as it stood, from the same noise: how far "
             f"{numbers.COMPARED[engine.pool.dataset.kind]:,} samples are from the data, less what "
             "as many true ones are, and no less than 0.01; by how often each asked the network.",
    )  # fmt: skip
