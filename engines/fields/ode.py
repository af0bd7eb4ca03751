"""Solvers of dz/dt = v(z, t), and the density that they carry along.

A solver is a generator over a grid of times, so that whoever follows it decides what to show.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from engines.pace import Pieces, finish

Drift = Callable[[Tensor, float], Tensor]  # z (N, d), t → dz/dt (N, d)
DriftJacobian = Callable[[Tensor, float], tuple[Tensor, Tensor]]  # … and ∂v/∂z (N, d, d)
Step = Callable[[Drift, Tensor, float, float], Tensor]


def euler(v: Drift, z: Tensor, t: float, then: float) -> Tensor:
    """One step of Euler's method; one evaluation."""
    return z + (then - t) * v(z, t)


def midpoint(v: Drift, z: Tensor, t: float, then: float) -> Tensor:
    """One step of the midpoint rule, of second order; two evaluations."""
    h = then - t
    return z + h * v(z + h / 2 * v(z, t), t + h / 2)


def heun(v: Drift, z: Tensor, t: float, then: float) -> Tensor:
    """One step of Heun's method, of second order; two evaluations."""
    h = then - t
    first = v(z, t)
    return z + h / 2 * (first + v(z + h * first, then))


def rk4(v: Drift, z: Tensor, t: float, then: float) -> Tensor:
    """One step of the classical Runge–Kutta method, of fourth order; four evaluations."""
    h = then - t
    a = v(z, t)
    b = v(z + h / 2 * a, t + h / 2)
    c = v(z + h / 2 * b, t + h / 2)
    d = v(z + h * c, then)
    return z + h / 6 * (a + 2 * b + 2 * c + d)


STEPS: dict[str, Step] = {"Euler": euler, "midpoint": midpoint, "Heun": heun, "RK4": rk4}


def solve(v: Drift, z: Tensor, times: Sequence[float], step: Step = heun) -> Iterator[Tensor]:
    """z at each of `times` (T,), the first one included: T states (N, d)."""
    yield z
    for t, then in itertools.pairwise(times):
        z = step(v, z, t, then)
        yield z


def end(v: Drift, z: Tensor, times: Sequence[float], step: Step = heun) -> Tensor:
    """z at the last of `times`, (N, d)."""
    for state in solve(v, z, times, step):
        z = state
    return z


def ending(v: Drift, z: Tensor, times: Sequence[float], step: Step = heun) -> Pieces[Tensor]:
    """`end` in pieces of one step."""
    for state in solve(v, z, times, step):
        z = state
        yield
    return z


def carried(v: DriftJacobian, z: Tensor, times: Sequence[float]) -> tuple[Tensor, Tensor]:
    """`carrying`, all steps at once."""
    return finish(carrying(v, z, times))


def carrying(v: DriftJacobian, z: Tensor, times: Sequence[float]) -> Pieces[tuple[Tensor, Tensor]]:
    """z at the last of `times`, and log|det ∂z_end/∂z|, (N, d) and (N,), by Heun's method.

    The determinant is that of the steps themselves, exactly: the Jacobian is carried through both
    stages of each step. So a density that follows is normalised however few steps there are, as
    long as none folds space; as steps get shorter log|det| tends to ∫ tr ∂v/∂z dt (Chen, Rubanova,
    Bettencourt & Duvenaud 2018, Neural ordinary differential equations).
    """
    total = torch.zeros(len(z), device=z.device, dtype=z.dtype)
    eye = torch.eye(z.shape[1], device=z.device, dtype=z.dtype)
    for t, then in itertools.pairwise(times):
        h = then - t
        first, slope = v(z, t)
        second, later = v(z + h * first, then)
        jacobian = eye + h / 2 * (slope + later + h * (later @ slope))
        z = z + h / 2 * (first + second)
        total = total + log_abs_det(jacobian)
        yield
    return z, total


def log_abs_det(jacobian: Tensor) -> Tensor:
    """log|det|, (N, d, d) → (N,)."""
    if jacobian.shape[-1] == 2:
        (a, b), (c, d) = (row.unbind(-1) for row in jacobian.unbind(-2))
        return (a * d - b * c).abs().log()
    return torch.linalg.slogdet(jacobian)[1]
