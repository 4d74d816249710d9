import copy
import pickle
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pentti import HammingBall, Hyperplane, SelectedCoordinates, SparseDistributedMemory, bits
from pentti import memory as memory_module
from pentti.errors import ArgumentError
from pentti.kernels import cpu

INTEGERS = [torch.int8, torch.int16, torch.int32]


def make(word_bits=70, n_locations=999, address_bits=130, dtype=torch.int16, p=0.02, seed=0):
    decoder = HammingBall(address_bits, n_locations, activation_probability=p, seed=seed)
    return SparseDistributedMemory(decoder, word_bits, counter_dtype=dtype)


def words(n, width, generator):
    return bits.random(n, width, generator=generator)


def test_the_whole_memory_equals_kanervas_definition(generator):
    memory = make()
    address, word, cue = (words(n, w, generator) for n, w in ((31, 130), (31, 70), (13, 130)))
    meter = memory.write(address, word)

    hard = memory.decoder.hard_addresses
    contents = np.zeros((999, 70), dtype=int)
    for a, w in zip(address, word, strict=True):
        active = ((hard != a).sum(1) <= memory.decoder.radius).numpy()
        contents[active] += 2 * w.int().numpy() - 1
    assert np.array_equal(memory.contents.numpy(), contents)
    for c, read, sums, count in zip(
        cue, *memory.read_sums(cue), memory.read(cue).meter, strict=True
    ):
        active = ((hard != c).sum(1) <= memory.decoder.radius).numpy()
        assert read.tolist() == contents[active].sum(0).tolist()
        assert sums == count == active.sum()
    assert torch.equal(memory.read(cue).word, memory.read_sums(cue).sums > 0)
    assert torch.equal(meter, memory.read(address).meter)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize(("address_bits", "word_bits"), [(1, 1), (63, 257), (257, 1), (65, 65)])
def test_what_is_written_is_read(address_bits, word_bits, dtype, generator):
    decoder = HammingBall(address_bits, 500, activation_probability=0.1)
    memory = SparseDistributedMemory(decoder, word_bits, counter_dtype=dtype)
    word = words(1, word_bits, generator)
    address = decoder.hard_addresses[:1]
    memory.write(address, word)
    assert torch.equal(memory.read(address).word, word)


@pytest.mark.parametrize(
    "decoder",
    [
        HammingBall(256, 4000, activation_probability=0.01),
        SelectedCoordinates(256, 4000, n_selected=6),
    ],
)
def test_recall_finds_stored_words_from_noisy_cues(decoder, generator):
    memory = SparseDistributedMemory(decoder)
    stored = words(40, 256, generator)
    memory.write(stored)
    recalled = memory.recall(bits.flip(stored, 20, generator=generator))
    assert torch.equal(recalled.word, stored)
    assert recalled.settled.all()
    assert (recalled.n_reads >= 2).all()
    assert torch.equal(recalled.meter, memory.read(stored).meter)


def test_the_hyperplane_recalls_words_under_sparse_addresses(generator):
    decoder = Hyperplane(1000, 4000, n_ones=100, n_selected=2)
    memory = SparseDistributedMemory(decoder, 64)
    address, word = decoder.random_addresses(60, generator=generator), words(60, 64, generator)
    memory.write(address, word)
    assert torch.equal(memory.read(address).word, word)


def test_recall_says_what_did_not_settle(generator):
    memory = make(word_bits=130, n_locations=300)
    memory.write(words(300, 130, generator))  # far beyond capacity
    cue = words(20, 130, generator)
    recalled = memory.recall(cue, max_reads=1)
    assert not recalled.settled.any()
    assert recalled.n_reads.tolist() == [1] * 20
    assert torch.equal(recalled.word, memory.read(cue).word)


def test_recall_of_one_row_does_not_depend_on_the_others(generator):
    memory = make(word_bits=130)
    stored = words(30, 130, generator)
    memory.write(stored)
    cue = bits.flip(stored, 25, generator=generator)
    together = memory.recall(cue)
    for row in (0, 7, 29):
        alone = memory.recall(cue[row])
        assert torch.equal(alone.word, together.word[row])
        assert alone.n_reads == together.n_reads[row]


def test_a_tie_reads_as_zero(generator):
    memory = make()
    address = memory.decoder.hard_addresses[:1]
    memory.write(address, torch.ones(1, 70))
    memory.write(address, torch.zeros(1, 70))
    assert (memory.read_sums(address).sums == 0).all()
    assert not memory.read(address).word.any()


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_writes_commute_and_a_batch_equals_a_loop(seed, n):
    generator = torch.Generator().manual_seed(seed)
    address, word = words(n, 130, generator), words(n, 70, generator)
    together, loop, shuffled = make(), make(), make()
    together.write(address, word)
    for a, w in zip(address, word, strict=True):
        loop.write(a, w)
    order = torch.randperm(n, generator=generator)
    shuffled.write(address[order], word[order])
    assert torch.equal(together.contents, loop.contents)
    assert torch.equal(together.contents, shuffled.contents)
    assert int(together.n_written) == int(loop.n_written) == n


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_erasing_undoes_a_write(seed):
    generator = torch.Generator().manual_seed(seed)
    memory = make()
    memory.write(words(20, 130, generator), words(20, 70, generator))
    before = memory.contents.clone()
    address, word = words(5, 130, generator), words(5, 70, generator)
    memory.write(address, word)
    assert not torch.equal(memory.contents, before)
    memory.erase(address, word)
    assert torch.equal(memory.contents, before)
    assert int(memory.n_written) == 20


def test_counters_saturate_and_do_not_wrap(generator):
    memory = make(dtype=torch.int8)
    address, word = words(1, 130, generator), words(1, 70, generator)
    memory.write(address.expand(200, -1), word.expand(200, -1))
    assert set(memory.contents.flatten().tolist()) == {-128, 0, 127}
    assert torch.equal(memory.read(address).word, word)


def test_arguments_stay_as_they_were(generator):
    memory = make(word_bits=130)
    address = words(5, 130, generator).to(torch.int64)
    array = address.numpy().copy()
    before = address.clone()
    memory.write(address, address)
    memory.write(array)
    memory.erase(array, address)
    memory.recall(address)
    memory.read_mean(address)
    memory.familiarity(array)
    memory.replay(address, 2)
    assert torch.equal(address, before)
    assert np.array_equal(array, before.numpy())


def test_shapes_follow_the_cue(generator):
    memory = make()
    address = words(6, 130, generator)
    assert memory.write(address[0], words(1, 70, generator)[0]).shape == ()
    assert memory.write(address.view(2, 3, 130), torch.zeros(2, 3, 70)).shape == (2, 3)
    for shape in ((), (6,), (2, 3), (0,), (2, 0)):
        cue = torch.zeros(*shape, 130)
        assert memory.read(cue).word.shape == (*shape, 70)
        assert memory.read(cue).meter.shape == shape
        assert memory.read_sums(cue).sums.shape == (*shape, 70)
        assert memory.read_mean(cue).mean.shape == (*shape, 70)
        assert memory.familiarity(cue).shape == shape
    auto = make(word_bits=130)
    for shape in ((), (0,), (2, 3)):
        assert auto.recall(torch.zeros(*shape, 130)).word.shape == (*shape, 130)
        assert auto.replay(torch.zeros(*shape, 130), 4).words.shape == (4, *shape, 130)


def test_the_empty_batch_writes_nothing():
    memory = make()
    assert memory.write(torch.zeros(0, 130), torch.zeros(0, 70)).tolist() == []
    assert int(memory.n_written) == 0
    assert not memory.contents.any()


def test_blocks_do_not_change_results(generator, monkeypatch):
    address, word = words(50, 130, generator), words(50, 70, generator)
    whole = make()
    whole.write(address, word)
    monkeypatch.setattr(memory_module, "_BLOCK_ENTRIES", 300)
    parts = make()
    parts.write(address, word)
    assert torch.equal(whole.contents, parts.contents)
    assert torch.equal(whole.read_sums(address).sums, parts.read_sums(address).sums)


def test_a_sequence_replays_from_any_noisy_element(generator):
    memory = make(word_bits=256, address_bits=256, n_locations=4000, p=0.01)
    chain = words(30, 256, generator)
    assert memory.write_sequence(chain).shape == (29,)
    for start in (0, 11, 20):
        cue = bits.flip(chain[start], 20, generator=generator)
        replayed = memory.replay(cue, 9)
        assert torch.equal(replayed.words, chain[start + 1 : start + 10])
        assert (replayed.meter > 0).all()


def test_real_contents_add_and_average(generator):
    memory = make(word_bits=3, dtype=torch.float64)
    address = memory.decoder.hard_addresses[:1]
    memory.write(address, torch.tensor([[0.5, -2.0, 7.0]]))
    memory.write(address, [[1.0, 1.0, 1.0]])
    mean, meter = memory.read_mean(address)
    torch.testing.assert_close(mean, torch.tensor([[1.5, -1.0, 8.0]], dtype=torch.float64))
    torch.testing.assert_close(memory.read_sums(address).sums, mean * meter[:, None])
    memory.erase(address, [[1.5, -1.0, 8.0]])
    torch.testing.assert_close(memory.contents, torch.zeros_like(memory.contents))


def test_weights_of_locations_weigh_the_mean(generator):
    memory = make(word_bits=2, dtype=torch.float32)
    memory.contents.copy_(torch.rand(999, 2, generator=generator))
    cue = words(4, 130, generator)
    trust = torch.rand(999, generator=generator, dtype=torch.float64)
    active = memory.decoder(cue).dense().double() * trust
    expected = active @ memory.contents.double() / active.sum(1, keepdim=True)
    torch.testing.assert_close(memory.read_mean(cue, trust).mean, expected)
    assert (memory.read_mean(cue, torch.zeros(999)).mean == 0).all()


def test_the_mean_of_nothing_is_zero():
    decoder = HammingBall.at(torch.zeros(1, 40), radius=1)
    memory = SparseDistributedMemory(decoder, 5, counter_dtype=torch.float32)
    mean, meter = memory.read_mean(torch.ones(40))
    assert meter == 0
    assert mean.tolist() == [0] * 5


def test_familiarity_tells_the_stored_from_the_strange(generator):
    memory = make(word_bits=256, address_bits=256, n_locations=4000, p=0.01)
    stored = words(100, 256, generator)
    assert memory.familiarity(stored[:3]).tolist() == [0, 0, 0]
    memory.write(stored)
    strange = memory.familiarity(words(400, 256, generator))
    # The chance level is itself measured, from 256 cues: its error is 1 / √256 per unit.
    assert abs(strange.mean()) < 5 * (1 / 256 + 1 / 400) ** 0.5
    near = memory.familiarity(bits.flip(stored, 20, generator=generator))
    assert memory.familiarity(stored).min() > strange.max()
    assert near.median() > strange.max()
    assert memory.familiarity(stored).mean() > near.mean()
    memory.erase(stored)
    assert memory.familiarity(stored[:3]).tolist() == [0, 0, 0]


def test_familiarity_of_correlated_real_contents_is_calibrated_too(generator):
    memory = make(word_bits=50, dtype=torch.float32, p=0.05)
    common = 1e-3 * torch.randn(50, generator=generator)
    address = words(20, 130, generator)
    memory.write(address, common + 1e-4 * torch.randn(20, 50, generator=generator))
    strange = memory.familiarity(words(400, 130, generator))
    assert abs(strange.mean()) < 5 * (1 / 256 + 1 / 400) ** 0.5 * strange.std()
    stored = memory.familiarity(address)
    assert stored.mean() > strange.mean() + 5 * (stored.var() / 20 + strange.var() / 400) ** 0.5


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_decay_is_right_on_average(dtype, generator):
    memory = make(word_bits=500, dtype=dtype)
    memory.contents.fill_(3)
    memory.contents[:400] = -7
    memory.decay(0.4, generator=generator)
    for part, start in ((memory.contents[400:], 3), (memory.contents[:400], -7)):
        low = np.floor(0.4 * start)
        assert set(part.flatten().tolist()) == {low, low + 1}
        chance = 0.4 * start - low
        error = (chance * (1 - chance) / part.numel()) ** 0.5
        assert abs(part.double().mean().item() - 0.4 * start) < 5 * error


def test_decay_of_real_contents_is_exact():
    memory = make(dtype=torch.float32)
    memory.contents.fill_(3)
    memory.decay(0.5)
    assert (memory.contents == 1.5).all()


def test_decay_keeps_or_forgets_all(generator):
    memory = make()
    memory.write(words(9, 130, generator), words(9, 70, generator))
    before = memory.contents.clone()
    memory.decay(1.0, generator=generator)
    assert torch.equal(memory.contents, before)
    memory.decay(0.0, generator=generator)
    assert not memory.contents.any()


def test_statistics_count(generator):
    memory = make(dtype=torch.int8)
    assert memory.statistics().used_share == 0
    address, word = words(1, 130, generator), words(1, 70, generator)
    meter = memory.write(address.expand(128, -1), word.expand(128, -1))[0].item()
    found = memory.statistics()
    assert found.n_written == 128
    assert found.load == 128 / 999
    assert found.used_share == pytest.approx(meter / 999)
    assert found.saturated_share == pytest.approx(meter / 999)
    assert found.contents_bytes == 999 * 70
    assert found.decoder_bytes == 125 * 3 * 8 * 8
    memory.clear()
    assert memory.statistics().n_written == 0
    assert memory.statistics().used_share == 0


def test_a_seed_gives_the_same_memory(generator):
    address, word = words(9, 130, generator), words(9, 70, generator)
    one, same, other = make(seed=5), make(seed=5), make(seed=6)
    for memory in (one, same, other):
        memory.write(address, word)
    assert torch.equal(one.contents, same.contents)
    assert not torch.equal(one.contents, other.contents)


def test_state_dict_round_trip(generator):
    memory, other = make(), make(seed=9)
    memory.write(words(9, 130, generator), words(9, 70, generator))
    other.load_state_dict(memory.state_dict())
    cue = words(5, 130, generator)
    assert torch.equal(memory.read_sums(cue).sums, other.read_sums(cue).sums)
    assert torch.equal(memory.familiarity(cue), other.familiarity(cue))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m.read(torch.zeros(2, 9)),
            r"read: `cue` must have shape \(…, 130\), got shape \(2, 9\)",
        ),
        (
            lambda m: m.read(torch.tensor(1)),
            r"read: `cue` must have shape \(…, 130\), got a zero-dim",
        ),
        (lambda m: m.read(torch.full((130,), 0.3)), r"read: `cue` must hold only 0 and 1, got 0.3"),
        (
            lambda m: m.read(torch.full((130,), torch.nan)),
            "read: `cue` must hold only 0 and 1, got nan",
        ),
        (lambda m: m.read(torch.zeros(130, device="meta")), "read: `cue` must be on cpu, got meta"),
        (
            lambda m: m.write(torch.zeros(130)),
            r"write: `word` must be as wide as an address, 130 bits, got words of 70",
        ),
        (
            lambda m: m.write(torch.zeros(130), torch.zeros(71)),
            r"write: `word` must have shape \(…, 70\)",
        ),
        (
            lambda m: m.write(torch.zeros(3, 130), torch.zeros(2, 70)),
            r"write: `word` must have shape \(3, 70\), got shape \(2, 70\)",
        ),
        (
            lambda m: m.write(torch.zeros(130), torch.full((70,), 2)),
            "write: `word` must hold only 0 and 1, got 2",
        ),
        (
            lambda m: m.erase(torch.zeros(1), torch.zeros(70)),
            r"erase: `address` must have shape \(…, 130\)",
        ),
        (lambda m: m.recall(torch.zeros(130)), "recall: `word` must be as wide as an address"),
        (lambda m: m.replay(torch.zeros(130), 1), "replay: `word` must be as wide as an address"),
        (lambda m: m.write_sequence(torch.zeros(3, 130)), "write_sequence: `word` must be as wide"),
        (lambda m: m.decay(1.1), r"decay: `factor` must be in \[0.0, 1.0\], got 1.1"),
        (lambda m: m.decay(0.5), "decay: `generator` must be given for integer counters, got None"),
        (
            lambda m: m.read_mean(torch.zeros(130), torch.ones(3)),
            r"read_mean: `weights` must have shape \(999,\), got shape \(3,\)",
        ),
        (
            lambda m: m.read_mean(torch.zeros(130), -torch.ones(999)),
            "read_mean: `weights` must be at least 0, got -1.0",
        ),
    ],
)
def test_bad_arguments_are_named_and_change_nothing(call, message):
    memory = make()
    with pytest.raises(ArgumentError, match=message):
        call(memory)
    assert not memory.contents.any()
    assert int(memory.n_written) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.recall(torch.zeros(130), 0), "recall: `max_reads` must be at least 1, got 0"),
        (lambda m: m.replay(torch.zeros(130), 0), "replay: `n_steps` must be at least 1, got 0"),
        (
            lambda m: m.write_sequence(torch.zeros(1, 130)),
            r"`patterns` must have shape \(at least 2, 130\)",
        ),
        (
            lambda m: m.write_sequence(torch.zeros(130)),
            r"`patterns` must have shape \(at least 2, 130\)",
        ),
    ],
)
def test_bad_arguments_of_autoassociative_calls_are_named(call, message):
    with pytest.raises(ArgumentError, match=message):
        call(make(word_bits=130))


def test_bad_real_words_are_named():
    memory = make(word_bits=3, dtype=torch.float32)
    with pytest.raises(
        ArgumentError, match=r"write: `word` must be finite in torch.float32, got nan"
    ):
        memory.write(torch.zeros(130), torch.tensor([0.0, torch.nan, 1.0]))
    with pytest.raises(
        ArgumentError, match=r"write: `word` must have shape \(3,\), got shape \(2,"
    ):
        memory.write(torch.zeros(130), torch.zeros(2))
    with pytest.raises(ArgumentError, match=r"write: `word` must be on cpu, got meta"):
        memory.write(torch.zeros(130), torch.zeros(3, device="meta"))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("abc", "write: `word` must be a tensor, an array or a list of numbers, got 'abc'"),
        ([1j, 2j, 3j], "a tensor, an array or a list of numbers, got an array of complex128"),
        ([1.0, 2.0, 1e300], r"write: `word` must be finite in torch.float32, got 1e\+300"),
    ],
)
def test_words_that_are_no_reals_are_named(word, message):
    with pytest.raises(ArgumentError, match=message):
        make(word_bits=3, dtype=torch.float32).write(torch.zeros(130), word)


def test_bad_settings_are_named():
    decoder = HammingBall(10, 5, radius=5)
    with pytest.raises(ArgumentError, match="`decoder` must be a decoder, got 'ball'"):
        SparseDistributedMemory("ball", 10)
    with pytest.raises(ArgumentError, match="`word_bits` must be at least 1, got 0"):
        SparseDistributedMemory(decoder, 0)
    with pytest.raises(ArgumentError, match=r"`counter_dtype` must be one of torch\.int8, .*uint8"):
        SparseDistributedMemory(decoder, 10, counter_dtype=torch.uint8)


def test_importing_the_front_door_is_light():
    code = "import sys, pentti; print([m for m in ('torch', 'numba', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_familiarity_is_right_for_words_of_any_seed():
    """The chance cues, the hard addresses and the caller's words never share their bits."""
    decoder = HammingBall(256, 4000, activation_probability=0.01)
    memory = SparseDistributedMemory(decoder)
    stored = bits.random(40, 256, generator=torch.Generator().manual_seed(0))
    assert not (stored[:, None] == decoder.hard_addresses[:300]).all(-1).any()
    memory.write(stored)
    strange = memory.familiarity(bits.random(400, 256, generator=torch.Generator().manual_seed(1)))
    assert memory.familiarity(stored).min() > strange.max()


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_decay_by_one_changes_nothing_at_the_ends(dtype, generator):
    memory = make(dtype=dtype)
    limits = torch.iinfo(dtype)
    memory.contents[:] = limits.max
    memory.contents[::2] = limits.min
    memory.contents[0, :2] = torch.tensor([limits.max - 1, 1], dtype=dtype)
    before = memory.contents.clone()
    memory.decay(1.0, generator=generator)
    assert torch.equal(memory.contents, before)


def test_threads_that_write_lose_nothing(generator):
    memory = make(dtype=torch.int32)
    address, word = words(300, 130, generator), words(300, 70, generator)

    def write():
        for _ in range(5):
            memory.write(address, word)

    workers = [threading.Thread(target=write) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    once = make(dtype=torch.int32)
    once.write(address, word)
    assert torch.equal(memory.contents, 20 * once.contents)
    assert int(memory.n_written) == 6000


def test_ctrl_c_takes_effect_between_blocks(generator, monkeypatch):
    """Contents and count agree wherever it comes: here in the middle of the second block."""
    monkeypatch.setattr(memory_module, "_BLOCK_CUES", 10)
    address, word = words(50, 130, generator), words(50, 70, generator)
    memory, calls = make(), []
    add_rows = cpu.add_rows

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        add_rows(*arguments)

    monkeypatch.setattr(cpu, "add_rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        memory.write(address, word)
    expected = make()
    monkeypatch.setattr(cpu, "add_rows", add_rows)
    expected.write(address[:20], word[:20])
    assert int(memory.n_written) == 20
    assert torch.equal(memory.contents, expected.contents)


def test_real_contents_take_bits_as_plus_and_minus_one(generator):
    memory = make(word_bits=256, address_bits=256, n_locations=4000, p=0.01, dtype=torch.float32)
    chain = words(12, 256, generator)
    memory.write_sequence(chain)
    assert torch.equal(memory.replay(chain[2], 9).words, chain[3:])
    memory.clear()
    memory.write(chain)
    assert torch.equal(memory.read(chain).word, chain)
    assert set(memory.contents.flatten().tolist()) <= set(range(-12, 13))


def test_a_memory_keeps_to_the_dtypes_it_knows():
    memory = make(dtype=torch.float32)
    with pytest.raises(
        ArgumentError, match=r"`counter_dtype` must stay one of .*, got torch.float16"
    ):
        memory.half()
    assert memory.double().counter_dtype == torch.float64
    assert make().half().counter_dtype == torch.int16


@pytest.mark.parametrize(
    "other", [{"dtype": torch.int8}, {"p": 0.05}, {"dtype": torch.float32}], ids=str
)
def test_a_state_of_other_settings_does_not_fit(other, generator):
    memory = make(**other)
    memory.write(words(3, 130, generator), words(3, 70, generator))
    mine = make()
    with pytest.raises(ArgumentError, match="load_state_dict: `state_dict` must have the settings"):
        mine.load_state_dict(memory.state_dict())
    assert not mine.contents.any()


def test_copies_and_pickles_go_on_alone(generator):
    memory = make()
    address, word = words(3, 130, generator), words(3, 70, generator)
    memory.write(address, word)
    for other in (copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))):
        assert torch.equal(other.contents, memory.contents)
        other.write(address, word)
        assert torch.equal(other.contents, 2 * memory.contents)


def test_inference_mode_changes_nothing(generator, tmp_path):
    address, word = words(3, 130, generator), words(3, 70, generator)
    with torch.inference_mode():
        memory = make()
        memory.write(address, word)
        memory.save(tmp_path / "memory")
        score = memory.familiarity(address)
        again = SparseDistributedMemory.load(tmp_path / "memory")
        assert torch.equal(again.familiarity(address), score)
    again.write(address, word)
    assert torch.equal(again.contents, 2 * memory.contents)


def test_a_cue_that_activates_nothing_has_not_settled():
    decoder = HammingBall.at(torch.tensor([[0, 1] * 20]), radius=1)
    memory = SparseDistributedMemory(decoder)
    recalled = memory.recall(torch.ones(2, 40), max_reads=4)
    assert not recalled.settled.any()
    assert recalled.meter.tolist() == [0, 0]


def test_weights_of_any_size_weigh_alike(generator):
    memory = make(word_bits=2, dtype=torch.float32)
    memory.contents.copy_(torch.rand(999, 2, generator=generator))
    cue, trust = words(4, 130, generator), torch.rand(999, generator=generator, dtype=torch.float64)
    mean = memory.read_mean(cue, trust).mean
    for scale in (1e-300, 1e300):
        torch.testing.assert_close(memory.read_mean(cue, scale * trust).mean, mean)
