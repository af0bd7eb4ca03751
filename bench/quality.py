"""How close a model comes, against seconds of training on one core.

    python -m bench.quality                                     the usual table
    python -m bench.quality flow --datasets moons,spirals       one engine, with its curve
    python -m bench.quality flow --knobs '{"kind": "MAF"}' --seeds 0,1,2 --seconds 30
    python -m bench.quality flow --datasets digits --seconds 60
    python -m bench.quality gan                    modes, shares and spread: see bench/games.py

KL(p‖q) is the mean of log p − log q in nats over the run's 10,000 held-out points, with the
exact p. Beside it stands what a kernel estimate on 20,000 true samples achieves on the same
points. On images it is bits/dim of the 500 held-out images, of the weights that the model
shows: its best on validation images, where it keeps them. Seconds are CPU seconds of training
alone, on one thread.

Digits with labels have two numbers that need each other: see `bench.labelled`.

With `--save` the curves are kept in bench/out, and `python -m bench.picture` draws them all.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import time
from pathlib import Path

import torch

from bench import games, labelled
from engines import DATASETS, ENGINES, Experiment, rival
from engines.metrics import bits_per_dim, kl
from engines.run import Diverged, Run

MARKS = (1, 2, 4, 8, 15, 30, 60)
# what is compared: label → engine and the knobs that differ from its defaults
ROWS: dict[str, tuple[str, dict]] = {
    "Gaussian mixture, K = 100": ("mixture", {"n_components": 100}),
    "Flow, spline": ("flow", {}),
    "Flow, RealNVP": ("flow", {"kind": "RealNVP"}),
    "Flow, MAF": ("flow", {"kind": "MAF"}),
    "Flow, continuous": ("flow", {"kind": "continuous"}),
    "Energy, persistent CD": ("energy", {}),
    "Autoregressive": ("autoregressive", {}),
    "VAE": ("vae", {}),
    "Noise contrast": ("nce", {}),
    "Diffusion": ("diffusion", {}),
}
IMAGES = ("digits",)
ON_IMAGES = ("Flow, spline", "Autoregressive", "VAE")  # of ROWS, and for how long
IMAGE_SECONDS = 60
PLANES = ("spirals", "checkerboard", "ring8", "moons")
OTHERS = [
    ("gan", "ring8soft"), ("gan", "grid25"),
    ("mixture", "digits"), ("gan", "digits"),
]  # fmt: skip
SHOWN = ("modes", "sliced_w2", "bits_val", "bits_test", "nn_ratio")
OUT = Path(__file__).parent / "out"


def train(run: Run, seconds: float) -> None:
    """`seconds` of this process' CPU time, all of it in training steps."""
    spent = 0.0
    while spent < seconds:
        begin = time.process_time()
        run.train(steps=5)
        spent += time.process_time() - begin


def unit(dataset: str) -> str:
    """What `curve` measures on it."""
    return "bits/dim" if DATASETS[dataset].kind == "images" else "KL(p‖q), nats"


def curve(
    engine: str, dataset: str, knobs: dict, seed: int, seconds: float
) -> list[tuple[float, int, float]]:
    """(CPU seconds, step, `unit`) at each of MARKS up to `seconds`; NaN once it diverged."""
    run = Experiment(dataset, engine, seed, knobs).start("cpu")
    test, images = run.pool.test, run.dataset.kind == "images"
    log_p = None if images else run.dataset.log_prob(test)
    out, before = [], 0.0
    for mark in [*(m for m in MARKS if m < seconds), seconds]:
        try:
            train(run, mark - before)
            # on the way as many rows as the page takes, where a density is dear; in the end all
            n = len(test) if mark == seconds else run.engine.probe_rows
            log_q = run.log_prob(test[:n])
            gap = bits_per_dim(log_q, run.pool.dim) if images else kl(log_p[:n], log_q)
            gap = gap.value
        except Diverged:
            gap = math.nan
        out.append((mark, run.step, gap))
        before = mark
        if math.isnan(gap):
            break
    return out


def table(engine: str, datasets: list[str], knobs: dict, seeds: list[int], seconds: float) -> list:
    """Print a line for each curve, the median over seeds last; returns what was measured."""
    found = []
    for dataset in datasets:
        last, kernels = [], None
        if DATASETS[dataset].kind == "plane":
            pool = DATASETS[dataset]().pool(seeds[0])
            kernels = rival.measure(pool)["kl_pq"] if rival.has_rival(pool) else None
        for seed in seeds:
            points = curve(engine, dataset, knobs, seed, seconds)
            last.append(points[-1][2])
            shown = "  ".join(f"{mark:g} s {gap:.4g}" for mark, _, gap in points)
            print(f"{engine:14s} {dataset:12s} seed {seed}  {shown}  ({points[-1][1]:,} steps)",
                  flush=True)  # fmt: skip
            found.append({"dataset": dataset, "seed": seed, "curve": points,
                          "kernel_estimate": kernels})  # fmt: skip
        if len(seeds) > 1:
            beside = "" if kernels is None else f", kernel estimate {kernels:.4g}"
            print(f"{engine:14s} {dataset:12s} median {statistics.median(last):.4g}{beside}",
                  flush=True)  # fmt: skip
    return found


def others() -> None:
    """What has no density on the plane: samples and images, seed 0."""
    for engine, dataset in OTHERS:
        run, before = Experiment(dataset, engine).start("cpu"), 0
        for mark in (1, 3, 10, 30):
            train(run, mark - before)
            before = mark
            values = {m.name: m.value for m in run.measure()}
            shown = "  ".join(f"{k} {values[k]:.3f}" for k in SHOWN if k in values)
            print(
                f"{engine:14s} {dataset:12s} {mark:3d} s  step {run.step:6d}  {shown}", flush=True
            )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", nargs="?", help="all of ROWS if none is named")
    parser.add_argument("--row", choices=ROWS, help="one of ROWS")
    parser.add_argument("--datasets", help="of those that it can be measured on")
    parser.add_argument("--knobs", help="JSON of knobs that differ from the default")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--save", action="store_true", help="keep the curves in bench/out")
    given = parser.parse_args(arguments or [])
    torch.set_num_threads(1)
    seeds, knobs = [int(s) for s in given.seeds.split(",")], json.loads(given.knobs or "{}")
    if given.engine == "gan":  # it has no density
        rows = games.GAMES if given.knobs is None else {f"gan {given.knobs}": knobs}
        for label, knobs in rows.items():
            datasets = (given.datasets or "ring8").split(",")
            games.measure(label, knobs, datasets, seeds, given.seconds, given.save)
        return
    datasets = (given.datasets or ",".join(PLANES)).split(",")
    label = ", ".join([given.engine or "", *(f"{k} {v}" for k, v in knobs.items())])
    if given.engine or given.row:
        engine, knobs = (given.engine, knobs) if given.engine else ROWS[given.row]
        measure(given.row or label, engine, datasets, knobs, seeds, given.seconds, given.save)
        return
    for label, (engine, knobs) in ROWS.items():
        if engine not in ENGINES:
            print(f"\n{label}: there is no engine {engine} yet", flush=True)
            continue
        measure(label, engine, datasets, knobs, seeds, given.seconds, given.save)
        if label in ON_IMAGES:
            measure(label, engine, list(IMAGES), knobs, seeds, IMAGE_SECONDS, given.save)
    labelled.table({}, seeds, IMAGE_SECONDS)
    others()


def measure(
    label: str, engine: str, datasets: list[str], knobs: dict, seeds: list[int], seconds: float,
    save: bool,
) -> None:  # fmt: skip
    """One row of the table, printed and, if wanted, kept in bench/out for `bench.picture`."""
    print(f"\n{label}", flush=True)
    found = table(engine, datasets, knobs, seeds, seconds)
    if save:
        OUT.mkdir(exist_ok=True)
        # images are often measured by themselves, for longer
        kind = " images" if all(DATASETS[d].kind == "images" for d in datasets) else ""
        name = re.sub(r"[^a-z0-9]+", "-", f"{label}{kind}".lower()).strip("-")
        kept = OUT / f"quality-{name}.json"
        kept.write_text(json.dumps({"label": label, "runs": found}))
        print(kept)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
