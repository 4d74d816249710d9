"""What Ctrl-C does: who answers it, and when it must wait."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["answered", "held", "noted"]


@contextmanager
def answered(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Let a handler answer Ctrl-C inside the block, unless Ctrl-C is ignored altogether.

    Only the main thread ever sees Ctrl-C, so elsewhere this does nothing.

    Args:
        handler: As `signal.signal` takes it.

    Yields:
        Nothing.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def held() -> Iterator[None]:
    """Let a Ctrl-C that comes inside the block take effect at its end.

    Only the main thread ever sees Ctrl-C, so elsewhere this does nothing.

    Yields:
        Nothing.

    Examples:
        >>> with held():
        ...     pass
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    caught: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if caught:
            before(*caught[0])


@contextmanager
def noted() -> Iterator[list[int]]:
    """Note Ctrl-C and a request to end (SIGTERM) inside the block, and go on.

    Only the main thread ever sees them, so elsewhere this does nothing.

    Yields:
        The numbers of the signals that have come so far.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    for one in before:
        signal.signal(one, lambda number, _: came.append(number))
    try:
        yield came
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
