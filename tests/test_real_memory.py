"""A memory whose decoder takes real addresses."""

import copy
import pickle

import pytest
import torch

from pentti import CosineCap, ProductKeys, SparseDistributedMemory, bits
from pentti.errors import ArgumentError

REAL = {
    "cap": lambda: CosineCap(65, 2003, activation_probability=0.02),
    "cap-at": lambda: CosineCap.at(
        torch.randn(2003, 65, generator=torch.Generator().manual_seed(1)), threshold=0.25
    ),
    "cap-top-k": lambda: CosineCap(65, 2003, top_k=40, learned=True),
    "product": lambda: ProductKeys(68, 45**2, activation_probability=0.05),
    "product-top-k": lambda: ProductKeys(68, 45**2, top_k=40, learned=True),
    "product-heads": lambda: ProductKeys(132, 45**2, threshold=0.35, top_k=20, n_heads=3),
}


@pytest.fixture(params=REAL)
def real_decoder(request):
    return REAL[request.param]()


def test_words_under_real_addresses_are_read_from_addresses_nearby(real_decoder, generator):
    memory = SparseDistributedMemory(real_decoder, 70, counter_dtype=torch.float32)
    address = real_decoder.random_addresses(9, generator=generator)
    word = bits.random(9, 70, generator=generator)
    before = address.clone()
    meter = memory.write(address, word)
    assert torch.equal(address, before)
    assert torch.equal(meter, memory.read(address).meter)
    noise = real_decoder.random_addresses(9, generator=generator)
    cue = 5 * (address + 0.2 * noise)  # of another length
    assert torch.equal(memory.read(cue).word, word)
    assert torch.equal(memory.read(cue.double().numpy()).word, word)
    assert torch.equal(memory.read(cue.tolist()).word, word)
    strange = memory.familiarity(real_decoder.random_addresses(200, generator=generator))
    assert memory.familiarity(address).median() > strange.max()
    assert abs(strange.mean()) < 5 * (1 / 256 + 1 / 200) ** 0.5 * max(1, strange.std())
    assert not memory.read_sums(address).sums.requires_grad
    assert not memory.contents.requires_grad
    memory.erase(address, word)
    assert not memory.contents.any()


@pytest.mark.parametrize("change", ["top_k", "addresses"])
def test_chance_is_measured_anew_where_the_decoder_changes(change, generator):
    memory = SparseDistributedMemory(CosineCap(65, 2003, top_k=200, learned=True), 70)
    address = torch.randn(20, 65, generator=generator)
    memory.write(address, bits.random(20, 70, generator=generator))
    before = memory.familiarity(address)
    if change == "top_k":
        memory.decoder.top_k = 20
    else:
        with torch.no_grad():
            memory.decoder.addresses[:, 400:] = 0
    found = memory.familiarity(address)
    assert not torch.equal(found, before)
    assert torch.equal(found, copy.deepcopy(memory).familiarity(address))
    memory._chance.__init__()  # knows nothing
    assert torch.equal(found, memory.familiarity(address))


def test_the_memory_of_a_cap_equals_its_definition(generator):
    decoder = CosineCap(17, 301, threshold=0.4)
    memory = SparseDistributedMemory(decoder, 5)
    address, word = (
        decoder.random_addresses(30, generator=generator),
        bits.random(30, 5, generator=generator),
    )
    memory.write(address, word)
    active = torch.nn.functional.normalize(address) @ decoder.hard_addresses.T >= 0.4
    expected = active.T.long() @ (2 * word.long() - 1)
    assert torch.equal(memory.contents.long(), expected)
    assert torch.equal(memory.read_sums(address).sums, active.long() @ expected)


def test_a_real_address_may_be_its_own_word(real_decoder, generator):
    memory = SparseDistributedMemory(real_decoder, counter_dtype=torch.float64)
    assert memory.word_bits == memory.address_width == real_decoder.dim
    address = real_decoder.random_addresses(1, generator=generator)
    memory.write(address)
    torch.testing.assert_close(memory.read_mean(address).mean, address.double())


def test_a_memory_of_real_addresses_comes_back_bit_for_bit(real_decoder, generator, tmp_path):
    memory = SparseDistributedMemory(real_decoder, 7, counter_dtype=torch.float32)
    address = real_decoder.random_addresses(9, generator=generator)
    memory.write(address, torch.randn(9, 7, generator=generator))
    memory.save(tmp_path / "memory")
    again = SparseDistributedMemory.load(tmp_path / "memory")
    assert again.state_dict().keys() == memory.state_dict().keys()
    assert repr(again) == repr(memory)
    assert again.statistics() == memory.statistics()
    for other in (again, copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))):
        assert torch.equal(other.read_sums(address).sums, memory.read_sums(address).sums)
        assert torch.equal(other.familiarity(address), memory.familiarity(address))
    memory.double().save(tmp_path / "double")
    double = SparseDistributedMemory.load(tmp_path / "double")
    assert double.decoder.dtype == torch.float64
    assert torch.equal(double.read_sums(address).sums, memory.read_sums(address).sums)


def test_the_decoder_bytes_of_a_learned_decoder_count():
    memory = SparseDistributedMemory(ProductKeys(68, 45**2, top_k=40, learned=True))
    assert memory.statistics().decoder_bytes == 4 * 45 * 68


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m.recall(torch.zeros(65)),
            "recall: `decoder` must take binary addresses, since the words .*, got CosineCap",
        ),
        (lambda m: m.replay(torch.zeros(65), 2), "replay: `decoder` must take binary addresses"),
        (
            lambda m: m.write_sequence(torch.zeros(3, 65)),
            "write_sequence: `decoder` must take binary addresses",
        ),
        (
            lambda m: m.write(torch.zeros(65)),
            "write: `word` must be given for real addresses, unless .*, got None, torch.int16",
        ),
        (lambda m: m.read(torch.zeros(64)), r"read: `cue` must have shape \(…, 65\), got shape"),
        (
            lambda m: m.read(torch.full((65,), torch.nan)),
            "read: `cue` must be finite in torch.float32, got nan",
        ),
        (lambda m: m.read(torch.zeros(65, device="meta")), "read: `cue` must be on cpu, got meta"),
    ],
)
def test_bad_arguments_of_a_memory_of_real_addresses_are_named(call, message):
    memory = SparseDistributedMemory(CosineCap(65, 999, top_k=9))
    with pytest.raises(ArgumentError, match=message):
        call(memory)
    assert not memory.contents.any()
    assert not hasattr(memory, "address_bits")


def test_real_addresses_have_components_and_not_bits(generator):
    memory = SparseDistributedMemory(CosineCap(65, 99, top_k=9), 7, counter_dtype=torch.float32)
    with pytest.raises(
        ArgumentError, match="be as wide as an address, 65 components, got words of 7 components"
    ):
        memory.write(torch.zeros(65))


def test_heads_need_real_contents(generator):
    memory = SparseDistributedMemory(ProductKeys(8, 25, top_k=3, n_heads=2))
    with pytest.raises(ArgumentError, match="`counter_dtype` must be floating for a decoder with"):
        memory.write(torch.ones(8), torch.ones(8))
    assert not memory.contents.any()
