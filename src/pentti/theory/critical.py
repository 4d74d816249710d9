"""The critical distance: how far a cue may be from a stored address and still be recalled."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import multivariate_normal

from pentti import checks
from pentti.theory.geometry import activation_probability, overlap_curve

__all__ = ["critical_distance", "radius_for_critical_distance"]

Noise = Callable[[int, int, float, int], tuple[NDArray[np.float64], NDArray[np.float64]]]


def _exact(n: int, n_locations: int, n_words: float, radius: int):
    q = overlap_curve(n, radius, np.arange(n + 1))
    M = float(n_locations)
    w = np.array([math.comb(n, d) / (1 << n) for d in range(n + 1)])
    shared2 = float(w @ (M * q * (1 - q) + (M * q) ** 2))
    return M * q, n_words * shared2 + M * q * (1 - q)


def _indep(n, M, T, radius):
    q = overlap_curve(n, radius, np.arange(n + 1)); M = float(M)
    x = q[0] ** 2 * M
    return M * q, T * x * (1 + x) + 0 * q


def basin(n, signal, variance):
    with np.errstate(invalid="ignore", divide="ignore"):
        nd = n * ndtr(-signal / np.sqrt(variance))
    d = np.arange(n + 1)
    inside = nd[: n // 2 + 1] < d[: n // 2 + 1]
    return inside, nd
