"""Remote: a visitor's Worker that lives in a host. The same boundary, wherever that is.

It trains when it is its turn, says so while it is not, and goes on when its process is lost.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from app.seat import AGAIN, LOST, TRIES, Seat
from app.worker import Item, Measure
from engines import BadInput

if TYPE_CHECKING:
    from app.room import Room

log = logging.getLogger("playground")

TELL = 0.7  # seconds between two looks at the place in the queue
NOTED = 12.0  # seconds that a sentence about a lost process stays


class Remote(Seat):
    """Drives one Run through a line. All methods may be called from any thread."""

    def __init__(self, room: Room, fps: float, pictures: bool) -> None:
        super().__init__(room, fps, pictures)
        self._streams, self._counting = 0, False
        self._begun = self._ended = 0  # numbers of streams: begun so far, and told to end
        self.news = threading.Event()  # for one that waits for its turn

    @property
    def streaming(self) -> bool:
        return self._streams > 0

    def stop(self) -> None:
        with self._lock:
            self._ended = self._begun
            if self._flows and self._line is not None:
                self._say("stop", max(self._flows), False)
        self.news.set()

    def leave(self) -> None:
        """The visitor is gone: stop, and let go of everything."""
        self.stop()
        super().leave()
        self.room.leave(self)

    # ------------------------------------------------------------ out

    def redraw(self, measure: Measure = True) -> str | None:
        if self.room.waits(self):  # else the page would take it for one that rests
            return self._try("tell")
        return self._try("redraw", measure=measure)

    def checkpoint(self) -> bytes | None:
        return self._try("checkpoint")

    def _try(self, name: str, **given: Any) -> Any:
        """What the host answers; None where it cannot, or where the visitor has left."""
        with contextlib.suppress(BadInput):
            return self._call(name, **given)

    def ask(self, what: str, **arguments: Any) -> Any:
        return self._call("ask", what=what, **arguments)

    def stream(self, steps: int | None = None) -> Iterator[Item]:
        """Train as Worker.stream does, when it is this run's turn; until then say so.

        A process that is lost meanwhile is replaced by another one, which goes on from the last
        checkpoint; the frames say so.
        """
        first: int | None = None

        def rest() -> tuple[int | None] | None:
            if steps is None or first is None:
                return (steps,)
            left = min(steps, first + steps - self._about["step"])
            return (left,) if left > 0 else None

        try:
            for kind, content in self._driven("stream", rest, steps):
                if kind == "frame":
                    yield content, None
                elif kind == "kept":
                    saved, step = content
                    first = step if first is None else first
                    yield None, saved
        except BadInput as error:
            if not self._gone:
                log.warning("a stream ended: %s", error)
                self.post(message=str(error))
                if (frame := self._try("redraw")) is not None:
                    yield frame, None

    def train(self, steps: int, seconds: float, every: float = 0.25) -> Iterator[dict[str, Any]]:
        """Train without pictures, as Worker.train does."""
        last: dict[str, Any] | None = None
        begin, first = time.monotonic(), None

        def rest() -> tuple[int, float, float] | None:
            done = 0 if first is None else max(0, self._about["step"] - first)
            left = max(0.0, begin + seconds - time.monotonic())
            return (steps - done, left, every) if done < steps else None

        for kind, content in self._driven("train", rest, None):
            if kind == "value":
                last = content
                yield last
            elif kind == "told":
                yield {**self.ask("numbers"), "note": content}
            elif kind == "kept":
                first = content[1] if first is None else first
        if last is None and not self._gone:  # it was stopped before its turn came
            yield self.ask("numbers")

    def _driven(self, what: str, how: Any, steps: int | None) -> Iterator[tuple[str, Any]]:
        """What comes of a stream or a training, through waits and losses, to its end."""
        counted = steps is not None
        with self._lock:
            # one that counts its steps is let finish by another one: 100 and 100 are 200
            if not (counted and self._counting):
                self.stop()
            self._begun += 1
            me, self._counting = self._begun, counted
            self._streams += 1
        self.seen = time.monotonic()
        call = None
        try:
            while self._ended < me:
                yield from self._wait(me)
                if self._ended >= me:
                    return
                if (task := how()) is None:  # all of it was done when it was interrupted
                    if (frame := self._try("redraw")) is not None:
                        yield "frame", frame
                    return
                call, box = self._ask_host(self._flows, what, *task)
                again = False
                while (item := box.get()) is not LOST:
                    kind, *content = item
                    if self._noted and time.monotonic() - self._noted > NOTED:
                        self._noted = 0.0
                        self.post(message="")
                    if kind == "end":
                        if content[0] is not None:
                            raise BadInput(content[0])
                        break
                    if self.room.asked_to_yield(self) and not again:
                        again = True
                        self._tell_line("stop", call, True)
                    if kind == "frame" and again and self._ended < me:
                        continue  # the last ones say that it rests, which it does not
                    yield kind, content[0] if len(content) == 1 else tuple(content)
                self._flows.pop(call, None)
                if item is LOST:
                    if self._lost >= TRIES:
                        raise BadInput(AGAIN)
                elif not again:
                    return
                else:
                    self.hear(self._seq, missing=True)  # the browser lacks what was left out
                    self.room.give_way(self)
                    if self._ended >= me and (frame := self._try("redraw")) is not None:
                        yield "frame", frame
        finally:
            with self._lock:
                self._streams -= 1
                if not self._streams:
                    self._counting = False
                if call is not None and self._flows.pop(call, None) is not None:
                    self._tell_line("stop", call, False)  # whoever read this has gone
                if not self._streams:
                    self.room.leave(self)
            self.seen = time.monotonic()

    def _wait(self, me: int) -> Iterator[tuple[str, Any]]:
        """Until it is this run's turn; a frame whenever its place in the queue has changed."""
        place = self.room.come(self)
        if not place:
            return
        told = None
        while place and self._ended < me:
            if place != told:
                told = place
                sentence = self.room.sentence(place)
                self.post(notice=sentence)
                yield "told", sentence
                if (frame := self._try("tell")) is not None:
                    yield "frame", frame
            self.news.wait(TELL)
            self.news.clear()
            place = self.room.come(self)
        self.post(message="")
        if self._ended >= me:  # stopped while it waited: the page is told that it rests
            self.room.leave(self)
            if (frame := self._try("redraw")) is not None:
                yield "frame", frame
