"""A box of time on a GPU that a Space lends: what runs in the forked process, and its boundary.

`spaces` runs a decorated generator in a process that it forks, ends when its time is over, and
keeps for whoever comes next: arguments and what is yielded are pickled, and of the memory only what
was shared before the fork is seen by both. So the mailboxes are made when this is imported.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from app import luggage
from app.mailbox import Mailbox
from app.timeline import Moment
from app.worker import Worker
from engines import machine

ON = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
spaces = importlib.import_module("spaces") if ON else None  # before anything asks for CUDA

BOX = 30  # seconds asked for at a time: a short box is granted while little quota is left
SPARE = 4.0  # seconds of it kept for the fork and for the last frame
SLOTS = 16  # visitors on GPUs at once
POLL = 0.01  # seconds between two looks into the mailbox
# what a run takes while it trains on the GPU; for anything else it comes home first
LIVE = {"set", "act", "feed", "speed", "extra", "message"}
PAUSE, HOME = 1, 2  # why a box is to end: for good, or to go on elsewhere


class Packet(NamedTuple):
    """What comes out of the forked process, at least every two seconds.

    read: the number of the last message that `saved` has heard of.
    """

    frame: str | None
    saved: bytes | None
    seq: int
    step: int
    played: float
    read: int
    diverged: str | None


class _Saved(bytes):
    """A checkpoint that knows when it was taken."""

    step: int
    played: float
    read: int


# ---------------------------------------------------------------- in the forked process


class _Inside(Worker):
    """The Worker on the GPU's side: it reads the mailbox, and ends when its time is over."""

    native = False

    def __init__(self, mailbox: Mailbox, saved: bytes, about: dict[str, Any]) -> None:
        super().__init__(None, about["fps"])
        self.mailbox, self._over = mailbox, threading.Event()
        luggage.unpack(self, saved, about)
        self._newest = _Saved(b"")
        self._newest.read = 0
        self._began = about["since"]
        self.post(message=about["message"])  # a stream that begins clears it

    def packets(self, seconds: float) -> Iterator[Packet]:
        """Train for so many seconds, or until stopped."""
        until = time.monotonic() + seconds
        listener = threading.Thread(target=self._listen, args=(until,), daemon=True)
        listener.start()
        try:
            for frame, saved in self.stream():
                kept = saved or self._newest
                yield Packet(
                    frame, None if saved is None else bytes(saved), self._seq,
                    kept.step if saved else self.run.step,
                    kept.played if saved else self.clock.played,
                    kept.read, self.run.diverged,
                )  # fmt: skip
        finally:
            self._over.set()
            listener.join()

    def _listen(self, until: float) -> None:
        while not self._over.wait(POLL):
            for kind, value in self.mailbox.take():
                if kind == "post":
                    self.post(**value)
                elif kind == "hide":
                    self.hide(frozenset(value))
                else:
                    getattr(self, kind)(*value)  # hear, look
            # again and again: a stream that is about to begin forgets that it was told to end
            if self.mailbox.stopped or time.monotonic() > until:
                self.stop()

    def _share(self, since: float) -> float:
        return super()._share(since + self._began)  # Play was clicked in an earlier box

    def _keep(self) -> bytes | None:
        if (saved := super()._keep()) is None:
            return None
        # the branches begin in the other process: here the moment alone is kept
        self.timeline.moments[-1] = Moment(
            self.run.step, self.clock.played, luggage.Weight(len(saved))
        )
        kept = self._newest = _Saved(saved)
        kept.step, kept.played, kept.read = self.run.step, self.clock.played, self._read
        return kept

    def _frame(self, fresh: bool, **how: bool) -> str:
        self.extra = {**self.extra, "gpu": "on"}
        if self._stopping and self.mailbox.stopped != PAUSE and not self.run.diverged:
            # it goes on elsewhere: no last numbers
            fresh, how = False, {"playing": True, "measure": False}
        return super()._frame(fresh, **how)


def _train(slot: int, saved: bytes, about: str, seconds: float) -> Iterator[Packet]:
    """A box of time. The mailbox is named by its number: it cannot be sent."""
    machine.exact()
    yield from _Inside(MAILBOXES[slot], saved, json.loads(about)).packets(seconds)


# before any fork: a forked process is kept for the next visitor, and sees no later memory
MAILBOXES = [Mailbox() for _ in range(SLOTS)] if ON else []
free = queue.SimpleQueue()
for _slot in range(len(MAILBOXES)):
    free.put(_slot)
lend: Callable[..., Iterator[Packet]] | None = spaces.GPU(duration=BOX)(_train) if ON else None


# ---------------------------------------------------------------- in the Space's own process


class Box:
    """One box of time, seen from outside: its mailbox, and what was put into it.

    Two hold it, the run and the thread that waits for packets; its mailbox goes to the next
    visitor once both have let go, and nothing is put into it from the moment that the run has.
    """

    def __init__(self, slot: int) -> None:
        self.slot, self.mailbox = slot, MAILBOXES[slot]
        self.packets: queue.SimpleQueue[Packet | End] = queue.SimpleQueue()
        self.journal: list[tuple[int, dict[str, Any]]] = []
        self.closing = False
        self._holders, self._open, self._lock = 2, True, threading.Lock()
        self.mailbox.clear()

    def forward(self, message: dict[str, Any]) -> bool:
        """Take a message along; False when the run has to come home for it."""
        number = len(self.journal) + 1
        fits = not self.closing and set(message) <= LIVE
        if not fits or not self.put(["post", {"number": number, **message}]):
            self.close(HOME)
            return False
        self.journal.append((number, message))
        return True

    def put(self, message: Any) -> bool:
        with self._lock:
            return self._open and self.mailbox.put(message)

    def close(self, why: int) -> None:
        """Ask for its end."""
        self.closing = True
        with self._lock:
            if self._open and self.mailbox.stopped != PAUSE:
                self.mailbox.stop(why)

    def leave(self, run: bool = False) -> None:
        """One of the two lets go of it."""
        if run:
            self.close(HOME)
        with self._lock:
            self._open = self._open and not run
            self._holders -= 1
            if not self._holders:
                free.put(self.slot)

    def pump(self, saved: bytes, about: str, seconds: float) -> None:
        """Ask for the GPU, and pass on what comes; the last is why it ended."""
        ended: BaseException | None = None
        try:
            for packet in lend(self.slot, saved, about, seconds):
                self.packets.put(packet)
        except Exception as error:
            ended = error
        finally:
            self.packets.put(End(ended))
            self.leave()


class End(NamedTuple):
    error: BaseException | None
