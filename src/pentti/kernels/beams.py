"""Compiled loops over the contents that locations have for a beam of units."""

from __future__ import annotations

import numpy as np

from pentti.kernels.compiling import compiled
from pentti.kernels.loops import prefetch_to_read, prefetch_to_write, saturating_add

__all__ = ["add_counters", "add_real", "sum_active"]

_AHEAD = 8  # rows of contents that are on their way while one is at work
_FLUSH_ROWS = 1 << 14  # 2¹⁴ int16 counters cannot overflow an int32


@compiled
def _first_unit(location, n_locations, n_units, fan_out):
    """The first unit that a location meets."""
    return location * n_units // n_locations if fan_out < n_units else 0


@compiled
def add_counters(contents, low, high, n_units, locations, offsets, change, ceiling):
    """Add each row of changes to its active rows within a range, between 0 and the ceiling."""
    n_locations, fan_out = contents.shape
    zero = ceiling - ceiling
    for b in range(len(change)):
        row, step = locations[offsets[b] : offsets[b + 1]], change[b]
        last = np.searchsorted(row, high)
        for i in range(np.searchsorted(row, low), last):
            if i + _AHEAD < last:
                prefetch_to_write(contents, row[i + _AHEAD])
            counters = contents[row[i]]
            first = _first_unit(row[i], n_locations, n_units, fan_out)
            head = min(fan_out, n_units - first)
            near, far = counters[:head], counters[head:]
            for f in range(len(near)):
                near[f] = min(max(saturating_add(near[f], step[first + f]), zero), ceiling)
            for f in range(len(far)):
                far[f] = min(max(saturating_add(far[f], step[f]), zero), ceiling)


@compiled
def add_real(contents, low, high, n_units, locations, offsets, change, ceiling):
    """The same for real contents."""
    n_locations, fan_out = contents.shape
    zero = contents.dtype.type(0)
    for b in range(len(change)):
        row, step = locations[offsets[b] : offsets[b + 1]], change[b]
        last = np.searchsorted(row, high)
        for i in range(np.searchsorted(row, low), last):
            if i + _AHEAD < last:
                prefetch_to_write(contents, row[i + _AHEAD])
            weights = contents[row[i]]
            first = _first_unit(row[i], n_locations, n_units, fan_out)
            head = min(fan_out, n_units - first)
            near, far = weights[:head], weights[head:]
            for f in range(len(near)):
                near[f] = min(max(near[f] + step[first + f], zero), ceiling)
            for f in range(len(far)):
                far[f] = min(max(far[f] + step[f], zero), ceiling)


@compiled
def sum_active(contents, low, high, locations, offsets, partial, sums):
    """Sum the contents that active rows have for each unit, for a range of the batch."""
    n_locations, fan_out = contents.shape
    n_units = len(partial)
    for b in range(low, high):
        row = locations[offsets[b] : offsets[b + 1]]
        for start in range(0, len(row), _FLUSH_ROWS):
            for i in range(start, min(len(row), start + _FLUSH_ROWS)):
                if i + _AHEAD < len(row):
                    prefetch_to_read(contents, row[i + _AHEAD])
                weights = contents[row[i]]
                first = _first_unit(row[i], n_locations, n_units, fan_out)
                head = min(fan_out, n_units - first)
                near, far = weights[:head], weights[head:]
                for f in range(len(near)):
                    partial[first + f] += near[f]
                for f in range(len(far)):
                    partial[f] += far[f]
            for u in range(n_units):
                sums[b, u] += partial[u]
                partial[u] = 0
