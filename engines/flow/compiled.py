"""Spline flows in native code: what engines/flow/spline.py says, in single precision on the CPU.

The kernels of kernels.c work for any number of points, coordinates and bins, so one compilation
serves every setting of every knob. They agree with the splines in tensors to rounding, not bit by
bit: only a run that nobody asks to repeat takes them (`Run.quicken`).
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from engines.flow import spline as tensors
from engines.flow.spline import Bend
from engines.native import Library

LIBRARY = Library(Path(__file__).with_name("kernels.c"))
MOST = 256  # bins, as in kernels.c

_N, _R, _P = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
_ARGUMENTS = {
    "spline_forward": [_N] * 4 + [_R, _P, _P, _P, _N] + [_P] * 4,
    "spline_backward": [_N] * 4 + [_R] + [_P] * 5 + [_N] + [_P] * 3,
    "spline_inverse": [_N] * 4 + [_R] + [_P] * 3,
    "leaky_forward": [_N, _N, _R, _P, _P],
    "leaky_backward": [_N, _N, _R, _P, _P, _P],
    "gaussian": [_N, _N, _R] + [_P] * 4,
    "adam": [_N, _P, _P] + [ctypes.c_double] * 6,
}


def ready() -> ctypes.CDLL | None:
    """The compiled kernels, or None; the first call lets them be compiled. Never waits."""
    kernels = LIBRARY.ask()
    if kernels is not None and not kernels.adam.argtypes:
        for name, arguments in _ARGUMENTS.items():
            kernel = getattr(kernels, name)
            kernel.argtypes, kernel.restype = arguments, None
    return kernels


def code() -> ctypes.CDLL:
    """The kernels; only for those who found them `ready`."""
    return LIBRARY.code


def said() -> str:
    """What the page says of it."""
    return {
        "ready": "splines compiled",
        "off": f"splines not compiled ({LIBRARY.why})",
    }.get(LIBRARY.state, "compiling splines")


def plain(*tensors: Tensor) -> bool:
    """Whether these are what kernels take: single precision, on the CPU."""
    return all((t.dtype, t.device.type) == (torch.float32, "cpu") for t in tensors)


class Kept:
    """What a pass of `spline_forward` leaves for the way back."""

    def __init__(self, x: Tensor, theta: Tensor) -> None:
        rows, bins, m = len(theta), theta.shape[1] // 3, len(x)
        self.share = x.new_empty(rows, 2 * bins)
        self.place, self.bin = x.new_empty(6, m), torch.empty(m, dtype=torch.int32)


def there(
    x: Tensor, theta: Tensor, bound: float, y: Tensor, log_slope: Tensor, keep: bool
) -> Kept | None:
    """Columns x, y (m,) of one stride, theta (m or 1, 3K + 1); log slopes are added."""
    kept = Kept(x, theta) if keep else None
    places = (
        [part.data_ptr() for part in (kept.share, kept.place, kept.bin)] if keep else [None] * 3
    )
    code().spline_forward(
        len(x), theta.shape[1] // 3, len(theta), x.stride(0), bound, x.data_ptr(), theta.data_ptr(),
        y.data_ptr(), log_slope.stride(0), log_slope.data_ptr(), *places,
    )  # fmt: skip
    return kept


def back(
    x: Tensor, kept: Kept, bound: float, g_y: Tensor, g_log: Tensor, g_x: Tensor, g_theta: Tensor
) -> None:
    """Fills g_x (m,), of x's stride as g_y is, and g_theta (m or 1, 3K + 1)."""
    code().spline_backward(
        len(x), g_theta.shape[1] // 3, len(g_theta), x.stride(0), bound, x.data_ptr(),
        kept.share.data_ptr(), kept.place.data_ptr(), kept.bin.data_ptr(), g_y.data_ptr(),
        g_log.stride(0), g_log.data_ptr(), g_x.data_ptr(), g_theta.data_ptr(),
    )  # fmt: skip


class _Spline(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, theta: Tensor, bound: float) -> tuple[Tensor, Tensor]:
        y, log_slope = torch.empty_like(x), torch.zeros_like(x)
        ctx.kept, ctx.bound = there(x, theta, bound, y, log_slope, keep=True), bound
        ctx.save_for_backward(x)
        return y, log_slope

    @staticmethod
    @once_differentiable
    def backward(ctx, g_y: Tensor, g_log: Tensor) -> tuple[Tensor, Tensor, None]:
        (x,), kept = ctx.saved_tensors, ctx.kept
        g_x = torch.empty_like(x)
        g_theta = x.new_empty(len(kept.share), kept.share.shape[1] // 2 * 3 + 1)
        back(x, kept, ctx.bound, g_y.contiguous(), g_log.contiguous(), g_x, g_theta)
        return g_x, g_theta, None


def _flat(x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Points (m,) and their numbers (m, 3K + 1); (1, 3K + 1) where all share the same memory."""
    shared = theta.dim() > 1 and not any(theta.stride()[:-1]) and not theta.requires_grad
    if shared:
        theta = theta[(0,) * (theta.dim() - 1)][None]
    return x.reshape(-1).contiguous(), theta.reshape(-1, theta.shape[-1]).contiguous()


def spline(x: Tensor, theta: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """`engines.flow.spline.spline`, compiled where it can be."""
    if not plain(x, theta) or theta.shape[-1] // 3 > MOST:
        return tensors.spline(x, theta, bound)
    shape, (x, theta) = x.shape, _flat(x, theta)
    if torch.is_grad_enabled() and (x.requires_grad or theta.requires_grad):
        y, log_slope = _Spline.apply(x, theta, bound)
    else:
        y, log_slope = torch.empty_like(x), torch.zeros_like(x)
        there(x, theta, bound, y, log_slope, keep=False)
    return y.view(shape), log_slope.view(shape)


def spline_inverse(y: Tensor, theta: Tensor, bound: float) -> Tensor:
    """`engines.flow.spline.spline_inverse`, compiled where nobody asks for gradients."""
    wanted = torch.is_grad_enabled() and (y.requires_grad or theta.requires_grad)
    if wanted or not plain(y, theta) or theta.shape[-1] // 3 > MOST:
        return tensors.spline_inverse(y, theta, bound)
    shape, (y, theta) = y.shape, _flat(y, theta)
    x = torch.empty_like(y)
    code().spline_inverse(
        len(y), theta.shape[1] // 3, len(theta), 1, bound, y.data_ptr(), theta.data_ptr(),
        x.data_ptr(),
    )  # fmt: skip
    return x.view(shape)


COMPILED = Bend(spline, spline_inverse)


def adopt(*modules: nn.Module) -> None:
    """Let the spline flows among the modules bend by native code from now on."""
    for module in modules:
        for part in module.modules():
            if hasattr(part, "bend"):
                part.bend = COMPILED
