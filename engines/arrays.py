"""Tensors as arrays."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def numpy(x: Tensor) -> np.ndarray:
    """Off the device; only ever called while a frame is drawn.

    From a GPU through pinned memory, so that no other stream is waited for.
    """
    x = x.detach()
    if not x.is_cuda:
        return x.cpu().numpy()
    there = torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
    torch.cuda.current_stream(x.device).synchronize()
    return there.numpy().copy()


def stays(x: Tensor) -> bool:
    """Whether what a mark shows is left where it lies until it is quantised."""
    return x.is_cuda


def marked(x: Tensor) -> np.ndarray | Tensor:
    """For an array of a mark that nothing else is made of: on a GPU it stays there, and leaves it
    as codes (engines/quantise.py)."""
    x = x.detach()
    return x if stays(x) else numpy(x)
