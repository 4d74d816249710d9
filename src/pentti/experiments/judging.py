"""How far a measured share may lie from an expected one, in standard errors."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["REVISED", "deviation", "standard_error"]

REVISED = "(revised after a first run, see the log)"
"""Ends the text of a claim that was not written before the first run."""


def standard_error(wrong: Tensor, n_bits: int, expected: float) -> float:
    """The standard error of the mean of shares of wrong bits.

    Few wrong bits, or none, make the spread that is seen too small. So the error is at least
    that of a Poisson count of as many wrong bits as were expected, or were seen, or of one.

    Args:
        wrong: Share of wrong bits of each word, shape (n,), n at least 2.
        n_bits: Length of a word in bits.
        expected: The share that the theory expects.

    Returns:
        The error, above 0.

    Examples:
        >>> import torch
        >>> standard_error(torch.zeros(100), 1000, 1e-9)
        1e-05
        >>> standard_error(torch.zeros(100), 1000, 1e-3)
        0.0001
    """
    n = len(wrong) * n_bits
    count = max(1.0, expected * n, wrong.double().mean().item() * n)
    spread = wrong.double().std().item() / math.sqrt(len(wrong))
    return max(spread, math.sqrt(count) / n)


def deviation(measured: float, expected: float, error: float) -> float:
    """The distance between two numbers in standard errors.

    Args:
        measured: The number found.
        expected: The number expected.
        error: The standard error, above 0.

    Returns:
        0 or more.

    Examples:
        >>> deviation(1.5, 1.0, 0.25)
        2.0
    """
    return abs(measured - expected) / error
