"""What the sequence memory computes, in plain torch: the definition, and a form that scales.

All take tensors of N sequences (each a head of a batch entry): written and read locations, int64
(N, L, K) and (N, L, J), their weights of the same shapes, and values (N, L, D). At each token the
memory is written first and then read, so that a read sees its own token's write:

    sums[t]   = Σ over s ≤ t of  overlap(t, s) · values[s]
    masses[t] = Σ over s ≤ t of  overlap(t, s) · amounts[s]
    overlap(t, s) = Σ of shares[t, j] · weights[s, k] over all j, k with read[t, j] = written[s, k]
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Visit", "Visited", "correct", "quadratic", "scan"]

_BUDGET = 1 << 24  # numbers of a running sum held at a time
_CHUNK = 64  # tokens whose corrections are solved at once


class Visit(NamedTuple):
    """What goes into a pass over sequences.

    Attributes:
        written: Locations that each token writes, int64 (N, L, K).
        weights: Of the writes, (N, L, K).
        values: What is written, (N, L, D).
        amounts: What is added to the evidence of a location, (N, L).
        read: Locations that each token reads, int64 (N, L, J).
        shares: Of the reads, (N, L, J).
        probes: For `dots`, (N, L, D); None if these are not wanted.
        probe_amounts: For `dots` too, (N, L).
        backwards: Whether time runs from the last token to the first.
        summed: Whether `sums` and `masses` are wanted.
    """

    written: Tensor
    weights: Tensor
    values: Tensor
    amounts: Tensor
    read: Tensor
    shares: Tensor
    probes: Tensor | None = None
    probe_amounts: Tensor | None = None
    backwards: bool = False
    summed: bool = True


class Visited(NamedTuple):
    """What comes out; None for what was not wanted.

    Attributes:
        sums: Values by overlap, (N, L, D).
        masses: Amounts by overlap, (N, L).
        dots: What each read finds times the token's probe, (N, L, J).
    """

    sums: Any
    masses: Any
    dots: Any


def quadratic(visit: Visit) -> Visited:
    """The definition: every pair of tokens is compared.

    Args:
        visit: What goes in.

    Returns:
        What comes out.
    """
    n_tokens, wide = visit.values.shape[1], _wide(visit.values, visit.amounts)
    seen = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=wide.device)
    seen = seen.triu() if visit.backwards else seen.tril()
    # (N, L, J, L): how much of each write there is in each location that a token reads
    same = visit.read[:, :, :, None, None] == visit.written[:, None, None]
    there = (same * visit.weights[:, None, None]).sum(-1) * seen[:, None]
    found = there.to(wide.dtype) @ wide[:, None]
    return _visited(visit, (visit.shares[..., None] * found).sum(2), _products(visit, found))


def scan(visit: Visit) -> Visited:
    """Sort the writes by location and time; a read is the difference of two running sums.

    In float64, so that a difference of large sums keeps its digits. Nothing of size L × L or
    locations × D is held.

    Args:
        visit: What goes in.

    Returns:
        What comes out.
    """
    if visit.backwards:
        turned: Any = [x.flip(1) if isinstance(x, Tensor) else x for x in visit]
        back = scan(Visit(*turned)._replace(backwards=False))
        return Visited(*(None if x is None else x.flip(1) for x in back))
    n, length, n_reads = visit.read.shape
    k, wide = visit.written.shape[2], _wide(visit.values, visit.amounts)
    total = wide.new_zeros(wide.shape)
    dots = wide.new_zeros(visit.read.shape)
    step = max(1, _BUDGET // max(1, length * max(k, n_reads)))
    for one in range(n):
        order, start, end = _lookup(visit.written[one], visit.read[one])
        weights = visit.weights[one].flatten()[order, None].double()
        for low in range(0, wide.shape[-1], step):
            columns = slice(low, low + step)
            each = wide[one, :, columns].double()[order // k] * weights
            run = torch.cat([each.new_zeros((1, each.shape[1])), each.cumsum(0)])
            found = (run[end] - run[start]).unflatten(0, (length, n_reads))
            total[one, :, columns] = (visit.shares[one, ..., None] * found).sum(1)
            dots[one] += _products(visit, found, one, columns)
    return _visited(visit, total, dots)


def _lookup(written: Tensor, read: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The order of the writes of one sequence, and for each read where its run starts and ends."""
    length = len(written)
    time = torch.arange(length, device=written.device)[:, None]
    moments = (written * length + time).flatten()
    order = moments.argsort(stable=True)
    moments = moments[order]
    end = torch.searchsorted(moments, (read * length + time).flatten(), right=True)
    start = torch.searchsorted(moments, (read * length).flatten())
    return order, start, end


def _wide(columns: Tensor, last: Tensor) -> Tensor:
    return torch.cat([columns, last[..., None]], dim=-1)


def _products(
    visit: Visit, found: Tensor, one: int | slice = slice(None), columns: slice = slice(None)
) -> Tensor:
    """Of what each read finds with the token's probe; 0 where there is none."""
    if visit.probes is None or visit.probe_amounts is None:
        return found.new_zeros(found.shape[:-1])
    probes = _wide(visit.probes[one], visit.probe_amounts[one])[..., None, columns]
    return (found * probes).sum(-1)


def _visited(visit: Visit, total: Tensor, dots: Tensor) -> Visited:
    dots = dots.to(visit.values.dtype)
    given = None if visit.probes is None else dots
    if not visit.summed:
        return Visited(None, None, given)
    return Visited(total[..., :-1], total[..., -1], given)


def correct(
    written: Tensor,
    weights: Tensor,
    values: Tensor,
    rates: Tensor,
    amounts: Tensor,
    read: Tensor,
    shares: Tensor,
    table: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """The error-correcting rule: a write moves what its locations give towards the value.

    At each token, ``fault = value − Σ weight · contents`` and then
    ``contents += rate · weight · fault`` at its locations. In chunks, each solved at once, in
    operators that have gradients.

    Args:
        written: Locations, int64 (N, L, K).
        weights: Of the writes, (N, L, K).
        values: (N, L, D).
        rates: How far each write goes, (N, L).
        amounts: What a write adds to the evidence, (N, L).
        read: Locations, int64 (N, L, J).
        shares: Of the reads, (N, L, J).
        table: To start from: ascending locations (R,) of all sequences, contents (N, R, D) and
            evidence (N, R).

    Returns:
        Sums (N, L, D), masses (N, L) as for a plain write, and the contents and evidence of the
        locations that are touched or given, ascending.

    **Source:** Schlag et al. 2021, "Linear Transformers are secretly fast weight programmers"
    (arXiv 2102.11174); in chunks: Yang et al. 2024 (arXiv 2406.06484).
    """
    n, length, width = values.shape
    keys = torch.cat([written.flatten(), read.flatten()] + ([] if table is None else [table[0]]))
    keys = keys.unique()
    written, read = (torch.searchsorted(keys, x.contiguous()) for x in (written, read))
    contents, evidence = values.new_zeros((n, len(keys), width)), values.new_zeros((n, len(keys)))
    if table is not None:
        place = torch.searchsorted(keys, table[0])
        contents = contents.index_copy(1, place, table[1])
        evidence = evidence.index_copy(1, place, table[2])
    batch = torch.arange(n, device=values.device)[:, None, None]
    sums, masses = [], []
    for low in range(0, length, _CHUNK):
        some = slice(low, low + _CHUNK)
        w, p, v, b = written[:, some], weights[:, some], values[:, some], rates[:, some]
        a, r, q = amounts[:, some], read[:, some], shares[:, some]
        among = _overlap(w, p, w, p).tril(-1) * b[..., None]
        eye = torch.eye(w.shape[1], dtype=v.dtype, device=v.device)
        there = (p[..., None] * contents[batch, w]).sum(2)
        right = b[..., None] * (v - there)
        steps = torch.linalg.solve_triangular(eye + among, right, upper=False, unitriangular=True)
        seen = _overlap(r, q, w, p).tril()
        sums.append((q[..., None] * contents[batch, r]).sum(2) + seen @ steps)
        masses.append((q * evidence[batch, r]).sum(2) + (seen * a[:, None]).sum(2))
        where = (batch.expand_as(w), w)
        contents = contents.index_put(where, p[..., None] * steps[:, :, None], accumulate=True)
        evidence = evidence.index_put(where, p * a[..., None], accumulate=True)
    if not sums:
        return values, rates, (contents, evidence)
    return torch.cat(sums, 1), torch.cat(masses, 1), (contents, evidence)


def _overlap(read: Tensor, shares: Tensor, written: Tensor, weights: Tensor) -> Tensor:
    """(N, L, L'): how much of each write a read sees."""
    same = read[:, :, None, :, None] == written[:, None, :, None, :]
    return (same * shares[:, :, None, :, None] * weights[:, None, :, None, :]).sum((-1, -2))
