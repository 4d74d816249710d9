"""What the formulas share: checking arrays at the door and reading big integers as shares."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pentti import checks

__all__ = [
    "MOST",
    "array_of",
    "checked_distances",
    "checked_locations",
    "checked_numbers",
    "checked_words",
    "shares",
]

MOST = 1e100
"""The most hard locations and words: their squares and products are still floats."""

_FAR = 10**200  # beyond everything accepted, and still a float


def array_of(where: str, argument: str, expected: str, values: ArrayLike) -> NDArray[Any]:
    """The values as an array of whatever type they have; tensors are accepted.

    Args:
        where: The public function that was called.
        argument: The argument's name.
        expected: What would be accepted, to follow "must".
        values: Anything.

    Returns:
        An array.

    Raises:
        ArgumentError: if the values have no common shape or no type that NumPy knows.
    """
    given: Any = values
    try:
        # A tensor may carry a gradient or lie on another device.
        return np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    except (RuntimeError, TypeError, ValueError):
        checks.reject(where, argument, expected, values)


def checked_locations(where: str, n_locations: int) -> int:
    """The number of hard locations, if it is a whole number in [1, 1e100].

    Args:
        where: The public function that was called.
        n_locations: Number of hard locations.

    Returns:
        The number as a Python int.

    Raises:
        ArgumentError: if it is not a whole number in [1, 1e100].
    """
    whole = checks.count(where, "n_locations", n_locations)
    if whole > 10**100:
        checks.reject(where, "n_locations", f"be at most {MOST:g}", _rounded(whole))
    return whole


def checked_words(where: str, n_words: float) -> float:
    """The number of words as a float, if it is in [1, 1e100].

    Args:
        where: The public function that was called.
        n_words: Number of stored words.

    Returns:
        The number as a Python float.

    Raises:
        ArgumentError: if it is not a number in [1, 1e100].
    """
    if isinstance(n_words, int) and abs(n_words) > _FAR:
        checks.reject(where, "n_words", f"be in [1, {MOST:g}]", _rounded(n_words))
    return checks.number(where, "n_words", n_words, 1, MOST)


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
    expected = f"be integers in [0, {highest}]"
    given = array_of(where, "distances", expected, distances)
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
        high: Largest value accepted.

    Returns:
        A float64 array of the same shape.

    Raises:
        ArgumentError: if a value is not a finite number in [low, high].
    """
    limits = f"be in [{low:g}, {high:g}]"
    given = array_of(where, argument, "be numbers", values)
    if given.dtype == object and all(type(value) is int for value in given.flat):
        huge = [value for value in given.flat if abs(value) > _FAR]
        if huge:
            checks.reject(where, argument, limits, _rounded(huge[0]))
        given = given.astype(np.float64)  # integers beyond 64 bits
    if given.dtype.kind not in "iuf":
        checks.reject(where, argument, "be numbers", values)
    real = given.astype(np.float64)
    outside = real[~(np.isfinite(real) & (real >= low) & (real <= high))]
    if outside.size:
        checks.reject(where, argument, limits, outside[0].item())
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


# An integer that may be too large for a float, and too long for an error.
def _rounded(whole: int) -> checks.Words:
    return checks.Words(f"{'-' * (whole < 0)}1e{math.log10(abs(whole)):.0f} or so")
