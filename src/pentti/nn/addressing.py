"""How many hard locations, and how long an address: sizes that fit the codebooks of a memory."""

from __future__ import annotations

import math

from pentti import checks
from pentti.decoders.product import codebook_size
from pentti.kernels.hashing import MOST

__all__ = ["checked_address", "checked_locations"]

_LONGEST = 1 << 39  # tokens times `top_k` up to which the hard locations are as many


def checked_locations(
    where: str, n_locations: int | None, max_length: int, top_k: int, n_codebooks: int
) -> int:
    """How many hard locations a head has.

    Args:
        where: The public function or class that was called, for the error.
        n_locations: What the caller gave; None for the first number with room for a context.
        max_length: Longest context that is expected.
        top_k: Locations that a token touches, K.
        n_codebooks: Codebooks, C.

    Returns:
        M, a C-th power.

    Raises:
        ArgumentError: if what the caller gave is none, too many, or fewer than K.
    """
    if n_locations is None:
        checks.integer(where, "max_length", max_length, 1, _LONGEST // top_k)
        n_locations = _root_up(max_length * top_k, n_codebooks) ** n_codebooks
    checks.integer(where, "n_locations", n_locations, 1, MOST)
    codebook_size(where, n_locations, n_codebooks)
    checks.integer(where, "top_k", top_k, 1, n_locations)
    return n_locations


def checked_address(where: str, address_dim: object, width: int, n_codebooks: int) -> int:
    """How many components a head's address has.

    Args:
        where: The public function or class that was called, for the error.
        address_dim: What the caller gave; None for the first that fits from the width on.
        width: Of a head's values.
        n_codebooks: Codebooks, C.

    Returns:
        A multiple of C, 2 · C at least.

    Raises:
        ArgumentError: if what the caller gave is none.
    """
    if address_dim is None:
        return max(2 * n_codebooks, math.ceil(width / n_codebooks) * n_codebooks)
    part = checks.integer(where, "address_dim", address_dim, 2 * n_codebooks)
    if part % n_codebooks:
        checks.reject(where, "address_dim", f"be a multiple of the {n_codebooks} codebooks", part)
    return part


def _root_up(n: int, degree: int) -> int:
    """The least whole number whose power is n at least."""
    root = max(1, int(n ** (1 / degree)) - 1)
    while root**degree < n:
        root += 1
    return root
