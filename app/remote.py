"""Remote: a visitor's Worker that lives in a host. The same boundary, wherever that is.

Here is what must survive the host: the last checkpoint with its luggage, the messages that it has
not heard of yet, the checkpoints that Undo and Branch go back to. So a run that was lost with its
process, or parked because nobody asked for it, goes on from there in another one, by itself.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from app import luggage
from app.timeline import Moment, Timeline
from app.worker import MAX_SAVES, PATIENCE, Item
from engines import BadInput

if TYPE_CHECKING:
    from app.line import Line
    from app.room import Room

log = logging.getLogger("playground")

TELL = 0.7  # seconds between two looks at the place in the queue
NOTED = 12.0  # seconds that a sentence about a lost process stays
TRIES = 3  # processes that a run may lose in a row without coming one checkpoint further
PARKED = 4 * 2**20  # bytes of the timeline of a run that is parked
LOST = object()
AGAIN = "The process of this run was lost again and again; try another setting."


class Saves(dict[int, bytes]):
    """Checkpoints that were asked for by number; one that is under way is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._coming: set[int] = set()
        self._change = threading.Condition()

    def expect(self, name: int) -> None:
        with self._change:
            self._coming.add(name)

    def arrive(self, name: int, saved: bytes) -> None:
        with self._change:
            if name in self._coming:
                self._coming.discard(name)
                self[name] = saved
                while len(self) > 1 and sum(map(len, self.values())) > MAX_SAVES:
                    del self[min(self)]
            self._change.notify_all()

    def pop(self, name: int, default: Any = None) -> Any:
        with self._change:
            self._change.wait_for(lambda: name not in self._coming, 2.0)
            self._coming.discard(name)
            return super().pop(name, default)

    def clear(self) -> None:
        with self._change:
            self._coming.clear()
            super().clear()


class Remote:
    """Drives one Run through a line. All methods may be called from any thread."""

    def __init__(self, room: Room, fps: float, pictures: bool) -> None:
        self.room, self.fps, self.pictures = room, fps, pictures
        self.timeline, self.saves = Timeline(size=room.kept), Saves()
        self.seen = time.monotonic()  # when anything was asked of it last
        self._lock = threading.RLock()
        self._line: Line | None = None
        self._seat = 0
        self._calls: dict[int, queue.SimpleQueue] = {}  # that one answer comes to
        self._flows: dict[int, queue.SimpleQueue] = {}  # that more comes to, until their end
        self._number = itertools.count(1)
        self._numbers = itertools.count(1)  # of calls
        self._journal: list[tuple[int, dict[str, Any]]] = []
        self._saved: bytes | None = None
        self._about: dict[str, Any] = {"ghosts": [], "read": 0}
        self._seq = self._tape = 0
        self._visible, self._hidden = True, frozenset()
        self._lost = 0  # processes that this run has lost since its last checkpoint
        self._mourning, self._noted = False, 0.0  # when the visitor was told of it
        self._gone = False
        self._streams = 0
        self._counting = False
        self._begun = self._ended = 0  # numbers of streams: begun so far, and told to end
        self.news = threading.Event()  # for one that waits for its turn

    # ------------------------------------------------------------ in

    def post(self, **message: Any) -> None:
        """Leave a message for the run, as Worker.post does; it is kept until a checkpoint has it."""
        with self._lock:
            if "branch" in message:
                moment = self.timeline.nearest(message["branch"])
                if moment is not None:
                    self.timeline.cut(moment.step)
                message["branch"] = moment and (
                    self._tape, moment.step, moment.seconds, moment.saved
                )  # fmt: skip
            if "save" in message:
                self.saves.expect(message["save"])
            number = next(self._number)
            self._forget_alike(message)
            self._journal.append((number, message))
            if self._line is not None:
                self._say("post", number, message)

    def _forget_alike(self, message: dict[str, Any]) -> None:
        """A knob that is dragged leaves one message behind, not hundreds."""
        about = lambda m: m["set"][0] if "set" in m else set(m)  # noqa: E731
        if "set" in message or "extra" in message:
            for i in range(len(self._journal) - 1, max(-1, len(self._journal) - 3), -1):
                if about(self._journal[i][1]) == about(message):
                    del self._journal[i]

    def stop(self) -> None:
        with self._lock:
            self._ended = self._begun
            if self._flows and self._line is not None:
                self._say("stop", max(self._flows))
        self.news.set()

    def hear(self, seq: int, missing: bool = False) -> None:
        self._tell_line("hear", int(seq), bool(missing))

    def look(self, visible: bool) -> None:
        self._visible = bool(visible)
        self._tell_line("look", self._visible)

    def hide(self, panels: frozenset[str]) -> None:
        self._hidden = frozenset(panels)
        self._tell_line("hide", self._hidden)

    def _tell_line(self, *words: Any) -> None:
        with self._lock:
            if self._line is not None:
                self._say(*words)

    def _say(self, kind: str, *rest: Any) -> None:
        self._line.send((kind, self._seat, *rest))

    @property
    def streaming(self) -> bool:
        return self._streams > 0

    @property
    def seated(self) -> bool:
        """Whether its run is in memory anywhere."""
        return self._line is not None

    # ------------------------------------------------------------ out

    def redraw(self, measure: bool = True) -> str | None:
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
                        self._tell_line("stop", call)
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
                    self._tell_line("stop", call)  # whoever read this has gone
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

    # ------------------------------------------------------------ the line

    def _ask_host(
        self, among: dict[int, queue.SimpleQueue], what: str, *task: Any
    ) -> tuple[int, queue.SimpleQueue]:
        """Ask for something, and where its answers come to; LOST is one of them."""
        with self._lock:
            self._sit()
            call = next(self._numbers)
            among[call] = box = queue.SimpleQueue()
            if self._line is None:
                box.put(LOST)
            else:
                self._say(what, call, *task)
        return call, box

    def _call(self, name: str, /, **given: Any) -> Any:
        """Ask the host, a second time if it is lost. Raises BadInput where the run refuses."""
        self.seen = time.monotonic()
        for _ in range(TRIES):
            call, box = self._ask_host(self._calls, "call", name, given)
            try:
                answer = box.get(timeout=PATIENCE + 10.0)
            except queue.Empty:
                break
            finally:
                self._calls.pop(call, None)
            if answer is LOST:
                continue
            value, refused = answer
            if refused is not None:
                raise BadInput(refused)
            return value
        raise BadInput("The run was too busy to answer; try again.")

    def _sit(self) -> None:
        """Have a seat: at a host, with everything that this side knows of the run."""
        if self._gone:
            raise BadInput("This visitor has left.")
        if self._line is not None:
            return
        line, self._seat = self.room.line(), self.room.number()
        about = {
            "fps": self.fps, "pictures": self.pictures, "size": self.timeline.size,
            "visible": self._visible, "hidden": sorted(self._hidden),
            "saved": self._saved, "luggage": None,
        }  # fmt: skip
        self._tape = self._about.get("tape", 0)
        if self._saved is not None:
            about["luggage"] = {
                **self._about, "kept": luggage.kept(self.timeline.moments),
                "seq": self._seq, "visible": self._visible, "hidden": sorted(self._hidden),
            }  # fmt: skip
        self._line = line
        line.seats[self._seat] = self
        self._say("sit", about)
        for number, message in self._journal:
            self._say("post", number, message)
        if line.lost:  # between being found and being sat at; whoever waits is told of it
            self.lost(line)
        else:
            self._mourn()

    def _mourn(self) -> None:
        """Tell the visitor of a process that was lost, once the run has another one."""
        if not self._mourning:
            return
        self._mourning, self._noted = False, time.monotonic()
        step = f"step {self._about['step']:,}" if self._saved is not None else "its beginning"
        how = f"goes on by itself from {step}" if self._streams else f"is back at {step}"
        sentence = f"The process of this run was lost; the run {how}, at most two seconds back."
        self.post(message=sentence if self._lost < TRIES else AGAIN)

    def _unsit(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.send(("leave", self._seat))
            line.seats.pop(self._seat, None)
            self.room.left(line)

    def heard(self, line: Line, kind: str, *rest: Any) -> None:
        """Something came from the host; called by the thread that reads the line."""
        with self._lock:
            if line is not self._line:
                return
            if kind == "kept":
                saved, about, moment = rest
                self._keep(saved, about, moment)
                for box in self._flows.values():
                    box.put(("kept", saved, about["step"]))
            elif kind == "saved":
                self.saves.arrive(*rest)
            elif kind == "answer":
                call, *content = rest
                if (box := self._calls.get(call)) is not None:
                    box.put(content)
            else:
                call, *content = rest
                if kind == "frame":
                    frame, seq, tape = content
                    self._seq = max(self._seq, seq)
                    self._turn_tape(tape)
                    content = [frame]
                if (box := self._flows.get(call)) is not None:
                    box.put((kind, *content))

    def _keep(self, saved: bytes, about: dict[str, Any], moment: bool) -> None:
        about.setdefault("ghosts", self._about["ghosts"])
        self._saved, self._about, self._lost = saved, about, 0
        self._seq = max(self._seq, about["seq"])
        self._journal = [entry for entry in self._journal if entry[0] > about["read"]]
        self._turn_tape(about["tape"])
        if moment:
            self.timeline.add(Moment(about["step"], about["played"], saved))

    def _turn_tape(self, tape: int) -> None:
        """Another run has begun: what was kept of the one before cannot be gone back to."""
        if tape > self._tape:
            self._tape = tape
            self.timeline.clear()

    def lost(self, line: Line) -> None:
        """The host is no more; whoever waits goes on elsewhere."""
        with self._lock:
            if line is not self._line:
                return
            self._line, self._mourning = None, True
            self._lost += 1
            line.seats.pop(self._seat, None)
            for box in (*self._calls.values(), *self._flows.values()):
                box.put(LOST)

    # ------------------------------------------------------------ rest

    def park(self) -> bool:
        """Keep the run as a checkpoint alone, until something is asked of it again."""
        if self._line is None or self.streaming:
            return False
        seen = self.seen
        try:
            kept = self._call("rest")
        except BadInput:
            return False
        with self._lock:
            self.seen = seen
            if self.streaming or self._calls:
                return False
            self._unsit()
            self.timeline.shrink(PARKED)
            return bool(kept)

    def leave(self) -> None:
        """The visitor is gone: stop, and let go of everything."""
        self.stop()
        with self._lock:
            self._unsit()
            self._gone = True
            self._journal.clear()
            self._saved = None
            for box in self._calls.values():
                box.put(LOST)
            for box in self._flows.values():
                box.put(("end", None))
        self.saves.clear()
        self.timeline.clear()
        self.room.leave(self)
