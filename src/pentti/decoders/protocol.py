"""What every decoder offers: the one interface between an address and a memory."""

from __future__ import annotations

import warnings
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pentti import theory
from pentti.activation import Activation
from pentti.errors import SettingWarning

__all__ = ["Decoder", "good_probability", "warn_dead"]

_GOOD_LOAD = 0.02  # words per hard location, within Kanerva's advice of 1–5 %


@runtime_checkable
class Decoder(Protocol):
    """Chooses the hard locations that an address activates.

    A decoder is an `nn.Module` with fixed buffers, so that `.to(device)` and `state_dict` work.

    Attributes:
        address_bits: Width of an address in bits, N.
        n_locations: Number of hard locations, M.
        activation_probability: Exact share of the hard locations, placed at random, that a
            random address activates.
        typical_meter: Locations that an address activates as a rule, for sizing blocks.
    """

    address_bits: int
    n_locations: int
    activation_probability: float
    typical_meter: float

    @property
    def device(self) -> torch.device:
        """Where the hard locations are."""

    def __call__(self, address: Any) -> Activation:
        """The hard locations that each address of a batch activates.

        Args:
            address: Bits of shape (B, N) or (N,).

        Returns:
            The activation, with one row for each address, its locations ascending.

        Raises:
            ArgumentError: if the address is not made of bits, or has another width.
        """

    def overlap(self, distances: Any) -> npt.NDArray[np.float64]:
        """The share of hard locations that two addresses so many bits apart both activate.

        Args:
            distances: Hamming distances in bits.

        Returns:
            Exact expectation over random hard locations, one for each distance.

        Raises:
            ArgumentError: if a distance is out of range.
        """

    def random_addresses(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Addresses of the kind that this decoder is made for.

        Args:
            n: How many.
            generator: Source of randomness, on the CPU.

        Returns:
            Boolean tensor of shape (n, N).
        """

    def config(self) -> dict[str, Any]:
        """The settings from which `decoders.restore`, with the buffers, makes the decoder again."""


def good_probability(n_locations: int) -> float:
    """The activation probability with the best signal-to-noise ratio at a sensible load.

    Args:
        n_locations: Number of hard locations.

    Returns:
        A probability of at most one half.
    """
    n_words = max(1, round(_GOOD_LOAD * n_locations))
    return min(0.5, float(theory.optimal_probability(n_locations, n_words)))


def warn_dead(decoder: Decoder, setting: str, better: str) -> None:
    """Warn that an address activates less than one hard location on average.

    Args:
        decoder: The decoder, still in its constructor.
        setting: The setting in words.
        better: A setting that is good for this many hard locations, in words.
    """
    mean = decoder.activation_probability * decoder.n_locations
    remedy = better if better != setting else "more hard locations"
    warnings.warn(
        f"{type(decoder).__name__}: {setting} activates {mean:.3g} of {decoder.n_locations} hard "
        f"locations on average, so most reads find nothing; {remedy} would activate more",
        SettingWarning,
        stacklevel=3,
    )
