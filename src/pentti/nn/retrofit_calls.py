"""What a call tells the memories of a pretrained decoder: padding, and what was before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pentti import checks
from pentti.errors import ArgumentError
from pentti.nn.memory_state import MemoryState

__all__ = ["Call", "past_of", "written_states"]

_WHERE = "add_memory"
_STATES = "_pentti_states"
_BLOCKED = -1000.0
"""What is added to a score to block it is below: e to that power is nothing."""


class Call(NamedTuple):
    """What one call of a model tells of its tokens.

    Attributes:
        n_before: Tokens that its cache held before; a tensor where that is not to be waited for,
            infinite where it knows only that there were some.
        mask: True where there is a token, (B, L) or with places for tokens before and after; None
            where nothing is padding.
    """

    n_before: float | Tensor = 0
    mask: Tensor | None = None

    @classmethod
    def of(cls, names: Sequence[str], given: Sequence[Any], named: Mapping[str, Any]) -> Call:
        """A call of the module that calls the layers.

        Args:
            names: What its arguments are called, in their order.
            given: Those that came by place.
            named: Those that came by name.

        Returns:
            What it tells.

        Raises:
            ArgumentError: if its mask tells nothing of padding, or its cache is none of today's.
        """
        told = {**dict(zip(names, given, strict=False)), **named}
        if isinstance(told.get("past_key_values"), tuple):
            checks.reject(_WHERE, "past_key_values", "be a Cache", checks.Words("a tuple"))
        n_before = _n_before(past_of(told.values()), told.get("cache_position"))
        return cls(n_before, _is_token(told.get("attention_mask"), n_before))

    def tokens(self, x_BLD: Tensor) -> Tensor | None:
        """Where there is a token.

        Args:
            x_BLD: What went into a layer.

        Returns:
            True where there is one, (B, L); None where nothing is padding.

        Raises:
            ArgumentError: if the mask is not of this shape.
        """
        if self.mask is None:
            return None
        batch, length = x_BLD.shape[:2]
        n_told = self.mask.shape[1]
        if n_told < length or len(self.mask) not in (1, batch):
            got = checks.Words(f"shape {tuple(self.mask.shape)}")
            checks.reject(_WHERE, "attention_mask", f"tell of {batch} × {length} tokens", got)
        places = _places(self.mask, self.n_before, length, n_told)
        return self.mask[:, places].to(x_BLD.device).expand(batch, length)


def past_of(handed: Iterable[Any]) -> Any:
    """The cache of a call; models differ in its name, and some hand it on by place.

    Args:
        handed: The arguments.

    Returns:
        The cache, or None.
    """
    return next((one for one in handed if hasattr(one, "get_seq_length")), None)


def _n_before(past: Any, places: Any) -> float | Tensor:
    """Tokens in a cache; where there are places, they are surer than what it counts."""
    if isinstance(places, Tensor) and places.numel():
        return places.flatten()[0]
    if past is None:
        return 0
    try:
        n_before: int | Tensor = past.get_seq_length()
    except ValueError:  # a state space has no length
        return math.inf if past.has_previous_state() else 0
    return n_before.clone() if isinstance(n_before, Tensor) else n_before  # it counts in place


def _places(mask: Tensor, n_before: float | Tensor, length: int, n_told: int) -> Tensor:
    """Where the tokens of a call stand among those that its mask tells of."""
    last = n_told - length
    if isinstance(n_before, Tensor):
        first: int | Tensor = n_before.to(mask.device).clamp(max=last)
    else:
        first = int(min(n_before, last))
    return torch.arange(length, device=mask.device) + first


def _is_token(mask: Any, n_before: float | Tensor) -> Tensor | None:
    """Where there is a token, of a mask as transformers has them; one sees itself, or is none."""
    if isinstance(mask, Mapping):  # one for each kind of attention, all of the same padding
        mask = next((one for one in mask.values() if one is not None), None)
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4):
        shown = type(mask).__name__
        got = checks.Words(f"{mask.ndim} axes" if isinstance(mask, Tensor) else shown)
        checks.reject(_WHERE, "attention_mask", "be a tensor of 2 or of 4 axes", got)
    if mask.ndim == 2:
        return mask.bool()
    sees = mask > _BLOCKED if mask.is_floating_point() else mask.bool()
    places = _places(mask, n_before, *mask.shape[2:])
    return sees[:, :, torch.arange(len(places), device=mask.device), places].any(1)


def written_states(past: Any) -> dict[Any, MemoryState]:
    """What memories have written, kept with a model's own cache and changed as that is.

    Args:
        past: The cache.

    Returns:
        States by memory; what is put there stays with the cache.
    """
    found: dict[Any, MemoryState] | None = getattr(past, _STATES, None)
    if found is None:
        found = {}
        setattr(past, _STATES, found)
        past.reorder_cache = partial(_chosen, found, past.reorder_cache)
        past.batch_select_indices = partial(_chosen, found, past.batch_select_indices)
        past.batch_repeat_interleave = partial(_repeated, found, past.batch_repeat_interleave)
        past.reset = partial(_emptied, found, past.reset)
        past.crop = _kept_whole
    return found


def _chosen(found: dict[Any, MemoryState], own: Any, rows: Tensor) -> None:
    own(rows)
    for key, state in found.items():
        found[key] = state.select(rows.tolist())


def _repeated(found: dict[Any, MemoryState], own: Any, repeats: int) -> None:
    own(repeats)
    for key, state in found.items():
        rows = torch.arange(state.batch).repeat_interleave(repeats)
        found[key] = state.select(rows.tolist())


def _emptied(found: dict[Any, MemoryState], own: Any) -> None:
    own()
    found.clear()


def _kept_whole(*_: Any) -> None:
    raise ArgumentError(
        "add_memory: a sequence memory cannot take back what a text has written; generate without "
        "an assistant model"
    )
