"""How many words a memory holds, how well a bit is recalled, and the radius that suits.

Signal and noise are those of one bit, read with the address under which its word was stored; the
stored words are random.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from pentti import checks
from pentti.theory.arrays import (
    MOST,
    checked_locations,
    checked_numbers,
    checked_words,
)
from pentti.theory.geometry import activation_probabilities

__all__ = [
    "bit_fidelity",
    "capacity",
    "mean_bit_fidelity",
    "memory_capacity",
    "optimal_probability",
    "radius_for_capacity",
    "radius_for_signal_to_noise",
    "signal_to_noise",
]


def signal_to_noise(
    n_locations: int, n_words: ArrayLike, probability: ArrayLike
) -> np.float64 | NDArray[np.float64]:
    """The signal-to-noise ratio ρ² of a bit sum: its squared mean over its variance.

    Args:
        n_locations: Number of hard locations, from 1 to 1e100.
        n_words: Number of stored words, from 1 to 1e100; one or an array.
        probability: Activation probability in [0, 1]; one or an array.

    Returns:
        ρ² in the broadcast shape of `n_words` and `probability`.

    Raises:
        ArgumentError: if an argument is not a number or out of range.

    Examples:
        >>> round(float(signal_to_noise(10**6, 10**4, 3.684e-4)), 2)
        71.06

    **Source:** Kanerva 1993; Bricken & Pehlevan 2021: ρ² = pr / (1 + pm + p³mr); p is
    `probability`, r (Kanerva's M) is `n_locations`, m (Kanerva's T) is `n_words`.
    """
    return _rho_squared(*_checked_load("signal_to_noise", n_locations, n_words, probability))


def optimal_probability(n_locations: int, n_words: float) -> float:
    """The activation probability at which the signal-to-noise ratio is highest.

    Args:
        n_locations: Number of hard locations, from 1 to 1e100.
        n_words: Number of stored words, from 1 to 1e100.

    Returns:
        p*, below 1.

    Raises:
        ArgumentError: if an argument is not a number or out of range.

    Examples:
        >>> f"{optimal_probability(10**6, 10**4):.3e}"
        '3.684e-04'

    **Source:** Kanerva 1993; Bricken & Pehlevan 2021: p* = (2mr)^(−1/3); r is `n_locations`, m is
    `n_words`.
    """
    M = checked_locations("optimal_probability", n_locations)
    T = checked_words("optimal_probability", n_words)
    return _optimal_probability(M, T)


def radius_for_signal_to_noise(address_bits: int, n_locations: int, n_words: float) -> int:
    """The radius for the highest signal-to-noise ratio, by the published rule.

    The rule takes the smallest radius whose activation probability reaches the optimal one. One
    bit less can be slightly better: compare `signal_to_noise` at both.

    Args:
        address_bits: Length of an address in bits, at least 1.
        n_locations: Number of hard locations, from 1 to 1e100.
        n_words: Number of stored words, from 1 to 1e100.

    Returns:
        The radius in bits.

    Raises:
        ArgumentError: if an argument is not a number or out of range.

    Examples:
        >>> radius_for_signal_to_noise(1000, 10**6, 10**4)
        447

    **Source:** Bricken & Pehlevan 2021, optimal d; n is `address_bits`, r is `n_locations`, m is
    `n_words`.
    """
    where = "radius_for_signal_to_noise"
    n = checks.count(where, "address_bits", address_bits)
    M = checked_locations(where, n_locations)
    T = checked_words(where, n_words)
    return _first_radius(n, _optimal_probability(M, T))


def bit_fidelity(
    n_locations: int, n_words: ArrayLike, probability: ArrayLike
) -> np.float64 | NDArray[np.float64]:
    """The probability that one bit is read as it was written.

    Args:
        n_locations: Number of hard locations, from 1 to 1e100.
        n_words: Number of stored words, from 1 to 1e100; one or an array.
        probability: Activation probability in [0, 1]; one or an array.

    Returns:
        Fidelities from 0.5 to 1 in the broadcast shape of `n_words` and `probability`.

    Raises:
        ArgumentError: if an argument is not a number or out of range.

    Examples:
        >>> bit_fidelity(10**6, [10_000, 50_000, 200_000], 0.001).round(4)
        array([1.    , 0.9992, 0.9429])

    **Source:** Kanerva 1993: φ = Φ(ρ), ρ² = pM / (1 + pT(1 + p²M)); M is `n_locations`, T is
    `n_words`, p is `probability`.
    """
    load = _checked_load("bit_fidelity", n_locations, n_words, probability)
    fidelity = ndtr(np.sqrt(_rho_squared(*load)))
    return np.asarray(fidelity, dtype=np.float64)[()]


def mean_bit_fidelity(
    n_locations: int, n_words: float, probability: float, flipped_share: float = 0.0
) -> float:
    """The share of bits read right at a stored address, averaged over the words.

    The number of active locations differs from word to word, but all bits of one word share it:
    it sets the level of the signal and is no noise. `bit_fidelity`, the closed form of 1993,
    counts its variance as noise of the bit, and so expects too many wrong bits where few
    locations are active. Here the fidelity is averaged over that number. Words are
    heteroassociative: independent of the addresses.

    Args:
        n_locations: Number of hard locations, from 1 to 1e100.
        n_words: Number of stored words, from 1 to 1e100.
        probability: Activation probability in [0, 1].
        flipped_share: Share of the counters whose sign was changed after writing, in [0, 1].

    Returns:
        The share, 0.5 where nothing is active or half of the counters are flipped.

    Raises:
        ArgumentError: if an argument is not a number or out of range.

    Examples:
        >>> round(mean_bit_fidelity(10**6, 200_000, 0.001), 4)
        0.943
        >>> round(mean_bit_fidelity(10_000, 10_000, 0.001), 4)
        0.8339
        >>> round(float(bit_fidelity(10_000, 10_000, 0.001)), 4)
        0.8287

    **Source:** ours, after Kanerva 1993: the mean over k ~ Binomial(M, p) of Φ(s √(k/σ²)) with
    s = 1 − 2f and σ² = pT(1 + s²p²M) + 1 − s²; M is `n_locations`, T is `n_words`, p is
    `probability`, f is `flipped_share`.
    """
    where = "mean_bit_fidelity"
    M = checked_locations(where, n_locations)
    T = checked_words(where, n_words)
    p = checks.number(where, "probability", probability, 0.0, 1.0)
    signal = 1.0 - 2.0 * checks.number(where, "flipped_share", flipped_share, 0.0, 1.0)
    variance = p * T * (1.0 + signal**2 * p * p * M) + 1.0 - signal**2
    if variance == 0.0:
        return 0.5
    active, weights = _active_numbers(M, p)
    with np.errstate(over="ignore"):
        return float(weights @ ndtr(signal * np.sqrt(active / variance)))


def capacity(
    fidelity: float, n_locations: int | None = None, probability: float | None = None
) -> float:
    """How many words may be stored per hard location, if bits are to be read at a fidelity.

    Args:
        fidelity: Probability that a bit is read right, above 0.5 and below 1.
        n_locations: Number of hard locations, up to 1e100; None for the limit of infinitely many.
        probability: Activation probability, above 0 and below 1; None for the best one.

    Returns:
        Words per hard location, T / M; 0 where even the first word is read below the fidelity.

    Raises:
        ArgumentError: if an argument is not a number or out of range, or a probability is given
            without `n_locations`.

    Examples:
        >>> round(capacity(0.999), 4), round(capacity(0.999, 10**6), 4)
        (0.1047, 0.0961)
        >>> round(capacity(0.999, 10**6, probability=0.00107185), 4)
        0.0483

    **Source:** Kanerva 1993: T/M → 1 / [Φ⁻¹(φ)]²; for finite M, φ = Φ(ρ) solved for T.
    """
    z = float(ndtri(_checked_fidelity(fidelity)))
    if n_locations is None:
        if probability is not None:
            checks.reject("capacity", "n_locations", "be given with a probability", n_locations)
        return 1.0 / (z * z)
    M = float(checked_locations("capacity", n_locations))
    if probability is None:
        p = min(_best_probability(M, z), 1.0)
    else:
        p = checks.probability("capacity", "probability", probability)
    return max(0.0, _words(M, z, p) / M)


def memory_capacity(
    address_bits: int, n_locations: int, probability: float, recall_probability: float = 0.5
) -> float:
    """How many words may be stored, if a whole word is to be read without an error.

    Args:
        address_bits: Length of an address and of a word in bits, at least 1.
        n_locations: Number of hard locations, from 1 to 1e100.
        probability: Activation probability, above 0 and below 1.
        recall_probability: Probability that all bits of a word are right, below 1 and above
            0.5 to the power of `address_bits`, which is chance.

    Returns:
        The number of words, not rounded; below 1 where not even one is recalled.

    Raises:
        ArgumentError: if an argument is not a number or out of range.

    Examples:
        >>> round(memory_capacity(1000, 10**6, 0.00022116))
        88933

    **Source:** Bricken & Pehlevan 2021, memory capacity: m = [(pr)²/z² − pr] / [p²r + (p²r)²] + 1
    with z = Φ⁻¹(P^(1/n)); n is `address_bits`, r is `n_locations`, p is `probability`, P is
    `recall_probability`.
    """
    where = "memory_capacity"
    n = checks.count(where, "address_bits", address_bits)
    M = float(checked_locations(where, n_locations))
    p = checks.probability(where, "probability", probability)
    return _words(M, _bit_quantile(where, n, recall_probability), p) + 1.0


def radius_for_capacity(
    address_bits: int, n_locations: int, recall_probability: float = 0.5
) -> int:
    """The radius for the highest memory capacity, by the published rule.

    The rule takes the smallest radius whose activation probability reaches the optimal one.

    Args:
        address_bits: Length of an address and of a word in bits, at least 1.
        n_locations: Number of hard locations, from 1 to 1e100.
        recall_probability: Probability that all bits of a word are right, below 1 and above
            0.5 to the power of `address_bits`, which is chance.

    Returns:
        The radius in bits.

    Raises:
        ArgumentError: if an argument is not a number or out of range.

    Examples:
        >>> radius_for_capacity(1000, 10**6), radius_for_capacity(64, 2**64)
        (444, 5)

    **Source:** Bricken & Pehlevan 2021, optimal d: the root of −2r²p³ + 3rz²p² + z² = 0, letters as
    in `memory_capacity`.
    """
    where = "radius_for_capacity"
    n = checks.count(where, "address_bits", address_bits)
    M = float(checked_locations(where, n_locations))
    z = _bit_quantile(where, n, recall_probability)
    return _first_radius(n, _best_probability(M, z))


# The numbers k of active locations that occur, and their probabilities.
#
# The binomial is built from the ratios of its neighbours, which cancel no digits. Where it is
# spread over a million numbers and more it is normal, and every hundredth of a deviation will do.
def _active_numbers(M: int, p: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean, deviation = M * p, math.sqrt(M * p * (1.0 - p))
    if p in (0.0, 1.0):
        return np.array([mean]), np.ones(1)
    if deviation > 25_000.0:
        steps = np.linspace(-20.0, 20.0, 4001)
        active, log_weights = mean + deviation * steps, -(steps**2) / 2.0
    else:
        reach = 20.0 * deviation + 20.0
        active = np.arange(max(0, math.floor(mean - reach)), min(M, math.ceil(mean + reach)) + 1.0)
        ratios = np.log((M - active[:-1]) / active[1:]) + math.log(p) - math.log1p(-p)
        log_weights = np.concatenate(([0.0], np.cumsum(ratios)))
    weights = np.exp(log_weights - log_weights.max())
    return active, weights / weights.sum()


def _checked_load(
    where: str, n_locations: int, n_words: ArrayLike, probability: ArrayLike
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    M = float(checked_locations(where, n_locations))
    T = checked_numbers(where, "n_words", n_words, 1, MOST)
    p = checked_numbers(where, "probability", probability, 0, 1)
    try:
        np.broadcast_shapes(T.shape, p.shape)
    except ValueError:
        expected = f"broadcast with `n_words` of shape {T.shape}"
        checks.reject(where, "probability", expected, checks.Words(f"shape {p.shape}"))
    return M, T, p


# T counts the words besides the one that is read, at which ρ = z.
def _rho_squared(
    M: float, T: NDArray[np.float64], p: NDArray[np.float64]
) -> np.float64 | NDArray[np.float64]:
    return np.asarray(p * M / (1.0 + p * T * (1.0 + p * p * M)), dtype=np.float64)[()]


def _optimal_probability(M: float, T: float) -> float:
    return math.exp(-(math.log(2) + math.log(T) + math.log(M)) / 3)


def _words(M: float, z: float, p: float) -> float:
    return (p * M / (z * z) - 1.0) / (p * (1.0 + p * p * M))


# Where `_words` is highest: the positive root of −2M²p³ + 3Mz²p² + z².
def _best_probability(M: float, z: float) -> float:
    def slope(p: float) -> float:
        return (3.0 * M * p * p + 1.0) * z * z - 2.0 * M * M * p**3

    above = 1.01 * max(3.0 * z * z / M, (z * z / (M * M)) ** (1 / 3))
    return float(brentq(slope, 0.0, above, xtol=1e-300, rtol=1e-12))


def _first_radius(n: int, probability: float) -> int:
    return min(n, int(np.searchsorted(activation_probabilities(n), probability)))


def _bit_quantile(where: str, n: int, recall_probability: float) -> float:
    share = checks.probability(where, "recall_probability", recall_probability)
    wrong = -math.expm1(math.log(share) / n)
    if share ** (1.0 / n) <= 0.5 or wrong >= 0.5:
        expected = f"be above 2^-{n}, which is chance"
        checks.reject(where, "recall_probability", expected, recall_probability)
    return -float(ndtri(wrong))


def _checked_fidelity(fidelity: float) -> float:
    share = checks.number("capacity", "fidelity", fidelity, 0.0, 1.0)
    if not 0.5 < share < 1.0:
        checks.reject("capacity", "fidelity", "be in (0.5, 1)", fidelity)
    return share
