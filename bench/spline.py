"""Spline flows ÷ zuko's neural spline flow (NSF), each in a bare loop and in turn, in steps/s.

zuko runs as its documentation shows it: eager, with torch's Adam at its defaults. Both have the
same number of autoregressive transformations, bins, hidden layers, units and rows a step, and one
thread. Ours does more in a step: sines of the input, averaged weights, clipped gradients, twice
the bins for the first coordinate.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from engines import Experiment
from engines.flow.compiled import LIBRARY

SECONDS, ROUNDS = 1.5, 5
DEPTHS = (1, 3)  # layers: our default, and zuko's


def zukos(layers: int, knobs: dict) -> Callable[[], None]:
    """One training step of zuko's flow with the knobs of ours."""
    import zuko

    flow = zuko.flows.NSF(
        2, transforms=layers, bins=knobs["bins"], hidden_features=[knobs["width"]] * knobs["hidden"]
    )
    optimiser = torch.optim.Adam(flow.parameters(), lr=1e-3)
    rows = Experiment("ring8soft", "flow").make_pool("cpu").train

    def step() -> None:
        x = rows[torch.randint(len(rows), (knobs["batch"],))]
        loss = -flow().log_prob(x).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def rate(step: Callable[[], None]) -> float:
    """Steps a second."""
    for _ in range(5):
        step()
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < SECONDS:
        step()
        done += 1
    return done / (time.perf_counter() - begin)


def compiled_after(run) -> float:
    """Seconds until a run that is asked again and again trains in native code, from no cache."""
    with tempfile.TemporaryDirectory() as folder:
        LIBRARY.folder = Path(folder)
        begin = time.perf_counter()
        while LIBRARY.state in ("idle", "busy"):
            run.quicken()
            run.advance()
        run.quicken()
        return time.perf_counter() - begin


def main() -> None:
    live = Experiment("ring8soft", "flow").start("cpu")
    seconds = compiled_after(live)
    print(f"{live.quickened}, {seconds:.1f} s after the first step")
    print("layers   zuko/s   eager/s  compiled/s   eager ÷ zuko (min … max)   compiled ÷ zuko")
    for layers in DEPTHS:
        experiment = Experiment("ring8soft", "flow", knobs={"splines": layers})
        eager, live = experiment.start("cpu"), experiment.start("cpu")
        live.quicken()
        steps = (zukos(layers, experiment.knobs), eager.advance, live.advance)
        rounds = [[rate(step) for step in steps] for _ in range(ROUNDS)]
        of = [statistics.median(column) for column in zip(*rounds, strict=True)]
        shares = [[r[1] / r[0] for r in rounds], [r[2] / r[0] for r in rounds]]
        told = [f"{statistics.median(s):5.2f} ({min(s):.2f} … {max(s):.2f})" for s in shares]
        print(
            f"{layers:6d} {of[0]:8.0f} {of[1]:9.0f} {of[2]:11.0f}   {told[0]:24s}   {told[1]}",
            flush=True,
        )
