"""The cap: hard locations whose direction is near enough to that of the address."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pentti import checks, theory
from pentti.decoders.directions import directions, random_directions
from pentti.decoders.real import RealDecoder, Rows
from pentti.decoders.search import cosine_threshold, cosine_top_k
from pentti.kernels import ops
from pentti.tensors import as_tensor

__all__ = ["CosineCap"]

_UNIT_ERROR = 2e-6  # of a length that float32 rounds


class CosineCap(RealDecoder):
    """Activates the hard locations whose cosine with the address is at least a threshold.

    Hard addresses are random directions, drawn from `seed`, or given with `CosineCap.at`. Give the
    threshold, or the activation probability, from which it follows by the exact area of the cap.
    With `top_k` too, at most so many of them are active, the nearest; with `top_k` alone, exactly
    so many. An address may be cut into heads, each with hard addresses of its own for the same
    hard locations; a location is active where some head activates it.

    Every hard address is compared: 100,000 locations of 512 components cost as much for each token
    as attention over 100,000 tokens. `ProductKeys` costs the square root of that.

    Args:
        dim: Components of an address, D: a multiple of the heads, at least 2 for each.
        n_locations: Number of hard locations, M.
        threshold: Least cosine that activates, in [-1, 1].
        activation_probability: Wanted share of active hard locations, over all heads, in (0, 1).
        top_k: Most active hard locations of each head, from 1 to M.
        n_heads: Heads, H.
        learned: Whether the hard addresses are a parameter; they may have any length.
        seed: Of the hard addresses; the same on every machine, up to rounding.

    Raises:
        ArgumentError: if a size or a setting is out of range, `dim` cannot be cut into the heads,
            or none, or both, of threshold and probability are given (none is right with `top_k`).

    Examples:
        >>> import torch
        >>> decoder = CosineCap(512, 2000, activation_probability=0.01)
        >>> round(decoder.threshold, 4)
        0.1027
        >>> address = torch.randn(512, generator=torch.Generator().manual_seed(0))
        >>> decoder(address).meter
        tensor([19])

    **Source:** Kanerva, *Sparse Distributed Memory* (1988), carried over to the sphere as by
    Bricken & Pehlevan 2021, "Attention approximates sparse distributed memory", appendix B.6; the
    area of the cap: Li 2011.
    """

    kind = "CosineCap"
    table_name = "addresses"
    n_parts = 1
    addresses: Tensor
    _unit = True

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
        self._settle(dim, n_locations, threshold, activation_probability, top_k, n_heads, learned)
        shape = (self.n_heads, self.n_locations, self.part_width)
        self._place(random_directions(shape, seed, self.kind))
        self._warn_if_dead()

    @classmethod
    def at(
        cls,
        hard_addresses: Any,
        *,
        threshold: float | None = None,
        activation_probability: float | None = None,
        top_k: int | None = None,
        n_heads: int = 1,
        learned: bool = False,
    ) -> CosineCap:
        """A decoder whose hard locations lie at given addresses.

        Args:
            hard_addresses: Real numbers of shape (M, D); only directions count.
            threshold: Least cosine that activates, in [-1, 1].
            activation_probability: Wanted share, as it would be for random hard addresses.
            top_k: Most active hard locations of each head, from 1 to M.
            n_heads: Heads, H.
            learned: Whether they may be learned from there on.

        Returns:
            The decoder, on the device of the addresses, in float64 where they are a tensor of
            float64, else in float32.

        Raises:
            ArgumentError: if there is no address, they are not a matrix of finite numbers, or a
                setting is out of range.

        Examples:
            >>> CosineCap.at([[1.0, 0.0], [3.0, 3.0], [0.0, -1.0]], threshold=0.7)([2, 1]).locations
            tensor([0, 1])
        """
        given = as_tensor("CosineCap.at", "hard_addresses", hard_addresses, None, "numbers")
        if given.ndim != 2 or len(given) == 0:
            got = checks.Words(f"shape {tuple(given.shape)}")
            expected = "have shape (locations, components)"
            checks.reject("CosineCap.at", "hard_addresses", expected, got)
        double = isinstance(hard_addresses, Tensor) and given.dtype == torch.float64
        vectors = given.to(torch.float64 if double else torch.float32)
        if not vectors.isfinite().all():
            strange = given[~vectors.isfinite()][0].item()
            checks.reject(
                "CosineCap.at", "hard_addresses", f"be finite in {vectors.dtype}", strange
            )
        decoder = cls.__new__(cls)
        nn.Module.__init__(decoder)
        m, dim = given.shape
        decoder._settle(dim, m, threshold, activation_probability, top_k, n_heads, learned)  # noqa: SLF001
        parts = vectors.reshape(m, decoder.n_heads, -1)
        decoder._place(directions(parts.transpose(0, 1)).contiguous())  # noqa: SLF001
        decoder._measure()  # noqa: SLF001
        return decoder

    @property
    def hard_addresses(self) -> Tensor:
        """The addresses of the hard locations, each part of length 1: a copy, shape (M, D)."""
        parts = directions(self.addresses.detach().to(self.dtype))
        return parts.transpose(0, 1).reshape(self.n_locations, self.dim)

    def _share(self, threshold: float) -> float:
        return theory.cap_probability(self.part_width, threshold)

    def _threshold_for(self, share: float) -> float:
        return theory.cosine_for(self.part_width, share)

    def _both(self, threshold: float, cosines: Any) -> npt.NDArray[np.float64]:
        return theory.cap_intersection(self.part_width, threshold, cosines)

    def _above(self, cue_BD: Tensor, threshold: float) -> list[Rows]:
        heads = zip(self._parts(cue_BD), self.addresses, strict=True)
        return [cosine_threshold(x_BE, table, threshold, self._uneven) for x_BE, table in heads]

    def _nearest(self, query_BD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        x_HBE = self._parts(query_BD)
        found_HBK = cosine_top_k(x_HBE.detach(), self.addresses.detach(), k, self._uneven)
        # One table of H · M rows, in which each head begins at its own.
        first = self.n_locations * torch.arange(self.n_heads, device=found_HBK.device)
        rows = (found_HBK + first[:, None, None]).flatten(0, 1)
        table = self.addresses.flatten(0, 1)
        similarity = ops.row_dots(table, rows, x_HBE.flatten(0, 1))
        if self._uneven:
            # Lengths anew on every call: a cached copy would go stale unseen, since not every
            # optimiser raises the version of a parameter (fused AdamW does not).
            some, which = rows.unique(return_inverse=True)
            length = torch.linalg.vector_norm(table[some].to(similarity.dtype), dim=-1)
            similarity = similarity / torch.where(length > 0, length, 1)[which]
        similarity = similarity.view(found_HBK.shape)
        return found_HBK.transpose(0, 1).contiguous(), similarity.transpose(0, 1).contiguous()

    @property
    def _uneven(self) -> bool:
        """Whether hard addresses have lengths other than 1, as after a step or a cast."""
        return self.learned or not self._unit or self.addresses.dtype != torch.float32

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._look_at_lengths()  # a learned decoder's addresses have any

    def _apply(self, fn: Any, recurse: bool = True) -> CosineCap:
        before = self.addresses.dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.addresses.dtype != before:
            self._look_at_lengths()  # after half precision they are rounded
        return self

    def _look_at_lengths(self) -> None:
        if not self.learned and not self.addresses.is_meta:
            length = torch.linalg.vector_norm(self.addresses, dim=-1, dtype=self.dtype)
            self._unit = bool((((length - 1).abs() < _UNIT_ERROR) | (length == 0)).all())

    def _parts(self, address_BD: Tensor) -> Tensor:
        parts = address_BD.unflatten(1, (self.n_heads, self.part_width))
        return directions(parts.transpose(0, 1))
