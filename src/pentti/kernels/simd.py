"""Instruction-level building blocks that numba has no words for.

Numba compiles loops well but has no vectors, saturating addition, bit scan or prefetch. These
intrinsics write LLVM's portable code for them directly, which LLVM turns into AVX-512 VPOPCNTDQ,
AVX2, NEON or whatever the machine has.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from pentti.kernels.layout import LANES

__all__ = [
    "prefetch_to_read",
    "prefetch_to_write",
    "saturating_add",
    "trailing_zeros",
    "within_radius_1",
    "within_radius_4",
]

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
def _saturating_add(typing_context: Any, a: Any, b: Any) -> Any:
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
def _trailing_zeros(typing_context: Any, value: Any) -> Any:
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


prefetch_to_read = _prefetch(for_writing=False)
prefetch_to_write = _prefetch(for_writing=True)
saturating_add: Any = _saturating_add
trailing_zeros: Any = _trailing_zeros
within_radius_1 = _within_radius(1)
within_radius_4 = _within_radius(4)
