"""The machine: what is set before torch is loaded, and what is found out about its arithmetic.

Small networks are limited by how their many little steps are run, not by how fast numbers are
multiplied. Nothing here changes a number beyond rounding.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8  # malloc.h of glibc
KEPT = 256 * 2**20  # bytes at the top of the heap that are not given back at once
PAD = 16 * 2**20  # bytes that the heap grows by at once
ARENAS = 2  # heaps that all threads share: what one has freed, another one uses


def prepare() -> None:
    """Set up threads and memory; call before torch is imported.

    Threads wait passively: libgomp's spin, and one busy core (a browser is enough) makes small
    networks up to 100 times slower. Memory of large tensors stays with the process instead of
    being asked of the system, and cleared by it, at every step.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=after_fork)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    if (mallopt := _glibc("mallopt")) is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_TOP_PAD, PAD)
        mallopt(M_ARENA_MAX, ARENAS)


def after_fork() -> None:
    """In a forked process, before it has threads: torch's own pool is made anew at the first
    operation of each thread, and two who meet there find none and fail."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(torch.get_num_threads())


def give_back() -> None:
    """Give memory that nobody uses back to the system, after many visitors have left."""
    if (trim := _glibc("malloc_trim")) is not None:
        trim(0)


def _glibc(name: str):
    """A function of the C library, where that is glibc; else None."""
    if not sys.platform.startswith("linux"):
        return None
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  musl has none
        return getattr(library, name)
    return None


class Arithmetic(NamedTuple):
    """What `calibrate` found.

    precision: torch's name for how products of matrices are worked out. speedup: of that way over
    "highest". error: its largest error over that of "highest", 1 where they are as good. small: the
    faster way for networks whose steps are SMALL.
    """

    precision: str
    speedup: float
    error: float
    small: str = "highest"


ENOUGH, TRUE = 1.1, 2.0  # how much faster the other way must be, and how much worse it may be
LAYERS = ((2, 64), (64, 64), (128, 128))  # of the networks here: rows in, rows out
ROWS = 512
SMALL = 1.5e6  # rows of a batch × (units of a layer)², below which the other way may be the faster
FEW = ((2, 64), (64, 64), (64, 64), (64, 2))  # layers of a network that is small, at FEW_ROWS rows
FEW_ROWS = 256
found: Arithmetic | None = None  # by the last calibration of this process


def calibrate(seconds: float = 0.15) -> Arithmetic:
    """Find the faster way to multiply matrices on this machine, and use it from now on.

    "medium" lets torch hand products of float32 to oneDNN, which is nearly twice as fast as MKL
    on some processors; on those with AMX it rounds to bfloat16, on others it is far slower, and
    everywhere it takes longer to begin, which small layers feel. So both are timed, in turns, on
    layers as the networks here have them, there and back, and the error is looked at: it is taken
    only where it is faster and as exact. Where there is a GPU nothing is changed, for the same
    switch would round there, too. Small networks are timed on their own: see `suit`.
    """
    global found
    import torch

    if torch.cuda.is_available():
        found = None
        return Arithmetic(torch.get_float32_matmul_precision(), 1.0, 1.0)
    rng = torch.Generator().manual_seed(0)
    sizes = [(ROWS, *layer) for layer in LAYERS] + [(FEW_ROWS, *layer) for layer in FEW]
    pairs = [
        (torch.randn(n, a, generator=rng), torch.randn(b, a, generator=rng)) for n, a, b in sizes
    ]
    usual, few = slice(len(LAYERS)), slice(len(LAYERS), None)
    x, w = pairs[usual][-1]
    true = x.double() @ w.double().T
    ways = ("highest", "medium")
    best = {way: [math.inf] * len(pairs) for way in ways}
    error = {}
    end = time.perf_counter() + seconds
    while True:
        for way in ways:
            torch.set_float32_matmul_precision(way)
            error[way] = float((x @ w.T - true).abs().max())
            for i, pair in enumerate(pairs):
                best[way][i] = min(best[way][i], _there_and_back(*pair))
        if time.perf_counter() > end:
            break
    speedup = sum(best["highest"][usual]) / sum(best["medium"][usual])
    small = min(ways, key=lambda way: sum(best[way][few]))
    worse = error["medium"] / max(error["highest"], 1e-12)
    good = speedup >= ENOUGH and worse <= TRUE
    torch.set_float32_matmul_precision("medium" if good else "highest")
    found = Arithmetic("medium", speedup, worse, small) if good else Arithmetic("highest", 1.0, 1.0)
    return found


def ways() -> tuple[str, str]:
    """How products are worked out here, and those of small networks; for `adopt` elsewhere."""
    import torch

    now = torch.get_float32_matmul_precision()
    return (now, now) if found is None else (found.precision, found.small)


def adopt(precision: str, small: str) -> None:
    """Work in these ways, which another process has found."""
    global found
    import torch

    torch.set_float32_matmul_precision(precision)
    found = Arithmetic(precision, 1.0, 1.0, small) if precision != small else None


def settle() -> None:
    """From now on work in the way that programs do, whoever comes along."""
    if found is not None:
        import torch

        torch.set_float32_matmul_precision(found.precision)


def suit(rows: int, units: int) -> None:
    """From now on work in the way that is the faster for layers of so many units and rows."""
    if found is not None and found.small != found.precision:
        import torch

        small = rows * units**2 < SMALL
        torch.set_float32_matmul_precision(found.small if small else found.precision)


def _there_and_back(x: Tensor, w: Tensor) -> float:
    """Seconds of a layer's three products: its output, and the gradients of both."""
    begin = time.perf_counter()
    y = x @ w.T
    _ = y @ w
    _ = y.T @ x
    return time.perf_counter() - begin


def exact() -> None:
    """Multiply matrices as exactly as float32 can again: for a GPU, whatever suits the CPU."""
    import torch

    torch.set_float32_matmul_precision("highest")


def described(lent: bool = False) -> str:
    """One line for the page: what trains here, and how. lent: the GPU that torch speaks of is
    somewhere else, and comes when it is asked for."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    one = f"CPU, {cores} core{'s' * (cores != 1)}, one thread a run"
    if lent:
        return f"{one}; a GPU of this Space for those who ask"
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)}; {one}"
    if found is None:
        return one
    if found.precision == "medium":
        return f"{one}, matrix products by oneDNN (×{found.speedup:.1f})"
    library = "MKL" if torch.backends.mkl.is_available() else "the system's BLAS"
    return f"{one}, matrix products by {library}"
