"""The sizes that people use: a million hard locations of a thousand bits."""

import pytest
import torch

from pentti import HammingBall, SelectedCoordinates, SparseDistributedMemory, bits
from pentti.kernels import reference

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def decoder():
    return HammingBall(1000, 1_000_000, radius=451)


def test_a_full_scan_equals_the_reference(decoder, generator):
    cue = bits.pack(bits.random(3, 1000, generator=generator))
    activation = decoder(bits.unpack(cue, 1000))
    locations, offsets = reference.hamming_scan(decoder.address_tiles, 1_000_000, cue, 451, 0.001)
    assert torch.equal(activation.locations, locations)
    assert torch.equal(activation.offsets, offsets)
    expected = 1_000_000 * decoder.activation_probability
    assert (abs(activation.meter - expected) < 5 * expected**0.5).all()


def test_a_full_match_equals_the_reference(generator):
    decoder = SelectedCoordinates(1000, 1_000_000, n_selected=10)
    cue = bits.pack(bits.random(3, 1000, generator=generator))
    locations, offsets = reference.literal_match(decoder.literals, 1000, cue)
    activation = decoder(bits.unpack(cue, 1000))
    assert torch.equal(activation.locations, locations)
    assert torch.equal(activation.offsets, offsets)


def test_a_full_memory_holds_ten_thousand_words_in_little_more_than_a_gigabyte(
    decoder, generator, tmp_path
):
    memory = SparseDistributedMemory(decoder, counter_dtype=torch.int8)
    stored = bits.random(10_000, 1000, generator=generator)
    memory.write(stored)
    statistics = memory.statistics()
    assert statistics.contents_bytes + statistics.decoder_bytes < 1.3e9
    assert statistics.load == 0.01
    cue = bits.flip(stored[:200], 100, generator=generator)
    recalled = memory.recall(cue)
    assert torch.equal(recalled.word, stored[:200])
    assert recalled.settled.all()
    memory.save(tmp_path / "memory")
    again = SparseDistributedMemory.load(tmp_path / "memory")
    assert torch.equal(again.read(cue).word, memory.read(cue).word)
