"""The kernels in plain torch: the definition that every fast one must equal.

They run on any device. Scratch memory stays within a fixed budget whatever the batch.
Kernels trust their caller: arguments are checked at the door.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pentti import bits
from pentti.kernels.blocks import BUDGET, in_blocks
from pentti.kernels.circuits import add_beams, input_counts, sum_beams, threshold_match
from pentti.kernels.layout import untiled

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


def hamming_scan(
    tiles_TW8: Tensor, n_locations: int, cue_BW: Tensor, radius: int, probability: float
) -> tuple[Tensor, Tensor]:
    """Find the hard locations within a radius of each cue.

    Args:
        tiles_TW8: Packed hard addresses in tiles, as `layout.tiled` gives them.
        n_locations: M; the filling of the last tile is not a location.
        cue_BW: Packed cues, int64.
        radius: Largest Hamming distance that activates, in bits.
        probability: Expected share of active locations: a hint for buffer sizes, unused here.

    Returns:
        `locations` and `offsets` of an `Activation`.
    """
    del probability
    address_MW = untiled(tiles_TW8, n_locations)

    def active(cues: slice, low: int, high: int) -> Tensor:
        return bits.packed_distance(cue_BW[cues, None], address_MW[low:high]) <= radius

    return in_blocks(active, len(cue_BW), n_locations, address_MW.shape[1], cue_BW.device)


def literal_match(literal_MK: Tensor, address_bits: int, cue_BW: Tensor) -> tuple[Tensor, Tensor]:
    """Find the hard locations all of whose literals the cue satisfies.

    Args:
        literal_MK: int32; literal 2c + v asks that bit c of the cue be v.
        address_bits: N.
        cue_BW: Packed cues, int64.

    Returns:
        `locations` and `offsets` of an `Activation`.
    """
    cue_BN = bits.unpack(cue_BW, address_bits)
    satisfied = torch.stack((~cue_BN, cue_BN), dim=-1).flatten(1)

    def active(cues: slice, low: int, high: int) -> Tensor:
        return satisfied[cues][:, literal_MK[low:high].long()].all(-1)

    return in_blocks(active, len(cue_BW), len(literal_MK), literal_MK.shape[1], cue_BW.device)


def add_rows(
    contents_MU: Tensor,
    locations: Tensor,
    offsets: Tensor,
    data_BU: Tensor,
    weights: Tensor | None = None,
) -> None:
    """Add each row of data to the contents of its active locations, in place, one row at a time.

    Integer counters stop at the largest and smallest value of their type, so the order
    of the rows counts once one is reached: it is the order of the batch.

    Args:
        contents_MU: int8, int16, int32, float32 or float64; changed in place.
        locations: As in `Activation`.
        offsets: As in `Activation`.
        data_BU: Same kind of number as the contents (int8 for any integer contents).
        weights: float, one for each entry of `locations`, for float contents only; None counts 1.
    """
    floating = contents_MU.is_floating_point()
    wide = contents_MU.dtype if floating else torch.int64
    for row in range(len(offsets) - 1):
        entries = slice(int(offsets[row]), int(offsets[row + 1]))
        active = locations[entries]
        step = data_BU[row].to(wide).expand(len(active), -1)
        if weights is not None:
            step = step * weights[entries, None].to(wide)
        total = contents_MU[active].to(wide) + step
        if not floating:
            limits = torch.iinfo(contents_MU.dtype)
            total = total.clamp(limits.min, limits.max)
        contents_MU[active] = total.to(contents_MU.dtype)


def sum_rows(
    contents_MU: Tensor, locations: Tensor, offsets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Sum the contents of the active locations.

    Args:
        contents_MU: int8, int16, int32, float32 or float64.
        locations: As in `Activation`.
        offsets: As in `Activation`.
        weights: float, one for each entry of `locations`; None counts 1.

    Returns:
        Tensor of shape (B, U): int64 for integer contents without weights, else float64.
    """
    exact = weights is None and not contents_MU.is_floating_point()
    wide = torch.int64 if exact else torch.float64
    n_rows, width = len(offsets) - 1, contents_MU.shape[1]
    sums = torch.zeros((n_rows, width), dtype=wide, device=contents_MU.device)
    rows = torch.arange(n_rows, device=offsets.device).repeat_interleave(offsets.diff())
    step = max(1, BUDGET // width)
    for low in range(0, len(locations), step):
        entries = slice(low, low + step)
        part = contents_MU[locations[entries]].to(wide)
        if weights is not None:
            part *= weights[entries, None]
        sums.index_add_(0, rows[entries], part)
    return sums


def majority_rows(
    contents_MU: Tensor, locations: Tensor, offsets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Whether each sum of `sum_rows` is above 0: the word that a read gives.

    Args:
        contents_MU: int8, int16, int32, float32 or float64.
        locations: As in `Activation`.
        offsets: As in `Activation`.
        weights: float, one for each entry of `locations`; None counts 1.

    Returns:
        Boolean tensor of shape (B, U).
    """
    return sum_rows(contents_MU, locations, offsets, weights) > 0


def product_top_k(scores_2RN: Tensor, k: int, ordered: bool = False) -> Tensor:
    """The k best cells of each grid whose cell (i, j) scores ``first[i] + second[j]``.

    Each row has a grid of its own. NaN counts as the largest. Of equal sub-scores the lower index
    comes first; of equal sums the cell with the better first sub-score, then the better second.

    Args:
        scores_2RN: Sub-scores, floating; infinite ones of one sign only.
        k: How many cells, in [1, N²].
        ordered: Whether the sub-scores come with the best first already, which saves others work.

    Returns:
        int64 tensor of shape (2, R, k): i and j of the cells, best first.

    **Source:** Lample et al. 2019, "Large memory layers with product keys", section 3.2.
    """
    del ordered
    if scores_2RN.element_size() < 4:
        scores_2RN = scores_2RN.float()  # halves are added up in float32
    n_rows, n = scores_2RN.shape[1:]
    kept = min(k, n)
    pairs = torch.empty((2, n_rows, k), dtype=torch.int64, device=scores_2RN.device)
    step = max(1, BUDGET // (kept * kept))
    for low in range(0, n_rows, step):
        rows = slice(low, low + step)
        best, order = scores_2RN[:, rows].sort(dim=-1, descending=True, stable=True)
        best, order = best[..., :kept], order[..., :kept]
        sums = (best[0, :, :, None] + best[1, :, None, :]).flatten(1)
        cell = sums.sort(dim=-1, descending=True, stable=True).indices[:, :k]
        pairs[0, rows] = order[0].gather(1, cell // kept)
        pairs[1, rows] = order[1].gather(1, cell % kept)
    return pairs


def product_threshold(scores_2RN: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """All cells (i, j) of each grid with ``first[i] + second[j]`` of at least a threshold.

    Args:
        scores_2RN: Sub-scores, floating.
        threshold: Least sum that activates, compared in the type of the scores; NaN never does.

    Returns:
        `locations` (each i · N + j) and `offsets` of an `Activation`.
    """
    n_rows, n = scores_2RN.shape[1:]
    limit = torch.tensor(threshold, dtype=scores_2RN.dtype, device=scores_2RN.device)

    def active(rows: slice, low: int, high: int) -> Tensor:
        location = torch.arange(low, high, device=scores_2RN.device)
        first, second = scores_2RN[:, rows]
        sums: Tensor = first[:, location // n] + second[:, location % n]
        return sums >= limit

    return in_blocks(active, n_rows, n * n, 1, scores_2RN.device)


def read_rows(contents_MD: Tensor, locations_BK: Tensor, weights_BK: Tensor) -> Tensor:
    """The weighted sum of some rows of the contents, for each entry of a batch.

    Args:
        contents_MD: Floating; where not finite, a weight of 0 may give NaN or nothing.
        locations_BK: int64, each in [0, M).
        weights_BK: Floating.

    Returns:
        Tensor of shape (B, D) in the wider of both types; summed in float32 at least.
    """
    kind = torch.promote_types(contents_MD.dtype, weights_BK.dtype)
    wide = torch.promote_types(kind, torch.float32)
    sums = torch.empty(
        (len(locations_BK), contents_MD.shape[1]), dtype=kind, device=contents_MD.device
    )
    for rows in _row_blocks(locations_BK, contents_MD.shape[1]):
        gathered = contents_MD[locations_BK[rows]].to(wide)
        sums[rows] = torch.einsum("bk,bkd->bd", weights_BK[rows].to(wide), gathered).to(kind)
    return sums


def row_dots(contents_MD: Tensor, locations_BK: Tensor, x_BD: Tensor) -> Tensor:
    """The products of each entry of a batch with some rows of the contents.

    Args:
        contents_MD: Floating.
        locations_BK: int64, each in [0, M).
        x_BD: Floating.

    Returns:
        Tensor of shape (B, K) in the wider of both types; summed in float32 at least.
    """
    kind = torch.promote_types(contents_MD.dtype, x_BD.dtype)
    wide = torch.promote_types(kind, torch.float32)
    dots = torch.empty(locations_BK.shape, dtype=kind, device=contents_MD.device)
    for rows in _row_blocks(locations_BK, contents_MD.shape[1]):
        gathered = contents_MD[locations_BK[rows]].to(wide)
        dots[rows] = torch.einsum("bd,bkd->bk", x_BD[rows].to(wide), gathered).to(kind)
    return dots


def scatter_rows(locations_BK: Tensor, weights_BK: Tensor, x_BD: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of the weighted entries that fall on each row: the transpose of `read_rows`.

    Entries of weight 0 are left out. Each sum runs in the order of the batch.

    Args:
        locations_BK: int64.
        weights_BK: Floating.
        x_BD: Floating.

    Returns:
        The rows that some entry falls on, int64 of shape (R,) and ascending, and their sums, of
        shape (R, D) in the wider of both types, float32 at least.
    """
    kind = torch.promote_types(weights_BK.dtype, x_BD.dtype)
    wide = torch.promote_types(kind, torch.float32)
    batch, place = weights_BK.nonzero(as_tuple=True)
    rows, row = locations_BK[batch, place].unique(return_inverse=True)
    weight = weights_BK[batch, place].to(wide)
    sums = torch.zeros((len(rows), x_BD.shape[1]), dtype=wide, device=x_BD.device)
    step = max(1, BUDGET // max(1, x_BD.shape[1]))
    for low in range(0, len(batch), step):
        some = slice(low, low + step)
        sums.index_add_(0, row[some], weight[some, None] * x_BD[batch[some]].to(wide))
    return rows, sums


def scatter_dense(locations_BK: Tensor, weights_BK: Tensor, x_BD: Tensor, n_rows: int) -> Tensor:
    """The sums of `scatter_rows` with a row for every location.

    Args:
        locations_BK: int64.
        weights_BK: Floating.
        x_BD: Floating.
        n_rows: M.

    Returns:
        Tensor of shape (M, D), 0 where nothing falls.
    """
    rows, sums = scatter_rows(locations_BK, weights_BK, x_BD)
    dense = torch.zeros((n_rows, x_BD.shape[1]), dtype=sums.dtype, device=x_BD.device)
    dense[rows] = sums
    return dense


def read_backward(
    contents_MD: Tensor, locations_BK: Tensor, weights_BK: Tensor, x_BD: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Both derivatives of `read_rows`, for the gradient `x_BD` of what it gives.

    Args:
        contents_MD: Floating.
        locations_BK: int64, each in [0, M).
        weights_BK: Floating.
        x_BD: Floating.

    Returns:
        The rows and sums of `scatter_rows` for the contents, and the products of `row_dots` for
        the weights.
    """
    rows, sums = scatter_rows(locations_BK, weights_BK, x_BD)
    return rows, sums, row_dots(contents_MD, locations_BK, x_BD)


def read_backward_dense(
    contents_MD: Tensor, locations_BK: Tensor, weights_BK: Tensor, x_BD: Tensor
) -> tuple[Tensor, Tensor]:
    """The same with a row for every location.

    Args:
        contents_MD: Floating.
        locations_BK: int64, each in [0, M).
        weights_BK: Floating.
        x_BD: Floating.

    Returns:
        The sums of `scatter_dense` and the products of `row_dots`.
    """
    sums = scatter_dense(locations_BK, weights_BK, x_BD, len(contents_MD))
    return sums, row_dots(contents_MD, locations_BK, x_BD)


def adagrad_rows(
    table_MD: Tensor, sums_M: Tensor, rows_R: Tensor, gradient_RD: Tensor, lr: float, eps: float
) -> None:
    """One step of Adagrad for some rows, with one accumulator a row; changes table and sums.

    Args:
        table_MD: Floating; changed in place.
        sums_M: Sum of the mean squares of each row's gradients so far; changed in place.
        rows_R: int64, distinct.
        gradient_RD: Floating.
        lr: Learning rate.
        eps: Added to the root, to divide by.
    """
    step = max(1, BUDGET // max(1, table_MD.shape[1]))
    for low in range(0, len(rows_R), step):
        rows, gradient = rows_R[low : low + step], gradient_RD[low : low + step].to(sums_M.dtype)
        sums = sums_M[rows] + gradient.square().mean(1)
        sums_M[rows] = sums
        change = gradient * (-lr / (sums.sqrt() + eps))[:, None]
        table_MD[rows] = (table_MD[rows].to(sums.dtype) + change).to(table_MD.dtype)


def _row_blocks(locations_BK: Tensor, width: int) -> list[slice]:
    n_rows, k = locations_BK.shape
    step = max(1, BUDGET // max(1, k * width))
    return [slice(low, low + step) for low in range(0, n_rows, step)]
