"""Product keys: hard locations on a grid, so that scoring costs the square root of their number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pentti import checks, kernels, theory
from pentti.decoders.directions import directions, random_directions
from pentti.decoders.real import RealDecoder, Rows
from pentti.kernels import ops

__all__ = ["ProductKeys"]


class ProductKeys(RealDecoder):
    """Activates hard locations on a grid of two codebooks by the mean of two cosines.

    The M = n² hard locations share two codebooks of n half addresses: location i · n + j has
    the i-th half of the first and the j-th of the second. The similarity of an address is the mean
    of its two halves' cosines with them, and so is scored from 2n products instead of n². Both the
    best `top_k` and all above a threshold are found exactly without visiting the grid.

    Give the threshold, or the activation probability, from which it follows exactly. With
    `top_k` too, at most so many of them are active, the nearest; with `top_k` alone, exactly so
    many. An address may be cut into heads, each with codebooks of its own for the same
    hard locations; a location is active where some head activates it.

    Locations in a row or a column of the grid share a half, so that the number above a threshold
    varies far more from address to address than that of independent ones: 100 ± 57 for 512
    components and 99,856 locations at 0.1 %, where `CosineCap` has 100 ± 10. Where an even number
    matters, as for a memory's familiarity, take `top_k`.

    Args:
        dim: Components of an address, D: a multiple of twice the heads, at least 4 for each.
        n_locations: Number of hard locations, M, a square.
        threshold: Least similarity that activates, in [-1, 1].
        activation_probability: Wanted share of active hard locations, over all heads, in (0, 1).
        top_k: Most active hard locations of each head, from 1 to M.
        n_heads: Heads, H.
        learned: Whether the codebooks are a parameter; their halves may have any length.
        seed: Of the codebooks; the same on every machine, up to rounding.

    Raises:
        ArgumentError: if a size or a setting is out of range, `dim` cannot be cut into the halves
            of the heads, M is no square, or none, or both, of threshold and probability are given
            (none is right with `top_k`).

    Examples:
        >>> import torch
        >>> decoder = ProductKeys(512, 99_856, activation_probability=0.001)
        >>> round(decoder.threshold, 4)
        0.1361
        >>> address = torch.randn(512, generator=torch.Generator().manual_seed(0))
        >>> decoder(address).meter
        tensor([112])

    **Source:** Lample et al. 2019, "Large memory layers with product keys" (arXiv 1907.05242); |K|
    is `n_locations`, k is `top_k`. Their scores are inner products; here each half has length 1.
    """

    kind = "ProductKeys"
    table_name = "codebooks"
    n_parts = 2
    codebooks: Tensor

    def __init__(
        self,
        dim: int,
        n_locations: int,
        *,
        threshold: float | None = None,
        activation_probability: float | None = None,
        top_k: int | None = None,
        n_heads: int = 1,
        learned: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        n = _root(n_locations)
        self._settle(dim, n_locations, threshold, activation_probability, top_k, n_heads, learned)
        shape = (2, self.n_heads, n, self.part_width)
        self._place(random_directions(shape, seed, self.kind))
        self._warn_if_dead()

    @property
    def hard_addresses(self) -> Tensor:
        """The addresses of the hard locations, each half of length 1: a copy, shape (M, D)."""
        halves = directions(self.codebooks.detach().to(self.dtype))
        n = halves.shape[2]
        first = halves[0, :, :, None].expand(-1, -1, n, -1)
        second = halves[1, :, None].expand(-1, n, -1, -1)
        grid = torch.stack([first, second], dim=3)
        return grid.movedim(0, 2).reshape(self.n_locations, self.dim)

    def _share(self, threshold: float) -> float:
        return theory.product_cap_probability(self.part_width, threshold)

    def _threshold_for(self, share: float) -> float:
        return theory.product_cosine_for(self.part_width, share)

    def _both(self, threshold: float, cosines: Any) -> npt.NDArray[np.float64]:
        return theory.product_cap_intersection(self.part_width, threshold, cosines)

    def _above(self, cue_BD: Tensor, threshold: float) -> list[Rows]:
        search = kernels.for_device(self.device).product_threshold
        halves, books = self._halves(cue_BD)
        scores = torch.bmm(halves, books.mT).unflatten(0, (2, self.n_heads))
        return [search(scores_2BN, threshold) for scores_2BN in scores.unbind(1)]

    def _nearest(self, query_BD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        halves, books = self._halves(query_BD)
        pairs, similarity = ops.product_search(halves, books, k)
        locations = pairs[0] * books.shape[1] + pairs[1]
        return locations.transpose(0, 1), similarity.transpose(0, 1)

    def _halves(self, address_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Each half of length 1, shape (2 · H, B, D / 2H), and the codebooks, of length 1/2."""
        halves = address_BD.unflatten(1, (self.n_heads, 2, self.part_width)).permute(2, 1, 0, 3)
        books = directions(self.codebooks.to(self.dtype)) / 2
        return directions(halves).flatten(0, 1), books.flatten(0, 1)


def _root(n_locations: int) -> int:
    m = checks.count("ProductKeys", "n_locations", n_locations)
    n = math.isqrt(m)
    if n * n != m:
        squares = f"{n * n:,} = {n}² or {(n + 1) ** 2:,} = {n + 1}²"
        checks.reject("ProductKeys", "n_locations", f"be a square, such as {squares}", m)
    return n
