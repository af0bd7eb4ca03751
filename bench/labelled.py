"""Digits with labels: what a classifier learns from samples, and whether they are copies.

    python -m bench.labelled                                    seeds 0, 1, 2 for 60 seconds each
    python -m bench.labelled --knobs '{"r1": 1}' --seeds 3,4 --seconds 20
    python -m bench.labelled --engine guided_diffusion

At each mark: the accuracy on held-out real digits of a classifier taught by 2,000 samples
(`engines.judge.taught`; 2,000 draws of real digits give .984), and the ratio of neighbours
(`engines.metrics.nearest_ratio`; 1 is right, 0 a copy). Neither says anything without the other.
Seconds are CPU seconds of training alone, on one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics

import torch

from engines import Experiment
from engines.judge import SAMPLES, taught
from engines.metrics import nearest_ratio

ENGINES, DATASET = ("conditional_gan", "guided_diffusion"), "digits"  # those with `labelled`


def curve(
    engine: str, knobs: dict, seed: int, seconds: float
) -> list[tuple[float, int, float, float]]:
    """(CPU seconds, step, accuracy, ratio of neighbours) at each of MARKS up to `seconds`."""
    from bench.quality import MARKS, train

    run = Experiment(DATASET, engine, seed, knobs).start("cpu")
    pool, out, before = run.pool, [], 0.0
    for mark in [*(m for m in MARKS if m < seconds), seconds]:
        train(run, mark - before)
        with torch.no_grad(), run.engine.still():
            x, y = run.engine.labelled(SAMPLES)
        accuracy = taught(x, y, pool.test, pool.test_labels).value
        ratio = nearest_ratio(x, pool.train + 0.5, pool.test).value
        out.append((mark, run.step, accuracy, ratio))
        before = mark
    return out


def table(engine: str, knobs: dict, seeds: list[int], seconds: float) -> None:
    """Print a line for each seed, and the medians."""
    print(f"\nDigits with labels, {engine} {json.dumps(knobs)}", flush=True)
    last = []
    for seed in seeds:
        points = curve(engine, knobs, seed, seconds)
        shown = "  ".join(f"{mark:g} s {a:.3f} {r:.2f}" for mark, _, a, r in points)
        print(f"seed {seed}  accuracy, ratio:  {shown}  ({points[-1][1]:,} steps)", flush=True)
        last.append(points[-1][2:])
    accuracy, ratio = (statistics.median(column) for column in zip(*last, strict=True))
    print(f"median accuracy {accuracy:.3f}, ratio of neighbours {ratio:.2f}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0])
    parser.add_argument("--knobs", default="{}", help="JSON of knobs that differ from the default")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args(arguments or [])
    torch.set_num_threads(1)
    table(
        given.engine,
        json.loads(given.knobs),
        [int(s) for s in given.seeds.split(",")],
        given.seconds,
    )


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
