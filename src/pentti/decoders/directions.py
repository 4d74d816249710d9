"""Vectors of length 1: of which only the direction is left."""

from __future__ import annotations

import torch
from torch import Tensor

from pentti import bits, checks

__all__ = ["directions", "random_directions"]


def directions(x: Tensor) -> Tensor:
    """Vectors scaled to length 1, however long or short they are; 0 stays 0.

    Args:
        x: Floating tensor of shape (…, D).

    Returns:
        Tensor of the same shape, with gradient.
    """
    x = x.contiguous()  # or each of the three reductions and divisions jumps about in memory
    largest = x.detach().abs().amax(-1, keepdim=True)
    scaled = x / torch.where(largest > 0, largest, 1)  # so that no square over- or underflows
    length: Tensor = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return scaled / length.clamp_min(0.5)


def random_directions(shape: tuple[int, ...], seed: object, kind: str) -> Tensor:
    """Random vectors of length 1, the same on every machine up to rounding.

    Args:
        shape: Shape of the result; the last entry is the dimension.
        seed: What the caller gave.
        kind: The decoder's name, for the error.

    Returns:
        Tensor of the default type and on the default device; drawn in float32 on the CPU.

    Raises:
        ArgumentError: if the seed is not an integer of at least 0.
    """
    seed = checks.integer(kind, "seed", seed, 0, 2**63 - 1)
    generator = bits.stream("hard addresses", seed)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
    return directions(drawn).to(torch.get_default_device(), torch.get_default_dtype())
