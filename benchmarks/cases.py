"""The cases: which comparisons each makes, in jobs that are small enough to fit in memory."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import torch

from benchmarks import building, machine
from benchmarks.entries import memory_entry, part_entry, scan_entry
from benchmarks.memories import Memory, Pentti
from benchmarks.peers import PEERS
from benchmarks.problems import BOOK, SMALL, Problem, Size
from benchmarks.scanners import SCANNERS, Scanner
from benchmarks.streams import stream
from benchmarks.timing import Comparison, Line, Patience, measure

__all__ = ["CASES", "Case", "Job", "Settings", "jobs"]

_DTYPES = {"int8": torch.int8, "int16": torch.int16}


@dataclass(frozen=True)
class Settings:
    """What the command line decides."""

    n_threads: int = 2
    device: str = "cpu"
    n_locations: tuple[int, ...] = (100_000, 1_000_000)
    batches: tuple[int, ...] = (1, 64, 256)
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True)
class Job:
    """Work for one fresh process: a case at one size, beside some of the peers."""

    case: str
    size: Size
    settings: Settings
    peers: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        beside = f" beside {', '.join(self.peers)}" if self.peers else ""
        return f"{self.case}, {self.size.n_locations:,} locations{beside}"

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

    def lines(self) -> Iterator[Line]:
        """Do the work."""
        torch.set_num_threads(self.settings.n_threads)
        return CASES[self.case].lines(self)


@dataclass(frozen=True)
class Case:
    """What it measures, how, in which groups of peers, and at which sizes if its own."""

    summary: str
    lines: Callable[[Job], Iterator[Line]]
    peers: tuple[tuple[str, ...], ...] = ((),)
    size: Size | None = None


def jobs(name: str, settings: Settings) -> list[Job]:
    """The jobs of a case, the smallest size first.

    Args:
        name: One of `CASES`.
        settings: Sizes, batches and threads.
    """
    case = CASES[name]
    sizes = [replace(BOOK, n_locations=n) for n in settings.n_locations]
    if case.size is not None:
        sizes = [case.size]
        settings = replace(settings, batches=(case.size.n_words,))
    return [Job(name, size, settings, peers) for size in sizes for peers in case.peers]


def _stream(job: Job) -> Iterator[Line]:
    tiles = Problem(job.size).decoder.to(job.settings.device).address_tiles
    entry = stream(tiles, job.settings.n_threads)
    yield from measure(Comparison(job.facts("stream"), [entry]), job.settings.patience)


def _scan(job: Job) -> Iterator[Line]:
    problem, settings = Problem(job.size), job.settings
    scanners: dict[str, Scanner] = {}
    for name in ("pentti", *job.peers):
        reason = _excuse(name, SCANNERS[name].module, SCANNERS[name].needs_bytes(job.size), job)
        if reason is not None:
            yield {**job.facts("scan"), "entry": name, "skipped": reason}
        else:
            scanners[name] = SCANNERS[name](problem, settings.n_threads, settings.device)
    floor = stream(problem.decoder.address_tiles, settings.n_threads)
    for batch in settings.batches:
        entries = [scan_entry(name, who, problem, batch) for name, who in scanners.items()]
        comparison = Comparison(job.facts("scan", batch), entries, floor, contender="pentti")
        yield from measure(comparison, settings.patience)


def _memory(job: Job) -> Iterator[Line]:
    yield from _operations(job, ("write", "read", "recall"))


def _small(job: Job) -> Iterator[Line]:
    yield from _operations(job, ("read",))


def _operations(job: Job, operations: tuple[str, ...]) -> Iterator[Line]:
    problem, settings = Problem(job.size), job.settings
    penttis = {
        f"pentti {name}": Pentti(problem, settings.n_threads, settings.device, dtype)
        for name, dtype in _DTYPES.items()
    }
    memories: dict[str, Memory] = dict(penttis)
    for name in job.peers:
        reason = _excuse(name, PEERS[name].module, PEERS[name].needs_bytes(job.size), job)
        if reason is not None:
            yield {**job.facts(operations[0]), "entry": name, "skipped": reason}
        else:
            memories[name] = PEERS[name](problem, settings.n_threads, settings.device)
    floor = stream(problem.decoder.address_tiles, settings.n_threads)
    for operation in operations:
        if operation == "read":
            _fill(memories.values(), problem)
        for batch in settings.batches:
            entries = [
                memory_entry(name, who, problem, batch, operation) for name, who in memories.items()
            ]
            if operation != "recall":
                entries += [
                    part_entry(name.removeprefix("pentti "), who, problem, batch, operation)
                    for name, who in penttis.items()
                ]
            comparison = Comparison(job.facts(operation, batch), entries, floor)
            yield from measure(comparison, settings.patience)


def _build(job: Job) -> Iterator[Line]:
    line = building.build(job.size, job.settings.patience)
    yield {**job.facts("build"), "entry": "pentti int8", "n_cues": 1, **line}


def _excuse(name: str, module: str, needs_bytes: int, job: Job) -> str | None:
    """Why someone takes no part; None if they do."""
    if importlib.util.find_spec(module) is None:
        return "not installed"
    if job.settings.device != "cpu" and name not in ("pentti", "torch-hd", "dense product"):
        return "runs on the CPU only"
    free = machine.free_bytes()
    if needs_bytes > free:
        return f"needs {needs_bytes / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"
    return None


def _fill(memories: Iterable[Memory], problem: Problem) -> None:
    """Store all words, once: reads leave them as they are."""
    for who in memories:
        n_words = min(who.most_words, problem.size.n_words)
        step = n_words if who.batched else 1
        for first in range(0, n_words, step):
            who.write(slice(first, first + step), False)


CASES = {
    "stream": Case("read the packed addresses and no more: the floor", _stream),
    "scan": Case(
        "which hard locations lie within the radius",
        _scan,
        (("faiss", "numkong", "numpy loop"), ("dense product",)),
    ),
    "memory": Case(
        "write, read and recall",
        _memory,
        (("numpy loop", "sdm"), ("torch-hd",), ("KanervaSDM",)),
    ),
    "build": Case("time and memory of a new memory", _build),
    "small": Case("reads from 20,000 locations of 256 bits", _small, (("sdm", "torch-hd"),), SMALL),
}
