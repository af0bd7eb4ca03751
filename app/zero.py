"""ZeroGPU: a visitor's run in the forked, time-boxed process that a free Space lends a GPU to.

The same Worker drives the run there (app/box.py). In go a checkpoint and what the page shows around
it; out come packed frames and a checkpoint every two seconds; knobs, pause and acknowledgements
travel through a mailbox that was there before the fork. When a box of time is over, the next goes
on from the last checkpoint; when the quota is, the CPU does. Where `spaces` is not installed, or
lends no GPU, there is nothing of this: `worker` makes a plain Worker.

Between two boxes the run lives in the Space's own process, on its CPU: there pictures of a paused
run are drawn and questions answered.
"""

from __future__ import annotations

import contextvars
import json
import logging
import queue
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

from app import box as boxes
from app import luggage
from app.box import BOX, HOME, PAUSE, SPARE, Box, End
from app.crowd import Crowd
from app.mail import READERS
from app.timeline import Moment
from app.worker import Item, Worker

log = logging.getLogger("playground")


class ZeroWorker(Worker):
    """A Worker whose stream runs on a GPU of the Space, where its visitor wants it to."""

    native = False

    def __init__(self, fps: float, crowd: Crowd | None, pictures: bool) -> None:
        # the Space's own process sees a GPU that is not there
        super().__init__("cpu", fps, crowd, pictures)
        self.wanted = False
        self._box: Box | None = None
        self._posting = threading.Lock()
        self._context = contextvars.copy_context()
        self._lost = 0  # boxes in a row that ended without a checkpoint
        self._began = 0.0  # when Play was clicked

    def choose(self, wanted: bool | None = None) -> None:
        """Run on a GPU from now on, or no longer; None takes the other of the two."""
        self.wanted = not self.wanted if wanted is None else bool(wanted)
        self._lost = 0
        message = (
            "Play runs on a GPU of this Space now, within your quota. Pictures and large batches "
            "gain by it; a small model in the plane is about as fast on the CPU."
            if self.wanted
            else "This run is on the CPU."
        )
        self._notice = message
        if (box := self._box) is not None:
            box.close(HOME)
        self.post(message=message)

    # ------------------------------------------------------------ in

    def post(self, **message: Any) -> None:
        with self._posting:
            if self._box is None or not self._box.forward(message):
                super().post(**message)
                return
        for kind in message.keys() & {"speed", "extra", "message"}:
            READERS[kind](self, message[kind])  # the frames that are drawn here say it, too

    def stop(self) -> None:
        super().stop()
        if (box := self._box) is not None:
            box.close(PAUSE)

    def hear(self, seq: int, missing: bool = False) -> None:
        super().hear(seq, missing)
        self._forward("hear", [int(seq), bool(missing)])

    def look(self, visible: bool) -> None:
        super().look(visible)
        self._forward("look", [bool(visible)])

    def hide(self, panels: frozenset[str]) -> None:
        super().hide(panels)
        self._forward("hide", sorted(panels))

    def _forward(self, kind: str, value: Any) -> None:
        if (box := self._box) is not None:
            box.put([kind, value])

    # ------------------------------------------------------------ out

    def stream(self, steps: int | None = None) -> Iterator[Item]:
        # the quota belongs to whoever asks: `spaces` reads that off the request at hand
        self._context, self._began = contextvars.copy_context(), time.monotonic()
        yield from super().stream(steps)

    def _train(self, steps: int | None) -> Iterator[Item]:
        while True:
            if steps is None and self._should():
                yield from self._lent()
                if self._stopping or self.run is None or self.run.diverged or self._gone():
                    self._stopping = True
                    self._read_mail()
                    return
                continue
            for item in super()._train(steps):
                yield item
                if steps is None and self._should() and not self._stopping:
                    break
            else:
                return

    def _share(self, since: float) -> float:
        return super()._share(time.monotonic() - self._began)

    def _should(self) -> bool:
        """Whether the run belongs on the GPU now; behind a browser tab that nobody looks at it
        would use up the quota."""
        return self.wanted and self._visible

    def _frame(self, *args: Any, **how: Any) -> str:
        self.extra = {**self.extra, "gpu": "wanted" if self.wanted else "off"}
        return super()._frame(*args, **how)

    def _lent(self) -> Iterator[Item]:
        """One box of time on a GPU, from the run as it stands to its last checkpoint."""
        self._read_mail()
        if self._stopping or self.run is None or self.run.diverged:
            return
        try:
            box = Box(boxes.free.get_nowait())
        except queue.Empty:
            self._come_home("All GPUs of this Space are taken; the run goes on on the CPU")
            return
        before, read, diverged, error = self.run.checkpoint(), 0, None, None
        self.timeline.add(Moment(self.run.step, self.clock.played, before))
        saved, about = before, json.dumps(self._about())
        with self._posting:
            self._box = box
        if self._stopping or self._mail:
            box.close(PAUSE if self._stopping else HOME)
        task = (box.pump, saved, about, BOX - SPARE)
        threading.Thread(target=self._context.run, args=task, daemon=True).start()
        begin, told, begun, asked = time.monotonic(), False, None, True
        try:
            while True:
                try:
                    packet = box.packets.get(timeout=0.1)
                except queue.Empty:
                    if begun is not None:
                        continue
                    if box.closing:  # it never began: it may end whenever it will
                        break
                    if not told and time.monotonic() - begin > 1.5:
                        told, self._message = True, "Waiting for a GPU of this Space …"
                        self._notice = self._message
                        yield self._frame(fresh=False, playing=True, measure=False), None
                    continue
                if isinstance(packet, End):
                    error, asked = packet.error, box.closing
                    break
                if begun is None:
                    begun, self._message = time.monotonic(), ""  # it waits no longer
                self._seq, diverged = packet.seq, packet.diverged
                if packet.saved is not None:
                    saved, read = packet.saved, packet.read
                    self.timeline.add(Moment(packet.step, packet.played, saved))
                    self.clock.jump(packet.step, packet.played)
                yield packet.frame, packet.saved
        finally:
            box.leave(run=True)
            self._home(box, saved if saved is not before else None, read, diverged)
        if error is not None:
            self._mourn(error, got=saved is not before)
        elif not asked and time.monotonic() - (begun or begin) < BOX - SPARE - 1:
            # neither time nor anybody here ended it: the run itself did
            self._stopping = True
            if not diverged and not self._gone():
                self._message = "Something went wrong in this run; Reset begins it again."

    def _about(self) -> dict[str, Any]:
        """What goes to the forked process beside the checkpoint, as JSON."""
        return {
            **luggage.packed(self),
            "fps": self.fps,
            "since": time.monotonic() - self._began,
        }

    def _home(self, box: Box, saved: bytes | None, read: int, diverged: str | None) -> None:
        """Take over where the box ended, and the messages that its last checkpoint missed."""
        ghosts = [lane.ghosts for lane in self.run.lanes]
        if saved is not None:
            self.run.restore(saved)
            for lane, before in zip(self.run.lanes, ghosts, strict=True):
                lane.ghosts = before
        self.run.diverged = diverged
        self._known.clear()
        self.clock.jump(self.run.step, self.clock.played)
        with self._posting:
            self._box = None
            missed = [message for number, message in box.journal if number > read]
            self._mail.extendleft(reversed(missed))

    def _mourn(self, error: BaseException, got: bool) -> None:
        """The GPU was taken away: go on, on the next one or on the CPU."""
        title, said = str(getattr(error, "title", "")), str(getattr(error, "message", error))
        log.warning("a box of GPU time ended: %s %s", title, said)
        if "aborted" in said:  # its process was ended: out of time, or worse
            self._lost = 0 if got else self._lost + 1
            if self._lost < 2:
                self._say("The GPU was taken away; the run goes on from its last checkpoint")
            else:
                self._come_home("The GPU was taken away twice; the run goes on on the CPU")
        elif "worker error" in title:
            self._come_home("The run failed on the GPU; it goes on on the CPU")
        elif "quota" in title or "credits" in title or "runs limit" in said:
            again = re.search(r"Try again in ([\w:, ]+)", said)
            self._come_home(
                "Your GPU quota on Hugging Face has ended; the run goes on on the CPU",
                f" The GPU can be had again in {again[1]}." if again else "",
            )
        else:
            self._come_home("No GPU could be had; the run goes on on the CPU")

    def _come_home(self, sentence: str, more: str = "") -> None:
        self.wanted = False
        self._say(sentence, more)

    def _say(self, sentence: str, more: str = "") -> None:
        # by mail, behind what the box has missed: that may hold older sentences
        self.post(message=f"{sentence}, from step {self.run.step:,}.{more}")


def lends(device: str | None) -> bool:
    """Whether GPUs are lent here, to those who leave the choice of a device to us."""
    return boxes.lend is not None and device is None


def worker(device: str | None, fps: float, crowd: Crowd | None, pictures: bool) -> Worker:
    """What drives a visitor's run here."""
    if lends(device):
        return ZeroWorker(fps, crowd, pictures)
    return Worker(device, fps, crowd, pictures)
