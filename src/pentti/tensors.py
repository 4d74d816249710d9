"""The outermost door: tensors, NumPy arrays and lists, all as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pentti import checks

__all__ = ["as_tensor", "check_device", "check_tokens", "check_type", "check_vectors"]


def as_tensor(
    where: str, argument: str, value: Any, device: torch.device | None, items: str
) -> Tensor:
    """Whatever the caller holds, as a real tensor; the argument itself where it is one.

    Args:
        where: The public function or class that was called, for the error.
        argument: The argument's name, for the error.
        value: Tensor, NumPy array or nested list of numbers.
        device: Device expected of a tensor, and given to anything else; None accepts any.
        items: What it is made of, for the error, such as "bits".

    Returns:
        A dense tensor without gradient.

    Raises:
        ArgumentError: if it is nothing of the kind, complex, sparse or on another device.
    """
    expected = f"be a tensor, an array or a list of {items}"
    if isinstance(value, Tensor):
        if device is not None:
            check_device(where, argument, value, device)
        if value.is_complex() or value.layout != torch.strided:
            kind = "complex numbers" if value.is_complex() else f"a {value.layout} tensor"
            checks.reject(where, argument, f"hold {items}", checks.Words(kind))
        return value.detach()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        checks.reject(where, argument, expected, value)
    if array.dtype.kind not in "biuf":
        got = checks.Words(f"an array of {array.dtype}") if array.ndim else value
        checks.reject(where, argument, expected, got)
    if array.dtype.kind == "f":  # also for what torch lacks, such as long double
        array = array.astype(np.float64)
    elif not (array.flags.writeable and array.flags.c_contiguous and array.dtype.isnative):
        array = array.astype(array.dtype.newbyteorder("="), order="C")
    return torch.as_tensor(array, device=device)


def check_vectors(where: str, argument: str, value: Any, width: int, device: torch.device) -> None:
    """Refuse what is no floating tensor of vectors; for layers, which keep gradients and types.

    Args:
        where: The public function or class that was called.
        argument: The argument's name.
        value: What should be a tensor of shape (…, width).
        width: Components of a vector.
        device: Where it should be.

    Raises:
        ArgumentError: if it is of another type or shape, or on another device.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = checks.Words(str(value.dtype)) if isinstance(value, Tensor) else value
        checks.reject(where, argument, "be a floating tensor", got)
    if value.ndim == 0 or value.shape[-1] != width:
        got = checks.Words(f"shape {tuple(value.shape)}")
        checks.reject(where, argument, f"have shape (…, {width})", got)
    check_device(where, argument, value, device)


def check_tokens(where: str, x_BLD: Any, dim: int, weight: Tensor) -> None:
    """Refuse what are no tokens of a layer.

    Args:
        where: The layer.
        x_BLD: What should be a floating tensor (B, L, D).
        dim: D.
        weight: One of the layer's, of its type and on its device.

    Raises:
        ArgumentError: if it is of another type or shape, or on another device.
    """
    check_vectors(where, "x_BLD", x_BLD, dim, weight.device)
    if x_BLD.ndim != 3:
        got = checks.Words(f"shape {tuple(x_BLD.shape)}")
        checks.reject(where, "x_BLD", "have shape (batch, length, dim)", got)
    check_type(where, "x_BLD", x_BLD, weight.dtype, "layer")


def check_type(where: str, argument: str, x: Tensor, own: torch.dtype, whose: str) -> None:
    """Refuse a floating type that is not a layer's own and that autocast does not make it.

    Args:
        where: The layer.
        argument: The argument's name.
        x: The tensor.
        own: The type of the layer's weights.
        whose: What they are of, for the error.

    Raises:
        ArgumentError: if it is of another type.
    """
    if x.dtype == own:
        return
    double = torch.float64 in (x.dtype, own)  # which autocast leaves alone
    if double or not torch.is_autocast_enabled(x.device.type):
        expected = f"be {own} like the {whose}, or under autocast"
        checks.reject(where, argument, expected, checks.Words(str(x.dtype)))


def check_device(where: str, argument: str, value: Tensor, device: torch.device) -> None:
    """Refuse a tensor that is elsewhere.

    Args:
        where: The public function or class that was called.
        argument: The argument's name.
        value: The tensor.
        device: Where it should be.

    Raises:
        ArgumentError: if it is on another device.
    """
    if value.device != device:
        checks.reject(where, argument, f"be on {device}", checks.Words(str(value.device)))
