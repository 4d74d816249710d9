"""Jaeckel's two designs, in which a hard location looks at a few coordinates only."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pentti import checks
from pentti.theory.arrays import checked_distances, shares

__all__ = [
    "hyperplane_overlap",
    "hyperplane_probability",
    "selected_coordinates_overlap",
    "selected_coordinates_probability",
]


def selected_coordinates_probability(n_selected: int) -> float:
    """The probability that all selected coordinates of a hard location match an address.

    Args:
        n_selected: Coordinates that a hard location looks at, at least 1.

    Returns:
        The activation probability, 2 to the power of −`n_selected`.

    Raises:
        ArgumentError: if `n_selected` is not a whole number of at least 1.

    Examples:
        >>> selected_coordinates_probability(10)
        0.0009765625

    **Source:** Jaeckel 1989, "An alternative design for a sparse distributed memory", RIACS TR
    89.28: p = 2⁻ᵏ; k is `n_selected`.
    """
    k = checks.count("selected_coordinates_probability", "n_selected", n_selected)
    return math.ldexp(1.0, -k)


def selected_coordinates_overlap(
    address_bits: int, n_selected: int, distances: ArrayLike
) -> NDArray[np.float64]:
    """The probability that a hard location is active for both of two addresses.

    Args:
        address_bits: Length of an address in bits, at least 1.
        n_selected: Coordinates that a hard location looks at, from 1 to `address_bits`.
        distances: Hamming distances of the two addresses, integers from 0 to `address_bits`.

    Returns:
        Probabilities of the shape of `distances`.

    Raises:
        ArgumentError: if an argument is not a whole number or out of range.

    Examples:
        >>> selected_coordinates_overlap(10, 2, [0, 5, 9])
        array([0.25      , 0.05555556, 0.        ])

    **Source:** Jaeckel 1989, RIACS TR 89.28: 2⁻ᵏ C(n − d, k) / C(n, k); n is `address_bits`, k is
    `n_selected`, d a distance: no selected coordinate may lie among the d that differ.
    """
    where = "selected_coordinates_overlap"
    n = checks.count(where, "address_bits", address_bits)
    k = checks.integer(where, "n_selected", n_selected, 1, n)
    apart = checked_distances(where, distances, n)
    every = shares((math.comb(n - d, k) for d in range(n + 1)), math.comb(n, k) << k)
    return np.asarray(every[apart], dtype=np.float64)


def hyperplane_probability(address_bits: int, n_ones: int, n_selected: int) -> float:
    """The probability that all selected coordinates of a hard location are ones of an address.

    Args:
        address_bits: Length of an address in bits, at least 1.
        n_ones: Ones in every address, from 0 to `address_bits`.
        n_selected: Coordinates that a hard location looks at, from 1 to `address_bits`.

    Returns:
        The activation probability.

    Raises:
        ArgumentError: if an argument is not a whole number or out of range.

    Examples:
        >>> round(hyperplane_probability(1000, 100, 3), 6)
        0.000973

    **Source:** Jaeckel 1989, "A class of designs for a sparse distributed memory", RIACS TR 89.30:
    C(w, k) / C(n, k); n is `address_bits`, w is `n_ones`, k is `n_selected`.
    """
    n, ones, k = _checked_hyperplane("hyperplane_probability", address_bits, n_ones, n_selected)
    return math.comb(ones, k) / math.comb(n, k)


def hyperplane_overlap(
    address_bits: int, n_ones: int, n_selected: int, distances: ArrayLike
) -> NDArray[np.float64]:
    """The probability that a hard location is active for both of two addresses.

    Args:
        address_bits: Length of an address in bits, at least 1.
        n_ones: Ones in every address, from 0 to `address_bits`.
        n_selected: Coordinates that a hard location looks at, from 1 to `address_bits`.
        distances: Hamming distances of the two addresses: even, as both have equally many ones,
            and at most twice the lesser of the ones and the zeros.

    Returns:
        Probabilities of the shape of `distances`.

    Raises:
        ArgumentError: if an argument is not a whole number or out of range, or a distance is odd.

    Examples:
        >>> hyperplane_overlap(1000, 100, 3, [0, 100, 200]).round(6)
        array([0.000973, 0.000118, 0.      ])

    **Source:** Jaeckel 1989, RIACS TR 89.30: C(w − d/2, k) / C(n, k), as w − d/2 ones are shared.
    """
    where = "hyperplane_overlap"
    n, ones, k = _checked_hyperplane(where, address_bits, n_ones, n_selected)
    most = min(ones, n - ones)
    apart = checked_distances(where, distances, 2 * most)
    odd = apart[apart % 2 == 1]
    if odd.size:
        checks.reject(where, "distances", "be even", int(odd[0]))
    every = shares((math.comb(ones - moved, k) for moved in range(most + 1)), math.comb(n, k))
    return np.asarray(every[apart // 2], dtype=np.float64)


def _checked_hyperplane(
    where: str, address_bits: int, n_ones: int, n_selected: int
) -> tuple[int, int, int]:
    n = checks.count(where, "address_bits", address_bits)
    ones = checks.integer(where, "n_ones", n_ones, 0, n)
    return n, ones, checks.integer(where, "n_selected", n_selected, 1, n)
