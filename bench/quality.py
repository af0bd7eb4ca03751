"""How close each engine comes at default knobs, against seconds of training on one core."""

from __future__ import annotations

import time

from engines import Experiment

MARKS = (1, 3, 10, 30)
CASES = [
    ("mixture", "ring8"), ("flow", "moons"), ("flow", "pinwheel"), ("flow", "spirals"),
    ("flow", "ring8"), ("gan", "ring8soft"), ("gan", "grid25"),
    ("mixture", "digits"), ("flow", "digits"), ("gan", "digits"),
]  # fmt: skip
SHOWN = ("kl_pq", "kl_qp", "modes", "sliced_w2", "bits_val", "bits_test", "nn_ratio")


def main() -> None:
    print("CPU seconds of training, one thread, seed 0")
    for engine, dataset in CASES:
        run = Experiment(dataset, engine).start("cpu")
        spent = 0.0
        for mark in MARKS:
            while spent < mark:
                begin = time.process_time()
                run.train(steps=5)
                spent += time.process_time() - begin
            values = {m.name: m.value for m in run.frame().metrics}
            shown = "  ".join(f"{k} {values[k]:.3f}" for k in SHOWN if k in values)
            print(f"{engine:8s} {dataset:10s} {mark:3d} s  step {run.step:6d}  {shown}", flush=True)
