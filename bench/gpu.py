"""On a GPU: steps a second by CUDA graphs ÷ eagerly, and with frames ÷ by replays alone, in turn.

It needs PyTorch, NumPy and scikit-learn alone: no page is opened.
"""

from __future__ import annotations

import statistics
import time

import torch

from engines import Experiment, Run

SECONDS, ROUNDS, FPS = 1.0, 5, 15
WORKLOADS = {
    "flow": Experiment("moons", "flow"),
    "flow, RealNVP": Experiment("moons", "flow", knobs={"kind": "RealNVP"}),
    "GAN": Experiment("ring8", "gan"),
    "VAE": Experiment("moons", "vae"),
    "VAE, digits": Experiment("digits", "vae"),
    "diffusion": Experiment("moons", "diffusion"),
}


def ready(experiment: Experiment, graphs: bool) -> Run:
    """A run that has warmed up, and captured its steps."""
    run = experiment.start("cuda")
    if graphs:
        run.by_graphs()
    run.train(steps=400).train(seconds=0.5)
    return run.train(steps=200)


def bare(run: Run) -> float:
    """Steps a second."""
    torch.cuda.synchronize()
    begin, first = time.perf_counter(), run.step
    while time.perf_counter() - begin < SECONDS:
        run.train(steps=100)
    torch.cuda.synchronize()
    return (run.step - first) / (time.perf_counter() - begin)


def live(run: Run) -> tuple[float, float]:
    """Steps a second while frames are drawn as a page asks for them, and frames a second."""
    torch.cuda.synchronize()
    begin, first, frames, cost, ahead = time.perf_counter(), run.step, 0, 0.01, 0
    while (now := time.perf_counter()) - begin < SECONDS:
        due, before = now + 1 / FPS - cost, run.step
        while time.perf_counter() < due:
            run.advance(None)
        trained = time.perf_counter() - now
        tick = time.perf_counter()
        run.frame(fresh=False, ahead=ahead)
        cost = time.perf_counter() - tick
        ahead = int((run.step - before) * min(1.0, cost / max(trained, 1e-3)))
        frames += 1
    torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    return (run.step - first) / seconds, frames / seconds


def main() -> None:
    if not torch.cuda.is_available():
        print("There is no GPU here, so nothing was measured.")
        return
    print(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}")
    print("workload         eager/s  captured/s  ratio (min … max)   live ÷ replay   frames/s")
    for name, experiment in WORKLOADS.items():
        eager, captured = ready(experiment, False), ready(experiment, True)
        if why := captured.graphs.why_eager:
            print(f"{name:15s} was not captured. {why}")
            continue
        captured.frame()
        found = [(bare(eager), bare(captured), live(captured)) for _ in range(ROUNDS)]
        gains = [b / a for a, b, _ in found]
        print(
            f"{name:15s} {statistics.median(a for a, _, _ in found):8.0f}"
            f"  {statistics.median(b for _, b, _ in found):10.0f}"
            f"  {statistics.median(gains):5.1f} ({min(gains):.1f} … {max(gains):.1f})"
            f"   {statistics.median(c[0] / b for _, b, c in found):13.2f}"
            f"   {statistics.median(c[1] for _, _, c in found):8.1f}",
            flush=True,
        )
