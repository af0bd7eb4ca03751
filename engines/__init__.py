"""Generative models, their data and their training. No Gradio, no Plotly, no JSON views.

from engines import Experiment
run = Experiment("ring8", "flow", seed=0, knobs={"lr": 2e-3}).start(device="cpu")
run.train(steps=500)
x = run.sample(10_000)
"""

import importlib
import pkgutil

from engines.machine import prepare

prepare()

import torch  # noqa: E402

# One thread a run: tiny networks lose 5 to 100 times their speed to thread hand-over as
# soon as one core is busy with something else (a browser is enough).
torch.set_num_threads(1)

from engines import data  # noqa: E402
from engines.base import ENGINES, Engine, families  # noqa: E402
from engines.data import DATASETS, Dataset  # noqa: E402
from engines.knobs import BadInput  # noqa: E402

# every file in this folder may hold an engine: the list is derived, never kept by hand
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"engines.{_module.name}")
_ordered = sorted(ENGINES.items(), key=lambda item: item[1].place)
ENGINES.clear()
ENGINES.update(_ordered)

from engines.experiment import Experiment  # noqa: E402
from engines.run import Diverged, Run  # noqa: E402

__all__ = [
    "DATASETS", "ENGINES", "BadInput", "Dataset", "Diverged", "Engine", "Experiment", "Run",
    "data", "families",
]  # fmt: skip
