"""Who can say which hard locations lie within the radius: pentti and its peers.

A scanner is made from a problem, prepares its inputs outside the time, scans some cues,
and turns what it got into an activation that can be compared with the reference.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch

from benchmarks.problems import Activation, Array, Problem, Size, csr, packed
from pentti import bits, kernels

__all__ = ["SCANNERS", "Scanner"]


class Scanner(Protocol):
    """One way to scan."""

    module: str
    batched: bool

    def __init__(self, problem: Problem, n_threads: int, device: str) -> None: ...

    @staticmethod
    def needs_bytes(size: Size) -> int: ...

    def scan(self, cues: slice) -> Any: ...

    def activation(self, result: Any) -> Activation: ...


class Pentti:
    """The kernel that `HammingBall` calls, on packed cues."""

    module = "pentti"
    batched = True

    def __init__(self, problem: Problem, n_threads: int, device: str) -> None:
        torch.set_num_threads(n_threads)
        self.decoder = problem.decoder.to(device)
        self.cues = bits.pack(problem.cues.to(device))
        self.size = problem.size

    @staticmethod
    def needs_bytes(size: Size) -> int:
        del size
        return 0

    def scan(self, cues: slice) -> Any:
        return kernels.for_device(self.cues.device).hamming_scan(
            self.decoder.address_tiles,
            self.size.n_locations,
            self.cues[cues],
            self.size.radius,
            self.decoder.activation_probability,
        )

    def activation(self, result: Any) -> Activation:
        locations, offsets = result
        return locations.cpu().numpy(), offsets.cpu().numpy()


class Faiss:
    """`IndexBinaryFlat.range_search`, whose radius is exclusive."""

    module = "faiss"
    batched = True

    def __init__(self, problem: Problem, n_threads: int, device: str) -> None:
        import faiss

        del device
        faiss.omp_set_num_threads(n_threads)
        hard = problem.hard.view(np.uint8)
        self.index = faiss.IndexBinaryFlat(8 * hard.shape[1])
        self.index.add(hard)
        self.cues = packed(problem.cues).view(np.uint8)
        self.radius = problem.size.radius + 1

    @staticmethod
    def needs_bytes(size: Size) -> int:
        return size.n_locations * size.address_bits // 8

    def scan(self, cues: slice) -> Any:
        return self.index.range_search(self.cues[cues], self.radius)

    def activation(self, result: Any) -> Activation:
        offsets, _, found = result
        rows = itertools.pairwise(offsets)
        return csr([np.sort(found[int(low) : int(high)]) for low, high in rows])


class NumKong:
    """`hammings_packed`: distances only, by the fastest of its ways for each size of batch."""

    module = "numkong"
    batched = True

    def __init__(self, problem: Problem, n_threads: int, device: str) -> None:
        import numkong

        del device
        self.lib, self.n_threads = numkong, n_threads
        self.pool = ThreadPoolExecutor(n_threads)
        self.hard = problem.hard.view(np.uint8)
        self.packed = numkong.hammings_pack(self.hard)
        self.cues = packed(problem.cues).view(np.uint8)
        self.radius = problem.size.radius
        self.ways: dict[int, Callable[[Array], Any]] = {}
        self.out: Any = None

    @staticmethod
    def needs_bytes(size: Size) -> int:
        return size.n_locations * (size.address_bits // 4 + 4 * size.n_words)

    def scan(self, cues: slice) -> Any:
        some = self.cues[cues]
        if len(some) not in self.ways:
            self.ways[len(some)] = self._fastest(some)
        return self.ways[len(some)](some)

    def activation(self, result: Any) -> Activation:
        return csr([np.flatnonzero(row <= self.radius) for row in result])

    def _fastest(self, cues: Array) -> Callable[[Array], Any]:
        ways = (self._by_cue, self._by_location, self._by_cue_in_threads)
        seconds = []
        for way in ways:
            self.out = None
            way(cues)
            start = time.perf_counter()
            way(cues)
            seconds.append(time.perf_counter() - start)
        self.out = None
        return ways[int(np.argmin(seconds))]

    def _by_cue(self, cues: Array) -> Any:
        self._make_room(len(cues), len(self.hard))
        return np.asarray(self.lib.hammings_packed(cues, self.packed, out=self.out))

    def _by_cue_in_threads(self, cues: Array) -> Any:
        self._make_room(len(cues), len(self.hard))
        return self._share(cues, self.packed)

    def _by_location(self, cues: Array) -> Any:
        self._make_room(len(self.hard), len(cues))
        return self._share(self.hard, self.lib.hammings_pack(cues)).T

    def _share(self, rows: Array, other: Any) -> Any:
        edges = [len(rows) * i // self.n_threads for i in range(self.n_threads + 1)]

        def part(low: int, high: int) -> None:
            if low < high:
                self.lib.hammings_packed(rows, other, out=self.out, start_row=low, end_row=high)

        list(self.pool.map(part, edges, edges[1:]))
        return np.asarray(self.out)

    def _make_room(self, *shape: int) -> None:
        if self.out is None:
            self.out = self.lib.zeros(shape, dtype="uint32")


class Dense:
    """A product of ±1 matrices in float32, then a threshold."""

    module = "torch"
    batched = True

    def __init__(self, problem: Problem, n_threads: int, device: str) -> None:
        torch.set_num_threads(n_threads)
        self.hard = signs(problem.decoder.hard_addresses, device)
        self.cues = signs(problem.cues, device)
        self.threshold = problem.size.address_bits - 2 * problem.size.radius

    @staticmethod
    def needs_bytes(size: Size) -> int:
        return size.n_locations * (6 * size.address_bits + 5 * size.n_words)

    def scan(self, cues: slice) -> Any:
        similarity = self.cues[cues] @ self.hard.T
        return (similarity >= self.threshold).nonzero(), len(similarity)

    def activation(self, result: Any) -> Activation:
        found, n_cues = result
        row, location = found.T.cpu().numpy()
        return location, np.searchsorted(row, np.arange(n_cues + 1))


class Numpy:
    """What one would write first: XOR, count, compare, one cue at a time."""

    module = "numpy"
    batched = False

    def __init__(self, problem: Problem, n_threads: int, device: str) -> None:
        del n_threads, device
        self.hard, self.cues = problem.hard, packed(problem.cues)
        self.radius = problem.size.radius

    @staticmethod
    def needs_bytes(size: Size) -> int:
        return size.n_locations * size.address_bits // 4

    def scan(self, cues: slice) -> Any:
        (cue,) = self.cues[cues]
        return np.flatnonzero(np.bitwise_count(self.hard ^ cue).sum(1) <= self.radius)

    def activation(self, result: Any) -> Activation:
        return csr([result])


def signs(words: torch.Tensor, device: str) -> torch.Tensor:
    """Bits as ±1 in float32."""
    return words.to(device=device, dtype=torch.float32).mul_(2).sub_(1)


SCANNERS: dict[str, type[Scanner]] = {
    "pentti": Pentti,
    "faiss": Faiss,
    "numkong": NumKong,
    "dense product": Dense,
    "numpy loop": Numpy,
}
