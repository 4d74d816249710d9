"""Caps of addresses that are cut into parts: the similarity is the mean of the parts' cosines."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import gammaln, jv

from pentti import checks
from pentti.theory.arrays import checked_numbers

__all__ = ["parts_cap_intersection", "parts_cap_probability", "parts_cosine_for"]

_TERMS = 4096  # of the series, at most
_LEAST = 1e-18  # of a term
_HIGH = 100  # dimensions from which Bessel functions underflow
_LOST = 14.0  # exponent at which a third power is lost beside 1
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(400)


def parts_cap_probability(part_dim: int, n_parts: int, cosine: float) -> float:
    """The share of random keys of several parts whose similarity is at least `cosine`.

    Query and key are cut into parts. The similarity is the mean of the parts' cosines, each that of
    a random direction with a fixed one.

    Args:
        part_dim: Dimension of a part, at least 2.
        n_parts: How many, at least 2; for two, `product_cap_probability` gives more digits.
        cosine: Threshold in [-1, 1].

    Returns:
        The share, with an error of about 1e-13, not relative; of 1e-8 for parts of 2 or 3
        components.

    Raises:
        ArgumentError: if an argument is not a number or out of range.

    Examples:
        >>> round(parts_cap_probability(3, 3, 1 / 3), 10)  # three uniform numbers add up to 1
        0.1666666667
    """
    where = "parts_cap_probability"
    n, p = _sizes(where, part_dim, n_parts)
    c = checks.number(where, "cosine", cosine, -1.0, 1.0)
    smaller = _tail(_series(n, p), abs(c))
    return smaller if c >= 0 else 1.0 - smaller


def parts_cosine_for(part_dim: int, n_parts: int, probability: float) -> float:
    """The threshold that the wanted share of random keys of several parts reach.

    Args:
        part_dim: Dimension of a part, at least 2.
        n_parts: How many, at least 2.
        probability: The wanted share, strictly between 0 and 1.

    Returns:
        The threshold in [-1, 1]; `parts_cap_probability` is its inverse.

    Raises:
        ArgumentError: if an argument is not a number or out of range.

    Examples:
        >>> round(parts_cosine_for(3, 3, 1 / 6), 10)
        0.3333333333
    """
    where = "parts_cosine_for"
    series = _series(*_sizes(where, part_dim, n_parts))
    share = checks.probability(where, "probability", probability)
    wanted = min(share, 1 - share)
    threshold = brentq(lambda c: _tail(series, c) - wanted, 0.0, 1.0, xtol=1e-15, rtol=1e-14)
    return math.copysign(float(threshold), 0.5 - share)


def parts_cap_intersection(
    part_dim: int, n_parts: int, threshold: float, cosines: ArrayLike
) -> NDArray[np.float64]:
    """The share of random keys of several parts that two queries both reach.

    All parts of the two queries stand at the same cosine to each other; as for
    `product_cap_intersection`, of which this is the form for more parts.

    Args:
        part_dim: Dimension of a part, at least 2.
        n_parts: How many, at least 2.
        threshold: Similarity that activates, in [-1, 1].
        cosines: Cosine between each of the two queries' parts, in [-1, 1].

    Returns:
        Shares of the shape of `cosines`, as exact as `parts_cap_probability`, and to 1e-7 for
        parts of two components.

    Raises:
        ArgumentError: if an argument is not a number or out of range.

    Examples:
        >>> parts_cap_intersection(8, 4, 0.3, [1.0, 0.5, -1.0]).round(4)
        array([0.045, 0.01 , 0.   ])
    """
    where = "parts_cap_intersection"
    series = _series(*_sizes(where, part_dim, n_parts))
    c = checks.number(where, "threshold", threshold, -1.0, 1.0)
    half_angles = np.arccos(checked_numbers(where, "cosines", cosines, -1.0, 1.0)) / 2
    both = np.reshape(
        [_beyond_both(series, abs(c), h) for h in half_angles.flat], half_angles.shape
    )
    return both if c >= 0 else 1.0 - 2.0 * _tail(series, -c) + both


def _sizes(where: str, part_dim: object, n_parts: object) -> tuple[int, int]:
    n = checks.integer(where, "part_dim", part_dim, 2)
    return n, checks.integer(where, "n_parts", n_parts, 2)


# The mean s of P cosines lies in [-1, 1] and is even, so that its density is exactly
# 1 / 2 + Σ a_k cos(kπs), and a_k is its characteristic function at kπ: the P-th power of that
# of one cosine at t = kπ / P, Γ(n / 2) (2 / t)^(n / 2 − 1) J(t) of order n / 2 − 1.
def _series(n: int, n_parts: int) -> NDArray[np.float64]:
    n_terms = _TERMS << 6 if n == 2 else _TERMS  # few components, slow decay
    one = _of_one(n, np.arange(1, n_terms + 1) * math.pi / n_parts)
    power = one**n_parts
    large = np.nonzero(np.abs(power) > _LEAST)[0]
    return power[: large[-1] + 1] if len(large) else power[:0]


def _of_one(n: int, at: NDArray[np.float64]) -> NDArray[np.float64]:
    if n <= _HIGH:
        order = n / 2 - 1
        bessel = jv(order, at)
        with np.errstate(divide="ignore"):
            logs = gammaln(n / 2) + order * np.log(2 / at) + np.log(np.abs(bessel))
        return np.asarray(np.exp(logs) * np.sign(bessel))
    # About exp(−t² / 2n): nothing is left where the power series would lose its digits.
    near = at[at * at < 2 * _LOST * n]
    total, term = np.ones_like(near), np.ones_like(near)
    for k in range(1, 200):
        term = term * -(near * near) / (4 * k * (n / 2 + k - 1))
        total += term
    return total


def _tail(series: NDArray[np.float64], c: float) -> float:
    k = np.arange(1, len(series) + 1) * math.pi
    return max(0.0, (1 - c) / 2 - float(np.sum(series * np.sin(k * c) / k)))


# As `_beyond_both` of `product`, with the density f(s) of the mean on [c / cos h, 1], and
# s = least + width · u², so that the square root at the lower end is smooth in u.
def _beyond_both(series: NDArray[np.float64], c: float, half_angle: float) -> float:
    least = c / math.cos(half_angle)
    if least >= 1 or half_angle >= math.pi / 2:
        return 0.0
    u = (_NODES + 1) / 2
    s = least + (1 - least) * u * u
    density = _density(series, s)
    nearer = np.sqrt(np.maximum(math.cos(half_angle) ** 2 - (c / s) ** 2, 0.0))
    share = 2 / math.pi * np.arctan2(nearer, math.sin(half_angle))
    return max(0.0, float((1 - least) * np.sum(density * share * u * _WEIGHTS)))


def _density(series: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(series) <= _TERMS:
        k = np.arange(1, len(series) + 1) * math.pi
        return np.asarray(0.5 + np.cos(np.outer(at, k)) @ series)
    values, places = _on_grid(series.tobytes())
    return np.interp(at, places, values)


# A long series costs one Fourier transform: its values at 8 places for each of its terms.
@lru_cache(maxsize=2)
def _on_grid(series: bytes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    half = np.concatenate(([1.0], np.frombuffer(series))) / 2
    n_steps = 8 * (len(half) - 1)
    values = np.fft.irfft(half, 2 * n_steps) * 2 * n_steps
    return values[: n_steps + 1], np.linspace(0.0, 1.0, n_steps + 1)
