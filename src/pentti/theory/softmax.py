"""How near the softmax of attention comes to SDM's circle intersection, and with which β.

Attention weighs a key by exp(β · cosine), SDM by the number of hard locations that cue and
stored address share. On bits, cosine = 1 − 2 · distance / `address_bits`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from pentti import checks
from pentti.theory.arrays import array_of, checked_distances, shares
from pentti.theory.geometry import circle_intersections

__all__ = [
    "BetaFit",
    "best_beta",
    "beta",
    "sdm_weights",
    "softmax_weights",
    "total_variation",
]


@dataclass(frozen=True)
class BetaFit:
    """A β and how far its softmax is from SDM's weights.

    Attributes:
        beta: Inverse temperature of the softmax.
        total_variation: Total variation distance of the two weightings, from 0 to 1.
    """

    beta: float
    total_variation: float


def beta(address_bits: int, radius: int, paper_compatible: bool = False) -> float:
    """The β at which exp(β · cosine) follows the circle intersection, by least squares.

    It is the slope of the logarithm of the intersection over the cosine, fitted over the
    distances 0, 1, … `radius` − 1.

    Args:
        address_bits: Length of an address in bits, at least 2.
        radius: Activation radius in bits, from 2 to `address_bits`.
        paper_compatible: Repeat the published slip, a covariance over N − 1 divided by a variance
            over N, which makes the slope N / (N − 1) times too steep for N = `radius` distances.

    Returns:
        The inverse temperature β.

    Raises:
        ArgumentError: if an argument is not a whole number or out of range.

    Examples:
        >>> round(beta(64, 11), 3), round(beta(64, 11, paper_compatible=True), 3)
        (14.412, 15.853)

    **Source:** Bricken & Pehlevan 2021, exponential approximation: I(d_v) ≈ c₁ exp(β(1 − 2 d_v /
    n)); n is `address_bits`, d is `radius`.
    """
    n = checks.integer("beta", "address_bits", address_bits, 2)
    radius = checks.integer("beta", "radius", radius, 2, n)
    logs = _log_shares(circle_intersections(n, radius)[:radius])
    cosines = 1.0 - 2.0 * np.arange(radius) / n
    centred = cosines - cosines.mean()
    slope = float(centred @ logs / (centred @ centred))
    return slope * radius / (radius - 1) if paper_compatible else slope


def sdm_weights(address_bits: int, radius: int, distances: ArrayLike) -> NDArray[np.float64]:
    """The weights that SDM gives to words stored at the given distances from the cue.

    Args:
        address_bits: Length of an address in bits, at least 1.
        radius: Activation radius in bits, from 0 to `address_bits`.
        distances: Hamming distances from the cue, integers from 0 to `address_bits`.

    Returns:
        Circle intersections of the shape of `distances`, divided by their sum.

    Raises:
        ArgumentError: if an argument is not a whole number or out of range, or if the cue shares
            no location with any of the words.

    Examples:
        >>> sdm_weights(64, 11, [0, 2, 4]).round(3)
        array([0.677, 0.227, 0.096])

    **Source:** Bricken & Pehlevan 2021: a read sums the stored words, weighed by the intersections.
    """
    n = checks.count("sdm_weights", "address_bits", address_bits)
    radius = checks.integer("sdm_weights", "radius", radius, 0, n)
    apart = checked_distances("sdm_weights", distances, n)
    every = circle_intersections(n, radius)
    counts = [every[distance] for distance in apart.ravel().tolist()]
    if sum(counts) == 0:
        expected = f"hold a distance at which circles of radius {radius} meet"
        checks.reject("sdm_weights", "distances", expected, distances)
    return shares(counts, sum(counts)).reshape(apart.shape)


def softmax_weights(beta: float, address_bits: int, distances: ArrayLike) -> NDArray[np.float64]:
    """The weights that attention gives to keys at the given distances from the query.

    Args:
        beta: Inverse temperature of the softmax, any finite number.
        address_bits: Length of an address in bits, at least 1.
        distances: Hamming distances from the query, integers from 0 to `address_bits`.

    Returns:
        exp(β · cosine) of the shape of `distances`, divided by its sum.

    Raises:
        ArgumentError: if an argument is not a number or out of range, or `distances` is empty.

    Examples:
        >>> softmax_weights(15.853, 64, [0, 2, 4]).round(3)
        array([0.663, 0.246, 0.091])

    **Source:** Bricken & Pehlevan 2021, exponential approximation; Vaswani et al. 2017.
    """
    slope = checks.number("softmax_weights", "beta", beta, -math.inf, math.inf)
    n = checks.count("softmax_weights", "address_bits", address_bits)
    apart = checked_distances("softmax_weights", distances, n)
    if apart.size == 0:
        checks.reject("softmax_weights", "distances", "hold at least one distance", distances)
    logits = slope * (1.0 - 2.0 * apart / n)
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum(), dtype=np.float64)


def total_variation(p: ArrayLike, q: ArrayLike) -> float:
    """The total variation distance of two weightings: half the sum of absolute differences.

    Args:
        p: Weights, each at least 0, that sum to 1.
        q: Weights of the same shape, each at least 0, that sum to 1.

    Returns:
        A number from 0 (equal) to 1 (no common support).

    Raises:
        ArgumentError: if the shapes differ or the weights do not sum to 1.

    Examples:
        >>> total_variation([0.5, 0.5, 0.0], [0.5, 0.25, 0.25])
        0.25
    """
    first, second = _checked_weights("p", p), _checked_weights("q", q)
    if first.shape != second.shape:
        checks.reject("total_variation", "q", f"have shape {first.shape}", second.shape)
    return 0.5 * float(np.abs(first - second).sum())


def best_beta(address_bits: int, radius: int) -> BetaFit:
    """The β whose softmax is nearest to SDM's weights over all distances.

    Args:
        address_bits: Length of an address in bits, at least 2.
        radius: Activation radius in bits, from 2 to `address_bits`.

    Returns:
        The β that minimises the total variation over the distances 0, 1, … `address_bits`, each
        taken once, and that total variation; β is 0 where no other is better.

    Raises:
        ArgumentError: if an argument is not a whole number or out of range.

    Examples:
        >>> round(best_beta(64, 11).total_variation, 3)
        0.098
    """
    n = checks.integer("best_beta", "address_bits", address_bits, 2)
    radius = checks.integer("best_beta", "radius", radius, 2, n)
    distances = np.arange(n + 1)
    wanted = sdm_weights(n, radius, distances)

    def miss(candidate: float) -> float:
        return total_variation(wanted, softmax_weights(candidate, n, distances))

    centre = beta(n, radius)
    grid = np.linspace(0.0, 3.0 * centre, 301)
    near = int(np.argmin([miss(candidate) for candidate in grid]))
    bounds = (grid[max(near - 1, 0)], grid[min(near + 1, len(grid) - 1)])
    found = float(minimize_scalar(miss, bounds=bounds, method="bounded", options={"xatol": 1e-9}).x)
    chosen = min(0.0, found, key=miss)
    return BetaFit(beta=chosen, total_variation=miss(chosen))


# The logarithms of the counts over the first and largest one, also where all are nearly equal.
def _log_shares(counts: list[int]) -> NDArray[np.float64]:
    first = counts[0]
    lost = [(first - count) / first for count in counts]
    return np.array(
        [
            math.log1p(-share) if share < 0.5 else math.log(count) - math.log(first)
            for share, count in zip(lost, counts, strict=True)
        ]
    )


def _checked_weights(argument: str, weights: ArrayLike) -> NDArray[np.float64]:
    expected = "be weights that sum to 1"
    given = array_of("total_variation", argument, expected, weights)
    if given.dtype.kind not in "iuf":
        checks.reject("total_variation", argument, expected, weights)
    real = given.astype(np.float64)
    if not ((real >= 0).all() and (real <= 1.000001).all() and abs(real.sum() - 1.0) <= 1e-6):
        checks.reject("total_variation", argument, expected, weights)
    return real
