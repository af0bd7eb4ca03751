"""Pictures of an energy: its field and surface, chains on it, and what an update does to it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engines.arrays import marked, numpy
from engines.cells import centres
from engines.energy import langevin
from engines.marks import Arrows, Heat, Images, Mark, Panel, Paths, Points, Surface
from engines.pace import Pieces
from engines.pictures import data_points, density_field, pixels, sheet

if TYPE_CHECKING:
    from engines.energy.engine import EnergyBased
    from engines.energy.network import Energy

HEIGHT = 12.0  # nats above the lowest place at which the pictures are cut
FIELD, SURFACE = 80, 56  # cells a side
WALKERS, ARROWS, MANY = 24, 70, 512
KEPT = 0.999  # of the data's mass, in the region that counts as theirs
NUDGE = 1e-3  # length of the update in the weights, against theirs


def outside(engine: EnergyBased) -> Tensor | None:
    """Which cells of the engine's quadrature lie outside of the data's region, (n²,) bool.

    It is the smallest set of the picture's cells that holds KEPT of the data's density.
    """
    box, n = engine.pool.dataset.extent, 100
    field = density_field(engine.pool.dataset, n)
    if field is None:
        return None
    share = np.sort(field.astype(np.float64).ravel())[::-1]
    above = np.searchsorted(share.cumsum(), KEPT * share.sum())
    theirs = torch.from_numpy(field >= share[above]).to(engine.device)
    x0, x1, y0, y1 = box
    low = torch.tensor([x0, y0], device=engine.device)
    side = torch.tensor([x1 - x0, y1 - y0], device=engine.device)
    place = ((engine.quadrature().centres - low) / side * n).floor().long()
    within = ((place >= 0) & (place < n)).all(1)
    column, row = place.clamp(0, n - 1).unbind(1)
    return ~(within & theirs[row, column])


# ---------------------------------------------------------------- the two phases


def phases(engine: EnergyBased, at: Tensor, data: Tensor, chains: Tensor) -> tuple[Tensor, Tensor]:
    """How the force at places `at` (N, dim) would change if only one half of an update were done.

    The loss is E_p[E] − E_q[E]. One step of gradient descent on either term alone, θ' = θ − η g,
    changes the force at x by −∇ₓ[E(x; θ') − E(x; θ)]: of the first, towards data; of the second,
    off the chains. Each on a copy of the weights, η so that the longer of both updates moves them
    by NUDGE of their length.

    Returns:
        two (N, dim), in standardised units and at one common scale: of `data`, and of `chains`.
    """
    net = engine.shown
    weights = [p.detach().requires_grad_() for p in net.parameters()]
    names = [name for name, _ in net.named_parameters()]

    def slope(z: Tensor, sign: float) -> list[Tensor]:
        with torch.enable_grad():
            given = dict(zip(names, weights, strict=True))
            out = sign * torch.func.functional_call(net, given, (z,)).mean()
            return list(torch.autograd.grad(out, weights))

    slopes = [slope(data, 1.0), slope(chains, -1.0)]
    length = torch.stack(torch._foreach_norm(weights)).norm()
    longest = torch.stack([torch.stack(torch._foreach_norm(g)).norm() for g in slopes]).max()
    rate = NUDGE * length / longest.clamp_min(1e-30)
    before = net.force(at)[1]
    return tuple(nudged(net, g, rate).force(at)[1] - before for g in slopes)


def nudged(net: Energy, slopes: list[Tensor], rate: Tensor) -> Energy:
    """A copy of the energy with weights θ − rate · slopes."""
    other = copy.deepcopy(net)
    with torch.no_grad():
        for p, g in zip(other.parameters(), slopes, strict=True):
            p.sub_(rate * g)
    return other


# ---------------------------------------------------------------- panels


def panels(engine: EnergyBased) -> list[Panel]:
    kind = engine.pool.dataset.kind
    return plane(engine) if kind == "plane" else images(engine) if kind == "images" else []


def plane(engine: EnergyBased) -> list[Panel]:
    box = engine.pool.dataset.extent
    side = max(box[1] - box[0], box[3] - box[2])

    def heights(n: int) -> np.ndarray:
        """E/T over its own lowest value in the picture, (n, n), cut at HEIGHT."""
        e = engine.energy(centres(box, n, engine.device)) / engine.temperature
        e = (e - e.min()).nan_to_num(HEIGHT, HEIGHT, 0.0).clamp_max(HEIGHT)
        return numpy(e.reshape(n, n)).astype(np.float32)

    def field() -> list[Mark]:
        cells = round(FIELD * engine.effort**0.5 / 4) * 4
        return [
            Heat(heights(cells), box, "noise", hi=HEIGHT, gamma=1.0, label="E/T − min", unit="nats"),
            data_points(engine, 400, 0.4),
        ]  # fmt: skip

    def surface() -> list[Mark]:
        return [Surface(heights(SURFACE), box, label="E/T − min", unit="nats")]

    def walk() -> Pieces[list[Mark]]:
        trace = yield from engine.from_noise(WALKERS, engine.view_rng)
        back = engine.unstandardise
        places = back(trace.places)
        refused = back(trace.proposals[~trace.accepted])
        return [
            data_points(engine, 300, 0.2),
            Points(marked(refused), "lost", 1.4, opacity=0.3, label="refused"),
            Paths(marked(places.transpose(0, 1)), "model", 1.2, tail=True, label="chains"),
            Points(marked(places[0]), "noise", 2.6, label="from noise"),
            Points(marked(places[-1]), "model", 3.6, opacity=1.0, label="where they are now"),
        ]  # fmt: skip

    def pulls() -> Pieces[list[Mark]]:
        data = engine.standardise(engine.pool.test[: engine.some(MANY, 128)])
        chains = engine.standardise((yield from negatives(engine, data)))
        yield
        at = torch.cat([data[:ARROWS], chains[:ARROWS]])
        both = torch.cat(phases(engine, at, data, chains)) * engine._std
        length = both.norm(dim=1)
        longest = length.quantile(0.9).clamp_min(1e-30)
        # for sight: one length for both, and none longer than a tenth of the picture
        arrows = both / torch.maximum(length, longest)[:, None] * (0.09 * side)
        x = numpy(engine.unstandardise(at))
        pull, push = numpy(arrows).reshape(2, len(at), 2)
        return [
            Points(x[:ARROWS], "data", 2.4, label="data"),
            Points(x[ARROWS:], "model", 2.4, label="chains"),
            Arrows(x, pull, "data", label="data pull"),
            Arrows(x, push, "model", label="chains push away"),
        ]

    n = engine.k if engine.method == "short-run" else engine.walk
    return [
        Panel("energy", "Energy", field, f"over its lowest place, cut at {HEIGHT:g} nats", box,
              "small", hz=6,
              help="E/T: where it is low the model expects data. Up to a constant it is −log q, so "
                   "the truth is −log p."),
        Panel("phases", "What an update does", pulls, "blue: data pull; orange: chains push",
              box, "small", hz=3,
              help="Arrows scaled for sight: how one step on only one term of the loss would change the force −∇E: the "
                   "data's term pulls towards data, the chains' pushes off the chains. Where the "
                   "two cancel, nothing is left to learn."),
        Panel("chains", "Chains from noise", walk, f"{n} moves with the knobs of now", box, "small",
              hz=3,
              help="Langevin chains on the energy of now, always from the same places with the same "
                   "noise; dots are moves that Metropolis' rule refused."),
        Panel("surface", "Energy landscape", surface, "data lie in its valleys", None, "small",
              hz=0.7, help="The same energy as a landscape: drag to turn it."),
    ]  # fmt: skip


def negatives(engine: EnergyBased, data: Tensor) -> Pieces[Tensor]:
    """Where the method's chains are now, as many as `data` (N, dim), in data units.

    Those of contrastive divergence begin at these data, as in training.
    """
    if engine.method != "contrastive divergence":
        return (yield from engine.sample_pieces(len(data)))
    moves = engine.moves()
    z, *_ = yield from langevin.running(engine.shown.force, data, moves, engine.view_rng)
    return engine.unstandardise(z)


def images(engine: EnergyBased) -> list[Panel]:
    rows, columns = 5, 10
    kept = engine.method == "persistent CD"
    short = engine.method == "short-run"

    def walk() -> Pieces[list[Mark]]:
        """Each row is one chain: first those that begin at noise, then those that do not."""
        begin = engine.moves().anywhere(2 * rows, engine.view_rng)
        if not short:
            other = engine.chains if kept else engine.standardise(engine.pool.test[:rows])
            begin[rows:] = other[:rows].clamp(engine._low, engine._high)
        found = langevin.running(engine.shown.force, begin, engine.moves(), engine.view_rng, n)
        trace = (yield from found)[2]
        times = torch.linspace(0, n, columns, device=engine.device).round().long()
        x = engine.unstandardise(trace.places[times].transpose(0, 1).flatten(0, 1))
        return [sheet(engine, x, columns, "each row is one chain")]

    def sorted_by() -> list[Mark]:
        x = engine.pool.test[:200]
        energy, order = (engine.energy(x) / engine.temperature).sort()
        pick = torch.linspace(0, len(x) - 1, 35, device=engine.device).round().long()
        tags = [f"{e:.0f}" for e in (energy[pick] - energy[0]).tolist()]
        # four empty rows above each image are its number's
        room = np.pad(pixels(engine.pool.dataset, x[order[pick]]), ((0, 0), (4, 0), (0, 0)))
        return [Images(room, 7, tags, "held-out images, lowest energy first")]

    n = engine.k if short else engine.walk
    where = "all from noise" if short else f"above from noise, below {'kept' if kept else 'data'}"
    return [
        Panel("chains", f"Chains, {n} moves", walk, where, None, "large", hz=2,
              help="Each row is one Langevin chain on the energy of now, from left to right; those "
                   "from noise always begin at the same noise. Where the lower rows are digits and "
                   "the upper ones are not, training has never sent a chain that way: longer chains, some "
                   "of them begun anew, find it."),
        Panel("sorted", "Sorted by energy", sorted_by, "E/T over the lowest, above each", None,
              "large", hz=2, help="Held-out images from the most to the least expected."),
    ]  # fmt: skip
