"""Steps a second while streaming ÷ steps a second in a bare loop, in turn, without a browser."""

from __future__ import annotations

import statistics
import time

from app.pack import unpack
from app.session import Session
from engines import ENGINES, Experiment

SECONDS, ROUNDS = 3.0, 5


def bare(experiment: Experiment) -> float:
    run = experiment.start("cpu")
    run.train(steps=20)
    run.train(seconds=SECONDS)
    return (run.step - 20) / SECONDS


def live(experiment: Experiment) -> tuple[float, float, float]:
    """Steps/s, frames/s and kB a frame of a session that is played and acknowledged at once."""
    session, blocks = Session("cpu"), {}
    unpack(session.open(experiment), blocks)
    begin = step = None
    frames = size = 0
    for text in session.play():
        frame = unpack(text, blocks)
        session.worker.hear(frame["seq"])
        now = time.perf_counter()
        if begin is None:
            if frame["seconds"] > 1.2:  # after the ramp
                begin, step = now, frame["step"]
            continue
        frames, size = frames + 1, size + len(text)
        if now - begin > SECONDS:
            session.pause()
    return (frame["step"] - step) / (now - begin), frames / (now - begin), size / frames / 1000


def main() -> None:
    print("engine      bare/s   live/s   ratio (min … max)    frames/s  kB/frame")
    for engine in ENGINES:
        experiment = Experiment(ENGINES[engine].opens_on, engine)
        pairs = [(bare(experiment), live(experiment)) for _ in range(ROUNDS)]
        ratios = [b[0] / a for a, b in pairs]
        print(
            f"{engine:10s} {statistics.median(a for a, _ in pairs):7.0f}"
            f"  {statistics.median(b[0] for _, b in pairs):7.0f}"
            f"   {statistics.median(ratios):5.2f} ({min(ratios):.2f} … {max(ratios):.2f})"
            f"   {statistics.median(b[1] for _, b in pairs):8.1f}"
            f"  {statistics.median(b[2] for _, b in pairs):8.1f}",
            flush=True,
        )
