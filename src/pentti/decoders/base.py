"""What the decoders of binary addresses share."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pentti import bits

__all__ = ["BitDecoder"]


class BitDecoder(nn.Module):
    """Settings, cues and random addresses of a decoder whose hard locations are buffers.

    Attributes:
        kind: Name under which `decoders.restore` knows the decoder.
        settings: Names of the constructor's arguments that a copy needs, beside the sizes.
        address_bits: Width of an address in bits, N.
        n_locations: Number of hard locations, M.
    """

    kind: ClassVar[str]
    settings: ClassVar[tuple[str, ...]]
    address_bits: int
    n_locations: int

    @property
    def address_width(self) -> int:
        """Width of an address in bits, N."""
        return self.address_bits

    @property
    def device(self) -> torch.device:
        """Where the hard locations are."""
        return next(self.buffers()).device

    def as_addresses(self, where: str, argument: str, value: Any) -> Tensor:
        """The door: whatever the caller holds, as addresses of this decoder.

        Args:
            where: The public function or class that was called, for the error.
            argument: The argument's name, for the error.
            value: Tensor, NumPy array or nested list of 0/1, shape (…, N).

        Returns:
            A boolean tensor of the same shape.

        Raises:
            ArgumentError: if it is not made of 0 and 1, has another width or lies on another
                device.
        """
        return bits.as_bits(where, argument, value, self.address_bits, self.device)

    def random_addresses(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Addresses of fair coin flips.

        Args:
            n: How many.
            generator: Source of randomness, on the CPU.

        Returns:
            Boolean tensor of shape (n, N).

        Raises:
            ArgumentError: if `n` is negative.
        """
        return bits.random(n, self.address_bits, generator=generator, device=self.device)

    def config(self) -> dict[str, Any]:
        """The settings from which `decoders.restore`, with the buffers, makes the decoder again.

        Returns:
            Plain numbers and texts.
        """
        names = ("address_bits", "n_locations", *self.settings)
        return {"decoder": self.kind, **{name: getattr(self, name) for name in names}}

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        settings = {name: value for name, value in self.config().items() if name != "decoder"}
        return ", ".join(f"{name}={value}" for name, value in settings.items())

    def _packed(self, address: Any) -> Tensor:
        """Checked addresses of any batch shape, as packed rows (B, W)."""
        cue = self.as_addresses(self.kind, "address", address)
        return bits.pack(cue.reshape(-1, self.address_bits))
