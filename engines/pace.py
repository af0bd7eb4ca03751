"""Pace: what share of the time pictures and numbers take beside training, and how much of them.

Nothing here draws or measures. `engines/looking.py` does, by these rules.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from typing import NamedTuple, TypeVar

T = TypeVar("T")
# work that may be left between any two of its pieces: it yields after each, and returns the whole
Pieces = Generator[None, None, T]


def finish(pieces: Pieces[T]) -> T:
    """All the pieces at once."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return end.value


def move(pieces: Pieces[T], seconds: float) -> tuple[bool, T | None]:
    """As many pieces as begin within so many seconds, at least one: whether that was the last of
    them, and then the whole."""
    until = time.perf_counter() + seconds
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return True, end.value
        if time.perf_counter() >= until:
            return False, None


SENDING = 0.08  # of the wall time, at most, goes to packing frames and sending them


class Shares(NamedTuple):
    """Of the wall time while frames stream. With SENDING it is below 30 %."""

    panels: float
    density: float
    numbers: float


def shares(dear: bool) -> Shares:
    """dear: of a model that has to solve for each sample and each value of its density."""
    return Shares(0.06, 0.06, 0.06) if dear else Shares(0.025, 0.025, 0.015)


class Budget:
    """A share of the wall time: it fills at that rate, and is open while not overdrawn."""

    def __init__(self, share: float) -> None:
        self.share, self.left, self.at = share, 0.0, 0.0

    def open(self, now: float) -> bool:
        # capped, so that a long pause doesn't buy a burst
        self.left = min(self.left + self.share * (now - self.at), self.share * 0.25)
        self.at = now
        return self.left >= 0

    def spend(self, seconds: float) -> None:
        self.left -= seconds


class Ladder:
    """How much of its full work something does while frames stream: 1, 1/2, 1/4 … of it.

    It goes down a rung when the work was too dear twice running, for one long wait may be the
    machine's, and up again when there was room for the next rung `PATIENCE` times running.
    """

    PATIENCE = 4

    def __init__(self, lowest: int = 3) -> None:
        self.lowest, self.rung = lowest, 0
        self._dear = self._roomy = 0

    @property
    def effort(self) -> float:
        """The share of the full work, a power of ½."""
        return 0.5**self.rung

    def begin(self, excess: float) -> None:
        """Down at once to where work that is so many times too dear in full fits."""
        rungs = math.ceil(math.log2(max(excess, 1.0)))
        self.rung = max(self.rung, min(rungs, self.lowest))

    def judge(self, dear: bool, roomy: bool) -> None:
        """What the last time was like: dear, or with room for twice the work."""
        self._dear = self._dear + 1 if dear else 0
        self._roomy = self._roomy + 1 if roomy and not dear else 0
        if self._dear >= 2 and self.rung < self.lowest:
            self.rung, self._dear = self.rung + 1, 0
        elif self._roomy >= self.PATIENCE and self.rung:
            self.rung, self._roomy = self.rung - 1, 0
