"""What the tests of flows share: flows far from their start, and checks that a twin must fail."""

from __future__ import annotations

import torch
from torch import Tensor

from engines.cells import centres
from engines.data.base import Dataset, Pool
from engines.flow import KINDS, Flow, Standardise
from engines.flow import layers as chains

PLANE = (-16.0, 16.0, -16.0, 16.0)


def made(dim: int = 2, seed: int = 0, **knobs) -> Flow:
    """A flow at its start, on data with a mean and an uneven scale."""
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn(500, dim, generator=rng) * torch.linspace(0.3, 2.5, dim) + 5
    dataset = Dataset()
    dataset.shape, dataset.kind = (dim,), "line"
    engine = Flow({"layers": 5, "splines": 3, "width": 16, **knobs}, seed)
    engine.start(Pool(dataset, rows, rows, rows))
    return engine


def perturbed(dim: int = 2, seed: int = 0, **knobs) -> Flow:
    """The same with weights far from its start."""
    engine = made(dim, seed, **knobs)
    networked = KINDS[engine.kind].networked
    shake(engine.average.module, seed, 0.5 if not networked else 0.05 if dim < 4 else 0.03)
    return engine


def far(kind, dim: int, layers: int = 3, width: int = 24, size: float = 0.2, **knobs):
    """A Module of one kind of flow alone, with weights far from its start."""
    rng = torch.Generator().manual_seed(3)
    net = kind(dim, layers, width, 2, rng, **knobs)
    with torch.no_grad():
        for p in net.parameters():
            p += size * torch.randn(p.shape, generator=rng).clamp(-2, 2) / dim**0.5
    return net


def encode(net, x: Tensor) -> tuple[Tensor, Tensor]:
    """Through all layers of such a Module: z (N, d) and the sum of their log|det| (N,)."""
    total = 0.0
    for layer in net.layers():
        x, log_det = layer.forward(x)
        assert log_det.shape == (len(x),)
        total = total + log_det
    return x, total


def decode(net, z: Tensor) -> Tensor:
    """And back again."""
    for layer in reversed(net.layers()):
        z = layer.inverse(z)
    return z


def shake(net: torch.nn.Module, seed: int, size: float) -> None:
    rng = torch.Generator().manual_seed(seed + 77)
    with torch.no_grad():
        for p in net.parameters():
            p += size * torch.randn(p.shape, generator=rng)


def doubled(engine: Flow) -> Flow:
    """The same flow in float64."""
    engine.average.module.double()
    engine._before = [
        Standardise(b.mean.double(), b.std.double()) if isinstance(b, Standardise) else b
        for b in engine._before
    ]
    return engine


def jacobian(forward, x: Tensor) -> Tensor:
    """(N, d, d) by autograd, rows z, columns x; forward(x) is z and whatever comes with it."""
    one = torch.autograd.functional.jacobian
    return torch.stack([one(lambda r: forward(r[None])[0][0], row) for row in x])


def jacobian_gap(forward, x: Tensor) -> float:
    """Largest |log|det J| of autograd − what `forward` says| over the rows of x, in float64."""
    x = x.double()
    _, claimed = forward(x)
    return float((torch.linalg.slogdet(jacobian(forward, x))[1] - claimed).abs().max().detach())


def round_trip(engine: Flow, decode, x: Tensor) -> float:
    """Largest |decode(f(x)) − x| in standard deviations of the data."""
    return float(((decode(engine.encode(x)) - x) / engine._std).abs().max())


def mass(log_prob, n: int = 240, box=PLANE) -> float:
    """∫ q over a box by the midpoint rule."""
    x0, x1, y0, y1 = box
    with torch.no_grad():
        total = log_prob(centres(box, n)).double().exp().sum()
    return float(total) * (x1 - x0) * (y1 - y0) / n**2


def sampled_and_quadrature(engine: Flow, log_prob, n: int = 20_000, cells: int = 240) -> float:
    """|E_q[log q] by the flow's samples − ∫ q log q| in units of the standard error."""
    with torch.no_grad():
        drawn = log_prob(engine.sample(n)).double()
        lp = log_prob(centres(PLANE, cells)).double()
    integral = (lp.exp() * lp.clamp_min(-1e4)).sum() * ((PLANE[1] - PLANE[0]) / cells) ** 2
    return float((drawn.mean() - integral).abs() / (drawn.std() / n**0.5 + 2e-3))


def twins(engine: Flow) -> dict:
    """log_prob done wrong."""

    def log_q(x, of):
        z, log_det = engine.forward(x)
        return engine.shown.base.log_prob(z) + of(log_det)

    log_std = float(engine.log_std)
    return {
        "dropped Jacobian": lambda x: log_q(x, torch.zeros_like),
        "flipped sign": lambda x: log_q(x, torch.neg),
        "forgotten standardisation": lambda x: log_q(x, lambda d: d + log_std),
    }


def wrong_forwards(engine: Flow) -> dict:
    """forward done wrong."""
    log_std = float(engine.log_std)

    def twin(change):
        def wrong(x):
            z, log_det = engine.forward(x)
            return z, change(log_det)

        return wrong

    return {
        "dropped Jacobian": twin(torch.zeros_like),
        "flipped sign": twin(torch.neg),
        "forgotten standardisation": twin(lambda d: d + log_std),
    }


def without_a_layer(engine: Flow, z: Tensor) -> Tensor:
    """The inverse that leaves out the second layer of the flow."""
    chain = engine.chain()
    return chains.inverse([*chain[:2], *chain[3:]], z)
