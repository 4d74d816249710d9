"""Guards for arguments, and the only place where their errors are worded.

One form everywhere: ``HammingBall: `radius` must be in [0, 256], got 300``.
The guards know numbers and texts only, so that the theory and the command
line can use them without importing torch; `pentti.bits` guards tensors and
takes its wording from here.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable
from typing import Any, NoReturn

from pentti.errors import ArgumentError

__all__ = [
    "Words",
    "count",
    "flag",
    "in_range",
    "integer",
    "items",
    "number",
    "one_of",
    "probability",
    "reject",
]


class Words(str):
    """What came, told in words: shown in an error without quotation marks."""

    __slots__ = ()


def reject(where: str, argument: str, expected: str, got: object) -> NoReturn:
    """Raise the one form of argument error.

    Args:
        where: The public function or class that was called.
        argument: The argument's name, as the caller wrote it.
        expected: What would be accepted, to follow "must".
        got: What came; texts are quoted.

    Raises:
        ArgumentError: always.

    Examples:
        >>> reject("HammingBall", "radius", "be in [0, 256]", 300)
        Traceback (most recent call last):
            ...
        pentti.errors.ArgumentError: HammingBall: `radius` must be in [0, 256], got 300
    """
    raise ArgumentError(f"{where}: `{argument}` must {expected}, got {_shown(got)}")


def integer(where: str, argument: str, value: object, low: int, high: int | None = None) -> int:
    """The value as an int within [low, high].

    Args:
        where: The public function or class that was called.
        argument: The argument's name.
        value: Any whole number type (Python, NumPy, a tensor of one integer); not a bool.
        low: Smallest value accepted.
        high: Largest value accepted; None for no limit.

    Returns:
        The value as a Python int.

    Raises:
        ArgumentError: if it is not a whole number or lies outside the range.
    """
    try:
        whole = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        whole = None
    if whole is None or isinstance(value, bool):
        reject(where, argument, f"be an integer {_range_text(low, high)}", value)
    return int(in_range(where, argument, whole, low, high))


def count(where: str, argument: str, value: object) -> int:
    """The value as an int of at least 1.

    Args:
        where: The public function or class that was called.
        argument: The argument's name.
        value: Any whole number type; not a bool.

    Returns:
        The value as a Python int.

    Raises:
        ArgumentError: if it is not a whole number or is below 1.
    """
    return integer(where, argument, value, 1)


def number(where: str, argument: str, value: object, low: float, high: float) -> float:
    """The value as a finite float within [low, high].

    Args:
        where: The public function or class that was called.
        argument: The argument's name.
        value: Any real number type; not a bool.
        low: Smallest value accepted; may be minus infinity.
        high: Largest value accepted; may be infinity.

    Returns:
        The value as a Python float.

    Raises:
        ArgumentError: if it is not a real number, is NaN or infinite, or lies outside the range.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        reject(where, argument, "be a number", value)
    try:
        real = float(value)
    except OverflowError:
        reject(where, argument, "be a number that a float can hold", value)
    if not math.isfinite(real):
        reject(where, argument, "be finite", real)
    return float(in_range(where, argument, real, low, high))


def probability(where: str, argument: str, value: object) -> float:
    """The value as a float strictly between 0 and 1.

    Args:
        where: The public function or class that was called.
        argument: The argument's name.
        value: Any real number type.

    Returns:
        The value as a Python float.

    Raises:
        ArgumentError: if it is not a real number or lies outside (0, 1).
    """
    share = number(where, argument, value, -math.inf, math.inf)
    if not 0.0 < share < 1.0:
        reject(where, argument, "be in (0, 1)", value)
    return share


def in_range(
    where: str, argument: str, value: float, low: float, high: float | None = None
) -> float:
    """The value, if it lies within [low, high].

    Args:
        where: The public function or class that was called.
        argument: The argument's name.
        value: A number, already of the right type.
        low: Smallest value accepted.
        high: Largest value accepted; None for no limit.

    Returns:
        The value, unchanged.

    Raises:
        ArgumentError: if it lies outside the range.
    """
    if value < low or (high is not None and value > high):
        reject(where, argument, f"be {_range_text(low, high)}", value)
    return value


def one_of(where: str, argument: str, value: object, choices: Iterable[object]) -> None:
    """Refuse a value that is not among the choices.

    Args:
        where: The public function or class that was called.
        argument: The argument's name.
        value: What came.
        choices: What is accepted.

    Raises:
        ArgumentError: if the value is not one of the choices.
    """
    accepted = list(choices)
    if value not in accepted:
        listed = ", ".join(_shown(choice) for choice in accepted)
        reject(where, argument, f"be one of {listed}", value)


def items(where: str, argument: str, value: Any, what: str) -> list[Any]:
    """What is in a collection.

    Args:
        where: The public function or class that was called.
        argument: The argument's name.
        value: What the caller gave; a tensor counts as the list of its numbers.
        what: What it should hold, for the error.

    Returns:
        The items.

    Raises:
        ArgumentError: if it is no collection, or a text.
    """
    listed = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(listed, str | bytes) or not isinstance(listed, Iterable):
        reject(where, argument, f"be a list of {what}", value)
    return list(listed)


def flag(where: str, argument: str, value: object) -> bool:
    """The value as a bool.

    Args:
        where: The public function or class that was called.
        argument: The argument's name.
        value: True or False.

    Returns:
        The value as a Python bool.

    Raises:
        ArgumentError: if it is neither.
    """
    one_of(where, argument, value, (False, True))
    return bool(value)


def _range_text(low: float, high: float | None) -> str:
    return f"at least {low}" if high in (None, math.inf) else f"in [{low}, {high}]"


def _shown(value: object) -> str:
    try:
        text = str(value) if isinstance(value, Words) else repr(value)
    except ValueError:  # an integer of thousands of digits
        text = f"a {type(value).__name__} too long to show"
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."
