"""How the plain kernels keep to a budget of memory whatever the batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["BUDGET", "in_blocks"]

BUDGET = 1 << 22
"""Numbers held at a time."""


def in_blocks(
    active: Callable[[slice, int, int], Tensor],
    n_cues: int,
    n_locations: int,
    width: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """CSR of a boolean matrix of cues by locations, taken block by block.

    Args:
        active: ``active(cues, low, high)`` gives the block of some cues and a range of locations.
        n_cues: B.
        n_locations: M.
        width: Numbers that one entry of the matrix takes while a block is made.
        device: Where it is made.

    Returns:
        `locations` and `offsets` of an `Activation`.
    """
    step_M = min(n_locations, max(1, BUDGET // width))
    step_B = max(1, BUDGET // (width * step_M))
    row_parts, location_parts = [], []
    for first in range(0, n_cues, step_B):
        for low in range(0, n_locations, step_M):
            cues = slice(first, min(first + step_B, n_cues))
            block = active(cues, low, min(low + step_M, n_locations))
            row, location = block.nonzero(as_tuple=True)
            row_parts.append(row + first)
            location_parts.append(location + low)
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    rows, locations = torch.cat([nothing, *row_parts]), torch.cat([nothing, *location_parts])
    order = rows.argsort(stable=True)
    counts = torch.bincount(rows, minlength=n_cues)
    offsets = torch.cat((nothing.new_zeros(1), counts.cumsum(0)))
    return locations[order], offsets
