"""Compiled loops that find the best cells of a grid of sums, with the instructions they need."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from pentti.kernels.compiling import compiled
from pentti.kernels.loops import trailing_zeros

__all__ = ["best_cells"]

_I64 = ir.IntType(64)
_VECTOR_BITS = 512
_PADDING = 16  # lanes of the narrowest keys


def _lanes(keys: Any) -> int:
    """Keys in a vector of 512 bits."""
    return _VECTOR_BITS // int(keys.dtype.bitwidth)


def _vector_at(builder: Any, context: Any, keys: Any, kind: Any, vector: Any) -> Any:
    """A vector of keys, and the type of a mask that has one bit for each lane."""
    lanes = _lanes(kind)
    keys = context.make_array(kind)(context, builder, keys)
    first = builder.gep(keys.data, [builder.mul(vector, ir.Constant(_I64, lanes))])
    vector_type = ir.VectorType(ir.IntType(kind.dtype.bitwidth), lanes)
    loaded = builder.load(builder.bitcast(first, vector_type.as_pointer()))
    loaded.align = kind.dtype.bitwidth // 8
    return loaded, ir.IntType(lanes)


def _splatted(builder: Any, value: Any, vector_type: Any) -> Any:
    lone = builder.insert_element(
        ir.Constant(vector_type, None), value, ir.Constant(ir.IntType(32), 0)
    )
    places = ir.Constant(ir.VectorType(ir.IntType(32), vector_type.count), [0] * vector_type.count)
    return builder.shuffle_vector(lone, lone, places)


@intrinsic
def _emit_at_least(typing_context: Any, keys: Any, vector: Any, bound: Any) -> Any:
    """A bit for each lane of a vector of keys: whether it is at least `bound`."""
    del typing_context, vector, bound

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        loaded, mask = _vector_at(builder, context, arguments[0], signature.args[0], arguments[1])
        bound = _splatted(builder, arguments[2], loaded.type)
        reached = builder.icmp_signed(">=", loaded, bound)
        return builder.zext(builder.bitcast(reached, mask), _I64)

    return types.uint64(keys, types.intp, keys.dtype), emit


@intrinsic
def _emit_rank(typing_context: Any, keys: Any, n_vectors: Any, place: Any) -> Any:
    """How many keys come before the one at a place: larger ones, and equal ones further left."""
    del typing_context, n_vectors, place

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, (keys, n_vectors, place) = signature.args[0], arguments
        lanes = _lanes(kind)
        data = context.make_array(kind)(context, builder, keys).data
        key = builder.load(builder.gep(data, [place]))
        total = cgutils.alloca_once_value(builder, ir.Constant(_I64, 0))
        with cgutils.for_range(builder, n_vectors, intp=_I64) as loop:
            loaded, mask = _vector_at(builder, context, keys, kind, loop.index)
            splat = _splatted(builder, key, loaded.type)
            larger = builder.bitcast(builder.icmp_signed(">", loaded, splat), mask)
            equal = builder.bitcast(builder.icmp_signed("==", loaded, splat), mask)
            left = builder.sub(place, builder.mul(loop.index, ir.Constant(_I64, lanes)))
            left = _clamped(builder, left, lanes)
            one, wide = ir.Constant(_I64, 1), _I64
            before = builder.trunc(builder.sub(builder.shl(one, left), one), mask)
            hits = builder.zext(builder.or_(larger, builder.and_(equal, before)), wide)
            builder.store(builder.add(builder.load(total), builder.ctpop(hits)), total)
        return builder.load(total)

    return types.intp(keys, types.intp, types.intp), emit


def _clamped(builder: Any, value: Any, high: int) -> Any:
    """The value, within [0, high]."""
    zero, top = ir.Constant(_I64, 0), ir.Constant(_I64, high)
    value = builder.select(builder.icmp_signed("<", value, zero), zero, value)
    return builder.select(builder.icmp_signed(">", value, top), top, value)


_at_least: Any = _emit_at_least
_rank: Any = _emit_rank


@compiled
def best_cells(scores, score_bits, low, high, limits, slack, sums, sum_bits, pairs):
    """The best cells of the grid of each row in a range.

    A bound on the k-th best sum, from the maxima of groups, leaves few sub-scores that can reach it
    with the best of the other side; these are sorted, and few of their sums reach the bound.
    """
    n, k = scores.shape[2], pairs.shape[2]
    kept = min(k, n)
    keys = np.empty((2, n + _PADDING), dtype=score_bits.dtype)
    few = np.empty(max(n, len(sums)) + _PADDING, dtype=score_bits.dtype)
    where = np.empty(len(few), dtype=np.int64)
    order, n_tops = np.empty((2, kept + 1), dtype=np.int64), np.empty(2, dtype=np.int64)
    best, cells = np.empty(k + 1, dtype=np.int64), np.empty((2, len(few)), dtype=np.int32)
    sum_keys = np.empty(len(few), dtype=score_bits.dtype)
    least = np.empty(2, dtype=score_bits.dtype)
    tops = np.empty((2, kept), dtype=scores.dtype)
    # Cell (a, b) is the corner of a rectangle of (a + 1)(b + 1) cells, all at least as good: fewer
    # than k others for b < reach[a], and k or more with it from b = corner[a] on.
    corner, reach = np.empty(k, dtype=np.int64), np.empty(k, dtype=np.int64)
    for a in range(k):
        corner[a], reach[a] = (k - 1) // (a + 1), k // (a + 1)
    for r in range(low, high):
        for side in range(2):
            _as_keys(scores[side, r], score_bits[side, r], limits, keys[side])
        _least_keys(keys, n, corner, limits, slack, few, sums, sum_bits, least)
        for side in range(2):
            found = _best(keys[side], n, kept, least[side], limits, few, where, order[side])
            n_tops[side] = min(kept, found)
            for a in range(n_tops[side]):
                tops[side, a] = scores[side, r, order[side, a]]
        n_cells = _sum_cells(tops[0, : n_tops[0]], tops[1, : n_tops[1]], corner, reach, sums, cells)
        _as_keys(sums[:n_cells], sum_bits[:n_cells], limits, sum_keys)
        _best(sum_keys, n_cells, k, limits[0], limits, few, where, best)
        for c in range(k):
            pairs[0, r, c] = order[0, cells[0, best[c]]]
            pairs[1, r, c] = order[1, cells[1, best[c]]]


@compiled
def _sum_cells(first, second, corner, reach, sums, cells):
    """The sums that can be among the k best, of two falling lists; gives how many there are."""
    bound = first.dtype.type(-np.inf)
    for a in range(len(first)):
        if corner[a] < len(second):
            bound = max(bound, first[a] + second[corner[a]])
    n_cells = 0
    for a in range(len(first)):
        if first[a] + second[0] < bound:
            break
        for b in range(min(len(second), reach[a])):
            total = first[a] + second[b]
            sums[n_cells], cells[0, n_cells], cells[1, n_cells] = total, a, b
            n_cells += not total < bound
    return n_cells


@compiled
def _as_keys(values, value_bits, limits, keys):
    """Integers in the order of the floats, -0 equal to 0, NaN above all; padded with the least."""
    smallest, largest = limits
    for i in range(len(values)):
        bits = value_bits[i]
        key = bits if bits >= 0 else bits ^ largest
        if values[i] == 0:
            key = 0
        keys[i] = key if values[i] == values[i] else largest
    keys[len(values) : len(values) + _PADDING] = smallest


@compiled
def _least_keys(keys, n, corner, limits, slack, few, sums, sum_bits, least):
    """For each side the least key that one of the k best cells can have."""
    k = len(corner)
    least[:] = limits[0]
    lanes = _VECTOR_BITS // (8 * keys.itemsize)
    groups = lanes
    while groups < k:
        groups *= 2
    if n < 2 * groups:
        return
    for side in range(2):
        few[:groups] = keys[side, :groups]
        for start in range(groups, n, groups):
            for g in range(min(groups, n - start)):
                few[g] = max(few[g], keys[side, start + g])
        for g in range(groups):
            place = side * groups + _rank(few, groups // lanes, g)
            sum_bits[place] = few[g] if few[g] >= 0 else few[g] ^ limits[1]
    bound = sums.dtype.type(-np.inf)
    for a in range(k):
        bound = max(bound, sums[a] + sums[groups + corner[a]])
    for side in range(2):
        other = sums[(1 - side) * groups]
        sums[2 * groups] = bound - other - slack * (abs(bound) + abs(other))
        if abs(sums[2 * groups]) < np.inf:
            bits = sum_bits[2 * groups]
            least[side] = bits if bits >= 0 else bits ^ limits[1]


@compiled
def _best(keys, n, k, least, limits, few, where, order):
    """The places of the k largest of the keys from `least` up; gives how many such keys there are.

    The best comes first, and of equal ones that which is further left.
    """
    lanes = _VECTOR_BITS // (8 * keys.itemsize)
    least = max(least, limits[0] + keys.dtype.type(1))  # padding has the smallest key
    n_left = 0
    for v in range((n + lanes - 1) // lanes):
        hits = _at_least(keys, v, least)
        while hits:
            i = v * lanes + trailing_zeros(hits)
            hits &= hits - np.uint64(1)
            where[n_left] = i
            few[n_left] = keys[i]
            n_left += 1
    few[n_left : n_left + lanes] = limits[0]
    for i in range(n_left):
        rank = _rank(few, (n_left + lanes - 1) // lanes, i)
        order[min(rank, k)] = where[i]  # place k is for all that are not wanted
    return n_left
