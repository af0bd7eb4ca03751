"""Host: the far side of a room. It drives the runs of some visitors, each in threads of its own.

It is the same in this process, in one beside it and in a Ray actor. Messages are tuples: in come
(kind, seat, …), out go (kind, seat, …). A seat is a visitor's number; a call is the number of
something that is waited for.

    in   sit about · post number, message · stop call, brief · hear seq, missing · look visible ·
         hide panels · call call, name, arguments · stream call, steps ·
         train call, steps, seconds, every · leave;   and (crowd, n): so many runs train now
    out  frame call, frame, seq, tape · value call, JSON · answer call, value, refused ·
         end call, refused · kept checkpoint, luggage, moment · saved name, checkpoint
"""

from __future__ import annotations

import contextlib
import logging
import math
import operator
import threading
from collections.abc import Callable
from typing import Any

from app import luggage
from app.crowd import Crowd
from app.luggage import Weight
from app.mail import READERS
from app.timeline import Moment
from app.worker import Measure, Worker
from engines import BadInput
from engines.rival import _rivals as rivals

log = logging.getLogger("playground")

MANY = 32  # messages that a run at rest takes before it makes a new checkpoint of itself
FAILED = "Something went wrong there; the run goes on as it was."
CHANGING = ("act", "restore")  # questions that change the run


class Everyone(Crowd):
    """The runs that train in all processes together: the room knows how many."""

    def __init__(self, cores: int) -> None:
        super().__init__(cores)
        self._everywhere = 0

    @property
    def playing(self) -> int:
        return max(self._everywhere, self._here)

    def count(self, playing: int) -> None:
        self._everywhere = playing


class Guest(Worker):
    """A Worker whose visitor is elsewhere, and keeps there what must survive this process."""

    def __init__(
        self, out: Callable[..., None], crowd: Crowd, device: str | None, about: dict[str, Any]
    ) -> None:
        super().__init__(device, about["fps"], crowd, about["pictures"])
        self._out = out
        self._told = 0  # number of the last message that a checkpoint has heard of
        self._haunted: list[Any] = []  # which ghosts the visitor's side knows
        self.timeline.size = about["size"]
        # kernel estimates that another process has worked out need no second time
        rivals.found.update(about["rivals"])
        self._met = set(about["rivals"])
        self._visible, self._hidden = about["visible"], frozenset(about["hidden"])
        self._left_at = self._heard
        if about["saved"] is not None:
            # by mail: whoever drives the run makes it, and nobody else waits for that
            self.post(revive=(about["saved"], about["luggage"]))

    def _revive(self, given: tuple[bytes, dict[str, Any]]) -> None:
        luggage.unpack(self, *given)
        self._told = self._read = given[1]["read"]

    def _keep(self) -> bytes | None:
        if (saved := super()._keep()) is not None:
            # the visitor's side holds it: that is where a branch begins
            self.timeline.moments[-1] = Moment(self.run.step, self.clock.played, Weight(len(saved)))
            self._send(saved, moment=True)
        return saved

    def _hold(self) -> None:
        if self.run is not None and not self.run.diverged:
            self._send(self.run.checkpoint(), moment=False)

    def _send(self, saved: bytes, moment: bool) -> None:
        about = luggage.packed(self)
        about.pop("kept")
        about["read"] = self._told = self._read
        haunted, known = [lane.ghosts for lane in self.run.lanes], self._haunted
        if len(haunted) == len(known) and all(map(operator.is_, haunted, known)):
            about.pop("ghosts")  # they seldom change, and are large
        self._haunted = haunted
        about["rivals"] = {k: v for k, v in list(rivals.found.items()) if k not in self._met}
        self._met |= about["rivals"].keys()
        self._out("kept", saved, about, moment)

    def _put_by(self, name: int, saved: bytes) -> None:
        self._out("saved", name, saved)

    def _moment(self, given: Any) -> Moment | None:
        if given is None or given[0] != self._tape:
            return None
        return Moment(*given[1:])

    # ------------------------------------------------------------ what can be asked

    def redraw(self, measure: Measure = True) -> str | None:
        frame = super().redraw(measure)
        if self._read - self._told > MANY:
            self.rest()
        return frame

    def ask(self, what: str, **arguments: Any) -> Any:
        answer = super().ask(what, **arguments)
        if what in CHANGING:
            self.rest()
        return answer

    def rest(self) -> bool:
        """Send a checkpoint of a run that nobody drives, unless it has diverged."""
        if not self._driver.acquire(timeout=1.0):
            return False
        try:
            self._read_mail()
            self._hold()
            return self.run is not None and not self.run.diverged
        finally:
            self._driver.release()

    def tell(self) -> str | None:
        """A frame of a run that waits for its turn; nothing that is dear is drawn anew."""
        if not self._driver.acquire(timeout=1.0):
            return None
        try:
            self._read_mail()
            if self.run is None or not self.pictures:
                return None
            return self._frame(fresh=False, playing=True, measure=False)
        finally:
            self._driver.release()


READERS["revive"] = Guest._revive
CALLS = ("redraw", "checkpoint", "ask", "rest", "tell")


class Host:
    """Takes messages, which never waits, and sends others from many threads."""

    def __init__(self, send: Callable[[tuple], None], device: str | None, cores: int) -> None:
        self._send, self.device, self.crowd = send, device, Everyone(cores)
        self.guests: dict[int, Guest] = {}
        # by seat: calls up to this one are to end, and whether briefly
        self._stopped: dict[int, tuple[float, bool]] = {}

    def take(self, message: tuple) -> None:
        kind, seat, *rest = message
        if kind == "crowd":
            self.crowd.count(seat)
            return
        if kind == "sit":
            out = lambda what, *more: self._send((what, seat, *more))  # noqa: E731
            self.guests[seat] = Guest(out, self.crowd, self.device, rest[0])
            return
        guest = self.guests.get(seat)
        if guest is None:
            return
        if kind == "post":
            guest.post(number=rest[0], **rest[1])
        elif kind in ("hear", "look", "hide"):
            getattr(guest, kind)(*rest)
        elif kind == "stop":
            self._stopped[seat] = rest[0], rest[1]
            guest.stop(brief=rest[1])
        elif kind == "leave":
            self.guests.pop(seat, None)
            self._stopped[seat] = math.inf, False
            guest.stop()
        else:
            task = {"call": self._call, "stream": self._stream, "train": self._train}[kind]
            threading.Thread(target=task, args=(seat, guest, *rest), daemon=True).start()

    def _call(self, seat: int, guest: Guest, call: int, name: str, given: dict[str, Any]) -> None:
        answer = refused = None
        try:
            answer = getattr(guest, name)(**given)
        except BadInput as error:
            refused = str(error)
        except Exception:
            log.exception("a call of %s failed", name)
            refused = FAILED
        self._send(("answer", seat, call, answer, refused))

    def _stream(self, seat: int, guest: Guest, call: int, steps: int | None) -> None:
        try:
            for frame, _ in guest.stream(steps):
                self._heed(seat, guest, call)
                if frame is not None:
                    self._send(("frame", seat, call, frame, guest._seq, guest._tape))
        finally:
            self._send(("end", seat, call, None))

    def _train(self, seat: int, guest: Guest, call: int, *how: Any) -> None:
        refused = None
        try:
            for found in guest.train(*how):
                self._heed(seat, guest, call)
                self._send(("value", seat, call, found))
        except BadInput as error:
            refused = str(error)
        except Exception:
            log.exception("a training failed")
            refused = FAILED
        self._send(("end", seat, call, refused))

    def _heed(self, seat: int, guest: Guest, call: int) -> None:
        """Say it again: a stream that has just begun forgets that it was told to end."""
        last, brief = self._stopped.get(seat, (0, False))
        if last >= call:
            guest.stop(brief)


def serve(connection: Any, device: str | None, cores: int) -> None:
    """Be a host in a process of its own, until the other end of the connection is closed."""
    lock = threading.Lock()

    def send(message: tuple) -> None:
        with lock, contextlib.suppress(OSError):  # nobody listens: this process ends soon
            connection.send(message)

    host = Host(send, device, cores)
    with contextlib.suppress(EOFError, OSError):
        while True:
            host.take(connection.recv())
