"""Jaeckel's decoders: a hard location looks at a few bits of the address only."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pentti import bits, checks, kernels, theory
from pentti.activation import Activation
from pentti.decoders.base import BitDecoder
from pentti.decoders.protocol import good_probability, warn_dead

__all__ = ["Hyperplane", "SelectedCoordinates"]


class _Literals(BitDecoder):
    """Hard locations that ask each of K bits of the address to have a given value."""

    literals: Tensor

    def __init__(
        self, address_bits: int, n_locations: int, n_selected: int, seed: int, values: bool
    ) -> None:
        super().__init__()
        name = self.kind
        self.address_bits = checks.count(name, "address_bits", address_bits)
        self.n_locations = checks.count(name, "n_locations", n_locations)
        self.n_selected = checks.integer(name, "n_selected", n_selected, 1, self.address_bits)
        seed = checks.integer(name, "seed", seed, 0, 2**63 - 1)
        generator = bits.stream("selected coordinates", seed)
        coordinates = _distinct(self.n_locations, self.n_selected, self.address_bits, generator)
        wanted = torch.ones_like(coordinates)
        if values:
            wanted.random_(0, 2, generator=generator)
        self.register_buffer("literals", 2 * coordinates + wanted)

    @property
    def coordinates(self) -> Tensor:
        """Which bits each hard location looks at: int32 tensor of shape (M, K)."""
        return self.literals // 2

    @property
    def wanted_values(self) -> Tensor:
        """The values that it asks of them: boolean tensor of shape (M, K)."""
        return (self.literals % 2).bool()

    def forward(self, address: Any) -> Activation:
        """The hard locations whose selected bits the address matches.

        Args:
            address: Bits of shape (B, N) or (N,).

        Returns:
            The activation, with one row for each address.

        Raises:
            ArgumentError: if the address is not made of bits, has another width, or lies on
                another device.
        """
        cue_BW = self._packed(address)
        locations, offsets = kernels.for_device(self.device).literal_match(
            self.literals, self.address_bits, cue_BW
        )
        return Activation(locations, offsets, self.n_locations)


class SelectedCoordinates(_Literals):
    """Activates the hard locations whose few selected bits the address matches.

    Each hard location has selected `n_selected` of the bits and a value for each,
    both at random, so that a random address activates it with probability 2⁻ᴷ exactly.

    Args:
        address_bits: Width of an address in bits, N.
        n_locations: Number of hard locations, M.
        n_selected: Bits that a hard location looks at, K, from 1 to N.
        seed: Of the selections; the same on every machine.

    Raises:
        ArgumentError: if a size is below 1 or more bits are selected than there are.

    Examples:
        >>> decoder = SelectedCoordinates(1000, 4096, n_selected=7)
        >>> decoder.activation_probability
        0.0078125
        >>> decoder.overlap([0, 100, 500]).round(6).tolist()
        [0.007812, 0.003728, 6e-05]

    **Source:** Jaeckel, *An alternative design for a sparse distributed memory*, RIACS TR 89.28
    (1989). His k is `n_selected`.
    """

    kind = "SelectedCoordinates"
    settings = ("n_selected",)

    def __init__(
        self, address_bits: int, n_locations: int, *, n_selected: int, seed: int = 0
    ) -> None:
        super().__init__(address_bits, n_locations, n_selected, seed, values=True)
        self.activation_probability = float(theory.selected_coordinates_probability(n_selected))
        self.typical_meter = self.activation_probability * n_locations
        if self.activation_probability * n_locations < 1:
            better = max(1, round(-math.log2(good_probability(n_locations))))
            warn_dead(self, f"n_selected={n_selected}", f"n_selected={better}")

    def overlap(self, distances: Any) -> npt.NDArray[np.float64]:
        """The share of hard locations that two addresses so many bits apart both activate.

        Args:
            distances: Hamming distances in bits, from 0 to N.

        Returns:
            2⁻ᴷ C(N − d, K) / C(N, K), one value for each distance d.

        Raises:
            ArgumentError: if a distance is out of range.
        """
        return theory.selected_coordinates_overlap(self.address_bits, self.n_selected, distances)


class Hyperplane(_Literals):
    """Activates the hard locations all of whose selected bits are ones in the address.

    Made for sparse addresses, which have `n_ones` ones among their N bits: each hard location
    has selected a few bits at random and asks for a one in each. An address with more
    ones activates more locations.

    Args:
        address_bits: Width of an address in bits, N.
        n_locations: Number of hard locations, M.
        n_ones: Ones in an address, from `n_selected` to N.
        n_selected: Bits that a hard location looks at, K, from 1 to N.
        seed: Of the selections; the same on every machine.

    Raises:
        ArgumentError: if a size is below 1, more bits are selected than there are, or an
            address has fewer ones than are selected.

    Examples:
        >>> decoder = Hyperplane(1000, 4096, n_ones=100, n_selected=3)
        >>> round(decoder.activation_probability, 6)
        0.000973

    **Source:** Jaeckel, *A class of designs for a sparse distributed memory*, RIACS TR 89.30
    (1989): the hyperplane design. His k is `n_selected`.
    """

    kind = "Hyperplane"
    settings = ("n_ones", "n_selected")

    def __init__(
        self,
        address_bits: int,
        n_locations: int,
        *,
        n_ones: int,
        n_selected: int,
        seed: int = 0,
    ) -> None:
        super().__init__(address_bits, n_locations, n_selected, seed, values=False)
        self.n_ones = checks.integer("Hyperplane", "n_ones", n_ones, n_selected, address_bits)
        self.activation_probability = float(
            theory.hyperplane_probability(address_bits, n_ones, n_selected)
        )
        self.typical_meter = self.activation_probability * n_locations
        if self.activation_probability * n_locations < 1:
            better = max(1, n_selected - 1)
            warn_dead(self, f"n_selected={n_selected}", f"n_selected={better}")

    def overlap(self, distances: Any) -> npt.NDArray[np.float64]:
        """The share of hard locations that two addresses so many bits apart both activate.

        Args:
            distances: Hamming distances in bits between addresses of `n_ones` ones: even,
                from 0 to 2 · min(n_ones, N − n_ones).

        Returns:
            C(n_ones − d / 2, K) / C(N, K), one value for each distance d.

        Raises:
            ArgumentError: if a distance is out of range.
        """
        return theory.hyperplane_overlap(self.address_bits, self.n_ones, self.n_selected, distances)

    def random_addresses(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Addresses with exactly `n_ones` ones at random places.

        Args:
            n: How many.
            generator: Source of randomness, on the CPU.

        Returns:
            Boolean tensor of shape (n, N).

        Raises:
            ArgumentError: if `n` is negative.
        """
        n = checks.integer("Hyperplane.random_addresses", "n", n, 0)
        nothing = torch.zeros((n, self.address_bits), dtype=torch.bool, device=self.device)
        return bits.flip(nothing, self.n_ones, generator=generator)


def _distinct(n_rows: int, n_chosen: int, n_items: int, generator: torch.Generator) -> Tensor:
    """Rows of distinct items, each choice equally likely: Floyd's sampling, a column at a time."""
    chosen = torch.empty((n_rows, n_chosen), dtype=torch.int32)
    for column, newest in enumerate(range(n_items - n_chosen, n_items)):
        pick = torch.randint(newest + 1, (n_rows,), generator=generator, dtype=torch.int32)
        taken = (chosen[:, :column] == pick[:, None]).any(1)
        chosen[:, column] = torch.where(taken, newest, pick)
    return chosen
