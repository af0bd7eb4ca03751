"""Questions that a run answers as plain JSON (or bytes), besides the frames it draws.

They cross the boundary that app/worker.py names: whoever drives the run works them out
between two steps. Numbers without a value in JSON travel as "Infinity", "-Infinity" and null.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from engines import BadInput, Run
from engines.knobs import shown

MAX_ROWS = 100_000  # of samples, or of points to be judged
MAX_NUMBERS = 200_000  # in one JSON answer: some 4 MB; more goes into a file


def number(x: float | None) -> float | str | None:
    """x as JSON can say it."""
    if x is None or math.isnan(x):
        return None
    if math.isinf(x):
        return "Infinity" if x > 0 else "-Infinity"
    return float(x)


def numbers(run: Run, fresh: bool = False) -> dict[str, Any]:
    """Where the run stands: step, seconds, rate, metrics and losses.

    fresh: measure everything now; otherwise only what is due, as beside a stream of frames.
    """
    lanes: list[dict[str, Any]] = [{"metrics": {}, "losses": {}} for _ in run.lanes]
    for metric in run.measure(fresh):
        lanes[metric.lane]["metrics"][metric.name] = {
            "value": number(metric.value), "se": number(metric.se), "unit": metric.unit,
            "kind": metric.kind, "floor": number(metric.floor), "step": metric.step,
            "note": metric.note, "kernel_estimate": number(metric.rival),
        }  # fmt: skip
    for lane, out in zip(run.lanes, lanes, strict=True):
        out["losses"] = {k: number(t.values[-1]) for k, t in lane.tracks.items() if t.values}
    return {
        "step": run.step, "seconds": run.seconds, "rate": run.rate(), **lanes[0],
        "beside": [{"label": lane.label, **out} for lane, out in zip(run.lanes, lanes)][1:],
        "note": run.diverged or "",
    }  # fmt: skip


def samples(run: Run, n: Any, file: bool = False) -> list[list[Any]] | bytes:
    """n rows of the model in data units: lists of numbers, or the bytes of a .npy file."""
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MAX_ROWS:
        raise BadInput(f"Between 1 and {MAX_ROWS:,} samples can be drawn; got {shown(n)}.")
    most = MAX_NUMBERS // run.dataset.dim
    if n > most and not file:
        raise BadInput(
            f"At most {most:,} such samples fit into one answer; got {n:,}. Ask for them as a file."
        )
    rows = run.sample(n).float().cpu().numpy()
    if file:
        np.save(out := io.BytesIO(), rows, allow_pickle=False)
        return out.getvalue()
    if np.isfinite(rows).all():
        return rows.tolist()
    return [[number(x) for x in row] for row in rows.tolist()]


def log_prob(run: Run, points: Any) -> list[Any]:
    """log q at each point, in nats and data units."""
    dim = run.dataset.dim
    wanted = f"points must be a list of points of {dim} finite numbers each"
    if not isinstance(points, list) or not 1 <= len(points) <= min(MAX_ROWS, MAX_NUMBERS // dim):
        raise BadInput(f"Between 1 and {min(MAX_ROWS, MAX_NUMBERS // dim):,} points can be judged.")
    for point in points:
        if not isinstance(point, list) or len(point) != dim:
            raise BadInput(f"{wanted}; got {shown(point)}.")
        for x in point:
            # compared as it is: an int may be too large for a float
            if isinstance(x, bool) or not isinstance(x, (int, float)) or not abs(x) < 1e30:
                raise BadInput(f"{wanted}; got {shown(x)}.")
    try:
        return [number(x) for x in run.log_prob(points).double().cpu().tolist()]
    except NotImplementedError as error:
        raise BadInput(f"{run.engine.title} has no density.") from error


def act(run: Run, name: Any, arguments: Any = None) -> dict[str, Any]:
    """Carry out an action; the answer is `numbers`, nothing measured anew."""
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict) or not all(isinstance(key, str) for key in arguments):
        raise BadInput("An action's arguments are numbers by name.")
    run.act(name, **arguments)
    return numbers(run)


def checkpoint(run: Run) -> bytes:
    """The whole run, without pickle."""
    return run.checkpoint()


def restore(run: Run, saved: bytes) -> dict[str, Any]:
    """Take over a checkpoint; the answer is its experiment."""
    run.restore(saved)
    return run.experiment.to_dict()


ANSWERS: dict[str, Callable[..., Any]] = {
    "numbers": numbers, "samples": samples, "log_prob": log_prob,
    "act": act, "checkpoint": checkpoint, "restore": restore,
}  # fmt: skip
