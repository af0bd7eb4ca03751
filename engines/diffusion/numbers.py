"""Numbers that are special to diffusion: what the score costs, what solvers cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from engines.arrays import numpy
from engines.diffusion.samplers import SAMPLERS
from engines.diffusion.schedules import HIGH, LOW
from engines.marks import Metric
from engines.pace import Pieces
from engines.probes import Probe, reference

if TYPE_CHECKING:
    from engines.diffusion.engine import Diffusion

LEVELS, ROWS = 14, 400  # of noise, and held-out rows at each of them
CHECKED = 200  # rows on which the ODE is solved twice
BUDGETS = (2, 4, 8, 16, 32)  # evaluations a sample, of the comparison
COMPARED = {"plane": 1000, "images": 500}  # samples of each


class Gap(NamedTuple):
    """By level of noise: σ/α (L,), mean error per e-fold of it (L,), whether in excess alone."""

    ratio: np.ndarray
    error: np.ndarray
    excess: bool

    @property
    def total(self) -> float:
        return float(np.trapezoid(self.error, np.log(self.ratio)))


def noised(engine: Diffusion) -> list[tuple[float, Tensor, Tensor]]:
    """At each level the angle, held-out rows in noise z (N, d), and the v (N, d) that is right.

    v is the exact one E[ε cos φ − x₀ sin φ | z] where the data's field in noise is known, and that
    of the row at hand where not. Made once, with noise that is always the same.
    """
    if engine._noised is None:
        x = engine.standardise(engine.pool.test[:ROWS].float())
        rng = torch.Generator(engine.device).manual_seed(6_000_011)
        engine._noised = []
        for ratio in np.geomspace(LOW, HIGH, LEVELS):
            angle = math.atan(ratio)
            cos, sin = math.cos(angle), math.sin(angle)
            noise = torch.randn(x.shape, generator=rng, device=engine.device)
            z = cos * x + sin * noise
            right = cos * noise - sin * x
            if engine.exact is not None:
                right = (cos * z - engine.exact.denoised(z, cos, sin)) / sin
            engine._noised.append((angle, z, right.float()))
    return engine._noised


def gap(engine: Diffusion) -> Gap:
    """The error of x̂₀ in units of σ/α, squared: |x̂₀ − E[x₀|z]|² (α/σ)² by level of noise.

    Its integral over log σ/α is ½ ∫ g² E|ŝ − s|² dt, which bounds the KL(p‖q) of the reverse SDE
    from above, but for the base (Song, Durkan, Murray & Ermon 2021, Maximum likelihood training of
    score-based diffusion models).
    """
    key = (engine.step_count, engine.averaged)
    if engine._gap is None or engine._gap[0] != key:
        errors = [
            (engine.drift(z, angle) - right).square().sum(1).mean() * math.cos(angle) ** 2
            for angle, z, right in noised(engine)
        ]
        ratio = np.tan([angle for angle, _, _ in noised(engine)])
        found = numpy(torch.stack(errors)).astype(np.float64)
        engine._gap = key, Gap(ratio, found, engine.exact is not None)
    return engine._gap[1]


def metrics(engine: Diffusion) -> list[Metric]:
    asked = SAMPLERS[engine.sampler].evaluations * engine.steps * engine.asks
    return [
        Metric("evaluations", asked, "", "exact", label="Evaluations a sample",
               help="How often the network is asked on the way from noise to data: the price of "
                    "a sample."),
    ]  # fmt: skip


def probes(engine: Diffusion) -> list[Probe]:
    def lost() -> list[Metric]:
        return [
            Metric("score_gap", gap(engine).total, "nats", "estimate", floor=0.0,
                   label="Lost by the score",
                   help="½∫g²E|ŝ − s|²dt with the exact score s: an upper bound of KL(p‖q) for the "
                        "reverse SDE in infinitely many steps. KL(p‖q) above is that of the ODE."),
        ]  # fmt: skip

    def solved() -> Pieces[list[Metric]]:
        x, n = engine.pool.test[:CHECKED], engine.STEPS_PROBE
        log_q = yield from engine.density_pieces(x, n)
        apart = (log_q - (yield from engine.density_pieces(x, 2 * n))).abs().double()
        return [
            Metric("ode_error", float(apart.mean()), "nats", "estimate", floor=0.0,
                   label="Error of solving the ODE",
                   help=f"Mean |log q − log q′| over {CHECKED} held-out points, q by {n} steps of "
                        f"Heun's method, as all live numbers are, and q′ by {2 * n}."),
        ]  # fmt: skip

    out = []
    if engine.exact is not None:
        out.append(Probe("score_gap", ("score_gap",), lost, 0.4))
    if engine.has_density:
        out.append(Probe.of("ode_error", ("ode_error",), solved, 0.1))
    return out


def compared(engine: Diffusion) -> dict[str, list[tuple[int, float]]]:
    """Sampler → (evaluations a sample, distance above the floor), all on the network shown.

    The distance is that of k-NN KL in the plane and the energy distance of images, on samples
    that all begin with the same noise.
    """
    ref, n = reference(engine.pool), COMPARED[engine.pool.dataset.kind]

    def far(rows: np.ndarray) -> float:
        images = engine.pool.dataset.kind == "images"
        return ref.energy(rows) if images else ref.knn_kl(rows).value

    floor = far(ref.fresh(0)[:n])
    out: dict[str, list[tuple[int, float]]] = {}
    for name, entry in SAMPLERS.items():
        for budget in BUDGETS:
            steps = budget // (entry.evaluations * engine.asks)
            if not steps:
                continue
            with engine.still(stream=2):
                x = engine.sample(n, steps=steps, sampler=name)
            rows = numpy(x).astype(np.float64)
            if np.isfinite(rows).all():
                out.setdefault(name, []).append((budget, far(rows) - floor))
    return out
