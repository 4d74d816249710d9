"""What the decoders of real addresses share: heads, thresholds, top-k and the two ways to ask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pentti import checks, reals, theory
from pentti.activation import Activation
from pentti.decoders.protocol import good_probability, warn_dead
from pentti.decoders.search import QUERIES
from pentti.decoders.settings import checked_dim, checked_threshold
from pentti.tensors import check_vectors

__all__ = ["Nearest", "RealDecoder", "Rows"]

_SAMPLE = 64  # given hard addresses that show how close they lie

Rows: TypeAlias = tuple[Tensor, Tensor]
"""Locations and offsets of one head's activation."""


class Nearest(NamedTuple):
    """The nearest hard locations of each head.

    `locations`, int64 (…, H, K), best first; `similarity`, (…, H, K), with gradient for the query
    and for learned addresses; `active`, bool (…, H, K): whether it reaches the threshold, where
    there is one, and is not NaN.
    """

    locations: Tensor
    similarity: Tensor
    active: Tensor


class RealDecoder(nn.Module, ABC):
    """A decoder whose addresses are real vectors, compared by the cosine of each head's part.

    Attributes:
        kind: Name under which `decoders.restore` knows the decoder.
        table_name: Name of the buffer or parameter that holds the hard addresses.
        n_parts: Vectors of length 1 that a head's part of an address is cut into.
        dim: Components of an address, D.
        n_locations: Number of hard locations, M.
        n_heads: Heads, each with hard addresses of its own for the same locations, H.
        threshold: Least similarity that activates, or None.
        top_k: Most locations that a head activates, or None; may be changed at any time.
        learned: Whether the hard addresses are a parameter.
    """

    kind: ClassVar[str]
    table_name: ClassVar[str]
    n_parts: int
    dim: int
    n_locations: int
    n_heads: int
    threshold: float | None
    top_k: int | None
    learned: bool
    _measured_meter: float | None

    @property
    def address_width(self) -> int:
        """Components of an address, D."""
        return self.dim

    @property
    def part_width(self) -> int:
        """Components of each of the vectors that are compared by their cosine."""
        return self.dim // (self.n_heads * self.n_parts)

    @property
    def device(self) -> torch.device:
        """Where the hard locations are."""
        return self._table.device

    @property
    def dtype(self) -> torch.dtype:
        """The type that similarities are computed in: float32, or float64 after `.double()`."""
        return torch.promote_types(self._table.dtype, torch.float32)

    @property
    def activation_probability(self) -> float:
        """Share of the hard locations, placed at random, that a random address activates.

        Exact, but for `ProductKeys` with both a threshold and `top_k`: there the locations of a
        grid are not independent, and it is a little too high.
        """
        share = 1.0 if self.threshold is None else self._share(self.threshold)
        if self.top_k is not None:
            share = theory.cut_probability(share, self.n_locations, self.top_k)
        return theory.any_head(share, self.n_heads)

    @property
    def effective_threshold(self) -> float:
        """The threshold, or the one that activates `top_k` locations on average if it is higher."""
        threshold = -1.0 if self.threshold is None else self.threshold
        if self.top_k is not None and self.top_k < self.n_locations:
            threshold = max(threshold, self._threshold_for(self.top_k / self.n_locations))
        return threshold

    @property
    def typical_meter(self) -> float:
        """Locations that an address activates as a rule, for sizing blocks."""
        if self._measured_meter is not None:
            return self._measured_meter
        return self.activation_probability * self.n_locations

    def forward(self, address: Any) -> Activation:
        """The hard locations that each address activates, without gradient.

        With several heads, the weight of a location is the number of heads that activate it.
        Rounding decides where a similarity equals the threshold to the last digit.

        Args:
            address: Finite real numbers of shape (B, D) or (D,).

        Returns:
            The activation, with one row for each address.

        Raises:
            ArgumentError: if the address is not made of finite real numbers, has another width,
                or lies on another device.
        """
        cue = self.as_addresses(self.kind, "address", address).reshape(-1, self.dim)
        with torch.no_grad(), torch.autocast(cue.device.type, enabled=False):
            parts = [self._activation(block) for block in cue.split(QUERIES)]
        if len(parts) == 1:
            return parts[0]
        meter = torch.cat([part.meter for part in parts])
        weights = [part.weights for part in parts if part.weights is not None]
        return Activation(
            torch.cat([part.locations for part in parts]),
            torch.nn.functional.pad(meter.cumsum(0), (1, 0)),
            self.n_locations,
            torch.cat(weights) if weights else None,
        )

    def nearest(self, query: Tensor) -> Nearest:
        """The `top_k` nearest hard locations of each head, for layers.

        The search has no gradient; the similarity of what it finds has. A query with NaN finds
        any locations, with a similarity of NaN, none of them active.

        Args:
            query: Floating tensor of shape (…, D).

        Returns:
            Locations, similarity and which of them are active, each of shape (…, H, K).

        Raises:
            ArgumentError: if there is no `top_k` or it exceeds the hard locations, or the query
                is no floating tensor, has another width or lies on another device.

        **Source:** Lample et al. 2019, "Large memory layers with product keys".
        """
        where = f"{self.kind}.nearest"
        if self.top_k is None:
            checks.reject(where, "top_k", "be set on the decoder", None)
        k = checks.integer(where, "top_k", self.top_k, 1, self.n_locations)
        check_vectors(where, "query", query, self.dim, self.device)
        with torch.autocast(query.device.type, enabled=False):
            locations, similarity = self._nearest(query.reshape(-1, self.dim).to(self.dtype), k)
        shape = (*query.shape[:-1], self.n_heads, k)
        least = -torch.inf if self.threshold is None else self.threshold
        similarity = similarity.view(shape)
        return Nearest(locations.view(shape), similarity, similarity.detach() >= least)

    def as_addresses(self, where: str, argument: str, value: Any) -> Tensor:
        """The door: whatever the caller holds, as addresses of this decoder.

        Args:
            where: The public function or class that was called, for the error.
            argument: The argument's name, for the error.
            value: Tensor, NumPy array or nested list of numbers, shape (…, D).

        Returns:
            A finite tensor of the same shape in the decoder's `dtype`, without gradient.

        Raises:
            ArgumentError: if it is not made of finite real numbers, has another width or lies on
                another device.
        """
        return reals.as_reals(where, argument, value, self.dtype, self.device, self.dim)

    def random_addresses(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Addresses whose direction is even over the sphere: Gaussian components.

        Args:
            n: How many.
            generator: Source of randomness, on the CPU.

        Returns:
            float32 tensor of shape (n, D).

        Raises:
            ArgumentError: if `n` is negative.
        """
        n = checks.integer(f"{self.kind}.random_addresses", "n", n, 0)
        shape = (n, self.dim)
        drawn = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
        return drawn.to(self.device)

    def overlap(self, cosines: Any, /) -> npt.NDArray[np.float64]:
        """The share of hard locations that two addresses both activate.

        Every part of the two addresses (a head's, or a half of it) stands at the same cosine to
        each other. For `top_k` it is the share of the threshold that activates as many, which it is
        in the limit of many hard locations.

        Args:
            cosines: Cosines between the addresses, in [-1, 1].

        Returns:
            Expectation over random hard locations, one value for each cosine.

        Raises:
            ArgumentError: if a cosine is out of range.
        """
        threshold = self.effective_threshold
        both = np.minimum(self._both(threshold, cosines), self._share(threshold))
        return theory.any_head_intersection(self._share(threshold), both, self.n_heads)

    def config(self) -> dict[str, Any]:
        """The settings from which `decoders.restore`, with the state, makes the decoder again.

        Returns:
            Plain numbers and texts.
        """
        names = ("dim", "n_locations", "threshold", "top_k", "n_heads", "learned")
        return {"decoder": self.kind, **{name: getattr(self, name) for name in names}}

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        settings = {name: value for name, value in self.config().items() if name != "decoder"}
        given = [f"{name}={value}" for name, value in settings.items() if value is not None]
        return ", ".join([*given, f"activation_probability={self.activation_probability:.6g}"])

    def _settle(
        self,
        dim: int,
        n_locations: int,
        threshold: float | None,
        activation_probability: float | None,
        top_k: int | None,
        n_heads: int,
        learned: bool,
    ) -> None:
        """Check and keep the settings."""
        kind = self.kind
        self.n_locations = checks.count(kind, "n_locations", n_locations)
        self.n_heads = checks.count(kind, "n_heads", n_heads)
        self.dim = checked_dim(kind, dim, self.n_heads, self.n_parts)
        self.learned = checks.flag(kind, "learned", learned)
        self._measured_meter = None
        if top_k is not None:
            top_k = checks.integer(kind, "top_k", top_k, 1, self.n_locations)
        self.top_k = top_k
        if activation_probability is not None:
            share = checks.probability(kind, "activation_probability", activation_probability)
            activation_probability = theory.one_head(share, self.n_heads)
        self.threshold = checked_threshold(
            kind, threshold, activation_probability, self.top_k, self._threshold_for
        )

    def _place(self, table: Tensor) -> None:
        """Keep the hard addresses."""
        if self.learned:
            self.register_parameter(self.table_name, nn.Parameter(table))
        else:
            self.register_buffer(self.table_name, table)

    def _warn_if_dead(self) -> None:
        if self.threshold is None:
            return
        share = theory.any_head(self._share(self.threshold), self.n_heads)
        if share * self.n_locations < 1:
            good = theory.one_head(good_probability(self.n_locations), self.n_heads)
            better = self._threshold_for(good)
            setting = f"threshold={self.threshold:.4g} (probability {share:.2g})"
            remedy = f"threshold={better:.4g}" if better < self.threshold else setting
            warn_dead(self, setting, remedy, stacklevel=4)

    def _measure(self) -> None:
        """Take `typical_meter` from the hard addresses, where they are data."""
        few = self.hard_addresses[:: max(1, self.n_locations // _SAMPLE)]
        self._measured_meter = float(self(few).meter.double().mean())

    def _activation(self, cue: Tensor) -> Activation:
        if self.top_k is None:
            heads = self._above(cue, self.threshold if self.threshold is not None else -1.0)
            if len(heads) == 1:
                return Activation(*heads[0], self.n_locations)
            entry = torch.cat([self._entries(*head) for head in heads])
        else:
            near = self.nearest(cue)
            row = torch.arange(len(cue), device=cue.device)[:, None, None]
            entry = (row * self.n_locations + near.locations)[near.active]
        entry, n_active = entry.unique(return_counts=True)
        meter = torch.bincount(entry // self.n_locations, minlength=len(cue))
        return Activation(
            entry % self.n_locations,
            torch.nn.functional.pad(meter.cumsum(0), (1, 0)),
            self.n_locations,
            n_active.to(torch.float32) if self.n_heads > 1 else None,
        )

    def _entries(self, locations: Tensor, offsets: Tensor) -> Tensor:
        row = torch.arange(len(offsets) - 1, device=offsets.device)
        return row.repeat_interleave(offsets.diff()) * self.n_locations + locations

    @property
    def _table(self) -> Tensor:
        table: Tensor = getattr(self, self.table_name)
        return table

    @property
    @abstractmethod
    def hard_addresses(self) -> Tensor:
        """The addresses of the hard locations, each part of length 1: a copy, shape (M, D)."""

    @abstractmethod
    def _share(self, threshold: float) -> float:
        """Probability that one head activates a random location."""

    @abstractmethod
    def _threshold_for(self, share: float) -> float:
        """The inverse of `_share`."""

    @abstractmethod
    def _both(self, threshold: float, cosines: Any) -> npt.NDArray[np.float64]:
        """Probability that one head activates a random location for both of two addresses."""

    @abstractmethod
    def _above(self, cue_BD: Tensor, threshold: float) -> list[Rows]:
        """For each head, what reaches the threshold."""

    @abstractmethod
    def _nearest(self, query_BD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Locations and their similarity, shape (B, H, K)."""
