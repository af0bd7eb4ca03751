"""Arrays of marks as the few bits that a screen can show, worked out where the numbers are.

What the codes mean is said in app/pack.py, which puts them into a frame. A mark's array is a numpy
array, or a tensor on a GPU: there it is turned into codes on the device, so that a field is a quarter
of its bytes and places half of theirs, which leave it through pinned memory.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from engines.arrays import numpy
from engines.marks import Box, Curve, Heat, Images, Mark, Panel, Surface

# A point further from the box than this many of its widths is drawn at that distance: it is
# out of sight all the same, and one lost point must not take the others' resolution.
FAR = 20.0
SENTINEL = -32768


class Codes(NamedTuple):
    """A quantised array, and what its codes mean: `code`, and the numbers that belong to it."""

    codes: np.ndarray
    how: dict[str, Any]


def settle(panel: Panel) -> Panel:
    """Put codes in place of whatever lies on a device in a drawn panel; returns the panel."""
    panel.marks = [_settled(mark, panel.box) for mark in panel.marks]
    return panel


def _settled(mark: Mark, box: Box | None) -> Mark:
    names = [f.name for f in dataclasses.fields(mark) if isinstance(getattr(mark, f.name), Tensor)]
    codes = {name: coded(mark, name, getattr(mark, name), box) for name in names}
    return dataclasses.replace(mark, **codes) if codes else mark


@torch.no_grad()
def coded(mark: Mark | Curve, name: str, value: np.ndarray | Tensor, box: Box | None) -> Codes:
    """One array of a mark, in a panel over `box`."""
    if isinstance(mark, Heat) and name == "values":
        return _heat(mark, _double(value))
    if isinstance(mark, Surface) and name == "values":
        return _fine(_double(value)[..., None], None)
    if name == "xy":
        return _fine(_double(value), box)
    if name == "vectors":
        return _fine(_double(value), None)
    if name == "group":
        group = _double(value)
        return _bytes(torch.where(group < 0, 255.0, group % 255), code="group")
    if isinstance(mark, Images) and name == "pixels":
        v = _double(value).float()  # as it was made: a half may round either way
        codes = 1 + torch.round(254 * v.clamp(0, 1).nan_to_num(0.0))
        return _bytes(torch.where(v.isnan(), 0.0, codes), code="pixels")
    if name == "alpha":
        unit = _double(value).float().nan_to_num(0.0).clamp(0, 1)
        return _bytes(torch.round(unit * 255), code="unit")
    if isinstance(value, Tensor):
        value = numpy(value)
    with np.errstate(over="ignore"):
        return Codes(value.astype(np.float32), {"code": "plain"})


def _double(value: np.ndarray | Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().double()
    return torch.from_numpy(np.array(value, dtype=np.float64))


def _bytes(codes: Tensor, **how: Any) -> Codes:
    return Codes(numpy(codes.to(torch.uint8)), how)


def _heat(mark: Heat, v: Tensor) -> Codes:
    if mark.scale == "diverging":
        hi = mark.hi if mark.hi is not None else _most(v.abs(), 0.0)
        his = _tops(hi, 0.0)
        codes = 128 + torch.round(127 * (v / _over(his, v)).clamp(-1, 1))
        how = {"code": "diverging", "lo": _one([-hi for hi in his]), "gamma": 1.0}
    else:
        lo, gamma = short(mark.lo), float(mark.gamma)
        his = _tops(mark.hi if mark.hi is not None else _most(v, lo), lo)
        codes = 1 + torch.round(254 * ((v - lo) / (_over(his, v) - lo)).clamp(0, 1) ** gamma)
        how = {"code": "sequential", "lo": lo, "gamma": gamma}
    return _bytes(torch.where(v.isnan(), 0.0, codes), hi=_one(his), **how)


def _most(v: Tensor, least: float) -> float:
    """The largest finite value, at least `least`."""
    if not v.numel():
        return least
    most = float(v.amax())  # NaN where there is one
    if not math.isfinite(most):
        most = float(torch.where(v.isfinite(), v, -torch.inf).amax())
    return max(least, most)


def _tops(hi: float | np.ndarray, lo: float) -> list[float]:
    """The upper end of a field's scale, or of each keyframe's, always above the lower end."""
    his = [short(x) for x in np.atleast_1d(hi)]
    return [x if x > lo else lo + 1.0 for x in his]


def _one(values: list[float]) -> float | list[float]:
    return values[0] if len(values) == 1 else values


def _over(hi: Sequence[float], like: Tensor) -> Tensor:
    """One number for all of (…, H, W), or one for each of (T, H, W)."""
    his = like.new_tensor(hi)
    return his.reshape(-1, 1, 1) if len(his) > 1 else his.reshape(())


def _fine(v: Tensor, box: Box | None) -> Codes:
    """int16 with an offset and a scale for each entry of the last axis."""
    if box is not None:
        low, high = v.new_tensor(box[0::2]), v.new_tensor(box[1::2])
        reach = FAR * (high - low)
        # NaN and infinity stay what they are: they are not drawn
        v = torch.where(v.isfinite(), v.clamp(low - reach, high + reach), v)
    flat = v.reshape(-1, v.shape[-1])
    bad = ~flat.isfinite()
    if not flat.numel():
        least = most = np.zeros(v.shape[-1])
    else:
        ends = [
            torch.where(bad, torch.inf, flat).amin(0),
            torch.where(bad, -torch.inf, flat).amax(0),
        ]
        least, most = numpy(torch.stack(ends))
    empty = least > most
    least, most = np.where(empty, 0.0, least), np.where(empty, 0.0, most)
    offset = [short(x) for x in least / 2 + most / 2]
    # the half range is measured from the rounded offset, so that both ends fit
    half = np.maximum(most - offset, offset - least)
    scale = [short(x) * (1 + 1e-8) if x > 0 else 1.0 for x in half / 32767]
    codes = torch.round((v - v.new_tensor(offset)) / v.new_tensor(scale))
    # a point without one of its coordinates is no point
    lost = ~v.isfinite().all(-1, keepdim=True)
    codes = torch.where(lost, float(SENTINEL), codes).to(torch.int16)
    return Codes(numpy(codes), {"code": "fine", "offset": offset, "scale": scale})


def short(x: float) -> float:
    """Nine digits are what a float32 holds."""
    return float(f"{float(x):.9g}")
