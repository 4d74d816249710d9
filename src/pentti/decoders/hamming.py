"""Kanerva's decoder: the hard locations within a Hamming ball around the address."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from pentti import bits, checks, kernels, theory
from pentti.activation import Activation
from pentti.decoders.base import BitDecoder
from pentti.decoders.protocol import good_probability, warn_dead
from pentti.kernels import layout

__all__ = ["HammingBall"]

_SAMPLE = 64  # given hard addresses that show how close they lie


class HammingBall(BitDecoder):
    """Activates every hard location within `radius` bits of the address.

    Hard addresses are random, drawn from `seed`, or given with `HammingBall.at`.
    Give either the radius or the activation probability; the other follows from the
    exact binomial distribution.

    Args:
        address_bits: Width of an address in bits, N.
        n_locations: Number of hard locations, M.
        radius: Largest Hamming distance that activates, in bits, from 0 to N.
        activation_probability: Wanted share of active hard locations, in (0, 1); the
            radius whose exact share is nearest (in ratio) is taken.
        seed: Of the hard addresses; the same on every machine, and in no relation to words
            drawn with the same seed.

    Raises:
        ArgumentError: if a size is below 1, the radius or the probability is out of range,
            or not exactly one of the two is given.

    Examples:
        >>> decoder = HammingBall(1000, 2000, activation_probability=0.01, seed=1)
        >>> decoder.radius, round(decoder.activation_probability, 5)
        (463, 0.01046)
        >>> import torch
        >>> decoder(torch.zeros(1000)).meter
        tensor([19])

    **Source:** Kanerva, *Sparse Distributed Memory* (1988), chapters 4 and 7. His n is
    `address_bits`, N′ is `n_locations`, r′ is `radius`, p is `activation_probability`.
    """

    kind = "HammingBall"
    settings = ("radius",)
    address_tiles: Tensor

    def __init__(
        self,
        address_bits: int,
        n_locations: int,
        *,
        radius: int | None = None,
        activation_probability: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        address_bits = checks.count("HammingBall", "address_bits", address_bits)
        n_locations = checks.count("HammingBall", "n_locations", n_locations)
        seed = checks.integer("HammingBall", "seed", seed, 0, 2**63 - 1)
        radius = _radius(address_bits, radius, activation_probability)
        generator = bits.stream("hard addresses", seed)
        hard = bits.random_packed(n_locations, address_bits, generator=generator)
        self._set(address_bits, n_locations, radius, layout.tiled(hard))
        if self.activation_probability * n_locations < 1:
            better = theory.radius_for(address_bits, good_probability(n_locations))
            warn_dead(self, f"radius={radius}", f"radius={better}")

    def _set(self, address_bits: int, n_locations: int, radius: int, tiles: Tensor) -> None:
        self.address_bits = address_bits
        self.n_locations = n_locations
        self.radius = radius
        self.activation_probability = float(theory.activation_probability(address_bits, radius))
        self.typical_meter = self.activation_probability * n_locations
        self.register_buffer("address_tiles", tiles)

    @classmethod
    def at(
        cls,
        hard_addresses: Any,
        *,
        radius: int | None = None,
        activation_probability: float | None = None,
    ) -> HammingBall:
        """A decoder whose hard locations lie at given addresses.

        Args:
            hard_addresses: Bits of shape (M, N).
            radius: Largest Hamming distance that activates, in bits, from 0 to N.
            activation_probability: Wanted share, as it would be for random hard addresses.

        Returns:
            The decoder, on the device of the addresses.

        Raises:
            ArgumentError: if there is no address, they are not a matrix of bits, or the
                radius is out of range.

        Examples:
            >>> HammingBall.at([[0, 0, 0], [0, 1, 1], [1, 1, 1]], radius=1)([0, 1, 1]).locations
            tensor([1, 2])
        """
        hard = bits.as_bits("HammingBall.at", "hard_addresses", hard_addresses)
        if hard.ndim != 2 or len(hard) == 0:
            got = checks.Words(f"shape {tuple(hard.shape)}")
            checks.reject("HammingBall.at", "hard_addresses", "have shape (locations, bits)", got)
        radius = _radius(hard.shape[1], radius, activation_probability)
        decoder = cls.__new__(cls)
        nn.Module.__init__(decoder)
        decoder._set(hard.shape[1], len(hard), radius, layout.tiled(bits.pack(hard)))  # noqa: SLF001
        few = hard[:: max(1, len(hard) // _SAMPLE)]
        decoder.typical_meter = float(decoder(few).meter.double().mean())
        return decoder

    @property
    def packed_addresses(self) -> Tensor:
        """The addresses of the hard locations, packed: an int64 copy of shape (M, W)."""
        return layout.untiled(self.address_tiles, self.n_locations)

    @property
    def hard_addresses(self) -> Tensor:
        """The addresses of the hard locations: a boolean copy of shape (M, N)."""
        return bits.unpack(self.packed_addresses, self.address_bits)

    def forward(self, address: Any) -> Activation:
        """The hard locations within the radius of each address.

        Args:
            address: Bits of shape (B, N) or (N,).

        Returns:
            The activation, with one row for each address.

        Raises:
            ArgumentError: if the address is not made of bits, has another width, or lies on
                another device.
        """
        cue_BW = self._packed(address)
        locations, offsets = kernels.for_device(self.device).hamming_scan(
            self.address_tiles, self.n_locations, cue_BW, self.radius, self.activation_probability
        )
        return Activation(locations, offsets, self.n_locations)

    def overlap(self, distances: Any) -> npt.NDArray[np.float64]:
        """The share of hard locations that two addresses so many bits apart both activate.

        Args:
            distances: Hamming distances in bits, from 0 to N.

        Returns:
            The circle intersection over 2ᴺ, one value for each distance.

        Raises:
            ArgumentError: if a distance is out of range.
        """
        return theory.overlap_curve(self.address_bits, self.radius, distances)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"{super().extra_repr()}, activation_probability={self.activation_probability:.6g}"


def _radius(address_bits: int, radius: int | None, probability: float | None) -> int:
    if (radius is None) == (probability is None):
        got = checks.Words("neither" if radius is None else "both")
        checks.reject(
            "HammingBall", "radius", "be given, or `activation_probability`, and not both", got
        )
    if radius is not None:
        return checks.integer("HammingBall", "radius", radius, 0, address_bits)
    share = checks.probability("HammingBall", "activation_probability", probability)
    return int(theory.radius_for(address_bits, share))
