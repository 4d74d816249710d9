"""Token ids at the door: lists, arrays and tensors, of one length or of many."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pentti import checks
from pentti.tensors import as_tensor

__all__ = ["as_ids", "as_mask", "check_range", "left_padded"]


def as_ids(where: str, argument: str, value: Any, vocab_size: int, device: torch.device) -> Tensor:
    """Whatever the caller holds, as token ids.

    Args:
        where: The public function or class that was called, for the error.
        argument: The argument's name, for the error.
        value: Tensor, NumPy array or nested list of integers.
        vocab_size: Ids lie in [0, vocab_size − 1].
        device: Device expected of a tensor, and given to anything else.

    Returns:
        int64 tensor of the same shape.

    Raises:
        ArgumentError: if it holds no integers, lies on another device, or an id is out of range.
            On another device than the CPU, and in a compiled model, the range is not looked at:
            that would stop the device's queue.
    """
    ids = as_tensor(where, argument, value, device, "token ids")
    if ids.numel() and (ids.is_floating_point() or ids.dtype == torch.bool):
        checks.reject(where, argument, "hold integers", checks.Words(f"{ids.dtype}"))
    ids = ids.long()
    if not torch.compiler.is_compiling() and ids.device.type == "cpu":
        check_range(where, argument, ids, vocab_size)
    return ids


def check_range(where: str, argument: str, ids: Tensor, vocab_size: int) -> None:
    """Refuse ids that are out of the vocabulary, and say where the first stands.

    Args:
        where: The public function or class that was called, for the error.
        argument: The argument's name, for the error.
        ids: Token ids, any shape.
        vocab_size: Ids lie in [0, vocab_size − 1].

    Raises:
        ArgumentError: if an id is out of range.
    """
    strange = (ids < 0) | (ids >= vocab_size)
    if strange.any():
        at = tuple(strange.nonzero()[0].tolist())
        place = at[0] if len(at) == 1 else at
        got = checks.Words(f"{ids[at].item()} at position {place}")
        checks.reject(where, argument, f"hold ids in [0, {vocab_size - 1}]", got)


def as_mask(where: str, token_mask: Any, ids_BL: Tensor) -> Tensor | None:
    """The token mask, if it fits the ids.

    Args:
        where: The public function or class that was called, for the error.
        token_mask: True where there is a token; None where all are.
        ids_BL: Token ids, shape (B, L).

    Returns:
        The mask, or None.

    Raises:
        ArgumentError: if it is not boolean, of another shape, or on another device.
    """
    if token_mask is None:
        return None
    mask = as_tensor(where, "token_mask", token_mask, ids_BL.device, "booleans")
    if mask.dtype != torch.bool or mask.shape != ids_BL.shape:
        got = checks.Words(f"{mask.dtype} of shape {tuple(mask.shape)}")
        checks.reject(where, "token_mask", f"be boolean of shape {tuple(ids_BL.shape)}", got)
    return mask


def left_padded(
    where: str, prompts: Any, vocab_size: int, device: torch.device
) -> tuple[Tensor, Tensor | None, bool]:
    """Prompts of any lengths as one batch; the shorter ones begin later.

    Args:
        where: The public function or class that was called, for the error.
        prompts: Ids of one prompt (L,), of several of one length (B, L), or a list of prompts.
        vocab_size: Ids lie in [0, vocab_size − 1].
        device: Device expected of a tensor, and given to anything else.

    Returns:
        Ids (B, L), the token mask (B, L) or None where all lengths are one, and whether the
        caller gave a single prompt.

    Raises:
        ArgumentError: if there is no prompt, one is empty, or an id is out of range.
    """
    ragged = isinstance(prompts, list | tuple) and any(not _is_integer(item) for item in prompts)
    if not ragged:
        ids = as_ids(where, "prompt_ids", prompts, vocab_size, device)
        if ids.ndim not in (1, 2):
            got = checks.Words(f"shape {tuple(ids.shape)}")
            checks.reject(where, "prompt_ids", "have shape (length,) or (batch, length)", got)
        single = ids.ndim == 1
        rows = list(ids[None] if single else ids)
    else:
        rows, single = (
            [_row(where, i, row, vocab_size, device) for i, row in enumerate(prompts)],
            False,
        )
    if not rows or min(map(len, rows)) == 0:
        got = checks.Words("no prompt" if not rows else "an empty one")
        checks.reject(where, "prompt_ids", "hold at least one token for each prompt", got)
    return (*_stacked(rows, device), single)


def _is_integer(item: Any) -> bool:
    return getattr(item, "ndim", 1 if hasattr(item, "__len__") else 0) == 0


def _row(where: str, number: int, row: Any, vocab_size: int, device: torch.device) -> Tensor:
    argument = f"prompt_ids[{number}]"
    ids = as_ids(where, argument, row, vocab_size, device)
    if ids.ndim != 1:
        got = checks.Words(f"shape {tuple(ids.shape)}")
        checks.reject(where, argument, "have shape (length,)", got)
    return ids


def _stacked(rows: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor | None]:
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    if min(lengths) == longest:
        return torch.stack(rows), None
    ids = torch.zeros(len(rows), longest, dtype=torch.int64, device=device)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :] = row
        mask[i, longest - len(row) :] = True
    return ids, mask
