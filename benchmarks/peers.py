"""Peers that write, read and recall, each used as its own documentation says."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch

from benchmarks.memories import Memory
from benchmarks.problems import Array, Problem, Size, packed
from benchmarks.scanners import signs
from pentti import bits

__all__ = ["PEERS"]


class TorchHD:
    """`torchhd.memory.SparseDistributed`, with our addresses put in; recall is ours."""

    module = "torchhd"
    batched = True
    most_words = 1 << 20
    shares_addresses = True
    tosses_ties = False

    def __init__(self, problem: Problem, n_threads: int, device: str) -> None:
        import torchhd

        torch.set_num_threads(n_threads)
        size = problem.size
        self.memory = torchhd.memory.SparseDistributed(
            size.n_locations, size.address_bits, size.address_bits
        ).to(device)
        for low in range(0, size.n_locations, 1 << 16):
            part = problem.hard[low : low + (1 << 16)].view(np.int64)
            hard = bits.unpack(torch.from_numpy(part), size.address_bits)
            self.memory.keys.data[low : low + len(part)] = signs(hard, device)
        self.memory.threshold = size.address_bits - 2 * size.radius
        self.clear()
        self.cues, self.stored = signs(problem.cues, device), signs(problem.words, device)
        self.complements = -self.stored

    @staticmethod
    def needs_bytes(size: Size) -> int:
        return size.n_locations * size.address_bits * 13

    def write(self, rows: slice, complement: bool) -> None:
        self.memory.write(
            self.stored[rows], self.complements[rows] if complement else self.stored[rows]
        )

    def read(self, rows: slice) -> Any:
        return self.memory.read(self.cues[rows])

    def recall(self, rows: slice) -> Any:
        cue = self.cues[rows]
        for _ in range(20):
            word = 2.0 * (self.memory.read(cue) > 0) - 1.0
            if torch.equal(word, cue):
                break
            cue = word
        return cue

    def words(self, result: Any) -> Array:
        return np.asarray((result.detach().cpu() > 0).numpy())

    def contents(self) -> Array:
        return np.asarray(self.memory.values.data.cpu().numpy())

    def clear(self) -> None:
        self.memory.values.data.zero_()


class SdmFramework:
    """The C library behind `import sdm`, its scan in threads, with our addresses put in."""

    module = "sdm"
    batched = False
    most_words = 1 << 20
    shares_addresses = True
    tosses_ties = True

    def __init__(self, problem: Problem, n_threads: int, device: str) -> None:
        import sdm

        del device
        self.lib, size = sdm, problem.size
        self.shape = (size.n_locations, size.address_bits)
        self.space = sdm.AddressSpace.init_random(size.address_bits, size.n_locations)
        hard = self._mirrored(problem.hard)
        ctypes.memmove(self.space.bs_data, hard.ctypes.data, hard.nbytes)
        self.counter = sdm.Counter.init_zero(size.address_bits, size.n_locations)
        self.memory = sdm.SDM(
            self.space, self.counter, size.radius, sdm.SDM_SCANNER_THREAD, thread_count=n_threads
        )
        self.clear()
        self.cues = self._strings(packed(problem.cues))
        self.stored = self._strings(packed(problem.words))
        self.complements = self._strings(packed(~problem.words))

    @staticmethod
    def needs_bytes(size: Size) -> int:
        return size.n_locations * size.address_bits * 5

    def write(self, rows: slice, complement: bool) -> None:
        data = self.complements if complement else self.stored
        self.memory.write(self.stored[rows.start], data[rows.start])

    def read(self, rows: slice) -> Any:
        return self.memory.read(self.cues[rows.start])

    def recall(self, rows: slice) -> Any:
        return self.memory.iter_read(self.cues[rows.start], max_iter=20)

    def words(self, result: Any) -> Array:
        word = np.ctypeslib.as_array(result.bs_data, shape=(result.bs_len,)).view(np.uint64)
        least_first = self._mirrored(word[None]).view(np.uint8)
        found = np.unpackbits(least_first, axis=-1, count=self.shape[1], bitorder="little")
        return found.astype(bool)

    def contents(self) -> Array:
        return np.ctypeslib.as_array(self.counter.data, shape=self.shape)

    def clear(self) -> None:
        self.contents()[:] = 0

    def _strings(self, words: Array) -> list[Any]:
        strings = []
        for word in self._mirrored(words):
            string = self.lib.Bitstring.init_zeros(self.shape[1])
            ctypes.memmove(string.bs_data, word.ctypes.data, word.nbytes)
            strings.append(string)
        return strings

    @staticmethod
    def _mirrored(words: Array) -> Array:
        """Each 64-bit word with its bits in the opposite order: there bit 0 is the highest."""
        octets = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), bitorder="little")
        flipped = octets.reshape(*words.shape, 64)[..., ::-1]
        return np.packbits(flipped, axis=-1, bitorder="little").view(np.uint64)[..., 0]


class KanervaSDM:
    """The C++ library behind `import kanerva_sdm`, from and to lists; its addresses are its own."""

    module = "kanerva_sdm"
    batched = False
    most_words = 16
    shares_addresses = False
    tosses_ties = False

    def __init__(self, problem: Problem, n_threads: int, device: str) -> None:
        import kanerva_sdm

        del n_threads, device
        size = problem.size
        self.memory = kanerva_sdm.KanervaSDM(
            size.address_bits, size.address_bits, size.n_locations, size.radius
        )
        some = slice(self.most_words)
        self.cues = problem.cues[some].int().tolist()
        self.stored = problem.words[some].int().tolist()
        self.complements = (~problem.words[some]).int().tolist()

    @staticmethod
    def needs_bytes(size: Size) -> int:
        return size.n_locations * size.address_bits * 8

    def write(self, rows: slice, complement: bool) -> None:
        data = self.complements if complement else self.stored
        self.memory.write(self.stored[rows.start], data[rows.start])

    def read(self, rows: slice) -> Any:
        return self.memory.read(self.cues[rows.start])

    def recall(self, rows: slice) -> Any:
        word = self.cues[rows.start]
        for _ in range(20):
            previous, word = word, self.memory.read(word)
            if word == previous:
                break
        return word

    def words(self, result: Any) -> Array:
        return np.array([result], dtype=bool)

    def contents(self) -> Array:
        raise NotImplementedError

    def clear(self) -> None:
        self.memory.erase_memory()


class Numpy:
    """What one would write first, one cue at a time, with int16 counters."""

    module = "numpy"
    batched = False
    most_words = 1 << 20
    shares_addresses = True
    tosses_ties = False

    def __init__(self, problem: Problem, n_threads: int, device: str) -> None:
        del n_threads, device
        self.hard, self.radius = problem.hard, problem.size.radius
        self.counters = np.zeros((len(self.hard), problem.size.address_bits), dtype=np.int16)
        self.clear()
        self.cues, self.stored = packed(problem.cues), packed(problem.words)
        self.steps = (2 * problem.words.numpy().astype(np.int16)) - 1

    @staticmethod
    def needs_bytes(size: Size) -> int:
        return size.n_locations * size.address_bits * 2

    def write(self, rows: slice, complement: bool) -> None:
        step = self.steps[rows.start]
        self.counters[self._active(self.stored[rows.start])] += -step if complement else step

    def read(self, rows: slice) -> Any:
        return self._read(self.cues[rows.start])

    def recall(self, rows: slice) -> Any:
        cue = self.cues[rows.start]
        for _ in range(20):
            word = self._read(cue)
            again = packed(torch.from_numpy(word))
            if np.array_equal(again, cue):
                break
            cue = again
        return word

    def words(self, result: Any) -> Array:
        return np.asarray(result)[None]

    def contents(self) -> Array:
        return self.counters

    def clear(self) -> None:
        self.counters.fill(0)

    def _active(self, cue: Array) -> Array:
        return np.flatnonzero(np.bitwise_count(self.hard ^ cue).sum(1) <= self.radius)

    def _read(self, cue: Array) -> Array:
        return np.asarray(self.counters[self._active(cue)].sum(0) > 0)


PEERS: dict[str, type[Memory]] = {
    "numpy loop": Numpy,
    "sdm": SdmFramework,
    "torch-hd": TorchHD,
    "KanervaSDM": KanervaSDM,
}
