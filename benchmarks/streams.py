"""The floor under every scan: how long it takes to read the packed addresses and no more."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit
from torch import Tensor

from benchmarks.timing import Entry

__all__ = ["stream"]

Array = npt.NDArray[Any]


@njit(nogil=True, cache=True)
def _compiled_sum(words: Array) -> Any:
    total = words.dtype.type(0)
    for i in range(len(words)):
        total += words[i]
    return total


def _numpy_sum(words: Array) -> Any:
    return words.sum()


def stream(words: Tensor, n_threads: int) -> Entry:
    """An entry that adds up all words, by the fastest of several ways on this machine.

    Args:
        words: int64 tensor, contiguous.
        n_threads: Among so many threads.
    """
    if words.device.type != "cpu":
        return _entry(lambda: int(words.sum()), int(words.sum()), words, "torch sum")
    flat = words.numpy().reshape(-1)
    ways = {
        f"{name}, {n} threads": _split(add, flat, n)
        for name, add in (("numba sum", _compiled_sum), ("numpy sum", _numpy_sum))
        for n in sorted({1, n_threads})
    }
    best = min(ways, key=lambda name: _best_of(ways[name]))
    return _entry(ways[best], int(flat.sum()), words, best)


def _entry(run: Callable[[], int], total: int, words: Tensor, way: str) -> Entry:
    def fault(result: int) -> str | None:
        return None if (result - total) % 2**64 == 0 else "the sum differs"

    size = words.numel() * words.element_size()
    return Entry("stream", lambda _: run(), 1, fault, facts={"way": way, "size_bytes": size})


def _split(add: Callable[[Array], Any], words: Array, n_threads: int) -> Callable[[], int]:
    """Add up all words, one part of them in this thread and the others in others."""
    pool = ThreadPoolExecutor(max(1, n_threads - 1))
    edges = [len(words) * i // n_threads for i in range(n_threads + 1)]
    first, *rest = (words[low:high] for low, high in itertools.pairwise(edges))

    def run() -> int:
        others = [pool.submit(add, part) for part in rest]
        return int(add(first)) + sum(int(other.result()) for other in others)

    return run


def _best_of(run: Callable[[], int]) -> float:
    times = []
    for _ in range(9):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))
