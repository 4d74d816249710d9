"""The kernels compiled by numba for the CPU: same names and same results as `reference`.

Compiled on first use and cached on disk, so that only the very first call waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pentti.kernels import grids, loops, networks, orders, reference
from pentti.kernels.buffers import ALIGNMENT, recycled
from pentti.kernels.circuits_cpu import add_beams, input_counts, sum_beams, threshold_match
from pentti.kernels.layout import LANES
from pentti.kernels.threads import over_ranges

__all__ = [
    "adagrad_rows",
    "add_beams",
    "add_rows",
    "hamming_scan",
    "input_counts",
    "literal_match",
    "majority_rows",
    "product_threshold",
    "product_top_k",
    "read_backward",
    "read_backward_dense",
    "read_rows",
    "row_dots",
    "scatter_dense",
    "scatter_rows",
    "sum_beams",
    "sum_rows",
    "threshold_match",
]

Array = npt.NDArray[Any]
Hits = tuple[Array, Array]

_SCAN_CUES = 256  # cues that stay in the first-level cache during a scan
_MATCH_CUES = 64  # cues that share one 64-bit word in a match
_GROUP = 4  # cues that share one load of a tile
_GATHER_WORK = 1 << 21  # floats gathered from which threads are worth waking
_SHARES = 8  # for each thread, of work that follows operators of torch
_SMALL_TABLE = 1 << 18  # floats that stay in the second-level cache
_UNCACHED_BYTES = 1 << 25  # of a gradient that does not stay in the cache
_SHARE_WORK = 1 << 18  # counters, or words compared, from which threads are worth waking


def hamming_scan(
    tiles_TW8: Tensor, n_locations: int, cue_BW: Tensor, radius: int, probability: float
) -> tuple[Tensor, Tensor]:
    """Find the hard locations within a radius of each cue; see `reference.hamming_scan`.

    Args:
        tiles_TW8: Packed hard addresses in tiles.
        n_locations: M.
        cue_BW: Packed cues, int64.
        radius: Largest Hamming distance that activates, in bits.
        probability: Expected share of active locations, from which buffers are sized.

    Returns:
        `locations` and `offsets` of an `Activation`.
    """
    tiles, cues = tiles_TW8.numpy(), cue_BW.contiguous().numpy()

    def scan(first: int, last: int) -> list[Hits]:
        block = _whole_groups(cues[first:last])
        expected = (last - first) * probability * LANES

        def find(low: int, high: int) -> Hits:
            return _collect(
                lambda where, what: loops.scan(
                    tiles, low, high, n_locations, block, last - first, radius, where, what
                ),
                (high - low) * expected,
            )

        return over_ranges(find, len(tiles), tiles.size * len(block) >= _SHARE_WORK)

    return _in_blocks(scan, len(cues), _SCAN_CUES)


def literal_match(literal_MK: Tensor, address_bits: int, cue_BW: Tensor) -> tuple[Tensor, Tensor]:
    """Find the locations whose literals the cue satisfies; see `reference.literal_match`.

    Args:
        literal_MK: int32; literal 2c + v asks that bit c of the cue be v.
        address_bits: N.
        cue_BW: Packed cues, int64.

    Returns:
        `locations` and `offsets` of an `Activation`.
    """
    literals, cues = literal_MK.numpy(), cue_BW.contiguous().numpy()

    def match(first: int, last: int) -> list[Hits]:
        satisfied = np.zeros(2 * address_bits, dtype=np.uint64)
        loops.transpose(cues[first:last], satisfied)
        everyone = np.uint64((1 << (last - first)) - 1)

        def find(low: int, high: int) -> Hits:
            return _collect(
                lambda where, what: loops.match(
                    literals, low, high, satisfied, everyone, where, what
                ),
                (high - low) * (last - first) / 2 ** literals.shape[1],
            )

        return over_ranges(find, len(literals), literals.size >= _SHARE_WORK)

    return _in_blocks(match, len(cues), _MATCH_CUES)


def add_rows(
    contents_MU: Tensor,
    locations: Tensor,
    offsets: Tensor,
    data_BU: Tensor,
    weights: Tensor | None = None,
) -> None:
    """Add rows of data to the contents of active locations; see `reference.add_rows`.

    Args:
        contents_MU: int8, int16, int32, float32 or float64; changed in place.
        locations: As in `Activation`, ascending within each row.
        offsets: As in `Activation`.
        data_BU: Same kind of number as the contents (int8 for any integer contents).
        weights: float, one for each entry of `locations`, for float contents only; None counts 1.
    """
    contents, data = contents_MU.numpy(), data_BU.contiguous().numpy()
    active, edges = locations.numpy(), offsets.numpy()
    share = _as_weights(weights)

    def add(low: int, high: int) -> None:
        if contents_MU.is_floating_point():
            loops.add_real(contents, low, high, active, edges, data, share)
        else:
            loops.add_saturating(contents, low, high, active, edges, data)

    over_ranges(add, len(contents), len(active) * contents.shape[1] >= _SHARE_WORK)


def sum_rows(
    contents_MU: Tensor, locations: Tensor, offsets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Sum the contents of the active locations; see `reference.sum_rows`.

    Args:
        contents_MU: int8, int16, int32, float32 or float64.
        locations: As in `Activation`.
        offsets: As in `Activation`.
        weights: float, one for each entry of `locations`; None counts 1.

    Returns:
        Tensor of shape (B, U): int64 for integer contents without weights, else float64.
    """
    if weights is None and not contents_MU.is_floating_point():
        return _gather(loops.sum_counters, contents_MU, locations, offsets, np.int64)
    contents, active, edges = contents_MU.numpy(), locations.numpy(), offsets.numpy()
    sums = np.zeros((len(edges) - 1, contents.shape[1]))
    share = _as_weights(weights)

    def add_up(low: int, high: int) -> None:
        loops.sum_real(contents, low, high, active, edges, share, sums)

    over_ranges(add_up, len(sums), len(active) * contents.shape[1] >= _SHARE_WORK)
    return torch.from_numpy(sums)


def majority_rows(
    contents_MU: Tensor, locations: Tensor, offsets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Whether each sum of `sum_rows` is above 0; see `reference.majority_rows`.

    Args:
        contents_MU: int8, int16, int32, float32 or float64.
        locations: As in `Activation`.
        offsets: As in `Activation`.
        weights: float, one for each entry of `locations`; None counts 1.

    Returns:
        Boolean tensor of shape (B, U).
    """
    if weights is not None or contents_MU.is_floating_point():
        return sum_rows(contents_MU, locations, offsets, weights) > 0
    return _gather(loops.majority_of_counters, contents_MU, locations, offsets, np.bool_)


def product_top_k(scores_2RN: Tensor, k: int, ordered: bool = False) -> Tensor:
    """The k best cells of each grid; see `reference.product_top_k`.

    Args:
        scores_2RN: Sub-scores, floating.
        k: How many cells, in [1, N²].
        ordered: Whether the sub-scores come with the best first already.

    Returns:
        int64 tensor of shape (2, R, k): i and j of the cells, best first.
    """
    scores, score_bits = _with_bits(_as_native(scores_2RN).contiguous())
    _, n_rows, n = scores.shape
    pairs = np.empty((2, n_rows, k), dtype=np.int64)
    share = n_rows * n >= _SHARE_WORK >> 2
    plan = networks.plan(n, k, ordered) if score_bits.dtype == np.int32 else None
    if plan is not None:

        def sort(low: int, high: int) -> None:
            networks.best_of_few(score_bits, low, high, *plan, pairs)

        over_ranges(sort, n_rows, share, n_shares=_SHARES)
        return torch.from_numpy(pairs)
    kind, slack = np.iinfo(score_bits.dtype), 4 * np.finfo(scores.dtype).eps
    limits = np.array([kind.min, kind.max], dtype=kind.dtype)
    n_cells = sum(min(n, k // (a + 1)) for a in range(min(k, n)))

    def find(low: int, high: int) -> None:
        sums = np.empty(n_cells + 4 * k + 64, dtype=scores.dtype)
        sum_bits = sums.view(score_bits.dtype)
        grids.best_cells(scores, score_bits, low, high, limits, slack, sums, sum_bits, pairs)

    over_ranges(find, n_rows, share, n_shares=_SHARES)
    return torch.from_numpy(pairs)


def product_threshold(scores_2RN: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """All cells of each grid whose sum reaches a threshold; see `reference.product_threshold`.

    Args:
        scores_2RN: Sub-scores, floating.
        threshold: Least sum that activates.

    Returns:
        `locations` and `offsets` of an `Activation`.
    """
    scores_2RN = _as_native(scores_2RN)
    falling, order = (
        scores_2RN[1].nan_to_num(-torch.inf, torch.inf, -torch.inf).sort(dim=-1, descending=True)
    )
    first, second, places = scores_2RN[0].contiguous().numpy(), falling.numpy(), order.numpy()
    limit, reach = first.dtype.type(threshold), np.empty(first.shape, dtype=np.int64)
    share = first.size >= _SHARE_WORK >> 4

    def count(low: int, high: int) -> None:
        orders.count_above(first, second, low, high, limit, reach)

    over_ranges(count, len(first), share)
    offsets = np.zeros(len(first) + 1, dtype=np.int64)
    reach.sum(1).cumsum(out=offsets[1:])
    locations = np.empty(offsets[-1], dtype=np.int64)

    def fill(low: int, high: int) -> None:
        orders.cells_above(places, low, high, reach, offsets, locations)

    over_ranges(fill, len(first), share)
    return torch.from_numpy(locations), torch.from_numpy(offsets)


def read_rows(contents_MD: Tensor, locations_BK: Tensor, weights_BK: Tensor) -> Tensor:
    """The weighted sum of rows of the contents; see `reference.read_rows`.

    Args:
        contents_MD: Floating.
        locations_BK: int64, each in [0, M).
        weights_BK: Floating.

    Returns:
        Tensor of shape (B, D) in the wider of both types.
    """
    if not _is_native(contents_MD, weights_BK):
        return reference.read_rows(contents_MD, locations_BK, weights_BK)
    shape = (len(locations_BK), contents_MD.shape[1])
    return _by_entry(loops.read_weighted, contents_MD, locations_BK, weights_BK, shape)


def row_dots(contents_MD: Tensor, locations_BK: Tensor, x_BD: Tensor) -> Tensor:
    """The products of each entry with rows of the contents; see `reference.row_dots`.

    Args:
        contents_MD: Floating.
        locations_BK: int64, each in [0, M).
        x_BD: Floating.

    Returns:
        Tensor of shape (B, K) in the wider of both types.
    """
    if not _is_native(contents_MD, x_BD):
        return reference.row_dots(contents_MD, locations_BK, x_BD)
    return _by_entry(loops.dot_rows, contents_MD, locations_BK, x_BD, tuple(locations_BK.shape))


def scatter_rows(locations_BK: Tensor, weights_BK: Tensor, x_BD: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of the weighted entries that fall on each row; see `reference.scatter_rows`.

    Args:
        locations_BK: int64.
        weights_BK: Floating.
        x_BD: Floating.

    Returns:
        The rows that some entry falls on, ascending, and their sums.
    """
    if not _is_native(weights_BK, x_BD):
        return reference.scatter_rows(locations_BK, weights_BK, x_BD)
    entry, rows, starts = _sorted_by_row(locations_BK, weights_BK)
    sums = recycled((len(rows), x_BD.shape[1]), weights_BK.numpy().dtype)
    _scatter(entry, starts, np.arange(len(rows)), weights_BK, x_BD, sums)
    return torch.from_numpy(rows), torch.from_numpy(sums)


def scatter_dense(locations_BK: Tensor, weights_BK: Tensor, x_BD: Tensor, n_rows: int) -> Tensor:
    """The same sums with a row for every location; see `reference.scatter_dense`.

    Args:
        locations_BK: int64.
        weights_BK: Floating.
        x_BD: Floating.
        n_rows: M.

    Returns:
        Tensor of shape (M, D), 0 where nothing falls.
    """
    if not _is_native(weights_BK, x_BD):
        return reference.scatter_dense(locations_BK, weights_BK, x_BD, n_rows)
    if n_rows * x_BD.shape[1] <= _SMALL_TABLE:
        return _scatter_small(locations_BK, weights_BK, x_BD, n_rows)
    entry, rows, starts = _sorted_by_row(locations_BK, weights_BK)
    sums = recycled((n_rows, x_BD.shape[1]), weights_BK.numpy().dtype)
    over_ranges(lambda low, high: sums[low:high].fill(0), n_rows, sums.size >= _GATHER_WORK)
    _scatter(entry, starts, rows, weights_BK, x_BD, sums)
    return torch.from_numpy(sums)


def read_backward(
    contents_MD: Tensor, locations_BK: Tensor, weights_BK: Tensor, x_BD: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The derivatives of `read_rows`, for touched rows; see `reference.read_backward`.

    Args:
        contents_MD: Floating.
        locations_BK: int64, each in [0, M).
        weights_BK: Floating.
        x_BD: Floating.

    Returns:
        As `scatter_rows`, and then as `row_dots`.
    """
    if not _is_native(contents_MD, weights_BK, x_BD):
        return reference.read_backward(contents_MD, locations_BK, weights_BK, x_BD)
    entry, rows, starts = _sorted_by_row(locations_BK, weights_BK)
    sums, dots = _backward(contents_MD, locations_BK, weights_BK, x_BD, entry, rows, starts, False)
    return torch.from_numpy(rows), sums, dots


def read_backward_dense(
    contents_MD: Tensor, locations_BK: Tensor, weights_BK: Tensor, x_BD: Tensor
) -> tuple[Tensor, Tensor]:
    """The derivatives of `read_rows`, for all rows; see `reference.read_backward_dense`.

    Args:
        contents_MD: Floating.
        locations_BK: int64, each in [0, M).
        weights_BK: Floating.
        x_BD: Floating.

    Returns:
        As `scatter_dense`, and then as `row_dots`.
    """
    if not _is_native(contents_MD, weights_BK, x_BD):
        return reference.read_backward_dense(contents_MD, locations_BK, weights_BK, x_BD)
    if contents_MD.numel() <= _SMALL_TABLE:
        dense = scatter_dense(locations_BK, weights_BK, x_BD, len(contents_MD))
        return dense, row_dots(contents_MD, locations_BK, x_BD)
    order = _sorted_by_row(locations_BK, weights_BK)
    return _backward(contents_MD, locations_BK, weights_BK, x_BD, *order, True)


def adagrad_rows(
    table_MD: Tensor, sums_M: Tensor, rows_R: Tensor, gradient_RD: Tensor, lr: float, eps: float
) -> None:
    """One step of Adagrad for some rows; see `reference.adagrad_rows`.

    Args:
        table_MD: Floating; changed in place.
        sums_M: Sum of the mean squares of each row's gradients so far; changed in place.
        rows_R: int64, distinct.
        gradient_RD: Floating.
        lr: Learning rate.
        eps: Added to the root, to divide by.
    """
    if not _is_native(table_MD, sums_M, gradient_RD) or not table_MD.is_contiguous():
        reference.adagrad_rows(table_MD, sums_M, rows_R, gradient_RD, lr, eps)
        return
    table, sums, rows = table_MD.numpy(), sums_M.numpy(), rows_R.contiguous().numpy()
    gradient = gradient_RD.contiguous().numpy()
    kind = table.dtype.type

    def step(low: int, high: int) -> None:
        loops.adagrad(table, sums, rows, low, high, gradient, kind(lr), kind(eps))

    over_ranges(step, len(rows), gradient.size >= _GATHER_WORK, n_shares=_SHARES)


def _by_entry(
    kernel: Callable[..., None],
    contents_MD: Tensor,
    locations_BK: Tensor,
    given: Tensor,
    shape: tuple[int, ...],
) -> Tensor:
    """Run a kernel that goes from entry to entry of a batch, over shares of it."""
    contents, own = contents_MD.numpy(), given.contiguous().numpy()
    locations = locations_BK.contiguous().numpy()
    result = np.empty(shape, dtype=contents.dtype)

    def run(low: int, high: int) -> None:
        kernel(contents, low, high, locations, own, result)

    large = locations.size * contents.shape[1] >= _GATHER_WORK
    over_ranges(run, len(result), large, n_shares=_SHARES)
    return torch.from_numpy(result)


def _scatter_small(locations_BK: Tensor, weights_BK: Tensor, x_BD: Tensor, n_rows: int) -> Tensor:
    """For a table that stays in the cache: entry by entry, each thread a share of the columns."""
    weights, x = weights_BK.contiguous().numpy(), x_BD.contiguous().numpy()
    locations = locations_BK.contiguous().numpy()
    sums = np.zeros((n_rows, x.shape[1]), dtype=x.dtype)

    def scatter(low: int, high: int) -> None:
        loops.scatter_columns(locations, weights, x, low, high, sums)

    over_ranges(scatter, x.shape[1], locations.size * x.shape[1] >= _GATHER_WORK)
    return torch.from_numpy(sums)


def _backward(
    contents_MD: Tensor,
    locations_BK: Tensor,
    weights_BK: Tensor,
    x_BD: Tensor,
    entry: Array,
    rows: Array,
    starts: Array,
    spread: bool,
) -> tuple[Tensor, Tensor]:
    """Sums of the weighted entries and products with the rows, from one visit of each row."""
    contents, locations = contents_MD.contiguous().numpy(), locations_BK.contiguous().numpy()
    weights, x = weights_BK.contiguous().numpy(), x_BD.contiguous().numpy()
    sums = recycled((len(contents) if spread else len(rows), x.shape[1]), x.dtype)
    dots = np.empty(locations.shape, dtype=x.dtype)
    whole_lines = not (sums.ctypes.data | sums.strides[0]) % ALIGNMENT
    past = whole_lines and sums.nbytes >= _UNCACHED_BYTES

    def visit(low: int, high: int) -> None:
        loops.read_backward(
            contents, rows, entry, starts, low, high, spread, past, weights, x, dots, sums
        )

    large = dots.size * x.shape[1] >= _GATHER_WORK or sums.size >= _GATHER_WORK
    over_ranges(visit, len(sums), large, n_shares=_SHARES)
    if len(entry) < weights.size:  # those of weight 0 were left out
        silent = (weights.ravel() == 0).nonzero()[0]

        def dot(low: int, high: int) -> None:
            loops.dot_some(contents, locations, x, silent, low, high, dots)

        over_ranges(dot, len(silent), len(silent) * x.shape[1] >= _GATHER_WORK, n_shares=_SHARES)
    return torch.from_numpy(sums), torch.from_numpy(dots)


def _scatter(
    entry: Array, starts: Array, slots: Array, weights_BK: Tensor, x_BD: Tensor, sums: Array
) -> None:
    weights, x = weights_BK.contiguous().numpy(), x_BD.contiguous().numpy()

    def scatter(low: int, high: int) -> None:
        loops.scatter_sorted(entry, starts, slots, low, high, weights, x, sums)

    over_ranges(scatter, len(slots), len(entry) * x.shape[1] >= _GATHER_WORK, n_shares=_SHARES)


def _sorted_by_row(locations_BK: Tensor, weights_BK: Tensor) -> tuple[Array, Array, Array]:
    """Entries of weight not 0 by row, then by place; the rows; where each row starts."""
    locations = locations_BK.contiguous().numpy().ravel()
    weights = weights_BK.contiguous().numpy().ravel()
    n_bits = int(locations.max(initial=0)).bit_length()
    entry, starts, rows = np.empty((3, len(locations) + 1), dtype=np.int64)
    n_kept = orders.sort_by_row(locations, weights, n_bits, entry, starts)
    n_rows = orders.cut_by_row(locations, entry, n_kept, starts, rows)
    return entry[:n_kept], rows[:n_rows].copy(), starts


def _is_native(*tensors: Tensor) -> bool:
    """Whether the compiled loops know these types: all float32 or all float64."""
    kinds = {tensor.dtype for tensor in tensors}
    return kinds in ({torch.float32}, {torch.float64})


def _as_native(scores: Tensor) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _with_bits(values: Tensor) -> tuple[Array, Array]:
    """Floats, and the same memory as integers."""
    floats = values.numpy()
    return floats, floats.view(np.int64 if floats.itemsize == 8 else np.int32)


def _gather(
    kernel: Callable[..., None], contents_MU: Tensor, locations: Tensor, offsets: Tensor, kind: Any
) -> Tensor:
    """Run a kernel that sums integer counters exactly, over shares of the batch."""
    contents, active, edges = contents_MU.numpy(), locations.numpy(), offsets.numpy()
    width = contents.shape[1]
    result = np.empty((len(edges) - 1, width), dtype=kind)

    def gather(low: int, high: int) -> None:
        partial = np.empty(width, dtype=np.int64 if contents.dtype == np.int32 else np.int32)
        total = np.empty(width, dtype=np.int64)
        kernel(contents, low, high, active, edges, partial, total, result)

    over_ranges(gather, len(result), len(active) * width >= _SHARE_WORK)
    return torch.from_numpy(result)


def _whole_groups(cues: Array) -> Array:
    """One cue, or cues filled up with zeros to a multiple of the group."""
    missing = -len(cues) % _GROUP
    return cues if len(cues) == 1 or not missing else np.pad(cues, ((0, missing), (0, 0)))


def _as_weights(weights: Tensor | None) -> Array:
    return np.zeros(0) if weights is None else weights.to(torch.float64).numpy()


def _collect(fill: Callable[[Array, Array], int], expected: float) -> Hits:
    """Run a search into buffers of a likely size; where they were too small, once more."""
    size = int(1.2 * expected) + 1024
    while True:
        cue_of, location_of = np.empty(size, dtype=np.int32), np.empty(size, dtype=np.int32)
        n_found = fill(cue_of, location_of)
        if n_found <= size:
            return cue_of[:n_found], location_of[:n_found]
        size = n_found


def _in_blocks(
    search: Callable[[int, int], list[Hits]], n_cues: int, block: int
) -> tuple[Tensor, Tensor]:
    """CSR of the hits of all cues, a block of cues at a time."""
    parts = [np.zeros(0, dtype=np.int64)]
    meter = np.zeros(n_cues + 1, dtype=np.int64)
    for first in range(0, n_cues, block):
        last = min(first + block, n_cues)
        hits = search(first, last)
        counts = meter[first + 1 : last + 1]
        for cue_of, _ in hits:
            counts += np.bincount(cue_of, minlength=last - first)
        cursor = counts.cumsum() - counts
        parts.append(np.empty(counts.sum(), dtype=np.int64))
        for cue_of, location_of in hits:
            loops.place(cue_of, location_of, cursor, parts[-1])
    locations = parts[1] if len(parts) == 2 else np.concatenate(parts)
    return torch.from_numpy(locations), torch.from_numpy(meter.cumsum())
