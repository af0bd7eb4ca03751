"""Pictures of a score: its arrows beside the exact ones, and where chains on it go."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engines.arrays import marked, numpy
from engines.cells import centres
from engines.marks import (
    Arrows,
    Bars,
    Curve,
    Curves,
    Heat,
    Images,
    Mark,
    Panel,
    Paths,
    Points,
    Slider,
)  # fmt: skip
from engines.pace import Pieces
from engines.pictures import data_points, density_field
from engines.score import numbers

if TYPE_CHECKING:
    from engines.score.engine import ScoreMatching

ARROWS, FIELD, LEVELS = 18, 36, 7  # a side, cells a side, keyframes of the noise
DATA, FRAMES, TAILS = 400, 9, 10  # points in noise; keyframes of chains; chains with a tail
BINS = 40
WRONG = 0.5  # of the relative error, at which its colour is full


def panels(engine: ScoreMatching) -> list[Panel]:
    kind = engine.pool.dataset.kind
    own = images(engine) if kind == "images" else [*fields(engine), *chains(engine)]
    return [*own, losses(engine), *acceptance(engine)]


def level_slider(engine: ScoreMatching) -> tuple[np.ndarray | None, Slider | None, list[float]]:
    """The keys of the levels of noise that are seen, their slider, and the levels."""
    sigmas = engine.seen(LEVELS)
    if len(sigmas) == 1:
        return None, None, sigmas
    keys = np.log10(sigmas)
    ends = (f"σ {sigmas[0]:.2g}", f"{sigmas[-1]:.2g}")
    value = float(keys[len(keys) // 2])
    # one noise for the learned, the exact and their difference, in all lanes
    slider = Slider("log₁₀ σ", float(keys[0]), float(keys[-1]), value, ends, linked="noise")
    return keys, slider, sigmas


def fewer(
    engine: ScoreMatching, keys: np.ndarray | None, sigmas: list[float]
) -> tuple[np.ndarray | None, list[float]]:
    """Those keys and levels that a picture has with the present effort."""
    if keys is None:
        return keys, sigmas
    which = engine.thinned(np.arange(len(keys)))
    return keys[which], [sigmas[i] for i in which]


def framed(frames: list[np.ndarray]) -> np.ndarray:
    """Frames, one for each level, as keyframes; the only one as it is."""
    return (np.stack(frames) if len(frames) > 1 else frames[0]).astype(np.float32)


# ---------------------------------------------------------------- the field


def unit(sigma: float) -> float:
    """What a score is told in: 1/σ, and without noise 10/3 a standard deviation of the data."""
    return sigma or 0.3


def drawn(score: Tensor, sigma: float, longest: float) -> np.ndarray:
    """Arrows (N, 2) for sight: r = σ|s| becomes a length r/(1 + r) of the longest."""
    r = unit(sigma) * torch.linalg.vector_norm(score, dim=1, keepdim=True)
    return numpy(score / torch.linalg.vector_norm(score, dim=1, keepdim=True).clamp_min(1e-12)
                 * (longest * r / (1 + r)))  # fmt: skip


def exact_on_grid(engine: ScoreMatching, sigmas: list[float]) -> list[tuple[Tensor, ...]]:
    """Of each level the exact score at arrows and at cells, and log p at cells; kept."""
    key = tuple(sigmas)
    if engine._grid_key != key:
        at, cells = places(engine, ARROWS), places(engine, FIELD)
        engine._grid_exact = [
            (f.score(at, 1.0, s), f.score(cells, 1.0, s), f.log_prob(cells, 1.0, s))
            for f in [engine.exact] for s in sigmas
        ]  # fmt: skip
        engine._grid_key = key
    return engine._grid_exact


def places(engine: ScoreMatching, n: int) -> Tensor:
    """Centres of n × n cells of the picture, in standardised units."""
    return engine.standardise(centres(engine.pool.dataset.extent, n, engine.device))


def fields(engine: ScoreMatching) -> list[Panel]:
    box = engine.pool.dataset.extent
    keys, slider, sigmas = level_slider(engine)
    longest = 0.95 * (box[1] - box[0]) / ARROWS
    feet = numpy(centres(box, ARROWS, engine.device))
    known = numbers.known(engine, sigmas)

    def noisy() -> Points:
        x = engine.pool.test[:DATA]
        # of its own generator: the same noise in every frame, and so sent once
        rng = torch.Generator(engine.device).manual_seed(6_000_013)
        eps = engine._std[0] * torch.randn(x.shape, generator=rng, device=engine.device)
        frames = [numpy(x + sigma * eps) for sigma in sigmas]
        return Points(framed(frames), "data", 1.6, opacity=0.4, keys=keys, label="data in noise",
                      static=True)  # fmt: skip

    def learned() -> list[Mark]:
        at, (some, chosen) = places(engine, ARROWS), fewer(engine, keys, sigmas)
        frames = [drawn(engine.learned(at, sigma), sigma, longest) for sigma in chosen]
        return [noisy(), Arrows(feet, framed(frames), keys=some, label="learned score")]

    def exact() -> list[Mark]:
        truth = exact_on_grid(engine, sigmas)
        frames = [
            drawn(found[0], sigma, longest) for found, sigma in zip(truth, sigmas, strict=True)
        ]
        density = [numpy(found[2].exp().reshape(FIELD, FIELD)) for found in truth]
        hi = np.array([d.max() for d in density])
        heat = Heat(framed(density), box, hi=hi if len(hi) > 1 else float(hi[0]), keys=keys,
                    label="p in noise", unit="per σ²", static=True)  # fmt: skip
        arrows = Arrows(feet, framed(frames), "truth", keys=keys, label="exact score", static=True)
        return [heat, arrows]

    def error() -> Pieces[list[Mark]]:
        at, frames, (some, chosen) = places(engine, FIELD), [], fewer(engine, keys, sigmas)
        for found, sigma in zip(exact_on_grid(engine, sigmas), sigmas, strict=True):
            if sigma not in chosen:
                continue
            yield
            far = torch.linalg.vector_norm(engine.learned(at, sigma) - found[1], dim=1)
            whole = torch.linalg.vector_norm(found[1], dim=1) + 1 / unit(sigma)
            frames.append(numpy((far / whole).reshape(FIELD, FIELD)))
        return [Heat(framed(frames), box, "lost", hi=WRONG, gamma=0.7, keys=some,
                     label="|s − s*| / (|s*| + 1/σ)")]  # fmt: skip

    where = "no noise" if sigmas == [0.0] else f"at σ = {sigmas[0]:g}" if slider is None else ""
    unknown = "" if known else "the exact one is not known here"
    about = "; ".join(part for part in (where, unknown or "data in noise in blue") if part)
    out = [
        Panel("score", "Learned score", learned, about, box, "small", slider, hz=4,
              help="Which way log q rises fastest. An arrow is as long as r/(1 + r) with r = σ|s|, so "
                   "that both gentle and steep slopes are seen."),
    ]  # fmt: skip
    if known:
        out += [
            Panel("score_exact", "Exact score", exact, where or "and the density in noise", box,
                  "small", slider, hz=0.5,
                  help="The slope of the true log-density of the data in noise: what there is to "
                       "learn at this σ."),
            Panel("score_error", "Learned − exact score", error, "|s − s*| / (|s*| + 1/σ)", box,
                  "small", slider, hz=2,
                  help="Length of the difference against that of the exact score, at least 1/σ. "
                       "Where little noise leaves no data nothing is learnt, and chains that pass "
                       "there go astray."),
        ]  # fmt: skip
    return out


# ---------------------------------------------------------------- chains


def chains(engine: ScoreMatching) -> list[Panel]:
    pool, dataset = engine.pool, engine.pool.dataset
    box, n = dataset.extent, engine.moves

    def final() -> Pieces[np.ndarray]:
        trace = yield from engine.course_pieces()
        return numpy(engine.unstandardise(engine.cleaned(trace.places[-1])))

    def model() -> Pieces[list[Mark]]:
        at_end = Points((yield from final()), "model", label="chains at their end")
        return [data_points(engine, 600, 0.35), at_end]

    def walks() -> Pieces[list[Mark]]:
        trace = yield from engine.course_pieces()
        back = engine.unstandardise
        keys = np.unique(np.linspace(0, n, min(n + 1, FRAMES)).round()).astype(int)
        tails = numpy(back(trace.places[:, :TAILS])).swapaxes(0, 1)
        at = keys.astype(np.float32)
        return [
            data_points(engine, 400, 0.3),
            Points(marked(back(trace.places[keys])), "model", 1.8, opacity=0.6, keys=at,
                   label="chains"),
            Paths(tails, "generator", 1.0, tail=True, keys=np.arange(n + 1, dtype=np.float32),
                  label="the way of some"),
        ]  # fmt: skip

    def marginals() -> Pieces[list[Mark]]:
        edges = [np.linspace(*side, BINS + 1) for side in (box[:2], box[2:])]
        x, lines = (yield from final()), []
        truth = density_field(dataset) if dataset.exact else None
        for i, (name, role) in enumerate((("x₁", "model"), ("x₂", "generator"))):
            middle = (edges[i][1:] + edges[i][:-1]) / 2
            height = np.histogram(x[:, i], edges[i])[0] / len(x) / (edges[i][1] - edges[i][0])
            lines.append(Curve(f"{name}, chains", middle, height, role))
            if truth is not None:
                cell = np.linspace(edges[i][0], edges[i][-1], len(truth) + 1)
                side = edges[1 - i][-1] - edges[1 - i][0]
                p = truth.mean(axis=i) * side
                lines.append(
                    Curve(f"{name}, exact", (cell[1:] + cell[:-1]) / 2, p, role, dash=True)
                )
            else:
                held = numpy(pool.test)[:, i]
                p = np.histogram(held, edges[i])[0] / len(held) / (edges[i][1] - edges[i][0])
                lines.append(Curve(f"{name}, data", middle, p, role, dash=True))
        return [Curves(lines, x_label="place", y_label="density")]

    slider = Slider("move", 0, n, n, ("noise", "data"))
    steps = "annealed" if len(engine.rungs()) > 1 else "at one level"
    out = [
        Panel("model", "Samples of the model", model, "where chains end; data in blue", box, "large",
              hz=10, basis="chains", help="Langevin chains after their last move, always with the same noise."),
        Panel("chains", "Chains on their way", walks, f"{n} moves, {steps}", box, "large", slider,
              hz=2, basis="chains", help="All chains under the slider, from where they begin to where they end; the "
                         "ways of some of them fade towards their beginning."),
        Panel("marginals", "One coordinate at a time", marginals,
              "chains, and dashed what is right", None, "wide", hz=2, basis="chains",
              help="Histograms of the chains' two coordinates; dashed, the data's."),
    ]  # fmt: skip
    return [*out, *shares(engine, final)]


def shares(engine: ScoreMatching, final) -> list[Panel]:
    """How many chains end in each mode, beside its weight; only where data have separate modes."""
    modes = engine.pool.dataset.modes
    if modes is None or not 1 < len(modes.weights) <= 25:
        return []

    def draw() -> Pieces[list[Mark]]:
        x = torch.from_numpy((yield from final()))
        nearest = torch.cdist(x.double(), modes.centres.cpu().double()).argmin(1)
        found = torch.bincount(nearest, minlength=len(modes.weights)) / len(x)
        names = [str(i + 1) for i in range(len(modes.weights))]
        return [Bars(names, numpy(found), numpy(modes.weights), y_label="share of chains")]

    return [Panel("shares", "Chains in each mode", draw, "marks: the true weights", None, "wide",
                  hz=2, basis="chains", help="The mode whose centre is nearest to each chain's end, counted.")]  # fmt: skip


# ---------------------------------------------------------------- curves


def losses(engine: ScoreMatching) -> Panel:
    def by_level() -> list[Mark]:
        found = numbers.gap(engine)
        lines = [
            Curve("loss E|σs + ε|²/d", found.sigma, found.loss),
            Curve("its floor, the exact score's", found.sigma, found.floor, "truth", dash=True),
            Curve("their gap σ²E|s − s*|²/d", found.sigma, found.lost, "lost"),
        ]
        lines = [line for line in lines if np.isfinite(line.y).any()]
        return [Curves(lines, x_label="noise σ", y_label="held-out loss", log_x=True, log_y=True)]

    def alone() -> list[Mark]:
        found = numbers.gap(engine)
        values = [("loss", found.loss[0]), ("floor", found.floor[0]), ("gap", found.lost[0])]
        values = [(name, value) for name, value in values if math.isfinite(value)]
        return [Bars([name for name, _ in values], np.array([v for _, v in values]), numbers=True)]

    many = len(engine.seen(2)) > 1
    return Panel("by_noise", "Loss by noise" if many else "Loss and its floor",
                 by_level if many else alone, "on held-out data", None, "wide", hz=1,
                 help="The denoising loss never falls to 0: noise cannot be guessed. Its floor is the "
                      "loss of the exact score, and the gap is the learned score's error.")  # fmt: skip


def acceptance(engine: ScoreMatching) -> list[Panel]:
    if not engine.metropolis:
        return []

    def draw() -> Pieces[list[Mark]]:
        trace = yield from engine.course_pieces()
        yes = numpy(trace.accepted.float().mean(1)) * 100
        moves = np.arange(1, len(yes) + 1)
        return [Curves([Curve("accepted", moves, yes)], x_label="move", y_label="% of chains")]

    return [Panel("acceptance", "Accepted moves", draw, "by move", None, "wide", hz=2, basis="chains",
                  help="Share of chains whose move Metropolis' rule let pass.")]  # fmt: skip


# ---------------------------------------------------------------- images


def images(engine: ScoreMatching) -> list[Panel]:
    dataset, n = engine.pool.dataset, engine.moves
    many = 10

    def sheet(z: Tensor) -> np.ndarray:
        x = numpy(engine.unstandardise(z)) / dataset.levels
        return np.clip(x.reshape(*z.shape[:-1], *dataset.shape), 0, 1).astype(np.float32)

    def samples() -> Pieces[list[Mark]]:
        trace = yield from engine.course_pieces()
        keys = np.unique(np.linspace(0, n, min(n + 1, FRAMES)).round()).astype(int)
        frames = trace.places[keys, :100].clone()
        frames[-1] = engine.cleaned(frames[-1])
        return [Images(sheet(frames), 10, label="chains", keys=keys.astype(np.float32))]

    def denoising() -> list[Mark]:
        """Held-out images in noise, what the score makes of them, and as they were."""
        z = engine.standardise(engine.pool.test[:many].float())
        rng = torch.Generator(engine.device).manual_seed(6_000_013)
        eps = torch.randn(z.shape, generator=rng, device=engine.device)
        frames = []
        for sigma in sigmas:
            noisy = z + sigma * eps
            guess = noisy + unit(sigma) ** 2 * engine.learned(noisy, sigma) * (sigma > 0)
            frames.append(torch.cat([noisy, guess, z]))
        return [Images(framed([sheet(f) for f in frames]), many, label="noisy, denoised, clean",
                       keys=keys)]  # fmt: skip

    keys, slider, sigmas = level_slider(engine)
    about = "noisy, denoised, clean"
    out = [
        Panel("samples", "Samples of the model", samples, f"{n} moves from noise", None, "large",
              Slider("move", 0, n, n, ("noise", "digit")), hz=4, basis="chains",
              help="Each cell is one Langevin chain that keeps its noise, so you watch it take shape."),
    ]  # fmt: skip
    if sigmas != [0.0]:
        about = about if slider else f"{about}; σ = {sigmas[0]:g}"
        out.append(
            Panel("denoising", "Noise taken off", denoising, about, None, "large", slider, hz=2,
                  help="Held-out images in noise, x + σ² s(x, σ) below, and what they were: the best "
                       "guess of least squares, blurred where noise leaves several answers.")
        )  # fmt: skip
    return out
