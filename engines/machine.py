"""The machine: what is set before torch is loaded, and what is found out about its arithmetic.

Small networks are limited by how their many little steps are run, not by how fast numbers are
multiplied. Nothing here changes a number beyond rounding.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from typing import NamedTuple

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h of glibc
KEPT = 256 * 2**20  # bytes at the top of the heap that are not given back at once
PAD = 16 * 2**20  # bytes that the heap grows by at once


def prepare() -> None:
    """Set up threads and memory; call before torch is imported.

    Threads wait passively: libgomp's spin, and one busy core (a browser is enough) makes small
    networks up to 100 times slower. Memory of large tensors stays with the process instead of
    being asked of the system, and cleared by it, at every step.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    if (mallopt := _glibc("mallopt")) is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_TOP_PAD, PAD)


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
    "highest". error: its largest error over that of "highest", 1 where they are as good.
    """

    precision: str
    speedup: float
    error: float


ENOUGH, TRUE = 1.1, 2.0  # how much faster the other way must be, and how much worse it may be


def calibrate(seconds: float = 0.2) -> Arithmetic:
    """Find the faster way to multiply matrices on this machine, and use it from now on.

    "medium" lets torch hand products of float32 to oneDNN, which is nearly twice as fast as MKL
    on some processors; on those with AMX it rounds to bfloat16, and on others it is far slower.
    So both are timed, in turns, on products as a small network has them, and the error is looked
    at: it is taken only where it is faster and as exact.
    """
    import torch

    rng = torch.Generator().manual_seed(0)
    x = torch.randn(512, 128, generator=rng)
    w = torch.randn(128, 128, generator=rng)
    true = x.double() @ w.double()
    ways = ("highest", "medium")
    best, error = dict.fromkeys(ways, float("inf")), {}
    end = time.perf_counter() + seconds
    while True:
        for way in ways:
            torch.set_float32_matmul_precision(way)
            error[way] = float((x @ w - true).abs().max())
            begin = time.perf_counter()
            for _ in range(4):
                x @ w
                x.T @ x
            best[way] = min(best[way], time.perf_counter() - begin)
        if time.perf_counter() > end:
            break
    speedup = best["highest"] / best["medium"]
    worse = error["medium"] / max(error["highest"], 1e-12)
    good = speedup >= ENOUGH and worse <= TRUE
    torch.set_float32_matmul_precision("medium" if good else "highest")
    return Arithmetic("medium", speedup, worse) if good else Arithmetic("highest", 1.0, 1.0)
