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
    """A trained model with its bits per byte of each document of the tests."""

    @property
    def documents(self) -> Sequence[float]: ...


def lead(one: Sequence[_Tested], other: Sequence[_Tested]) -> tuple[float, float]:
    """By how many bits per byte one model is ahead of another, and the standard error.

    The documents of the tests are a sample of all documents, and the seeds of all trainings. The
    variance of the mean is that of both, added up: the part that is of neither counts twice. A
    single seed has no variance to add. Of few seeds the variance is not well known: where three of
    them differ more than documents do, up to a tenth of leads that are none exceed three errors;
    where documents differ more, about one in two hundred do.

    Args:
        one: Trainings of one model, by seed; each seed gave both the same documents in the same
            order.
        other: Those of the other.

    Returns:
        The lead, and its error, above 0.
    """
    leads = np.array(
        [
            [b - a for a, b in zip(own.documents, its.documents, strict=True)]
            for own, its in zip(one, other, strict=True)
        ]
    )  # (seeds, documents)
    variance = leads.mean(0).var(ddof=1) / leads.shape[1]
    if len(leads) > 1:
        variance += leads.mean(1).var(ddof=1) / len(leads)
    return float(leads.mean()), max(math.sqrt(variance), _LEAST_ERROR)
