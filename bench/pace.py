"""Live ÷ bare at 15 frames a second, gaps between frames at load, and a busy core, without a browser.

The live loop is the worker's own, and whoever takes its frames says at once that they are painted.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from app.worker import Worker
from engines import ENGINES, Experiment, Run

FPS, SECONDS, ROUNDS, RAMP = 15.0, 3.0, 5, 1.3
CHEAP = ("mixture", "gan", "flow", "energy", "vae")
DEAR = ("diffusion", "flow_matching", "score", "guided_diffusion", "inverse_diffusion")


class Live(NamedTuple):
    """Steps a second, and the gaps between frames in seconds (N,)."""

    rate: float
    gaps: np.ndarray


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """One core kept busy by another process."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()


def opened(engine: str) -> Worker:
    worker = Worker("cpu", fps=FPS)
    worker.post(open=Experiment(ENGINES[engine].opens_on, engine).to_json())
    worker.redraw()
    return worker


def live(worker: Worker, seconds: float = SECONDS) -> Live:
    """A stretch of playing, without the ramp at its beginning."""
    times, begun, step = [], None, 0
    for frame, _ in worker.stream():
        if frame is None:
            continue
        now = time.perf_counter()
        worker.hear(worker._seq)
        times.append(now)
        if begun is None and now - times[0] > RAMP:
            begun, step = len(times) - 1, worker.run.step
        if begun is not None and now - times[begun] > seconds:
            rate = (worker.run.step - step) / (now - times[begun])
            worker.stop()
            return Live(rate, np.diff(times[begun:]))
    raise RuntimeError(worker._message)


def bare(run: Run, seconds: float = SECONDS) -> float:
    begin, step = time.perf_counter(), run.step
    run.train(seconds=seconds)
    return (run.step - step) / (time.perf_counter() - begin)


def main(engines: list[str] | None = None) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # as app.py does
    print("                            live ÷ bare          gaps at load, ms    busy core ÷ idle")
    print("engine              bare/s  median (min … max)   median  95 %  most  median")
    for engine in engines or (*CHEAP, *DEAR):
        worker, found = opened(engine), []
        bare(worker.run, 0.5)
        for _ in range(ROUNDS):
            before, lively, after = bare(worker.run), live(worker), bare(worker.run)
            with busy():
                loaded, gaps = bare(worker.run), live(worker).gaps
            # what else the machine does changes from minute to minute: neighbours are compared
            idle = (before + after) / 2
            found.append((idle, lively.rate / idle, loaded / after, gaps))
        ratios = [row[1] for row in found]
        gaps = 1000 * np.concatenate([row[3] for row in found])
        print(
            f"{engine:18s} {statistics.median(row[0] for row in found):7.0f}"
            f"  {statistics.median(ratios):6.2f} ({min(ratios):.2f} … {max(ratios):.2f})"
            f"  {np.median(gaps):9.0f} {np.quantile(gaps, 0.95):5.0f} {gaps.max():5.0f}"
            f"  {statistics.median(row[2] for row in found):6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
