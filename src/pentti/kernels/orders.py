"""Compiled loops that sort and count: plain ones, without instructions of their own."""

import numpy as np

from pentti.kernels.compiling import compiled

__all__ = ["cells_above", "count_above", "cut_by_row", "sort_by_row"]

_DIGIT = 11  # bits: the counts of one digit stay in the first-level cache


@compiled
def sort_by_row(locations, n_bits, entry, spare):
    """Sort entries by location, equal ones in their order: a digit at a time, the lowest first."""
    starts = np.empty((1 << _DIGIT) + 1, dtype=np.int64)
    mask = (1 << _DIGIT) - 1
    for shift in range(0, n_bits, _DIGIT):
        starts[:] = 0
        for i in range(len(entry)):
            starts[((locations[entry[i]] >> shift) & mask) + 1] += 1
        for digit in range(mask):
            starts[digit + 1] += starts[digit]
        for i in range(len(entry)):
            digit = (locations[entry[i]] >> shift) & mask
            spare[starts[digit]] = entry[i]
            starts[digit] += 1
        entry, spare = spare, entry
    return entry


@compiled
def cut_by_row(locations, entry, starts, rows):
    """The rows that the sorted entries fall on, and where each starts; gives how many."""
    n_rows = 0
    for e in range(len(entry)):
        location = locations[entry[e]]
        if e == 0 or location != rows[n_rows - 1]:
            starts[n_rows] = e
            rows[n_rows] = location
            n_rows += 1
    starts[n_rows] = len(entry)
    return n_rows


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
