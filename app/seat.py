"""Seat: a visitor's place at a host, and what must survive that host.

Kept on this side are the last checkpoint with its luggage, the messages that it has not heard of
yet, and the checkpoints that Undo and Branch go back to. So a run that was lost with its process, or
parked because nobody asked for it, goes on from there in another one, by itself.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

from app import luggage
from app.mail import MAX_SAVES
from app.timeline import Moment, Timeline
from app.worker import PATIENCE
from engines import BadInput

if TYPE_CHECKING:
    from app.line import Line
    from app.room import Room

TRIES = 3  # processes that a run may lose in a row without coming one checkpoint further
PARKED = 4 * 2**20  # bytes of the timeline of a run that is parked
LOST = object()  # what comes instead of an answer
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


class Seat:
    """One side of a line; what is said to the host, what is heard from it, what is kept of it."""

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

    @property
    def seated(self) -> bool:
        """Whether the run is in memory anywhere."""
        return self._line is not None

    @property
    def streaming(self) -> bool:
        """Whether it trains, or waits for its turn."""
        return False

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
            "saved": self._saved, "luggage": None, "rivals": dict(self.room.rivals),
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
        how = f"goes on by itself from {step}" if self.streaming else f"is back at {step}"
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
                for box in list(self._flows.values()):
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
        self.room.learn(about.pop("rivals"))
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
            for box in [*self._calls.copy().values(), *self._flows.copy().values()]:
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
        """Let go of everything; whoever still waits for an answer waits no longer."""
        with self._lock:
            self._unsit()
            self._gone = True
            self._journal.clear()
            self._saved = None
            # whoever reads an answer takes its box away without the lock: go through a copy
            for box in list(self._calls.values()):
                box.put(LOST)
            for box in list(self._flows.values()):
                box.put(("end", None))
        self.saves.clear()
        self.timeline.clear()
