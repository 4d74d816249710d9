"""Share a kernel that has let go of the interpreter among threads.

The threads are those of torch's own OpenMP: after an operator of torch they stay awake for a few
milliseconds, and a second pool beside them would get half of their cores. Where there is no such
library, or in a forked child, where it would hang, plain Python threads do the same. Numba's own
layers abort the process when two Python threads enter them at once.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch

__all__ = ["over_ranges"]

Result = TypeVar("Result")
_HOME = os.getpid()
_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def over_ranges(
    kernel: Callable[[int, int], Result], n_items: int, parallel: bool = True, n_shares: int = 1
) -> list[Result]:
    """Call ``kernel(low, high)`` on contiguous ranges that together cover [0, n_items).

    Args:
        kernel: Called once for each range, from several threads at a time.
        n_items: How many items there are.
        parallel: False for work too small to share.
        n_shares: Ranges for each of `torch.get_num_threads()` threads; with more than one, a thread
            that is held up takes fewer of them.

    Returns:
        The results in the order of the ranges.

    Raises:
        BaseException: the first that a call of the kernel raised, once all have ended.
    """
    n_threads = min(torch.get_num_threads(), n_items) if parallel else 1
    if n_threads <= 1:
        return [kernel(0, n_items)]
    n_ranges = min(n_threads * n_shares, n_items)
    edges = [n_items * i // n_ranges for i in range(n_ranges + 1)]
    left = iter(list(enumerate(pairwise(edges))))  # of a list, so that threads may share it
    results: dict[int, Result] = {}
    failures: list[BaseException] = []

    def work(_: Any = None) -> None:
        try:
            for place, ends in left:
                results[place] = kernel(*ends)
        except BaseException as failure:  # noqa: BLE001 what called this cannot raise
            failures.append(failure)

    team = _team() if os.getpid() == _HOME else None
    if team is not None:
        team(_CALLBACK(work), None, n_threads, 0)
    else:
        _in_pool(work, n_threads)
    if failures:
        raise failures[0]
    return [results[place] for place in range(n_ranges)]


@cache
def _team() -> Any:
    """Calls a function once in each thread of torch's OpenMP; None if that cannot be had."""
    for library in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*")):
        try:
            team = ctypes.CDLL(str(library)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        team.argtypes = (_CALLBACK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        team.restype = None
        return team
    return None


def _in_pool(work: Callable[[], None], n_threads: int) -> None:
    try:
        pool = _pool(os.getpid(), n_threads - 1)
        others = [pool.submit(work) for _ in range(n_threads - 1)]
    except RuntimeError:  # the interpreter is shutting down and starts no threads any more
        others = []
    try:
        work()
    finally:
        wait(others)


@cache
def _pool(_process: int, n_workers: int) -> ThreadPoolExecutor:
    """A pool of this process: a forked child has none of its parent's threads."""
    return ThreadPoolExecutor(n_workers, thread_name_prefix="pentti")
