"""What the formulas share: checking arrays at the door and reading big integers as shares."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pentti import checks

__all__ = ["checked_cosines", "checked_distances", "shares"]


def checked_distances(where: str, distances: ArrayLike, highest: int) -> NDArray[np.int64]:
    """The distances as an int64 array, if all are whole numbers in [0, highest].

    Args:
        where: The public function that was called.
        distances: Hamming distances in bits, one or an array of any shape.
        highest: The largest distance accepted.

    Returns:
        An int64 array of the same shape.

    Raises:
        ArgumentError: if a distance is not a whole number in [0, highest].
    """
    given = np.asarray(distances)
    expected = f"be integers in [0, {highest}]"
    if given.size == 0:
        return given.astype(np.int64)
    if given.dtype.kind not in "iu":
        checks.reject(where, "distances", expected, distances)
    outside = given[(given < 0) | (given > highest)]
    if outside.size:
        checks.reject(where, "distances", expected, int(outside[0]))
    return given.astype(np.int64)


def checked_cosines(where: str, cosines: ArrayLike) -> NDArray[np.float64]:
    """The cosines as a float64 array, if all lie in [-1, 1].

    Args:
        where: The public function that was called.
        cosines: Cosines, one or an array of any shape.

    Returns:
        A float64 array of the same shape.

    Raises:
        ArgumentError: if a cosine is not a number in [-1, 1].
    """
    given = np.asarray(cosines)
    if given.dtype.kind not in "iuf":
        checks.reject(where, "cosines", "be numbers in [-1, 1]", cosines)
    outside = given[~(np.abs(given) <= 1)]
    if outside.size:
        checks.reject(where, "cosines", "be numbers in [-1, 1]", outside[0].item())
    return given.astype(np.float64)


def shares(parts: Iterable[int], whole: int) -> NDArray[np.float64]:
    """Each part divided by the whole, correctly rounded however large the integers are.

    Args:
        parts: Non-negative integers, none above the whole.
        whole: A positive integer.

    Returns:
        A float64 vector; shares below 5e-324 are 0.
    """
    return np.array([part / whole for part in parts], dtype=np.float64)
