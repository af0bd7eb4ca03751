"""Luggage: what a run takes along beside its checkpoint when it goes on in another process.

A checkpoint holds the model. What a page shows around it is a visitor's, not the model's: the number
of the last frame, the moments that can be gone back to, the dashed curves of the run before.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from app.timeline import Moment
from engines.lanes import Track

if TYPE_CHECKING:
    from app.worker import Worker


class Weight:
    """A checkpoint that is kept elsewhere: here only its size is known."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


def packed(worker: Worker) -> dict[str, Any]:
    """Everything but the checkpoint, as plain JSON; the worker has a run."""
    return {
        "experiment": worker.run.experiment.to_json(),
        "ghosts": ghosts(worker),
        "kept": kept(worker.timeline.moments),
        "tape": worker._tape, "branches": list(worker._branches), "seq": worker._seq,
        "step": worker.run.step, "played": worker.clock.played, "speed": worker._speed,
        "visible": worker._visible, "hidden": sorted(worker._hidden), "extra": worker.extra,
        "message": worker._message, "notice": worker._notice,
        "promise": worker._watch.kept if worker._watch is not None else None,
    }  # fmt: skip


def ghosts(worker: Worker) -> list[dict[str, Any]]:
    """The curves of the run before, for each lane."""
    return [
        {name: track.dump() for name, track in lane.ghosts.items()} for lane in worker.run.lanes
    ]


def kept(moments: Iterable[Moment]) -> list[list[float]]:
    """Step, seconds and size of each moment."""
    return [[moment.step, moment.seconds, len(moment.saved)] for moment in moments]


def unpack(worker: Worker, saved: bytes, about: dict[str, Any]) -> None:
    """Make a worker what another one was when it packed."""
    worker._open(about["experiment"])
    worker.run.restore(saved)
    for lane, curves in zip(worker.run.lanes, about["ghosts"], strict=True):
        lane.ghosts = {name: Track.load(track) for name, track in curves.items()}
    worker._tape, worker._branches = about["tape"], list(about["branches"])
    worker.timeline.moments = [Moment(step, at, Weight(n)) for step, at, n in about["kept"]]
    worker._seq = worker._acked = about["seq"]
    worker.clock.jump(worker.run.step, about["played"])
    worker._speed, worker._visible = about["speed"], about["visible"]
    worker._left_at = worker._heard = time.monotonic()
    worker._hidden, worker.extra = frozenset(about["hidden"]), about["extra"]
    worker._message, worker._notice = about["message"], about["notice"]
    if worker._watch is not None:
        worker._watch.kept = about["promise"]
