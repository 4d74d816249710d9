"""Kanerva's memory: counters at hard locations that an address activates together."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pentti import bits, checks, decoders, kernels, persistence, reals
from pentti.activation import Activation
from pentti.decoders import Decoder
from pentti.errors import ArgumentError, StoreError
from pentti.readings import MeanReading, MemoryStatistics, Reading, Recall, Replay, SumsReading

__all__ = ["SparseDistributedMemory"]

_INTEGERS = (torch.int8, torch.int16, torch.int32)
_DTYPES = {str(dtype): dtype for dtype in (*_INTEGERS, torch.float32, torch.float64)}
_BLOCK_ENTRIES = 1 << 21  # active locations held at a time
_BLOCK_CUES = 2048
_CHANCE_CUES = 256  # random cues that familiarity is compared with


class SparseDistributedMemory(nn.Module):
    """Stores words at addresses and finds them again from addresses nearby.

    Writing adds +1 for a one and −1 for a zero to each bit's counter at every active
    hard location; reading sums the counters of the active locations and takes the sign, a
    sum of 0 as bit 0. Counters saturate: one at the end of its range forgets how far beyond
    it was written, which costs nothing where fewer words than that meet at one location
    (Kanerva needs no more than −15 … 15), and a later `erase` no longer undoes the write.

    With a floating `counter_dtype` the contents are real: a write adds the data themselves.

    Every call takes one address of shape (N,) or a batch (…, N), as a tensor, an array or a
    list of 0/1, leaves it as it was, and works through a batch in blocks of bounded size. After
    Ctrl-C in a long write, the blocks before it are written and counted, the rest are not.

    Args:
        decoder: Chooses the hard locations that an address activates.
        word_bits: Width of a word in bits, U; None for the width of an address.
        counter_dtype: int8, int16, int32, or float32, float64 for real contents.

    Raises:
        ArgumentError: if the decoder is none, the width is below 1 or the dtype another.

    Examples:
        >>> decoder = decoders.HammingBall(256, 2000, activation_probability=0.01, seed=7)
        >>> memory = SparseDistributedMemory(decoder, word_bits=256)
        >>> generator = torch.Generator().manual_seed(0)
        >>> word = bits.random(1, 256, generator=generator)[0]
        >>> memory.write(word)
        tensor(17)
        >>> cue = bits.flip(word, 40, generator=generator)
        >>> read, meter = memory.read(cue)
        >>> int(bits.hamming_distance(read, word)), int(meter)
        (0, 12)

    **Source:** Kanerva, *Sparse Distributed Memory* (1988), chapters 6–8.
    """

    contents: Tensor
    n_written: Tensor

    def __init__(
        self,
        decoder: Decoder,
        word_bits: int | None = None,
        *,
        counter_dtype: torch.dtype = torch.int16,
    ) -> None:
        super().__init__()
        if not isinstance(decoder, Decoder) or not isinstance(decoder, nn.Module):
            checks.reject("SparseDistributedMemory", "decoder", "be a decoder", decoder)
        checks.one_of("SparseDistributedMemory", "counter_dtype", counter_dtype, _DTYPES.values())
        width = decoder.address_bits if word_bits is None else word_bits
        self.decoder = decoder
        self.word_bits = checks.count("SparseDistributedMemory", "word_bits", width)
        shape, device = (decoder.n_locations, self.word_bits), decoder.device
        self.register_buffer("contents", torch.zeros(shape, dtype=counter_dtype, device=device))
        self.register_buffer("n_written", torch.zeros((), dtype=torch.int64))
        self._chance: tuple[tuple[int, ...], float, float] | None = None
        self._n_changes = 0

    @property
    def address_bits(self) -> int:
        """Width of an address in bits, N."""
        return self.decoder.address_bits

    @property
    def n_locations(self) -> int:
        """Number of hard locations, M."""
        return self.decoder.n_locations

    @property
    def counter_dtype(self) -> torch.dtype:
        """Type of the contents."""
        return self.contents.dtype

    def write(self, address: Any, word: Any = None) -> Tensor:
        """Store words at addresses.

        Args:
            address: Bits of shape (…, N).
            word: Bits of shape (…, U), or real numbers for real contents; None stores
                the address itself (autoassociative).

        Returns:
            The meter, int64 of shape (…): how many hard locations took the word.

        Raises:
            ArgumentError: if a shape, a value or a device is wrong; then nothing is written.
        """
        return self._add("write", address, word, +1)

    def erase(self, address: Any, word: Any = None) -> Tensor:
        """Take words out again: the exact opposite of `write` while no counter is saturated.

        Args:
            address: Bits of shape (…, N).
            word: As it was written.

        Returns:
            The meter, int64 of shape (…).

        Raises:
            ArgumentError: if a shape, a value or a device is wrong; then nothing is erased.
        """
        return self._add("erase", address, word, -1)

    def read(self, cue: Any) -> Reading:
        """Read the word stored near each cue, once.

        Args:
            cue: Bits of shape (…, N).

        Returns:
            The word, bool of shape (…, U), with its meter. Where nothing is active or stored,
            all sums are 0 and so are all bits.

        Raises:
            ArgumentError: if the shape, a value or the device is wrong.
        """
        cues, shape = self._flat("read", "cue", cue)
        word = torch.empty((len(cues), self.word_bits), dtype=torch.bool, device=cues.device)
        meter = torch.empty(len(cues), dtype=torch.int64, device=cues.device)
        for rows, activation in self._blocks(cues):
            word[rows] = kernels.for_device(cues.device).majority_rows(
                self.contents, activation.locations, activation.offsets, activation.weights
            )
            meter[rows] = activation.meter
        return Reading(word.view(*shape, self.word_bits), meter.view(shape))

    def read_sums(self, cue: Any) -> SumsReading:
        """Sum the contents of the hard locations that each cue activates.

        Args:
            cue: Bits of shape (…, N).

        Returns:
            The sums, int64 (float64 for real contents or a decoder with weights) of shape
            (…, U), with the meter.

        Raises:
            ArgumentError: if the shape, a value or the device is wrong.
        """
        cues, shape = self._flat("read_sums", "cue", cue)
        parts = [(self._sums(activation), activation.meter) for _, activation in self._blocks(cues)]
        sums, meter = (torch.cat(column) for column in zip(*parts, strict=True))
        return SumsReading(sums.view(*shape, self.word_bits), meter.view(shape))

    def read_mean(self, cue: Any, weights: Any = None) -> MeanReading:
        """Average the contents of the hard locations that each cue activates.

        Args:
            cue: Bits of shape (…, N).
            weights: One number of at least 0 for each hard location, shape (M,), such as how far
                each is to be trusted; None weighs all alike.

        Returns:
            The mean, float64 of shape (…, U), 0 where nothing is active, with the meter.

        Raises:
            ArgumentError: if a shape, a value or a device is wrong.
        """
        cues, shape = self._flat("read_mean", "cue", cue)
        share = None
        if weights is not None:
            device = self.contents.device
            share = reals.as_weights("read_mean", "weights", weights, self.n_locations, device)
        mean = torch.empty((len(cues), self.word_bits), dtype=torch.float64, device=cues.device)
        meter = torch.empty(len(cues), dtype=torch.int64, device=cues.device)
        for rows, activation in self._blocks(cues):
            weighted = activation.weighted(share)
            total = weighted.total_weight.clamp_min(torch.finfo(torch.float64).tiny)
            mean[rows] = self._sums(weighted) / total[:, None]
            meter[rows] = activation.meter
        return MeanReading(mean.view(*shape, self.word_bits), meter.view(shape))

    def recall(self, cue: Any, max_reads: int = 20) -> Recall:
        """Read, take what was read as the next cue, and so on until nothing changes.

        Args:
            cue: Bits of shape (…, N).
            max_reads: Most reads for a cue, at least 1.

        Returns:
            The word that each cue settled on, or the last one read.

        Raises:
            ArgumentError: if words and addresses differ in width, or an argument is wrong.
        """
        self._check_autoassociative("recall")
        checks.count("recall", "max_reads", max_reads)
        cues, shape = self._flat("recall", "cue", cue)
        word = cues.clone()
        n_reads = torch.zeros(len(word), dtype=torch.int64, device=word.device)
        meter, settled = torch.zeros_like(n_reads), torch.zeros_like(n_reads, dtype=torch.bool)
        for _ in range(max_reads):
            moving = (~settled).nonzero().flatten()
            if not len(moving):
                break
            reading = self.read(word[moving])
            settled[moving] = (reading.word == word[moving]).all(-1)
            word[moving], meter[moving] = reading
            n_reads[moving] += 1
        return Recall(
            word.view(*shape, self.word_bits),
            meter.view(shape),
            n_reads.view(shape),
            settled.view(shape),
        )

    def write_sequence(self, patterns: Any) -> Tensor:
        """Store a chain: each pattern is the address of the one that follows it.

        Args:
            patterns: Bits of shape (L, N), at least two.

        Returns:
            The meter of each write, int64 of shape (L − 1,).

        Raises:
            ArgumentError: if words and addresses differ in width, or there are fewer than
                two patterns.

        **Source:** Kanerva 1988, chapter 8.
        """
        self._check_autoassociative("write_sequence")
        chain = bits.as_bits(
            "write_sequence", "patterns", patterns, self.address_bits, self.contents.device
        )
        if chain.ndim != 2 or len(chain) < 2:
            got = checks.Words(f"shape {tuple(chain.shape)}")
            expected = f"have shape (at least 2, {self.address_bits})"
            checks.reject("write_sequence", "patterns", expected, got)
        return self.write(chain[:-1], chain[1:])

    def replay(self, cue: Any, n_steps: int) -> Replay:
        """Follow a stored chain from any of its elements, noisy or not.

        Args:
            cue: Bits of shape (…, N).
            n_steps: How many patterns to read, at least 1.

        Returns:
            The patterns that follow the cue, the nearest first.

        Raises:
            ArgumentError: if words and addresses differ in width, or an argument is wrong.
        """
        self._check_autoassociative("replay")
        steps: list[Reading] = []
        for _ in range(checks.count("replay", "n_steps", n_steps)):
            steps.append(self.read(cue if not steps else steps[-1].word))
        words, meter = zip(*steps, strict=True)
        return Replay(torch.stack(words), torch.stack(meter))

    def familiarity(self, cue: Any) -> Tensor:
        """How much stronger the reading of a cue is than random cues read by chance.

        A z-score: the mean square of the cue's sums, less the mean of the same for 256 random
        cues, over their standard deviation. Near 0 for a cue that lies near nothing stored, far
        above for a stored one (the report's section on relevance shows how far). The activation
        count says nothing of the kind: for random hard addresses it is Binomial(M, p) whatever is
        stored. The 256 reads are made anew after the contents change.

        Args:
            cue: Bits of shape (…, N).

        Returns:
            The z-scores, float64 of shape (…); all 0 in an empty memory.

        Raises:
            ArgumentError: if the shape, a value or the device is wrong.
        """
        cues, shape = self._flat("familiarity", "cue", cue)
        mean, spread = self._chance_strength()
        return ((self._strength(cues) - mean) / spread).view(shape)

    def decay(self, factor: float, *, generator: torch.Generator | None = None) -> None:
        """Fade all contents: multiply them by a factor.

        Integer counters are rounded up or down at random, so that the mean is exact; rounding
        to nearest would either wipe out every counter of 1 or leave it for good.

        Args:
            factor: From 0 (forget all) to 1 (change nothing).
            generator: Source of randomness on the CPU, needed for integer counters.

        Raises:
            ArgumentError: if the factor is out of range or the generator is missing.
        """
        factor = checks.number("decay", "factor", factor, 0.0, 1.0)
        if self.counter_dtype.is_floating_point:
            self.contents *= factor
        elif generator is None:
            checks.reject("decay", "generator", "be given for integer counters", None)
        else:
            rows = max(1, (1 << 22) // self.word_bits)
            for part in self.contents.split(rows):
                chance = torch.rand(part.shape, generator=generator, dtype=torch.float64)
                part.copy_((part * factor + chance.to(part.device)).floor())
        self._n_changes += 1

    def clear(self) -> None:
        """Forget everything that was written."""
        self.contents.zero_()
        self.n_written.zero_()
        self._n_changes += 1

    def statistics(self) -> MemoryStatistics:
        """How full the memory is.

        Returns:
            Load, shares of used locations and of saturated counters, and sizes.
        """
        used, saturated = 0, 0
        for part in self.contents.split(max(1, (1 << 22) // self.word_bits)):
            used += int(part.any(1).sum())
            if not part.is_floating_point():
                limits = torch.iinfo(part.dtype)
                saturated += int(((part == limits.min) | (part == limits.max)).sum())
        written = int(self.n_written)
        return MemoryStatistics(
            n_written=written,
            load=written / self.n_locations,
            used_share=used / self.n_locations,
            saturated_share=saturated / self.contents.numel(),
            contents_bytes=self.contents.nbytes,
            decoder_bytes=sum(buffer.nbytes for buffer in self.decoder.buffers()),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the memory, decoder included, to one safetensors file.

        Args:
            path: File to write; it is replaced whole or not at all.

        Raises:
            StoreError: if the file cannot be written; then the old one is as it was.
        """
        config = {
            "word_bits": self.word_bits,
            "counter_dtype": str(self.counter_dtype),
            "decoder": self.decoder.config(),
        }
        persistence.save_tensors(path, "memory", config, self.state_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SparseDistributedMemory:
        """Read a memory that `save` wrote.

        Args:
            path: File to read.

        Returns:
            The memory, on the CPU.

        Raises:
            StoreError: if the file is missing, foreign, damaged or of a newer format.
        """
        config, tensors = persistence.load_tensors(path, "memory")
        buffers = {
            name.removeprefix("decoder."): tensor
            for name, tensor in tensors.items()
            if name.startswith("decoder.")
        }
        try:
            decoder = decoders.restore(config["decoder"], buffers)
            dtype = _DTYPES[config["counter_dtype"]]
            memory = cls(decoder, config["word_bits"], counter_dtype=dtype)
            memory.load_state_dict(tensors, assign=True)
        except (ArgumentError, KeyError, TypeError, RuntimeError) as error:
            raise StoreError(f"cannot read {path}: it is damaged ({error})") from error
        return memory

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"word_bits={self.word_bits}, counter_dtype={self.counter_dtype}"

    def _add(self, where: str, address: Any, word: Any, sign: int) -> Tensor:
        addresses, shape = self._flat(where, "address", address)
        data = self._data(where, address if word is None else word, shape, word is None) * sign
        meter = torch.empty(len(addresses), dtype=torch.int64, device=addresses.device)
        for rows, activation in self._blocks(addresses):
            if activation.weights is not None and not self.counter_dtype.is_floating_point:
                checks.reject(where, "counter_dtype", "be floating for a decoder with weights", "")
            kernels.for_device(addresses.device).add_rows(
                self.contents,
                activation.locations,
                activation.offsets,
                data[rows],
                activation.weights,
            )
            meter[rows] = activation.meter
            self.n_written += sign * len(activation.meter)
            self._n_changes += 1
        return meter.view(shape)

    def _flat(self, where: str, argument: str, value: Any) -> tuple[Tensor, tuple[int, ...]]:
        """Checked bits as a matrix (B, N), and the shape of the batch."""
        cue = bits.as_bits(where, argument, value, self.address_bits, self.contents.device)
        return cue.reshape(-1, self.address_bits), tuple(cue.shape[:-1])

    def _data(self, where: str, word: Any, shape: tuple[int, ...], is_address: bool) -> Tensor:
        """What a write adds, shape (B, U): ±1 as int8, or real numbers."""
        if is_address:
            self._check_autoassociative(where)
        if self.counter_dtype.is_floating_point:
            data = reals.as_reals(where, "word", word, self.counter_dtype, self.contents.device)
        else:
            ones = bits.as_bits(where, "word", word, self.word_bits, self.contents.device)
            data = 2 * ones.to(torch.int8) - 1
        if data.shape != (*shape, self.word_bits):
            got = checks.Words(f"shape {tuple(data.shape)}")
            checks.reject(where, "word", f"have shape {(*shape, self.word_bits)}", got)
        return data.reshape(-1, self.word_bits)

    def _check_autoassociative(self, where: str) -> None:
        if self.word_bits != self.address_bits:
            got = checks.Words(f"words of {self.word_bits} bits")
            checks.reject(where, "word", f"be as wide as an address, {self.address_bits} bits", got)

    def _blocks(self, cues: Tensor) -> Iterator[tuple[slice, Activation]]:
        """The activation of all cues, as many at a time as a fixed amount of memory allows.

        An empty batch is one empty block.
        """
        per_cue = max(self.word_bits, self.decoder.activation_probability * self.n_locations)
        first = 0
        while first < max(1, len(cues)):
            size = min(_BLOCK_CUES, max(1, int(_BLOCK_ENTRIES / per_cue)))
            rows = slice(first, first + size)
            activation = self.decoder(cues[rows])
            yield rows, activation
            if len(activation.meter):
                per_cue = max(per_cue, len(activation.locations) / len(activation.meter))
            first += size

    def _sums(self, activation: Activation) -> Tensor:
        return kernels.for_device(self.contents.device).sum_rows(
            self.contents, activation.locations, activation.offsets, activation.weights
        )

    def _strength(self, cues: Tensor) -> Tensor:
        """Mean square of the sums that each cue reads, float64 (B,)."""
        parts = [
            self._sums(activation).double().square().mean(-1)
            for _, activation in self._blocks(cues)
        ]
        return torch.cat(parts)

    def _chance_strength(self) -> tuple[float, float]:
        """Mean and standard deviation of the strength of random cues.

        The deviation is at least what so many independent bits would show.
        """
        state = (self._n_changes, self.contents._version, self.contents.data_ptr())  # noqa: SLF001
        if self._chance is None or self._chance[0] != state:
            generator = torch.Generator().manual_seed(0)
            cues = self.decoder.random_addresses(_CHANCE_CUES, generator=generator)
            strength = self._strength(cues)
            mean, spread = strength.mean().item(), strength.std().item()
            unit = 1.0
            if self.counter_dtype.is_floating_point:
                unit = float(self.contents.square().mean()) or 1.0
            floor = math.sqrt(2 / self.word_bits) * max(mean, unit)
            self._chance = (state, mean, max(spread, floor))
        return self._chance[1:]
