"""Pictures of the Dirac GAN: the field with the orbit in it, and what others would have done."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from engines.arrays import numpy
from engines.dirac_gan.game import CURES, LOSSES, Game
from engines.marks import Arrows, Box, Curve, Curves, Handles, Mark, Panel, Paths, Points
from engines.pictures import over

if TYPE_CHECKING:
    from engines.dirac_gan.engine import DiracGAN

REACH = 3.0  # of the picture, on either side of the equilibrium
ARROWS = 17  # a side
OTHERS = 2000  # steps of the orbits that are drawn for comparison


def panels(engine: DiracGAN) -> list[Panel]:
    box = half_box(engine)
    game = engine.game()
    return [
        Panel("field", "The game: where θ and ψ go", partial(field, engine),
              "θ across, ψ upwards; drag the point", box, "large", first=True,
              help="Arrows: both players' gradient steps from there, longer where they are larger. "
              "The dot in the middle is the equilibrium: the sample on the data, and D undecided."),
        Panel("model", "The same on the line", partial(line, engine), "data, sample, and D(x) over x",
              (box[0], box[1], -REACH, REACH), "large", first=True, equal=False,
              help="D(x) = ψ·(x − x*) is above 0 where D takes x for data. Its slope is what moves "
              "the sample; the sample's place is what tilts D."),
        *others(engine),
        Panel("distance", "Distance to the equilibrium", partial(course, engine),
              "of this orbit, beside what its eigenvalues say", None, "wide", hz=6,
              help="Dashed: the game made linear at the equilibrium, from the same start. They agree "
              "near it; far away the loss bends."),
        Panel("eigenvalues", "Eigenvalues of one step", partial(eigenvalues, game), numbers(game),
              plane_of(game), "small", hz=4,
              help="Of (θ, ψ) → (θ, ψ) near the equilibrium, in the complex plane. Inside the unit "
              "circle: distances shrink. On it: the players circle. Outside: they drift apart. "
              f"Those of the field itself: {formula(game)}."),
    ]  # fmt: skip


def half_box(engine: DiracGAN) -> Box:
    """±REACH round the equilibrium, or the next larger step that holds the latest orbit."""
    here = numpy(engine.seen()) - [engine.target, 0.0]
    most = float(np.abs(here[np.isfinite(here).all(1)]).max(initial=0.0))
    half = next((s for s in (REACH, 4.0, 6.0, 10.0, 20.0, 50.0) if most <= s), 100.0)
    return (engine.target - half, engine.target + half, -half, half)


def arrows(game: Game, target: float, box: Box, n: int) -> Arrows:
    """The field on an n × n grid; the longest arrow is one cell long."""
    x, y = np.meshgrid(np.linspace(box[0], box[1], n + 2)[1:-1],
                       np.linspace(box[2], box[3], n + 2)[1:-1])  # fmt: skip
    v = np.stack(game.field(x - target, y), -1).reshape(-1, 2)
    length = np.linalg.norm(v, axis=1)
    # square roots of lengths, so that the middle, where all happens, is not all dots
    longest = max(float(length.max()), 1e-12)
    cell = (box[1] - box[0]) / (n + 1)
    scale = cell * np.sqrt(length / longest) / np.maximum(length, 1e-12)
    xy = np.stack([x, y], -1).reshape(-1, 2)
    return Arrows(xy.astype(np.float32), (v * scale[:, None]).astype(np.float32), "plain",
                  opacity=0.55, label="−slopes of both losses")  # fmt: skip


def field(engine: DiracGAN) -> list[Mark]:
    box, x = half_box(engine), engine.target
    seen = numpy(engine.seen()).astype(np.float32)
    marks: list[Mark] = [
        arrows(engine.game(), x, box, ARROWS),
        Points(np.array([[x, 0.0]], np.float32), "truth", 6.0, opacity=1.0, label="equilibrium"),
    ]
    if engine.cure == "clipping":
        marks.append(walls(engine, box))
    if len(seen) > 1:
        marks.append(Paths(seen[None], "model", 2.0, tail=True, opacity=0.95, label="orbit so far"))
    return [*marks, Handles(seen[-1:], "drag", ("(θ, ψ)",), "model")]


def walls(engine: DiracGAN, box: Box) -> Paths:
    """The two lines that clipping keeps ψ between."""
    c = engine.clip
    xy = np.array([[[box[0], y], [box[1], y]] for y in (c, -c)], np.float32)
    return Paths(xy, "discriminator", 1.5, label="ψ is clipped here")


def line(engine: DiracGAN) -> list[Mark]:
    box, x = half_box(engine), engine.target
    theta, psi = engine.players.tolist()
    ends = np.array([box[0], box[1]])
    push = engine.game().field(np.float64(theta - x), np.float64(psi))[0]
    level = psi * (theta - x)
    return [
        over(ends, 0 * ends, "plain", "undecided: D = 0", opacity=0.4, width=1.0),
        over(ends, psi * (ends - x), "discriminator", "D(x)"),
        Arrows(np.array([[theta, 0.0]], np.float32), np.array([[push, 0.0]], np.float32),
               "generator", label="where G goes"),
        Points(np.array([[x, 0.0]], np.float32), "data", 9.0, opacity=1.0, label="all data"),
        Points(np.array([[theta, 0.0]], np.float32), "model", 6.0, opacity=1.0,
               label=f"all samples, D = {level:.2f}"),
    ]  # fmt: skip


# ---------------------------------------------------------------- what others would have done


def others(engine: DiracGAN) -> list[Panel]:
    """One small picture for each other setting, from the same start and as many steps on."""
    out = []
    for name in CURES if engine.others == "cures" else LOSSES:
        game = engine.game(**{"cure" if engine.others == "cures" else "loss": name})
        title = "No cure" if name == "none" else name[0].upper() + name[1:]
        out.append(
            Panel(f"other_{name.replace(' ', '_')}", title, partial(small, engine, name, game),
                  outlook(game), box_around(engine, REACH), "small", hz=12,
                  help="The game from the same start under this setting, all other knobs being the "
                  "same, as many steps on as the one above.")
        )  # fmt: skip
    return out


def box_around(engine: DiracGAN, half: float) -> Box:
    return (engine.target - half, engine.target + half, -half, half)


def small(engine: DiracGAN, name: str, game: Game) -> list[Mark]:
    box, x = box_around(engine, REACH), engine.target
    orbit = compared(engine, name, game)
    orbit = orbit[max(0, len(orbit) - engine.TRAIL) :]
    here = np.clip(orbit, -1e4, 1e4) + np.array([x, 0.0])
    xy = here.astype(np.float32)
    return [
        arrows(game, x, box, 11),
        Points(np.array([[x, 0.0]], np.float32), "truth", 4.0, opacity=1.0, label="equilibrium"),
        Paths(xy[None], "generator", 1.6, tail=True, opacity=0.95, label="orbit"),
        Points(xy[-1:], "generator", 5.0, opacity=1.0, label="now"),
    ]


def compared(engine: DiracGAN, name: str, game: Game) -> np.ndarray:
    """The orbit of `game` from this orbit's start, as long as that one; worked out bit by bit."""
    kept = engine.__dict__.setdefault("_compared", {})
    start = (engine.first_theta - engine.target, engine.first_psi)
    key, steps = (start, game), min(engine.moves, OTHERS)
    known = kept.get(name)
    if known is None or known[0] != key or len(known[1]) > steps + 1:
        known = (key, np.array([start]))
    missing = steps + 1 - len(known[1])
    if missing > 0:
        more = game.orbit(*known[1][-1], missing)[1:]
        more = more[np.isfinite(more).all(1)]
        known = (key, np.concatenate([known[1], more]))
    kept[name] = known
    return known[1]


def outlook(game: Game) -> str:
    """What the eigenvalues say of the game near the equilibrium, in a few words."""
    rate = game.growth()
    if math.isnan(rate):
        return "no rest: a kink at ψ = 0"
    if rate == 0.0:
        return "near the middle: circles"
    change = f"{100 * math.expm1(rate):+.2g}".replace("-", "−")
    return f"near the middle: {change} % a step"


# ---------------------------------------------------------------- against the closed form


def course(engine: DiracGAN) -> list[Mark]:
    """Distances of this orbit, and those of the linear game, (step, √((θ − x*)² + ψ²))."""
    count = engine.moves // engine.stride
    step = engine.stride * np.arange(1, count + 1, dtype=float)
    lines = [Curve("this orbit", step, above_zero(numpy(engine.course[:count])), "model")]
    game = engine.game()
    if game.linear and count:
        lines.append(
            Curve("by the eigenvalues", step, predicted(engine, game, count), "truth", dash=True)
        )
    return [Curves(lines, x_label="steps of this orbit", y_label="distance", log_y=True)]


def predicted(engine: DiracGAN, game: Game, count: int) -> np.ndarray:
    """|Mᵗ z₀| at every `stride`-th step."""
    leap = np.linalg.matrix_power(game.update(), engine.stride)
    z = np.array([engine.first_theta - engine.target, engine.first_psi])
    out = np.empty(count)
    with np.errstate(all="ignore"):
        for i in range(count):
            z = leap @ z
            out[i] = np.linalg.norm(z)
    return above_zero(out)


def above_zero(y: np.ndarray) -> np.ndarray:
    """With gaps for what a logarithmic axis has no place for."""
    return np.where((y > 1e-12) & (y < 1e12), y, np.nan)


def plane_of(game: Game) -> Box:
    """The box of the eigenvalues: the unit circle with a margin, or what it takes to hold them."""
    most = float(np.abs(game.multipliers()).max()) if game.linear else 0.0
    half = 1.5 if most < 1.45 else 1.2 * most
    return (-half, half, -half, half)


def eigenvalues(game: Game) -> list[Mark]:
    turn = np.linspace(0, 2 * math.pi, 181)
    circle = np.stack([np.cos(turn), np.sin(turn)], -1).astype(np.float32)
    marks: list[Mark] = [
        Paths(circle[None], "plain", 1.5, label="unit circle", static=True),
    ]
    if game.linear:
        mu = game.multipliers()
        xy = np.stack([mu.real, mu.imag], -1).astype(np.float32)
        marks.append(Points(xy, "model", 6.0, opacity=1.0, label="eigenvalues of one step"))
    return marks


def formula(game: Game) -> str:
    """The eigenvalues λ of the field at the equilibrium, in letters."""
    a = "½" if game.force == 0.5 else "1"
    return {
        "R1": f"λ = −γ/2 ± √(γ²/4 − {a}²)",
        "WGAN-GP": "none, for |ψ| has a kink at the equilibrium",
        "instance noise": f"λ = −s/2 ± √(s²/4 − {a}²), s = σ² times the losses' curvature",
        "consensus": f"λ = −γ·{a}² ± {a}i",
    }.get(game.cure, f"λ = ±{a}i")


def numbers(game: Game) -> str:
    """The same in numbers: 'field: λ = −0.20 ± 0.46i'."""
    if not game.linear:
        return "none: a kink at ψ = 0"
    rate = np.linalg.eigvals(game.jacobian()).astype(complex)
    if abs(rate[0].real) < 1e-12:
        return f"field: λ = ±{abs(rate[0].imag):.2f}i"
    if abs(rate[0].imag) > 1e-12:
        return f"field: λ = {rate[0].real:.2f} ± {abs(rate[0].imag):.2f}i".replace("-", "−")
    return f"field: λ = {min(rate.real):.2f}, {max(rate.real):.2f}".replace("-", "−")
