"""Whole training steps as CUDA graphs, several of them a replay.

A small network's step is a hundred kernels of a few microseconds each, and on a GPU most of its time
goes into starting them one by one. Captured once, they are started all together. What an engine has
to promise for that, and which knobs it costs a new graph to move, is said in `engines/capture.py`.

Every graph begins with real steps: the first time that steps of a kind come, they are taken eagerly,
on the stream that they are captured on, and count. So a captured run takes the same steps as an
eager one from the very first, and warming up has nothing to undo. Numbers that change with the steps
are worked out on the CPU as they always are, and sent ahead of each replay as one small table. Where
a capture fails the run goes on eagerly, and says why.

What does the capturing is a backend: `Cuda` here, and in the tests one that repeats steps with all of
Python's numbers held fast, so that the promise is tested where there is no GPU.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from engines.base import Engine
from engines.data.base import Pool

if TYPE_CHECKING:
    from engines.lanes import Lane
    from engines.run import Run

log = logging.getLogger(__name__)

STRIDE = 10  # steps a replay; divides Pool.EVERY, and the rhythms of most engines
WARM = 3  # eager steps before a capture, at least: Adam's moments, and workspaces of libraries
REST = 0.2  # seconds without a change before a capture: a slider on its way is not captured
AHEAD = 4  # replays that wait on the device, at most: so soon is a change felt

_ONE = threading.Lock()  # torch captures one graph at a time in a process

Body = Callable[[], Tensor]  # takes the steps; their losses
Rows = list[tuple[int, dict[str, Tensor]]]  # losses, and the first step that they belong to


class NotStatic(RuntimeError):
    """A step that cannot be repeated as it stands. The message says what changes in it."""


class Backend(Protocol):
    """What captures steps and repeats them."""

    rest: float  # see REST
    ahead: float  # see AHEAD

    def table(self, rows: int, columns: int) -> Tensor:
        """Zeros (rows, columns) at a place where captured steps read them."""

    def send(self, table: Tensor, rows: list[list[float]]) -> None:
        """Fill the table for the next replay."""

    def aside(self) -> contextlib.AbstractContextManager[None]:
        """Where steps are warmed up."""

    def record(self, engine: Engine, body: Body) -> tuple[Tensor, Callable[[], None]]:
        """Capture what `body` does, without its taking effect: its result, and the replay, which
        fills it anew."""

    def finish(self) -> None:
        """Wait for all replays: their graphs are about to go."""

    def hold(self, pool: Pool) -> None:
        """Make the pool's rows stay at one place."""


class Cuda:
    """CUDA graphs, captured on a stream of their own and replayed on the current one."""

    rest, ahead = REST, float(AHEAD)

    def __init__(self, device: torch.device | str = "cuda") -> None:
        self.device = torch.device(device)
        self.stream = torch.cuda.Stream(self.device)
        self._under_way: deque[torch.cuda.Event] = deque()

    def table(self, rows: int, columns: int) -> Tensor:
        return torch.zeros(rows, columns, device=self.device)

    def send(self, table: Tensor, rows: list[list[float]]) -> None:
        # pinned memory is given out anew only when the copy from it is done
        there = torch.tensor(rows, dtype=table.dtype, pin_memory=True)
        table.copy_(there, non_blocking=True)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        here = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            yield
        here.wait_stream(self.stream)

    def record(self, engine: Engine, body: Body) -> tuple[Tensor, Callable[[], None]]:
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        graph.register_generator_state(engine.rng)
        here = torch.cuda.current_stream(self.device)
        # by default a call of any other thread to the device would break the capture
        how = {"pool": pool, "stream": self.stream, "capture_error_mode": "thread_local"}
        try:
            with _ONE, torch.cuda.graph(graph, **how):
                out = body()
        except BaseException:
            # what a capture that was broken off leaves behind
            torch.cuda.set_stream(here)
            with contextlib.suppress(Exception):
                torch._C._cuda_endAllocateToPool(here.device_index, pool)
            raise

        def replay() -> None:
            while len(self._under_way) >= self.ahead:
                self._under_way.popleft().synchronize()
            graph.replay()
            done = torch.cuda.Event(blocking=True)
            done.record()
            self._under_way.append(done)

        return out, replay

    def finish(self) -> None:
        torch.cuda.current_stream(self.device).synchronize()
        self._under_way.clear()

    def hold(self, pool: Pool) -> None:
        for part in (pool, pool.source):
            if part is not None and part.fresh is not None and not isinstance(part.fresh, Ahead):
                part.fresh = Ahead(part.fresh)
        pool.hold()


class Ahead:
    """A pool's `fresh` whose next block is drawn by a thread while the present one is in use."""

    def __init__(self, fresh: Callable[[int], Tensor]) -> None:
        self.fresh, self._thread = fresh, ThreadPoolExecutor(1)
        self._next: tuple[int, Future[Tensor]] | None = None

    def __call__(self, block: int) -> Tensor:
        ready, self._next = self._next, None
        rows = ready[1].result() if ready and ready[0] == block else self.fresh(block)
        self._next = block + 1, self._thread.submit(self.fresh, block + 1)
        return rows


class Steps:
    """One engine's steps: by replays where they can be, else eagerly.

    Attributes:
        why_eager: why none is captured, one sentence; "" as long as they can be.
        graphs: by the occasions of their steps and the dials that are not 0.
    """

    def __init__(self, engine: Engine, backend: Backend) -> None:
        self.engine, self.backend = engine, backend
        knobs = {name: getattr(engine, name) for name in engine.knobs}
        self.why_eager = engine.capture.refused(knobs)
        self.graphs: dict[Hashable, Graph] = {}
        self._warm: Counter[Hashable] = Counter()
        self._since = time.monotonic()
        if not self.why_eager:
            for part in vars(engine).values():
                if isinstance(part, torch.optim.Optimizer):
                    make_capturable(part)

    def take(self, n: int) -> Rows:
        """Exactly n steps; the engine's own count of steps follows."""
        key = None if self.why_eager else self._kind(n)
        if key is None:
            return self._eagerly(n)
        if key not in self.graphs:
            resting = time.monotonic() - self._since >= self.backend.rest
            if self._warm[key] < WARM or not resting:
                self._warm[key] += n
                with self.backend.aside():
                    return self._eagerly(n)
            graph = self._capture(n)
            if graph is None:
                return self._eagerly(n)
            self.graphs[key] = graph
        return self.graphs[key].replay()

    def _kind(self, n: int) -> Hashable | None:
        """What n steps from now on have to have in common with others to share their graph."""
        engine, first = self.engine, self.engine.step_count
        occasions = tuple(engine.occasion(first + i) for i in range(n))
        if None in occasions:
            return None
        return occasions, tuple(getattr(engine, name) > 0 for name in engine.capture.dials)

    def _eagerly(self, n: int) -> Rows:
        out = []
        for _ in range(n):
            losses = self.engine.train_step()
            self.engine.step_count += 1
            out.append((self.engine.step_count, losses))
        return out

    def _capture(self, n: int) -> Graph | None:
        rng = self.engine.rng.get_state()
        try:
            return Graph(self.engine, self.backend, n)
        except Exception as error:
            while error.__context__ is not None:  # what ends a capture raises once more at its end
                error = error.__context__
            said = str(error).strip().split("\n")[0]
            self.why_eager = f"Capturing its step failed: {said or type(error).__name__}"
            log.warning("%s trains eagerly. %s", self.engine.name, self.why_eager)
            self.graphs.clear()
            # a generator whose capture was broken off never draws again
            self.engine.rng = torch.Generator(self.engine.device)
            self.engine.rng.set_state(rng)
            return None


class Graph:
    """n steps of an engine as one replay. Raises NotStatic where they cannot be.

    While they are captured, `Engine.number` gives places in `table`, a row for each step. Whole
    numbers that a step counts up (updates so far, say) are counted up by as much at each replay.
    """

    def __init__(self, engine: Engine, backend: Backend, n: int) -> None:
        self.engine, self.backend = engine, backend
        self.names = list(engine.live_numbers())
        self.table = backend.table(n, max(1, len(self.names)))
        self.losses: list[str] = []
        self.counts: list[dict[str, int]] = []
        before, places = dict(vars(engine)), addresses(engine)
        self._alive = before  # the steps read these tensors, wherever the engine may go on
        try:
            self.out, self._replay = backend.record(engine, self._take)
            self._check(before, places)
        finally:
            vars(engine).clear()
            vars(engine).update(before)

    def _take(self) -> Tensor:
        """The steps themselves, in Python; their losses (n, L)."""
        engine, out = self.engine, []
        self.counts = []
        for row in self.table:
            engine._numbers = dict(zip(self.names, row.unbind(), strict=False))
            before = plain(engine)
            losses = engine.step()
            self.losses = list(losses)
            self.counts.append(counted(before, plain(engine)))
            engine.step_count += 1
            out.append(torch.stack([losses[name] for name in self.losses]))
        engine._numbers = None
        return torch.stack(out)

    def _check(self, before: dict[str, Any], places: dict[str, int]) -> None:
        for name, value in vars(self.engine).items():
            if isinstance(value, Tensor | nn.Module) and value is not before.get(name):
                raise NotStatic(f"{name} is another one after a step.")
        if any(counts != self.counts[0] for counts in self.counts):
            raise NotStatic("what is counted grows unevenly from step to step.")
        moved = [
            name for name, place in addresses(self.engine).items() if places.get(name) != place
        ]
        if moved:
            raise NotStatic(f"{moved[0]} lies somewhere else after a step.")

    def replay(self) -> Rows:
        """Take the steps; their losses as vectors (n,)."""
        engine, first, rows = self.engine, self.engine.step_count + 1, []
        for counts in self.counts:
            numbers = engine.live_numbers()
            rows.append([numbers[name] for name in self.names] or [0.0])
            engine.step_count += 1
            for name, more in counts.items():
                setattr(engine, name, getattr(engine, name) + more)
        self.backend.send(self.table, rows)
        self._replay()
        # the next replay writes there again
        return [(first, dict(zip(self.losses, self.out.T.clone(), strict=True)))]


class Graphs:
    """The steps of all lanes of a run."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.steps: list[Steps] = []
        self._stamps: list[tuple] = []  # what the steps of each lane were made for

    @property
    def why_eager(self) -> str:
        """Why the run does not train by graphs, one sentence; "" while it does."""
        return next((steps.why_eager for steps in self.steps if steps.why_eager), "")

    @property
    def said(self) -> str:
        """For the page, in a few words: how the run trains; "" until that is known."""
        if self.why_eager:
            return f"no CUDA graphs here: {self.why_eager.rstrip('.')}"
        return "CUDA graphs" if self.ready else ""

    @property
    def ready(self) -> bool:
        """Whether steps are replays by now."""
        return bool(self.steps) and all(steps.graphs for steps in self.steps)

    def advance(self, run: Run, most: int | None) -> int:
        """Train `run` by at least one step and by at most so many; returns how many."""
        self._follow(run)
        whole = (most is None or most >= STRIDE) and run.step % STRIDE == 0
        n = STRIDE if whole and not all(steps.why_eager for steps in self.steps) else 1
        for lane, steps in zip(run.lanes, self.steps, strict=True):
            lane.pending.extend(steps.take(n))
        run.step += n
        run.pool.turn(run.step)
        return n

    def _follow(self, run: Run) -> None:
        """Leave the graphs behind of which anything but numbers has changed."""
        if len(run.lanes) != len(self._stamps):
            self.steps, self._stamps = [], []
        for i, lane in enumerate(run.lanes):
            new = stamp(lane)
            if i < len(self._stamps):
                old = self._stamps[i]
                same = all(a is b for a, b in zip(old[:2], new[:2], strict=True))
                if same and old[2:] == new[2:]:
                    continue
                if self.steps[i].graphs:
                    self.backend.finish()
            self.backend.hold(lane.engine.pool)
            self.steps[i : i + 1] = [Steps(lane.engine, self.backend)]
            self._stamps[i : i + 1] = [new]


def stamp(lane: Lane) -> tuple:
    """What graphs of a lane are made for: the engine, its pool, actions, and live knobs that are
    no dials."""
    engine = lane.engine
    knobs = [name for name, knob in engine.knobs.items() if knob.live]
    values = tuple(getattr(engine, name) for name in knobs if name not in engine.capture.dials)
    return engine, engine.pool, lane.acts, values


def make_capturable(optimiser: torch.optim.Optimizer) -> None:
    """Let Adam's steps be captured: it counts them on the device, whatever was loaded."""
    there = any(p.is_cuda for group in optimiser.param_groups for p in group["params"])
    for group in optimiser.param_groups:
        group["capturable"] = there
    for p, kept in optimiser.state.items():
        if "step" in kept and isinstance(kept["step"], Tensor):
            kept["step"] = kept["step"].to(p.device)
    # torch warns where such an optimiser steps eagerly, as it does here to warm up
    optimiser._warned_capturable_if_run_uncaptured = True


def addresses(engine: Engine) -> dict[str, int]:
    """Where everything that `Engine.state` keeps lies in memory, by name."""
    out: dict[str, int] = {}
    for key, value in engine._kept():
        if isinstance(value, nn.Module):
            parts = {**dict(value.named_parameters()), **dict(value.named_buffers())}
            out.update({f"{key}.{name}": part.data_ptr() for name, part in parts.items()})
        elif isinstance(value, torch.optim.Optimizer):
            for i, slots in enumerate(value.state.values()):
                out.update({f"{key}/{i}/{name}": part.data_ptr() for name, part in slots.items()})
        elif isinstance(value, Tensor):
            out[key] = value.data_ptr()
    return out


def plain(engine: Engine) -> dict[str, Any]:
    """The engine's attributes that are numbers or words, caches too."""
    return {k: v for k, v in vars(engine).items() if isinstance(v, int | float | str)}


def counted(before: dict[str, Any], after: dict[str, Any]) -> dict[str, int]:
    """By how much a step has moved whole numbers. Raises NotStatic for any other change."""
    out = {}
    for name, value in after.items():
        old = before.get(name)
        if value == old:
            continue
        if type(value) is not int or type(old) is not int:
            raise NotStatic(f"{name} changes within a step.")
        out[name] = value - old
    return out
