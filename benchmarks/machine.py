"""What the figures were measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import torch

from benchmarks.timing import Line
from pentti.peaks import told_bytes

__all__ = ["describe", "free_bytes"]

_PACKAGES = (
    "pentti", "torch", "numpy", "numba", "scipy", "faiss-cpu", "numkong", "torch-hd", "sdm",
    "KanervaSDM", "product-key-memory",
)  # fmt: skip


def describe() -> Line:
    """Processor, cores, memory and versions, as the first line of a results file."""
    return {
        "case": "machine",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_bytes": _total_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def free_bytes(device: str = "cpu") -> int:
    """Memory that a new process may take; where the system does not say, as if without end.

    Args:
        device: Whose memory.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info()[0]
    return told_bytes(Path("/proc/meminfo"), "MemAvailable") or sys.maxsize


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def _total_bytes() -> int | None:
    return told_bytes(Path("/proc/meminfo"), "MemTotal")
