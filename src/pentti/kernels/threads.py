"""Share a kernel that has let go of the interpreter among threads.

Numba's own thread layers abort the process when two Python threads enter them
at once; these are plain Python threads around `nogil` kernels, as many as
`torch.get_num_threads()` says.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import pairwise
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
    ranges = list(pairwise(edges))
    try:
        pool = _pool(n_threads - 1)
        others: list[Future[Result]] = [pool.submit(kernel, *ends) for ends in ranges[1:]]
    except RuntimeError:  # the interpreter is shutting down and starts no threads any more
        return [kernel(*ends) for ends in ranges]
    try:
        mine = kernel(*ranges[0])
    finally:
        wait(others)
    return [mine, *(other.result() for other in others)]


def _pool(n_workers: int) -> ThreadPoolExecutor:
    # A forked child has no threads, so its pools are its own; stale ones are dropped with it.
    key = (os.getpid(), n_workers)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(n_workers, thread_name_prefix="pentti")
    return _pools[key]
