"""The rival: what a plain kernel estimate achieves on the data that a model is learning.

A model of a density in one or two dimensions is worth its trouble when it comes closer than the oldest
estimate there is, a Gaussian kernel on each of 20,000 true samples (Rosenblatt 1956; Parzen
1962). Its KL divergences are taken on the same held-out points, with the same exact p.
"""

from __future__ import annotations

import atexit
import hashlib
import queue
import threading
from collections import OrderedDict

import torch

from engines.data.base import Pool
from engines.data.kernels import Kernels
from engines.metrics import kl
from engines.probes import N_REVERSE, N_SAMPLES

SAMPLES = 20_000
KEPT = 64  # results of that many pools are remembered

_found: OrderedDict[str, dict[str, float] | None] = OrderedDict()  # None: being worked out
_lock = threading.Lock()
# one at a time, the last asked first: a visitor who clicks through the data waits for one
_wanted: queue.LifoQueue[tuple[str, Pool]] = queue.LifoQueue()
_worker: threading.Thread | None = None


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


def rival(pool: Pool) -> dict[str, float]:
    """What `measure` found for such a pool, or {} while it is being found out.

    A thread works them out one after another, for a live run cannot wait two seconds. What
    is kept depends on the data alone, never on who asked.
    """
    global _worker
    if not has_rival(pool):
        return {}
    key = _key(pool)
    with _lock:
        if key in _found:
            _found.move_to_end(key)
            return _found[key] or {}
        _found[key] = None
        while len(_found) > KEPT:
            _found.popitem(last=False)
        _wanted.put((key, pool))
        if _worker is None or not _worker.is_alive():
            _worker = threading.Thread(target=_work, daemon=True, name="rival")
            _worker.start()
    return {}


def wait(seconds: float = 60.0) -> None:
    """Until everything that was asked for is there, or the time is over."""
    worker = _worker
    if worker is not None:
        worker.join(seconds)


def _work() -> None:
    global _worker
    torch.set_num_threads(1)
    while True:
        with _lock:  # whoever asks next sees either the task taken or the thread gone
            if _wanted.empty():
                _worker = None
                return
            key, pool = _wanted.get()
        with torch.no_grad():
            found = measure(pool)
        with _lock:
            _found[key] = found


@atexit.register
def _leave() -> None:
    # a thread that is inside torch while the interpreter ends would abort the process
    worker = _worker
    with _lock:
        while not _wanted.empty():
            _wanted.get_nowait()
    if worker is not None:
        worker.join(10)


def _key(pool: Pool) -> str:
    if not hasattr(pool, "_rival_key"):
        rows = pool.train[:SAMPLES].cpu().numpy().tobytes()
        digest = hashlib.blake2b(rows + pool.dataset.key.encode(), digest_size=16)
        pool._rival_key = digest.hexdigest()
    return pool._rival_key
