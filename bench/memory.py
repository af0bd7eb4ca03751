"""What a session holds after an hour's run, against after ten minutes'.

The worker's clock runs sixty times too fast here, so that an hour passes in a minute; what
is kept depends on that clock, on the number of frames and on nothing else.
"""

from __future__ import annotations

import gc
import resource
import threading
import time
from types import SimpleNamespace

from app import clock, worker
from app.session import Session
from engines import ENGINES, Experiment

FASTER, MINUTES = 60, (10, 60)


def resident() -> float:
    """Megabytes of this process that are in memory."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 1e6
    except OSError:  # not Linux: the most there ever was
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    begin = time.perf_counter()
    fast = lambda: begin + FASTER * (time.perf_counter() - begin)  # noqa: E731
    hurried = SimpleNamespace(perf_counter=fast, monotonic=fast, time=time.time)
    clock.time = worker.time = hurried
    try:
        for engine in ENGINES:
            _one(engine)
    finally:
        clock.time = worker.time = time


def _one(engine: str) -> None:
    session = Session("cpu", fps=20.0 / FASTER)
    session.open(Experiment(ENGINES[engine].opens_on, engine))

    def play() -> None:
        for _ in session.play():
            session.worker.hear(session.worker._seq)

    thread = threading.Thread(target=play, daemon=True)
    begin = time.perf_counter()
    thread.start()
    found = []
    for minutes in MINUTES:
        time.sleep(max(0.0, begin + 60 * minutes / FASTER - time.perf_counter()))
        gc.collect()
        found.append((resident(), session.worker.timeline.bytes / 1e6))
    session.pause()
    thread.join(20)
    (early, kept_early), (late, kept_late) = found
    print(
        f"{engine}: process {early:.0f} MB after ten minutes, {late:.0f} MB after an hour: "
        f"ratio {late / early:.2f}; checkpoints {kept_early:.1f} and {kept_late:.1f} MB"
    )
