"""Compiled: look into an index for the row of a location; see `hashing`, which says what it is."""

from typing import Any

from pentti.kernels.compiling import compiled

__all__ = ["find", "slot", "slot_of"]

# Odd numbers without a pattern; the first two below 2^42, the third below 2^32.
_FIRST, _SECOND, _THIRD = 2718281828455, 1902160577783, 2654435769
_LOW_20, _LOW_31 = (1 << 20) - 1, (1 << 31) - 1


def slot(location: Any, n_slots: Any) -> Any:
    """Where to look first for a location from 0 to 2^40 − 1, among at most 2^32 slots.

    Of integers, arrays and tensors alike, and compiled: no number leaves the range of int64.
    """
    mixed = (location & _LOW_20) * _FIRST + (location >> 20) * _SECOND
    mixed = ((mixed ^ (mixed >> 32)) & _LOW_31) * _THIRD
    return ((mixed & _LOW_31) * n_slots) >> 31


_first = compiled(slot)


@compiled
def slot_of(location, index, keys):
    """Where an index that is not direct has a location's row, or is free for it."""
    at = _first(location, len(index))
    while index[at] >= 0 and keys[index[at]] != location:
        at += 1
        if at == len(index):
            at = 0
    return at


@compiled
def find(index, keys, owners, sought, rows):
    """Set the row of each location in its owner's table, or −1; of indices that are not direct."""
    for i in range(len(sought)):
        own = index[owners[i]]
        rows[i] = own[slot_of(sought[i], own, keys[owners[i]])]
