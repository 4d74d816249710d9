"""How far a measured share may lie from an expected one, in standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

__all__ = ["REVISED", "deviation", "lead", "standard_error"]

_LEAST_ERROR = 1e-6
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


class _Tested(Protocol):
    """A trained model with its bits per byte: of all tests, and of each document."""

    @property
    def bits(self) -> float: ...
    @property
    def documents(self) -> Sequence[float]: ...


def lead(one: Sequence[_Tested], other: Sequence[_Tested]) -> tuple[float, float]:
    """By how many bits per byte one model is ahead of another, and the standard error.

    Over seeds, each of which gives both the same documents in the same order; where there are
    fewer than three, over the documents of the tests.

    Args:
        one: Trainings of one model, by seed.
        other: Those of the other.

    Returns:
        The lead, and its error, above 0.
    """
    if len(one) >= 3:
        leads = [b.bits - a.bits for a, b in zip(one, other, strict=True)]
    else:
        pairs = zip(one[0].documents, other[0].documents, strict=True)
        leads = [b - a for a, b in pairs]
    error = float(np.std(leads, ddof=1)) / math.sqrt(len(leads))
    return float(np.mean(leads)), max(error, _LEAST_ERROR)
