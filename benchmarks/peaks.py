"""How much more memory a call takes at its peak than was in use before it."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.machine import resident_bytes

__all__ = ["bytes_in_use", "extra_bytes"]

_RESET_PEAK = "5"  # what proc(5) says to write


def extra_bytes(run: Callable[[], object], device: str) -> int:
    """The peak of the memory in use while `run` runs, above what was in use before.

    On the CPU that is resident memory as the system counts it, from a heap that has first given
    back what it did not use: what was freed before and is taken again counts as well. Buffers that
    a library keeps for its next call do not count in that next call: weigh the first one.

    Args:
        run: The call; what it returns is counted.
        device: Where it runs.

    Raises:
        OSError: where the system does not say.
    """
    before = bytes_in_use(device)
    if _on_cuda(device):
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    run()
    return resident_bytes()[1] - before


def bytes_in_use(device: str) -> int:
    """Memory in use now, once all that is free has been given back.

    Args:
        device: Whose.

    Raises:
        OSError: where the system does not say.
    """
    gc.collect(1)  # not the oldest objects: they are many, and none of them a tensor of ours
    if _on_cuda(device):
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return resident_bytes()[0]


def _on_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"
