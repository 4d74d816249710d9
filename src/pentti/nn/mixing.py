"""Call any mixer the same way: what it takes is passed on, and what it gives has a meter."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from pentti.nn.sdm import MemoryOutput

__all__ = ["Mixing", "cache_of"]


class Mixing(nn.Module):
    """Base of what holds mixers: it passes `token_mask` and `cache` to those that take them.

    A mixer maps (B, L, D) to (B, L, D), or to that and a meter (B, L). One whose `forward` has
    neither `token_mask` nor `cache` must work token by token, as a memory or a linear layer does.
    """

    def __init__(self) -> None:
        super().__init__()
        self._takes: dict[str, tuple[str, ...]] = {}

    def _learn(self, name: str, mixer: nn.Module) -> None:
        """Note what a mixer takes, once: a compiled forward could not ask for its signature."""
        taken = inspect.signature(mixer.forward).parameters
        self._takes[name] = tuple(key for key in ("token_mask", "cache") if key in taken)

    def _mix(
        self, name: str, mixer: nn.Module, x_BLD: Tensor, token_mask: Tensor | None, cache: Any
    ) -> MemoryOutput:
        """What a mixer gives, zero where there is no token."""
        offered = {"token_mask": token_mask, "cache": cache}
        given = mixer(x_BLD, **{key: offered[key] for key in self._takes[name]})
        if isinstance(given, tuple):
            output, meter = given
        else:
            output, meter = given, x_BLD.new_zeros(x_BLD.shape[:-1], dtype=torch.int64)
        if token_mask is not None:  # `where`, because 0 × NaN is NaN
            output = torch.where(token_mask[..., None], output, 0)
            meter = torch.where(token_mask, meter, 0)
        return MemoryOutput(output, meter)


def cache_of(mixer: nn.Module, batch: int) -> Any:
    """A new cache for a mixer, or None for one that works token by token.

    Args:
        mixer: The mixer.
        batch: Number of sequences.

    Returns:
        What the mixer's `new_cache` gives.
    """
    make = getattr(mixer, "new_cache", None)
    return None if make is None else make(batch)
