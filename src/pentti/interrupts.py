"""What Ctrl-C and a request to end do: who answers them, and when they must wait."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["answered", "held", "noted"]

_REQUESTS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def answered(
    handler: Callable[[int, FrameType | None], object], also_end: bool = False
) -> Iterator[None]:
    """Let a handler answer Ctrl-C inside the block, unless it is ignored altogether.

    A process that a script starts in the background ignores Ctrl-C. Only the main thread ever sees
    it, so elsewhere this does nothing.

    Args:
        handler: As `signal.signal` takes it.
        also_end: Whether it answers a request to end (SIGTERM) too.

    Yields:
        Nothing.
    """
    answers = _heeded(_REQUESTS if also_end else (signal.SIGINT,))
    before = {one: signal.signal(one, handler) for one in answers}
    try:
        yield
    finally:
        for one, other in before.items():
            signal.signal(one, other)


@contextmanager
def held() -> Iterator[None]:
    """Let a Ctrl-C that comes inside the block take effect at its end; SIGTERM too if answered.

    If the block fails, its error stands, which ends what was to be interrupted. Only the main
    thread ever sees them, so elsewhere this does nothing.

    Yields:
        Nothing.

    Examples:
        >>> with held():
        ...     pass
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = ((one, signal.getsignal(one)) for one in _REQUESTS)
    before = {one: handler for one, handler in found if callable(handler)}
    caught: list[tuple[int, FrameType | None]] = []
    for one in before:
        signal.signal(one, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    if caught:
        number, frame = caught[0]
        before[signal.Signals(number)](number, frame)


@contextmanager
def noted() -> Iterator[list[int]]:
    """Note Ctrl-C and a request to end (SIGTERM) inside the block, unless ignored, and go on.

    Only the main thread ever sees them, so elsewhere this does nothing.

    Yields:
        The numbers of the signals that have come so far.
    """
    came: list[int] = []
    before = {one: signal.getsignal(one) for one in _heeded(_REQUESTS)}
    for one in before:
        signal.signal(one, lambda number, _: came.append(number))
    try:
        yield came
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _heeded(signals: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Those that this thread may answer, and that are not ignored."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [one for one in signals if signal.getsignal(one) != signal.SIG_IGN]
