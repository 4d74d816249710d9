"""What a memory must offer to be timed, and pentti's own.

A memory is made from a problem and prepares its inputs outside the time. `write` takes the
complements of the words on request, which undoes an earlier write by an ordinary one.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

from benchmarks.problems import Array, Problem, Size
from pentti import SparseDistributedMemory

__all__ = ["Memory", "Pentti"]


class Memory(Protocol):
    """One way to keep words.

    Attributes:
        module: What must be installed.
        batched: Whether a call takes several cues.
        most_words: As many of the problem's words as can be stored in sensible time.
        shares_addresses: Whether it has the problem's hard addresses, so that its contents
            and its words must equal the reference; else it must give back what was stored.
        tosses_ties: Whether a sum of 0 reads as a random bit, which then may differ.
    """

    module: str
    batched: bool
    most_words: int
    shares_addresses: bool
    tosses_ties: bool

    def __init__(self, problem: Problem, n_threads: int, device: str) -> None: ...

    @staticmethod
    def needs_bytes(size: Size) -> int: ...

    def write(self, rows: slice, complement: bool) -> None: ...

    def read(self, rows: slice) -> Any: ...

    def recall(self, rows: slice) -> Any: ...

    def words(self, result: Any) -> Array: ...

    def contents(self) -> Array: ...

    def clear(self) -> None: ...


class Pentti:
    """`SparseDistributedMemory` on a `HammingBall`, from and to boolean tensors."""

    module = "pentti"
    batched = True
    most_words = 1 << 20
    shares_addresses = True
    tosses_ties = False

    def __init__(
        self, problem: Problem, n_threads: int, device: str, dtype: torch.dtype = torch.int8
    ) -> None:
        torch.set_num_threads(n_threads)
        decoder = problem.decoder.to(device)
        self.memory = SparseDistributedMemory(decoder, counter_dtype=dtype)
        self.clear()
        self.cues, self.stored = problem.cues.to(device), problem.words.to(device)
        self.complements = ~self.stored

    @staticmethod
    def needs_bytes(size: Size) -> int:
        return size.n_locations * size.address_bits * 3

    def write(self, rows: slice, complement: bool) -> None:
        self.memory.write(
            self.stored[rows], self.complements[rows] if complement else self.stored[rows]
        )

    def read(self, rows: slice) -> Any:
        return self.memory.read(self.cues[rows]).word

    def recall(self, rows: slice) -> Any:
        return self.memory.recall(self.cues[rows]).word

    def words(self, result: Any) -> Array:
        return np.asarray(result.cpu().numpy())

    def contents(self) -> Array:
        return np.asarray(self.memory.contents.cpu().numpy())

    def clear(self) -> None:
        """Forget; this also touches every page, else a gather reads one page of zeros."""
        self.memory.clear()
