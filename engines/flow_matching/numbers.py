"""What is special to flow matching in numbers: how straight paths are, and what few steps cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engines.fields import ode
from engines.marks import Metric
from engines.metrics import knn_kl
from engines.pace import Pieces, finish
from engines.probes import Probe, reference

if TYPE_CHECKING:
    from engines.flow_matching.engine import FlowMatching

ROWS, STEPS = 256, 8  # of paths, and of RK4 along each
FEW = (1, 2, 4, 8, 64)  # steps that samples are made in
SAMPLES, HELD = 1000, 2000
NOISE = 0.02  # nats that such numbers of rows leave uncertain


def bend(engine: FlowMatching, z: Tensor) -> float:
    """E ∫ |v(z_t, t) − (z₁ − z₀)|² dt over the model's own paths from z (N, d), in σ² of the data.

    0 where every path is a straight line at an even pace, and then one step of Euler's method is
    as good as many (Liu, Gong & Liu 2023).
    """
    times = [i / STEPS for i in range(STEPS + 1)]
    states = list(ode.solve(engine.drift, z, times, ode.rk4))
    way = states[-1] - states[0]
    off = [(engine.drift(z, t) - way).square().sum(1).mean()
           for z, t in zip(states, times, strict=True)]  # fmt: skip
    # by Simpson's rule
    weights = [1 if i in (0, STEPS) else 4 if i % 2 else 2 for i in range(STEPS + 1)]
    return float(sum(w * o for w, o in zip(weights, off, strict=True))) / (3 * STEPS)


def crossing(engine: FlowMatching, x: Tensor) -> float:
    """E |dz/dt − v(z, t)|² of lines drawn as in training to rows x (N, d), in σ² of the data.

    Never below the mean variance of the lines that meet in a place, which no velocity can follow.
    """
    rng = engine.view_rng
    z0, z1 = engine.paired(engine.standardise(x), rng)
    t = torch.rand(len(z1), generator=rng, device=engine.device)
    place, wanted = engine.drawn(z0, z1, t, rng)
    return float((engine.velocity(engine.shown, place, t)[0] - wanted).square().sum(1).mean())


def metrics(engine: FlowMatching) -> list[Metric]:
    z = engine.starts(ROWS, engine.view_rng, held=True)
    out = [
        Metric("straightness", bend(engine, z), "σ²", floor=0.0, label="Bend of the paths",
               help="Mean squared difference of the velocity along a path from the path's own mean: "
               "0 where all paths are straight, and one step is as good as many."),
        Metric("crossing", crossing(engine, engine.pool.test[:2 * ROWS].float()), "σ²",
               label="Crossing of the lines",
               help="Mean squared difference of the lines that training draws from the velocity "
               "where they pass: what is left of the loss when lines cross, however well it is "
               "learnt."),
    ]  # fmt: skip
    if engine.reflows or engine.reflow_every:
        out.append(Metric("reflows", float(engine.reflows), kind="exact", label="Reflows",
                          help="How many times the model's own paths became its pairs."))  # fmt: skip
    return out


# ---------------------------------------------------------------- few steps


def by_steps(engine: FlowMatching, how: str) -> Pieces[list[float]]:
    """How far samples in 1, 2, 4 … steps are from held-out rows, above what true rows give.

    how: "Euler", along the velocity, or "leaps", by the network that is told their length. In the
    plane it is the k-NN estimate of KL(p‖q) in nats, of pictures the energy distance in σ.
    """
    ref, plane = reference(engine.pool), engine.pool.dataset.kind == "plane"
    z = engine.starts(engine.some(SAMPLES, 400) if plane else 300, engine.view_rng)
    out = []
    for n in FEW:
        times = [i / n for i in range(n + 1)]
        way = (engine.leaps(z, times) if how == "leaps"
               else ode.solve(engine.drift, z, times, ode.euler))  # fmt: skip
        for state in way:
            end = state
            yield
        x = engine.unstandardise(end).double().cpu().numpy()
        if not math.isfinite(x.sum()):
            out.append(math.nan)
        elif plane:
            held = ref.held[:HELD]
            if len(x) not in engine._few_floor:
                engine._few_floor[len(x)] = knn_kl(held, ref.fresh(0)[: len(x)]).value
            out.append(knn_kl(held, x).value - engine._few_floor[len(x)])
        else:
            out.append(ref.energy(x) - ref.energy_floor)
    return out


def few(engine: FlowMatching) -> dict[str, list[float]]:
    """`by_steps` of every way that the model has, worked out once for each of its states."""
    return finish(few_pieces(engine))


def few_pieces(engine: FlowMatching) -> Pieces[dict[str, list[float]]]:
    """`few`, a step at a time."""
    key = (engine.step_count, engine.reflows, engine.averaged, engine.effort)
    if engine._few_key != key:
        hows = ("leaps", "Euler") if engine.distil == "shortcut" else ("Euler",)
        found = {}
        with engine.still(stream=2):
            for how in hows:
                found[how] = yield from by_steps(engine, how)
        engine._few, engine._few_key = found, key
    return engine._few


def probes(engine: FlowMatching) -> list[Probe]:
    names = tuple(f"steps_{n}" for n in FEW)
    plane = engine.pool.dataset.kind == "plane"
    what, unit = ("k-NN KL", "nats") if plane else ("Energy distance", "σ")

    def measured() -> Pieces[list[Metric]]:
        found = yield from few_pieces(engine)
        how = next(iter(found))
        some = engine.some(SAMPLES, 400) if plane else SAMPLES
        words = "leaps" if how == "leaps" else "steps of Euler's method"
        out = [
            Metric(name, value, unit, floor=0.0, label=f"In {n} step{'s' * (n > 1)}",
                   help=f"{what} of samples made in so many {words}, above that of true samples.")
            for name, n, value in zip(names, FEW, found[how], strict=True)
        ]  # fmt: skip
        return [m.of_fewer(f"{some:,} samples") for m in out] if some < SAMPLES else out

    return [Probe.of("few_steps", names, measured, 0.05)]
