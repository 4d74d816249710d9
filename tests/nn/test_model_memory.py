"""What a model is told: it stays, for each user apart, through sessions, files and batches."""

import itertools
import math
import threading

import pytest
import torch

from pentti.errors import ArgumentError, StoreError
from pentti.nn.local.cache import KeyValueCache
from pentti.nn.memory_state import MemoryState
from pentti.nn.model_memory import ModelMemory, found_in
from pentti.nn.transformer import PenttiTransformer
from pentti.persistence import load_tensors, save_tensors

SEQUENCE = {"n_heads": 2, "n_locations": 64, "top_k": 3}
EVERY = {
    "fusion": {},
    "mixer": {"memory_place": "mixer"},
    "feed_forward": {"memory_place": "feed_forward"},
    "both kinds": {"memory_layers": (0, 2), "memory_kind": ("sequence", "sdm")},
    "sequence only": {"memory_layers": (0, 1, 2), "memory_place": "mixer"},
    "dense": {"local": "dense"},
    "at its own address": {"sequence": {**SEQUENCE, "shift": False}},
    "delta": {"sequence": {**SEQUENCE, "rule": "delta"}},
    "decay and gate": {"sequence": {**SEQUENCE, "decay": True, "write_gate": True}},
}
ALONE = EVERY["sequence only"]


def model(**settings):
    torch.manual_seed(3)
    sizes = {
        "memory_layers": (0, 2),
        "memory_kind": "sequence",
        "sequence": SEQUENCE,
        "memory_heads": 2,
        "top_k": 3,
        "window": 3,
        "tied": False,
    }
    made = PenttiTransformer(11, 16, 3, 2, 49, **{**sizes, **settings})
    with torch.no_grad():
        made.embedding.weight.mul_(50)
        for matrix in (p for p in made.blocks.parameters() if p.ndim == 2):
            matrix.mul_(3)  # so that what came before decides
    return made.eval()


@pytest.fixture(params=EVERY)
def every(request):
    return model(**EVERY[request.param])


def ids(generator, *shape):
    return torch.randint(11, shape, generator=generator)


def told(made, text, memory=None):
    """A memory that holds a text (B, L)."""
    memory = made.new_memory(len(text)) if memory is None else memory
    made.generate(text, 0, memory=memory)
    return memory


def close(one, two):
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


def same(one, two):
    """Two memories hold the same, bit by bit."""
    for own, other in zip(one.states, two.states, strict=True):
        assert torch.equal(own.n_tokens, other.n_tokens)
        assert torch.equal(own.last_locations, other.last_locations)
        for user, head in itertools.product(range(own.batch), range(own.n_heads)):
            assert torch.equal(own.locations(user, head), other.locations(user, head))
            for table, expected in zip(own.table(user, head), other.table(user, head), strict=True):
                assert torch.equal(table, expected)


# The model: sequence memories in it


def test_a_few_tokens_at_a_time_equal_all_at_once(every, generator):
    text = ids(generator, 2, 17)
    with torch.no_grad():
        whole = every.with_evidence(text)
        for split in ((17,), (5, 12), (1,) * 17, (3, 1, 1, 7, 5)):
            cache = every.new_cache(2)
            parts = [every.with_evidence(part, cache=cache) for part in text.split(split, dim=1)]
            close(torch.cat([part.logits for part in parts], 1), whole.logits)
            close(torch.cat([part.evidence for part in parts], 2), whole.evidence)
            assert torch.equal(torch.cat([part.meters for part in parts], 2), whole.meters)


def test_the_future_does_not_reach_the_past(every, generator):
    one, mask = ids(generator, 3, 13), torch.ones(3, 13, dtype=torch.bool)
    mask[0, :4] = False
    mask[1, 11:] = False
    for at in (5, 10):
        other = one.clone()
        other[:, at:] = (one[:, at:] + torch.randint(1, 11, (13 - at,), generator=generator)) % 11
        other_mask = mask.clone()
        other_mask[2, at + 1 :] = False
        first = every.with_evidence(one, token_mask=mask)
        second = every.with_evidence(other, token_mask=other_mask)
        assert torch.equal(first.logits[:, :at], second.logits[:, :at])
        assert torch.equal(first.meters[..., :at], second.meters[..., :at])
        assert torch.equal(first.evidence[..., :at], second.evidence[..., :at])
        assert (first.logits[:, at] != second.logits[:, at]).any(-1).all()


def test_padding_changes_nothing(every, generator):
    short, long = ids(generator, 1, 7)[0], ids(generator, 1, 12)[0]
    for place in (slice(5, 12), slice(0, 7)):
        batch, mask = ids(generator, 2, 12), torch.zeros(2, 12, dtype=torch.bool)
        batch[0, place], batch[1] = short, long
        mask[0, place], mask[1] = True, True
        output, alone = (
            every.with_evidence(batch, token_mask=mask),
            every.with_evidence(short[None]),
        )
        close(output.logits[0, place], alone.logits[0])
        close(output.evidence[0, :, place], alone.evidence[0])
        assert output.evidence[0][:, ~mask[0]].eq(0).all()
        assert torch.equal(output.meters[0, :, place], alone.meters[0])
        close(output.logits[1], every(long[None]).logits[0])


def test_gradients_reach_every_parameter(every, generator):
    every.loss(ids(generator, 4, 13)).backward()
    without = [n for n, p in every.named_parameters() if p.grad is None or not p.grad.any()]
    if every.config.sequence.rule == "delta":  # which divides by nothing
        without = [name for name in without if not name.endswith("memory.floor")]
    assert without == []


def test_greedy_equals_recomputation(every):
    for prompt in ([3, 1, 4, 1, 5], [9, 2, 6]):
        text = torch.tensor([prompt])
        for _ in range(9):
            text = torch.cat([text, every(text).logits[:, -1:].argmax(-1)], 1)
        new = every.generate(prompt, 9, temperature=0)
        assert new.tolist() == text[0, len(prompt) :].tolist()


def test_what_is_saved_comes_back(every, tmp_path, generator):
    every.save_pretrained(tmp_path)
    again = PenttiTransformer.from_pretrained(tmp_path).eval()
    assert again.config == every.config
    text = ids(generator, 2, 9)
    assert torch.equal(again(text).logits, every(text).logits)
    memory = told(every, text)
    with torch.no_grad():
        one = again(text, cache=again.new_cache(2, memory.clone())).logits
        two = every(text, cache=every.new_cache(2, memory)).logits
    assert torch.equal(one, two)


def test_evidence_is_what_each_memory_gives(generator):
    made, text = model(memory_place="mixer"), ids(generator, 2, 9)
    taken = []
    for layer in (0, 2):
        made.blocks[layer].mixer.register_forward_hook(lambda _, __, given: taken.append(given))
    logits, meters, evidence = made.with_evidence(text)
    assert evidence.shape == (2, 3, 9)
    assert torch.equal(evidence[:, 0], taken[0].evidence)
    assert torch.equal(evidence[:, 2], taken[1].evidence)
    assert evidence[:, 1].eq(0).all()
    assert evidence[:, (0, 2), 0].eq(0).all()  # before the first token there was nothing
    assert evidence[:, 0, 1:].max() > 0.9  # the first layer sees tokens that came before
    plain = made(text)
    assert torch.equal(logits, plain.logits)
    assert torch.equal(meters, plain.meters)


def test_evidence_listens_to_its_own_call_only(generator):
    """Another thread reads with the same model while this one listens."""
    made, text = model(memory_place="mixer"), ids(generator, 2, 9)
    expected = made.with_evidence(text).evidence

    def elsewhere(*_):
        other = threading.Thread(target=made.blocks[0].mixer, args=(torch.ones(1, 5, 16),))
        other.start()
        other.join()

    handle = made.blocks[1].register_forward_pre_hook(elsewhere)
    assert torch.equal(made.with_evidence(text).evidence, expected)
    handle.remove()
    assert not made.blocks[0].mixer._forward_hooks


def test_compiled_blocks_give_evidence_too(compiler, generator):
    made, text = model().requires_grad_(False), ids(generator, 2, 9)
    expected = made.with_evidence(text).evidence
    made.blocks[0] = compiler(made.blocks[0], backend="eager")
    for _ in range(2):
        made(text)
        assert torch.equal(made.with_evidence(text).evidence, expected)


def test_a_model_without_sequence_memory_has_no_evidence(generator):
    made, text = model(memory_kind="sdm"), ids(generator, 2, 5)
    assert made.with_evidence(text).evidence.eq(0).all()
    assert made.with_evidence(text).evidence.shape == (2, 3, 5)


def test_memory_stays_constant_while_a_text_goes_on(generator):
    """With all 64 locations of a head touched, or no more than 20 kept, nothing grows."""
    for bound in (None, 20):
        made = model(sequence={**SEQUENCE, "max_locations": bound})
        cache, token, sizes = made.new_cache(1), ids(generator, 1, 1), []
        with torch.no_grad():
            for _ in range(400):
                token = (made(token, cache=cache).logits.argmax(-1) + ids(generator, 1, 1)) % 11
                sizes.append(size_bytes(cache))
        assert sizes[60:] == [sizes[60]] * 340
        if bound is not None:
            assert max(int(state.n_touched.max()) for state in found_in(cache)) <= bound


def size_bytes(cache):
    if isinstance(cache, MemoryState | KeyValueCache):
        return cache.size_bytes
    return sum(map(size_bytes, cache or ()))


# What users have told


def test_a_text_that_was_told_is_read_in_the_next_session(generator):
    made, text = model(**ALONE), ids(generator, 2, 17)
    whole = made.with_evidence(text)
    memory = told(made, text[:, :9])
    with torch.no_grad():
        later = made.with_evidence(text[:, 9:], cache=made.new_cache(2, memory))
    close(later.logits, whole.logits[:, 9:])
    close(later.evidence, whole.evidence[..., 9:])
    assert memory.n_tokens.tolist() == [17, 17]
    assert not torch.allclose(made(text[:, 9:]).logits, later.logits, atol=0.1)


def test_two_sessions_and_a_file_between_equal_one(tmp_path):
    made = model(**ALONE)
    prompts = torch.tensor([[3, 1, 4], [1, 5, 9]])
    first, second, asked = made.new_memory(2), made.new_memory(2), torch.tensor([[2], [6]])
    said = torch.stack(made.generate(prompts, 5, temperature=0, memory=first))
    first.save(tmp_path / "users.safetensors")
    first = ModelMemory.load(tmp_path / "users.safetensors")
    answers = made.generate(asked, 6, temperature=0, memory=first)
    whole = torch.cat([prompts, said, asked], 1)
    expected = made.generate(whole, 6, temperature=0, memory=second)
    assert [one.tolist() for one in answers] == [one.tolist() for one in expected]
    assert first.n_tokens.tolist() == second.n_tokens.tolist() == [15, 15]
    assert [one.tolist() for one in made.generate(asked, 6, temperature=0)] != [
        one.tolist() for one in answers
    ]


def test_after_generation_the_memory_has_the_whole_text(every):
    prompts = [[3, 1, 4, 1, 5, 9, 2], [6], [5, 3, 5]]
    memory = every.new_memory(3)
    free = every.generate(prompts, 9, temperature=0)
    new = every.generate(prompts, 9, temperature=0, memory=memory)
    assert [one.tolist() for one in new] == [one.tolist() for one in free]
    assert memory.n_tokens.tolist() == [16, 10, 12]
    for user, (prompt, more) in enumerate(zip(prompts, new, strict=True)):
        alone = told(every, torch.tensor([prompt + more.tolist()]))
        for own, expected in zip(memory.select([user]).states, alone.states, strict=True):
            for head in range(own.n_heads):
                assert torch.equal(
                    own.locations(0, head).sort().values, expected.locations(0, head).sort().values
                )
            close(own.table(0, 0)[1].sum(), expected.table(0, 0)[1].sum())


def test_what_follows_a_stop_token_is_not_told():
    made, prompts = model(), [[3, 1, 4], [6], [1, 9]]
    free = made.generate(prompts, 9, temperature=0)
    stop = free[0][2].item()
    memory = made.new_memory(3)
    texts = made.generate(prompts, 9, temperature=0, stop=[stop], memory=memory)
    lengths = [len(prompt) + len(text) for prompt, text in zip(prompts, texts, strict=True)]
    assert memory.n_tokens.tolist() == lengths
    assert len(set(lengths)) > 1
    expected = made.generate(prompts, 9, temperature=0, stop=[stop])
    assert [text.tolist() for text in texts] == [text.tolist() for text in expected]


def test_a_stream_tells_as_it_goes():
    made = model()
    memory = made.new_memory(1)
    stream = made.stream([3, 1, 4], 9, temperature=0, memory=memory)
    assert memory.n_tokens.tolist() == [0]
    counts = []
    for _ in stream:
        counts += memory.n_tokens.tolist()
    assert counts == list(range(3, 12))
    assert memory.n_tokens.tolist() == [12]


def test_nothing_more_still_tells_the_prompt(generator):
    made, memory, text = model(), model().new_memory(2), ids(generator, 2, 5)
    assert [new.tolist() for new in made.generate(text, 0, memory=memory)] == [[], []]
    assert memory.n_tokens.tolist() == [5, 5]
    other = made.new_memory(2)
    with torch.no_grad():
        made(text, cache=made.new_cache(2, other))
    same(memory, other)


def test_a_clone_leaves_what_it_was_made_from(generator):
    made = model()
    memory = told(made, ids(generator, 1, 9))
    before = memory.clone()
    made.generate([3, 1, 4], 5, memory=memory.clone())
    same(memory, before)


def test_users_do_not_leak_into_one_another(every, generator):
    """What one user reads is the same bits, whatever the others tell."""
    asked = ids(generator, 3, 7)
    mine = ids(generator, 1, 13)
    seen = []
    for _ in range(2):
        told_by_all = ids(generator, 3, 13)
        told_by_all[1] = mine[0]
        memory = told(every, told_by_all)
        with torch.no_grad():
            seen.append(every.with_evidence(asked, cache=every.new_cache(3, memory)))
    one, two = seen
    assert torch.equal(one.logits[1], two.logits[1])
    assert torch.equal(one.evidence[1], two.evidence[1])
    assert not torch.equal(one.logits[0], two.logits[0])
    alone = told(every, mine)
    with torch.no_grad():
        logits = every(asked[1:2], cache=every.new_cache(1, alone)).logits
    close(logits[0], one.logits[1])


def test_clearing_one_user_leaves_the_others(generator):
    made, text = model(), ids(generator, 3, 13)
    memory = told(made, text)
    kept = memory.clone()
    memory.clear(1)
    assert memory.n_tokens.tolist() == [13, 0, 13]
    same(memory.select([0, 2]), kept.select([0, 2]))
    same(memory.select([1]), made.new_memory(1))
    memory.clear()
    same(memory, made.new_memory(3))


def test_users_are_chosen_and_stacked(generator):
    made, text = model(), ids(generator, 3, 13)
    memory = told(made, text)
    parts = [memory.select([user]) for user in (2, 0)]
    same(ModelMemory.stack(parts), memory.select(torch.tensor([2, 0])))
    told(made, text[:1], parts[0])
    assert memory.n_tokens.tolist() == [13, 13, 13]  # copies
    assert parts[0].n_tokens.tolist() == [26]


def test_users_of_different_lengths_are_served_together(generator):
    made, asked = model(), ids(generator, 2, 3)
    one, two = told(made, ids(generator, 1, 5)), told(made, ids(generator, 1, 29))
    expected = [
        made.generate(asked[i : i + 1], 6, temperature=0, memory=memory.clone())[0].tolist()
        for i, memory in enumerate((one, two))
    ]
    both = ModelMemory.stack([one, two])
    texts = made.generate(asked, 6, temperature=0, memory=both)
    assert [text.tolist() for text in texts] == expected
    assert both.n_tokens.tolist() == [14, 38]


def test_merged_memories_hold_what_both_were_told(generator):
    made, text = model(memory_place="mixer", memory_layers=(0,)), ids(generator, 2, 20)
    one, two = told(made, text[:, :10]), told(made, text[:, 10:])
    kept = two.clone()
    assert one.merge(two) is one
    assert one.n_tokens.tolist() == [20, 20]
    same(two, kept)
    whole = told(made, text)
    for user, head in itertools.product(range(2), range(2)):
        merged, expected = one.states[0].table(user, head)[1], whole.states[0].table(user, head)[1]
        # all but the one value that stands at the address of the last token of the first text
        assert 0 < expected.sum() - merged.sum() < 1 + 1e-5


def test_a_memory_goes_through_a_file(every, tmp_path, generator):
    memory = told(every, ids(generator, 2, 29))
    memory.clear(0)
    told(every, ids(generator, 2, 3), memory)
    memory.save(tmp_path / "memory.safetensors")
    again = ModelMemory.load(tmp_path / "memory.safetensors")
    same(again, memory)
    assert again.n_tokens.tolist() == [3, 32]
    asked = ids(generator, 2, 5)
    with torch.no_grad():
        one = every(asked, cache=every.new_cache(2, memory)).logits
        two = every(asked, cache=every.new_cache(2, again)).logits
    assert torch.equal(one, two)
    same(again, memory)


def test_an_empty_memory_goes_through_a_file(tmp_path):
    memory = model().new_memory(2)
    memory.save(tmp_path / "memory.safetensors")
    same(ModelMemory.load(tmp_path / "memory.safetensors"), memory)
    model().new_memory(0).save(tmp_path / "none.safetensors")
    assert ModelMemory.load(tmp_path / "none.safetensors").batch == 0


def test_a_save_that_fails_leaves_the_old_memory(tmp_path, monkeypatch, generator):
    path = tmp_path / "memory.safetensors"
    memory = told(model(), ids(generator, 1, 5))
    memory.save(path)
    before = path.read_bytes()

    def full(*args, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(StoreError, match=r"cannot write .*No space left on device"):
        told(model(), ids(generator, 1, 5), memory).save(path)
    assert path.read_bytes() == before


def test_damaged_and_foreign_files_are_told(tmp_path, generator):
    path = tmp_path / "memory.safetensors"
    with pytest.raises(StoreError, match="there is no such file"):
        ModelMemory.load(path)
    memory = told(model(), ids(generator, 1, 5))
    memory.states[0].save(path)
    with pytest.raises(StoreError, match="it holds a pentti sequence memory, a pentti model memo"):
        ModelMemory.load(path)
    memory.save(path)
    config, tensors = load_tensors(path, "model memory")
    for name in ("0.keys", "1.used", "0.scale", "1.contents"):
        spoilt = {key: value for key, value in tensors.items() if key != name}
        save_tensors(path, "model memory", config, spoilt)
        with pytest.raises(StoreError, match="it is damaged, or not a pentti file"):
            ModelMemory.load(path)
    for name in ("0.keys", "0.last_weights", "1.contents"):
        save_tensors(path, "model memory", config, {**tensors, name: tensors[name][:0]})
        with pytest.raises(StoreError, match="it is damaged, or not a pentti file"):
            ModelMemory.load(path)
    for changed in ({}, {"memories": []}, {"memories": [{"colour": 1}]}):
        save_tensors(path, "model memory", changed, tensors)
        with pytest.raises(StoreError, match="it is damaged, or not a pentti file"):
            ModelMemory.load(path)


def test_a_memory_is_described_and_moved(generator):
    memory = told(model(), ids(generator, 2, 5))
    assert repr(memory) == "ModelMemory(batch=2, n_memories=2, n_tokens=[5, 5])"
    assert memory.size_bytes == sum(state.size_bytes for state in memory.states)
    assert memory.touched_bytes == sum(state.touched_bytes for state in memory.states)
    moved = memory.to("cpu")
    assert torch.equal(moved.states[0].contents, memory.states[0].contents)
    assert moved.states[0].contents is not memory.states[0].contents
    assert memory.to("meta").device == torch.device("meta")
    assert memory.device == torch.device("cpu")


def test_gradients_go_into_a_memory_until_it_is_detached(generator):
    made, memory = model(**ALONE), model(**ALONE).new_memory(1)
    made(ids(generator, 1, 5), cache=made.new_cache(1, memory))
    assert all(state.contents.requires_grad for state in memory.states)
    assert memory.detach() is memory
    assert not any(state.contents.requires_grad for state in memory.states)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: 5, "`memory` must be a ModelMemory, got 5"),
        (lambda: model().new_cache(2), "`memory` must be a ModelMemory, got"),
        (
            lambda: model(memory_layers=(0,)).new_memory(2),
            "`memory` must be of a model with 2 sequence memories, got one of 1",
        ),
        (
            lambda: model(sequence={**SEQUENCE, "n_locations": 81}).new_memory(2),
            "`memory` must have n_locations = 64, got 81",
        ),
        (lambda: model().new_memory(3), "`memory` must be of 2 users, got a memory of 3"),
        (lambda: model().double().new_memory(2), "`memory` must have dtype = torch.float32"),
        (lambda: model().new_memory(2).to("meta"), "`memory` must have device = cpu, got meta"),
    ],
)
def test_a_memory_that_does_not_fit_is_refused(other, message):
    made, given = model(), other()
    with pytest.raises(ArgumentError, match=rf"^PenttiTransformer\.new_cache: {message}"):
        made.new_cache(2, given)
    with pytest.raises(ArgumentError, match=message):
        made.stream([[1], [2]], 3, memory=given)


def test_bad_arguments_are_named():
    made = model()
    memory = made.new_memory(2)
    for call, message in (
        (lambda: memory.clear(2), r"ModelMemory.clear: `user` must be in \[0, 1\], got 2"),
        (lambda: memory.select([0, -1]), r"ModelMemory.select: `users` must be in \[0, 1\], got -"),
        (lambda: ModelMemory.stack([]), "`memories` must hold one memory at least, got"),
        (lambda: ModelMemory.stack([5]), "ModelMemory.stack: `memories` must be a ModelMemory, go"),
        (
            lambda: ModelMemory.stack([memory, model(memory_layers=(0,)).new_memory(2)]),
            "ModelMemory.stack: `memories` must be of a model with 2 sequence memories, got one of",
        ),
        (lambda: memory.merge(made.new_memory(1)), "ModelMemory.merge: `other` must be of 2 users"),
        (lambda: memory.merge(None), "ModelMemory.merge: `other` must be a ModelMemory, got None"),
        (lambda: ModelMemory([]), "ModelMemory: `states` must hold at least one, all of one batch"),
        (lambda: ModelMemory([5]), "ModelMemory: `states` must hold MemoryStates only, got 5"),
        (
            lambda: ModelMemory([*memory.states, *made.new_memory(3).states]),
            r"must hold at least one, all of one batch, got batches of \[2, 3\]",
        ),
        (
            lambda: model(memory_kind="sdm").new_memory(1),
            r"PenttiTransformer.new_memory: `memory_kind` must hold 'sequence' .*, got 'sdm'",
        ),
        (
            lambda: model(memory_kind="sdm").new_cache(2, memory),
            "`memory` must be of a model with 0 sequence memories, got one of 2",
        ),
    ):
        with pytest.raises(ArgumentError, match=message):
            call()


def test_logits_that_are_no_numbers_are_told_with_a_memory_too():
    made = model()
    with torch.no_grad():
        made.norm.weight[0] = math.nan
    with pytest.raises(ArgumentError, match="lead to logits that are numbers"):
        made.generate([3, 1], 5, memory=made.new_memory(1))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda _: ModelMemory(None), "`states` must be a list of MemoryStates, got None"),
        (lambda memory: memory.select(1), "`users` must be a list of integers, got 1"),
        (lambda memory: memory.select("0"), "`users` must be a list of integers"),
        (lambda _: ModelMemory.stack(None), "`memories` must be a list of ModelMemories"),
        (lambda _: MemoryState.stack(5), "`states` must be a list of MemoryStates, got 5"),
    ],
)
def test_what_is_no_list_is_refused(call, said, generator):
    with pytest.raises(ArgumentError, match=said):
        call(told(model(), ids(generator, 2, 5)))
