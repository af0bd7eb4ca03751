"""Crowd: the runs that share a process and a machine, and how they take turns.

Loops that all run flat out in one process fight for the interpreter's lock with each other and with
the server that sends their frames: a switch in the middle of every small operation costs more than
half of what the machine could train (bench/README.md). So one trains at a time, for a share of the
period between two frames, and whoever has waited longest is next.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterator


class Crowd:
    """The streams that share this process, and what part of the time each may train."""

    def __init__(self, cores: int | None = None) -> None:
        self.cores = cores or os.cpu_count() or 1
        self._here, self._lock = 0, threading.Lock()
        self._queue: deque[threading.Lock] = deque()  # whose turn it is, and who waits

    @contextlib.contextmanager
    def member(self) -> Iterator[None]:
        """As long as a stream trains."""
        with self._lock:
            self._here += 1
        try:
            yield
        finally:
            with self._lock:
                self._here -= 1

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until it is one's turn; it ends with the block."""
        mine = threading.Lock()
        mine.acquire()  # opened by whoever is before us
        with self._lock:
            self._queue.append(mine)
            if len(self._queue) == 1:
                mine.release()
        mine.acquire()
        try:
            yield
        finally:
            with self._lock:
                self._queue.popleft()
                if self._queue:
                    self._queue[0].release()

    @property
    def playing(self) -> int:
        """How many runs train on this machine."""
        return self._here

    @property
    def part(self) -> float:
        """How much of a core each of them has, at most 1."""
        return min(1.0, self.cores / max(1, self.playing))

    @property
    def share(self) -> float:
        """Of the time from one frame to the next, what a stream of this process may take."""
        return 1 / max(1, self._here)
