"""Cosines of queries with a table of directions, in blocks, so that no matrix of both is held."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["QUERIES", "cosine_threshold", "cosine_top_k"]

QUERIES = 256
"""Queries scored at a time."""

_ROWS = 4096  # rows of a table scored at a time: a megabyte-sized block stays in the cache


@torch.library.custom_op("pentti::cosine_top_k", mutates_args=())
def cosine_top_k(x_HBE: Tensor, table_HME: Tensor, k: int, normalise: bool) -> Tensor:
    """The k rows of each table that are nearest to each query, best first; no gradient.

    Args:
        x_HBE: Queries of length 1.
        table_HME: Rows; of any floating type.
        k: How many, from 1 to M.
        normalise: Whether rows have lengths other than 1.

    Returns:
        int64 tensor of shape (H, B, k), distinct rows; any for a query with NaN.
    """
    found = torch.empty((*x_HBE.shape[:2], k), dtype=torch.int64, device=x_HBE.device)
    for head, (x_BE, table_ME) in enumerate(zip(x_HBE, table_HME, strict=True)):
        for first in range(0, len(x_BE), QUERIES):
            queries = slice(first, first + QUERIES)
            found[head, queries] = _best(_scores(x_BE[queries], table_ME, normalise), k)
    return found


@cosine_top_k.register_fake
def _(x_HBE: Tensor, table_HME: Tensor, k: int, normalise: bool) -> Tensor:
    del table_HME, normalise
    return x_HBE.new_empty((*x_HBE.shape[:2], k), dtype=torch.int64)


def cosine_threshold(
    x_BE: Tensor, table_ME: Tensor, threshold: float, normalise: bool
) -> tuple[Tensor, Tensor]:
    """All rows of a table whose cosine with each query reaches a threshold.

    Args:
        x_BE: Queries of length 1.
        table_ME: Rows; of any floating type.
        threshold: Least cosine, compared in the type of the queries.
        normalise: Whether rows have lengths other than 1.

    Returns:
        `locations` and `offsets` of an `Activation`.
    """
    entries = [x_BE.new_empty(0, dtype=torch.int64)]
    for low, score in _scores(x_BE, table_ME, normalise):
        query, place = (score >= threshold).nonzero(as_tuple=True)
        entries.append(query * len(table_ME) + (place + low))
    entry = torch.cat(entries).sort().values
    meter = torch.bincount(entry // len(table_ME), minlength=len(x_BE))
    offsets = torch.nn.functional.pad(meter.cumsum(0), (1, 0))
    return entry % len(table_ME), offsets


def _best(scores: Iterator[tuple[int, Tensor]], k: int) -> Tensor:
    """The places of the k highest scores of each query, block after block."""
    _, score = next(scores)
    best, row = score.topk(min(k, score.shape[1]))
    for low, score in scores:
        value, place = score.topk(min(k, score.shape[1]))
        value, place = torch.cat([best, value], 1), torch.cat([row, place + low], 1)
        best, order = value.topk(min(k, value.shape[1]))
        row = place.gather(1, order)
    return row


def _scores(x_BE: Tensor, table_ME: Tensor, normalise: bool) -> Iterator[tuple[int, Tensor]]:
    for low in range(0, len(table_ME), _ROWS):
        rows = table_ME[low : low + _ROWS].to(x_BE.dtype)
        score = x_BE @ rows.T
        if normalise:
            length = torch.linalg.vector_norm(rows, dim=-1)
            score /= torch.where(length > 0, length, 1)
        yield low, score
