"""How packed addresses lie in memory for a scan.

Hard locations come in tiles of eight: word w of the eight addresses of tile t
lies in ``tiles[t, w, :]``. Eight 64-bit lanes fill one 512-bit register (or
two of 256 bits, or four of 128), so one instruction compares a word of the cue with
eight locations, distances need no sum across lanes, an address of any width
wastes nothing, and a scan still reads memory in one straight line.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LANES", "tiled", "untiled"]

LANES = 8
"""Hard locations in one tile."""


def tiled(packed: Tensor) -> Tensor:
    """Lay rows of packed words out in tiles; the last tile is filled up with zeros.

    Args:
        packed: int64 tensor of shape (M, W).

    Returns:
        Contiguous int64 tensor of shape (⌈M / 8⌉, W, 8).
    """
    n_locations, width = packed.shape
    n_tiles = -(-n_locations // LANES)
    tiles = torch.zeros((n_tiles, width, LANES), dtype=packed.dtype, device=packed.device)
    full = n_locations // LANES
    tiles[:full] = packed[: full * LANES].unflatten(0, (full, LANES)).transpose(1, 2)
    if full < n_tiles:
        tiles[full, :, : n_locations - full * LANES] = packed[full * LANES :].T
    return tiles


def untiled(tiles: Tensor, n_locations: int) -> Tensor:
    """Undo `tiled`.

    Args:
        tiles: int64 tensor of shape (⌈M / 8⌉, W, 8).
        n_locations: M, to drop the filling of the last tile.

    Returns:
        int64 tensor of shape (M, W).
    """
    return tiles.transpose(1, 2).flatten(0, 1)[:n_locations]
