"""The whole model: causality, padding, gradients, meters, the loss, the settings."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch

from pentti.errors import ArgumentError, StoreError
from pentti.nn.config import PenttiConfig
from pentti.nn.fusion import FusionLayer
from pentti.nn.sdm import SDMLayer
from pentti.nn.sequence import SequenceMemory
from pentti.nn.sequence_config import SequenceConfig
from pentti.nn.transformer import PenttiTransformer

KINDS = {
    "dense": {},
    "window": {"window": 3},
    "longformer": {"window": 3, "n_global": 1},
    "bigbird": {"block": 2, "n_global": 1, "n_random": 1},
    "strided": {"block": 3},
    "fixed": {"block": 3, "n_summary": 1},
}
PLACES = {f"in {place}": {"memory_place": place} for place in ("mixer", "feed_forward")}
EVERY = {
    **{kind: {"local": kind, **more} for kind, more in KINDS.items()},
    **PLACES,
    "memory only": {"memory_layers": (0, 1, 2), "memory_place": "mixer"},
    "local only": {"memory_layers": ()},
    "untied": {"tied": False},
}


def model(n_layers=3, **settings):
    torch.manual_seed(3)
    sizes = {"memory_layers": (1,), "memory_heads": 2, "top_k": 3, "window": 3}
    return PenttiTransformer(11, 16, n_layers, 2, 49, **{**sizes, **settings})


@pytest.fixture(params=EVERY)
def every(request):
    return model(**EVERY[request.param])


def ids(generator, *shape):
    return torch.randint(11, shape, generator=generator)


def test_the_future_does_not_reach_the_past(every, generator):
    one = ids(generator, 3, 13)
    for at in (1, 6, 12):
        other = one.clone()
        other[:, at:] = (one[:, at:] + torch.randint(1, 11, (13 - at,), generator=generator)) % 11
        first, second = every(one), every(other)
        assert torch.equal(first.logits[:, :at], second.logits[:, :at])
        assert torch.equal(first.meters[..., :at], second.meters[..., :at])
        assert (first.logits[:, at:] != second.logits[:, at:]).any(-1).all()


def test_a_bidirectional_model_sees_both_ways(generator):
    for kind, more in KINDS.items():
        made = model(local=kind, causal=False, **more)
        one = ids(generator, 1, 7)
        other = one.clone()
        other[0, 3] = (one[0, 3] + 1) % 11
        differs = (made(one).logits != made(other).logits).any(-1)[0]
        assert differs[2], kind
        assert differs[4], kind


def test_padding_changes_nothing(every, generator):
    short, long = ids(generator, 1, 7)[0], ids(generator, 1, 12)[0]
    for side in ("left", "right"):
        batch, mask = ids(generator, 2, 12), torch.zeros(2, 12, dtype=torch.bool)
        place = slice(5, 12) if side == "left" else slice(0, 7)
        batch[0, place], batch[1] = short, long
        mask[0, place], mask[1] = True, True
        output = every(batch, token_mask=mask)
        alone = every(short[None])
        torch.testing.assert_close(output.logits[0, place], alone.logits[0], atol=1e-5, rtol=1e-5)
        assert torch.equal(output.meters[0, :, place], alone.meters[0])
        assert output.meters[0][:, ~mask[0]].eq(0).all()
        whole = every(long[None]).logits[0]
        torch.testing.assert_close(output.logits[1], whole, atol=1e-5, rtol=1e-5)
        spoilt = torch.where(mask, batch, ids(generator, 2, 12))
        assert torch.equal(every(spoilt, token_mask=mask).logits[mask], output.logits[mask])


def test_gradients_reach_every_parameter(every, generator):
    every.loss(ids(generator, 4, 13)).backward()
    without = [n for n, p in every.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_a_meter_counts_in_the_layers_with_a_memory(generator):
    places = ("fusion", "feed_forward")
    made = model(4, memory_layers=(1, 3), memory_place=places)
    logits, meters = made(ids(generator, 2, 7))
    assert logits.shape == (2, 7, 11)
    assert meters.dtype == torch.int64
    expected = torch.tensor([0, 6, 0, 6])[None, :, None].expand(2, 4, 7)
    assert torch.equal(meters, expected)


def test_the_defaults_make_a_model_of_the_right_parts():
    made = PenttiTransformer(256, 64, 12, 4, 2500, window=32)
    assert made.config.places.count("fusion") == 2
    assert [isinstance(one.mixer, FusionLayer) for one in made.blocks].count(True) == 2
    memories = [module for module in made.modules() if isinstance(module, SDMLayer)]
    assert len(memories) == 2
    books = [memory.decoder.codebooks for memory in memories]
    assert not torch.equal(*books)  # each memory has addresses of its own
    counted = made.n_parameters()
    assert counted.contents == 2 * 2500 * 64
    assert counted.total == sum(parameter.numel() for parameter in made.parameters())


def test_the_stream_keeps_its_scale_at_any_depth(generator):
    """Each residual branch is 1/√(2n) of what it would be, so their sum does not grow with n.

    Prediction: the root mean square after 3 and after 24 layers differs by less than a factor of
    1.5; without the scaling it would grow by up to √8 = 2.8.
    """
    scales = []
    for n_layers in (3, 24):
        made = model(n_layers, memory_layers=())
        taken = []
        made.norm.register_forward_pre_hook(lambda _, x, taken=taken: taken.append(x[0]))
        made(ids(generator, 4, 13))
        scales.append(taken[0].square().mean().sqrt().item())
    assert 1 / 1.5 < scales[1] / scales[0] < 1.5


def test_it_learns_a_short_text():
    """Predicted: to below 0.1, because each token follows from the two before."""
    text = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 10, 2, 3, 8, 4, 6, 2, 0]])
    made = model()
    optimiser = torch.optim.AdamW(made.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        loss = made.loss(text)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1
    assert made.generate(text[0, :2], 21, temperature=0).tolist() == text[0, 2:].tolist()


def test_embeddings_begin_with_a_spread_that_follows_the_width():
    for dim in (16, 64):
        made = PenttiTransformer(500, dim, 1, 2, 49, memory_layers=())
        assert made.embedding.weight.std().item() == pytest.approx(dim**-0.5, rel=0.05)


def test_the_loss_is_the_cross_entropy_of_the_next_token(generator):
    made, tokens = model(), ids(generator, 3, 8)
    logits = made(tokens).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(made.loss(tokens), expected)
    mask = torch.ones(3, 8, dtype=torch.bool)
    mask[0, :3] = False
    mask[1, 6:] = False
    log_shares = made(tokens, token_mask=mask).logits.log_softmax(-1)
    both = mask[:, 1:] & mask[:, :-1]
    each = -log_shares[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(made.loss(tokens, token_mask=mask), each[both].mean())


def test_given_targets_may_leave_positions_out(generator):
    made, tokens = model(causal=False), ids(generator, 2, 7)
    targets = tokens.clone()
    targets[:, [0, 2, 3, 5]] = -100
    log_shares = made(tokens).logits.log_softmax(-1)
    each = -log_shares.gather(2, tokens[..., None])[..., 0]
    torch.testing.assert_close(made.loss(tokens, targets), each[:, [1, 4, 6]].mean())
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1] = False
    torch.testing.assert_close(
        made.loss(tokens, targets, token_mask=mask), each[0, [1, 4, 6]].mean()
    )
    assert made.loss(tokens, torch.full_like(tokens, -100)).item() == 0


def test_a_loss_in_blocks_is_the_same_loss(generator, monkeypatch):
    made, tokens = model(), ids(generator, 3, 8)
    whole = made.loss(tokens)
    whole.backward()
    expected = {name: parameter.grad.clone() for name, parameter in made.named_parameters()}
    made.zero_grad()
    monkeypatch.setattr("pentti.nn.loss._LOGITS_AT_ONCE", 5 * 11)
    parts = made.loss(tokens)
    parts.backward()
    torch.testing.assert_close(parts, whole)
    for name, parameter in made.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-4)


def test_two_models_share_nothing(generator):
    one, two = model(), model()
    tokens = ids(generator, 2, 7)
    before = one(tokens).logits
    twin = copy.deepcopy(one)
    assert torch.equal(twin(tokens).logits, before)
    with torch.no_grad():
        for parameter in [*two.parameters(), *twin.parameters()]:
            parameter.add_(1)
    assert torch.equal(one(tokens).logits, before)
    assert not torch.allclose(twin(tokens).logits, before)
    assert {p.data_ptr() for p in one.parameters()}.isdisjoint(
        p.data_ptr() for p in two.parameters()
    )


def test_autocast_gives_nearly_the_same(every, generator):
    """bfloat16 has 8 bits, and a location at the edge of the nearest k may change with another."""
    tokens = ids(generator, 2, 13)
    exact = every(tokens).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = every(tokens).logits
        loss = every.loss(tokens)
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in every.parameters())
    assert (rough.float() - exact).norm() < 0.25 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_run(dtype, generator):
    made = model().to(dtype)
    tokens = ids(generator, 2, 7)
    assert made(tokens).logits.dtype == dtype
    assert made.loss(tokens).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert made.loss(tokens).item() == pytest.approx(model().loss(tokens).item(), rel=0.02)


def test_a_graph_of_the_whole_model_has_no_break(compiler, generator):
    made, tokens = model(1, memory_layers=(0,)), ids(generator, 2, 7)
    compiled = compiler(made, fullgraph=True, backend="eager")(tokens)
    torch.testing.assert_close(compiled.logits, made(tokens).logits)
    assert torch.equal(compiled.meters, made(tokens).meters)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch, on itself
@pytest.mark.parametrize("kind", [*KINDS, *PLACES])
def test_compiled_equals_eager(kind, compiler, generator):
    made, tokens = model(1, **{**EVERY[kind], "memory_layers": (0,)}), ids(generator, 2, 13)
    made.loss(tokens).backward()
    expected = [parameter.grad.clone() for parameter in made.parameters()]
    made.zero_grad()
    with torch.no_grad():
        output = compiler(made, fullgraph=True)(tokens)
    torch.testing.assert_close(output.logits, made(tokens).logits)
    assert torch.equal(output.meters, made(tokens).meters)
    compiler(made.loss, fullgraph=True)(tokens).backward()
    for parameter, grad in zip(made.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("shape", [(2, 0), (0, 7), (0, 0)])
def test_nothing_gives_nothing(every, shape):
    logits, meters = every(torch.zeros(shape, dtype=torch.int64))
    assert logits.shape == (*shape, 11)
    assert meters.shape == (shape[0], 3, shape[1])


def test_a_state_goes_over_whole_or_not_at_all(generator):
    one, two = model(), model(tied=False)
    before = copy.deepcopy(two.state_dict())
    with pytest.raises(StoreError, match=r"cannot read the state: it lacks head\.weight$"):
        two.load_state_dict(one.state_dict())
    wide = PenttiTransformer(11, 16, 3, 2, 64, memory_layers=(1,), memory_heads=2, top_k=3)
    with pytest.raises(StoreError, match=r"has shape \(49, 16\), this model's has \(64, 16\)"):
        wide.load_state_dict(one.state_dict())
    with pytest.raises(StoreError, match=r"has the unknown head\.weight"):
        one.load_state_dict(two.state_dict())
    misfit = {name: kept + 1 for name, kept in before.items()} | {"norm.weight": torch.ones(3)}
    with pytest.raises(StoreError, match=r"norm\.weight has shape \(3,\), this model's has \(16,"):
        two.load_state_dict(misfit, strict=False)
    with pytest.raises(StoreError, match=r"cannot read the state: norm\.weight is no tensor"):
        two.load_state_dict(before | {"norm.weight": 1})
    assert all(torch.equal(two.state_dict()[name], kept) for name, kept in before.items())
    assert two.load_state_dict(one.state_dict(), strict=False).missing_keys == ["head.weight"]
    tokens = ids(generator, 2, 7)
    three = model()
    with torch.no_grad():
        three.norm.weight.mul_(2)
    three.load_state_dict(one.state_dict())
    assert torch.equal(three(tokens).logits, one(tokens).logits)


def test_a_newer_state_is_refused():
    state = model().state_dict()
    state._metadata[""]["version"] = 2
    with pytest.raises(StoreError, match="its version 2 is newer than 1, the newest that this"):
        model().load_state_dict(state)


def test_the_names_of_a_state_stay():
    """A file of today must load tomorrow: whoever renames these raises STATE_VERSION."""
    names = {
        name.split(".", 2)[-1] for name in model(tied=False).state_dict() if "blocks.1" in name
    }
    assert {
        "norm_mixer.weight", "norm_feed_forward.weight", "mixer.gate_weight.weight",
        "mixer.gate_weight.bias", "mixer.memory.contents", "mixer.memory.query.weight",
        "mixer.memory.weigh.log_beta", "mixer.memory.decoder.codebooks",
        "feed_forward.inward.weight", "feed_forward.outward.weight",
    } <= names  # fmt: skip
    assert {"embedding.weight", "norm.weight", "head.weight"} <= set(model(tied=False).state_dict())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m([[3, 11]]),
            r"`ids_BL` must hold ids in \[0, 10\], got 11 at position \(0, 1\)",
        ),
        (lambda m: m([3, 1]), r"`ids_BL` must have shape \(batch, length\), got shape \(2,\)"),
        (lambda m: m([[3.0, 1.0]]), "`ids_BL` must hold integers, got torch.float64"),
        (
            lambda m: m([[3, 1]], token_mask=[[True]]),
            r"`token_mask` must be boolean of shape \(1, 2\), got torch.bool of shape \(1, 1\)",
        ),
        (lambda m: m([[3, 1]], token_mask=[[1, 0]]), "must be boolean .* got torch.int64 of shape"),
        (lambda m: m.loss([[3]]), r"`ids_BL` must have shape \(batch, at least 2\), got shape"),
        (lambda m: m.loss([[3, 1]], [[3]]), r"`targets_BL` must have shape \(1, 2\), got shape"),
        (lambda m: m.loss([[3, 1]], [[3, 11]]), r"`targets_BL` must hold ids in \[0, 10\], got 11"),
        (
            lambda _: model(causal=False).loss([[3, 1]]),
            "`targets_BL` must be given to a bidirectional model, got none",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ArgumentError, match=message):
        call(model())


SIZES = {"vocab_size": 11, "dim": 16, "n_layers": 3, "n_heads": 2}


@pytest.mark.parametrize(
    ("n_layers", "expected"), [(1, (0,)), (2, (1,)), (3, (1, 2)), (6, (2, 4)), (12, (4, 8))]
)
def test_memories_stand_at_a_third_and_two_thirds(n_layers, expected):
    places = PenttiConfig(**{**SIZES, "n_layers": n_layers}).places
    assert tuple(i for i, place in enumerate(places) if place == "fusion") == expected


def test_a_config_goes_through_json():
    config = PenttiConfig(**SIZES, memory_layers=(2, 0), memory_place=("mixer", "fusion"), seed=5)
    assert PenttiConfig.from_dict(config.as_dict()) == config
    assert config.places == ("fusion", "local", "mixer")
    assert replace(PenttiConfig(**SIZES), n_layers=12).places.index("fusion") == 4
    assert hash(config) == hash(PenttiConfig.from_dict(config.as_dict()))


def test_a_config_with_sequence_memories_goes_through_json():
    config = PenttiConfig(
        **SIZES, memory_kind=("sdm", "sequence"), sequence={"top_k": 4, "rule": "delta"}
    )
    again = PenttiConfig.from_dict(json.loads(json.dumps(config.as_dict())))
    assert again == config
    assert hash(again) == hash(config)
    assert config.kinds == ("none", "sdm", "sequence")
    assert config.places == ("local", "fusion", "fusion")
    assert config.sequence == SequenceConfig(top_k=4, rule="delta")
    assert PenttiConfig(**SIZES).kinds == ("none", "sdm", "sdm")


def test_each_memory_is_of_the_kind_that_was_asked_for():
    settings = {
        "n_heads": 4, "n_locations": 81, "top_k": 5, "address_dim": 6, "shift": False,
        "rule": "delta", "decay": True, "write_gate": True, "max_locations": 7, "forget": "least",
    }  # fmt: skip
    places = ("mixer", "feed_forward", "fusion")
    made = model(
        memory_layers=(0, 1, 2), memory_place=places, memory_kind=("sequence", "sdm", "sequence"),
        sequence=settings,
    )  # fmt: skip
    first, learned, last = (
        made.blocks[0].mixer,
        made.blocks[1].feed_forward,
        made.blocks[2].mixer.memory,
    )
    assert isinstance(learned, SDMLayer)
    assert not torch.equal(first.decoder.codebooks, last.decoder.codebooks)
    for layer in (first, last):
        assert isinstance(layer, SequenceMemory)
        for name in ("n_heads", "n_locations", "top_k", "shift", "rule", "max_locations", "forget"):
            assert getattr(layer, name) == settings[name]
        assert layer.decoder.dim == 4 * 6
        assert layer.kept is not None
        assert layer.gate is not None
    counted = made.n_parameters()
    assert counted.contents == 49 * 16
    assert counted.total == sum(parameter.numel() for parameter in made.parameters())


def test_a_sequence_memory_has_the_heads_of_the_attention_and_room_for_its_context():
    made = model(memory_kind="sequence", sequence=SequenceConfig(max_length=1000, top_k=4))
    memory = made.blocks[1].mixer.memory
    assert memory.n_heads == 2
    assert memory.n_locations == 64**2
    assert made.n_parameters().contents == 0
    whole = SequenceMemory(16, 2, n_locations=4096, top_k=4)
    bound = whole.out.weight.abs().max() / math.sqrt(2 * 3)  # as every residual branch ends
    assert memory.out.weight.abs().max() <= 1.1 * bound


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"top_k": 0}, "`top_k` must be at least 1, got 0"),
        ({"max_length": 1.5}, "`max_length` must be an integer at least 1, got 1.5"),
        ({"n_heads": 0}, "`n_heads` must be at least 1, got 0"),
        ({"n_locations": 50}, "`n_locations` must be a square, such as 49 = 7² or 64 = 8², got 50"),
        ({"n_locations": 49, "top_k": 50}, r"`top_k` must be in \[1, 49\], got 50"),
        ({"address_dim": "wide"}, "`address_dim` must be an integer at least 1, got 'wide'"),
        ({"shift": "yes"}, "`shift` must be one of False, True, got 'yes'"),
        ({"rule": "oja"}, "`rule` must be one of 'hebbian', 'delta', got 'oja'"),
        ({"forget": "all"}, "`forget` must be one of 'oldest', 'least', got 'all'"),
        ({"max_locations": 3}, "`max_locations` must be at least 8, got 3"),
        ({"colour": 1}, "`sequence` must be one of 'address_dim', 'decay', .*, got 'colour'"),
    ],
)
def test_bad_settings_of_sequence_memories_are_named(more, message):
    with pytest.raises(ArgumentError, match=f"^SequenceConfig: {message}"):
        PenttiConfig(**SIZES, sequence=more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"vocab_size": 0}, "`vocab_size` must be at least 1, got 0"),
        ({"dim": 15}, "`dim` must be a multiple of `n_heads`, got 15 with 2 heads"),
        ({"n_layers": 2.5}, "`n_layers` must be an integer at least 1, got 2.5"),
        ({"n_summary": 0}, "`n_summary` must be at least 1, got 0"),
        ({"n_global": -1}, "`n_global` must be at least 0, got -1"),
        ({"seed": -1}, "`seed` must be in"),
        ({"causal": "yes"}, "`causal` must be one of False, True, got 'yes'"),
        ({"local": "sparse"}, "`local` must be one of 'dense', 'window', 'longformer', 'bigbird'"),
        ({"feed_forward_factor": 0}, "`feed_forward_factor` must be above 0, got 0"),
        ({"dropout": 1.5}, r"`dropout` must be in \[0.0, 1.0\], got 1.5"),
        ({"dropout": 1}, "`dropout` must be below 1, got 1"),
        ({"weighting": "none"}, "`weighting` must be one of"),
        ({"memory_layers": (3,)}, r"`memory_layers` must be in \[0, 2\], got 3"),
        ({"memory_layers": (1, 1)}, r"`memory_layers` must name each layer once, got \(1, 1\)"),
        ({"memory_layers": 1}, "`memory_layers` must be a list of layers, got 1"),
        ({"memory_place": "before"}, "`memory_place` must be one of 'fusion', 'mixer', 'feed_"),
        ({"memory_place": ("fusion",)}, "must be one place, or one for each of 2 layers, got"),
        ({"memory_place": 3}, "must be one place, or one for each of 2 layers, got 3"),
        ({"memory_kind": "text"}, "`memory_kind` must be one of 'sdm', 'sequence', got 'text'"),
        ({"memory_kind": ("sdm",)}, "must be one kind, or one for each of 2 layers, got"),
        ({"memory_kind": ("sdm", 3)}, "`memory_kind` must be one of 'sdm', 'sequence', got 3"),
        (
            {"memory_kind": "sequence", "causal": False},
            "`memory_kind` must be 'sdm' where `causal` is False, got 'sequence'",
        ),
    ],
)
def test_bad_settings_are_named(more, message):
    with pytest.raises(ArgumentError, match=f"^PenttiConfig: .*{message}"):
        PenttiConfig(**{**SIZES, **more})


def test_unknown_settings_are_named():
    with pytest.raises(
        ArgumentError, match="`sequence` must be a SequenceConfig or a dictionary, "
    ):
        PenttiConfig(**SIZES, sequence=5)
    with pytest.raises(ArgumentError, match=r"`settings` must be one of 'beta', .*got 'colour'"):
        PenttiConfig.from_dict({**SIZES, "colour": 1})
    with pytest.raises(ArgumentError, match="`settings` must hold a 'dim', got none"):
        PenttiConfig.from_dict({name: value for name, value in SIZES.items() if name != "dim"})
    with pytest.raises(TypeError, match="colour"):
        PenttiTransformer(11, 16, 3, 2, 49, colour=1)


def test_a_cache_of_another_model_is_refused():
    made, ids = model(), torch.tensor([[3]])
    with torch.no_grad():
        for cache in (model(4).new_cache(1), [], 5):
            with pytest.raises(ArgumentError, match="`cache` must come from `new_cache`, got a"):
                made(ids, cache=cache)
        with pytest.raises(ArgumentError, match="FusionLayer: `cache` must come from `new_cache`"):
            made(ids, cache=model(memory_layers=()).new_cache(1))
