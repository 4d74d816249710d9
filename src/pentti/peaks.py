"""Memory in use, and how much more of it a call takes at its peak."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["bytes_in_use", "extra_bytes", "resident_bytes", "told_bytes"]

_RESET_PEAK = "5"  # what proc(5) says to write


def extra_bytes(run: Callable[[], object], device: str) -> int:
    """The peak of the memory in use while `run` runs, above what was in use before.

    On the CPU that is resident memory as the system counts it, from a heap that has first given
    back what it did not use: what was freed before and is taken again counts as well. Buffers that
    a library keeps for its next call do not count in that next call: weigh the first one.

    Args:
        run: The call; what it returns is counted.
        device: Where it runs.

    Returns:
        Bytes.

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

    Returns:
        Bytes.

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


def resident_bytes() -> tuple[int, int]:
    """This process's resident memory: now, and at its highest.

    Returns:
        Both in bytes.

    Raises:
        OSError: where the system does not say.
    """
    status = Path("/proc/self/status")
    now, peak = told_bytes(status, "VmRSS"), told_bytes(status, "VmHWM")
    if now is None or peak is None:
        raise OSError("this system does not tell a process's resident memory")
    return now, peak


def told_bytes(path: Path, key: str) -> int | None:
    """What a line such as ``VmRSS:  1024 kB`` tells.

    Args:
        path: A file of such lines.
        key: What stands before the colon.

    Returns:
        Bytes; None where there is no such file or line.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{key}:")]
    return int(found[0]) * 1024 if found else None


def _on_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"
