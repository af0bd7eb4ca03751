"""Many visitors without browsers: what they train together, who is slowest, what they leave behind.

`throughput` compares runs in this process with runs in processes of their own, in turns. `main` fills
a room with 32 visitors for five minutes: every one gets frames or a place in the queue.
"""

from __future__ import annotations

import base64
import gc
import itertools
import json
import logging
import os
import re
import statistics
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app import nursery
from app.crowd import Crowd
from app.room import Room
from app.session import Session
from engines import ENGINES, Experiment, machine

FPS = 17.0
COUNTS = (1, 2, 4, 8, 16)
QUEUED = "in the queue"  # what a visitor is told who waits
# seconds: the start with its ramp, in which each process works out the kernel estimate of its data
# (engines/rival.py), and what is measured
WARM, WINDOW = 7.0, 5.0
APART = 0.25  # seconds between two who come into a room


def header(text: str) -> dict[str, Any]:
    """What a packed frame says of itself; its pictures stay packed."""
    raw = base64.b64decode(text)
    (size,) = struct.unpack_from("<I", raw)
    return json.loads(raw[4 : 4 + size])


class Visitor:
    """Plays a session in a thread, as Gradio does, and acknowledges what it gets."""

    def __init__(self, session: Session, experiment: Experiment) -> None:
        self.session, self.experiment, self.error = session, experiment, None
        self.frames: list[tuple[float, int, str]] = []  # when, step, note
        self.came = time.perf_counter()
        session.patient = True  # as a page is, which asks for numbers once it has painted
        self.thread = threading.Thread(target=self._play, daemon=True)

    def _play(self) -> None:
        try:
            self.came = time.perf_counter()
            self.session.open(self.experiment)
            for text in self.session.play():
                head = header(text)
                self.session.worker.hear(head["seq"])
                self.frames.append((time.perf_counter(), head["step"], head["note"]))
        except Exception as error:
            self.error = error

    @property
    def served(self) -> bool:
        """Whether it has trained, or was told its place in the queue."""
        return any(step > 0 or QUEUED in note for _, step, note in self.frames)

    def rate(self, begin: float, end: float) -> tuple[float, float]:
        """Steps and frames a second between two moments."""
        inside = [frame for frame in self.frames if begin <= frame[0] <= end]
        if len(inside) < 2:
            return 0.0, 0.0
        seconds = inside[-1][0] - inside[0][0]
        return (inside[-1][1] - inside[0][1]) / seconds, (len(inside) - 1) / seconds


def leave(visitors: list[Visitor]) -> None:
    """All close their pages at once."""
    for visitor in visitors:
        visitor.session.close()
    for visitor in visitors:
        visitor.thread.join(30)
        assert not visitor.thread.is_alive(), "a stream never ended"


def busy(pids: list[int]) -> float:
    """CPU seconds of this process and of others so far."""
    total = time.process_time()
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def together(
    make: Callable[[], Session], experiment: Experiment, n: int
) -> tuple[list[tuple[float, float]], float]:
    """Steps/s and frames/s of each of n visitors who play at once; and CPU seconds a second."""
    visitors = [Visitor(make(), experiment) for _ in range(n)]
    for visitor in visitors:
        visitor.thread.start()
    while not all(visitor.frames for visitor in visitors):
        time.sleep(0.1)
    time.sleep(WARM)
    room = getattr(visitors[0].session.worker, "room", None)
    pids = room.pids if room is not None else []
    begin, used = time.perf_counter(), busy(pids)
    time.sleep(WINDOW)
    end = time.perf_counter()
    cores = (busy(pids) - used) / (end - begin)
    rates = [visitor.rate(begin, end) for visitor in visitors]
    leave(visitors)
    return rates, cores


def sides(processes: dict[str, int]) -> dict[str, Callable[[], Callable[[], Session]]]:
    """By name: what makes a fresh maker of sessions."""

    def threads() -> Callable[[], Session]:
        crowd = Crowd()
        return lambda: Session("cpu", FPS, crowd)

    def room(n: int) -> Callable[[], Session]:
        place = Room("cpu", processes=n, places=max(COUNTS))
        return lambda: Session(worker=place.worker(FPS, True))

    return {"threads": threads} | {name: lambda n=n: room(n) for name, n in processes.items()}


def throughput(
    engine: str = "flow",
    counts: tuple[int, ...] = COUNTS,
    rounds: int = 1,
    processes: dict[str, int] | None = None,
) -> None:
    """A table: for each number of visitors, the ways in turns.

    Steps a CPU second tell on a busy machine, too, where all get less than there is.
    """
    experiment = Experiment(ENGINES[engine].opens_on, engine)
    ways = sides(processes or {"a process a core": nursery.cores(), "one each": max(counts)})
    nursery.shared().host("cpu", nursery.cores(), machine.ways())[
        0
    ].close()  # loaded before the clock runs
    one: dict[str, list[float]] = {name: [] for name in ways}
    print(
        f"{engine}; visitors   runs in          steps/s together  ÷ one's  slowest ÷ mean  "
        "frames/s  cores busy  steps a CPU second"
    )
    for n in counts:
        for name, way in ways.items():
            sums, evens, frames, used = [], [], [], []
            for _ in range(rounds):
                rates, cores = together(way(), experiment, n)
                used.append(cores)
                steps = [rate for rate, _ in rates]
                sums.append(sum(steps))
                evens.append(min(steps) / max(statistics.mean(steps), 1e-9))
                frames.append(statistics.mean(rate for _, rate in rates))
            if n == counts[0]:
                one[name] = [total / n for total in sums]
            alone = statistics.median(one[name])
            print(
                f"{n:14d}   {name:16s} {statistics.median(sums):14.0f}"
                f"  {statistics.median(sums) / max(alone, 1e-9):8.2f}"
                f"  {statistics.median(evens):13.2f}  {statistics.median(frames):8.1f}"
                f"  {statistics.median(used):10.2f}"
                f"  {statistics.median(s / u for s, u in zip(sums, used, strict=True)):18.0f}",
                flush=True,
            )


# ---------------------------------------------------------------- a full room


def memory(pids: list[int]) -> float:
    """Megabytes of these processes together; what they share is counted once."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += int(re.search(r"^Pss:\s+(\d+)", text, re.M).group(1))
    return total / 1024


class Errors(logging.Handler):
    """Everything that the program logs as an error."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record.getMessage())


def soak(
    seconds: float = 300.0,
    visitors: int = 32,
    places: int | None = None,
    turn: float | None = None,
    patience: float = 10.0,
    engines: tuple[str, ...] = (),
    most_seconds: float = 0.0,
) -> dict[str, Any]:
    """Fill a room; what happened, as plain numbers.

    served: visitors who trained, or were told their place in the queue; until all were it goes on
    for `most_seconds`.
    unserved: visitors who had neither a frame nor a place in the queue for `patience` seconds.
    """
    errors = Errors()
    logging.getLogger("playground").addHandler(errors)
    room = Room("cpu", places=places, **({} if turn is None else {"turn": turn}))
    pids = lambda: [os.getpid(), *nursery.pids(), *room.pids]  # noqa: E731
    names = engines or tuple(ENGINES)

    def came(n: int) -> list[Visitor]:
        return [
            Visitor(
                Session(worker=room.worker(FPS, True)),
                Experiment(ENGINES[name].opens_on, name, seed=i),
            )
            for i in range(n)
            for name in [names[i % len(names)]]
        ]

    # one came and went before: what is loaded at the first visit stays loaded
    first = came(1)[0]
    first.thread.start()
    time.sleep(1.0)
    leave([first])
    rest(room)
    before, most = memory(pids()), 0.0
    here = came(visitors)
    begin = time.perf_counter()
    for visitor in here:
        visitor.thread.start()
        time.sleep(APART)
    while (now := time.perf_counter() - begin) < seconds or (
        now < most_seconds and not all(visitor.served for visitor in here)
    ):
        time.sleep(min(2.0, seconds / 4))
        most = max(most, memory(pids()))
    end = time.perf_counter()
    unserved, waited = 0, 0
    for visitor in here:
        told = [(visitor.came, ""), *[(when, note) for when, _, note in visitor.frames], (end, "")]
        waited += any(QUEUED in note for _, note in told)
        # a place in the queue stays true until it changes, and is told again when it does
        unserved += any(
            b - a > patience and QUEUED not in note
            for (a, note), (b, _) in itertools.pairwise(told)
        )
    notes = {note for visitor in here for _, _, note in visitor.frames}
    trained = [max((step for _, step, _ in visitor.frames), default=0) for visitor in here]
    served = [visitor.served for visitor in here]
    leave(here)
    rest(room)
    after = memory(pids())
    logging.getLogger("playground").removeHandler(errors)
    return {
        "visitors": visitors, "places": room.places, "waited": waited, "unserved": unserved,
        "served": sum(served), "trained": sum(step > 0 for step in trained), "processes": len(room.pids),
        "errors": [*errors.found, *[str(v.error) for v in here if v.error],
                   *[note for note in notes if "went wrong" in note]],
        "before": before, "most": most, "after": after, "ratio": after / before,
    }  # fmt: skip


def rest(room: Room) -> None:
    """Until the processes of those who left have ended."""
    end = time.perf_counter() + 5.0
    while room.pids and time.perf_counter() < end:
        time.sleep(0.05)
    gc.collect()
    machine.give_back()
    time.sleep(0.3)


def main(seconds: float = 300.0) -> None:
    found = soak(seconds)
    print(
        f"{found['visitors']} visitors for {seconds:.0f} s on {found['places']} places: "
        f"{found['trained']} trained, {found['waited']} waited in the queue for a while, "
        f"{found['unserved']} had neither a frame nor a place for 10 s; "
        f"errors: {found['errors'] or 'none'}\n"
        f"memory of all processes: {found['before']:.0f} MB before, {found['most']:.0f} MB at most, "
        f"{found['after']:.0f} MB after they left: ratio {found['ratio']:.2f}"
    )
