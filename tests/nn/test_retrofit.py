"""Memories in pretrained decoders of transformers: small ones with random weights."""

import copy

import pytest
import torch

from pentti.errors import ArgumentError, StoreError
from pentti.nn import GatedMemory, SequenceMemory, add_memory, load_memory

transformers = pytest.importorskip("transformers")

IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def gpt2(**settings):
    sizes = {"n_layer": 3, "n_embd": 32, "n_head": 2, "vocab_size": 50, "n_positions": 128}
    config = transformers.GPT2Config(**{**sizes, **IDS, **settings})
    return transformers.GPT2LMHeadModel(config)


def llama(**settings):
    sizes = {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 50, "intermediate_size": 48,
    }  # fmt: skip
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **IDS, **settings}))


def qwen(**settings):
    sizes = {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 50, "intermediate_size": 48, "head_dim": 8,
    }  # fmt: skip
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**{**sizes, **IDS, **settings}))


MAKES = {"gpt2": gpt2, "llama": llama, "qwen": qwen}
KINDS = {
    "sequence": {"kind": "sequence", "sequence": {"max_length": 100}},
    "sdm": {"kind": "sdm", "n_locations": 49, "top_k": 3, "n_heads": 2},
}


@pytest.fixture(params=MAKES)
def model(request):
    torch.manual_seed(1)
    return MAKES[request.param]().eval()


@pytest.fixture(params=KINDS)
def settings(request):
    return KINDS[request.param]


def ids(generator, batch=2, length=9):
    return torch.randint(3, 50, (batch, length), generator=generator)


def opened(added, value=0.5):
    """Let the gates in something, as after training."""
    with torch.no_grad():
        for one in added.memories.values():
            one.gate.fill_(value)
    return added


def test_it_begins_as_nothing_at_all(model, settings, generator):
    tokens = ids(generator)
    with torch.no_grad():
        before = model(tokens).logits
        told = model.generate(tokens, max_new_tokens=5, do_sample=False)
        add_memory(model, [0, 2], **settings)
        assert torch.equal(model(tokens).logits, before)
        assert torch.equal(model.generate(tokens, max_new_tokens=5, do_sample=False), told)


def test_it_trains_alone(model, settings, generator):
    tokens = ids(generator, 4, 30)
    added = add_memory(model, [1], **settings)
    before = copy.deepcopy(model.state_dict())
    optimiser = torch.optim.AdamW(added.parameters(), lr=3e-2)
    losses = []
    for _ in range(30):
        loss = model(tokens, labels=tokens).loss
        losses.append(loss.item())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert losses[-1] < losses[0] - 0.1
    after = model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all("pentti_memory" in name for name in moved)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all("pentti_memory" in name for name in trained)
    own = {name for name, _ in added.named_parameters()}
    assert len(own) == len(trained)


def test_a_cache_gives_what_the_whole_gives(model, settings, generator):
    tokens = ids(generator, 2, 11)
    opened(add_memory(model, [0, 2], **settings))
    with torch.no_grad():
        whole = model(tokens, use_cache=False).logits
        first = model(tokens[:, :5], use_cache=True)
        second = model(tokens[:, 5:8], past_key_values=first.past_key_values, use_cache=True)
        third = model(tokens[:, 8:], past_key_values=second.past_key_values, use_cache=True)
    parts = torch.cat([one.logits for one in (first, second, third)], 1)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)


def test_generate_goes_on_from_what_was_written(model, settings, generator):
    tokens = ids(generator)
    opened(add_memory(model, [0, 2], **settings))
    how = {"max_new_tokens": 8, "do_sample": False, "min_new_tokens": 8}
    with_cache = model.generate(tokens, use_cache=True, **how)
    without = model.generate(tokens, use_cache=False, **how)
    assert torch.equal(with_cache, without)


def test_beams_take_their_memory_along(model, settings, generator):
    tokens = ids(generator)
    opened(add_memory(model, [1], **settings), 2.0)
    how = {"max_new_tokens": 8, "min_new_tokens": 8, "num_beams": 3, "do_sample": False}
    with_cache = model.generate(tokens, use_cache=True, **how)
    assert torch.equal(with_cache, model.generate(tokens, use_cache=False, **how))


def test_padding_writes_nothing(model, settings, generator):
    tokens = ids(generator, 1, 6)
    opened(add_memory(model, [0, 2], **settings))
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.int64), tokens], 1)
    mask = torch.tensor([[0] * 3 + [1] * 6])
    how = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    alone = model.generate(tokens, attention_mask=torch.ones_like(tokens), **how)
    beside = model.generate(padded, attention_mask=mask, **how)
    assert torch.equal(alone[:, 6:], beside[:, 9:])
    added = model.get_submodule(
        "transformer.h.0" if "GPT2" in type(model).__name__ else "model.layers.0"
    )
    assert isinstance(added.pentti_memory, GatedMemory)


def test_meters_are_told(model, settings, generator):
    added = add_memory(model, [0, 2], **settings)
    with torch.no_grad():
        model(ids(generator), attention_mask=torch.tensor([[1] * 9, [1] * 4 + [0] * 5]))
    for meter in added.meters.values():
        assert meter.shape == (2, 9)
        assert (meter[0] > 0).all()
        assert meter[1, 4:].sum() == 0


def test_memories_are_saved_apart(model, settings, generator, tmp_path):
    tokens = ids(generator)
    bare = copy.deepcopy(model)
    added = opened(add_memory(model, [0, 2], **settings))
    added.save(tmp_path / "memory.safetensors")
    with torch.no_grad():
        wanted = model(tokens).logits
        again = load_memory(bare, tmp_path / "memory.safetensors")
        assert torch.equal(bare(tokens).logits, wanted)
    assert again.layers == (0, 2)
    assert again.settings == added.settings


def test_memories_can_be_taken_out(model, settings, generator):
    tokens = ids(generator)
    with torch.no_grad():
        before = model(tokens).logits
        names = set(model.state_dict())
        added = opened(add_memory(model, [0, 2], **settings))
        assert not torch.equal(model(tokens).logits, before)
        added.remove()
        assert torch.equal(model(tokens).logits, before)
    assert set(model.state_dict()) == names
    add_memory(model, [0], **settings)


def test_half_precision_models_keep_their_memory_in_float32(generator):
    model = llama().to(torch.bfloat16).eval()
    added = opened(add_memory(model, [1], **KINDS["sequence"]))
    out = model(ids(generator)).logits
    assert out.dtype == torch.bfloat16
    assert {p.dtype for p in added.parameters()} == {torch.float32}
    out.float().sum().backward()
    assert all(p.grad is not None for p in added.parameters())


def test_layers_are_recomputed_under_checkpointing(generator):
    model, tokens = llama().train(), ids(generator)
    added = opened(add_memory(model, [1], **KINDS["sequence"]))
    model(tokens, labels=tokens).loss.backward()
    wanted = [p.grad.clone() for p in added.parameters()]
    model.zero_grad()
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable()
    model(tokens, labels=tokens).loss.backward()
    for got, one in zip(added.parameters(), wanted, strict=True):
        torch.testing.assert_close(got.grad, one)


def test_several_kinds_side_by_side(generator):
    model, tokens = gpt2().eval(), ids(generator)
    first = add_memory(model, [0], **KINDS["sequence"])
    second = add_memory(model, [2], **KINDS["sdm"])
    assert all(p.requires_grad for one in (first, second) for p in one.parameters())
    assert isinstance(first.memories["0"].memory, SequenceMemory)
    model(tokens).logits.sum().backward()
    with pytest.raises(
        ArgumentError, match="`layers` must name layers without a memory, got layer 0"
    ):
        add_memory(model, [1, 0])


def test_what_is_not_frozen_learns_too():
    model = gpt2()
    add_memory(model, [1], freeze=False)
    assert all(p.requires_grad for p in model.parameters())


def test_a_cache_is_gone_on_with_only_as_it_was_begun(generator):
    model, tokens = gpt2().eval(), ids(generator)
    opened(add_memory(model, [1], **KINDS["sequence"]))
    begun = model(tokens, use_cache=True).past_key_values  # gradients are recorded
    with pytest.raises(ArgumentError, match=r"be gone on with under no_grad\(\)"):
        model(tokens, past_key_values=begun)
    with torch.no_grad(), pytest.raises(ArgumentError, match="hold all that was told"):
        model(tokens, past_key_values=begun)
    with torch.no_grad():
        cache = model(tokens, use_cache=True).past_key_values
        with pytest.raises(ArgumentError, match="cannot take back what a text has written"):
            cache.crop(3)
        wanted = model(tokens[:, :2], past_key_values=copy.deepcopy(cache)).logits
        assert torch.equal(model(tokens[:, :2], past_key_values=cache).logits, wanted)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layers": []}, "`layers` must be a list of at least one layer"),
        ({"layers": "1"}, "`layers` must be a list of at least one layer"),
        ({"layers": [3]}, r"`layers` must be in \[0, 2\], got 3"),
        ({"layers": [1, 1]}, "`layers` must name each layer once"),
        ({"kind": "both"}, "`kind` must be one of"),
        ({"sequence": {"colour": 1}}, "`sequence` must be one of"),
        ({"n_heads": 5}, "`dim` must be a multiple of `n_heads`"),
        ({"kind": "sdm", "n_locations": 50}, "`n_locations`"),
    ],
)
def test_wrong_arguments_are_named_and_change_nothing(changed, message):
    model = gpt2()
    with pytest.raises(ArgumentError, match=message):
        add_memory(model, **{"layers": [1], **changed})
    assert all(p.requires_grad for p in model.parameters())
    assert not any("pentti" in name for name in model.state_dict())


def test_what_is_no_decoder_is_refused():
    with pytest.raises(
        ArgumentError, match="`model` must be a decoder of transformers, got 'Linear'"
    ):
        add_memory(torch.nn.Linear(2, 2), [0])
    odd = gpt2()
    odd.config.n_layer = 7
    with pytest.raises(ArgumentError, match="hold its layers in one ModuleList"):
        add_memory(odd, [0])


def test_a_memory_of_another_model_is_refused(tmp_path):
    add_memory(gpt2(), [2]).save(tmp_path / "a.safetensors")
    with pytest.raises(
        StoreError, match=r"it is of a model 32 wide .* this one is 16 wide and has 3"
    ):
        load_memory(gpt2(n_embd=16), tmp_path / "a.safetensors")
    small = gpt2(n_layer=2)
    with pytest.raises(StoreError, match="at least 3 layers"):
        load_memory(small, tmp_path / "a.safetensors")
    assert not any("pentti" in name for name in small.state_dict())
    with pytest.raises(StoreError, match="cannot read"):
        load_memory(gpt2(), tmp_path / "none.safetensors")
