"""The cases: which comparisons each makes, in jobs that are small enough to fit in memory."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch

from benchmarks import (
    attentions,
    building,
    layer_costs,
    layers,
    machine,
    optimisers,
    sequences,
)
from benchmarks.attentions import AttentionSize
from benchmarks.entries import memory_entry, part_entry, scan_entry
from benchmarks.jobs import Case, Job, Settings
from benchmarks.layer_peers import LAYER
from benchmarks.memories import Memory, Pentti
from benchmarks.peers import PEERS
from benchmarks.problems import BOOK, SMALL, Problem, Size
from benchmarks.scanners import SCANNERS, Scanner
from benchmarks.sequences import SequenceSize
from benchmarks.streams import stream
from benchmarks.timing import Comparison, Line, measure

__all__ = ["CASES", "jobs", "lines"]

_LONGEST_BACKWARD = 32_768
_DTYPES = {"int8": torch.int8, "int16": torch.int16}


def jobs(name: str, settings: Settings) -> list[Job[Any]]:
    """The jobs of a case, the smallest size first.

    Args:
        name: One of `CASES`.
        settings: Sizes, batches and threads.
    """
    case = CASES[name]
    return [
        Job(name, size, settings, peers) for size in case.sizes(settings) for peers in case.peers
    ]


def lines(job: Job[Any]) -> Iterator[Line]:
    """Do the work of a job.

    Args:
        job: Of one of `CASES`.
    """
    torch.set_num_threads(job.settings.n_threads)
    return CASES[job.case].lines(job)


def _book(settings: Settings) -> list[Size]:
    return [replace(BOOK, n_locations=n) for n in settings.n_locations]


def _stream(job: Job[Size]) -> Iterator[Line]:
    tiles = Problem(job.size).decoder.to(job.settings.device).address_tiles
    entry = stream(tiles, job.settings.n_threads)
    yield from measure(Comparison(job.facts("stream"), [entry]), job.settings.patience)


def _scan(job: Job[Size]) -> Iterator[Line]:
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


def _memory(job: Job[Size]) -> Iterator[Line]:
    yield from _operations(job, ("write", "read", "recall"))


def _small(job: Job[Size]) -> Iterator[Line]:
    settings = replace(job.settings, batches=(job.size.n_words,))
    yield from _operations(replace(job, settings=settings), ("read",))


def _operations(job: Job[Size], operations: tuple[str, ...]) -> Iterator[Line]:
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


def _build(job: Job[Size]) -> Iterator[Line]:
    line = building.build(job.size, job.settings.patience)
    yield {**job.facts("build"), "entry": "pentti int8", "n_cues": 1, **line}


def _excuse(name: str, module: str, needs_bytes: int, job: Job[Size]) -> str | None:
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


def _sequences(lengths: tuple[int, ...]) -> list[SequenceSize]:
    """Forward at every length; backward where dense attention takes less than a minute."""
    forward = [SequenceSize(length) for length in lengths]
    short = [length for length in lengths if length <= _LONGEST_BACKWARD]
    return forward + [SequenceSize(n, operation="forward + backward") for n in short]


CASES = {
    "stream": Case("read the packed addresses and no more: the floor", _stream, _book),
    "scan": Case(
        "which hard locations lie within the radius",
        _scan,
        _book,
        (("faiss", "numkong", "numpy loop"), ("dense product",)),
    ),
    "memory": Case(
        "write, read and recall",
        _memory,
        _book,
        (("numpy loop", "sdm"), ("torch-hd",), ("KanervaSDM",)),
    ),
    "build": Case("time and memory of a new memory", _build, _book),
    "small": Case(
        "reads from 20,000 locations of 256 bits", _small, lambda _: [SMALL], (("sdm", "torch-hd"),)
    ),
    "layer": Case(
        "a memory layer, forward and with gradients",
        layers.time_layers,
        lambda _: [LAYER],
        (
            (
                "product-key-memory",
                "product-key-memory, 64 wide",
                "product-key-memory, sparse",
                "attention",
            ),
            ("pentti CosineCap", "GEMM + top-k", "GEMM + threshold", "naive cosine"),
        ),
    ),
    "layer-memory": Case(
        "peak extra memory of a layer",
        layer_costs.peaks,
        lambda _: layer_costs.weighings(LAYER),
        tuple((name,) for name in layer_costs.WEIGHED),
    ),
    "layer-size": Case(
        "a layer of 10,000 to 4,000,000 locations", layer_costs.sizes, lambda _: [LAYER]
    ),
    "crossing": Case(
        "a layer beside attention over longer and longer sequences",
        layer_costs.crossing,
        lambda _: [LAYER],
    ),
    "optimiser": Case("one step for the contents of a layer", optimisers.steps, lambda _: [LAYER]),
    "attention": Case(
        "dense and sparse attention beside SDPA",
        attentions.time_attention,
        lambda settings: [AttentionSize(length) for length in settings.lengths],
    ),
    "sequence": Case(
        "the sequence memory beside SDPA and linear attention, by length",
        sequences.time_sequences,
        lambda settings: _sequences(settings.contexts),
    ),
    "token": Case(
        "one more token of a sequence memory, after more and more of them",
        sequences.stream_tokens,
        lambda settings: [AttentionSize(max(settings.positions))],
    ),
}
