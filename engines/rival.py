"""The rival: what a plain kernel estimate achieves on the data that a model is learning.

A model of a density in one or two dimensions is worth its trouble when it comes closer than
the oldest estimate there is, a Gaussian kernel on each of 20,000 true samples (Rosenblatt 1956;
Parzen 1962). Its KL divergences are taken on the same held-out points, with the same exact p.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable

import torch

from engines.data.base import Pool
from engines.data.kernels import Kernels
from engines.metrics import kl
from engines.probes import N_REVERSE, N_SAMPLES

SAMPLES = 20_000
KEPT = 64  # results of that many pools are remembered
QUIET = 0.5  # seconds in which nobody has asked for another pool before work begins
TURNS = 10  # and at most so many of them
WAITING = 4  # pools that may wait; each holds its rows


def measure(pool: Pool) -> dict[str, float]:
    """KL(p‖p̂) and KL(p̂‖p) in nats of the kernel estimate p̂ of the pool's first 20,000
    training rows, as {"kl_pq", "kl_qp"}. A second or two of one core."""
    dataset = pool.dataset
    rows = pool.train[:SAMPLES].cpu()
    kernels = Kernels(rows.numpy(), rows.std(0).numpy(), dataset.extent, most=SAMPLES)
    held = pool.test[:N_SAMPLES].cpu()
    forward = kl(dataset.log_prob(held), kernels.quick_log_prob(held))
    rng = torch.Generator().manual_seed(5_000_017)
    index = torch.randint(len(rows), (N_REVERSE,), generator=rng)
    noise = (
        torch.randn(N_REVERSE, rows.shape[1], generator=rng)
        * (kernels.scale * kernels.bandwidth).float()
    )
    x = rows[index] + noise
    backward = kl(kernels.quick_log_prob(x), dataset.log_prob(x), "p̂", "p")
    return {"kl_pq": forward.value, "kl_qp": backward.value}


def has_rival(pool: Pool) -> bool:
    """Whether p is exact (an estimate would compete with itself) and in one or two dimensions."""
    exact = pool.dataset.exact and pool.dataset.kind in ("line", "plane")
    return exact and len(pool.train) >= SAMPLES


class Rivals:
    """What `measure` gives for pools, worked out by one thread after they have been asked for.

    Whoever drags at the data asks for a new pool with every frame, and looks only at the last:
    so work begins when no new one has come for QUIET seconds (or TURNS times as long), with
    the one asked for last, and of those that wait the newest WAITING stay. Any other is
    forgotten as if nobody had asked.

    Args:
        measure: from a pool to the numbers, in a second or two of one core. Where it raises,
            the pool has none: {}.
        pause: waits so many seconds; for tests.
    """

    def __init__(
        self,
        measure: Callable[[Pool], dict[str, float]],
        pause: Callable[[float], object] | None = None,
    ) -> None:
        self.measure = measure
        self.found: OrderedDict[str, dict[str, float]] = OrderedDict()
        self.waiting: OrderedDict[str, Pool] = OrderedDict()  # the one asked for last comes last
        self.working: str | None = None
        self.asked = 0  # new pools so far
        self._left = threading.Event()
        self._pause = pause or self._left.wait
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def ask(self, key: str, pool: Pool) -> dict[str, float]:
        """The numbers of a pool, or {} while there are none."""
        with self._lock:
            if key in self.found:
                self.found.move_to_end(key)
                return self.found[key]
            if key == self.working:
                return {}
            self.asked += key not in self.waiting
            self.waiting[key] = pool
            self.waiting.move_to_end(key)
            while len(self.waiting) > WAITING:
                self.waiting.popitem(last=False)
            # a forked process has the thread's name, but not the thread
            if self._thread is None or not self._thread.is_alive():
                self.working = None
                self._thread = threading.Thread(target=self._work, daemon=True, name="rival")
                self._thread.start()
        return {}

    def wait(self, seconds: float = 60.0) -> None:
        """Until everything that was asked for is there, or the time is over."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def leave(self) -> None:
        """Give up what waits, and come back when the thread has ended."""
        with self._lock:
            self.waiting.clear()
        self._left.set()
        self.wait(10)

    def _settle(self) -> None:
        for _ in range(TURNS):
            asked = self.asked
            self._pause(QUIET)
            if asked == self.asked:
                return

    def _work(self) -> None:
        torch.set_num_threads(1)
        while True:
            with self._lock:  # whoever asks next sees either a task waiting or the thread gone
                if not self.waiting:
                    self._thread = None
                    return
            self._settle()
            with self._lock:
                if not self.waiting:  # given up meanwhile
                    continue
                self.working, pool = self.waiting.popitem()
            try:
                with torch.no_grad():
                    found = self.measure(pool)
            except Exception:
                logging.getLogger(__name__).exception("no kernel estimate of %s", self.working)
                found = {}
            del pool  # and its rows, for the next pause may be long
            with self._lock:
                self.found[self.working], self.working = found, None
                while len(self.found) > KEPT:
                    self.found.popitem(last=False)


_rivals = Rivals(measure)
# a thread that is inside torch while the interpreter ends would abort the process
atexit.register(_rivals.leave)


def rival(pool: Pool) -> dict[str, float]:
    """What `measure` found for such a pool, or {} while it is being found out.

    A live run cannot wait two seconds for it. What is kept depends on the data alone, never
    on who asked.
    """
    return _rivals.ask(_key(pool), pool) if has_rival(pool) else {}


def wait(seconds: float = 60.0) -> None:
    """Until every pool that was asked for is there, or the time is over."""
    _rivals.wait(seconds)


def _key(pool: Pool) -> str:
    if not hasattr(pool, "_rival_key"):
        rows = pool.train[:SAMPLES].cpu().numpy().tobytes()
        digest = hashlib.blake2b(rows + pool.dataset.key.encode(), digest_size=16)
        pool._rival_key = digest.hexdigest()
    return pool._rival_key
