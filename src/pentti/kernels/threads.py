"""Share a kernel that has let go of the interpreter among threads.

Numba's own thread layers abort the process when two Python threads enter them
at once, or after a fork; these are plain Python threads around `nogil`
kernels, as many as `torch.get_num_threads()` says.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["over_ranges"]

Result = TypeVar("Result")
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def over_ranges(
    kernel: Callable[[int, int], Result], n_items: int, parallel: bool = True
) -> list[Result]:
    """Call ``kernel(low, high)`` on contiguous ranges that together cover [0, n_items).

    Args:
        kernel: Called once for each range, from several threads at a time.
        n_items: How many items there are.
        parallel: False for work too small to share.

    Returns:
        The results in the order of the ranges.
    """
    n_threads = min(torch.get_num_threads(), n_items) if parallel else 1
    if n_threads <= 1:
        return [kernel(0, n_items)]
    edges = [n_items * i // n_threads for i in range(n_threads + 1)]
    pool = _pool(n_threads - 1)
    others = [pool.submit(kernel, *edges[i : i + 2]) for i in range(1, n_threads)]
    try:
        mine = kernel(edges[0], edges[1])
    finally:  # also on Ctrl-C: nobody may still write when the caller goes on
        for other in others:
            other.exception()
    return [mine, *(other.result() for other in others)]


def _pool(n_workers: int) -> ThreadPoolExecutor:
    # A forked child has no threads, so its pools are its own; stale ones are dropped with it.
    key = (os.getpid(), n_workers)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(n_workers, thread_name_prefix="pentti")
    return _pools[key]
