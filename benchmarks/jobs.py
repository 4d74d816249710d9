"""What a run consists of: settings, cases, and jobs that each fill one fresh process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from benchmarks.timing import Line, Patience

__all__ = ["Case", "Job", "Settings", "Sized"]


class Sized(Protocol):
    """How large the work is."""

    @property
    def title(self) -> str: ...

    def facts(self) -> dict[str, int]: ...


SizeT = TypeVar("SizeT", bound=Sized)


@dataclass(frozen=True)
class Settings:
    """What the command line decides.

    Attributes:
        n_threads: For pentti and for each peer.
        device: Where it runs.
        n_locations: Sizes of the binary memories.
        batches: How many cues at a time.
        patience: When enough repetitions have been timed.
        n_tokens: How many tokens a layer takes at a time.
        sides: Sizes of the grids of product keys, n for n² locations.
        lengths: Of the sequences that attention is timed on.
        crossing: Of the sequences that a layer and attention are compared on.
        contexts: Of the sequences that a sequence memory reads.
        positions: How many tokens have passed before one more.
    """

    n_threads: int = 2
    device: str = "cpu"
    n_locations: tuple[int, ...] = (100_000, 1_000_000)
    batches: tuple[int, ...] = (1, 64, 256)
    patience: Patience = field(default_factory=Patience)
    n_tokens: tuple[int, ...] = (1, 16, 128, 1024, 4096)
    sides: tuple[int, ...] = (100, 200, 316, 632, 1000, 2000)
    lengths: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384, 32768)
    crossing: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
    contexts: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
    positions: tuple[int, ...] = (100, 1_000, 10_000, 100_000, 1_000_000)


@dataclass(frozen=True)
class Job(Generic[SizeT]):
    """Work for one fresh process: a case at one size, beside some of the peers."""

    case: str
    size: SizeT
    settings: Settings
    peers: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        others = f" with {', '.join(self.peers)}" if self.peers else ""
        return f"{self.case}, {self.size.title}{others}"

    def facts(self, operation: str, batch: int = 1) -> Line:
        """What every line of a comparison says."""
        return {
            "case": self.case,
            "operation": operation,
            "batch": batch,
            "device": self.settings.device,
            "threads": self.settings.n_threads,
            "beside": list(self.peers),
            **self.size.facts(),
        }


@dataclass(frozen=True)
class Case:
    """What it measures, how, in which groups of peers, and at which sizes."""

    summary: str
    lines: Callable[[Job[Any]], Iterator[Line]]
    sizes: Callable[[Settings], list[Any]]
    peers: tuple[tuple[str, ...], ...] = ((),)
