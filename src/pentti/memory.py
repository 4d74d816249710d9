"""Kanerva's memory: counters at hard locations that an address activates together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pentti import bits, checks, decoders, kernels, persistence, reals
from pentti.activation import Activation
from pentti.contents import fade, mean_square, usage
from pentti.decoders import Decoder
from pentti.errors import ArgumentError, StoreError
from pentti.familiarity import CHANCE_CUES, Chance, ChanceLevel, strength
from pentti.interrupts import held
from pentti.readings import MeanReading, MemoryStatistics, Reading, Recall, Replay, SumsReading
from pentti.state import DTYPES, StatefulMemory

__all__ = ["SparseDistributedMemory"]

_BLOCK_ENTRIES = 1 << 21  # active locations held at a time
_BLOCK_CUES = 2048


class SparseDistributedMemory(StatefulMemory):
    """Stores words at addresses and finds them again from addresses nearby.

    Writing adds +1 for a one and −1 for a zero to each bit's counter at every active
    hard location; reading sums the counters of the active locations and takes the sign, a
    sum of 0 as bit 0. Counters saturate: one at the end of its range forgets how far beyond
    it was written, which costs nothing where fewer words than that meet at one location
    (Kanerva needs no more than −15 … 15), and a later `erase` no longer undoes the write.

    With a floating `counter_dtype` the contents are real: a write adds the data themselves, and
    bits (a boolean tensor, or a binary address that is its own word) as +1 and −1.

    Addresses are bits, or real numbers where the decoder (`CosineCap`, `ProductKeys`) takes them.
    Every call takes one address of shape (N,) or a batch (…, N), as a tensor, an array or a
    list, leaves it as it was, and works through a batch in blocks of bounded size. Ctrl-C in
    a long write takes effect between two blocks: those before are written and counted, the rest
    are not. Several threads may share a memory; writes and saves take turns.

    Args:
        decoder: Chooses the hard locations that an address activates.
        word_bits: Width of a word in bits (or components), U; None for the width of an address.
        counter_dtype: int8, int16, int32, or float32, float64 for real contents.

    Raises:
        ArgumentError: if the decoder is none, the width is below 1 or the dtype another.

    Examples:
        >>> decoder = decoders.HammingBall(256, 2000, activation_probability=0.01, seed=7)
        >>> memory = SparseDistributedMemory(decoder, word_bits=256)
        >>> generator = torch.Generator().manual_seed(0)
        >>> word = bits.random(1, 256, generator=generator)[0]
        >>> memory.write(word)
        tensor(31)
        >>> cue = bits.flip(word, 40, generator=generator)
        >>> read, meter = memory.read(cue)
        >>> int(bits.hamming_distance(read, word)), int(meter)
        (0, 37)

    **Source:** Kanerva, *Sparse Distributed Memory* (1988), chapters 6–8.
    """

    decoder: Decoder
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
        checks.one_of("SparseDistributedMemory", "counter_dtype", counter_dtype, DTYPES.values())
        width = decoder.address_width if word_bits is None else word_bits
        self.decoder = decoder
        self.word_bits = checks.count("SparseDistributedMemory", "word_bits", width)
        shape, device = (decoder.n_locations, self.word_bits), decoder.device
        with torch.inference_mode(False):
            contents = torch.zeros(shape, dtype=counter_dtype, device=device)
            self.register_buffer("contents", contents)
            self.register_buffer("n_written", torch.zeros((), dtype=torch.int64))
        self._chance = Chance()

    @property
    def address_width(self) -> int:
        """Components of an address, N: bits, or real numbers."""
        return self.decoder.address_width

    @property
    def address_bits(self) -> int:
        """Width of a binary address in bits, N; a memory of real addresses has none."""
        return int(getattr(self.decoder, "address_bits"))  # noqa: B009

    @property
    def n_locations(self) -> int:
        """Number of hard locations, M."""
        return self.decoder.n_locations

    def write(self, address: Any, word: Any = None) -> Tensor:
        """Store words at addresses.

        Args:
            address: Addresses of shape (…, N).
            word: Bits of shape (…, U), or real numbers for real contents; None stores
                the address itself (autoassociative; a real one needs real contents).

        Returns:
            The meter, int64 of shape (…): how many hard locations took the word.

        Raises:
            ArgumentError: if a shape, a value or a device is wrong; then nothing is written.
        """
        return self._add("write", address, word, +1)

    def erase(self, address: Any, word: Any = None) -> Tensor:
        """Take words out again: the exact opposite of `write` while no counter is saturated.

        Args:
            address: Addresses of shape (…, N).
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
            cue: Addresses of shape (…, N).

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
            cue: Addresses of shape (…, N).

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
            cue: Addresses of shape (…, N).
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
            The word that each cue settled on, or the last one read. A cue that activates nothing
            reads zeros and has not settled.

        Raises:
            ArgumentError: if addresses are real, or words and addresses differ in width, or an
                argument is wrong.
        """
        self._check_chains("recall")
        checks.count("recall", "max_reads", max_reads)
        cues, shape = self._flat("recall", "cue", cue)
        word = cues.clone()
        n_reads = torch.zeros(len(word), dtype=torch.int64, device=word.device)
        meter, settled = torch.zeros_like(n_reads), torch.zeros_like(n_reads, dtype=torch.bool)
        moving = torch.arange(len(word), device=word.device)
        for _ in range(max_reads):
            moving = moving[~settled[moving]]
            if not len(moving):
                break
            reading = self.read(word[moving])
            same = (reading.word == word[moving]).all(-1)
            settled[moving] = same & (reading.meter > 0)
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
            ArgumentError: if addresses are real, or words and addresses differ in width, or there
                are fewer than two patterns.

        **Source:** Kanerva 1988, chapter 8.
        """
        self._check_chains("write_sequence")
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
            ArgumentError: if addresses are real, or words and addresses differ in width, or an
                argument is wrong.
        """
        self._check_chains("replay")
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
            cue: Addresses of shape (…, N).

        Returns:
            The z-scores, float64 of shape (…); all 0 in an empty memory.

        Raises:
            ArgumentError: if the shape, a value or the device is wrong.
        """
        cues, shape = self._flat("familiarity", "cue", cue)
        level = self._chance.level(self._edits, self._chance_level)
        return level.score(self._strength(cues)).view(shape)

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
        floating = self.counter_dtype.is_floating_point
        if not floating and not isinstance(generator, torch.Generator):
            checks.reject("decay", "generator", "be given for integer counters", generator)
        with self._lock, held():
            self._n_changes += 1
            fade(self.contents, factor, None if floating else generator)

    def clear(self) -> None:
        """Forget everything that was written."""
        with self._lock, held():
            self.contents.zero_()
            self.n_written.zero_()
            self._n_changes += 1

    def statistics(self) -> MemoryStatistics:
        """How full the memory is.

        Returns:
            Load, shares of used locations and of saturated counters, and sizes.
        """
        used_share, saturated_share = usage(self.contents)
        kept = self.state_dict()
        written = int(self.n_written)
        return MemoryStatistics(
            n_written=written,
            load=written / self.n_locations,
            used_share=used_share,
            saturated_share=saturated_share,
            contents_bytes=self.contents.nbytes,
            decoder_bytes=sum(kept[name].nbytes for name in kept if name.startswith("decoder.")),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the memory, decoder included, to one safetensors file.

        Args:
            path: File to write; it is replaced whole or not at all.

        Raises:
            ArgumentError: if the decoder is of a kind that `load` does not know.
            StoreError: if the file cannot be written; then the old one is as it was.
        """
        config = self.get_extra_state()
        decoders.check_restorable(config["decoder"])
        with self._lock:
            tensors = self.state_dict()
            tensors.pop("_extra_state")
            persistence.save_tensors(path, "memory", config, tensors)

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
        with torch.inference_mode(False):
            config, tensors = persistence.load_tensors(path, "memory")
        prefix = "decoder."
        kept = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        try:
            decoder = decoders.restore(config["decoder"], kept)
            dtype = DTYPES[config["counter_dtype"]]
            memory = cls(decoder, config["word_bits"], counter_dtype=dtype)
            memory.load_state_dict({**tensors, "_extra_state": config}, assign=True)
        except (ArgumentError, KeyError, TypeError, RuntimeError) as error:
            raise StoreError(f"cannot read {path}: it is damaged ({error})") from error
        return memory

    def _add(self, where: str, address: Any, word: Any, sign: int) -> Tensor:
        addresses, shape = self._flat(where, "address", address)
        data = self._data(where, word, addresses.view(*shape, self.address_width)) * sign
        meter = torch.empty(len(addresses), dtype=torch.int64, device=addresses.device)
        for rows, activation in self._blocks(addresses):
            if activation.weights is not None and not self.counter_dtype.is_floating_point:
                expected = "be floating for a decoder with weights"
                checks.reject(where, "counter_dtype", expected, self.counter_dtype)
            with self._lock, held():
                kernels.for_device(addresses.device).add_rows(
                    self.contents,
                    activation.locations,
                    activation.offsets,
                    data[rows],
                    activation.weights,
                )
                self.n_written += sign * len(activation.meter)
                self._n_changes += 1
            meter[rows] = activation.meter
        return meter.view(shape)

    def _flat(self, where: str, argument: str, value: Any) -> tuple[Tensor, tuple[int, ...]]:
        """Checked addresses as a matrix (B, N), and the shape of the batch."""
        cue = self.decoder.as_addresses(where, argument, value)
        return cue.reshape(-1, self.address_width), tuple(cue.shape[:-1])

    def _data(self, where: str, word: Any, address: Tensor) -> Tensor:
        """What a write adds, shape (B, U): ±1 as int8, or real numbers."""
        if word is None:
            self._check_autoassociative(where)
            if address.is_floating_point() and not self.counter_dtype.is_floating_point:
                needed = "be given for real addresses, unless the contents are real too"
                checks.reject(where, "word", needed, checks.Words(f"None, {self.counter_dtype}"))
            word = address
        dtype, device = self.counter_dtype, self.contents.device
        is_bits = isinstance(word, Tensor) and word.dtype == torch.bool
        if dtype.is_floating_point and not is_bits:
            data = reals.as_reals(where, "word", word, dtype, device)
        else:
            ones = bits.as_bits(where, "word", word, self.word_bits, device)
            data = 2 * ones.to(dtype if dtype.is_floating_point else torch.int8) - 1
        expected = (*address.shape[:-1], self.word_bits)
        if data.shape != expected:
            got = checks.Words(f"shape {tuple(data.shape)}")
            checks.reject(where, "word", f"have shape {expected}", got)
        return data.reshape(-1, self.word_bits)

    def _check_autoassociative(self, where: str) -> None:
        if self.word_bits != self.address_width:
            what = "bits" if self._is_binary else "components"
            got = checks.Words(f"words of {self.word_bits} {what}")
            expected = f"be as wide as an address, {self.address_width} {what}"
            checks.reject(where, "word", expected, got)

    def _check_chains(self, where: str) -> None:
        """Refuse what takes a word that was read for the next cue."""
        if not self._is_binary:
            expected = "take binary addresses, since the words read are the next cues"
            checks.reject(where, "decoder", expected, checks.Words(type(self.decoder).__name__))
        self._check_autoassociative(where)

    @property
    def _is_binary(self) -> bool:
        return hasattr(self.decoder, "address_bits")

    def _blocks(self, cues: Tensor) -> Iterator[tuple[slice, Activation]]:
        """The activation of all cues, as many at a time as a fixed amount of memory allows.

        An empty batch is one empty block.
        """
        per_cue = max(self.word_bits, self.decoder.typical_meter)
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
        """Strength of the reading of each cue, float64 (B,)."""
        return torch.cat([strength(self._sums(active)) for _, active in self._blocks(cues)])

    def _chance_level(self) -> ChanceLevel:
        """What random cues read now."""
        cues = self.decoder.random_addresses(CHANCE_CUES, generator=bits.stream("chance", 0))
        floating = self.counter_dtype.is_floating_point
        unit = (mean_square(self.contents) or 1.0) if floating else 1.0
        return ChanceLevel.of(self._strength(cues), self.word_bits, unit)
