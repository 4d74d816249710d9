"""Call any mixer the same way: what it takes is passed on, and what it gives has a meter."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from pentti import checks
from pentti.nn.local.base import check_mask
from pentti.nn.sdm import MemoryOutput

__all__ = ["Mixing", "cache_of", "check_module"]


class Mixing(nn.Module):
    """Base of what holds mixers: it passes `token_mask` and `cache` to those that take them.

    A mixer maps (B, L, D) to (B, L, D), or to a tuple that begins with that and a meter (B, L), as
    the outputs of `SDMLayer` and `SequenceMemory` do. One whose `forward` has neither `token_mask`
    nor `cache` must work token by token, as a learned memory or a linear layer does.
    """

    def __init__(self, dim: Any) -> None:
        super().__init__()
        self.dim = checks.count(type(self).__name__, "dim", dim)
        self._takes: dict[str, tuple[str, ...]] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        """Note what a mixer takes when it is put in: a compiled forward could not ask for it."""
        super().__setattr__(name, value)
        if isinstance(value, nn.Module):
            self._takes[name] = _taken(value)

    def _check(self, x_BLD: Tensor, token_mask: Any, cache: Any) -> tuple[Any, Any]:
        """The caches of both parts, once the arguments are right."""
        where = type(self).__name__
        if not isinstance(x_BLD, Tensor) or x_BLD.shape[-1:] != (self.dim,):
            got = getattr(x_BLD, "shape", type(x_BLD).__name__)
            expected = f"be a tensor of shape (…, {self.dim})"
            checks.reject(where, "x_BLD", expected, checks.Words(f"{got}"))
        check_mask(where, x_BLD, token_mask)
        if cache is None:
            return None, None
        if not isinstance(cache, tuple) or len(cache) != 2:
            got = checks.Words(f"a {type(cache).__name__}")
            checks.reject(where, "cache", "come from `new_cache`", got)
        return cache

    def _mix(
        self, name: str, mixer: nn.Module, x_BLD: Tensor, token_mask: Tensor | None, cache: Any
    ) -> MemoryOutput:
        """What a mixer gives, zero where there is no token."""
        offered = {"token_mask": token_mask, "cache": cache}
        given = mixer(x_BLD, **{key: offered[key] for key in self._takes[name]})
        if isinstance(given, tuple):
            output, meter = given[:2]
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

    Raises:
        ArgumentError: if it takes a cache and cannot make one.
    """
    make = getattr(mixer, "new_cache", None)
    if make is None and "cache" in _taken(mixer):
        where, got = type(mixer).__name__, checks.Words("none")
        checks.reject(where, "new_cache", "be a method where `forward` takes a cache", got)
    return None if make is None else make(batch)


def check_module(where: str, argument: str, value: Any) -> nn.Module:
    """The value, if it is a module.

    Args:
        where: The class that was called.
        argument: The argument's name.
        value: What came.

    Returns:
        The value.

    Raises:
        ArgumentError: if it is anything else.
    """
    if not isinstance(value, nn.Module):
        checks.reject(where, argument, "be a torch module", value)
    return value


def _taken(mixer: nn.Module) -> tuple[str, ...]:
    """Which of `token_mask` and `cache` a mixer takes.

    What hands everything on (`**kwargs`), as compiled and checkpointed modules do, takes what the
    one module inside it takes.
    """
    given = inspect.signature(mixer.forward).parameters
    inside = list(mixer.children())
    if any(p.kind is p.VAR_KEYWORD for p in given.values()) and len(inside) == 1:
        return _taken(inside[0])
    return tuple(key for key in ("token_mask", "cache") if key in given)
