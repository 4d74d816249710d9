"""What a file holds of a state: checked before memory is taken for it, and before it is used."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["check_packed", "key_type"]


def key_type(n_locations: int) -> torch.dtype:
    """In which type a file holds locations.

    Args:
        n_locations: M.

    Returns:
        int32, or int64 where that is needed.
    """
    return torch.int32 if n_locations <= 1 << 31 else torch.int64


def check_packed(
    given: Mapping[str, Tensor],
    empty: Mapping[str, Tensor],
    rows: tuple[str, ...],
    n_locations: int,
) -> None:
    """Refuse tensors that no state has saved.

    Args:
        given: By name.
        empty: Those of a state of the same settings and batch in which nothing is written.
        rows: Which of them a file holds row by row, of all touched locations of all heads.
        n_locations: M.

    Raises:
        KeyError: if one is missing.
        ValueError: if one has another shape or type, or holds what cannot be.
    """
    n_rows, used = len(given["keys"]), given["used"]
    for name, own in empty.items():
        shape = (n_rows, *own.shape[2:]) if name in rows else own.shape
        kind = key_type(n_locations) if name == "keys" else own.dtype
        if given[name].shape != shape or given[name].dtype != kind:
            raise ValueError(name)
    negative = [name for name in ("n_tokens", "stamps") if (given[name] < 0).any()]
    numbers = ("contents", "evidence", "scale", "last_weights")
    strange = negative + [name for name in numbers if not given[name].isfinite().all()]
    if strange:
        raise ValueError(*strange)
    if ((used < 0) | (used > n_rows)).any() or used.sum() != n_rows:
        raise ValueError("used")
    keys, last = given["keys"].long(), given["last_locations"]
    for locations in (keys, last):
        if ((locations < 0) | (locations >= n_locations)).any():
            raise ValueError("locations")
    owners = torch.arange(len(used)).repeat_interleave(used)
    if len((owners * n_locations + keys).unique()) != n_rows:
        raise ValueError("keys")
