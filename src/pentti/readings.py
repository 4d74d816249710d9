"""What the calls of a memory give back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

__all__ = ["MeanReading", "MemoryStatistics", "Reading", "Recall", "Replay", "SumsReading"]


class Reading(NamedTuple):
    """What `read` gives: `word`, bool (…, U), and `meter`, int64 (…)."""

    word: Tensor
    meter: Tensor


class SumsReading(NamedTuple):
    """What `read_sums` gives: `sums`, (…, U), and `meter`, int64 (…)."""

    sums: Tensor
    meter: Tensor


class MeanReading(NamedTuple):
    """What `read_mean` gives: `mean`, float (…, U), and `meter`, int64 (…)."""

    mean: Tensor
    meter: Tensor


class Recall(NamedTuple):
    """What `recall` gives for each cue.

    `word`, bool (…, U): the last word read; `meter`, int64 (…): of the last read;
    `n_reads`, int64 (…): reads that it took; `settled`, bool (…): whether the last read changed
    nothing, so that reading on would not either.
    """

    word: Tensor
    meter: Tensor
    n_reads: Tensor
    settled: Tensor


class Replay(NamedTuple):
    """What `replay` gives: `words`, bool (n_steps, …, U), and `meter`, int64 (n_steps, …)."""

    words: Tensor
    meter: Tensor


@dataclass(frozen=True)
class MemoryStatistics:
    """How full a memory is.

    Attributes:
        n_written: Words written, less words erased.
        load: Words per hard location; Kanerva advises 0.01 to 0.05.
        used_share: Share of the hard locations with a counter that is not 0.
        saturated_share: Share of the counters at the end of their range.
        contents_bytes: Size of the contents.
        decoder_bytes: Size of the decoder's buffers.
    """

    n_written: int
    load: float
    used_share: float
    saturated_share: float
    contents_bytes: int
    decoder_bytes: int
