"""Which random blocks a block sees: drawn from a seed, and the same whatever the length."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from pentti import bits

__all__ = ["drawn", "random_blocks"]

_CHUNK = 1024  # blocks drawn from one stream, so that more of them leave the first as they are


def random_blocks(
    like: Tensor, n_blocks: int, n_global: int, n_random: int, causal: bool, seed: int
) -> Tensor:
    """The random blocks of each block, on the device of a tensor and inside `torch.compile`.

    Args:
        like: A tensor on the device wanted.
        n_blocks: How many blocks ask.
        n_global: Blocks at the start that are not drawn.
        n_random: Blocks drawn for each, without repeat.
        causal: Only from the past.
        seed: Of the draw.

    Returns:
        int64 of shape (n_blocks, n_random).
    """
    found: Tensor = _random_blocks(like, n_blocks, n_global, n_random, causal, seed)
    return found


@torch.library.custom_op("pentti::random_blocks", mutates_args=())
def _random_blocks(
    like: Tensor, n_blocks: int, n_global: int, n_random: int, causal: bool, seed: int
) -> Tensor:
    n_chunks = max(1, -(-n_blocks // _CHUNK))
    chunks = [drawn(i, n_global, n_random, causal, seed) for i in range(n_chunks)]
    return torch.cat(chunks)[:n_blocks].to(like.device, copy=True)


@_random_blocks.register_fake
def _(like: Tensor, n_blocks: int, _g: int, n_random: int, *_others: Any) -> Tensor:
    return like.new_empty((n_blocks, n_random), dtype=torch.int64)


@lru_cache(maxsize=64)
def drawn(chunk: int, n_global: int, n_random: int, causal: bool, seed: int) -> Tensor:
    """The draw for 1,024 blocks.

    Block b draws from the blocks that are neither global nor its neighbours: causal, from
    {g … b − 2}; else from {g … 2b + r + 3} without b − 1, b and b + 1, so that what it draws does
    not depend on where the sequence ends. Rows of early blocks, which see all the past anyway, or
    are global, mean nothing.

    Args:
        chunk: Which 1,024 blocks.
        n_global: g.
        n_random: r.
        causal: Only from the past.
        seed: Of the draw.

    Returns:
        int64 of shape (1,024, r): each set of r candidates is equally likely.
    """
    stream = bits.stream(f"random blocks {chunk}", seed)
    noise = torch.rand(_CHUNK, n_random, generator=stream, dtype=torch.float64)
    block = torch.arange(chunk * _CHUNK, (chunk + 1) * _CHUNK)
    first_near = (block - 1).clamp(min=n_global)
    n_near = block + 2 - first_near
    end = block - 1 if causal else 2 * block + n_random + 4 - n_near
    n_candidates = (end - n_global).clamp(min=n_random)
    chosen = torch.empty(_CHUNK, 0, dtype=torch.int64)
    for i in range(n_random):  # Floyd's algorithm, for all blocks at once
        last = n_candidates - n_random + i
        pick = (noise[:, i] * (last + 1)).long()
        repeated = (chosen == pick[:, None]).any(1)
        chosen = torch.cat((chosen, torch.where(repeated, last, pick)[:, None]), 1)
    chosen += n_global
    if not causal:
        chosen += torch.where(chosen >= first_near[:, None], n_near[:, None], 0)
    return chosen
