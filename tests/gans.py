"""A GAN that tests start, and critics and generators whose slopes and densities are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from engines import Experiment
from engines.data.base import Dataset, Pool
from engines.gan import GAN
from engines.marks import Mark
from engines.metrics import mode_report
from engines.probes import reference

# the game that is put to the test unless told: defaults may be tuned
PLAIN = {"loss": "non-saturating", "r1": 2.0, "r2": 0.0, "fade": 0, "waves": 0, "latent": 2,
         "width": 128, "batch": 256, "d_lr": 1e-3, "g_lr": 2e-3, "averaging": 50}  # fmt: skip


def started(dataset: str = "ring8soft", seed: int = 0, **knobs) -> GAN:
    return Experiment(dataset, "gan", seed, {**PLAIN, **knobs}).start("cpu").engine


def on_normals(**knobs) -> GAN:
    """A GAN on data N(0, I) of the plane, in data units = standardised units."""
    rows = torch.randn(50_000, 2, generator=torch.Generator().manual_seed(0))
    rows = (rows - rows.mean(0)) / rows.std(0)
    engine = GAN({**PLAIN, **knobs}, 0)
    engine.start(Pool(Dataset(), rows, rows[:1000], rows[:1000]))
    return engine


def linear(w0: float, w1: float, bias: float = 0.0) -> nn.Linear:
    """A critic whose slope is known everywhere."""
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[w0, w1]]))
        layer.bias.fill_(bias)
    return layer


def copies(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(module: nn.Module, before: list[Tensor]) -> bool:
    return all(torch.equal(p, b) for p, b in zip(module.parameters(), before, strict=True))


def marks(engine: GAN, panel: str) -> list[Mark]:
    with torch.no_grad(), engine.still():
        return next(p for p in engine.panels() if p.id == panel).drawn().marks


def agrees(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a, b, rtol=1e-9, atol=1e-12))


class Affine(nn.Module):
    """A generator whose density is known: z ↦ 0.7 z + shift."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor([0.9, -0.4]))

    def forward(self, z: Tensor) -> Tensor:
        return 0.7 * z + self.shift

    def log_prob(self, x: Tensor) -> Tensor:
        square = ((x - self.shift) / 0.7).square().sum(1)
        return -square / 2 - 2 * math.log(0.7) - math.log(2 * math.pi)


class Still(nn.Module):
    """A generator of one point only."""

    def __init__(self, x: float, y: float) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.tensor([x, y]))

    def forward(self, z: Tensor) -> Tensor:
        return self.place.expand(len(z), 2)


def quality(engine: GAN) -> tuple[int, float]:
    """Modes covered, and sliced Wasserstein-2 in standard deviations of the data."""
    with torch.no_grad(), engine.still(stream=1):
        x = engine.sample(10_000)
    ref = reference(engine.pool)
    return mode_report(x, ref.modes).found, ref.sliced_w2(x.double().numpy())
