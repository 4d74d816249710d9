"""The circuit of the cerebellum on the CPU: same names and results as in `circuits`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pentti.kernels import beams, counting
from pentti.kernels.buffers import recycled
from pentti.kernels.threads import over_ranges

__all__ = ["add_beams", "input_counts", "sum_beams", "threshold_match"]

Array = npt.NDArray[Any]

_CUES = 64 * counting.WORDS  # counted at a time
_BITMAP_WORDS = 1 << 24  # of a block of cues: 128 MiB
_WORK = 1 << 14  # inputs counted from which threads are worth waking
_SHARES = 8  # for each thread
_GATHER_WORK = 1 << 18  # contents moved from which threads are worth waking


def threshold_match(
    input_MK: Tensor, n_inputs: int, cue_BW: Tensor, threshold_BL: Tensor
) -> tuple[Tensor, Tensor]:
    """Find the locations whose active inputs reach a threshold; see `circuits.threshold_match`.

    Args:
        input_MK: int32, the inputs that each location counts, at most 254.
        n_inputs: N.
        cue_BW: Packed cues, int64.
        threshold_BL: int64, from 0 (always) to K + 1 (never).

    Returns:
        `locations` and `offsets` of an `Activation`.
    """
    inputs, cues = input_MK.numpy(), cue_BW.contiguous().numpy()
    thresholds = threshold_BL.numpy()
    parts, meters = [np.zeros(0, dtype=np.int64)], [np.zeros(1, dtype=np.int64)]
    n_words = counting.row_words(len(inputs))
    step = max(1, min(_CUES, _BITMAP_WORDS // n_words))
    for first in range(0, len(cues), step):
        block = slice(first, min(first + step, len(cues)))
        bitmap = _active(inputs, n_inputs, cues[block], thresholds[block])
        meter = np.empty(len(bitmap), dtype=np.int64)
        _over_rows(counting.count_bits, bitmap, meter)
        ends = meter.cumsum()
        found = np.empty(ends[-1], dtype=np.int64)
        _over_rows(counting.list_bits, bitmap, ends - meter, found)
        parts.append(found)
        meters.append(meter)
    locations = parts[1] if len(parts) == 2 else np.concatenate(parts)
    return torch.from_numpy(locations), torch.from_numpy(np.concatenate(meters).cumsum())


def input_counts(input_MK: Tensor, n_inputs: int, cue_BW: Tensor) -> Tensor:
    """Count the locations that have so many active inputs; see `circuits.input_counts`.

    Args:
        input_MK: int32, the inputs that each location counts, at most 254.
        n_inputs: N.
        cue_BW: Packed cues, int64.

    Returns:
        int64 of shape (B, K + 1).
    """
    inputs, cues = input_MK.numpy(), cue_BW.contiguous().numpy()
    n_locations, fan_in = inputs.shape
    at_least = np.zeros((fan_in + 2, len(cues)), dtype=np.int64)
    at_least[0] = n_locations
    for first in range(0, len(cues), _CUES):
        block = cues[first : first + _CUES]
        for k in range(1, fan_in + 1):
            bitmap = _active(inputs, n_inputs, block, np.full((len(block), 1), k))
            _over_rows(counting.count_bits, bitmap, at_least[k, first : first + _CUES])
    return torch.from_numpy(np.ascontiguousarray((at_least[:-1] - at_least[1:]).T))


def add_beams(
    contents_MF: Tensor,
    n_units: int,
    locations: Tensor,
    offsets: Tensor,
    change_BU: Tensor,
    ceiling: float,
) -> None:
    """Add changes to the contents of active locations; see `circuits.add_beams`.

    Args:
        contents_MF: int8, int16, float32 or float64; changed in place.
        n_units: U.
        locations: As in `Activation`, ascending within each row.
        offsets: As in `Activation`.
        change_BU: Of the contents' type.
        ceiling: Largest content, within the contents' type.
    """
    contents, change = contents_MF.numpy(), change_BU.contiguous().numpy()
    active, edges = locations.numpy(), offsets.numpy()
    limit = contents.dtype.type(ceiling)
    add = beams.add_real if contents.dtype.kind == "f" else beams.add_counters

    def run(low: int, high: int) -> None:
        add(contents, low, high, n_units, active, edges, change, limit)

    over_ranges(run, len(contents), len(active) * contents.shape[1] >= _GATHER_WORK)


def sum_beams(contents_MF: Tensor, n_units: int, locations: Tensor, offsets: Tensor) -> Tensor:
    """Sum the contents that active locations have for each unit; see `circuits.sum_beams`.

    Args:
        contents_MF: int8, int16, float32 or float64.
        n_units: U.
        locations: As in `Activation`.
        offsets: As in `Activation`.

    Returns:
        Tensor of shape (B, U): int64 for integer contents, else float64.
    """
    contents, active, edges = contents_MF.numpy(), locations.numpy(), offsets.numpy()
    floating = contents.dtype.kind == "f"
    sums = np.zeros((len(edges) - 1, n_units), dtype=np.float64 if floating else np.int64)

    def run(low: int, high: int) -> None:
        partial = np.zeros(n_units, dtype=np.float64 if floating else np.int32)
        beams.sum_active(contents, low, high, active, edges, partial, sums)

    large = len(active) * contents.shape[1] >= _GATHER_WORK
    over_ranges(run, len(sums), large, n_shares=_SHARES)
    return torch.from_numpy(sums)


def _active(inputs: Array, n_inputs: int, cues: Array, thresholds: Array) -> Array:
    """A bit for each cue and location: whether it is active."""
    satisfied = np.zeros((n_inputs, counting.WORDS), dtype=np.uint64)
    counting.transpose(cues, satisfied)
    n_planes = counting.n_planes(inputs.shape[1])
    limits = np.full((thresholds.shape[1], n_planes, counting.WORDS), ~np.uint64(0))
    counting.slice_thresholds(thresholds, limits)
    bitmap = recycled((len(cues), counting.row_words(len(inputs))), np.uint64)

    def fill(low: int, high: int) -> None:
        counting.fill_bitmap(inputs, low, high, satisfied, limits, bitmap)

    n_tiles = -(-len(inputs) // counting.TILE)
    over_ranges(fill, n_tiles, inputs.size >= _WORK, n_shares=_SHARES)
    return bitmap


def _over_rows(kernel: Any, bitmap: Array, *arguments: Array) -> None:
    """Run a kernel over shares of the rows of a bitmap."""

    def run(low: int, high: int) -> None:
        kernel(bitmap, low, high, *arguments)

    over_ranges(run, len(bitmap), bitmap.size >= _WORK, n_shares=_SHARES)
