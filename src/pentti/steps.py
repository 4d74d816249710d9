"""Long work comes as a generator, which tells how far it is and returns what it found."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from typing import TypeVar

from pentti import checks

__all__ = ["finish"]

Step = TypeVar("Step")
Result = TypeVar("Result")


def finish(
    work: Generator[Step, None, Result], tell: Callable[[Step], object] | None = None
) -> Result:
    """Run work to its end.

    Args:
        work: A generator, such as `pentti.training.prepare` gives. It is closed in any case.
        tell: Called with each step, for a progress bar, say.

    Returns:
        What the work returns.

    Raises:
        ArgumentError: if the work is no generator, or one that has ended.

    Examples:
        >>> def count(n):
        ...     for i in range(n):
        ...         yield i / n
        ...     return n
        >>> finish(count(4), print)
        0.0
        0.25
        0.5
        0.75
        4
    """
    if not isinstance(work, Generator):
        checks.reject("finish", "work", "be a generator", work)
    if inspect.getgeneratorstate(work) == inspect.GEN_CLOSED:
        checks.reject("finish", "work", "be a generator that has not ended", work)
    found: list[Result] = []

    def kept() -> Generator[Step, None, None]:
        found.append((yield from work))

    try:
        for step in kept():
            if tell is not None:
                tell(step)
    finally:
        work.close()
    return found[0]
