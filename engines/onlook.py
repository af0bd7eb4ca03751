"""Pictures of a run that trains on: of a copy of its weights, on a stream of their own.

On a GPU most of a frame is the starting of many small kernels, during which training would wait. So
the weights are copied on the device between two steps, further replays are queued behind the copy,
and the frame is drawn of the copy on a second stream. Numbers that leave the device wait for that
stream alone. It is for graphs only: an eager run is busy with its own kernels all the time.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engines.base import Engine
from engines.graphs import STRIDE
from engines.probes import Probe, probes

if TYPE_CHECKING:
    from engines.lanes import Lane
    from engines.run import Run


class Snapshot:
    """An engine and a copy of it, `view`, with weights, buffers and moments of its own.

    The copy shares everything else: the pool, the viewing generator, what is kept for pictures.
    """

    def __init__(self, lane: Lane) -> None:
        engine = lane.engine
        self.engine, self.stamp = engine, stamp(lane)
        self.view: Engine = copy.copy(engine)
        kinds = (nn.Module, torch.optim.Optimizer, Tensor)
        kept = {name: value for name, value in engine._kept() if isinstance(value, kinds)}
        vars(self.view).update(copy.deepcopy(kept))
        for name, value in vars(engine).items():
            if getattr(value, "engine", None) is engine:  # a helper that looks at its engine
                vars(self.view)[name] = helper = copy.copy(value)
                helper.engine = self.view
        self.probes: list[Probe] = probes(self.view)

    def suits(self, lane: Lane) -> bool:
        """Whether the copy can be brought up to date, or has to be made anew."""
        same = all(a is b for a, b in zip(self.stamp[:2], stamp(lane)[:2], strict=True))
        known = same and self.stamp[2:] == stamp(lane)[2:]
        return known and len(tensors(self.engine)) == len(tensors(self.view))

    @torch.no_grad()
    def take(self) -> None:
        """Bring the copy up to the step that the engine has come to."""
        torch._foreach_copy_(tensors(self.view), tensors(self.engine))
        for name, value in vars(self.engine).items():
            if isinstance(value, int | float | str) and not name.startswith("_"):
                setattr(self.view, name, value)


def stamp(lane: Lane) -> tuple:
    """What a copy is made for: a knob, an action or other data may change more than weights."""
    engine = lane.engine
    return engine, engine.pool, lane.acts, tuple(getattr(engine, name) for name in engine.knobs)


def tensors(engine: Engine) -> list[Tensor]:
    """Everything on the device that training changes, in an order that a copy shares."""
    out: list[Tensor] = []
    for _, value in engine._kept():
        if isinstance(value, nn.Module):
            out += [*value.parameters(), *value.buffers()]
        elif isinstance(value, torch.optim.Optimizer):
            out += [slot for slots in value.state.values() for slot in slots.values()]
        elif isinstance(value, Tensor):
            out.append(value)
    return [part.detach() for part in out if part.numel()]


class Onlooker:
    """Where a run is looked at. On the CPU, for tests: the same without a stream."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        cuda = self.device.type == "cuda"
        self.stream = torch.cuda.Stream(self.device) if cuda else None
        self.looking = False
        self._snapshots: dict[int, Snapshot] = {}

    @contextlib.contextmanager
    def look(self, run: Run, ahead: int = 0) -> Iterator[None]:
        """Within it the run's engines are copies as of now, while it takes about `ahead` further
        steps on the device; what these have lost is put down afterwards."""
        views = [self._view(lane) for lane in run.lanes]
        here = torch.cuda.current_stream(self.device) if self.stream is not None else None
        if here is not None:
            self.stream.wait_stream(here)
        step, losses = run.step, [lane.pending for lane in run.lanes]
        for lane in run.lanes:
            lane.pending = []
        self._on(run, ahead)
        then, later = run.step, [lane.pending for lane in run.lanes]
        own: list[tuple[Any, Any]] = [(lane.engine, lane.probes) for lane in run.lanes]
        # whatever a lane keeps that looks at its engine
        helpers = [
            (helper, lane.engine, view.view)
            for lane, view in zip(run.lanes, views, strict=True)
            for helper in vars(lane).values()
            if getattr(helper, "engine", None) is lane.engine
        ]
        for lane, view, pending in zip(run.lanes, views, losses, strict=True):
            lane.engine, lane.probes, lane.pending = view.view, view.probes, pending
        for helper, _, view in helpers:
            helper.engine = view
        run.step, self.looking = step, True
        try:
            with torch.cuda.stream(self.stream) if here is not None else contextlib.nullcontext():
                yield
        finally:
            run.step, self.looking = then, False
            for helper, engine, _ in helpers:
                helper.engine = engine
            for lane, (engine, known), more in zip(run.lanes, own, later, strict=True):
                lane.engine, lane.probes = engine, known
                lane.pending = [*lane.pending, *more]
            if here is not None:  # the next copy must not overwrite what is still read
                here.wait_stream(self.stream)

    def _view(self, lane: Lane) -> Snapshot:
        known = self._snapshots.get(lane.index)
        if known is None or not known.suits(lane):
            known = self._snapshots[lane.index] = Snapshot(lane)
        else:
            known.take()
        return known

    def _on(self, run: Run, ahead: int) -> None:
        """Queue about so many steps; none where graphs have still to be captured."""
        graphs = run.graphs
        if graphs is None or run.diverged or run.step % STRIDE:
            return
        most, graphs.backend.ahead = graphs.backend.ahead, math.inf
        try:
            while ahead >= STRIDE and graphs.ready:
                ahead -= graphs.advance(run, ahead)
        finally:
            graphs.backend.ahead = most
