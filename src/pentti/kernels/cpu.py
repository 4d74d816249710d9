"""The kernels compiled by numba for the CPU: same names and same results as `reference`.

Compiled on first use and cached on disk, so that only the very first call waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pentti.kernels import loops
from pentti.kernels.layout import LANES
from pentti.kernels.threads import over_ranges

__all__ = ["add_rows", "hamming_scan", "literal_match", "majority_rows", "sum_rows"]

Array = npt.NDArray[Any]
Hits = tuple[Array, Array]

_SCAN_CUES = 256  # cues that stay in the first-level cache during a scan
_MATCH_CUES = 64  # cues that share one 64-bit word in a match
_GROUP = 4  # cues that share one load of a tile
_SHARE_WORK = 1 << 18  # counters, or words compared, from which threads are worth waking


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
                lambda where, what: loops.scan(
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
        loops.transpose(cues[first:last], satisfied)
        everyone = np.uint64((1 << (last - first)) - 1)

        def find(low: int, high: int) -> Hits:
            return _collect(
                lambda where, what: loops.match(
                    literals, low, high, satisfied, everyone, where, what
                ),
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
            loops.add_real(contents, low, high, active, edges, data, share)
        else:
            loops.add_saturating(contents, low, high, active, edges, data)

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
        return _gather(loops.sum_counters, contents_MU, locations, offsets, np.int64)
    contents, active, edges = contents_MU.numpy(), locations.numpy(), offsets.numpy()
    sums = np.zeros((len(edges) - 1, contents.shape[1]))
    share = _as_weights(weights)

    def add_up(low: int, high: int) -> None:
        loops.sum_real(contents, low, high, active, edges, share, sums)

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
    return _gather(loops.majority_of_counters, contents_MU, locations, offsets, np.bool_)


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
            loops.place(cue_of, location_of, cursor, parts[-1])
    locations = parts[1] if len(parts) == 2 else np.concatenate(parts)
    return torch.from_numpy(locations), torch.from_numpy(meter.cumsum())
