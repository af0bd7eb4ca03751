"""Line: the near side of a host. What is said to a seat there, and what is heard from it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from app.host import Host

if TYPE_CHECKING:
    from app.seat import Seat

log = logging.getLogger("playground")


class Line:
    """A host with some visitors; this one is in the same process, and cannot be lost."""

    def __init__(self, device: str | None, cores: int) -> None:
        self.seats: dict[int, Seat] = {}
        self.lost = False
        self._open(device, cores)

    def _open(self, device: str | None, cores: int) -> None:
        self._host = Host(self._heard, device, cores)

    def send(self, message: tuple) -> None:
        """Say something, in order; to a host that is lost it is said in vain."""
        self._host.take(message)

    def close(self) -> None:
        """The host is needed no longer."""

    def _heard(self, message: tuple) -> None:
        kind, seat, *rest = message
        if (who := self.seats.get(seat)) is not None:
            who.heard(self, kind, *rest)

    def _lose(self) -> None:
        self.lost = True
        for who in list(self.seats.values()):
            who.lost(self)


class ProcessLine(Line):
    """A host in a process of its own."""

    def __init__(
        self, connection: Connection, pid: int, device: str | None = None, cores: int = 1
    ) -> None:
        self._connection, self.pid, self._closing = connection, pid, False
        self._lock = threading.Lock()
        super().__init__(device, cores)

    def _open(self, device: str | None, cores: int) -> None:
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            while True:
                message = self._connection.recv()
                try:
                    self._heard(message)
                except Exception:
                    log.exception("a message from a run was not understood")
        except (EOFError, OSError):
            pass
        finally:
            if not self._closing:
                log.warning("process %d, which held %d runs, was lost", self.pid, len(self.seats))
            self._lose()
            with self._lock, contextlib.suppress(OSError):
                self._connection.close()

    def send(self, message: tuple) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._connection.send(message)

    def close(self) -> None:
        self._closing = True
        with contextlib.suppress(ProcessLookupError):  # its runs are nobody's any more
            os.kill(self.pid, signal.SIGTERM)
