"""Memories in pretrained decoders of transformers: small ones with random weights."""

import copy
import inspect
import pickle

import pytest
import torch

from pentti.errors import ArgumentError, StoreError
from pentti.nn import SequenceMemory, add_memory, load_memory
from pentti.persistence import load_tensors, save_tensors

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
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser = torch.optim.AdamW(added.parameters(), lr=3e-2)
    losses = []
    for _ in range(30):
        loss = model(tokens, labels=tokens).loss
        losses.append(loss.item())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert losses[-1] < losses[0] - 0.1
    moved = {name for name, p in model.named_parameters() if not torch.equal(before[name], p)}
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


@pytest.mark.parametrize(
    ("cache", "attention"), [(None, "sdpa"), ("static", "sdpa"), ("static", "eager")]
)
def test_padding_writes_nothing(model, generator, cache, attention):
    model.set_attn_implementation(attention)
    opened(add_memory(model, [0, 2], **KINDS["sequence"]))
    rows = [ids(generator, 1, length) for length in (4, 9, 7)]
    padded = torch.cat([torch.nn.functional.pad(row, (9 - row.shape[1], 0)) for row in rows])
    how = {
        "max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "output_logits": True,
        "return_dict_in_generate": True,
    }  # fmt: skip
    told = model.generate(
        padded, attention_mask=(padded > 0).long(), cache_implementation=cache, **how
    )
    together = torch.stack(told.logits, 1)
    for row, beside in zip(rows, together, strict=True):
        alone = torch.cat(model.generate(row, attention_mask=torch.ones_like(row), **how).logits)
        torch.testing.assert_close(beside, alone, atol=1e-5, rtol=1e-4)


def test_padding_is_found_in_every_form_of_mask(model, generator):
    opened(add_memory(model, [0, 2], **KINDS["sequence"]))
    body, tokens = model.base_model, ids(generator, 2, 6)
    padded = torch.nn.functional.pad(tokens, (3, 0))
    mask = (padded > 0).long()
    sees = mask[:, None, None].bool() & torch.ones(9, 9).tril().bool()
    places = (mask.cumsum(1) - 1).clamp_min(0)
    n_given = list(inspect.signature(body.forward).parameters).index("attention_mask")
    by_place = [padded, *[None] * (n_given - 1)]
    lowest = (torch.finfo(torch.float32).min, -1e4)
    with torch.no_grad():
        wanted = body(tokens).last_hidden_state
        for form in (mask, mask.bool(), sees, *[torch.where(sees, 0.0, low) for low in lowest]):
            got = body(*by_place, form, position_ids=places).last_hidden_state[:, 3:]
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_padding_before_a_cache_stays_padding(model, generator):
    opened(add_memory(model, [0, 2], **KINDS["sequence"]))
    tokens = ids(generator, 2, 8)
    padded = torch.nn.functional.pad(tokens, (3, 0))
    mask = (padded > 0).long()
    places = (mask.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        wanted = model(tokens, use_cache=False).logits
        parts, past = [], None
        for some in (slice(0, 5), slice(5, 8), slice(8, 11)):
            told = model(
                padded[:, some], attention_mask=mask[:, : some.stop], position_ids=places[:, some],
                past_key_values=past, use_cache=True,
            )  # fmt: skip
            parts.append(told.logits)
            past = told.past_key_values
    torch.testing.assert_close(torch.cat(parts, 1)[:, 3:], wanted, atol=1e-5, rtol=1e-4)


def test_a_mask_that_tells_nothing_is_refused(generator):
    model, tokens = gpt2(), ids(generator)
    add_memory(model, [1], **KINDS["sequence"])
    with pytest.raises(ArgumentError, match=r"must tell of 2 × 9 tokens, got shape \(2, 5\)"):
        model(tokens, attention_mask=torch.ones(2, 5))
    with pytest.raises(ArgumentError, match="be a tensor of 2 or of 4 axes, got 3 axes"):
        model(tokens, attention_mask=torch.ones(2, 9, 9))
    with pytest.raises(ArgumentError, match="be a tensor of 2 or of 4 axes, got list"):
        model(tokens, attention_mask=[[1] * 9] * 2)


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
        names = {name for name, _ in model.named_parameters()}
        added = opened(add_memory(model, [0, 2], **settings))
        assert not torch.equal(model(tokens).logits, before)
        added.remove()
        assert torch.equal(model(tokens).logits, before)
    assert {name for name, _ in model.named_parameters()} == names
    add_memory(model, [0], **settings)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_keep_their_memory_in_float32(settings, generator, dtype, when):
    model = llama().eval()
    model = model.to(dtype) if when == "before" else model
    added = opened(add_memory(model, [1], **settings), 0.1)
    before = [p.detach().clone() for p in added.parameters()]
    model.to(dtype)
    assert {p.dtype for p in added.parameters()} == {torch.float32}
    for parameter, one in zip(added.parameters(), before, strict=True):
        assert torch.equal(parameter, one)
    out = model(ids(generator)).logits
    assert out.dtype == dtype
    out.float().sum().backward()
    assert all(p.grad is not None for p in added.parameters())


def test_memories_go_where_the_model_goes():
    model = llama()
    added = add_memory(model, [1], **KINDS["sequence"])
    model.double()
    assert {p.dtype for p in added.parameters()} == {torch.float64}
    model.to("meta")
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert {p.dtype for p in added.parameters()} == {torch.float64}


def test_what_is_saved_of_the_model_is_the_bare_model(model, settings, generator, tmp_path):
    tokens, names = ids(generator), set(model.state_dict())
    with torch.no_grad():
        wanted = model(tokens).logits
        opened(add_memory(model, [0, 2], **settings))
        assert not torch.equal(model(tokens).logits, wanted)
        assert set(model.state_dict()) == names
        model.save_pretrained(tmp_path)
        read, told = type(model).from_pretrained(tmp_path, output_loading_info=True)
        assert not any(told.values())
        assert torch.equal(read.eval()(tokens).logits, wanted)
        with_memory = model(tokens).logits
        assert model.load_state_dict(read.state_dict()) == ([], [])
        assert torch.equal(model(tokens).logits, with_memory)


def test_copies_keep_their_memories(settings, generator):
    model, tokens = llama().eval(), ids(generator)
    added = opened(add_memory(model, [0, 2], **settings))
    with torch.no_grad():
        wanted = model(tokens).logits
        both = [copy.deepcopy((model, added)), pickle.loads(pickle.dumps((model, added)))]
        added.remove()
        bare = model(tokens).logits
        for one, its_memories in both:
            assert torch.equal(one(tokens).logits, wanted)
            opened(its_memories, 1.0)
            assert not torch.equal(one(tokens).logits, wanted)
            its_memories.remove()
            assert torch.equal(one(tokens).logits, bare)
            assert set(one.state_dict()) == set(model.state_dict())


def test_models_with_memories_compile_whole(settings, generator, compiler):
    model, tokens = llama().eval(), ids(generator)
    opened(add_memory(model, [1], **settings))
    mask = torch.tensor([[0] * 4 + [1] * 5, [1] * 9])
    wanted = model(tokens, attention_mask=mask, use_cache=False).logits
    compiled = compiler(model, backend="eager", fullgraph=True)
    got = compiled(tokens, attention_mask=mask, use_cache=False).logits
    torch.testing.assert_close(got, wanted)


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


def test_a_cache_of_other_memories_is_refused(generator):
    model, tokens = llama().eval(), ids(generator)
    added = add_memory(model, [1], **KINDS["sequence"])
    with torch.no_grad():
        cache = model(tokens, use_cache=True).past_key_values
        added.remove()
        add_memory(model, [1], seed=7, **KINDS["sequence"])
        with pytest.raises(ArgumentError, match="begun without the memory"):
            model(tokens, past_key_values=cache)


def test_several_texts_of_one_prompt_go_apart(generator):
    model, tokens = gpt2().eval(), ids(generator)
    opened(add_memory(model, [0, 2], **KINDS["sequence"]), 2.0)
    how = {
        "max_new_tokens": 6, "min_new_tokens": 6, "num_beams": 4, "num_return_sequences": 3,
        "do_sample": False,
    }  # fmt: skip
    wanted = model.generate(tokens, use_cache=False, **how)
    assert len(wanted.unique(dim=0)) > 2
    for cache in (None, "static"):
        assert torch.equal(model.generate(tokens, cache_implementation=cache, **how), wanted)


def test_embeddings_do_for_tokens(model, settings, generator):
    tokens = ids(generator)
    opened(add_memory(model, [0, 2], **settings))
    with torch.no_grad():
        embedded = model.get_input_embeddings()(tokens)
        assert torch.equal(model(inputs_embeds=embedded).logits, model(tokens).logits)


def test_layers_of_recurrent_models_have_memories_too(generator):
    config = transformers.MambaConfig(
        hidden_size=32, num_hidden_layers=3, state_size=4, vocab_size=50, **IDS
    )
    model, tokens = transformers.MambaForCausalLM(config).eval(), ids(generator)
    with pytest.raises(ArgumentError, match="`n_heads` must be given, as the model's settings do"):
        add_memory(model, [1])
    opened(add_memory(model, [0, 1], n_heads=4, **KINDS["sequence"]), 2.0)
    how = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    wanted = model.generate(tokens, use_cache=False, **how)
    assert torch.equal(model.generate(tokens, **how), wanted)


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
        ({"n_heads": "x"}, "add_memory: `n_heads` must be an integer"),
        ({"n_heads": 2, "sequence": {"n_heads": 4}}, "left out where `sequence` has it, got 2"),
        ({"kind": "sdm", "n_locations": 50}, "`n_locations`"),
        ({"seed": "x"}, "add_memory: `seed` must be an integer"),
        ({"seed": 2**63 - 1}, "add_memory: `seed` must be in"),
        ({"freeze": "no"}, "add_memory: `freeze` must be one of False, True, got 'no'"),
        ({"n_locations": 49}, "`n_locations` must be left out where `kind` is 'sequence', got 49"),
        ({"top_k": 3}, "`top_k` must be left out where `kind` is 'sequence', got 3"),
        ({"kind": "sdm", "sequence": {}}, "`sequence` must be left out where `kind` is 'sdm'"),
    ],
)
def test_wrong_arguments_are_named_and_change_nothing(changed, message):
    model = gpt2()
    with pytest.raises(ArgumentError, match=message):
        add_memory(model, **{"layers": [1], **changed})
    assert_bare(model)


def assert_bare(model):
    assert all(p.requires_grad for p in model.parameters())
    assert not any("pentti" in name for name, _ in model.named_parameters())


def test_what_is_no_decoder_is_refused():
    with pytest.raises(
        ArgumentError, match="`model` must be a decoder of transformers, got 'Linear'"
    ):
        add_memory(torch.nn.Linear(2, 2), [0])
    odd = gpt2()
    odd.config.n_layer = 7
    with pytest.raises(ArgumentError, match="hold its layers in one ModuleList"):
        add_memory(odd, [0])


def small(kind, **settings):
    sizes = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50,
        "intermediate_size": 16,
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")
    return config(**{**sizes, **IDS, **settings})


def test_what_sees_later_tokens_is_refused():
    t5 = transformers.T5Config(
        d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, vocab_size=50
    )
    bidirectional = [
        transformers.BertModel(small("Bert")),
        transformers.BertLMHeadModel(small("Bert")),
        transformers.DebertaForMaskedLM(small("Deberta")),
        transformers.T5ForConditionalGeneration(t5),
        transformers.T5EncoderModel(copy.deepcopy(t5)),  # which changes it
        transformers.XLNetLMHeadModel(
            transformers.XLNetConfig(d_model=16, n_layer=2, n_head=2, d_inner=16, vocab_size=50)
        ),
    ]
    for model in bidirectional:
        with pytest.raises(ArgumentError, match="be a decoder, no token of which sees a later one"):
            add_memory(model, [0])
        assert_bare(model)


def test_decoders_of_other_makes_are_taken(generator):
    bloom = transformers.BloomConfig(hidden_size=16, n_layer=2, n_head=2, vocab_size=50)
    decoders = [
        transformers.BertLMHeadModel(small("Bert", is_decoder=True)),
        transformers.BloomForCausalLM(bloom),
        transformers.BloomModel(bloom),
    ]
    for model in decoders:
        added = add_memory(model.eval(), [1], **KINDS["sequence"])
        model(ids(generator))
        assert (added.meters[1] > 0).all()


def test_a_memory_of_another_model_is_refused(tmp_path):
    add_memory(gpt2(), [2]).save(tmp_path / "a.safetensors")
    with pytest.raises(
        StoreError, match=r"it is of a model 32 wide .* this one is 16 wide and has 3"
    ):
        load_memory(gpt2(n_embd=16), tmp_path / "a.safetensors")
    short = gpt2(n_layer=2)
    with pytest.raises(StoreError, match="at least 3 layers"):
        load_memory(short, tmp_path / "a.safetensors")
    assert_bare(short)
    with pytest.raises(StoreError, match="cannot read"):
        load_memory(gpt2(), tmp_path / "none.safetensors")
    with pytest.raises(ArgumentError, match="load_memory: `freeze` must be one of False, True"):
        load_memory(gpt2(), tmp_path / "a.safetensors", freeze=1.5)


WRONG = {
    "no layers": lambda config: config.pop("layers"),
    "empty layers": lambda config: config.update(layers=[]),
    "odd layers": lambda config: config.update(layers=["1"]),
    "layers twice": lambda config: config.update(layers=[1, 1]),
    "no settings": lambda config: config.pop("settings"),
    "settings of a list": lambda config: config.update(settings=[1]),
    "missing": lambda config: config["settings"].pop("n_heads"),
    "unknown": lambda config: config["settings"].update(colour=1),
    "another kind": lambda config: config["settings"].update(kind="both"),
    "odd width": lambda config: config["settings"].update(dim="32"),
    "odd seed": lambda config: config["settings"].update(seed=-1),
    "unfit": lambda config: config["settings"].update(n_heads=5),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_file_of_other_settings_is_refused_and_changes_nothing(tmp_path, settings, wrong):
    path = tmp_path / "memory.safetensors"
    add_memory(gpt2(), [1], **settings).save(path)
    config, tensors = load_tensors(path, "added memory")
    WRONG[wrong](config)
    save_tensors(path, "added memory", config, tensors)
    model = gpt2()
    with pytest.raises(StoreError, match=r"cannot read .*memory\.safetensors: "):
        load_memory(model, path)
    assert_bare(model)


def test_a_file_of_other_tensors_is_refused_and_changes_nothing(tmp_path, settings):
    path, model = tmp_path / "memory.safetensors", gpt2()
    add_memory(gpt2(), [1], **settings).save(path)
    config, tensors = load_tensors(path, "added memory")
    gate = tensors.pop("1.gate")
    for changed in ({}, {"1.gate": gate, "more": gate.clone()}, {"1.gate": gate[:5]}):
        save_tensors(path, "added memory", config, {**tensors, **changed})
        with pytest.raises(StoreError, match="cannot read"):
            load_memory(model, path)
        assert_bare(model)
