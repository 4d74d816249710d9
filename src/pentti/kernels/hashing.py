"""Find touched hard locations among very many: what was never touched costs nothing.

An index is a row of int32 slots for each of T tables: the row in which a location's contents are,
or −1. With about as many slots as locations each location has its own: the index is direct.
Otherwise a hash says where to look first, and whoever finds a slot taken goes on to the next one.
At most half of the slots are taken, and nothing is ever taken out alone, so that looks stay short.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pentti.kernels import lookups

__all__ = ["MOST", "build", "capacity", "find", "insert"]

MOST = 1 << 40
"""Most locations that a table can have."""

_SMALL = 1 << 16  # locations, up to which an index is always direct
_SLOTS = 8  # for each row: a direct index of no more is as fast as a hash, or faster


def capacity(n_locations: int, room: int) -> int:
    """How many slots an index needs; as many as there are locations, if it is to be direct.

    Args:
        n_locations: M.
        room: Most locations that are touched.

    Returns:
        M, or twice the room.
    """
    if n_locations <= max(_SMALL, _SLOTS * room):
        return n_locations
    return max(1, 2 * room)


def find(index: Tensor, keys: Tensor, n_locations: int, owners: Tensor, sought: Tensor) -> Tensor:
    """The rows of locations.

    Args:
        index: int32 (T, slots).
        keys: The location of each row, int64 (T, room).
        n_locations: M.
        owners: In which table to look, int64 (n,).
        sought: Locations, int64 (n,).

    Returns:
        int64 (n,), −1 for a location that has no row.
    """
    if index.shape[1] >= n_locations:
        return index[owners, sought].long()
    if index.device.type != "cpu":
        return _probed(index, keys, owners, sought)
    rows = torch.empty_like(sought)
    lookups.find(*(x.numpy() for x in (index, keys, owners, sought, rows)))
    return rows


def _probed(index: Tensor, keys: Tensor, owners: Tensor, sought: Tensor) -> Tensor:
    """The same, in operators of torch: all look at once, until each has found its own."""
    rows = torch.full_like(sought, -1)
    if not keys.shape[1]:
        return rows
    left, at = torch.arange(len(sought), device=sought.device), lookups.slot(sought, index.shape[1])
    while len(left):
        seen = index[owners, at].long()
        same = (seen >= 0) & (keys[owners, seen.clamp_min(0)] == sought)
        rows[left[same]] = seen[same]
        onward = (seen >= 0) & ~same
        left, owners, sought = left[onward], owners[onward], sought[onward]
        at = (at[onward] + 1) % index.shape[1]
    return rows


def insert(index: Tensor, n_locations: int, owners: Tensor, new: Tensor, rows: Tensor) -> None:
    """Note the rows of locations that have none yet.

    Args:
        index: int32 (T, slots), at least half of each table's free in the end; it is changed.
        n_locations: M.
        owners: In which table each is, int64 (n,).
        new: Locations, int64 (n,); in one table, all different.
        rows: int64 (n,); in one table, all different, and new too.
    """
    n_slots, flat = index.shape[1], index.view(-1)
    rows = rows.int()
    if n_slots >= n_locations:
        flat[owners * n_slots + new] = rows
        return
    at = lookups.slot(new, n_slots)
    while len(at):
        where = owners * n_slots + at
        free = flat[where] < 0
        flat[where[free]] = rows[free]  # of several that want it, one has it
        onward = flat[where] != rows
        owners, rows, at = owners[onward], rows[onward], (at[onward] + 1) % n_slots


def build(keys: Tensor, used: Tensor, n_locations: int) -> Tensor:
    """The index of tables.

    Args:
        keys: The location of each row, int64 (T, room).
        used: How many rows there are, int64 (T,).
        n_locations: M.

    Returns:
        int32 (T, slots).
    """
    n_slots = capacity(n_locations, keys.shape[1])
    index = torch.full((len(keys), n_slots), -1, dtype=torch.int32, device=keys.device)
    held = torch.arange(keys.shape[1], device=keys.device) < used[:, None]
    owners, rows = held.nonzero(as_tuple=True)
    insert(index, n_locations, owners, keys[owners, rows], rows)
    return index
