"""Visitors: who is here, each with a session of their own."""

from __future__ import annotations

import threading
import time
import weakref

from app.crowd import Crowd
from app.room import Room
from app.session import Session
from engines import machine

MAX_SESSIONS = 256
IDLE = 1800.0  # seconds that a session without a page is kept for its next request
FORGOTTEN = 6 * 3600.0  # and one with a page; the page's address then opens its experiment anew
SWEEP = 60.0  # seconds between two looks for such sessions


class Visitors:
    """Sessions by the hash that Gradio gives each open page.

    A page says when it is closed; a program may not. So those without a page are swept away
    by a thread, once nobody has asked anything of them for long; it lives while they do.
    """

    def __init__(
        self, device: str | None = None, fps: float = 20.0, room: Room | None = None
    ) -> None:
        self.room = room  # without one, all runs live in this process
        self._device, self._fps, self._crowd = device, fps, Crowd()
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._swept = False  # whether a thread is at it

    def of(self, key: str, pictures: bool = True) -> Session:
        """The visitor's session, opened at the first call. pictures: False for no page."""
        with self._lock:
            if key not in self._sessions:
                self._make_room()
                worker = self.room and self.room.worker(self._fps, pictures)
                self._sessions[key] = Session(
                    self._device, self._fps, self._crowd, pictures, worker
                )
                self._sessions[key].patient = pictures
            session = self._sessions[key]
            session.used = time.monotonic()
            if not self._swept:
                self._swept = True
                threading.Thread(
                    target=_sweep_often, args=(weakref.ref(self),), daemon=True
                ).start()
            return session

    def sweep(self) -> None:
        """Let go of sessions that have rested for long; those without a page need not so long."""
        with self._lock:
            self._sweep()

    def _sweep(self) -> None:
        now = time.monotonic()
        for key, session in list(self._sessions.items()):
            worker = session.worker
            most = FORGOTTEN if worker.pictures else IDLE
            if not worker.streaming and now - session.used > most:
                self._sessions.pop(key).close()

    def _make_room(self) -> None:
        """Room for one more: the oldest that rest go, once there are far too many."""
        self._sweep()
        idle = [k for k, session in self._sessions.items() if not session.worker.streaming]
        idle.sort(key=lambda k: self._sessions[k].worker.pictures)  # those without a page first
        most = max(0, len(self._sessions) + 1 - MAX_SESSIONS)
        for key in idle[:most]:
            self._sessions.pop(key).close()

    def get(self, key: str) -> Session | None:
        """The visitor's session if there is one."""
        if (session := self._sessions.get(key)) is not None:
            session.used = time.monotonic()
        return session

    def leave(self, key: str) -> None:
        with self._lock:
            session = self._sessions.pop(key, None)
        if session is not None:
            session.close()

    def __len__(self) -> int:
        return len(self._sessions)


def _sweep_often(found: weakref.ref[Visitors]) -> None:
    """Sweep until there is nobody left; the next who comes begins it anew."""
    while True:
        time.sleep(SWEEP)
        if (visitors := found()) is None:
            return
        if visitors.room is not None:
            visitors.room.sweep()
        with visitors._lock:
            visitors._sweep()
            if not visitors._sessions:
                visitors._swept = False
                machine.give_back()
                return
        del visitors  # else it would be kept for the sake of the sweeping
