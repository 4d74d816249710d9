"""Hold Ctrl-C back while something must not stop half-way."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["held"]


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
