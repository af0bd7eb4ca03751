"""Clock: how fast a run trains and how long it has played, by the clock on the wall."""

from __future__ import annotations

import time

WINDOW = 1.0  # seconds that a rate looks back


class Clock:
    """Follows one run as it plays and rests; time that it rests counts for nothing.

    Attributes:
        played: seconds of playing since step 0.
    """

    def __init__(self) -> None:
        self.played = 0.0
        self._ticks: list[tuple[int, float]] = []
        self._playing, self._step = False, 0

    @property
    def rate(self) -> float:
        """Steps a second over the last second or so of playing."""
        if len(self._ticks) < 2:
            return 0.0
        (a, begin), (b, end) = self._ticks[0], self._ticks[-1]
        return (b - a) / (end - begin) if end > begin else 0.0

    def tick(self, step: int, playing: bool) -> None:
        """The run stands at a step now; `playing`: it goes on from here at once."""
        now = time.perf_counter()
        if step < self._step:  # begun again
            self._ticks, self.played = [], 0.0
        if self._ticks and self._playing:
            self.played += now - self._ticks[-1][1]
        elif playing or step != self._step:
            self._ticks = []  # a rest is no time played
        if self._playing or playing:
            self._ticks.append((step, now))
            while len(self._ticks) > 2 and now - self._ticks[1][1] > WINDOW:
                self._ticks.pop(0)
        self._playing, self._step = playing, step

    def jump(self, step: int, played: float) -> None:
        """The run rests at another step now, after so many seconds of playing."""
        self._ticks, self._playing, self._step, self.played = [], False, step, played
