"""Caps of product keys, whose similarity is the mean of two cosines, and of several heads."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import betainc, betaln

from pentti import checks
from pentti.theory.arrays import checked_numbers

__all__ = [
    "any_head",
    "any_head_intersection",
    "cut_probability",
    "one_head",
    "product_cap_intersection",
    "product_cap_probability",
    "product_cosine_for",
]

_LEAST = 1e-305  # below, products and densities underflow
# The double exponential rule on [0, 1]: distances from both ends, each to full precision, and
# weights. It bears any power at an end and resolves any scale beside one.
_STEP = 1 / 32
_STEPS = _STEP * np.arange(-144, 145)
_FROM_0 = 1 / (1 + np.exp(-math.pi * np.sinh(_STEPS)))
_FROM_1 = _FROM_0[::-1]
_WEIGHTS = math.pi * np.cosh(_STEPS) * _FROM_0 * _FROM_1 * _STEP


def product_cap_probability(half_dim: int, cosine: float) -> float:
    """The share of random product keys whose similarity with a query is at least `cosine`.

    Query and key have two halves. The similarity is the mean of the two halves' cosines, each
    that of a random direction with a fixed one.

    Args:
        half_dim: Dimension of a half, at least 2.
        cosine: Threshold in [-1, 1].

    Returns:
        The share, to about twelve digits; 0 where it falls below 1e-300.

    Raises:
        ArgumentError: if an argument is not a number or out of range.

    Examples:
        >>> round(product_cap_probability(3, 0.5), 10)
        0.125
        >>> f"{product_cap_probability(64, 0.5):.1e}"
        '8.3e-10'
    """
    n = checks.integer("product_cap_probability", "half_dim", half_dim, 2)
    threshold = checks.number("product_cap_probability", "cosine", cosine, -1.0, 1.0)
    smaller = _tail(n, abs(threshold))
    return smaller if threshold >= 0 else 1.0 - smaller


def product_cosine_for(half_dim: int, probability: float) -> float:
    """The threshold that the wanted share of random product keys reach.

    Args:
        half_dim: Dimension of a half, at least 2.
        probability: The wanted share, strictly between 0 and 1.

    Returns:
        The threshold in [-1, 1]; `product_cap_probability` is its inverse.

    Raises:
        ArgumentError: if an argument is not a number or out of range.

    Examples:
        >>> round(product_cosine_for(64, 0.001), 4)
        0.2697
    """
    n = checks.integer("product_cosine_for", "half_dim", half_dim, 2)
    share = checks.probability("product_cosine_for", "probability", probability)
    if share == 0.5:
        return 0.0
    wanted = math.log(max(min(share, 1 - share), _LEAST))
    threshold = brentq(
        lambda c: math.log(max(_tail(n, c), 1e-320)) - wanted, 0.0, 1.0, xtol=1e-300, rtol=1e-14
    )
    return math.copysign(float(threshold), 0.5 - share)


def product_cap_intersection(
    half_dim: int, threshold: float, cosines: ArrayLike
) -> NDArray[np.float64]:
    """The share of random product keys that two queries both reach.

    Both halves of the two queries stand at the same cosine to each other. On the plane of the two,
    a half of a key falls on a point of the unit disc, and the two halves' points add up to
    one that every rotation leaves alike; both queries reach the key where that point
    lies beyond two lines.

    Args:
        half_dim: Dimension of a half, at least 2.
        threshold: Similarity that activates, in [-1, 1].
        cosines: Cosine between the two queries' first halves, and between their second, in [-1, 1].

    Returns:
        Shares of the shape of `cosines`, to about ten digits; 0 where they fall below 1e-300.

    Raises:
        ArgumentError: if an argument is not a number or out of range.

    Examples:
        >>> product_cap_intersection(8, 0.3, [1.0, 0.5, -1.0]).round(4)
        array([0.1203, 0.0407, 0.    ])
    """
    where = "product_cap_intersection"
    n = checks.integer(where, "half_dim", half_dim, 2)
    c = checks.number(where, "threshold", threshold, -1.0, 1.0)
    half_angles = np.arccos(checked_numbers(where, "cosines", cosines, -1.0, 1.0)) / 2
    both = np.reshape([_beyond_both(n, abs(c), h) for h in half_angles.flat], half_angles.shape)
    if c >= 0:
        return both
    return 1.0 - 2.0 * _tail(n, -c) + both  # inclusion and exclusion


def any_head(probability: float, n_heads: int) -> float:
    """The share of hard locations that at least one of several independent heads activates.

    Args:
        probability: Share that one head activates, in [0, 1].
        n_heads: How many heads, at least 1.

    Returns:
        1 − (1 − p)ᴴ, also where p is tiny.

    Raises:
        ArgumentError: if an argument is not a number or out of range.

    Examples:
        >>> any_head(0.5, 3)
        0.875
    """
    share = checks.number("any_head", "probability", probability, 0.0, 1.0)
    heads = checks.count("any_head", "n_heads", n_heads)
    return 1.0 if share == 1 else -math.expm1(heads * math.log1p(-share))


def one_head(probability: float, n_heads: int) -> float:
    """The share that each of several heads must activate, so that together they activate one.

    Args:
        probability: Share that at least one head activates, in [0, 1].
        n_heads: How many heads, at least 1.

    Returns:
        1 − (1 − p)^(1/H), the inverse of `any_head`.

    Raises:
        ArgumentError: if an argument is not a number or out of range.

    Examples:
        >>> one_head(0.875, 3)
        0.5
    """
    share = checks.number("one_head", "probability", probability, 0.0, 1.0)
    heads = checks.count("one_head", "n_heads", n_heads)
    return 1.0 if share == 1 else -math.expm1(math.log1p(-share) / heads)


def any_head_intersection(probability: float, both: ArrayLike, n_heads: int) -> NDArray[np.float64]:
    """The share of hard locations that two addresses both activate with at least one head.

    Args:
        probability: Share that an address activates with one head, p, in [0, 1].
        both: Shares that two addresses both activate with one head, I, in [0, p].
        n_heads: How many heads, at least 1.

    Returns:
        1 − 2(1 − p)ᴴ + (1 − 2p + I)ᴴ, of the shape of `both`.

    Raises:
        ArgumentError: if an argument is not a number or out of range.

    Examples:
        >>> any_head_intersection(0.5, [0.5, 0.25], 3)
        array([0.875   , 0.765625])
    """
    share = checks.number("any_head_intersection", "probability", probability, 0.0, 1.0)
    shared = checked_numbers("any_head_intersection", "both", both, 0.0, share)
    heads = checks.count("any_head_intersection", "n_heads", n_heads)
    with np.errstate(divide="ignore"):  # where every location is active
        neither = np.expm1(heads * np.log1p(-np.minimum(2 * share - shared, 1.0)))
    return np.asarray(np.maximum(2 * any_head(share, heads) + neither, 0.0))


def cut_probability(probability: float, n_locations: int, top_k: int) -> float:
    """The share of hard locations that stays active where at most `top_k` of those active do.

    Args:
        probability: Share that is active, each location independently, p, in [0, 1].
        n_locations: Number of hard locations, M.
        top_k: Most that stay, from 1 to M.

    Returns:
        The mean of min(top_k, Binomial(M, p)) / M.

    Raises:
        ArgumentError: if an argument is not a number or out of range.

    Examples:
        >>> cut_probability(0.5, 2, 1)
        0.375
    """
    share = checks.number("cut_probability", "probability", probability, 0.0, 1.0)
    m = checks.count("cut_probability", "n_locations", n_locations)
    k = checks.integer("cut_probability", "top_k", top_k, 1, m)
    if share == 1:
        return k / m
    # The binomial laws by beta functions, which take any M.
    below = m * share * betainc(m - k + 1, k - 1, 1 - share) if k > 1 else 0.0
    return float(below + k * betainc(k, m - k + 1, share)) / m


# P(u + v >= 2c) for two independent cosines and c >= 0: the density of u times the cap that is left
# for v, over u from 2c − 1 to 1, cut at c, beside which all the mass lies in high dimensions.
def _tail(n: int, c: float) -> float:
    if c == 0:
        return 0.5
    if c == 1:
        return 0.0
    width = 1 - c
    from_1 = width * np.concatenate([_FROM_1, 1 + _FROM_1])  # 1 − u, and 1 − v is the rest
    rest = width * np.concatenate([1 + _FROM_0, _FROM_0])
    cap = betainc((n - 1) / 2, 0.5, rest * (2 - rest)) / 2
    cap = np.where(rest <= 1, cap, 1 - cap)
    with np.errstate(divide="ignore"):
        logs = (n - 3) / 2 * np.log(from_1 * (2 - from_1)) + np.log(cap)
    return _total(logs, width * np.tile(_WEIGHTS, 2), betaln(0.5, (n - 1) / 2))


# With x the coordinate of the sum of both points along any direction, its density f and h half the
# angle between the queries: ∫ f(x) · (2 / π) · arccos(sin h / √(1 − (2c / x)²)) dx. It follows from
# the derivative by the angle, −P(|sum| > 2c / cos h) / 2π, whose inverse Abel transform is f.
def _beyond_both(n: int, c: float, half_angle: float) -> float:
    least = 2 * c / math.cos(half_angle)
    if least >= 2 or half_angle >= math.pi / 2:
        return 0.0
    from_2, beyond = (2 - least) * _FROM_1, (2 - least) * _FROM_0
    x = np.where(from_2 < beyond, 2 - from_2, least + beyond)
    nearer = math.cos(half_angle) * np.sqrt(beyond / x * (1 + least / x))
    share = 2 / math.pi * np.arctan2(nearer, math.sin(half_angle))
    with np.errstate(divide="ignore"):
        logs = _log_density(n, x, from_2) + np.log(share)
    return _total(logs, (2 - least) * _WEIGHTS, 2 * betaln(0.5, (n - 1) / 2))


# The density of the sum of two cosines at x, times the square of one's constant. With a = 1 − x / 2
# the two are x / 2 ± a sin α, and α runs from −π / 2 to π / 2.
def _log_density(
    n: int, x: NDArray[np.float64], from_2: NDArray[np.float64]
) -> NDArray[np.float64]:
    far = 2 - from_2 / 2
    squared = (from_2 / 2 / far)[:, None] ** 2
    cosine = np.sin(math.pi / 2 * _FROM_1)
    with np.errstate(divide="ignore"):
        inner = (n - 2) * np.log(cosine) + (n - 3) / 2 * np.log(
            (2 * x / far**2)[:, None] + squared * cosine**2
        )
    area = math.pi * (np.exp(inner) @ _WEIGHTS)
    return np.asarray((n - 2) * np.log(from_2 / 2) + (n - 3) * np.log(far) + np.log(area))


def _total(logs: NDArray[np.float64], weights: NDArray[np.float64], log_scale: float) -> float:
    highest = float(logs.max())
    if highest == -math.inf:
        return 0.0
    with np.errstate(under="ignore"):
        total = math.log(float(np.exp(logs - highest) @ weights)) + highest - log_scale
    return math.exp(total) if total > math.log(_LEAST) else 0.0
