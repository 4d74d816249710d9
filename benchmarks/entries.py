"""Entries of the comparisons: inputs that change with each repetition, and what must come out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.memories import Memory, Pentti
from benchmarks.problems import Activation, Problem
from benchmarks.scanners import Scanner
from benchmarks.timing import Entry
from pentti import kernels

__all__ = ["memory_entry", "part_entry", "scan_entry"]

Turns = Callable[[int], tuple[slice, bool]]
Parts = list[tuple[torch.Tensor, torch.Tensor]]


def scan_entry(name: str, who: Scanner, problem: Problem, batch: int) -> Entry:
    """Find the active locations of some cues.

    Args:
        name: Of the entry.
        who: Scans.
        problem: Has the cues.
        batch: How many cues at a time, where `who` takes several.
    """
    batch = batch if who.batched else 1
    turn = _turns(problem.size.n_words, batch)

    def fault(result: Any) -> str | None:
        locations, offsets = problem.cue_activation
        found, edges = who.activation(result)
        if not np.array_equal(edges, offsets[: batch + 1]):
            return "another number of active locations"
        right = np.array_equal(found, locations[: offsets[batch]])
        return None if right else "other active locations"

    return Entry(name, lambda repetition: who.scan(turn(repetition)[0]), batch, fault)


def memory_entry(name: str, who: Memory, problem: Problem, batch: int, operation: str) -> Entry:
    """Write, read or recall some words.

    Args:
        name: Of the entry.
        who: Is empty before a write, and holds all words otherwise.
        problem: Has the words.
        batch: How many at a time, where `who` takes several.
        operation: "write", "read" or "recall".
    """
    batch = batch if who.batched else 1
    n_words = min(who.most_words, problem.size.n_words)
    turn = _turns(n_words, batch)
    if operation == "write":
        return Entry(
            name,
            lambda repetition: who.write(*turn(repetition)),
            batch,
            lambda _: _write_fault(who, problem, batch),
            who.clear,
        )
    right, sure = problem.words.numpy(), np.True_
    if operation == "read" and who.shares_addresses:
        sums = problem.sums(n_words)[:batch]
        right, sure = sums > 0, (sums != 0) | ~np.bool_(who.tosses_ties)
    get = who.read if operation == "read" else who.recall

    def fault(result: Any) -> str | None:
        wrong = int(((who.words(result) != right[:batch]) & sure).sum())
        return f"{wrong} bits differ" if wrong else None

    return Entry(name, lambda repetition: get(turn(repetition)[0]), batch, fault)


def part_entry(dtype: str, who: Pentti, problem: Problem, batch: int, operation: str) -> Entry:
    """The scatter of a write, or the gather of a read, on an activation that is given.

    Args:
        dtype: Of the counters, for the name.
        who: Has the contents.
        problem: Has the activation.
        batch: How many cues at a time.
        operation: "write" or "read".
    """
    contents, turn = who.memory.contents, _turns(problem.size.n_words, batch)
    apply = kernels.for_device(contents.device)
    if operation == "read":
        cues = _parts(problem.cue_activation, batch, contents.device)
        right = problem.sums(problem.size.n_words)[:batch]

        def gather(repetition: int) -> torch.Tensor:
            locations, offsets = cues[turn(repetition)[0].start // batch]
            return apply.sum_rows(contents, locations, offsets)

        def fault(sums: torch.Tensor) -> str | None:
            return None if np.array_equal(sums.cpu().numpy(), right) else "other sums"

        return Entry(f"gather {dtype}", gather, batch, fault)

    words = _parts(problem.word_activation, batch, contents.device)
    steps = torch.from_numpy(problem.steps).to(device=contents.device, dtype=torch.int8)

    def scatter(repetition: int) -> None:
        rows, complement = turn(repetition)
        data = -steps[rows] if complement else steps[rows]
        locations, offsets = words[rows.start // batch]
        apply.add_rows(contents, locations, offsets, data)

    return Entry(
        f"scatter {dtype}", scatter, batch, lambda _: _write_fault(who, problem, batch), who.clear
    )


def _turns(n_inputs: int, batch: int) -> Turns:
    """For each repetition the next cues, and on every other round through all of them, True.

    New cues find new counters, not those that the last repetition left in the cache.
    """
    n_turns = max(1, n_inputs // batch)

    def turn(repetition: int) -> tuple[slice, bool]:
        first = repetition % n_turns * batch
        return slice(first, first + batch), bool(repetition // n_turns % 2)

    return turn


def _write_fault(who: Memory, problem: Problem, batch: int) -> str | None:
    if who.shares_addresses:
        return problem.contents_fault(who.contents(), batch)
    read = who.words(who.read(slice(0, batch)))
    right = np.array_equal(read, problem.words.numpy()[:batch])
    return None if right else "what was written does not come back"


def _parts(activation: Activation, batch: int, device: torch.device) -> Parts:
    """The activation cut into batches."""
    locations, offsets = activation
    parts = []
    for first in range(0, len(offsets) - batch, batch):
        edges = offsets[first : first + batch + 1]
        part = torch.from_numpy(locations[edges[0] : edges[-1]]).to(device)
        parts.append((part, torch.from_numpy(edges - edges[0]).to(device)))
    return parts
