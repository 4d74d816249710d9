"""Real words and weights as tensors: the door for contents that are not bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pentti import checks
from pentti.tensors import as_tensor

__all__ = ["as_reals", "as_weights"]


def as_reals(
    where: str,
    argument: str,
    value: Any,
    dtype: torch.dtype,
    device: torch.device,
    width: int | None = None,
) -> Tensor:
    """Whatever the caller holds, as a finite floating tensor.

    Args:
        where: The public function or class that was called, for the error.
        argument: The argument's name, for the error.
        value: Tensor, NumPy array or nested list of numbers.
        dtype: Floating type of the result.
        device: Device expected of a tensor, and given to anything else.
        width: Components expected in the last dimension; None accepts any shape.

    Returns:
        A tensor of the same shape without gradient.

    Raises:
        ArgumentError: if it is not made of real, finite numbers, has another width or lies on
            another device.
    """
    numbers = as_tensor(where, argument, value, device, "numbers")
    if width is not None and (numbers.ndim == 0 or numbers.shape[-1] != width):
        got = f"shape {tuple(numbers.shape)}" if numbers.ndim else "a zero-dimensional value"
        checks.reject(where, argument, f"have shape (…, {width})", checks.Words(got))
    reals = numbers.to(dtype)
    strange = ~reals.isfinite()
    if strange.any():
        expected = f"be finite in {dtype}"
        checks.reject(where, argument, expected, numbers[strange][0].item())
    return reals


def as_weights(where: str, argument: str, value: Any, n: int, device: torch.device) -> Tensor:
    """Whatever the caller holds, as n weights of at least 0.

    Args:
        where: The public function or class that was called, for the error.
        argument: The argument's name, for the error.
        value: Tensor, NumPy array or list of numbers, shape (n,).
        n: How many.
        device: Device expected of a tensor, and given to anything else.

    Returns:
        float64 tensor of shape (n,), scaled so that the largest is 1.

    Raises:
        ArgumentError: if the shape is another, or a weight is negative or not finite.
    """
    weights = as_reals(where, argument, value, torch.float64, device)
    if weights.shape != (n,):
        got = checks.Words(f"shape {tuple(weights.shape)}")
        checks.reject(where, argument, f"have shape ({n},)", got)
    if (weights < 0).any():
        checks.reject(where, argument, "be at least 0", weights[weights < 0][0].item())
    return weights / max(float(weights.max()), torch.finfo(torch.float64).tiny)
