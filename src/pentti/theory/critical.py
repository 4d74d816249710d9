"""The critical distance: how far a cue may lie from a stored address and still be improved.

Reading at a cue gives a word whose expected distance from the stored one is n·Φ(−I/σ). Where that
is less than the distance of the cue, reading again and again leads to the stored word.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, owens_t

from pentti import checks
from pentti.theory.arrays import checked_locations, checked_words
from pentti.theory.geometry import activation_probabilities, overlap_curve

__all__ = ["critical_distance", "radius_for_critical_distance"]

_VARIANCES = ("exact", "independent", "simplified")


def critical_distance(
    address_bits: int, n_locations: int, n_words: float, radius: int, variance: str = "exact"
) -> int:
    """The largest distance of a cue at which a read is expected to come nearer to the word.

    Words are as long as addresses and heteroassociative: independent of the addresses
    (autoassociative reading reaches further, and has no formula here). The expectation means
    something where words share many hard locations with their cues, M·overlap ≫ 1. Three
    theories of the noise that the other words make are on offer:

    - ``"exact"``: another word adds O copies of itself, O being the hard locations that its
      address shares with the cue; σ² is the mean of O² over all distances of random addresses,
      for each of the others, and the variance of the signal itself.
    - ``"independent"``: as if O were Poisson with one mean p²M, σ² = Tp²M(1 + p²M).
    - ``"simplified"``: as if the copies came one by one, σ² = Tp²M, with p a round number (one
      significant digit: .001 for radius 451 of 1000) and the signal by the normal approximation
      of the circle intersection. It promises more than one heteroassociative read gives.

    Args:
        address_bits: Length of an address and of a word in bits, at least 2.
        n_locations: Number of hard locations, from 1 to 1e100.
        n_words: Number of stored words, from 1 to 1e100.
        radius: Activation radius in bits, from 0 to `address_bits`.
        variance: ``"exact"``, ``"independent"`` or ``"simplified"``.

    Returns:
        The distance in bits: 0 where the memory is overloaded, and half of `address_bits` where
        every cue up to there is improved.

    Raises:
        ArgumentError: if an argument is not a number, out of range or not one of the choices.

    Examples:
        >>> critical_distance(1000, 10**6, 10_000, 451)
        152
        >>> critical_distance(1000, 10**6, 10_000, 451, variance="simplified")
        212

    **Source:** Bricken & Pehlevan 2021, critical distance ("independent"); Kanerva 1988, appendix
    on the circle intersection ("simplified"); n is `address_bits`, M or r is `n_locations`, T or m
    is `n_words`, I(d_v) the expected number of shared hard locations.
    """
    where = "critical_distance"
    n = checks.integer(where, "address_bits", address_bits, 2)
    M = float(checked_locations(where, n_locations))
    T = checked_words(where, n_words)
    radius = checks.integer(where, "radius", radius, 0, n)
    checks.one_of(where, "variance", variance, _VARIANCES)
    return _edge(n, _quality(n, M, T, radius, variance))


def radius_for_critical_distance(
    address_bits: int, n_locations: int, n_words: float, variance: str = "independent"
) -> int:
    """The radius for the largest critical distance.

    Args:
        address_bits: Length of an address and of a word in bits, at least 2.
        n_locations: Number of hard locations, from 1 to 1e100.
        n_words: Number of stored words, from 1 to 1e100.
        variance: ``"exact"`` or ``"independent"``, as for `critical_distance`; the published radii
            use the latter. The simplified theory has no best radius.

    Returns:
        The radius in bits, at most half of `address_bits`; the middle one, rounded down, where
        several are equally good.

    Raises:
        ArgumentError: if an argument is not a number, out of range or not one of the choices.

    Examples:
        >>> radius_for_critical_distance(64, 2**64, 1024)
        15

    **Source:** Bricken & Pehlevan 2021, optimal d, letters as in `critical_distance`.
    """
    where = "radius_for_critical_distance"
    n = checks.integer(where, "address_bits", address_bits, 2)
    M = float(checked_locations(where, n_locations))
    T = checked_words(where, n_words)
    checks.one_of(where, "variance", variance, _VARIANCES[:2])
    reach = np.array(
        [_edge(n, _quality(n, M, T, radius, variance)) for radius in range(n // 2 + 1)]
    )
    best = np.flatnonzero(reach == reach.max())
    return int(best[0] + best[-1]) // 2


# I/σ at every distance from 0 to n; 0 where no hard location is to be expected at all.
def _quality(n: int, M: float, T: float, radius: int, variance: str) -> NDArray[np.float64]:
    signal, deviation = _moments(n, M, T, radius, variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.nan_to_num(signal / deviation, posinf=np.inf))


# Mean and standard deviation of a bit's sum at every distance of the cue. The square of p may
# underflow, so it is kept out of the roots.
def _moments(
    n: int, M: float, T: float, radius: int, variance: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    share = overlap_curve(n, radius, np.arange(n + 1))
    signal = M * share
    if variance == "exact":
        of_distance = np.diff(activation_probabilities(n), prepend=0.0)
        other = float(of_distance @ (signal * (1.0 - share) + signal**2))
        return signal, np.sqrt((T - 1.0) * other + signal * (1.0 - share))
    p = float(share[0])
    if variance == "independent":
        return signal, np.full(n + 1, p * math.sqrt(T * M * (1.0 + p * p * M)))
    return M * _normal_overlap(n, radius), np.full(n + 1, float(f"{p:.0e}") * math.sqrt(T * M))


# Both of two normal variables of correlation 1 − 2d/n beyond the radius, by Owen's T.
def _normal_overlap(n: int, radius: int) -> NDArray[np.float64]:
    distances = np.arange(n + 1)
    deviations = (n / 2 - radius) / (math.sqrt(n) / 2)
    with np.errstate(divide="ignore"):
        slope = np.sqrt(distances / (n - distances))
    both = ndtr(-deviations) - 2.0 * owens_t(deviations, slope)
    return np.asarray(np.maximum(both, 0.0), dtype=np.float64)


# The last distance of the basin, which starts where two distances in a row are improved.
#
# Intersections at distances 2k − 1 and 2k are equal, so a single improved distance may be a
# matter of rounding only.
def _edge(n: int, quality: NDArray[np.float64]) -> int:
    distances = np.arange(n // 2 + 1)
    improved = n * ndtr(-quality[: n // 2 + 1]) < distances
    starts = np.flatnonzero(improved[:-1] & improved[1:])
    if not starts.size:
        return 0
    start = int(starts[0])
    ends = np.flatnonzero(~improved[start:])
    if ends.size:
        return start + int(ends[0]) - 1
    # No edge before n/2: either every cue is improved, or all drift to chance.
    return n // 2 if start <= n // 4 else 0
