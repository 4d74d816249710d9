"""What a model is asked to tell at each position, and how far off it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pentti import checks
from pentti.nn.tokens import as_ids
from pentti.tensors import as_tensor

__all__ = ["IGNORED", "as_targets", "cross_entropy", "next_tokens"]

IGNORED = -100
"""The target of a position that does not count, as torch has it."""

_LOGITS_AT_ONCE = 2**24  # in float32: 64 MiB


def next_tokens(
    where: str, ids_BL: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Each token as the target of the position before it.

    Args:
        where: The public function or class that was called, for the error.
        ids_BL: Token ids, shape (B, L).
        mask: True where there is a token, or None.

    Returns:
        What goes in, the targets and the mask, each of shape (B, L − 1). A target counts where it
        and the position before are tokens.

    Raises:
        ArgumentError: if there are less than two positions.
    """
    if ids_BL.ndim != 2 or ids_BL.shape[1] < 2:
        got = checks.Words(f"shape {tuple(ids_BL.shape)}")
        checks.reject(where, "ids_BL", "have shape (batch, at least 2)", got)
    targets = ids_BL[:, 1:]
    if mask is None:
        return ids_BL[:, :-1], targets, None
    counts = mask[:, 1:] & mask[:, :-1]
    return ids_BL[:, :-1], targets.masked_fill(~counts, IGNORED), mask[:, :-1]


def as_targets(
    where: str, value: Any, ids_BL: Tensor, mask: Tensor | None, vocab_size: int
) -> Tensor:
    """The caller's own targets.

    Args:
        where: The public function or class that was called, for the error.
        value: Token ids, or `IGNORED`, of the shape of the ids.
        ids_BL: Token ids, shape (B, L).
        mask: True where there is a token, or None; elsewhere no target counts.
        vocab_size: Targets lie in [0, vocab_size − 1].

    Returns:
        int64 tensor of shape (B, L).

    Raises:
        ArgumentError: if a target is out of range, or the shape is another.
    """
    targets = as_tensor(where, "targets_BL", value, ids_BL.device, "token ids")
    if targets.shape != ids_BL.shape:
        got = checks.Words(f"shape {tuple(targets.shape)}")
        checks.reject(where, "targets_BL", f"have shape {tuple(ids_BL.shape)}", got)
    left_out = targets == IGNORED
    targets = as_ids(
        where, "targets_BL", targets.masked_fill(left_out, 0), vocab_size, ids_BL.device
    )
    return targets.masked_fill(left_out if mask is None else left_out | ~mask, IGNORED)


def cross_entropy(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Mean cross entropy of the logits x · weightᵀ, in nats.

    Many logits are made a block of rows at a time, and again in the backward pass, so that they
    are never all held.

    Args:
        x_ND: Hidden states.
        weight_VD: The last layer's weights.
        targets_N: Ids, or `IGNORED`.

    Returns:
        A float32 scalar (float64 for float64); 0 where no target counts.
    """
    size = max(1, _LOGITS_AT_ONCE // len(weight_VD))
    parts = list(zip(x_ND.split(size), targets_N.split(size), strict=True))
    if len(parts) == 1:
        total = _summed(weight_VD, *parts[0])
    else:
        sums = [checkpoint(_summed, weight_VD, *part, use_reentrant=False) for part in parts]
        total = torch.stack(sums).sum()
    return total / (targets_N != IGNORED).sum().clamp(min=1)


def _summed(weight_VD: Tensor, x_ND: Tensor, targets_N: Tensor) -> Tensor:
    logits = functional.linear(x_ND, weight_VD)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return functional.cross_entropy(logits, targets_N, ignore_index=IGNORED, reduction="sum")
