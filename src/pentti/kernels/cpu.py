"""The kernels compiled by numba for the CPU: same names and same results as `reference`.

Compiled on first use and cached on disk, so that only the very first call waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor

from pentti.kernels.layout import LANES
from pentti.kernels.simd import (
    prefetch_to_read,
    prefetch_to_write,
    saturating_add,
    trailing_zeros,
    within_radius_1,
    within_radius_4,
)
from pentti.kernels.threads import over_ranges

__all__ = ["add_rows", "hamming_scan", "literal_match", "majority_rows", "sum_rows"]

Array = npt.NDArray[Any]
Hits = tuple[Array, Array]

_SCAN_CUES = 256  # cues that stay in the first-level cache during a scan
_MATCH_CUES = 64  # cues that share one 64-bit word in a match
_GROUP = 4  # cues that share one load of a tile
_FLUSH_ROWS = 1 << 14  # 2¹⁴ int16 counters cannot overflow an int32
_AHEAD = 8  # rows of contents that are on their way while one is at work
_SHARE_WORK = 1 << 18  # counters, or words compared, from which threads are worth waking

_compiled = njit(nogil=True, cache=True)


def hamming_scan(
    tiles_TW8: Tensor, n_locations: int, cue_BW: Tensor, radius: int, probability: float
) -> tuple[Tensor, Tensor]:
    """Find the hard locations within a radius of each cue; see `reference.hamming_scan`.

    Args:
        tiles_TW8: Packed hard addresses in tiles.
        n_locations: M.
        cue_BW: Packed cues, int64.
        radius: Largest Hamming distance that activates, in bits.
        probability: Expected share of active locations, from which buffers are sized.

    Returns:
        `locations` and `offsets` of an `Activation`.
    """
    tiles, cues = tiles_TW8.numpy(), cue_BW.contiguous().numpy()

    def scan(first: int, last: int) -> list[Hits]:
        block = _whole_groups(cues[first:last])
        expected = (last - first) * probability * LANES

        def find(low: int, high: int) -> Hits:
            return _collect(
                lambda where, what: _scan(
                    tiles, low, high, n_locations, block, last - first, radius, where, what
                ),
                (high - low) * expected,
            )

        return over_ranges(find, len(tiles), tiles.size * len(block) >= _SHARE_WORK)

    return _in_blocks(scan, len(cues), _SCAN_CUES)


def literal_match(literal_MK: Tensor, address_bits: int, cue_BW: Tensor) -> tuple[Tensor, Tensor]:
    """Find the locations whose literals the cue satisfies; see `reference.literal_match`.

    Args:
        literal_MK: int32; literal 2c + v asks that bit c of the cue be v.
        address_bits: N.
        cue_BW: Packed cues, int64.

    Returns:
        `locations` and `offsets` of an `Activation`.
    """
    literals, cues = literal_MK.numpy(), cue_BW.contiguous().numpy()

    def match(first: int, last: int) -> list[Hits]:
        satisfied = np.zeros(2 * address_bits, dtype=np.uint64)
        _transpose(cues[first:last], satisfied)
        everyone = np.uint64((1 << (last - first)) - 1)

        def find(low: int, high: int) -> Hits:
            return _collect(
                lambda where, what: _match(literals, low, high, satisfied, everyone, where, what),
                (high - low) * (last - first) / 2 ** literals.shape[1],
            )

        return over_ranges(find, len(literals), literals.size >= _SHARE_WORK)

    return _in_blocks(match, len(cues), _MATCH_CUES)


def add_rows(
    contents_MU: Tensor,
    locations: Tensor,
    offsets: Tensor,
    data_BU: Tensor,
    weights: Tensor | None = None,
) -> None:
    """Add rows of data to the contents of active locations; see `reference.add_rows`.

    Args:
        contents_MU: int8, int16, int32, float32 or float64; changed in place.
        locations: As in `Activation`, ascending within each row.
        offsets: As in `Activation`.
        data_BU: Same kind of number as the contents (int8 for any integer contents).
        weights: float, one for each entry of `locations`, for float contents only; None counts 1.
    """
    contents, data = contents_MU.numpy(), data_BU.contiguous().numpy()
    active, edges = locations.numpy(), offsets.numpy()
    share = _as_weights(weights)

    def add(low: int, high: int) -> None:
        if contents_MU.is_floating_point():
            _add_real(contents, low, high, active, edges, data, share)
        else:
            _add_saturating(contents, low, high, active, edges, data)

    over_ranges(add, len(contents), len(active) * contents.shape[1] >= _SHARE_WORK)


def sum_rows(
    contents_MU: Tensor, locations: Tensor, offsets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Sum the contents of the active locations; see `reference.sum_rows`.

    Args:
        contents_MU: int8, int16, int32, float32 or float64.
        locations: As in `Activation`.
        offsets: As in `Activation`.
        weights: float, one for each entry of `locations`; None counts 1.

    Returns:
        Tensor of shape (B, U): int64 for integer contents without weights, else float64.
    """
    if weights is None and not contents_MU.is_floating_point():
        return _gather(_sum_counters, contents_MU, locations, offsets, np.int64)
    contents, active, edges = contents_MU.numpy(), locations.numpy(), offsets.numpy()
    sums = np.zeros((len(edges) - 1, contents.shape[1]))
    share = _as_weights(weights)

    def add_up(low: int, high: int) -> None:
        _sum_real(contents, low, high, active, edges, share, sums)

    over_ranges(add_up, len(sums), len(active) * contents.shape[1] >= _SHARE_WORK)
    return torch.from_numpy(sums)


def majority_rows(
    contents_MU: Tensor, locations: Tensor, offsets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Whether each sum of `sum_rows` is above 0; see `reference.majority_rows`.

    Args:
        contents_MU: int8, int16, int32, float32 or float64.
        locations: As in `Activation`.
        offsets: As in `Activation`.
        weights: float, one for each entry of `locations`; None counts 1.

    Returns:
        Boolean tensor of shape (B, U).
    """
    if weights is not None or contents_MU.is_floating_point():
        return sum_rows(contents_MU, locations, offsets, weights) > 0
    return _gather(_majority_of_counters, contents_MU, locations, offsets, np.bool_)


def _gather(
    kernel: Callable[..., None], contents_MU: Tensor, locations: Tensor, offsets: Tensor, kind: Any
) -> Tensor:
    """Run a kernel that sums integer counters exactly, over shares of the batch."""
    contents, active, edges = contents_MU.numpy(), locations.numpy(), offsets.numpy()
    width = contents.shape[1]
    result = np.empty((len(edges) - 1, width), dtype=kind)

    def gather(low: int, high: int) -> None:
        partial = np.empty(width, dtype=np.int64 if contents.dtype == np.int32 else np.int32)
        total = np.empty(width, dtype=np.int64)
        kernel(contents, low, high, active, edges, partial, total, result)

    over_ranges(gather, len(result), len(active) * width >= _SHARE_WORK)
    return torch.from_numpy(result)


def _whole_groups(cues: Array) -> Array:
    """One cue, or cues filled up with zeros to a multiple of the group."""
    missing = -len(cues) % _GROUP
    return cues if len(cues) == 1 or not missing else np.pad(cues, ((0, missing), (0, 0)))


def _as_weights(weights: Tensor | None) -> Array:
    return np.zeros(0) if weights is None else weights.to(torch.float64).numpy()


def _collect(fill: Callable[[Array, Array], int], expected: float) -> Hits:
    """Run a search into buffers of a likely size; where they were too small, once more."""
    size = int(1.2 * expected) + 1024
    while True:
        cue_of, location_of = np.empty(size, dtype=np.int32), np.empty(size, dtype=np.int32)
        n_found = fill(cue_of, location_of)
        if n_found <= size:
            return cue_of[:n_found], location_of[:n_found]
        size = n_found


def _in_blocks(
    search: Callable[[int, int], list[Hits]], n_cues: int, block: int
) -> tuple[Tensor, Tensor]:
    """CSR of the hits of all cues, a block of cues at a time."""
    parts = [np.zeros(0, dtype=np.int64)]
    meter = np.zeros(n_cues + 1, dtype=np.int64)
    for first in range(0, n_cues, block):
        last = min(first + block, n_cues)
        hits = search(first, last)
        counts = meter[first + 1 : last + 1]
        for cue_of, _ in hits:
            counts += np.bincount(cue_of, minlength=last - first)
        cursor = counts.cumsum() - counts
        parts.append(np.empty(counts.sum(), dtype=np.int64))
        for cue_of, location_of in hits:
            _place(cue_of, location_of, cursor, parts[-1])
    locations = parts[1] if len(parts) == 2 else np.concatenate(parts)
    return torch.from_numpy(locations), torch.from_numpy(meter.cumsum())


@_compiled
def _scan(tiles, low, high, n_locations, cues, n_cues, radius, cue_of, location_of):
    group = 1 if len(cues) == 1 else 4
    n_found = 0
    for tile in range(low, high):
        for first in range(0, len(cues), group):
            if group == 1:
                hits = within_radius_1(tiles, tile, cues, first, radius)
            else:
                hits = within_radius_4(tiles, tile, cues, first, radius)
            while hits:
                bit = trailing_zeros(hits)
                hits &= hits - np.uint64(1)
                cue, location = first + (bit >> 3), 8 * tile + (bit & 7)
                if cue < n_cues and location < n_locations:
                    if n_found < len(cue_of):
                        cue_of[n_found] = cue
                        location_of[n_found] = location
                    n_found += 1
    return n_found


@_compiled
def _transpose(cues, satisfied):
    """Bit b of ``satisfied[2 c + v]`` says whether bit c of cue b is v."""
    one = np.uint64(1)
    for b in range(len(cues)):
        for c in range(len(satisfied) // 2):
            value = (np.uint64(cues[b, c >> 6]) >> np.uint64(c & 63)) & one
            satisfied[2 * c + np.int64(value)] |= one << np.uint64(b)


@_compiled
def _match(literals, low, high, satisfied, everyone, cue_of, location_of):
    n_found = 0
    for location in range(low, high):
        hits = everyone
        for k in range(literals.shape[1]):
            hits &= satisfied[literals[location, k]]
        while hits:
            cue = trailing_zeros(hits)
            hits &= hits - np.uint64(1)
            if n_found < len(cue_of):
                cue_of[n_found] = cue
                location_of[n_found] = location
            n_found += 1
    return n_found


@_compiled
def _place(cue_of, location_of, cursor, locations):
    for i in range(len(cue_of)):
        cue = cue_of[i]
        locations[cursor[cue]] = location_of[i]
        cursor[cue] += 1


@_compiled
def _add_saturating(contents, low, high, locations, offsets, data):
    for b in range(len(data)):
        row = locations[offsets[b] : offsets[b + 1]]
        step = data[b]
        last = np.searchsorted(row, high)
        for i in range(np.searchsorted(row, low), last):
            if i + _AHEAD < last:
                prefetch_to_write(contents, row[i + _AHEAD])
            counters = contents[row[i]]
            for u in range(len(step)):
                counters[u] = saturating_add(counters[u], step[u])


@_compiled
def _add_real(contents, low, high, locations, offsets, data, weights):
    for b in range(len(data)):
        start = offsets[b]
        row = locations[start : offsets[b + 1]]
        step = data[b]
        for i in range(np.searchsorted(row, low), np.searchsorted(row, high)):
            sums = contents[row[i]]
            weight = weights[start + i] if len(weights) else 1.0
            for u in range(len(step)):
                sums[u] += weight * step[u]


@_compiled
def _sum_counters(contents, low, high, locations, offsets, partial, total, sums):
    for b in range(low, high):
        _sum_row(contents, locations[offsets[b] : offsets[b + 1]], partial, total)
        for u in range(len(total)):
            sums[b, u] = total[u]


@_compiled
def _majority_of_counters(contents, low, high, locations, offsets, partial, total, word):
    for b in range(low, high):
        _sum_row(contents, locations[offsets[b] : offsets[b + 1]], partial, total)
        for u in range(len(total)):
            word[b, u] = total[u] > 0


@_compiled
def _sum_row(contents, row, partial, total):
    """Sum rows of counters four at a time, in a narrow type as long as it cannot overflow."""
    width = len(total)
    total[:] = 0
    for start in range(0, len(row), _FLUSH_ROWS):
        stop = min(len(row), start + _FLUSH_ROWS)
        partial[:] = 0
        fours = start + (stop - start) // 4 * 4
        for i in range(start, fours, 4):
            for k in range(i + _AHEAD, min(i + _AHEAD + 4, stop)):
                prefetch_to_read(contents, row[k])
            c0, c1 = contents[row[i]], contents[row[i + 1]]
            c2, c3 = contents[row[i + 2]], contents[row[i + 3]]
            for u in range(width):
                partial[u] += c0[u] + c1[u] + c2[u] + c3[u]
        for i in range(fours, stop):
            c0 = contents[row[i]]
            for u in range(width):
                partial[u] += c0[u]
        for u in range(width):
            total[u] += partial[u]


@_compiled
def _sum_real(contents, low, high, locations, offsets, weights, sums):
    for b in range(low, high):
        total = sums[b]
        for i in range(offsets[b], offsets[b + 1]):
            row = contents[locations[i]]
            weight = weights[i] if len(weights) else 1.0
            for u in range(len(total)):
                total[u] += weight * row[u]
