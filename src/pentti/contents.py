"""What is done to a whole table of contents, a block of rows at a time."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fade", "mean_square", "usage"]

_ROWS = 4096


def fade(contents: Tensor, factor: float, generator: torch.Generator | None) -> None:
    """Multiply all contents by a factor, in place.

    Args:
        contents: Tensor of shape (M, U); changed.
        factor: From 0 to 1.
        generator: For integer counters, which are rounded up or down at random.
    """
    for part in contents.split(_ROWS):
        faded = part.double() * factor
        if generator is not None:
            chance = torch.rand(part.shape, generator=generator, dtype=torch.float64)
            faded = (faded + chance.to(part.device)).floor()
        part.copy_(faded)


def mean_square(contents: Tensor) -> float:
    """Mean square of real contents.

    Args:
        contents: Tensor of shape (M, U).

    Returns:
        A number.
    """
    total = sum(part.double().square().sum().item() for part in contents.split(_ROWS))
    return float(total / contents.numel())


def usage(contents: Tensor) -> tuple[float, float]:
    """How much of the contents is in use.

    Args:
        contents: Tensor of shape (M, U).

    Returns:
        The share of the rows that are not all 0, and the share of the counters at an end of
        their range.
    """
    used, saturated = 0, 0
    for part in contents.split(_ROWS):
        used += int(part.any(1).sum())
        if not part.is_floating_point():
            limits = torch.iinfo(part.dtype)
            saturated += int(((part == limits.min) | (part == limits.max)).sum())
    return used / len(contents), saturated / contents.numel()
