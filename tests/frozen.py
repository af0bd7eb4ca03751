"""A backend for `engines.graphs` without a GPU: steps are repeated as a graph would repeat them.

A graph knows nothing of Python: not the step count, no knob, no attribute that a step has set. So
here all of them are put back to what they were at the capture before a step is taken again, and
only the table of numbers is new. What is trained so is the same as ever exactly if a step learns of
everything else by `Engine.number`. While steps are captured nothing may bring a number to Python or
from it, for on a GPU both would wait, which ends a capture.
"""

from __future__ import annotations

import contextlib
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from engines.graphs import NotStatic, addresses

# a number that goes to Python; a shape that numbers decide on; a tensor made of Python's numbers
WAITING = (
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique",
    "_unique2", "lift_fresh",
)  # fmt: skip


class Watch(TorchDispatchMode):
    """Raises NotStatic for what would wait for the device, or for the CPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in WAITING:
            raise NotStatic(f"A step would wait for {name}.")
        if name in ("index", "index_put", "index_put_") and any(
            isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        ):
            raise NotStatic("A step picks rows by a mask, and how many there are is not known.")
        return func(*args, **(kwargs or {}))


def _with_plain_rates(step):
    """Adam's step where rates are tensors: off CUDA it wants Python's numbers, and counts there."""

    def wrapped(self, *args, **kwargs):
        with _disable_current_modes():
            for group in self.param_groups:
                group["lr"] = float(group["lr"])
            return step(self, *args, **kwargs)

    return wrapped


@contextlib.contextmanager
def plain_rates():
    with mock.patch.object(torch.optim.Adam, "step", _with_plain_rates(torch.optim.Adam.step)):
        yield


class Frozen:
    """See above. captures, replays: how many there were."""

    rest, ahead = 0.0, 4.0

    def __init__(self, watched: bool = True) -> None:
        self.watched, self.captures, self.replays = watched, 0, 0

    def table(self, rows: int, columns: int) -> Tensor:
        return torch.zeros(rows, columns, dtype=torch.float64)

    def send(self, table: Tensor, rows: list[list[float]]) -> None:
        table.copy_(torch.tensor(rows, dtype=torch.float64))

    def aside(self):
        return contextlib.nullcontext()

    def finish(self) -> None:
        pass

    def hold(self, pool) -> None:
        pool.hold()

    def record(self, engine, body):
        self.captures += 1
        python, kept = dict(vars(engine)), snapshot(engine)
        with plain_rates(), Watch() if self.watched else contextlib.nullcontext():
            out = body()
        put_back(engine, kept)
        places = addresses(engine)

        def replay() -> None:
            self.replays += 1
            now = dict(vars(engine))
            vars(engine).clear()
            vars(engine).update(python)
            try:
                with plain_rates():
                    out.copy_(body())
            finally:
                vars(engine).clear()
                vars(engine).update(now)
            if addresses(engine) != places:
                raise NotStatic("A replay has moved something.")

        return out, replay


def snapshot(engine) -> list[tuple]:
    """Pairs of every tensor and generator that a step may change, and a copy."""
    out = []
    for value in vars(engine).values():
        if isinstance(value, nn.Module):
            parts = [*value.parameters(), *value.buffers()]
        elif isinstance(value, torch.optim.Optimizer):
            parts = [t for slots in value.state.values() for t in slots.values()]
        elif isinstance(value, Tensor):
            parts = [value]
        elif isinstance(value, torch.Generator):
            out.append((value, value.get_state()))
            continue
        else:
            continue
        out += [(part, part.detach().clone()) for part in parts]
    return out


@torch.no_grad()
def put_back(engine, kept: list[tuple]) -> None:
    for value, copy in kept:
        if isinstance(value, torch.Generator):
            value.set_state(copy)
        else:
            value.copy_(copy)
