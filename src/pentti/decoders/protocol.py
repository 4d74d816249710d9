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

    A decoder is an `nn.Module`, its hard locations buffers or (learned) parameters, so that
    `.to(device)` and `state_dict` work. Addresses are bits or real numbers, as the decoder
    likes them.

    Attributes:
        n_locations: Number of hard locations, M.
    """

    n_locations: int

    @property
    def address_width(self) -> int:
        """Components of an address: bits, or real numbers."""

    @property
    def activation_probability(self) -> float:
        """Exact share of the hard locations, placed at random, that a random address activates."""

    @property
    def typical_meter(self) -> float:
        """Locations that an address activates as a rule, for sizing blocks."""

    @property
    def device(self) -> torch.device:
        """Where the hard locations are."""

    def as_addresses(self, where: str, argument: str, value: Any) -> Tensor:
        """The door: whatever the caller holds, as addresses of this decoder.

        Args:
            where: The public function or class that was called, for the error.
            argument: The argument's name, for the error.
            value: Tensor, NumPy array or nested list, shape (…, N).

        Returns:
            A tensor of the same shape: boolean, or floating and finite.

        Raises:
            ArgumentError: if it is no address, has another width or lies on another device.
        """

    def __call__(self, address: Any) -> Activation:
        """The hard locations that each address of a batch activates.

        Args:
            address: Addresses of shape (B, N) or (N,).

        Returns:
            The activation, with one row for each address, its locations ascending.

        Raises:
            ArgumentError: if it is no address, has another width or lies on another device.
        """

    def overlap(self, apart: Any, /) -> npt.NDArray[np.float64]:
        """The share of hard locations that two addresses both activate.

        Args:
            apart: Hamming distances in bits between the two, or cosines.

        Returns:
            Exact expectation over random hard locations, one for each.

        Raises:
            ArgumentError: if a distance or a cosine is out of range.
        """

    def random_addresses(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Addresses of the kind that this decoder is made for.

        Args:
            n: How many.
            generator: Source of randomness, on the CPU.

        Returns:
            Tensor of shape (n, N), boolean or floating.
        """

    def config(self) -> dict[str, Any]:
        """The settings from which `decoders.restore`, with the state, makes the decoder again."""


def good_probability(n_locations: int) -> float:
    """The activation probability with the best signal-to-noise ratio at a sensible load.

    Args:
        n_locations: Number of hard locations.

    Returns:
        A probability of at most one half.
    """
    n_words = max(1, round(_GOOD_LOAD * n_locations))
    return min(0.5, float(theory.optimal_probability(n_locations, n_words)))


def warn_dead(decoder: Decoder, setting: str, better: str, stacklevel: int = 3) -> None:
    """Warn that an address activates less than one hard location on average.

    Args:
        decoder: The decoder, still in its constructor.
        setting: The setting in words.
        better: A setting that is good for this many hard locations, in words.
        stacklevel: Calls from here to whoever made the decoder.
    """
    mean = decoder.activation_probability * decoder.n_locations
    remedy = better if better != setting else "more hard locations"
    warnings.warn(
        f"{type(decoder).__name__}: {setting} activates {mean:.3g} of {decoder.n_locations} hard "
        f"locations on average, so most reads find nothing; {remedy} would activate more",
        SettingWarning,
        stacklevel=stacklevel,
    )
