"""Rotary positions: queries and keys turned so that their product depends on the distance."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["rotate", "tables"]

_SHORTEST = 256
_kept: dict[tuple[int, torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}


def rotate(x_BHLE: Tensor, positions_BL: Tensor | None = None, *, n_positions: int = 0) -> Tensor:
    """Turn each pair of components by an angle in proportion to the position.

    Args:
        x_BHLE: Queries or keys; E is even.
        positions_BL: Position of each token; 0, 1, 2 … if None.
        n_positions: A bound on the given positions.

    Returns:
        Tensor of the same shape and dtype.

    Examples:
        >>> x = torch.ones(1, 1, 3, 2, dtype=torch.float64)
        >>> rotate(x)[0, 0].norm(dim=-1)
        tensor([1.4142, 1.4142, 1.4142], dtype=torch.float64)

    **Source:** Su et al., *RoFormer* (2021, arXiv 2104.09864), equation 34; their θᵢ =
    10000^(−2(i−1)/d), with d = E. They pair neighbouring components, we component i with i + E/2,
    which is the same up to a fixed permutation.
    """
    wide = torch.promote_types(x_BHLE.dtype, torch.float32)
    n = x_BHLE.shape[2] if positions_BL is None else n_positions
    cos, sin = tables(n, x_BHLE.shape[3], x_BHLE.device, wide)
    if positions_BL is None:
        cos, sin = cos[:n], sin[:n]
    else:
        cos, sin = cos[positions_BL][:, None], sin[positions_BL][:, None]
    a, b = x_BHLE.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x_BHLE.dtype)


def tables(
    n_positions: int, width: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of all angles, for at least so many positions.

    Angles are computed in double precision: position 100,000 in single precision would be off by
    up to 0.004 rad.

    Args:
        n_positions: Positions wanted.
        width: Components of a head, E.
        device: Where the tables are wanted.
        dtype: float32 or float64.

    Returns:
        Two tables of shape (positions, E / 2), kept for the next call.
    """
    if torch.compiler.is_compiling():
        return _computed(n_positions, width, device, dtype)
    key = (width, device, dtype)
    if key not in _kept or len(_kept[key][0]) < n_positions:
        n = max(_SHORTEST, 1 << (n_positions - 1).bit_length())
        with torch.inference_mode(False):  # else a later training step could not save them
            made = _computed(n, width, device, dtype)
        if type(made[0]) is not Tensor:  # fake ones, under a tracing mode, are of no use later
            return made
        _kept[key] = made
    return _kept[key]


def _computed(
    n_positions: int, width: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    exponent = torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width
    positions = torch.arange(n_positions, dtype=torch.float64, device="cpu")
    angle = positions[:, None] * 10_000.0**-exponent
    return angle.cos().to(device, dtype), angle.sin().to(device, dtype)
