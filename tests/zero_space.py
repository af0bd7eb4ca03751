"""A Space with a GPU to lend, in a process of its own: prints what its visitors saw, as JSON."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stdout
from types import SimpleNamespace
from typing import Any

from tests.zerogpu import DeviceApi, no_gpu, over_quota, pretend

api = DeviceApi()
pretend(api)

import httpx  # noqa: E402
import torch  # noqa: E402
from gradio.context import LocalContext  # noqa: E402

import engines.looking  # noqa: E402
from app import zero  # noqa: E402
from app.box import free  # noqa: E402
from app.pack import unpack  # noqa: E402
from app.session import Session  # noqa: E402
from engines import Experiment  # noqa: E402

engines.looking.rival = lambda pool: {}  # as in tests/conftest.py


class Visitor:
    """A session with a browser that paints at once, and remembers."""

    def __init__(self, experiment: Experiment, gpu: bool = True) -> None:
        self.session = Session(fps=15.0)
        self.blocks: dict[str, bytes] = {}
        self.frames: list[dict[str, Any]] = []
        first = unpack(self.session.open(experiment), self.blocks)
        # nobody looks at the pictures
        self.session.worker.hide(frozenset(panel["id"] for panel in first["panels"]))
        if gpu:
            self.session.choose_gpu()

    def play(self, until: Callable[[Visitor], bool], token: str = "") -> Visitor:
        """Play until the frames say that it is enough. token: what tells the quota's owner."""
        headers = httpx.Headers({"x-ip-token": token} if token else {})
        LocalContext.request.set(SimpleNamespace(headers=headers))
        for text in self.session.play():
            frame = unpack(text, self.blocks)
            extra = frame["extra"]
            self.session.worker.hear(frame["seq"])
            self.frames.append({
                "step": frame["step"], "note": frame["note"], "gpu": extra["gpu"],
                "playing": extra["playing"], "hash": frame["about"]["hash"],
                "kept": extra["timeline"]["kept"], "seconds": frame["seconds"],
            })  # fmt: skip
            if self.frames[-1]["playing"] and until(self):
                self.session.pause()
        return self

    def on_gpu(self, n: int) -> bool:
        return sum(frame["gpu"] == "on" and frame["step"] > 1 for frame in self.frames) >= n

    def end(self) -> dict[str, Any]:
        run = self.session.worker.run
        return {
            "frames": self.frames, "step": run.step, "lr": run.engine.lr,
            "knob": run.experiment.knobs["lr"], "wanted": self.session.worker.wanted,
            "curve": sum(len(track.values) for track in run.lanes[0].tracks.values()),
            "timeline": self.session.worker.timeline.steps, "off_by": off_by(run),
            "device": str(run.engine.device),
        }  # fmt: skip


def experiment(seed: int = 0, **knobs: Any) -> Experiment:
    small = {"kind": "RealNVP", "layers": 2, "width": 16, "batch": 64}
    return Experiment("moons", "flow", seed=seed, knobs={**small, **knobs})


def weights(run: Any) -> torch.Tensor:
    found, _ = run.engine.state()
    kept = [t.double().flatten() for name, t in sorted(found.items()) if name != "view_rng"]
    return torch.cat(kept)


def off_by(run: Any) -> list[float]:
    """How far the run is from one that took its steps at once, and from one with a step less."""
    out = []
    for steps in (run.step, run.step - 1):
        plain = run.experiment.start("cpu").train(steps=steps)
        out.append(float((weights(run) - weights(plain)).abs().max()))
    return out


# ---------------------------------------------------------------- what happens


def stream() -> dict[str, Any]:
    return Visitor(experiment()).play(lambda v: v.on_gpu(12)).end()


def knob() -> dict[str, Any]:
    """In the process that was forked for the visitor before."""
    visitor, at = Visitor(experiment(1)), []

    def until(v: Visitor) -> bool:
        if v.on_gpu(5) and not at:
            at.append(len(v.frames))
            v.session.set("lr", 0.003)
        return bool(at) and v.frames[-1]["hash"] != v.frames[at[0] - 1]["hash"]

    return {**visitor.play(until).end(), "changed_at": at[0]}


def question() -> dict[str, Any]:
    """What the forked process does not answer: the run comes home for it, and goes back."""
    visitor, asked = Visitor(experiment(2)), []

    def until(v: Visitor) -> bool:
        if v.on_gpu(5) and not asked:
            asked.append(None)
            asker = threading.Thread(target=lambda: asked.append(v.session.ask("samples", n=3)))
            asker.start()
        return len(asked) == 2 and v.frames[-1]["gpu"] == "on"

    return {**visitor.play(until).end(), "answer": asked[1]}


def boxes() -> dict[str, Any]:
    """Boxes of a second."""
    box, zero.BOX = zero.BOX, zero.SPARE + 1.2
    begin = len(api.asked("schedule"))
    try:
        visitor = Visitor(experiment(3)).play(lambda v: len(api.asked("schedule")) >= begin + 3)
    finally:
        zero.BOX = box
    return visitor.end()


def killed() -> dict[str, Any]:
    visitor, dead = Visitor(experiment(4)), []

    def until(v: Visitor) -> bool:
        if v.on_gpu(20) and not dead:
            v.session.set("lr", 0.002)  # what it has not heard of is not lost with it
            dead.extend([v.frames[-1]["step"], v.session.worker.timeline.steps[-1]])
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
            dead.append(len(v.frames))
        return bool(dead) and sum(f["gpu"] == "on" for f in v.frames[dead[2] :]) > 8

    found = visitor.play(until).end()
    return {**found, "died": dict(zip(("step", "saved", "frame"), dead, strict=True))}


def quota() -> dict[str, Any]:
    """A first box is granted, the second is not."""
    box, zero.BOX = zero.BOX, zero.SPARE + 1.2
    begin = len(api.asked("schedule"))

    def until(v: Visitor) -> bool:
        if len(api.asked("schedule")) == begin + 1 and not api.refuse:
            api.refuse.append(over_quota())
        return sum(f["gpu"] == "off" for f in v.frames) > 5

    try:
        return Visitor(experiment(5)).play(until, token="mine").end()
    finally:
        zero.BOX = box


def none_free() -> dict[str, Any]:
    api.refuse.append(no_gpu())
    visitor = Visitor(experiment(6))
    return visitor.play(lambda v: sum(f["gpu"] == "off" for f in v.frames) > 3).end()


def hidden() -> dict[str, Any]:
    """A browser tab that nobody looks at uses no quota."""
    begin = len(api.asked("schedule"))
    visitor = Visitor(experiment(7))
    visitor.session.worker.look(False)
    threading.Timer(0.5, visitor.session.pause).start()
    found = visitor.play(lambda v: False).end()
    return {**found, "asked": len(api.asked("schedule")) - begin}


def page() -> dict[str, Any]:
    from app.page import build

    return {
        "buttons": [b.elem_id for b in build().blocks.values() if b.get_block_name() == "button"]
    }


def two() -> list[dict[str, Any]]:
    api.crowded = True
    visitors = [Visitor(experiment(8)), Visitor(experiment(9, lr=0.004))]
    # the first stops early: the other goes on
    wanted = (6, 16)
    threads = [
        threading.Thread(target=visitor.play, args=(lambda v, n=n: v.on_gpu(n), f"of {n}"))
        for visitor, n in zip(visitors, wanted, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    api.crowded = False
    return [visitor.end() for visitor in visitors]


if __name__ == "__main__":
    names = sys.argv[1:]
    with redirect_stdout(sys.stderr):  # `spaces` prints
        found = {}
        for name in names:
            begin = len(api.log)
            found[name] = {"seen": globals()[name](), "api": api.log[begin:]}
        found["pid"], found["free"] = os.getpid(), free.qsize()
    print(json.dumps(found))
    sys.stdout.flush()
    for child in multiprocessing.active_children():  # kept for a next visitor
        child.kill()
    os._exit(0)
