"""Worker: the far side of a run's boundary, with its pacing.

In go an Experiment's JSON or a checkpoint's bytes, knob changes and actions; out come
packed frames and, every two seconds or so, a checkpoint. Nothing else crosses, so that a
run can live in this process, in another one, or on another machine.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, Literal

from app.answers import numbers
from app.crowd import Crowd
from app.mail import Mail
from app.pack import Known, pack
from app.timeline import DENSE, Moment
from engines import BadInput, machine
from engines.pace import SENDING

log = logging.getLogger("playground")

Item = tuple[str | None, bytes | None]  # frame, checkpoint
Measure = bool | Literal["later", "owed"]

WINDOW = 10  # frames that may be under way unpainted: the queue itself has no back-pressure
CHECKPOINT_EVERY = 1.8  # seconds; with a frame in between at most two; more often at first
SOON = 0.3  # seconds that the picture at rest may take before the page is told of the rest
COARSEST = 3  # rung of the first pictures in a full room: 1/8 of the full work
RAMP = 1.0  # seconds until Play runs at full speed, so that nobody misses the beginning
PATIENCE = 60.0  # seconds that a question waits for its answer
UNREAD = 200  # numbers that nobody took: whoever asked for them is gone
AWAY = 600.0  # seconds that a run goes on in a browser tab nobody looks at
SILENT = 45.0  # seconds without a word from a browser that should be painting


class Worker(Mail):
    """Drives one Run. All methods may be called from any thread."""

    native = True  # whether a run that somebody looks at may train in native code

    def __init__(
        self,
        device: str | None = None,
        fps: float = 20.0,
        crowd: Crowd | None = None,
        pictures: bool = True,
    ) -> None:
        super().__init__(device)
        self.fps, self.crowd = fps, crowd or Crowd()
        self.pictures = pictures  # False: nobody looks, so `redraw` only reads the mail
        # a plain Lock: a generator may be resumed and closed from different threads
        self._driver = threading.Lock()
        self._ready: queue.Queue = queue.Queue()  # frames that the stream has not taken yet
        self._stopping = self._counting = self._brief = False
        self._known, self._seq, self._acked = Known(), 0, 0
        self._heard = time.monotonic()
        self._visible, self._left_at = True, 0.0
        self._hidden: frozenset[str] = frozenset()
        self._questions = itertools.count()
        self._asked, self._asked_last = itertools.count(), 0  # pictures at rest
        self._drawing = threading.Lock()
        self._drawn: Any = None  # what the last pictures in full show

    # ------------------------------------------------------------ in

    def stop(self, brief: bool = False) -> None:
        """Ask a running stream to end after its present step; briefly: without last pictures and
        numbers, for it will go on."""
        self._brief = brief and (self._brief or not self._stopping)
        self._stopping = True
        self._wake.set()

    def hear(self, seq: int, missing: bool = False) -> None:
        """The browser has painted frame `seq`, or lacks a block of it."""
        self._heard = time.monotonic()
        self._acked = max(self._acked, min(int(seq), self._seq))
        if missing:
            self._known.clear()

    def look(self, visible: bool) -> None:
        """The browser tab came into view, or went out of it."""
        self._heard = time.monotonic()
        if self._visible and not visible:
            self._left_at = time.monotonic()
        self._visible = visible
        self._acked = self._seq  # what was under way is painted now, or never
        self._wake.set()

    def hide(self, panels: frozenset[str]) -> None:
        """Ids of panels that are not shown, and so need not be worked out."""
        self._hidden = panels

    @property
    def streaming(self) -> bool:
        return self._driver.locked()

    def park(self) -> bool:
        """Let go of memory while nobody asks anything: a run in this process has nowhere to go."""
        return False

    def leave(self) -> None:
        """The visitor is gone: stop, and let go of everything."""
        self.stop()
        self.saves.clear()

    # ------------------------------------------------------------ out

    def redraw(self, measure: Measure = True) -> str | None:
        """Read the mail and return one whole frame; None while a stream, or somebody who asks
        later, is about to show it.

        measure: False leaves the metrics as they are, which is much faster; "later" does so, too,
            and the frame says that they are owed: who has painted it asks again, for what is
            "owed". Where many play its pictures are coarse: then first come those in full.
        """
        number = self._asked_last = next(self._asked)
        # one draws, and of those who came meanwhile the newest waits: what it has changed would
        # else be shown by nobody
        while not self._drawing.acquire(timeout=0.05):
            if number != self._asked_last:
                return None
        try:
            # a stream that was told to stop may have read its last mail: wait for it to end
            if not self._driver.acquire(timeout=5.0 if self._stopping else 0.0):
                return None
            try:
                self._read_mail()
                if self.run is None or not self.pictures:
                    return None
                stands = self._drawn == self.run.keys
                if measure is False or measure == "later" or (measure == "owed" and not stands):
                    # nothing that stands in full is made coarse
                    effort = self._effort() if measure == "later" and not stands else 1.0
                    return self._frame(fresh=True, measure=False, owed=measure, effort=effort)
                # before the numbers, which take longer, a look at who waits
                if not stands:
                    self.run.frame(fresh=True, hidden=self._hidden, measure=False)
                measure = number == self._asked_last
                return self._frame(fresh=True, measure=measure, settled=True, owed=not measure)
            finally:
                self._driver.release()
        finally:
            self._drawing.release()

    def checkpoint(self) -> bytes | None:
        """The run as bytes, or None while a stream holds it (which yields its own)."""
        if self.run is None or not self._driver.acquire(timeout=5.0 if self._stopping else 0.0):
            return None
        try:
            return self.run.checkpoint()
        finally:
            self._driver.release()

    def ask(self, what: str, **arguments: Any) -> Any:
        """One of app/answers.py, worked out between two steps: plain JSON, or bytes.

        Raises BadInput where the run refuses, and goes on as it was.
        """
        name, box = next(self._questions), queue.SimpleQueue()
        self._answers[name] = box
        self.post(ask=(name, what, arguments))
        until = time.monotonic() + PATIENCE
        try:
            while time.monotonic() < until:
                # whoever drives the run reads the mail: a stream, or else we ourselves
                if self._driver.acquire(timeout=0.02):
                    try:
                        self._read_mail()
                    finally:
                        self._driver.release()
                with contextlib.suppress(queue.Empty):
                    answer, refused = box.get(timeout=0.02)
                    if refused is not None:
                        raise BadInput(refused)
                    return answer
        finally:
            del self._answers[name]
        raise BadInput("The run was too busy to answer; try again.")

    def train(self, steps: int, seconds: float, every: float = 0.25) -> Iterator[dict[str, Any]]:
        """Train without pictures; yields `numbers` every so many seconds, and fresh ones last.

        It ends after so many steps or seconds, when stopped, or when nobody reads on.
        """
        self.stop()
        ready, left = queue.SimpleQueue(), threading.Event()
        task = (steps, seconds, every, ready, left)
        threading.Thread(target=self._count, args=task, daemon=True).start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, str):
                    raise BadInput(item)
                yield item
        finally:
            left.set()

    def stream(self, steps: int | None = None) -> Iterator[Item]:
        """Train, and yield (frame, checkpoint or None) until stopped or `steps` are done.

        Only one stream drives a run: a second one stops the first and waits for its end.
        Training has a thread of its own, so that it goes on while a frame is sent.
        """
        # one that counts its steps is let finish by another one: 100 and 100 are 200
        if not (steps is not None and self._counting):
            self.stop()
        if not self._driver.acquire(timeout=600.0 if steps is not None else 10.0):
            return
        thread = None
        try:
            self._stopping, self._brief, self._acked = False, False, self._seq
            self._counting, self._message = steps is not None, ""
            self._heard = time.monotonic()
            self._ready = ready = queue.Queue()
            thread = threading.Thread(target=self._produce, args=(steps, ready), daemon=True)
            thread.start()
            while (item := ready.get()) is not None:
                yield item
        finally:
            if thread is not None:
                self.stop()
                thread.join()
            self._stopping = self._counting = False
            self._driver.release()

    # ------------------------------------------------------------ the loop

    def _produce(self, steps: int | None, ready: queue.Queue) -> None:
        try:
            with self.crowd.member():
                for item in self._train(steps):
                    ready.put(item)
        except Exception:
            log.exception("a run failed")
            self._message = "Something went wrong in this run; Reset begins it again."
            with contextlib.suppress(Exception):
                ready.put((self._frame(fresh=False, measure=False), None))
        finally:
            ready.put(None)

    def _count(
        self,
        steps: int,
        seconds: float,
        every: float,
        ready: queue.SimpleQueue,
        left: threading.Event,
    ) -> None:
        # the thread holds the run, not the generator: one that is never closed holds nothing
        if not self._driver.acquire(timeout=10.0):
            ready.put("The run was too busy to train; try again.")
            return
        try:
            self._stopping, self._message = False, ""
            end, done = time.monotonic() + seconds, 0
            with self.crowd.member():
                self._read_mail()
                self._hold()
                held = time.monotonic()
                while not self._stopping and self.run is not None and done < steps:
                    until = time.perf_counter() + every
                    while done < steps and (rest := until - time.perf_counter()) > 0:
                        slice_ = min(rest, 0.05)  # so that a question waits no longer
                        with self.crowd.turn():
                            slice_ = time.perf_counter() + slice_ * self.crowd.share
                            done += self._advance(slice_, 1.0, steps - done)
                        self._read_mail()
                        if self._stopping or left.is_set():
                            break
                    gone = left.is_set() or ready.qsize() > UNREAD
                    if self.run.diverged or time.monotonic() > end or gone:
                        break
                    if done < steps:
                        ready.put(numbers(self.run))
                    if time.monotonic() - held > CHECKPOINT_EVERY:
                        held = time.monotonic()
                        self._hold()
                self._stopping = True  # a change waits for the end, as in a stream
                self._read_mail()
                self._hold()
                if self.run is not None and not left.is_set():
                    ready.put(numbers(self.run, fresh=True))
        except Exception:
            log.exception("a run failed")
            ready.put("Something went wrong in this run; reset begins it again.")
        finally:
            self._stopping = False
            self._driver.release()
            ready.put(None)

    def _train(self, steps: int | None) -> Iterator[Item]:
        begin = saved = time.monotonic()
        drawing, fixed, done = 0.01, 0.0, 0
        self._read_mail()
        self._keep()
        if self.run is not None:
            self.clock.tick(self.run.step, True)
        while not self._stopping and self.run is not None:
            self._read_mail()
            playing = steps is None
            # what Run spends on pictures and numbers is a share of the time already; what
            # a frame costs beside that has a share too, else frames come less often; and so they
            # do where many share the cores
            period = max(1 / self.fps, fixed / SENDING) / math.sqrt(self.crowd.part)
            if playing and self._speed == "max":
                period = max(period, 0.25)
            share = self._share(time.monotonic() - begin) if playing else self.crowd.share
            span = max(period - drawing / self.crowd.share, 0.002)
            until = time.perf_counter() + span
            with self.crowd.turn():
                now = time.perf_counter()
                taken = self._advance(now + span, share, self._most() if playing else steps - done)
            done += taken
            if self.run.diverged or (steps is not None and done >= steps) or self._gone():
                break
            if share < 1 or playing:  # rest for what is left, unless there is news
                self._wake.clear()
                if (rest := until - time.perf_counter()) > 0 and not self._mail:
                    self._wake.wait(rest)
            behind = self._seq - self._acked >= WINDOW or self._ready.qsize() > 1
            if self._visible and not behind:
                self.run.part = self.crowd.part
                with self.crowd.turn():
                    tick = time.perf_counter()
                    # where there are graphs, training goes on behind the drawing
                    free = playing and share > 0.5 and self._most() is None
                    ahead = int(taken * min(1.0, drawing / period)) if free else 0
                    frame = self._frame(fresh=False, playing=True, ahead=ahead)
                    cost = time.perf_counter() - tick
                drawing += 0.2 * (cost - drawing)
                # what one frame alone had to do beside shall not hold up those that follow
                extra = min(max(0.0, cost - self.run.budgeted), 3 * fixed + 0.002)
                fixed += 0.2 * (extra - fixed)
                yield frame, None
            # what happens first is what one goes back to
            played = self.clock.played
            every = 0.25 if played < 3 else 1.0 if played < DENSE else CHECKPOINT_EVERY
            if time.monotonic() - saved > every:
                saved = time.monotonic()
                yield None, self._keep()
        if self.run is None:  # it could not be opened; the message says so
            return
        # from here on a change waits for the end of the stream, and is drawn by redraw
        self._stopping = True
        self.clock.tick(self.run.step, False)
        self._read_mail()
        if self._brief:
            yield None, self._keep()
            return
        # that it rests, the last picture at once, then the numbers, which take longer: nothing
        # moves after
        if self.run.drawing > SOON:
            yield self._frame(fresh=False, measure=False), None
        yield self._frame(fresh=True, measure=False), None
        kept = None if self.run.diverged else self._keep()
        yield self._frame(fresh=True, settled=True), kept

    def _keep(self) -> bytes | None:
        """Take a checkpoint, and keep it on the timeline."""
        if self.run is None or self.run.diverged:
            return None
        saved = self.run.checkpoint()
        self.timeline.add(Moment(self.run.step, self.clock.played, saved))
        return saved

    def _hold(self) -> None:
        """Called every two seconds of a training without pictures, which yields no checkpoints, and
        at both of its ends."""

    def _effort(self) -> float:
        """Of a picture at rest that is followed by one in full: less than 1 where many play."""
        return 0.5 ** min(COARSEST, round(-math.log2(self.crowd.part)))

    def _share(self, since: float) -> float:
        """Part of the period that is spent training: ramped up, and set by the speed."""
        ramp = min(1.0, (since / RAMP) ** 2)
        return min({"single": 0.0, "slow": 0.08}.get(self._speed, 1.0), self.crowd.share) * ramp

    def _most(self) -> int | None:
        """Steps between two frames, at most, where the engine asks for a slow pace."""
        pace = self.run.engine.steps_a_frame
        return pace and {"normal": pace, "slow": 1}.get(self._speed)

    def _advance(self, until: float, share: float, most: int | None) -> int:
        """Train until a moment, at least one step; returns the number of steps."""
        begin, taken = time.perf_counter(), 0
        if self.pictures:  # a program's run repeats bit by bit
            self.run.quicken(native=self.native)
        else:
            machine.settle()
        end = begin + share * (until - begin)
        while not taken or (time.perf_counter() < end and not self._stopping and not self._mail):
            # without a share of the time one step is all
            room = most if most is not None or share > 0 else 1
            taken += self.run.advance(None if room is None else room - taken)
            if most is not None and taken >= most:
                break
        return taken

    def _gone(self) -> bool:
        now = time.monotonic()
        if not self._visible:
            return now - self._left_at > AWAY
        return self._seq - self._acked >= WINDOW and now - self._heard > SILENT

    def _frame(
        self,
        fresh: bool,
        playing: bool = False,
        measure: bool = True,
        settled: bool = False,
        ahead: int = 0,
        owed: Measure = False,
        effort: float = 1.0,
    ) -> str:
        # what a picture at rest takes to draw is no time played
        self.clock.tick(self.run.step, playing)
        frame = self.run.frame(fresh, self._hidden, measure, settled, ahead, effort)
        self._drawn = self.run.keys if fresh and effort == 1 else None
        frame.note = frame.note or self._message
        frame.rate, frame.seconds = self.clock.rate, self.clock.played
        self._seq += 1
        lanes = [lane.label for lane in self.run.lanes] if len(self.run.lanes) > 1 else []
        timeline = {
            "tape": self._tape,
            "branches": list(self._branches),
            "kept": self.timeline.steps,
        }
        extra = {**self.extra, "playing": playing, "lanes": lanes, "timeline": timeline}
        extra["native"] = self.run.quickened
        extra["owed"] = bool(owed) and not self.run.diverged  # else it measures nothing more
        extra["notice"] = bool(frame.note) and frame.note == self._notice
        if self._watch is not None and self._watch.fits(self.run.experiment):
            extra["preset"] = {
                "name": self._watch.preset.name,
                "kept": self._watch.see(self.run) if measure else self._watch.kept,
            }
        return pack(frame, self._known, seq=self._seq, extra=extra)
