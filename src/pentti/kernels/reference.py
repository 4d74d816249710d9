"""The kernels in plain torch: the definition that every fast one must equal.

They run on any device. Scratch memory stays within a fixed budget whatever the batch.
Kernels trust their caller: arguments are checked at the door.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pentti import bits
from pentti.kernels.layout import untiled

__all__ = ["add_rows", "hamming_scan", "literal_match", "majority_rows", "sum_rows"]

_BUDGET = 1 << 22  # numbers held at a time


def hamming_scan(
    tiles_TW8: Tensor, n_locations: int, cue_BW: Tensor, radius: int, probability: float
) -> tuple[Tensor, Tensor]:
    """Find the hard locations within a radius of each cue.

    Args:
        tiles_TW8: Packed hard addresses in tiles, as `layout.tiled` gives them.
        n_locations: M; the filling of the last tile is not a location.
        cue_BW: Packed cues, int64.
        radius: Largest Hamming distance that activates, in bits.
        probability: Expected share of active locations: a hint for buffer sizes, unused here.

    Returns:
        `locations` and `offsets` of an `Activation`.
    """
    del probability
    address_MW = untiled(tiles_TW8, n_locations)

    def active(cue: Tensor, low: int, high: int) -> Tensor:
        return bits.packed_distance(cue[:, None], address_MW[low:high]) <= radius

    return _in_blocks(active, cue_BW, n_locations, address_MW.shape[1])


def literal_match(literal_MK: Tensor, address_bits: int, cue_BW: Tensor) -> tuple[Tensor, Tensor]:
    """Find the hard locations all of whose literals the cue satisfies.

    Args:
        literal_MK: int32; literal 2c + v asks that bit c of the cue be v.
        address_bits: N.
        cue_BW: Packed cues, int64.

    Returns:
        `locations` and `offsets` of an `Activation`.
    """
    cue_BN = bits.unpack(cue_BW, address_bits)
    satisfied = torch.stack((~cue_BN, cue_BN), dim=-1).flatten(1)

    def active(rows: Tensor, low: int, high: int) -> Tensor:
        return rows[:, literal_MK[low:high].long()].all(-1)

    return _in_blocks(active, satisfied, *literal_MK.shape)


def add_rows(
    contents_MU: Tensor,
    locations: Tensor,
    offsets: Tensor,
    data_BU: Tensor,
    weights: Tensor | None = None,
) -> None:
    """Add each row of data to the contents of its active locations, in place, one row at a time.

    Integer counters stop at the largest and smallest value of their type, so the order
    of the rows counts once one is reached: it is the order of the batch.

    Args:
        contents_MU: int8, int16, int32, float32 or float64; changed in place.
        locations: As in `Activation`.
        offsets: As in `Activation`.
        data_BU: Same kind of number as the contents (int8 for any integer contents).
        weights: float, one for each entry of `locations`, for float contents only; None counts 1.
    """
    floating = contents_MU.is_floating_point()
    wide = contents_MU.dtype if floating else torch.int64
    for row in range(len(offsets) - 1):
        entries = slice(int(offsets[row]), int(offsets[row + 1]))
        active = locations[entries]
        step = data_BU[row].to(wide).expand(len(active), -1)
        if weights is not None:
            step = step * weights[entries, None].to(wide)
        total = contents_MU[active].to(wide) + step
        if not floating:
            limits = torch.iinfo(contents_MU.dtype)
            total = total.clamp(limits.min, limits.max)
        contents_MU[active] = total.to(contents_MU.dtype)


def sum_rows(
    contents_MU: Tensor, locations: Tensor, offsets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Sum the contents of the active locations.

    Args:
        contents_MU: int8, int16, int32, float32 or float64.
        locations: As in `Activation`.
        offsets: As in `Activation`.
        weights: float, one for each entry of `locations`; None counts 1.

    Returns:
        Tensor of shape (B, U): int64 for integer contents without weights, else float64.
    """
    exact = weights is None and not contents_MU.is_floating_point()
    wide = torch.int64 if exact else torch.float64
    n_rows, width = len(offsets) - 1, contents_MU.shape[1]
    sums = torch.zeros((n_rows, width), dtype=wide, device=contents_MU.device)
    rows = torch.arange(n_rows, device=offsets.device).repeat_interleave(offsets.diff())
    step = max(1, _BUDGET // width)
    for low in range(0, len(locations), step):
        entries = slice(low, low + step)
        part = contents_MU[locations[entries]].to(wide)
        if weights is not None:
            part *= weights[entries, None]
        sums.index_add_(0, rows[entries], part)
    return sums


def majority_rows(
    contents_MU: Tensor, locations: Tensor, offsets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Whether each sum of `sum_rows` is above 0: the word that a read gives.

    Args:
        contents_MU: int8, int16, int32, float32 or float64.
        locations: As in `Activation`.
        offsets: As in `Activation`.
        weights: float, one for each entry of `locations`; None counts 1.

    Returns:
        Boolean tensor of shape (B, U).
    """
    return sum_rows(contents_MU, locations, offsets, weights) > 0


def _in_blocks(active, cue, n_locations: int, width: int) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    """CSR of ``active(cue, low, high)``, a boolean matrix, taken block by block."""
    n_cues = len(cue)
    step_M = min(n_locations, max(1, _BUDGET // width))
    step_B = max(1, _BUDGET // (width * step_M))
    row_parts, location_parts = [], []
    for first in range(0, n_cues, step_B):
        for low in range(0, n_locations, step_M):
            block = active(cue[first : first + step_B], low, min(low + step_M, n_locations))
            row, location = block.nonzero(as_tuple=True)
            row_parts.append(row + first)
            location_parts.append(location + low)
    nothing = torch.zeros(0, dtype=torch.int64, device=cue.device)
    rows, locations = torch.cat([nothing, *row_parts]), torch.cat([nothing, *location_parts])
    order = rows.argsort(stable=True)
    counts = torch.bincount(rows, minlength=n_cues)
    offsets = torch.cat((nothing.new_zeros(1), counts.cumsum(0)))
    return locations[order], offsets
