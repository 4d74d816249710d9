"""What Ctrl-C and a request to end do: who answers them, and when they must wait."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["answered", "held", "noted"]

_REQUESTS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def answered(
    handler: Callable[[int, FrameType | None], object], also_end: bool = False
) -> Iterator[None]:
    """Let a handler answer Ctrl-C inside the block, unless Ctrl-C is ignored altogether.

    Only the main thread ever sees Ctrl-C, so elsewhere this does nothing.

    Args:
        handler: As `signal.signal` takes it.
        also_end: Whether it answers a request to end (SIGTERM) too.

    Yields:
        Nothing.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        yield
        return
    answers = _REQUESTS if also_end else (signal.SIGINT,)
    before = {one: signal.signal(one, handler) for one in answers}
    try:
        yield
    finally:
        for one, other in before.items():
            signal.signal(one, other)


@contextmanager
def held() -> Iterator[None]:
    """Let a Ctrl-C that comes inside the block take effect at its end; SIGTERM too if answered.

    Only the main thread ever sees them, so elsewhere this does nothing.

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
    """Note Ctrl-C and a request to end (SIGTERM) inside the block, and go on.

    Only the main thread ever sees them, so elsewhere this does nothing.

    Yields:
        The numbers of the signals that have come so far.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {one: signal.getsignal(one) for one in _REQUESTS}
    for one in before:
        signal.signal(one, lambda number, _: came.append(number))
    try:
        yield came
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
