"""Room: many visitors on one machine. Which process holds whose run, and whose turn it is.

One interpreter holds its lock against all who train in it, and against the server that sends their
frames. So runs live in processes of their own, one a core, and there share the core as evenly as
threads do: forked off one that has loaded everything (app/nursery.py), at a lower priority than the
page, and ended when the last of their visitors leaves.

As many runs train at once as there are places. Whoever comes next waits, is told their place in the
queue, and begins by themselves; while somebody waits, nobody trains longer than a turn.

Settings, by environment variables:
    PLAYGROUND_PROCESSES   processes at most; 0 keeps all runs in the page's own
    PLAYGROUND_ROOM        places
    PLAYGROUND_RAY         "auto", or the address of a Ray cluster that holds the runs (app/rays.py)
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
import weakref
from pathlib import Path

import torch

from app import nursery, rays, zero
from app.crowd import Crowd
from app.line import Line, ProcessLine
from app.nursery import cores
from app.rays import A_CORE, A_GPU
from app.remote import Remote
from app.worker import Worker
from engines import BadInput, machine

log = logging.getLogger("playground")

A_RUN = 120 * 2**20  # bytes of memory that a run may want, its process included
KEPT = 512 * 2**20  # bytes of the timelines of all visitors together
RIVALS = 64  # kernel estimates that are remembered for new processes
TURN = 90.0  # seconds that a run trains while others wait
RESTED = 300.0  # seconds after which a run that nobody asks anything is parked


def memory() -> int | None:
    """Bytes that are free here, or that this container may have; None where it cannot be told."""
    free = []
    try:
        text = Path("/proc/meminfo").read_text()
        free.append(1024 * int(text.split("MemAvailable:")[1].split()[0]))
    except (OSError, ValueError, IndexError):
        pass
    try:
        most = Path("/sys/fs/cgroup/memory.max").read_text()
        used = Path("/sys/fs/cgroup/memory.current").read_text()
        free.append(int(most) - int(used))
    except (OSError, ValueError):  # "max" means no limit
        pass
    return min(free, default=None)


def setting(name: str) -> int | None:
    """A whole number from the environment. Raises BadInput for anything else."""
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise BadInput(f"{name} must be a whole number; got {text[:40]!r}.")
    return int(text)


def default_places(device: str | None) -> int:
    """As many runs at once as cores, memory and GPUs carry."""
    limits = [A_CORE * cores()]
    if (free := memory()) is not None:
        limits.append(free // A_RUN)
    if device != "cpu" and torch.cuda.is_available():
        limits.append(A_GPU * torch.cuda.device_count())
    return max(1, min(limits))


def by_environment() -> Room:
    """The room that the environment asks for; where that cannot be, one sentence ends the program."""
    try:
        return Room()
    except BadInput as error:
        raise SystemExit(str(error)) from None


class Room:
    """The visitors' runs, wherever they are. All methods may be called from any thread."""

    def __init__(
        self,
        device: str | None = None,
        processes: int | None = None,
        places: int | None = None,
        turn: float = TURN,
        cluster: str | None = None,
    ) -> None:
        self.device, self.turn = device, turn
        address = os.environ.get("PLAYGROUND_RAY", "").strip() if cluster is None else cluster
        self._cluster = rays.Cluster(address) if address else None
        self.places = places or setting("PLAYGROUND_ROOM") or self._default_places()
        if processes is None:
            processes = setting("PLAYGROUND_PROCESSES")
        if processes is None or self._cluster is not None:
            processes = self._default_processes()
        # a Space that lends GPUs forks its own processes (app/box.py)
        self.processes = 0 if zero.lends(device) else processes
        self.kept = min(40 * 2**20, KEPT // self.places)
        self._crowd = Crowd(cores())  # of workers that are in no room: ZeroGPU's
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._lines: list[Line] = []
        self.rivals: dict[str, dict[str, float]] = {}  # by the data's fingerprint
        self._playing: dict[Remote, float] = {}  # since when
        self._queue: list[Remote] = []
        self._yielding: set[Remote] = set()
        self._remotes: weakref.WeakSet[Remote] = weakref.WeakSet()
        if self.processes and self._cluster is None:
            nursery.shared()  # it loads while the page does

    def _default_places(self) -> int:
        if self._cluster is not None:
            return self._cluster.places
        return default_places(self.device)

    def _default_processes(self) -> int:
        """One for each run on a cluster, else one a core: more of them share caches less well, and
        each begins its frames when it likes (bench/README.md). None where a process cannot be forked,
        or has no core."""
        if self._cluster is not None:
            return self.places
        return cores() if nursery.CAN and cores() > 1 else 0

    def worker(self, fps: float, pictures: bool) -> Worker | Remote:
        """What drives a new visitor's run."""
        if zero.lends(self.device):
            return zero.worker(self.device, fps, self._crowd, pictures)
        remote = Remote(self, fps, pictures)
        self._remotes.add(remote)
        return remote

    def learn(self, rivals: dict[str, dict[str, float]]) -> None:
        """Kernel estimates of data that a process has worked out, for all others."""
        with self._lock:
            self.rivals.update(rivals)
            while len(self.rivals) > RIVALS:
                self.rivals.pop(next(iter(self.rivals)))

    @property
    def described(self) -> str:
        """A few words for the page."""
        where = ""
        if self._cluster is not None:
            where = " on a cluster"
        elif self.processes:
            where = (
                f", in {'one process' if self.processes == 1 else f'{self.processes} processes'}"
            )
        return f"{self.places} run{'s' * (self.places != 1)} at once{where}"

    def number(self) -> int:
        """The number of a new seat."""
        return next(self._numbers)

    # ------------------------------------------------------------ processes

    def line(self) -> Line:
        """A host for one more run: a new one while there may be more, else the emptiest."""
        with self._lock:
            self._lines = [line for line in self._lines if not line.lost]
            if len(self._lines) < max(1, self.processes):
                self._lines.append(self._new())
                self._count()
                return self._lines[-1]
            return min(self._lines, key=_burden)

    def _new(self) -> Line:
        if not self.processes:
            return Line(self.device, cores())
        if self._cluster is not None:
            return self._cluster.line(self.device)
        try:
            found = nursery.shared().host(self.device, cores(), machine.ways())
        except OSError:
            log.exception("no process could be made; runs stay in the page's own")
            self.processes = 0
            return Line(self.device, cores())
        return ProcessLine(*found)

    def left(self, line: Line) -> None:
        """A run has left a line; a process without runs ends, and gives all its memory back."""
        with self._lock:
            if not line.seats and self.processes:
                line.close()
                self._lines = [other for other in self._lines if other is not line]

    def sweep(self) -> None:
        """Park the runs that nobody has asked anything for long."""
        now = time.monotonic()
        for remote in list(self._remotes):
            if remote.seated and not remote.streaming and now - remote.seen > RESTED:
                remote.park()

    @property
    def pids(self) -> list[int]:
        """Processes that hold runs now."""
        return [line.pid for line in self._lines if isinstance(line, ProcessLine) and not line.lost]

    # ------------------------------------------------------------ whose turn it is

    def come(self, remote: Remote) -> int:
        """Ask for a place: 0 when it is there, else the place in the queue, from 1 on."""
        with self._lock:
            if remote in self._playing:
                return 0
            if remote not in self._queue:
                self._queue.append(remote)
            place = self._queue.index(remote)
            free = self.places - len(self._playing)
            if place < free:
                self._queue.remove(remote)
                self._playing[remote] = time.monotonic()
                self._count()
                return 0
            self._ask_to_yield(len(self._queue) - max(0, free))
            return place + 1 - max(0, free)

    def _ask_to_yield(self, waiting: int) -> None:
        """Whoever has trained for longer than a turn goes to the end of the queue: as many as wait."""
        now = time.monotonic()
        late = sorted((since, id(r), r) for r, since in self._playing.items())
        over = [r for since, _, r in late if now - since > self.turn]
        self._yielding = set(over[:waiting])

    def asked_to_yield(self, remote: Remote) -> bool:
        return remote in self._yielding

    def waits(self, remote: Remote) -> bool:
        return remote in self._queue

    def give_way(self, remote: Remote) -> None:
        """Back to the end of the queue."""
        with self._lock:
            if self._playing.pop(remote, None) is not None:
                self._yielding.discard(remote)
                self._queue.append(remote)
                self._wake()

    def leave(self, remote: Remote) -> None:
        """The run rests; its place is free, in the room or in the queue."""
        with self._lock:
            if remote in self._queue:
                self._queue.remove(remote)
            if self._playing.pop(remote, None) is not None:
                self._count()
            self._yielding.discard(remote)
            if not self._queue:  # nobody waits any more
                self._yielding.clear()
            self._wake()

    def _wake(self) -> None:
        for waiting in self._queue:
            waiting.news.set()

    def _count(self) -> None:
        for line in self._lines:
            line.send(("crowd", len(self._playing)))

    def sentence(self, place: int) -> str:
        """What a visitor who waits is told."""
        return (
            f"All places to train are taken, {self.places} of {self.places}: you are number "
            f"{place} in the queue, and your run begins by itself."
        )

    @property
    def playing(self) -> int:
        return len(self._playing)

    @property
    def waiting(self) -> int:
        return len(self._queue)


def _burden(line: Line) -> tuple[int, int]:
    seats = list(line.seats.values())
    return sum(remote.streaming for remote in seats), len(seats)
