"""Go on with a state: what new tokens write is added to it, and they read all of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pentti.kernels import causal, causal_cpu, causal_ops, ops
from pentti.nn.memory_state import MemoryState

__all__ = ["Writes", "alone", "continued"]


class Writes(NamedTuple):
    """What N = B · H sequences read and write.

    Attributes:
        read: Locations, int64 (N, L, K).
        shares: Of the reads, (N, L, K).
        written: Locations, int64 (N, L, K).
        weights: Of the writes, (N, L, K); 0 where nothing is written.
        values: (N, L, D).
        rates: How far an error-correcting write goes, (N, L); None for one that adds.
        amounts: What an error-correcting write adds to the evidence, (N, L).
    """

    read: Tensor
    shares: Tensor
    written: Tensor
    weights: Tensor
    values: Tensor
    rates: Tensor | None
    amounts: Tensor


def alone(writes: Writes, n_locations: int) -> tuple[Tensor, Tensor]:
    """Write and read with nothing written before.

    Args:
        writes: Of all sequences.
        n_locations: M.

    Returns:
        Sums (N, L, D) and masses (N, L).
    """
    read, shares, written, weights, values, rates, amounts = writes
    if rates is None:
        return causal_ops.causal_memory(read, shares, written, weights, values, n_locations)
    return causal_ops.correcting(
        read, shares, written, weights, values, rates, amounts, n_locations
    )


def continued(writes: Writes, state: MemoryState) -> tuple[Tensor, Tensor]:
    """Write into a state and read from it; it is changed.

    Where gradients are wanted, its tables are replaced by new ones with a history, and are changed
    in place otherwise, at a cost for each token that does not depend on what is there.

    Args:
        writes: Of all its sequences.
        state: What was written before.

    Returns:
        Sums (N, L, D) and masses (N, L).
    """
    given = [x for x in (*writes, state.contents) if x is not None]
    if torch.is_grad_enabled() and any(x.requires_grad for x in given):
        return _with_history(writes, state)
    if state.contents.requires_grad:  # others may need the tables as they are
        state.detach()
        state.contents, state.evidence = state.contents.clone(), state.evidence.clone()
    if state.device.type != "cpu":
        return _with_history(writes, state)
    return _in_place(writes, state)


def _in_place(writes: Writes, state: MemoryState) -> tuple[Tensor, Tensor]:
    read, shares, written, weights, values, rates, amounts = writes
    if state.batch:
        state.reserve(int(state.used.max()) + written[0].numel())
    contents, evidence = state.contents.numpy(), state.evidence.numpy()
    index, keys, used = (x.numpy() for x in (state.index, state.keys, state.used))
    tables = (index, keys, used, contents, evidence)
    if rates is None:
        given = causal.Visit(written, weights, values, torch.ones_like(amounts), read, shares)
        sums, masses, _ = causal_cpu.visit(given, state.n_locations, tables)
        return sums, masses
    sums, masses, _ = causal_cpu.correct(
        read, shares, written, weights, values, rates, amounts, state.n_locations, tables
    )
    return sums, masses


def _with_history(writes: Writes, state: MemoryState) -> tuple[Tensor, Tensor]:
    read, shares, written, weights, values, rates, amounts = writes
    state.touch(written, weights != 0)
    rows, seen = state.rows(written), state.rows(read)
    if not state.room:  # nothing was ever written, here either
        return alone(writes, state.n_locations)
    # Of what is not there nothing is read; what is not written goes to row 0, with weight 0.
    rows, there = rows.clamp_min(0), seen >= 0
    seen, own = seen.clamp_min(0), torch.where(there, shares, 0)
    if rates is None:
        return _added(Writes(seen, own, rows, weights, values, None, amounts), state)
    keys = torch.arange(state.room, device=state.device)
    start = (keys, state.contents, state.evidence)
    sums, masses, end = causal.correct(rows, weights, values, rates, amounts, seen, own, start)
    state.contents, state.evidence = end
    return sums, masses


def _added(writes: Writes, state: MemoryState) -> tuple[Tensor, Tensor]:
    """What was there is read as a table; what is new, as if it were alone."""
    seen, shares, rows, weights, values, _, _ = writes
    n, room, width = state.contents.shape
    first = torch.arange(0, n * room, room, device=state.device)[:, None, None]
    seen_all, rows_all = (seen + first).flatten(0, 1), (rows + first).flatten(0, 1)
    own, steps = shares.flatten(0, 1), weights.flatten(0, 1)
    before = ops.read_rows(state.contents.flatten(0, 1), seen_all, own).view(values.shape)
    mass = (state.evidence.flatten()[seen_all] * own).sum(-1).view(values.shape[:2])
    sums, masses = alone(writes, room)
    added = ops.scatter_rows_dense(rows_all, steps, values.flatten(0, 1), n * room)
    state.contents = state.contents + added.view(n, room, width)
    flat = state.evidence.flatten().index_put((rows_all,), steps, accumulate=True)
    state.evidence = flat.view(n, room)
    return sums + before, masses + mass
