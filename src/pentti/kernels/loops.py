"""The loops that numba compiles, and the instructions that it has no words for.

Numba compiles loops well but has no vectors, saturating addition, bit scan or prefetch. The
intrinsics here write LLVM's portable code for them directly, which LLVM turns into AVX-512
VPOPCNTDQ, AVX2, NEON or whatever the machine has. They stand beside the loops that use them,
because numba looks at the age of this file to tell whether the code that it keeps on disk is still
good.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from pentti.kernels.compiling import compiled, reassociating
from pentti.kernels.layout import LANES

__all__ = [
    "adagrad",
    "add_real",
    "add_saturating",
    "dot_rows",
    "dot_some",
    "majority_of_counters",
    "match",
    "place",
    "prefetch_to_read",
    "prefetch_to_write",
    "read_backward",
    "read_weighted",
    "saturating_add",
    "scan",
    "scatter_columns",
    "scatter_sorted",
    "sum_counters",
    "sum_real",
    "trailing_zeros",
    "transpose",
]

_FLUSH_ROWS = 1 << 14  # 2¹⁴ int16 counters cannot overflow an int32
_AHEAD = 8  # rows of contents that are on their way while one is at work
_I64 = ir.IntType(64)
_LANE = ir.VectorType(_I64, LANES)
_LINE_BYTES = 64


def _within_radius(n_cues: int) -> Any:
    @intrinsic
    def within_radius(
        typing_context: Any, tiles: Any, tile: Any, cues: Any, first: Any, radius: Any
    ) -> Any:
        """Bit 8 q + j is set where cue `first` + q lies within `radius` of location j of `tile`."""
        del typing_context, tile, first, radius
        signature = types.uint64(tiles, types.intp, cues, types.intp, types.int64)
        return signature, _emit

    def _emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        tiles, tile, cues, first, radius = arguments
        tiles = context.make_array(signature.args[0])(context, builder, tiles)
        cues = context.make_array(signature.args[2])(context, builder, cues)
        width = builder.extract_value(cues.shape, 1)
        step = builder.mul(width, ir.Constant(_I64, LANES))
        words = builder.gep(tiles.data, [builder.mul(tile, step)])
        words = builder.bitcast(words, _LANE.as_pointer())
        cue = builder.gep(cues.data, [builder.mul(first, width)])
        distances = _distances(builder, words, cue, width, n_cues)
        limit = _splat(builder, radius)
        hits = ir.Constant(_I64, 0)
        for q, distance in enumerate(distances):
            inside = builder.icmp_signed("<=", builder.load(distance), limit)
            lanes = builder.zext(builder.bitcast(inside, ir.IntType(LANES)), _I64)
            hits = builder.or_(hits, builder.shl(lanes, ir.Constant(_I64, LANES * q)))
        return hits

    return within_radius


def _distances(builder: Any, words: Any, cue: Any, width: Any, n_cues: int) -> list[Any]:
    ctpop_type = ir.FunctionType(_LANE, [_LANE])
    ctpop = cgutils.get_or_insert_function(builder.module, ctpop_type, f"llvm.ctpop.v{LANES}i64")
    zero = ir.Constant(_LANE, None)
    distances = [cgutils.alloca_once_value(builder, zero) for _ in range(n_cues)]
    with cgutils.for_range(builder, width) as loop:
        address = builder.load(builder.gep(words, [loop.index]))
        address.align = 8
        for q, distance in enumerate(distances):
            place = builder.add(loop.index, builder.mul(width, ir.Constant(_I64, q)))
            word = builder.load(builder.gep(cue, [place]))
            different = builder.call(ctpop, [builder.xor(address, _splat(builder, word))])
            builder.store(builder.add(builder.load(distance), different), distance)
    return distances


def _splat(builder: Any, scalar: Any) -> Any:
    empty = ir.Constant(_LANE, ir.Undefined)
    one = builder.insert_element(empty, scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
    return builder.shuffle_vector(one, empty, zeros)


@intrinsic
def _emit_saturating_add(typing_context: Any, a: Any, b: Any) -> Any:
    """The sum a + b in the type of `a`, stopped at its largest and smallest value."""
    del typing_context

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left, right = arguments
        right = context.cast(builder, right, signature.args[1], signature.args[0])
        name = f"llvm.sadd.sat.i{signature.args[0].bitwidth}"
        kind = ir.FunctionType(left.type, [left.type, left.type])
        return builder.call(
            cgutils.get_or_insert_function(builder.module, kind, name), [left, right]
        )

    return a(a, b), emit


@intrinsic
def _emit_trailing_zeros(typing_context: Any, value: Any) -> Any:
    """The place of the lowest set bit of a uint64 that is not 0."""
    del typing_context

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.intp(value), emit


def _prefetch(for_writing: bool) -> Any:
    @intrinsic
    def prefetch(typing_context: Any, contents: Any, row: Any) -> Any:
        """Ask for a row of contents ahead of its use: random rows are waited for otherwise."""
        del typing_context, row
        return types.void(contents, types.intp), _emit

    def _emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        contents = context.make_array(signature.args[0])(context, builder, arguments[0])
        octet, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [octet, i32, i32, i32])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        row_bytes = builder.extract_value(contents.strides, 0)
        first = builder.bitcast(contents.data, octet)
        first = builder.gep(first, [builder.mul(arguments[1], row_bytes)])
        n_lines = builder.udiv(
            builder.add(row_bytes, ir.Constant(_I64, _LINE_BYTES - 1)),
            ir.Constant(_I64, _LINE_BYTES),
        )
        with cgutils.for_range(builder, n_lines) as loop:
            line = builder.gep(first, [builder.mul(loop.index, ir.Constant(_I64, _LINE_BYTES))])
            builder.call(fetch, [line, i32(int(for_writing)), i32(2), i32(1)])
        return context.get_dummy_value()

    return prefetch


@intrinsic
def _emit_stream(typing_context: Any, rows: Any, row: Any, values: Any) -> Any:
    """Write a row of whole cache lines past the cache, which need not read them first."""
    del typing_context, row

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows = context.make_array(signature.args[0])(context, builder, arguments[0])
        values = context.make_array(signature.args[2])(context, builder, arguments[2])
        row_bytes = builder.extract_value(rows.strides, 0)
        octet, line = ir.IntType(8).as_pointer(), ir.VectorType(ir.IntType(32), 16)
        to = builder.gep(builder.bitcast(rows.data, octet), [builder.mul(arguments[1], row_bytes)])
        come = builder.bitcast(values.data, octet)
        size = ir.Constant(_I64, _LINE_BYTES)
        past = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        with cgutils.for_range(builder, builder.udiv(row_bytes, size)) as loop:
            place = [builder.mul(loop.index, size)]
            source = builder.bitcast(builder.gep(come, place), line.as_pointer())
            target = builder.bitcast(builder.gep(to, place), line.as_pointer())
            loaded = builder.load(source, align=signature.args[2].dtype.bitwidth // 8)
            builder.store(loaded, target, align=_LINE_BYTES).set_metadata("nontemporal", past)
        return context.get_dummy_value()

    return types.void(rows, types.intp, values), emit


@intrinsic
def _emit_fence(typing_context: Any) -> Any:
    """Make what was written past the cache visible to whoever is told that it is there."""
    del typing_context

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del signature, arguments
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), emit


prefetch_to_read = _prefetch(for_writing=False)
prefetch_to_write = _prefetch(for_writing=True)
_fence: Any = _emit_fence
saturating_add: Any = _emit_saturating_add
_stream: Any = _emit_stream
trailing_zeros: Any = _emit_trailing_zeros
_within_radius_1 = _within_radius(1)
_within_radius_4 = _within_radius(4)


@compiled
def scan(tiles, low, high, n_locations, cues, n_cues, radius, cue_of, location_of):
    """Hits of a block of cues in a range of tiles; counts on where the buffers are full."""
    group = 1 if len(cues) == 1 else 4
    n_found = 0
    for tile in range(low, high):
        for first in range(0, len(cues), group):
            if group == 1:
                hits = _within_radius_1(tiles, tile, cues, first, radius)
            else:
                hits = _within_radius_4(tiles, tile, cues, first, radius)
            while hits:
                bit = trailing_zeros(hits)
                hits &= hits - np.uint64(1)
                cue, location = first + (bit >> 3), 8 * tile + (bit & 7)
                if cue < n_cues and location < n_locations:
                    if n_found < len(cue_of):
                        cue_of[n_found] = cue
                        location_of[n_found] = location
                    n_found += 1
    return n_found


@compiled
def transpose(cues, satisfied):
    """Bit b of ``satisfied[2 c + v]`` says whether bit c of cue b is v."""
    one = np.uint64(1)
    for b in range(len(cues)):
        for c in range(len(satisfied) // 2):
            value = (np.uint64(cues[b, c >> 6]) >> np.uint64(c & 63)) & one
            satisfied[2 * c + np.int64(value)] |= one << np.uint64(b)


@compiled
def match(literals, low, high, satisfied, everyone, cue_of, location_of):
    """Hits of up to 64 cues in a range of locations; counts on where the buffers are full."""
    n_found = 0
    for location in range(low, high):
        hits = everyone
        for k in range(literals.shape[1]):
            hits &= satisfied[literals[location, k]]
        while hits:
            cue = trailing_zeros(hits)
            hits &= hits - np.uint64(1)
            if n_found < len(cue_of):
                cue_of[n_found] = cue
                location_of[n_found] = location
            n_found += 1
    return n_found


@compiled
def place(cue_of, location_of, cursor, locations):
    """Sort hits by cue: the next free place of each cue moves on."""
    for i in range(len(cue_of)):
        cue = cue_of[i]
        locations[cursor[cue]] = location_of[i]
        cursor[cue] += 1


@compiled
def add_saturating(contents, low, high, locations, offsets, data):
    """Add each row of data to its active rows within a range, as far as counters go."""
    for b in range(len(data)):
        row = locations[offsets[b] : offsets[b + 1]]
        step = data[b]
        last = np.searchsorted(row, high)
        for i in range(np.searchsorted(row, low), last):
            if i + _AHEAD < last:
                prefetch_to_write(contents, row[i + _AHEAD])
            counters = contents[row[i]]
            for u in range(len(step)):
                counters[u] = saturating_add(counters[u], step[u])


@compiled
def add_real(contents, low, high, locations, offsets, data, weights):
    """Add each row of data, times its weight, to its active rows within a range."""
    for b in range(len(data)):
        start = offsets[b]
        row = locations[start : offsets[b + 1]]
        step = data[b]
        for i in range(np.searchsorted(row, low), np.searchsorted(row, high)):
            sums = contents[row[i]]
            weight = weights[start + i] if len(weights) else 1.0
            for u in range(len(step)):
                sums[u] += weight * step[u]


@compiled
def sum_counters(contents, low, high, locations, offsets, partial, total, sums):
    """Sum the active rows of integer counters for a range of the batch."""
    for b in range(low, high):
        _sum_row(contents, locations[offsets[b] : offsets[b + 1]], partial, total)
        for u in range(len(total)):
            sums[b, u] = total[u]


@compiled
def majority_of_counters(contents, low, high, locations, offsets, partial, total, word):
    """Whether those sums are above 0."""
    for b in range(low, high):
        _sum_row(contents, locations[offsets[b] : offsets[b + 1]], partial, total)
        for u in range(len(total)):
            word[b, u] = total[u] > 0


@compiled
def _sum_row(contents, row, partial, total):
    """Sum rows of counters four at a time, in a narrow type as long as it cannot overflow."""
    width = len(total)
    total[:] = 0
    for start in range(0, len(row), _FLUSH_ROWS):
        stop = min(len(row), start + _FLUSH_ROWS)
        partial[:] = 0
        fours = start + (stop - start) // 4 * 4
        for i in range(start, fours, 4):
            for k in range(i + _AHEAD, min(i + _AHEAD + 4, stop)):
                prefetch_to_read(contents, row[k])
            c0, c1 = contents[row[i]], contents[row[i + 1]]
            c2, c3 = contents[row[i + 2]], contents[row[i + 3]]
            for u in range(width):
                partial[u] += c0[u] + c1[u] + c2[u] + c3[u]
        for i in range(fours, stop):
            c0 = contents[row[i]]
            for u in range(width):
                partial[u] += c0[u]
        for u in range(width):
            total[u] += partial[u]


@compiled
def sum_real(contents, low, high, locations, offsets, weights, sums):
    """Sum the active rows of any kind, each times its weight, for a range of the batch."""
    for b in range(low, high):
        total = sums[b]
        for i in range(offsets[b], offsets[b + 1]):
            row = contents[locations[i]]
            weight = weights[i] if len(weights) else 1.0
            for u in range(len(total)):
                total[u] += weight * row[u]


@reassociating
def read_weighted(contents, low, high, locations, weights, sums):
    """Sum the rows of each entry of a range of the batch, each times its weight, four at a time."""
    n_rows, width = locations.shape[1], contents.shape[1]
    zero = weights.dtype.type(0)
    for b in range(low, high):
        total, where, weight = sums[b], locations[b], weights[b]
        total[:] = 0
        fours = n_rows // 4 * 4
        for k in range(0, fours, 4):
            _fetch_ahead(contents, locations, b, k, high)
            w0, w1, w2, w3 = weight[k], weight[k + 1], weight[k + 2], weight[k + 3]
            if w0 == zero and w1 == zero and w2 == zero and w3 == zero:
                continue
            c0, c1 = contents[where[k]], contents[where[k + 1]]
            c2, c3 = contents[where[k + 2]], contents[where[k + 3]]
            for d in range(width):
                total[d] += w0 * c0[d] + w1 * c1[d] + w2 * c2[d] + w3 * c3[d]
        for k in range(fours, n_rows):
            c0, w0 = contents[where[k]], weight[k]
            for d in range(width):
                total[d] += w0 * c0[d]


@compiled
def _fetch_ahead(contents, locations, b, k, high):
    """Fetch the four rows that come _AHEAD later, of this entry or of the next."""
    n_rows = locations.shape[1]
    for ahead in range(k + _AHEAD, k + _AHEAD + 4):
        row, place = b, ahead
        if place >= n_rows:
            row, place = b + 1, ahead - n_rows
        if row < high and place < n_rows:
            prefetch_to_read(contents, locations[row, place])


@reassociating
def dot_rows(contents, low, high, locations, x, dots):
    """The products of each entry of a range of the batch with its rows."""
    n_rows, width = locations.shape[1], contents.shape[1]
    for b in range(low, high):
        for k in range(n_rows):
            if k % 4 == 0:
                _fetch_ahead(contents, locations, b, k, high)
            row = contents[locations[b, k]]
            total = dots.dtype.type(0)
            for d in range(width):
                total += row[d] * x[b, d]
            dots[b, k] = total


@reassociating
def scatter_sorted(entry, starts, slots, low, high, weights, x, sums):
    """Sum the weighted entries of each row in a range of rows, into its slot."""
    width, n_per_entry = x.shape[1], weights.shape[1]
    for r in range(low, high):
        total = sums[slots[r]]
        total[:] = 0
        for e in range(starts[r], starts[r + 1]):
            b = entry[e] // n_per_entry
            step, weight = x[b], weights[b, entry[e] - b * n_per_entry]
            for d in range(width):
                total[d] += weight * step[d]


@reassociating
def read_backward(contents, rows, entry, starts, low, high, spread, past, weights, x, dots, sums):
    """Both derivatives of `read_weighted`, for a range of the rows of `sums`.

    A row of the contents is read once for all entries that fall on it. With `spread`, `sums` has a
    row for every location, else for each of `rows`; `past` says that it does not stay in the cache.
    """
    width, n_per_entry = x.shape[1], weights.shape[1]
    total = np.empty(width, dtype=x.dtype)
    r = np.searchsorted(rows, low) if spread else low
    for slot in range(low, high):
        total[:] = 0
        if r < len(rows) and (rows[r] == slot or not spread):
            if r + _AHEAD < len(rows):
                prefetch_to_read(contents, rows[r + _AHEAD])
            row = contents[rows[r]]
            for e in range(starts[r], starts[r + 1]):
                b = entry[e] // n_per_entry
                k = entry[e] - b * n_per_entry
                step, weight, dot = x[b], weights[b, k], x.dtype.type(0)
                for d in range(width):
                    total[d] += weight * step[d]
                    dot += row[d] * step[d]
                dots[b, k] = dot
            r += 1
        if past:
            _stream(sums, slot, total)
        else:
            sums[slot] = total
    _fence()


@reassociating
def dot_some(contents, locations, x, entry, low, high, dots):
    """The products of `dot_rows` for a range of some entries."""
    n_per_entry = locations.shape[1]
    for e in range(low, high):
        b = entry[e] // n_per_entry
        k = entry[e] - b * n_per_entry
        row, dot = contents[locations[b, k]], x.dtype.type(0)
        for d in range(x.shape[1]):
            dot += row[d] * x[b, d]
        dots[b, k] = dot


@reassociating
def scatter_columns(locations, weights, x, low, high, sums):
    """Add each weighted entry to its row, for a range of the columns."""
    for b in range(len(x)):
        step = x[b, low:high]
        for k in range(locations.shape[1]):
            total, weight = sums[locations[b, k], low:high], weights[b, k]
            for d in range(len(step) if weight != 0 else 0):
                total[d] += weight * step[d]


@reassociating
def adagrad(table, sums, rows, low, high, gradient, lr, eps):
    """A step for a range of the rows, with one accumulator a row."""
    width = table.shape[1]
    zero = table.dtype.type(0)
    for r in range(low, high):
        if r + _AHEAD < high:
            prefetch_to_write(table, rows[r + _AHEAD])
        row, change = table[rows[r]], gradient[r]
        square = zero
        for d in range(width):
            square += change[d] * change[d]
        sums[rows[r]] += square / table.dtype.type(max(1, width))
        rate = lr / (np.sqrt(sums[rows[r]]) + eps)
        for d in range(width):
            row[d] -= rate * change[d]
