"""A visitor without a browser, for tests of what one does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from app import worker as worker_module
from app.pack import pack, unpack
from app.session import Session
from engines import Experiment

BLOCKS: dict = {}  # named by their content, so all tests may share what was ever sent


@pytest.fixture(autouse=True, scope="module")
def browser_memory() -> Iterator[None]:
    """Hold every block that any frame carried, as a browser that never loses one."""

    def pack_and_keep(*args, **kwargs):
        text = pack(*args, **kwargs)
        unpack(text, BLOCKS)
        return text

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_module, "pack", pack_and_keep)
        yield


@pytest.fixture
def session() -> Session:
    visitor = Session("cpu", fps=30)
    visitor.open(Experiment("ring8soft", "mixture"))
    return visitor


class Player:
    """Plays a session in a thread of its own, as Gradio does, and acknowledges frames."""

    def __init__(
        self,
        session: Session,
        steps: int | None = None,
        ack: bool = True,
        turn: float | None = None,
    ) -> None:
        self.session, self.frames, self.error = session, [], None
        self.ack, self.steps, self.turn = ack, steps, turn
        self.thread = threading.Thread(target=self._play, daemon=True)
        self.thread.start()

    def _play(self) -> None:
        try:
            play, step = self.session.play, self.session.step
            stream = play(self.turn) if self.steps is None else step(self.steps, self.turn)
            for text in stream:
                frame = unpack(text, BLOCKS)
                self.frames.append(frame)
                if self.ack:
                    self.session.worker.hear(frame["seq"])
        except Exception as error:  # a test reads it
            self.error = error

    def wait(self, condition, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not condition(self):
            assert time.monotonic() < end, "waited in vain"
            assert self.error is None, self.error
            time.sleep(0.005)

    def stop(self) -> list[dict]:
        self.session.pause()
        self.thread.join(20)
        assert not self.thread.is_alive()
        assert self.error is None, self.error
        return self.frames


def last_step(player: Player) -> int:
    return player.frames[-1]["step"] if player.frames else 0


def shown(text: str) -> dict:
    return unpack(text, BLOCKS)
