"""Nursery: a process that has loaded everything, and forks hosts off itself.

A fork takes milliseconds where a new interpreter takes seconds to load torch, and shares its memory
until either writes to it. The page's own process has many threads and cannot be forked safely; this
one has none, and never touches a GPU. Both ends are here: `Nursery` is the page's.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

log = logging.getLogger("playground")

ROOT = Path(__file__).parent.parent
NICE = 3  # below the page's process, so that many runs never keep an answer waiting
START = (
    "import sys; sys.path.insert(0, sys.argv[1]); from app.nursery import tend; "
    "tend(int(sys.argv[2]))"
)
CAN = sys.platform.startswith("linux")  # elsewhere what torch loads does not survive a fork


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def early() -> None:
    """Begin to load, where runs will have processes of their own; before torch is imported here."""
    others = ("SPACES_ZERO_GPU", "PLAYGROUND_RAY")  # there runs live elsewhere
    asked = os.environ.get("PLAYGROUND_PROCESSES", "").strip()
    if CAN and asked != "0" and (asked or cores() > 1) and not any(map(os.environ.get, others)):
        shared()


_shared: Nursery | None = None
_sharing = threading.Lock()


def shared() -> Nursery:
    """The one of this process, begun at the first call."""
    global _shared
    with _sharing:
        if _shared is None:
            _shared = Nursery()
            atexit.register(_shared.close)
        return _shared


def pids() -> list[int]:
    """The process that forks hosts, where there is one."""
    return [] if _shared is None else [_shared.pid]


class Nursery:
    """Starts loading at once; `host` waits for that only if it is asked for one before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._control: socket.socket | None = None
        with self._lock:
            self._start()

    def _start(self) -> None:
        self._control, theirs = socket.socketpair()
        command = [sys.executable, "-c", START, str(ROOT), str(theirs.fileno())]
        # in a session of its own: Ctrl-C is for the page, whose end ends it, too
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], start_new_session=True, stdin=subprocess.DEVNULL
        )
        theirs.close()

    def host(self, device: str | None, cores: int, ways: tuple[str, str]) -> tuple[Connection, int]:
        """A new host: the connection to it, and its process. Raises OSError if there can be none."""
        about = json.dumps({"device": device, "cores": cores, "ways": ways}).encode()
        with self._lock:
            for again in (True, False):
                ours, theirs = socket.socketpair()
                try:
                    socket.send_fds(self._control, [about], [theirs.fileno()])
                    if answer := self._control.recv(64):
                        return Connection(ours.detach()), int(answer)
                    raise OSError("the process that makes others has ended")
                except OSError:
                    ours.close()
                    if not again:
                        raise
                    log.warning("the process that makes others was lost; it is started again")
                    self._end()
                    self._start()
                finally:
                    theirs.close()
        raise OSError("no process could be made")

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        with self._lock:
            self._end()

    def _end(self) -> None:
        self._control.close()  # it reads that, and ends
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
            return
        self._process.kill()
        self._process.wait()


# ---------------------------------------------------------------- in the nursery, and in hosts


def tend(control_fd: int) -> None:
    """Load everything, then fork a host for each request until the page's process ends."""
    import gc

    import torch

    from app import host
    from app.presets import presets
    from engines import families

    presets()  # read from disk once, for all
    families()
    # the first optimiser of a process loads half of torch, which takes it two seconds; a step back
    # through a network is not taken here, for that starts threads where there is a GPU
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    importlib.import_module("torch.profiler")
    gc.collect()
    gc.freeze()  # what is collected now stays shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system buries them
    control = socket.socket(fileno=control_fd)
    while True:
        message, fds, _, _ = socket.recv_fds(control, 4096, 1)
        if not message:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            control.close()
            _live(host, fds[0], json.loads(message))
        os.close(fds[0])
        control.send(str(pid).encode())


def _live(host: Any, fd: int, about: dict[str, Any]) -> None:
    """The life of a host; it never comes back from here."""
    from engines import machine

    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.nice(NICE)
        machine.adopt(*about["ways"])
        host.serve(Connection(fd), about["device"], about["cores"])
    except BaseException:
        logging.exception("a host failed")
    finally:
        os._exit(0)
