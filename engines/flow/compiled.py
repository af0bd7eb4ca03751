"""Spline flows in native code: what engines/flow/spline.py says, in single precision on the CPU.

The kernels of kernels.c work for any number of points, coordinates and bins, so one compilation
serves every setting of every knob. They agree with the splines in tensors to rounding, not bit by
bit: only a run that nobody asks to repeat takes them (`Run.live`).
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from engines.flow import spline as tensors
from engines.flow.autoregressive import SplineAutoregressive
from engines.flow.spline import Bend
from engines.masked import FREE
from engines.nets import Average
from engines.native import Library

LIBRARY = Library(Path(__file__).with_name("kernels.c"))
MOST = 256  # bins, as in kernels.c
LEAK = 0.01

_N, _R, _P = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
_ARGUMENTS = {
    "spline_forward": [_N] * 4 + [_R, _P, _P, _P, _N] + [_P] * 4,
    "spline_backward": [_N] * 4 + [_R] + [_P] * 5 + [_N] + [_P] * 3,
    "spline_inverse": [_N] * 4 + [_R] + [_P] * 3,
    "leaky_backward": [_N, _R, _P, _P],
    "adam": [_N, _P, _P] + [ctypes.c_double] * 6,
}


def ready() -> ctypes.CDLL | None:
    """The compiled kernels, or None; the first call lets them be compiled. Never waits."""
    code = LIBRARY.ask()
    if code is not None and not hasattr(code, "agreed"):
        for name, arguments in _ARGUMENTS.items():
            kernel = getattr(code, name)
            kernel.argtypes, kernel.restype = arguments, None
        code.agreed = True
    return code


def said() -> str:
    """What the page says of it."""
    return {
        "ready": "splines compiled",
        "off": f"splines not compiled ({LIBRARY.why})",
    }.get(LIBRARY.state, "compiling splines")


def _fits(x: Tensor, theta: Tensor) -> bool:
    like = (torch.float32, "cpu")
    same = (x.dtype, x.device.type) == like == (theta.dtype, theta.device.type)
    return same and theta.shape[-1] // 3 <= MOST


class _Kept:
    """What a pass of `spline_forward` leaves for the way back."""

    def __init__(self, x: Tensor, theta: Tensor) -> None:
        rows, bins, m = len(theta), theta.shape[1] // 3, len(x)
        self.share = x.new_empty(rows, 2 * bins)
        self.place, self.bin = x.new_empty(6, m), torch.empty(m, dtype=torch.int32)


def _forward(
    x: Tensor, theta: Tensor, bound: float, y: Tensor, log_slope: Tensor, keep: bool
) -> _Kept | None:
    """Columns x, y (m,) of one stride, theta (m or 1, 3K + 1); log slopes are added."""
    kept = _Kept(x, theta) if keep else None
    pointers = (kept.share.data_ptr(), kept.place.data_ptr(), kept.bin.data_ptr()) if keep else (None,) * 3
    LIBRARY.code.spline_forward(
        len(x), theta.shape[1] // 3, len(theta), x.stride(0), bound, x.data_ptr(), theta.data_ptr(),
        y.data_ptr(), log_slope.stride(0), log_slope.data_ptr(), *pointers,
    )  # fmt: skip
    return kept


def _backward(
    x: Tensor, kept: _Kept, bound: float, g_y: Tensor, g_log: Tensor, g_x: Tensor, g_theta: Tensor
) -> None:
    """Fills g_x (m,), of x's stride as g_y is, and g_theta (m or 1, 3K + 1)."""
    LIBRARY.code.spline_backward(
        len(x), g_theta.shape[1] // 3, len(g_theta), x.stride(0), bound, x.data_ptr(),
        kept.share.data_ptr(), kept.place.data_ptr(), kept.bin.data_ptr(), g_y.data_ptr(),
        g_log.stride(0), g_log.data_ptr(), g_x.data_ptr(), g_theta.data_ptr(),
    )  # fmt: skip


class _Spline(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, theta: Tensor, bound: float) -> tuple[Tensor, Tensor]:
        y, log_slope = torch.empty_like(x), torch.zeros_like(x)
        ctx.kept, ctx.bound = _forward(x, theta, bound, y, log_slope, keep=True), bound
        ctx.save_for_backward(x)
        return y, log_slope

    @staticmethod
    @once_differentiable
    def backward(ctx, g_y: Tensor, g_log: Tensor) -> tuple[Tensor, Tensor, None]:
        (x,), kept = ctx.saved_tensors, ctx.kept
        g_x = torch.empty_like(x)
        g_theta = x.new_empty(len(kept.share), kept.share.shape[1] // 2 * 3 + 1)
        _backward(x, kept, ctx.bound, g_y.contiguous(), g_log.contiguous(), g_x, g_theta)
        return g_x, g_theta, None


def _flat(x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Points (m,) and their numbers (m, 3K + 1); (1, 3K + 1) where all share the same memory."""
    shared = theta.dim() > 1 and not any(theta.stride()[:-1]) and not theta.requires_grad
    if shared:
        theta = theta[(0,) * (theta.dim() - 1)][None]
    return x.reshape(-1).contiguous(), theta.reshape(-1, theta.shape[-1]).contiguous()


def spline(x: Tensor, theta: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """`engines.flow.spline.spline`, compiled where it can be."""
    if not _fits(x, theta):
        return tensors.spline(x, theta, bound)
    shape, (x, theta) = x.shape, _flat(x, theta)
    if torch.is_grad_enabled() and (x.requires_grad or theta.requires_grad):
        y, log_slope = _Spline.apply(x, theta, bound)
    else:
        y, log_slope = torch.empty_like(x), torch.zeros_like(x)
        _forward(x, theta, bound, y, log_slope, keep=False)
    return y.view(shape), log_slope.view(shape)


def spline_inverse(y: Tensor, theta: Tensor, bound: float) -> Tensor:
    """`engines.flow.spline.spline_inverse`, compiled where nobody asks for gradients."""
    wanted = torch.is_grad_enabled() and (y.requires_grad or theta.requires_grad)
    if wanted or not _fits(y, theta):
        return tensors.spline_inverse(y, theta, bound)
    shape, (y, theta) = y.shape, _flat(y, theta)
    x = torch.empty_like(y)
    LIBRARY.code.spline_inverse(
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


class _Chain(torch.autograd.Function):
    """All spline layers in the plane at once, forth and back; see `Chain`."""

    @staticmethod
    def forward(ctx, x, matrices, waves, bound, first, *parts):
        half = len(parts) // 2
        weights, biases = parts[:half], parts[half:]
        log_det, kept = x.new_zeros(len(x)), []
        for i in range(len(first)):
            y = x @ matrices[i]
            angle = torch.addcmul(waves[1][i], y[:, :1], waves[0][i])
            seen = [torch.cat([y[:, :1], angle.sin()], 1)]
            for w, b in zip(weights[:-1], biases[:-1]):
                seen.append(F.leaky_relu_(torch.addmm(b[i], seen[-1], w[i]), LEAK))
            told = FREE * first[i : i + 1], torch.addmm(biases[-1][i], seen[-1], weights[-1][i])
            x = torch.empty_like(y)
            bent = [
                _forward(y[:, c], told[c], bound, x[:, c], log_det, keep=True) for c in range(2)
            ]
            kept.append((y, angle, seen, bent))
        ctx.kept, ctx.fixed, ctx.first = kept, (matrices, waves[0], bound), first
        ctx.save_for_backward(*parts)
        return x, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx, g, g_log):
        parts, (matrices, frequency, bound) = ctx.saved_tensors, ctx.fixed
        out = [torch.empty_like(part) for part in parts]
        half = len(parts) // 2
        weights, g_weights, g_biases = parts[:half], out[:half], out[half:]
        g_first, (g, g_log) = torch.empty_like(ctx.first), (g.contiguous(), g_log.contiguous())
        for i in reversed(range(len(ctx.kept))):
            y, angle, seen, bent = ctx.kept[i]
            g_y, g_told = torch.empty_like(y), y.new_empty(len(y), weights[-1].shape[2])
            for c, g_theta in enumerate((g_first[i : i + 1], g_told)):
                _backward(y[:, c], bent[c], bound, g[:, c], g_log, g_y[:, c], g_theta)
            back, more = g_told, i > 0 or ctx.needs_input_grad[0]
            for j in reversed(range(half)):
                torch.sum(back, 0, out=g_biases[j][i])
                torch.mm(seen[j].T, back, out=g_weights[j][i])
                if j or more:
                    back = back @ weights[j][i].T
                if j:
                    LIBRARY.code.leaky_backward(
                        back.numel(), LEAK, seen[j].data_ptr(), back.data_ptr()
                    )
            if more:
                sines = (back[:, 1:] * angle.cos_()).mul_(frequency[i]).sum(1)
                g_y[:, 0] += back[:, 0] + sines
                g = g_y @ matrices[i].T
        ctx.kept = None
        return g if ctx.needs_input_grad[0] else None, None, None, None, g_first.mul_(FREE), *out


class Chain:
    """All layers of a SplineAutoregressive in the plane as one, with the gradient written out.

    The same products of matrices, and the kernels of kernels.c between them: what autograd would
    do in some two hundred steps takes about thirty.
    """

    def __init__(self, flow: SplineAutoregressive) -> None:
        self.flow = flow

    @staticmethod
    def fits(flow: nn.Module, x: Tensor) -> bool:
        """Whether it can stand for the flow's layers on rows like x."""
        if not isinstance(flow, SplineAutoregressive) or flow.bend != COMPILED:
            return False
        told = flow.conditioner
        return bool(told.free) and told.wavy and _fits(x, told.first)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 2) → (N, 2) and log|det| (N,)."""
        told, order = self.flow.conditioner, self.flow.mixing
        waves = told.frequency, told.phase
        z, log_det = _Chain.apply(
            x, order.matrix, waves, self.flow.bound, told.first, *told.weights, *told.biases
        )
        return z, log_det + 2 * order.scale.log().sum()


def moves(optimiser: torch.optim.Adam, weights: list[Tensor], average: Average) -> bool:
    """Whether `move` can stand for this optimiser's step; it has to have taken one before."""
    means, (group,) = list(average.module.parameters()), optimiser.param_groups
    plain = not (group["weight_decay"] or group["amsgrad"] or group["maximize"])
    alike = [w.shape for w in weights] == [mean.shape for mean in means]
    parts = [*weights, *means]
    return plain and alike and len(optimiser.state) == len(weights) and all(
        part.is_contiguous() and (part.dtype, part.device.type) == (torch.float32, "cpu")
        for part in parts
    )  # fmt: skip


def move(
    optimiser: torch.optim.Adam, weights: list[Tensor], average: Average, clip: float, step: int
) -> None:
    """Clip the gradients of all weights together, take Adam's step, update their average.

    As clip_grad_norm_, the optimiser's step and Average.update do, on the same state.
    """
    (group,), state = optimiser.param_groups, optimiser.state
    table = []
    for weight, mean in zip(weights, average.module.parameters()):
        kept = state[weight]
        parts = (weight.grad, weight, kept["exp_avg"], kept["exp_avg_sq"], kept["step"], mean)
        table += [part.data_ptr() for part in parts]
    sizes = (_N * len(weights))(*(weight.numel() for weight in weights))
    LIBRARY.code.adam(
        len(weights), sizes, (_P * len(table))(*table), clip, group["lr"], *group["betas"],
        group["eps"], 1 - average.share(step),
    )  # fmt: skip
