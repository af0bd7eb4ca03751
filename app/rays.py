"""Rays: hosts as actors of a Ray cluster, so that a class outgrows one machine.

Ray is an optional dependency: without PLAYGROUND_RAY it is never imported. Each run has an actor,
and that a share of a core, and of a GPU where the cluster has any.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from pathlib import Path
from typing import Any

from app.host import Host
from app.line import Line
from engines import BadInput, machine

log = logging.getLogger("playground")

ROOT = Path(__file__).parent.parent
A_CORE, A_GPU = 8, 8  # runs that may train on one: each still gets steps and frames in time
WAIT = 1.0  # seconds that an actor waits for something to say
# what the actors need of this folder comes along; these do not
LEFT = [".venv", "tests", "bench", "docs", "**/__pycache__", "**/*.png", "**/*.webp"]


class Actor:
    """What runs on the cluster: a host, spoken to in one thread and listened to in another."""

    def __init__(self, device: str | None, cores: int, ways: tuple[str, str]) -> None:
        import torch

        torch.set_num_threads(1)
        machine.adopt(*ways)
        self._out: queue.SimpleQueue[tuple] = queue.SimpleQueue()
        self._host = Host(self._out.put, device, cores)

    def take(self, message: tuple) -> None:
        self._host.take(message)

    def give(self, seconds: float) -> list[tuple]:
        """What there is to say; waits for it, and then takes all of it."""
        found = []
        try:
            found.append(self._out.get(timeout=seconds))
            while len(found) < 100:
                found.append(self._out.get_nowait())
        except queue.Empty:
            pass
        return found

    def where(self) -> tuple[str, int]:
        """The node and the process, for those who look after the cluster."""
        import ray

        return ray.get_runtime_context().get_node_id(), os.getpid()


class Cluster:
    """A Ray cluster that this process is connected to. Raises BadInput where there is none."""

    def __init__(self, address: str) -> None:
        try:
            import ray
        except ImportError:
            raise BadInput(
                "PLAYGROUND_RAY is set, but the package ray is not installed: pip install ray."
            ) from None
        self.ray = ray
        if not ray.is_initialized():
            try:
                ray.init(
                    address=address, namespace="playground", log_to_driver=False,
                    logging_level=logging.WARNING,
                    runtime_env={"working_dir": str(ROOT), "excludes": LEFT},
                )  # fmt: skip
            except Exception as error:
                log.debug("ray.init failed", exc_info=error)
                raise BadInput(
                    f"PLAYGROUND_RAY is {address[:80]!r}, and no Ray cluster answers there."
                ) from None
        for name, group in (("take", "in"), ("give", "out"), ("where", "out")):
            setattr(Actor, name, ray.method(concurrency_group=group)(getattr(Actor, name)))
        self._kind = ray.remote(concurrency_groups={"in": 1, "out": 2})(Actor)
        found = ray.cluster_resources()
        self.cores, self.gpus = found.get("CPU", 0.0), found.get("GPU", 0.0)

    @property
    def places(self) -> int:
        """Runs that the cluster carries at once."""
        most = self.cores * A_CORE
        return max(1, int(min(most, self.gpus * A_GPU) if self.gpus else most))

    def line(self, device: str | None) -> RayLine:
        """A new actor, on the node that has most room, and the line to it."""
        made = self._kind.options(
            num_cpus=1 / A_CORE, num_gpus=1 / A_GPU if self.gpus else 0, max_restarts=0,
            scheduling_strategy="SPREAD",
        ).remote(device, max(1, int(self.cores)), machine.ways())  # fmt: skip
        return RayLine(self.ray, made)


class RayLine(Line):
    """A host that is a Ray actor."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self.actor, self._closing = ray, actor, False
        super().__init__(None, 1)

    def _open(self, device: str | None, cores: int) -> None:
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            while not self._closing:
                for message in self._ray.get(self.actor.give.remote(WAIT)):
                    try:
                        self._heard(message)
                    except Exception:
                        log.exception("a message from a run was not understood")
        except Exception as error:
            if not self._closing:
                log.warning("an actor, which held %d runs, was lost: %s: %s", len(self.seats),
                            type(error).__name__, error)  # fmt: skip
        finally:
            self._lose()

    def send(self, message: tuple) -> None:
        if not self.lost:
            self.actor.take.remote(message)

    def close(self) -> None:
        self._closing = True
        self._ray.kill(self.actor)
