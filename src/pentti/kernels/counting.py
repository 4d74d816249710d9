"""Compiled loops that count active inputs for 256 cues at once.

Bit b of a word stands for cue b, and four words make a vector. The number of active inputs of a
location is held in bit planes: plane p has bit p of the number, for every cue. Adding an input and
comparing with a threshold then take a few bitwise operations for all cues together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from pentti.kernels.compiling import compiled
from pentti.kernels.loops import trailing_zeros

__all__ = [
    "TILE",
    "WORDS",
    "count_bits",
    "fill_bitmap",
    "list_bits",
    "n_planes",
    "row_words",
    "slice_thresholds",
    "transpose",
]

WORDS = 4
"""Words of cues that are counted together."""
TILE = 512
"""Locations whose bits fill a cache line of the bitmap."""

_PLANES = (3, 5, 8)  # compiled widths of a count
_I64 = ir.IntType(64)
_LANE = ir.VectorType(_I64, WORDS)


def n_planes(fan_in: int) -> int:
    """Bit planes that hold a count, and a threshold above any.

    Args:
        fan_in: Largest count, at most 254.

    Returns:
        One of the widths that are compiled.
    """
    return next(planes for planes in _PLANES if fan_in <= 2**planes - 2)


def row_words(n_locations: int) -> int:
    """Words in a row of the bitmap: an odd number of cache lines, so that rows part in a cache.

    Args:
        n_locations: M.

    Returns:
        The number of words.
    """
    return TILE // 64 * (-(-n_locations // TILE) | 1)


def _reaching(n_planes: int) -> Any:
    @intrinsic
    def reaching(
        typing_context: Any,
        inputs: Any,
        location: Any,
        satisfied: Any,
        limits: Any,
        level: Any,
        hits: Any,
    ) -> Any:
        """Bit b of `hits` is set where a location has as many active inputs as cue b asks for."""
        del typing_context, location, level
        return types.void(inputs, types.intp, satisfied, limits, types.intp, hits), _emit

    def _emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        inputs, satisfied, limits, hits = (
            context.make_array(signature.args[i])(context, builder, arguments[i])
            for i in (0, 2, 3, 5)
        )
        location, level = arguments[1], arguments[4]
        fan_in = builder.extract_value(inputs.shape, 1)
        zero = ir.Constant(_LANE, None)
        count = [cgutils.alloca_once_value(builder, zero) for _ in range(n_planes)]
        with cgutils.for_range(builder, fan_in) as loop:
            place = builder.add(builder.mul(location, fan_in), loop.index)
            which = builder.zext(builder.load(builder.gep(inputs.data, [place])), _I64)
            carry = _vector(builder, satisfied.data, which)
            for plane in count:
                old = builder.load(plane)
                builder.store(builder.xor(old, carry), plane)
                carry = builder.and_(old, carry)
        reached = builder.not_(zero)
        first = builder.mul(level, ir.Constant(_I64, n_planes))
        for p, plane in enumerate(count):
            has = builder.load(plane)
            asked = _vector(builder, limits.data, builder.add(first, ir.Constant(_I64, p)))
            equal = builder.not_(builder.xor(has, asked))
            more = builder.and_(has, builder.not_(asked))
            reached = builder.or_(more, builder.and_(equal, reached))
        builder.store(reached, builder.bitcast(hits.data, _LANE.as_pointer()), align=8)
        return context.get_dummy_value()

    return reaching


def _vector(builder: Any, words: Any, place: Any) -> Any:
    loaded = builder.load(builder.gep(builder.bitcast(words, _LANE.as_pointer()), [place]))
    loaded.align = 8
    return loaded


@intrinsic
def _emit_popcount(typing_context: Any, word: Any) -> Any:
    """Bits that are set in a uint64."""
    del typing_context

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.ctpop(arguments[0])

    return types.int64(word), emit


_popcount: Any = _emit_popcount
_reaching_3, _reaching_5, _reaching_8 = (_reaching(planes) for planes in _PLANES)


@compiled
def transpose(cues, satisfied):
    """Bit b of row c of `satisfied` says whether cue b has bit c."""
    one = np.uint64(1)
    for b in range(len(cues)):
        for c in range(len(satisfied)):
            value = (np.uint64(cues[b, c >> 6]) >> np.uint64(c & 63)) & one
            satisfied[c, b >> 6] |= value << np.uint64(b & 63)


@compiled
def slice_thresholds(thresholds, limits):
    """Bit planes of the thresholds; `limits` comes full of ones, which nothing reaches."""
    one = np.uint64(1)
    for level in range(limits.shape[0]):
        for b in range(len(thresholds)):
            bit = one << np.uint64(b & 63)
            for p in range(limits.shape[1]):
                if not thresholds[b, level] >> p & 1:
                    limits[level, p, b >> 6] &= ~bit


@compiled
def fill_bitmap(inputs, low, high, satisfied, limits, bitmap):
    """Bit m of row b says whether location m is active for cue b, for a range of tiles."""
    n_levels, n_planes = limits.shape[:2]
    n_cues, n_words = len(bitmap), (len(bitmap) + 63) // 64
    hits = np.empty(WORDS, dtype=np.uint64)
    bits = np.empty((n_cues, TILE // 64), dtype=np.uint64)
    for tile in range(low, high):
        bits[:] = 0
        first = TILE * tile
        for location in range(first, min(first + TILE, len(inputs))):
            level = location % n_levels
            if n_planes == 3:
                _reaching_3(inputs, location, satisfied, limits, level, hits)
            elif n_planes == 5:
                _reaching_5(inputs, location, satisfied, limits, level, hits)
            else:
                _reaching_8(inputs, location, satisfied, limits, level, hits)
            word = (location - first) >> 6
            bit = np.uint64(1) << np.uint64(location & 63)
            for w in range(n_words):
                left = hits[w]
                while left:
                    bits[64 * w + trailing_zeros(left), word] |= bit
                    left &= left - np.uint64(1)
        bitmap[:, TILE // 64 * tile : TILE // 64 * (tile + 1)] = bits
    if high * TILE >= len(inputs):
        bitmap[:, TILE // 64 * high :] = 0


@compiled
def count_bits(bitmap, low, high, counts):
    """How many bits are set in each of a range of rows."""
    for b in range(low, high):
        total = 0
        for w in range(bitmap.shape[1]):
            total += _popcount(bitmap[b, w])
        counts[b] = total


@compiled
def list_bits(bitmap, low, high, starts, places):
    """The places of the set bits of each of a range of rows, ascending, from its start on."""
    for b in range(low, high):
        at = starts[b]
        for w in range(bitmap.shape[1]):
            left = bitmap[b, w]
            while left:
                places[at] = 64 * w + trailing_zeros(left)
                at += 1
                left &= left - np.uint64(1)
