"""Timeline: which moments of a run are kept, so that a visitor can go back to them.

The pictures are kept by the browser (assets/timeline.js, by the same rule): rewinding needs
no round trip. Checkpoints are kept here, for a branch goes on training from one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

DENSE = 10.0  # seconds at the beginning from which nothing is thinned out


@dataclass(frozen=True)
class Moment:
    """A kept checkpoint: when it was taken, in steps and in seconds of playing."""

    step: int
    seconds: float
    saved: bytes


class Timeline:
    """At most `count` moments and `size` bytes, whatever the length of the run.

    The first ten seconds stay as they are; after that whichever moment is nearest to its
    neighbours on a logarithmic axis of time goes first, so that an hour is as well covered
    as a minute, and takes no more room. The newest and the oldest always stay.
    """

    def __init__(self, count: int = 44, size: int = 40 * 2**20) -> None:
        self.count, self.size = count, size
        self.moments: list[Moment] = []

    def add(self, moment: Moment) -> None:
        """Keep a moment that is later than all others; one of the same step replaces it."""
        self.cut(moment.step - 1)
        self.moments.append(moment)
        self.shrink(self.size)

    def shrink(self, size: int) -> None:
        """Thin out down to so many bytes."""
        while len(self.moments) > 2 and (len(self.moments) > self.count or self.bytes > size):
            self.moments.pop(self._dullest())

    @property
    def bytes(self) -> int:
        return sum(len(moment.saved) for moment in self.moments)

    def _dullest(self) -> int:
        """Index of the moment that leaves the smallest gap behind."""
        at = [moment.seconds for moment in self.moments]
        late = [i for i in range(1, len(at) - 1) if at[i] > DENSE]
        # only when a few huge checkpoints fill the room is the beginning thinned, too
        among = late if late else range(1, len(at) - 1)
        return min(among, key=lambda i: math.log((1 + at[i + 1]) / (1 + at[i - 1])))

    def cut(self, step: int) -> None:
        """Forget what is later than a step: another branch begins there."""
        while self.moments and self.moments[-1].step > step:
            self.moments.pop()

    def clear(self) -> None:
        self.moments.clear()

    @property
    def steps(self) -> list[int]:
        return [moment.step for moment in self.moments]

    def nearest(self, step: int) -> Moment | None:
        """The kept moment nearest to a step; None when there is none."""
        return min(self.moments, key=lambda moment: abs(moment.step - step), default=None)
