"""Exact geometry of the binary address space: balls and their intersections.

All counts are Python integers, so nothing is rounded before the last division
and an address may have 10,000 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pentti import checks
from pentti.theory.arrays import checked_distances, shares

__all__ = [
    "activation_probabilities",
    "activation_probability",
    "circle_intersection",
    "circle_intersections",
    "lune_intersection",
    "overlap_curve",
    "radius_for",
]


def activation_probability(address_bits: int, radius: int) -> float:
    """The share of all addresses that lie within `radius` of a point.

    It is the probability that a random hard location is active for a given address.

    Args:
        address_bits: Length of an address in bits, at least 1.
        radius: Activation radius in bits, from 0 to `address_bits`.

    Returns:
        The share, correctly rounded from exact integers.

    Raises:
        ArgumentError: if an argument is not a whole number or out of range.

    Examples:
        >>> round(activation_probability(1000, 451), 8)
        0.00107185

    **Source:** Kanerva 1988: N(r) / 2ⁿ with N(r) = Σ_{i≤r} C(n, i); n is `address_bits`, r is
    `radius`.
    """
    n, radius = _checked_ball("activation_probability", address_bits, radius)
    return _ball(n, radius) / (1 << n)


def activation_probabilities(address_bits: int) -> NDArray[np.float64]:
    """The activation probability of every radius from 0 to `address_bits`.

    Args:
        address_bits: Length of an address in bits, at least 1.

    Returns:
        A float64 vector of length `address_bits` + 1, one element for each radius from 0.

    Raises:
        ArgumentError: if `address_bits` is not a whole number of at least 1.

    Examples:
        >>> activation_probabilities(3)
        array([0.125, 0.5  , 0.875, 1.   ])

    **Source:** Kanerva 1988, as `activation_probability`.
    """
    n = checks.count("activation_probabilities", "address_bits", address_bits)
    whole = 1 << n
    # A ball and the rest of the space, which is a ball around the opposite point.
    pairs = [
        (ball / whole, (whole - ball) / whole)
        for ball in accumulate(islice(_binomials(n), (n + 1) // 2))
    ]
    below, above = np.array(pairs, dtype=np.float64).T
    return np.concatenate((below, above[::-1][n % 2 :], [1.0]))


def radius_for(address_bits: int, probability: float) -> int:
    """The radius whose activation probability is nearest to the wanted one, by their ratio.

    Args:
        address_bits: Length of an address in bits, at least 1.
        probability: The wanted activation probability, strictly between 0 and 1.

    Returns:
        The radius in bits; the smaller one of two that are equally near.

    Raises:
        ArgumentError: if an argument is not a number or out of range.

    Examples:
        >>> radius_for(1000, 0.01), radius_for(1000, 0.001)
        (463, 451)

    **Source:** Kanerva 1988 chooses radius 451 of 1000 bits for a probability of .001.
    """
    n = checks.count("radius_for", "address_bits", address_bits)
    wanted = checks.probability("radius_for", "probability", probability)
    with np.errstate(divide="ignore"):
        log_ratio = np.log(activation_probabilities(n)) - math.log(wanted)
    return int(np.argmin(np.abs(log_ratio)))


def circle_intersection(address_bits: int, radius: int, distance: int) -> int:
    """How many addresses lie within `radius` of both of two points `distance` apart.

    Args:
        address_bits: Length of an address in bits, at least 1.
        radius: Activation radius in bits, from 0 to `address_bits`.
        distance: Hamming distance of the two points in bits, from 0 to `address_bits`.

    Returns:
        The exact count, out of 2 to the power of `address_bits`.

    Raises:
        ArgumentError: if an argument is not a whole number or out of range.

    Examples:
        >>> [circle_intersection(3, 1, distance) for distance in range(4)]
        [4, 2, 2, 0]

    **Source:** Bricken & Pehlevan 2021, circle intersection: I(d_v) = Σ_a Σ_c C(n − d_v, a) C(d_v,
    c); a counts the agreements on the bits that the points share and c those with the first point
    on the others; n is `address_bits`, d is `radius`, d_v is `distance`.
    """
    n, radius = _checked_ball("circle_intersection", address_bits, radius)
    apart = checks.integer("circle_intersection", "distance", distance, 0, n)
    up_to = [0, *accumulate(_binomials(apart))]
    total = 0
    for agreements, ways in enumerate(_binomials(n - apart)):
        low = max(0, n - radius - agreements)
        high = apart - low
        if low <= high:
            total += ways * (up_to[high + 1] - up_to[low])
    return total


def lune_intersection(address_bits: int, radius: int, distance: int) -> int:
    """The same count as `circle_intersection`, by Kanerva's formula.

    Moving the second point away bit by bit cuts a lune off the intersection at every odd step
    and none at an even one, so distances 2k − 1 and 2k have equal counts.

    Args:
        address_bits: Length of an address in bits, at least 1.
        radius: Activation radius in bits, from 0 to `address_bits`.
        distance: Hamming distance of the two points in bits, from 0 to `address_bits`.

    Returns:
        The exact count, out of 2 to the power of `address_bits`.

    Raises:
        ArgumentError: if an argument is not a whole number or out of range.

    Examples:
        >>> lune_intersection(1000, 451, 99) == lune_intersection(1000, 451, 100)
        True

    **Source:** Kanerva 1988, appendix on the circle intersection: Σ_{i≤r} C(n, i) − Σ_{odd j≤d} C(j
    − 1, (j − 1)/2) C(n − j, r − (j − 1)/2); n is `address_bits`, r is `radius`, d is `distance`.
    """
    n, radius = _checked_ball("lune_intersection", address_bits, radius)
    apart = checks.integer("lune_intersection", "distance", distance, 0, n)
    return _ball(n, radius) - sum(islice(_lunes(n, radius), (apart + 1) // 2))


def circle_intersections(address_bits: int, radius: int) -> list[int]:
    """The circle intersection at every distance from 0 to `address_bits`, in one pass.

    Args:
        address_bits: Length of an address in bits, at least 1.
        radius: Activation radius in bits, from 0 to `address_bits`.

    Returns:
        Exact counts; element d belongs to distance d.

    Raises:
        ArgumentError: if an argument is not a whole number or out of range.

    Examples:
        >>> circle_intersections(3, 1)
        [4, 2, 2, 0]

    **Source:** Kanerva 1988, as `lune_intersection`, summed step by step.
    """
    n, radius = _checked_ball("circle_intersections", address_bits, radius)
    return list(_counts_at(n, radius, range(n + 1)))


def overlap_curve(address_bits: int, radius: int, distances: ArrayLike) -> NDArray[np.float64]:
    """The probability that a random hard location is active for both of two addresses.

    Args:
        address_bits: Length of an address in bits, at least 1.
        radius: Activation radius in bits, from 0 to `address_bits`.
        distances: Hamming distances of the two addresses, integers from 0 to `address_bits`.

    Returns:
        Probabilities of the shape of `distances`; times the number of hard locations, they are
        the expected number of locations that both addresses activate.

    Raises:
        ArgumentError: if an argument is not a whole number or out of range.

    Examples:
        >>> (10**6 * overlap_curve(1000, 451, [0, 100, 500])).round(2)
        array([1071.85,  285.83,    1.1 ])

    **Source:** Bricken & Pehlevan 2021, circle intersection: I(d_v) / 2ⁿ.
    """
    n, radius = _checked_ball("overlap_curve", address_bits, radius)
    apart = checked_distances("overlap_curve", distances, n)
    distinct, places = np.unique(apart, return_inverse=True)
    counts = _counts_at(n, radius, distinct.tolist())
    return np.asarray(shares(counts, 1 << n)[places.reshape(apart.shape)], dtype=np.float64)


def _checked_ball(where: str, address_bits: int, radius: int) -> tuple[int, int]:
    n = checks.count(where, "address_bits", address_bits)
    return n, checks.integer(where, "radius", radius, 0, n)


# Addresses within the radius of a point; the smaller side of the space is summed.
def _ball(n: int, radius: int) -> int:
    if 2 * radius > n:
        return (1 << n) - sum(islice(_binomials(n), n - radius))
    return sum(islice(_binomials(n), radius + 1))


# C(n, 0), C(n, 1), … C(n, n), each from the one before.
def _binomials(n: int) -> Iterator[int]:
    value = 1
    for i in range(n + 1):
        yield value
        value = value * (n - i) // (i + 1)


# The intersections at the distances, which ascend; nothing beyond the last one is computed.
def _counts_at(n: int, radius: int, distances: Iterable[int]) -> Iterator[int]:
    count, lunes, n_lunes = _ball(n, radius), _lunes(n, radius), 0
    for distance in distances:
        wanted = (distance + 1) // 2
        count -= sum(islice(lunes, wanted - n_lunes))
        n_lunes = wanted
        yield count


# What is cut off at distance 1, 3, 5, …: C(2k, k) C(n − 2k − 1, radius − k) for k = 0, 1, 2, …
def _lunes(n: int, radius: int) -> Iterator[int]:
    value = math.comb(n - 1, radius)
    for k in range((n + 1) // 2):
        yield value
        above, below = n - 2 * k - 1, radius - k
        if above > 1:
            step = 2 * (2 * k + 1) * below * (above - below)
            value = value * step // ((k + 1) * above * (above - 1))
