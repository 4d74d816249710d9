"""What the formulas share: checking arrays at the door and reading big integers as shares."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pentti import checks

__all__ = ["checked_distances", "checked_numbers", "shares"]


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


def checked_numbers(
    where: str, argument: str, values: ArrayLike, low: float, high: float
) -> NDArray[np.float64]:
    """The values as a float64 array, if all lie in [low, high].

    Args:
        where: The public function that was called.
        argument: The argument's name.
        values: Numbers, one or an array of any shape.
        low: Smallest value accepted.
        high: Largest value accepted; infinity for no limit, and is then not itself accepted.

    Returns:
        A float64 array of the same shape.

    Raises:
        ArgumentError: if a value is not a finite number in [low, high].
    """
    limits = f"in [{low:g}, {high:g}]" if np.isfinite(high) else f"finite and at least {low:g}"
    given = np.asarray(values)
    if given.dtype == object:
        given = _python_integers(given)
    if given.dtype.kind not in "iuf":
        checks.reject(where, argument, "be numbers", values)
    real = given.astype(np.float64)
    outside = real[~(np.isfinite(real) & (real >= low) & (real <= high))]
    if outside.size:
        checks.reject(where, argument, f"be {limits}", outside[0].item())
    return real


def shares(parts: Iterable[int], whole: int) -> NDArray[np.float64]:
    """Each part divided by the whole, correctly rounded however large the integers are.

    Args:
        parts: Non-negative integers, none above the whole.
        whole: A positive integer.

    Returns:
        A float64 vector; shares below 5e-324 are 0.
    """
    return np.array([part / whole for part in parts], dtype=np.float64)


# Python integers beyond 64 bits as floats; anything else as it is.
def _python_integers(given: NDArray[np.object_]) -> NDArray[Any]:
    whole = all(isinstance(v, int) and not isinstance(v, bool) for v in given.ravel())
    return given.astype(np.float64) if whole else given
