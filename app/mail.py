"""Mail: what a run is told while it trains, read between two of its steps.

Anybody may post at any time; whoever drives the run reads, and does what the messages say.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from app.answers import ANSWERS
from app.clock import Clock
from app.presets import Watch, matching
from app.timeline import Moment, Timeline
from engines import BadInput, Diverged, Experiment, Run

log = logging.getLogger("playground")

Speed = Literal["single", "slow", "normal", "max"]
SPEEDS: tuple[Speed, ...] = ("single", "slow", "normal", "max")
MAX_SAVES = 24 * 2**20  # bytes of checkpoints kept for undo; the oldest go first


class Mail:
    """A run, and the letters to it. `Worker` drives it."""

    def __init__(self, device: str | None) -> None:
        self.device = device
        self.run: Run | None = None
        self.extra: dict[str, Any] = {}
        self.clock = Clock()
        self.saves: dict[int, bytes] = {}  # checkpoints by the number they were asked for with
        self.timeline, self._tape = Timeline(), 0  # checkpoints, and which run they belong to
        self._branches: list[int] = []  # steps from which the run was begun anew
        self._watch: Watch | None = None  # of the promise that a preset makes
        self._answers: dict[int, queue.SimpleQueue] = {}  # by the number of their question
        self._speed: Speed = "normal"
        self._message = self._notice = ""  # a notice is a message that nothing is wrong with
        self._mail: deque[dict[str, Any]] = deque()
        self._read = 0  # number of the last message, where they are numbered
        self._wake = threading.Event()

    # ------------------------------------------------------------ in

    def post(self, **message: Any) -> None:
        """Leave a message for the run; it is read before the next step.

        open: Experiment JSON · feed: Experiment JSON, whose data the run goes on with ·
        restore: checkpoint · set: (name, value) · act: (name, args) ·
        restart: seed or None · branch: go on from the kept moment nearest to this step ·
        speed · message: a sentence to show · extra: what every frame carries along · save:
        keep a checkpoint under this number in `saves`, before what follows · ask: see `ask`.
        """
        self._mail.append(message)
        self._wake.set()

    def _read_mail(self) -> None:
        """Do what the messages say, in their order."""
        while self._mail:
            message = self._mail.popleft()
            if "feed" in message and self._overtaken():
                continue
            try:
                for kind, value in message.items():
                    READERS[kind](self, value)
            except (BadInput, Diverged) as error:
                self._message = str(error)
            except Exception:
                log.exception("a message could not be carried out: %s", list(message))
                self._message = "Something went wrong there; the run goes on as it was."

    def _overtaken(self) -> bool:
        """Whether newer data waits right behind: a stroke that comes faster than it can be
        taken up would fall behind the hand."""
        for message in list(self._mail):
            if "feed" in message:
                return True
            if not set(message) <= {"extra", "message", "number"}:
                return False
        return False

    def _open(self, text: str) -> None:
        before, self.run = self.run, Experiment.from_json(text).start(self.device)
        self._begin_tape()
        preset = matching(self.run.experiment)
        self._watch = Watch(preset) if preset else None
        if before is not None and before.dataset.options == self.run.dataset.options:
            same = before.experiment.dataset == self.run.experiment.dataset
            self.run.haunt(before.lanes if same else [])

    def _feed(self, text: str) -> None:
        if self.run is None:
            raise BadInput("There is no run to feed.")
        self.run.feed(Experiment.from_json(text))

    def _restore(self, saved: bytes) -> None:
        if self.run is None:
            raise BadInput("There is no run to restore into.")
        self.run.restore(saved)
        self._begin_tape()

    def _begin_tape(self) -> None:
        self._tape += 1
        self._branches.clear()
        self.timeline.clear()

    def _moment(self, step: Any) -> Moment | None:
        return self.timeline.nearest(step)

    def _branch(self, step: Any) -> None:
        """Go on from a kept moment, with the knobs and the data of now."""
        moment = self._moment(step)
        if moment is None:
            raise BadInput("No moment of this run is kept yet: press Play first.")
        self.run.branch(moment.saved)
        self.timeline.cut(moment.step)
        self._branches = [s for s in self._branches if s <= moment.step] + [moment.step]
        self.clock.jump(moment.step, moment.seconds)
        self._notice = self._message = (
            f"Branched from step {moment.step:,}: it goes on with the knobs as they are now. "
            "The dashed curves are what came before."
        )

    def _save(self, name: int) -> None:
        if self.run is not None:
            self._put_by(name, self.run.checkpoint())

    def _put_by(self, name: int, saved: bytes) -> None:
        self.saves[name] = saved
        while len(self.saves) > 1 and sum(map(len, self.saves.values())) > MAX_SAVES:
            self.saves.pop(min(self.saves))

    def _set(self, change: tuple[str, Any]) -> None:
        if self.run.set(*change):
            self._begin_tape()

    def _act(self, what: tuple[str, dict[str, float]]) -> None:
        name, arguments = what
        self.run.act(name, **arguments)

    def _ask(self, question: tuple[int, str, dict[str, Any]]) -> None:
        """Answer, or say in one sentence why not; it is the asker's, not the page's."""
        name, what, arguments = question
        answer, refused = None, None
        try:
            if self.run is None:
                raise BadInput("There is no run yet; start one.")
            answer = ANSWERS[what](self.run, **arguments)
        except (BadInput, Diverged) as error:
            refused = str(error)
        except Exception:
            log.exception("a question could not be answered: %s", what)
            refused = "Something went wrong there; the run goes on as it was."
        if (box := self._answers.get(name)) is not None:  # else nobody waits any longer
            box.put((answer, refused))

    def _restart(self, seed: int | None) -> None:
        self.run.restart(seed)
        self._begin_tape()

    def _tell(self, sentence: str) -> None:
        self._message = self._notice = sentence


READERS: dict[str, Callable[[Any, Any], None]] = {
    "open": Mail._open,
    "feed": Mail._feed,
    "restore": Mail._restore,
    "set": Mail._set,
    "act": Mail._act,
    "restart": Mail._restart,
    "branch": Mail._branch,
    "ask": Mail._ask,
    "save": Mail._save,
    "number": lambda mail, value: setattr(mail, "_read", value),
    "speed": lambda mail, value: setattr(mail, "_speed", value),
    "message": lambda mail, value: setattr(mail, "_message", value),
    "notice": Mail._tell,
    "extra": lambda mail, value: setattr(mail, "extra", value),
}
