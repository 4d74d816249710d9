"""The passes of the sequence memory on the CPU: compiled, a share of the sequences a thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pentti.kernels import hashing, visits
from pentti.kernels.causal import Visit, Visited
from pentti.kernels.threads import over_ranges

__all__ = ["Tables", "run", "visit"]

Array = npt.NDArray[Any]
Tables = tuple[Array, Array, Array, Array, Array]
"""index (T, slots), keys (T, room), used (T,), contents (T, room, D) and evidence (T, room); see
`hashing` and `visits`."""

_WORK = 1 << 16  # numbers moved from which threads are worth waking
_SHARES = 4  # for each thread


def visit(given: Visit, n_locations: int, tables: Tables | None = None) -> Visited:
    """A pass over sequences; see `causal.quadratic`.

    Args:
        given: What goes in, float32 or float64.
        n_locations: M.
        tables: To go on with: one for each sequence, of the values' type, with room for all that it
            writes; they are changed. Otherwise they start empty, and a thread holds one at a time.

    Returns:
        What comes out.
    """
    written, weights, values, amounts, read, shares = (_array(x) for x in given[:6])
    none, flat = np.empty((0, 0, 0), dtype=values.dtype), np.empty((0, 0), dtype=values.dtype)
    probes, probe_amounts = none, flat
    sums, masses, dots = none, flat, none
    if given.summed:
        sums, masses = np.empty_like(values), np.empty_like(amounts)
    if given.probes is not None and given.probe_amounts is not None:
        probes, probe_amounts = _array(given.probes), _array(given.probe_amounts)
        dots = np.empty_like(shares)
    run(
        visits.visit, written, values, n_locations, tables, weights, values, amounts, read, shares,
        probes, probe_amounts, given.backwards, sums, masses, dots,
    )  # fmt: skip
    return Visited(
        torch.from_numpy(sums) if given.summed else None,
        torch.from_numpy(masses) if given.summed else None,
        torch.from_numpy(dots) if given.probes is not None else None,
    )


def run(
    loop: Callable[..., None],
    written: Array,
    like: Array,
    n_locations: int,
    tables: Tables | None,
    *rest: Any,
    touched: int | None = None,
) -> None:
    """Call a loop of `visits` on shares of the sequences.

    Args:
        loop: Takes tables, whether they are direct and fresh, a range, and the rest.
        written: Locations, (N, L, K).
        like: An array of the type and width of the contents.
        n_locations: M.
        tables: As for `visit`.
        *rest: More for the loop.
        touched: Most locations that a sequence touches; those that it writes, unless given.
    """
    n, length, k = written.shape
    room = min(n_locations, length * k if touched is None else touched)
    n_slots = hashing.capacity(n_locations, room) if tables is None else tables[0].shape[1]
    direct = n_slots >= n_locations

    def share(low: int, high: int) -> None:
        own = _empty(n_slots, room, like) if tables is None else tables
        loop(own, direct, tables is None, low, high, written, *rest)

    n_shares = _SHARES if tables is not None or n_slots < like[:1].size else 1
    if n:
        over_ranges(share, n, like.size * k >= _WORK, n_shares=n_shares)


def _empty(n_slots: int, room: int, like: Array) -> Tables:
    index = np.full((1, n_slots), -1, dtype=np.int32)
    keys, used = np.empty((1, room), dtype=np.int64), np.zeros(1, dtype=np.int64)
    contents = np.empty((1, room, like.shape[-1]), dtype=like.dtype)
    return index, keys, used, contents, np.empty((1, room), dtype=like.dtype)


def _array(x: Tensor) -> Array:
    given: Array = x.detach().contiguous().numpy()
    return given


def correct(
    read: Tensor,
    shares: Tensor,
    written: Tensor,
    weights: Tensor,
    values: Tensor,
    rates: Tensor,
    amounts: Tensor,
    n_locations: int,
    tables: Tables | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The error-correcting rule; see `causal.correct`.

    Args:
        read: Locations, int64 (N, L, J).
        shares: Of the reads, (N, L, J), float32 or float64.
        written: Locations, int64 (N, L, K).
        weights: Of the writes, (N, L, K).
        values: (N, L, D).
        rates: How far each write goes, (N, L).
        amounts: What a write adds to the evidence, (N, L).
        n_locations: M.
        tables: As for `visit`.

    Returns:
        Sums (N, L, D), masses (N, L), and the values less what was there before them (N, L, D).
    """
    given = [_array(x) for x in (values, rates, amounts, read, shares)]
    sums, faults, masses = np.empty_like(given[0]), np.empty_like(given[0]), np.empty_like(given[1])
    run(
        visits.correct, _array(written), given[0], n_locations, tables, _array(weights), *given,
        faults, sums, masses,
    )  # fmt: skip
    return torch.from_numpy(sums), torch.from_numpy(masses), torch.from_numpy(faults)


def correct_backward(
    read: Tensor,
    shares: Tensor,
    written: Tensor,
    weights: Tensor,
    faults: Tensor,
    rates: Tensor,
    amounts: Tensor,
    n_locations: int,
    to_sums: Tensor,
    to_masses: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The derivatives of `correct`.

    Args:
        read: As for `correct`.
        shares: As for `correct`.
        written: As for `correct`.
        weights: As for `correct`.
        faults: From `correct`.
        rates: As for `correct`.
        amounts: As for `correct`.
        n_locations: M.
        to_sums: Of what is derived, by the sums.
        to_masses: By the masses.

    Returns:
        Derivatives by shares, weights, values and rates.
    """
    places, p, r, w = (_array(x) for x in (written, weights, rates, faults))
    a = _array(amounts)
    q, qs, to_s, to_m = _array(read), _array(shares), _array(to_sums), _array(to_masses)
    to_values, to_found = np.empty_like(w), np.empty_like(w)
    to_rates, to_weights, to_shares = np.empty_like(r), np.empty_like(p), np.empty_like(qs)
    run(
        visits.correct_backward, places, w, n_locations, None, p, r, a, w, q, qs, to_s, to_m,
        to_values, to_rates, to_weights, to_found,
        touched=places.shape[1] * (p.shape[2] + qs.shape[2]),
    )  # fmt: skip
    run(
        visits.correct_probes, places, w, n_locations, None, p, r, a, w, to_found, q, to_s, to_m,
        to_weights, to_shares,
    )  # fmt: skip
    return tuple(torch.from_numpy(x) for x in (to_shares, to_weights, to_values, to_rates))  # type: ignore[return-value]
