"""The density of a model as a picture: kept, and made anew in pieces while training goes on."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from engines.pace import Ladder, Pieces, finish, move, shares

if TYPE_CHECKING:
    from engines.base import Engine

QUICK = 0.012  # seconds in which a whole field may be made at once
EVERY = 1.5  # seconds from one field to the next, for which quality is given up
LOWEST = 4  # rung of its ladder: 1/16 of the full work
TOLD = 8  # coarse fields from one look at how far they are off to the next
SOON = 1.0  # seconds that a model trains before its first dear field is begun, so that it shows something
WANTED = 3.0  # seconds for which a field is kept up to date after a picture asked for it


class ModelDensity:
    """Cell averages of q(x) on a grid, of one engine; two pictures share them.

    Attributes:
        values: (n, n) float32 as an array of a mark, or None before the first.
        told: what is coarser in them than at rest, for the picture's caption, or "".
        step: that of the model they show.
        waited: seconds that pictures have waited for it, all together.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.ladder, self.waited = engine, Ladder(LOWEST), 0.0
        # times its own cost that passes from the start of one field to that of the next
        self._rest = 1 / shares(engine.dear).density
        self.forget()

    def forget(self) -> None:
        """Other data have come."""
        self.values: np.ndarray | Tensor | None = None
        self.told, self.step = "", -1
        self._key: Any = None  # of the model that is shown
        self._job: tuple[Any, Engine, Pieces[np.ndarray | Tensor]] | None = None
        self._off: tuple[int, str] | None = None  # by what a coarse one is off, and on which rung
        self._count = 0  # of coarse fields since that was measured
        self._begun = self._asked = 0.0
        self._moved: float | None = None  # since when the model is another than the one at rest
        self._spent = self._cost = 0.0  # seconds on the field in the making; a whole one takes

    def get(self, key: Any, fresh: bool) -> np.ndarray | Tensor:
        """The field; if it is to be fresh, of the model as it stands, named by `key`, and with the
        effort that the engine has now."""
        self._asked = begin = time.perf_counter()
        full = round(-math.log2(self.engine.effort))
        stale = self._key is None or self._key[0] != key or self._key[1] > full
        if self.values is None or (fresh and stale):
            rung, self._job, self._begun = full if fresh else self.ladder.rung, None, begin
            with self.engine.easy(0.5**rung):
                self._take((key, rung), self.engine, finish(self._pieces(self.engine)))
            self._cost, self._moved = time.perf_counter() - begin, None
            self.waited += self._cost
            if fresh:
                self._cost *= 2**full
                self.ladder.begin(self._rest * self._cost / EVERY)
                self._cost *= self.ladder.effort  # what the next one will be
        return self.values

    def advance(self, key: Any, seconds: float, lanes: float = 1) -> float:
        """Go on with the next field for so long, where pictures want one; returns the seconds.

        lanes: how many models share what time there is.
        """
        now = time.perf_counter()
        if self.values is None or now - self._asked > WANTED:
            self._job = None
            return 0.0
        quick = self._cost < QUICK
        if self._job is None:
            if self._key[0] == key or now - self._begun < lanes * self._rest * self._cost:
                return 0.0
            self._moved = self._moved or now
            if not quick and now - self._moved < SOON:
                return 0.0
            self._begun, self._spent = now, 0.0
            # a dear one is made of the model as it stood at the first piece
            engine = self.engine if quick else self.engine.snapshot()
            self._job = (key, self.ladder.rung), engine, self._pieces(engine)
        key, engine, pieces = self._job
        with engine.easy(0.5 ** key[1]):
            done, values = move(pieces, 10.0 if quick else seconds)
        spent = time.perf_counter() - now
        self._spent += spent
        if done:
            self._take(key, engine, values)
            self._job, self._cost = None, self._spent
            every = lanes * self._rest * self._cost
            before = self.ladder.effort
            self.ladder.judge(dear=every > EVERY, roomy=2 * every < 0.8 * EVERY)
            self._cost *= self.ladder.effort / before
        return spent

    def _take(self, key: Any, engine: Engine, values: np.ndarray | Tensor) -> None:
        self._key, self.step, self.values = key, engine.step_count, values
        n, parts = len(values), []
        if key[1]:
            parts = [f"step {self.step:,}", self._off[1], f"{n} × {n} cells"]
        self.told = ", ".join(part for part in parts if part)

    def _pieces(self, engine: Engine) -> Pieces[np.ndarray | Tensor]:
        """A field with the effort that `engine` has while its pieces are made."""
        effort = engine.effort
        values = yield from engine.cells_pieces()
        if effort < 1:
            rung = round(-math.log2(effort))
            self._count += 1
            if self._off is None or self._off[0] != rung or self._count >= TOLD:
                self._off, self._count = (rung, (yield from engine.field_told())), 0
        return values
