"""What the cases work on, and what the results must be: plain NumPy, one cue at a time."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch

from pentti import bits, decoders
from pentti.kernels import layout

__all__ = ["BOOK", "SMALL", "Activation", "Problem", "Size", "csr", "packed", "within"]

Array = npt.NDArray[Any]
Activation = tuple[Array, Array]
"""Active locations and offsets, as in `pentti.activation.Activation`."""

_BLOCK = 1 << 14  # addresses compared at a time, so that scratch stays in the cache


@dataclass(frozen=True)
class Size:
    """A memory and what is stored in it; each word is its own address.

    Attributes:
        address_bits: Width of an address and of a word.
        n_locations: Number of hard locations.
        radius: Activation radius in bits.
        noise: How many bits of each cue are wrong.
        n_words: How many words are stored; there is one cue for each.
    """

    address_bits: int
    n_locations: int
    radius: int
    noise: int
    n_words: int

    @property
    def title(self) -> str:
        return f"{self.n_locations:,} locations"

    def facts(self) -> dict[str, int]:
        """What a line says of the size."""
        return {
            "address_bits": self.address_bits,
            "n_locations": self.n_locations,
            "radius": self.radius,
        }


BOOK = Size(address_bits=1000, n_locations=1_000_000, radius=451, noise=100, n_words=256)
"""The sizes of Kanerva's book."""
SMALL = Size(address_bits=256, n_locations=20_000, radius=105, noise=20, n_words=1000)


class Problem:
    """Hard addresses, stored words and noisy cues of one size, always the same ones."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.decoder = decoders.HammingBall(
            size.address_bits, size.n_locations, radius=size.radius, seed=1
        )
        hard = layout.untiled(self.decoder.address_tiles, size.n_locations).contiguous()
        self.hard = hard.numpy().view(np.uint64)
        generator = torch.Generator().manual_seed(2)
        self.words = bits.random(size.n_words, size.address_bits, generator=generator)
        self.cues = bits.flip(self.words, size.noise, generator=generator)

    @functools.cached_property
    def cue_activation(self) -> Activation:
        """Which locations each cue activates."""
        return within(self.hard, packed(self.cues), self.size.radius)

    @functools.cached_property
    def word_activation(self) -> Activation:
        """Which locations each stored word activates."""
        return within(self.hard, packed(self.words), self.size.radius)

    @functools.cached_property
    def steps(self) -> Array:
        """What a write adds: ±1."""
        return 2 * self.words.numpy().astype(np.int64) - 1

    def sums(self, n_stored: int) -> Array:
        """What each cue must read, int64 (cues, bits): circle intersections times words."""
        cues = self._matrix(self.cue_activation)
        stored = self._matrix(self.word_activation)[:n_stored]
        overlap: Array = (cues @ stored.T).toarray()
        return overlap @ self.steps[:n_stored]

    def contents_fault(self, contents: Array, n_written: int) -> str | None:
        """What is wrong with the contents of an empty memory after some words were written.

        Args:
            contents: Counters of shape (locations, bits).
            n_written: How many of the words, from the first one.
        """
        active, steps = self._matrix(self.word_activation)[:n_written], self.steps[:n_written]
        if not np.array_equal(contents.sum(0, dtype=np.int64), active.sum(1).A1 @ steps):
            return "the counters do not add up to what was written"
        rows = np.unique(active.indices)
        rows = rows[:: max(1, len(rows) // 2000)]
        if not np.array_equal(contents[rows].astype(np.int64), active[:, rows].T @ steps):
            return "an active location does not hold what was written"
        return None

    def _matrix(self, activation: Activation) -> Any:
        locations, offsets = activation
        ones = np.ones(len(locations), dtype=np.int64)
        shape = (len(offsets) - 1, self.size.n_locations)
        return scipy.sparse.csr_matrix((ones, locations, offsets), shape=shape)


def packed(words: torch.Tensor) -> Array:
    """Words of 64 bits, as unsigned integers."""
    return bits.pack(words).numpy().view(np.uint64)


def within(hard: Array, cues: Array, radius: int) -> Activation:
    """The reference: which hard addresses lie within the radius of each cue.

    Args:
        hard: Packed addresses, uint64 (locations, words).
        cues: Packed cues, uint64 (cues, words).
        radius: Largest distance that counts, in bits.
    """

    def active(cue: Array) -> Array:
        parts = []
        for low in range(0, len(hard), _BLOCK):
            different = np.bitwise_count(hard[low : low + _BLOCK] ^ cue)
            parts.append(np.flatnonzero(different.sum(1, dtype=np.int64) <= radius) + low)
        return np.concatenate(parts)

    with ThreadPoolExecutor(2) as pool:
        return csr(list(pool.map(active, cues)))


def csr(rows: list[Array]) -> Activation:
    """One list of active locations for each cue, put end to end."""
    offsets = np.cumsum([0, *(len(row) for row in rows)])
    return np.concatenate([np.zeros(0, dtype=np.int64), *rows]), offsets
