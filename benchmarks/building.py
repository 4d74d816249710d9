"""Time and memory of a new memory, measured in a process that has done nothing else."""

from __future__ import annotations

import time

import numpy as np
import torch

from benchmarks.problems import Size, packed, within
from benchmarks.timing import Line, Patience, summary
from pentti import HammingBall, SparseDistributedMemory, bits
from pentti.kernels import layout
from pentti.peaks import resident_bytes

__all__ = ["build"]

_N_WRITES = 4096  # random words, so that next to every page of the contents is touched


def build(size: Size, patience: Patience) -> Line:
    """Make a memory with int8 counters, several times, and fill the first one.

    Args:
        size: Of the memory.
        patience: How often it is made.

    Returns:
        Times, the bytes its tensors hold, and by how much the process grew: once the memory
        was made, once it was filled, and at most.
    """
    _warm_up(size)
    before, _ = resident_bytes()
    start = time.perf_counter()
    memory = _new(size)
    times = [time.perf_counter() - start]
    made, peak_made = resident_bytes()
    _write(memory)
    filled, peak = resident_bytes()
    line = {
        "tensor_bytes": sum(buffer.nbytes for buffer in memory.buffers()),
        "made_bytes": made - before,
        "made_peak_bytes": peak_made - before,
        "filled_bytes": filled - before,
        "peak_bytes": peak - before,
        "n_writes": _N_WRITES,
    }
    fault = _fault(memory, size)
    if fault is not None:
        return {"error": f"wrong result: {fault}"}
    del memory
    while not patience.is_enough(times):
        start = time.perf_counter()
        _new(size)
        times.append(time.perf_counter() - start)
    return line | summary(times, 1)


def _new(size: Size) -> SparseDistributedMemory:
    decoder = HammingBall(size.address_bits, size.n_locations, radius=size.radius, seed=3)
    return SparseDistributedMemory(decoder, counter_dtype=torch.int8)


def _write(memory: SparseDistributedMemory) -> None:
    generator = torch.Generator().manual_seed(4)
    for _ in range(_N_WRITES // 256):
        memory.write(bits.random(256, memory.address_bits, generator=generator))


def _warm_up(size: Size) -> None:
    """Compile and load everything, so that only the memory itself is counted."""
    decoder = HammingBall(size.address_bits, 800, radius=size.address_bits // 2, seed=3)
    memory = SparseDistributedMemory(decoder, counter_dtype=torch.int8)
    word = bits.random(256, size.address_bits, generator=torch.Generator().manual_seed(5))
    memory.write(word)
    memory.write(word[0])


def _fault(memory: SparseDistributedMemory, size: Size) -> str | None:
    """A memory must activate what the reference does, and hold as many bytes as it says."""
    tiles = memory.get_buffer("decoder.address_tiles")
    hard = layout.untiled(tiles, size.n_locations).contiguous()
    cue = bits.random(1, size.address_bits, generator=torch.Generator().manual_seed(6))
    right, _ = within(hard.numpy().view(np.uint64), packed(cue), size.radius)
    if not np.array_equal(memory.decoder(cue).locations.numpy(), right):
        return "other active locations"
    return None if int(memory.n_written) == _N_WRITES else "another number of words written"
