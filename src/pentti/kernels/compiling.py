"""How loops are compiled: on first use, kept on disk, and free of the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

__all__ = ["compiled", "reassociating"]


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Compile on first use, and keep the code on disk where there is a place for it.

    Args:
        function: A loop in the words that numba knows.
        **options: More for `numba.njit`.

    Returns:
        The compiled function.
    """
    try:
        return njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:  # neither this folder nor the user's cache can be written
        return njit(nogil=True, **options)(function)


def reassociating(function: Callable[..., Any]) -> Any:
    """The same, free to add up in any order and to fuse: a vector sum needs that.

    Args:
        function: A loop in the words that numba knows.

    Returns:
        The compiled function.
    """
    return compiled(function, fastmath={"reassoc", "contract"})
