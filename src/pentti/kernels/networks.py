"""The best cells of small grids by sorting networks, which treat many grids at a time.

A network is a fixed list of pairs of places: where the second of a pair holds more, both change
places. No step depends on what was found before, so that the compiler turns the loop over grids
into vector instructions.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pentti.kernels.compiling import compiled

__all__ = ["Plan", "best_of_few", "plan"]

Array = npt.NDArray[Any]

_MOST = (32, 64)  # sub-scores, and sums, up to which a network is the faster way
_GRIDS = 16  # at a time


class Plan(NamedTuple):
    """How the best cells of a grid are found.

    Attributes:
        halves: Pairs of places, int64 (S, 2), that bring the best sub-scores to the front.
        cells: Ranks of the sub-scores of each cell that can be among the best, int64 (2, C).
        sums: Pairs of places that bring the best of these cells to the front, int64 (S, 2).
    """

    halves: Array
    cells: Array
    sums: Array


@cache
def plan(n: int, k: int, ordered: bool) -> Plan | None:
    """How the k best cells of a grid of n × n are found.

    Args:
        n: Sub-scores on each side.
        k: How many cells, in [1, n²].
        ordered: Whether the sub-scores come with the best first already.

    Returns:
        The plan; None where there is too much for networks.
    """
    # The cell of ranks (a, b) is the worst of (a + 1)(b + 1) cells.
    ranks = [(a, b) for a in range(min(k, n)) for b in range(min(n, k // (a + 1)))]
    if n > _MOST[0] or len(ranks) > _MOST[1]:
        return None
    halves = [] if ordered else _network(n, min(k, n))
    sums = _network(len(ranks), k)
    pairs = (np.array(steps, dtype=np.int64).reshape(-1, 2) for steps in (halves, sums))
    return Plan(next(pairs), np.array(ranks, dtype=np.int64).T.copy(), next(pairs))


def _network(n: int, k: int) -> list[tuple[int, int]]:
    """Batcher's sort by odd-even merges, without the steps that the first k places do not need."""
    steps = []
    run = 1
    while run < n:
        gap = run
        while gap:
            for start in range(gap % run, n - gap, 2 * gap):
                ones = range(start, min(start + gap, n - gap))
                steps += [(i, i + gap) for i in ones if i // (2 * run) == (i + gap) // (2 * run)]
            gap //= 2
        run *= 2
    wanted, needed = set(range(k)), []
    for pair in reversed(steps):
        if wanted & set(pair):
            wanted |= set(pair)
            needed.append(pair)
    return needed[::-1]


@compiled
def best_of_few(score_bits, low, high, halves, cells, sums, pairs):
    """The best cells of the grid of each row in a range, of the bits of float32 sub-scores.

    A key holds the bits of a number, so that integers order them, and then its place.
    """
    n, k, kept = score_bits.shape[2], pairs.shape[2], np.max(cells) + 1
    keys = np.empty((max(n, cells.shape[1]), _GRIDS), dtype=np.int64)
    order = np.empty((2, kept, _GRIDS), dtype=np.int64)
    tops = np.empty((2, kept, _GRIDS), dtype=np.int32)
    totals = np.empty(_GRIDS, dtype=np.float32)
    values, total_bits = tops.view(np.float32), totals.view(np.int32)
    n_cells = cells.shape[1]
    for first in range(low, high, _GRIDS):
        n_grids = min(_GRIDS, high - first)
        keys[:n, n_grids:] = 0
        for side in range(2):
            _best_halves(score_bits[side, first : first + n_grids], halves, keys, order[side])
            for a in range(kept):
                for g in range(_GRIDS):
                    tops[side, a, g] = _bits(keys[a, g] >> 32)
        for c in range(n_cells):
            one, other = values[0, cells[0, c]], values[1, cells[1, c]]
            for g in range(_GRIDS):
                totals[g] = one[g] + other[g]
            for g in range(_GRIDS):
                keys[c, g] = _key(total_bits[g], n_cells - 1 - c)
        _sort(keys, sums)
        for j in range(k):
            for g in range(n_grids):
                c = n_cells - 1 - _place(keys[j, g])
                pairs[0, first + g, j] = order[0, cells[0, c], g]
                pairs[1, first + g, j] = order[1, cells[1, c], g]


@compiled
def _best_halves(score_bits, steps, keys, order):
    """Sort the sub-scores of one side of some grids, by their keys, and note their places."""
    n = score_bits.shape[1]
    for g in range(len(score_bits)):
        for i in range(n):
            keys[i, g] = _key(score_bits[g, i], n - 1 - i)
    _sort(keys, steps)
    for a in range(len(order)):
        for g in range(_GRIDS):
            order[a, g] = n - 1 - _place(keys[a, g])


@compiled
def _sort(keys, steps):
    for s in range(len(steps)):
        one, other = keys[steps[s, 0]], keys[steps[s, 1]]
        for g in range(_GRIDS):
            larger, smaller = max(one[g], other[g]), min(one[g], other[g])
            one[g], other[g] = larger, smaller


@compiled
def _key(bits, place):
    """Numbers in order, −0 equal to 0 and NaN above all; of equal ones the larger place."""
    magnitude = bits & np.int32(0x7FFFFFFF)
    key = bits if bits >= 0 else bits ^ np.int32(0x7FFFFFFF)
    key = np.int32(0) if magnitude == 0 else key
    key = np.int32(0x7FFFFFFF) if magnitude > 0x7F800000 else key
    return (np.int64(key) << 32) | place


@compiled
def _place(key):
    return key & 0xFFFFFFFF


@compiled
def _bits(key):
    """The bits of the number that a key is of."""
    return np.int32(key if key >= 0 else key ^ 0x7FFFFFFF)
