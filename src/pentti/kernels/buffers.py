"""Memory for gradients, used again: fresh pages cost more than what is written into them."""

from __future__ import annotations

import math
import threading
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ALIGNMENT", "recycled"]

ALIGNMENT = 64
"""Bytes: a large array starts on a cache line."""

_LEAST_BYTES = 1 << 20  # below that the allocator recycles by itself
_SLACK = 1.125  # the number of touched rows differs a little from step to step
_lock = threading.Lock()
_free: list[npt.NDArray[np.uint8]] = []


def recycled(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An uninitialised array, over memory that an earlier one has let go of where there is some.

    As many blocks are kept as were in use at one time, each as large as the largest array that it
    has held, and an eighth more.

    Args:
        shape: Of the array.
        dtype: Of the array.

    Returns:
        The array; its memory is free again once nothing refers to the array itself, so keep it
        and not a view of it. `torch.from_numpy` does.
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if n_bytes < _LEAST_BYTES:
        return np.empty(shape, dtype)
    memory = _take(n_bytes + ALIGNMENT)
    array = memory[-memory.ctypes.data % ALIGNMENT :][:n_bytes].view(dtype).reshape(shape)
    weakref.finalize(array, _free.append, memory).atexit = False
    return array


def _take(n_bytes: int) -> npt.NDArray[np.uint8]:
    with _lock:
        # The smallest that is large enough; where none is, the smallest makes way for a new one.
        sizes = [(memory.nbytes < n_bytes, memory.nbytes) for memory in _free]
        memory = _free.pop(sizes.index(min(sizes))) if sizes else None
    if memory is not None and memory.nbytes >= n_bytes:
        return memory
    return np.empty(int(_SLACK * n_bytes), dtype=np.uint8)
