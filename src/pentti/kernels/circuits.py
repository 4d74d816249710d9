"""What the circuit of the cerebellum computes, in plain torch: the definition.

A hard location (granule cell) counts its active inputs. It also holds contents for some units
(Purkinje cells): a *beam* of F neighbours out of U, whose first moves on with the location, from
unit 0 for the first location to unit U − 1 for the last, and then from the beginning again. With
F = U each location meets all units, and the contents are those of a memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pentti import bits
from pentti.kernels.blocks import BUDGET, in_blocks

__all__ = ["add_beams", "input_counts", "sum_beams", "threshold_match", "units"]


def threshold_match(
    input_MK: Tensor, n_inputs: int, cue_BW: Tensor, threshold_BL: Tensor
) -> tuple[Tensor, Tensor]:
    """Find the hard locations of whose inputs at least as many are active as they ask.

    Args:
        input_MK: int32, the inputs that each location counts, at most 254.
        n_inputs: N.
        cue_BW: Packed cues, int64.
        threshold_BL: int64, from 0 (always) to K + 1 (never): location m asks for
            ``threshold_BL[b, m % L]`` of its inputs.

    Returns:
        `locations` and `offsets` of an `Activation`.
    """
    cue_BN = bits.unpack(cue_BW, n_inputs)
    n_levels = threshold_BL.shape[1]

    def active(cues: slice, low: int, high: int) -> Tensor:
        count = cue_BN[cues][:, input_MK[low:high].long()].sum(-1)
        levels = torch.arange(low, high, device=cue_BW.device) % n_levels
        return count >= threshold_BL[cues][:, levels]

    return in_blocks(active, len(cue_BW), len(input_MK), input_MK.shape[1], cue_BW.device)


def input_counts(input_MK: Tensor, n_inputs: int, cue_BW: Tensor) -> Tensor:
    """Count the hard locations that have so many active inputs.

    Args:
        input_MK: int32, the inputs that each location counts, at most 254.
        n_inputs: N.
        cue_BW: Packed cues, int64.

    Returns:
        int64 of shape (B, K + 1): entry k of a row is the number of locations with k active inputs.
    """
    cue_BN = bits.unpack(cue_BW, n_inputs)
    n_locations, fan_in = input_MK.shape
    step = max(1, BUDGET // fan_in)
    counts = torch.zeros((len(cue_BW), fan_in + 1), dtype=torch.int64, device=cue_BW.device)
    for b, cue in enumerate(cue_BN):
        for low in range(0, n_locations, step):
            active = cue[input_MK[low : low + step].long()].sum(-1)
            counts[b] += torch.bincount(active, minlength=fan_in + 1)
    return counts


def units(locations: Tensor, n_locations: int, n_units: int, fan_out: int) -> Tensor:
    """The units that each of some hard locations holds contents for.

    Args:
        locations: int64 of any shape (…).
        n_locations: M.
        n_units: U.
        fan_out: Units that a location meets, F.

    Returns:
        int64 of shape (…, F), in the order of the contents.
    """
    first = locations * n_units // n_locations if fan_out < n_units else torch.zeros_like(locations)
    return (first[..., None] + torch.arange(fan_out, device=locations.device)) % n_units


def add_beams(
    contents_MF: Tensor,
    n_units: int,
    locations: Tensor,
    offsets: Tensor,
    change_BU: Tensor,
    ceiling: float,
) -> None:
    """Add changes of each unit to the contents that active locations have for it, in place.

    The contents stay between 0 and a ceiling, so the order of the rows counts: it is that of the
    batch.

    Args:
        contents_MF: int8, int16, float32 or float64; changed in place.
        n_units: U.
        locations: As in `Activation`.
        offsets: As in `Activation`.
        change_BU: Of the contents' type.
        ceiling: Largest content, within the contents' type.
    """
    wide = contents_MF.dtype if contents_MF.is_floating_point() else torch.int64
    for row in range(len(offsets) - 1):
        active = locations[int(offsets[row]) : int(offsets[row + 1])]
        met = units(active, len(contents_MF), n_units, contents_MF.shape[1])
        total = contents_MF[active].to(wide) + change_BU[row].to(wide)[met]
        contents_MF[active] = total.clamp(0, ceiling).to(contents_MF.dtype)


def sum_beams(contents_MF: Tensor, n_units: int, locations: Tensor, offsets: Tensor) -> Tensor:
    """Sum the contents that active locations have for each unit.

    Args:
        contents_MF: int8, int16, float32 or float64.
        n_units: U.
        locations: As in `Activation`.
        offsets: As in `Activation`.

    Returns:
        Tensor of shape (B, U): int64 for integer contents, else float64.
    """
    wide = torch.float64 if contents_MF.is_floating_point() else torch.int64
    sums = torch.zeros((len(offsets) - 1, n_units), dtype=wide, device=contents_MF.device)
    step = max(1, BUDGET // contents_MF.shape[1])
    for row, total in enumerate(sums):
        for active in locations[int(offsets[row]) : int(offsets[row + 1])].split(step):
            met = units(active, len(contents_MF), n_units, contents_MF.shape[1])
            total.index_add_(0, met.flatten(), contents_MF[active].to(wide).flatten())
    return sums
