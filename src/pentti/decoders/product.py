"""Product keys: hard locations on a grid, so that scoring costs the square root of their number."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pentti import checks, kernels, theory
from pentti.decoders.directions import directions, random_directions
from pentti.decoders.real import RealDecoder, Rows
from pentti.kernels import ops

__all__ = ["ProductKeys", "checked_codebooks", "codebook_size"]


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

    With more than two codebooks, a power of two, C, an address is cut into as many parts, M = nᶜ
    locations are searched by `top_k` alone, exactly too, and two addresses share a location only
    where they share all of its parts. Scores cost C · n: four codebooks of 64 make 16,777,216
    locations.

    Args:
        dim: Components of an address, D: a multiple of heads times codebooks, at least 2 for each.
        n_locations: Number of hard locations, M, a square; or a C-th power, below 2⁶².
        threshold: Least similarity that activates, in [-1, 1].
        activation_probability: Wanted share of active hard locations, over all heads, in (0, 1).
        top_k: Most active hard locations of each head, from 1 to M.
        n_heads: Heads, H.
        n_codebooks: Codebooks of each head, C: 2, 4, 8 or another power of two.
        learned: Whether the codebooks are a parameter; their entries may have any length.
        seed: Of the codebooks; the same on every machine, up to rounding.

    Raises:
        ArgumentError: if a size or a setting is out of range, `dim` cannot be cut into the parts
            of the heads, M is no square or C-th power, or none, or both, of threshold and
            probability are given (none is right with `top_k`, or with more than two codebooks).

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
        n_codebooks: int = 2,
        learned: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.n_parts = checked_codebooks(self.kind, n_codebooks)
        n = codebook_size(self.kind, n_locations, self.n_parts)
        if self.n_parts > 2 and (threshold is not None or activation_probability is not None):
            expected = "be left out, and `top_k` be given, with more than two codebooks"
            name = "activation_probability" if threshold is None else "threshold"
            checks.reject(self.kind, name, expected, checks.Words(f"{self.n_parts} codebooks"))
        self._settle(dim, n_locations, threshold, activation_probability, top_k, n_heads, learned)
        shape = (self.n_parts, self.n_heads, n, self.part_width)
        self._place(random_directions(shape, seed, self.kind))
        self._warn_if_dead()

    @property
    def n_codebooks(self) -> int:
        """Codebooks of each head, C."""
        return self.n_parts

    def config(self) -> dict[str, Any]:
        """The settings from which `decoders.restore`, with the state, makes the decoder again.

        Returns:
            Plain numbers and texts.
        """
        return super().config() | {"n_codebooks": self.n_codebooks}

    @property
    def hard_addresses(self) -> Tensor:
        """The addresses of the hard locations, each part of length 1: a copy, shape (M, D)."""
        parts = directions(self.codebooks.detach().to(self.dtype))
        n, locations = parts.shape[2], torch.arange(self.n_locations, device=self.device)
        places = [locations // n**i % n for i in reversed(range(self.n_parts))]
        chosen = [part[:, place] for part, place in zip(parts, places, strict=True)]
        return torch.stack(chosen, dim=2).permute(1, 0, 2, 3).reshape(self.n_locations, self.dim)

    def _share(self, threshold: float) -> float:
        if self.n_parts == 2:
            return theory.product_cap_probability(self.part_width, threshold)
        return theory.parts_cap_probability(self.part_width, self.n_parts, threshold)

    def _threshold_for(self, share: float) -> float:
        if self.n_parts == 2:
            return theory.product_cosine_for(self.part_width, share)
        return theory.parts_cosine_for(self.part_width, self.n_parts, share)

    def _both(self, threshold: float, cosines: Any) -> npt.NDArray[np.float64]:
        if self.n_parts == 2:
            return theory.product_cap_intersection(self.part_width, threshold, cosines)
        return theory.parts_cap_intersection(self.part_width, self.n_parts, threshold, cosines)

    def _above(self, cue_BD: Tensor, threshold: float) -> list[Rows]:
        search = kernels.for_device(self.device).product_threshold
        halves, books = self._halves(cue_BD)
        scores = torch.bmm(halves, books.mT).unflatten(0, (2, self.n_heads))
        return [search(scores_2BN, threshold) for scores_2BN in scores.unbind(1)]

    def _nearest(self, query_BD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        halves, books = self._halves(query_BD)
        n_cells = books.shape[1] ** 2
        pairs, similarity = ops.product_search(halves, books, min(k, n_cells))
        locations = pairs[0] * books.shape[1] + pairs[1]
        while len(locations) > self.n_heads:  # two pairs of parts are a pair of their own
            pairs, similarity = ops.product_merge(similarity, min(k, n_cells**2))
            first, second = locations.unflatten(0, (2, -1))
            locations = first.gather(2, pairs[0]) * n_cells + second.gather(2, pairs[1])
            n_cells **= 2
        return locations.transpose(0, 1), similarity.transpose(0, 1)

    def _halves(self, address_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Each part of length 1, (C · H, B, D / CH), and the codebooks, of length 1 / C.

        First halves of all pairs come first, then second ones; and among the pairs likewise first
        halves of pairs of pairs come first.
        """
        bits = self.n_parts.bit_length() - 1
        falling = range(bits, 0, -1)
        parts = address_BD.unflatten(1, (self.n_heads, *[2] * bits, self.part_width))
        parts = parts.permute(*(i + 1 for i in falling), 1, 0, bits + 2)
        books = self.codebooks.to(self.dtype).unflatten(0, [2] * bits)
        books = directions(books.permute(*(i - 1 for i in falling), bits, bits + 1, bits + 2))
        return directions(parts).flatten(0, bits), books.flatten(0, bits) / self.n_parts


def checked_codebooks(where: str, n_codebooks: object) -> int:
    """A number of codebooks that pairs can be made of.

    Args:
        where: The public function or class that was called, for the error.
        n_codebooks: What the caller gave.

    Returns:
        The number as a Python int.

    Raises:
        ArgumentError: if it is no power of two, or not from 2 to 32.
    """
    c = checks.integer(where, "n_codebooks", n_codebooks, 2, 32)
    if c & (c - 1):
        checks.reject(where, "n_codebooks", "be a power of two", c)
    return c


def codebook_size(where: str, n_locations: object, n_codebooks: int) -> int:
    """How many entries each codebook needs.

    Args:
        where: The public function or class that was called, for the error.
        n_locations: Hard locations, M, as the caller gave them.
        n_codebooks: Codebooks, C.

    Returns:
        The C-th root of M.

    Raises:
        ArgumentError: if it is no whole number, or M too large; the message names what will do.
    """
    m = checks.count(where, "n_locations", n_locations)
    checks.integer(where, "n_locations", m, 1, 2**62 - 1)
    n: int = round(m ** (1 / n_codebooks))
    n += (n + 1) ** n_codebooks <= m
    n -= n**n_codebooks > m
    if n**n_codebooks != m:
        named = {2: "square", 4: "fourth power"}.get(n_codebooks, f"{n_codebooks}th power")
        sign = {2: "²", 4: "⁴"}.get(n_codebooks, f"^{n_codebooks}")
        near = (f"{i**n_codebooks:,} = {i}{sign}" for i in (n, n + 1))
        checks.reject(where, "n_locations", f"be a {named}, such as {' or '.join(near)}", m)
    return n
