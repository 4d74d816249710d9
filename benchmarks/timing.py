"""Time entries side by side, and give no time to a wrong result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

__all__ = ["Comparison", "Entry", "Line", "Patience", "measure", "summary"]

Line = dict[str, Any]


@dataclass(frozen=True)
class Patience:
    """When enough repetitions have been timed.

    Attributes:
        repetitions: At least so many of each entry,
        seconds: and for at least so long;
        limit_s: but an entry that takes longer than this stops at three.
        warms: Whether each entry runs once more, untimed, after it was checked.
    """

    repetitions: int = 5
    seconds: float = 1.0
    limit_s: float = 20.0
    warms: bool = True

    def is_enough(self, times: list[float]) -> bool:
        total = sum(times)
        if total > self.limit_s and len(times) >= min(3, self.repetitions):
            return True
        return len(times) >= self.repetitions and total >= self.seconds


@dataclass(frozen=True)
class Entry:
    """One way to do what a comparison is about.

    Attributes:
        name: Who does it.
        run: What is timed; its argument counts the repetitions, so that inputs can change.
        n_cues: How many cues one run handles.
        fault: Looks at the result of the first run and says in words what is wrong with it.
        reset: Untimed: undoes what the runs left behind.
        facts: More to write on the line.
    """

    name: str
    run: Callable[[int], Any]
    n_cues: int
    fault: Callable[[Any], str | None]
    reset: Callable[[], None] = lambda: None
    facts: Line = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Entries that do the same work; `stream`, if any, reads the addresses and no more."""

    facts: Line
    entries: list[Entry]
    stream: Entry | None = None
    contender: str = "pentti int8"


def measure(comparison: Comparison, patience: Patience) -> Iterator[Line]:
    """Check every entry, then time the right ones in turns, so that drift hits them alike.

    Args:
        comparison: What to time.
        patience: When to stop.

    Yields:
        A line for each entry: with times, or with the error that cost it its times.
    """
    faults = {entry.name: _fault(entry) for entry in comparison.entries}
    right = [entry for entry in comparison.entries if faults[entry.name] is None]
    stream = [] if comparison.stream is None else [comparison.stream]
    times = _in_turns([*stream, *right], patience)
    per_cue = {entry.name: float(np.median(times[entry.name])) / entry.n_cues for entry in right}
    beside = {entry.name: float(np.median(times[entry.name])) for entry in stream}
    for entry in comparison.entries:
        line = {**comparison.facts, "entry": entry.name, "n_cues": entry.n_cues, **entry.facts}
        if faults[entry.name] is not None:
            yield {**line, "error": faults[entry.name]}
            continue
        line |= summary(times[entry.name], entry.n_cues)
        if beside:
            line["stream_s"] = next(iter(beside.values()))
        if comparison.contender in per_cue:
            line["ratio"] = per_cue[entry.name] / per_cue[comparison.contender]
        yield line


def _fault(entry: Entry) -> str | None:
    try:
        fault = entry.fault(entry.run(0))
    except Exception as error:  # noqa: BLE001 a peer may raise anything; the run goes on
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    finally:
        entry.reset()
    return None if fault is None else f"wrong result: {fault}"


def _in_turns(entries: list[Entry], patience: Patience) -> dict[str, list[float]]:
    """Times of all entries, in rounds: each runs once, or as often as its share of time allows."""
    times: dict[str, list[float]] = {entry.name: [] for entry in entries}
    share_s = patience.seconds / patience.repetitions
    for entry in entries if patience.warms else []:
        entry.run(0)
    while any(not patience.is_enough(own) for own in times.values()):
        for entry in entries:
            own = times[entry.name]
            if patience.is_enough(own) and own[-1] > share_s:
                continue
            until = time.perf_counter() + share_s
            _time_once(entry, own)
            while time.perf_counter() < until:
                _time_once(entry, own)
    for entry in entries:
        entry.reset()
    return times


def _time_once(entry: Entry, times: list[float]) -> None:
    start = time.perf_counter()
    entry.run(len(times) + 1)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    times.append(time.perf_counter() - start)


def summary(times: list[float], n_cues: int) -> Line:
    """Median and spread of some times.

    Args:
        times: In seconds.
        n_cues: How many cues each of them took.
    """
    low, middle, high = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
    return {
        "median_s": middle,
        "min_s": min(times),
        "q1_s": low,
        "q3_s": high,
        "repetitions": len(times),
        "per_second": n_cues / middle,
    }
