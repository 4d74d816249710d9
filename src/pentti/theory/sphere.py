"""The continuous counterpart of Hamming balls: caps on the unit sphere and their intersections."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaincc, betainccinv, gammaln

from pentti import checks
from pentti.theory.arrays import checked_numbers

__all__ = ["cap_intersection", "cap_probability", "cosine_for"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(256)
_SCAN = np.linspace(0.0, 1.0, 513)
_NEGLIGIBLE = 45.0  # a factor of e⁻⁴⁵ below the peak is lost in double precision


def cap_probability(dim: int, cosine: float) -> float:
    """The share of the unit sphere whose cosine with a fixed direction is at least `cosine`.

    Args:
        dim: Dimension of the space, at least 2.
        cosine: Threshold in [-1, 1].

    Returns:
        The share; 0 where it falls below 1e-308.

    Raises:
        ArgumentError: if an argument is not a number or out of range.

    Examples:
        >>> cap_probability(3, 0.5)
        0.25
        >>> f"{cap_probability(512, 0.5):.1e}"
        '4.2e-34'

    **Source:** Li 2011, "Concise formulas for the area and volume of a hyperspherical cap"; n is
    `dim`, cos φ is `cosine`.
    """
    n = checks.integer("cap_probability", "dim", dim, 2)
    threshold = checks.number("cap_probability", "cosine", cosine, -1.0, 1.0)
    smaller = 0.5 * float(betaincc(0.5, (n - 1) / 2, threshold * threshold))
    return smaller if threshold >= 0 else 1.0 - smaller


def cosine_for(dim: int, probability: float) -> float:
    """The cosine threshold whose cap holds the wanted share of the sphere.

    Args:
        dim: Dimension of the space, at least 2.
        probability: The wanted share, strictly between 0 and 1.

    Returns:
        The threshold in [-1, 1]; `cap_probability` is its inverse.

    Raises:
        ArgumentError: if an argument is not a number or out of range.

    Examples:
        >>> round(cosine_for(512, 0.01), 4)
        0.1027

    **Source:** Li 2011, inverted.
    """
    n = checks.integer("cosine_for", "dim", dim, 2)
    share = checks.probability("cosine_for", "probability", probability)
    squared = float(betainccinv(0.5, (n - 1) / 2, 2 * min(share, 1 - share)))
    return math.copysign(math.sqrt(squared), 0.5 - share)


def cap_intersection(dim: int, cosine_threshold: float, cosines: ArrayLike) -> NDArray[np.float64]:
    """The share of the sphere that lies in both of two equal caps.

    Args:
        dim: Dimension of the space, at least 2.
        cosine_threshold: Threshold of both caps, in [-1, 1].
        cosines: Cosines of the angle between the two centres, in [-1, 1].

    Returns:
        Shares of the shape of `cosines`, to about ten digits; 0 where they fall below 1e-300.

    Raises:
        ArgumentError: if an argument is not a number or out of range.

    Examples:
        >>> cap_intersection(8, 0.3, [1.0, 0.5, -1.0]).round(4)
        array([0.2164, 0.0946, 0.    ])

    **Source:** Lee & Kim 2014, "Concise formulas for the surface area of the intersection of two
    hyperspherical caps", case of equal caps; Bricken & Pehlevan 2021; n is `dim`, c is
    `cosine_threshold`, the angle between the centres is v = 2h.
    """
    n = checks.integer("cap_intersection", "dim", dim, 2)
    c = checks.number("cap_intersection", "cosine_threshold", cosine_threshold, -1.0, 1.0)
    half_angles = np.arccos(checked_numbers("cap_intersection", "cosines", cosines, -1.0, 1.0)) / 2
    both = _small_caps(n, math.acos(abs(c)), half_angles)
    if c >= 0:
        return both
    # The complement of a cap beyond a right angle is a small cap: inclusion and exclusion.
    return 1.0 - 2.0 * cap_probability(n, -c) + both


# The intersection of caps of at most a right angle; the integral runs from h to the angle.
def _small_caps(n: int, angle: float, half_angles: NDArray[np.float64]) -> NDArray[np.float64]:
    if n == 2:  # arcs of a circle
        return np.asarray(np.maximum(angle - half_angles, 0.0) / math.pi)
    h = np.minimum(half_angles, angle)[..., np.newaxis]
    low, high = _support(n, angle, h)
    s = low + (high - low) * (_NODES + 1) / 2
    with np.errstate(under="ignore"):
        integrand = np.exp(_log_integrand(n, angle, h, s))
        integral = (integrand @ _WEIGHTS) * (high - low)[..., 0] / 2
        scale = math.exp(float(gammaln(n / 2) - gammaln((n - 1) / 2))) / math.sqrt(math.pi)
        return np.asarray(scale * integral, dtype=np.float64)


# The part of [0, 1] in which the integrand matters.
def _support(
    n: int, angle: float, h: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    height = _log_integrand(n, angle, h, _SCAN)
    matters = height > height.max(axis=-1, keepdims=True) - _NEGLIGIBLE
    first = np.argmax(matters, axis=-1)
    last = len(_SCAN) - 1 - np.argmax(matters[..., ::-1], axis=-1)
    low = _SCAN[np.maximum(first - 1, 0)]
    high = _SCAN[np.minimum(last + 1, len(_SCAN) - 1)]
    return low[..., np.newaxis], high[..., np.newaxis]


# Over s in [0, 1], with φ = h + (angle − h) s², which takes the root out of the end at h.
def _log_integrand(
    n: int, angle: float, h: NDArray[np.float64], s: NDArray[np.float64]
) -> NDArray[np.float64]:
    phi = h + (angle - h) * s * s
    with np.errstate(divide="ignore", invalid="ignore", under="ignore"):
        ratio = np.sin(phi - h) * np.sin(phi + h) / (np.sin(phi) * np.cos(h)) ** 2
        shared = betainc((n - 2) / 2, 0.5, np.clip(ratio, 0.0, 1.0))
        logs = (n - 2) * np.log(np.sin(phi)) + np.log(shared) + np.log(2 * (angle - h) * s)
    return np.asarray(np.nan_to_num(logs, nan=-np.inf, posinf=-np.inf, neginf=-np.inf))
