"""Compiled loops that sort and count: plain ones, without instructions of their own."""

import numpy as np

from pentti.kernels.compiling import compiled

__all__ = ["cells_above", "count_above", "cut_by_row", "sort_by_row"]

_DIGIT = 11  # bits: the counts of one digit stay in the first-level cache


@compiled
def sort_by_row(locations, weights, n_bits, entry, spare):
    """Sort entries of weight not 0 by location, equal ones in their order; gives how many.

    Location and entry share a word, which moves a digit at a time, the lowest first.
    """
    shift, n_kept = _entry_bits(locations), 0
    for i in range(len(locations)):
        if weights[i] != 0:
            entry[n_kept] = locations[i] << shift | i
            n_kept += 1
    starts = np.empty((1 << _DIGIT) + 1, dtype=np.int64)
    mask = (1 << _DIGIT) - 1
    source, target = entry, spare
    for low in range(shift, shift + n_bits, _DIGIT):
        starts[:] = 0
        for i in range(n_kept):
            starts[((source[i] >> low) & mask) + 1] += 1
        for digit in range(mask):
            starts[digit + 1] += starts[digit]
        for i in range(n_kept):
            digit = (source[i] >> low) & mask
            target[starts[digit]] = source[i]
            starts[digit] += 1
        source, target = target, source
    entry[:n_kept] = source[:n_kept]
    return n_kept


@compiled
def cut_by_row(locations, entry, n_kept, starts, rows):
    """The rows that the sorted entries fall on, and where each starts; gives how many.

    Leaves in `entry` the entries alone.
    """
    shift, n_rows = _entry_bits(locations), 0
    for e in range(n_kept):
        location = entry[e] >> shift
        if e == 0 or location != rows[n_rows - 1]:
            starts[n_rows] = e
            rows[n_rows] = location
            n_rows += 1
        entry[e] &= (1 << shift) - 1
    starts[n_rows] = n_kept
    return n_rows


@compiled
def _entry_bits(locations):
    n_bits = 0
    while len(locations) >> n_bits:
        n_bits += 1
    return n_bits


@compiled
def count_above(first, second, low, high, limit, reach):
    """How many of the falling `second` reach the limit together with each of `first`."""
    n = first.shape[1]
    for r in range(low, high):
        for i in range(n):
            start, stop = 0, n
            while start < stop:
                middle = (start + stop) // 2
                if first[r, i] + second[r, middle] >= limit:
                    start = middle + 1
                else:
                    stop = middle
            reach[r, i] = start


@compiled
def cells_above(order, low, high, reach, offsets, locations):
    """Write the cells that `count_above` has counted, ascending."""
    n = order.shape[1]
    for r in range(low, high):
        place = offsets[r]
        for i in range(n):
            if reach[r, i]:
                locations[place : place + reach[r, i]] = np.sort(order[r, : reach[r, i]]) + i * n
                place += reach[r, i]
