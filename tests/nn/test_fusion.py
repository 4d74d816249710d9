"""The gate between attention and memory, the hybrid mixer, and the block around them."""

import itertools
import math

import pytest
import torch
from torch import nn

from pentti.errors import ArgumentError
from pentti.nn.block import TransformerBlock
from pentti.nn.feed_forward import SwiGLU
from pentti.nn.fusion import FusionLayer
from pentti.nn.hybrid import HybridSparseAttention
from pentti.nn.local import Attention, SlidingWindowAttention
from pentti.nn.sdm import MemoryOutput, SDMLayer
from pentti.nn.sequence import SequenceMemory


class Constant(nn.Module):
    """A memory that always says the same."""

    def __init__(self, value, meter):
        super().__init__()
        self.value, self.meter = value, meter

    def forward(self, x):
        meter = torch.full(x.shape[:-1], self.meter, dtype=torch.int64)
        return MemoryOutput(torch.full_like(x, self.value), meter)


class Zero(nn.Module):
    def forward(self, x):
        return torch.zeros_like(x)


def memory(dim=16):
    return SDMLayer(dim, n_locations=49, n_heads=2, top_k=3)


def sequence(dim=16):
    return SequenceMemory(dim, 2, n_locations=64, top_k=3)


def hybrid(**settings):
    sizes = {"window": 3, "n_locations": 49, "memory_heads": 2, "top_k": 3}
    return HybridSparseAttention(16, 2, **{**sizes, **settings})


def test_the_gate_weighs_local_against_memory(generator):
    layer = FusionLayer(6, nn.Identity(), Constant(5.0, 7))
    with torch.no_grad():
        layer.gate_weight.weight.normal_(generator=generator)
        layer.gate_weight.bias.normal_(generator=generator)
    x = torch.randn(2, 5, 6, generator=generator)
    output, meter = layer(x)
    weight, bias = layer.gate_weight.weight, layer.gate_weight.bias
    g = 1 / (1 + torch.exp(-(x @ weight.T + bias)))
    torch.testing.assert_close(output, g * x + (1 - g) * 5.0)
    torch.testing.assert_close(layer.gate(x), g)
    assert meter.tolist() == [[7] * 5] * 2


@pytest.mark.parametrize("start", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("per_channel", [True, False])
def test_the_gate_starts_where_it_is_told(start, per_channel, generator):
    layer = FusionLayer(6, Zero(), Constant(1.0, 7), per_channel=per_channel, start=start)
    x = torch.randn(2, 5, 6, generator=generator)
    assert layer.gate(x).shape == (2, 5, 6 if per_channel else 1)
    torch.testing.assert_close(layer.gate(x), torch.full_like(layer.gate(x), start))
    torch.testing.assert_close(layer(x).output, torch.full_like(x, 1 - start))


def test_the_gate_moves_to_the_side_that_knows(generator):
    """The memory gives the answer in channel 0, the local mixer in channel 1."""
    layer = FusionLayer(2, Zero(), Constant(1.0, 7))
    x = torch.randn(3, 5, 2, generator=generator)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.0)
    for _ in range(100):
        optimiser.zero_grad()
        (layer(x).output - torch.tensor([1.0, 0.0])).square().sum().backward()
        optimiser.step()
    gate = layer.gate(x).mean((0, 1))
    assert gate[0] < 0.1
    assert gate[1] > 0.95


WITH_SEQUENCE = {
    "beside attention": lambda: FusionLayer(
        16, SlidingWindowAttention(16, 2, window=3), sequence()
    ),
    "beside a learned memory": lambda: FusionLayer(16, sequence(), memory()),
    "three": lambda: FusionLayer(16, FusionLayer(16, Attention(16, 2), sequence()), memory()),
    "in a block": lambda: TransformerBlock(16, sequence()),
    "for a feed-forward network": lambda: TransformerBlock(
        16, Attention(16, 2), feed_forward=sequence()
    ),
}


@pytest.mark.parametrize(
    "make",
    [hybrid, lambda: FusionLayer(16, Attention(16, 2), memory()), *WITH_SEQUENCE.values()],
)
def test_the_future_does_not_reach_the_past(make, generator):
    mixer = make()
    x = torch.randn(2, 11, 16, generator=generator)
    other = x.clone()
    other[:, 7:] = torch.randn(2, 4, 16, generator=generator)
    one, two = mixer(x), mixer(other)
    assert torch.equal(one.output[:, :7], two.output[:, :7])
    assert torch.equal(one.meter[:, :7], two.meter[:, :7])
    assert (one.output[:, 7:] != two.output[:, 7:]).any(-1).all()


def test_the_hybrid_is_its_two_parts(generator):
    mixer = hybrid()
    x = torch.randn(2, 11, 16, generator=generator)
    local, known = mixer.fusion.local(x), mixer.fusion.memory(x)
    assert isinstance(mixer.fusion.local, SlidingWindowAttention)
    assert isinstance(mixer.fusion.memory, SDMLayer)
    torch.testing.assert_close(mixer(x).output, 0.9 * local + 0.1 * known.output)
    assert torch.equal(mixer(x).meter, known.meter)


def test_without_causality_the_past_sees_the_future(generator):
    mixer = hybrid(causal=False)
    x = torch.randn(1, 5, 16, generator=generator, requires_grad=True)
    mixer(x).output[0, 2].sum().backward()
    assert x.grad[0, 3].any()


def test_padding_gives_nothing_and_takes_nothing(generator):
    mixer = hybrid()
    x = torch.randn(2, 11, 16, generator=generator)
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[0, :4] = False
    mask[1, 9:] = False
    output, meter = mixer(x, token_mask=mask)
    assert output[~mask].eq(0).all()
    assert meter[~mask].tolist() == [0] * 6
    assert meter[mask].tolist() == [6] * 16
    torch.testing.assert_close(output[0, 4:], mixer(x[:1, 4:]).output[0])
    torch.testing.assert_close(output[1, :9], mixer(x[1:, :9]).output[0])
    spoilt = torch.where(mask[..., None], x, math.nan)
    assert torch.equal(mixer(spoilt, token_mask=mask).output, output)


@pytest.mark.parametrize("split", [(11,), (4, 7), (1, 2, 3, 5), (1,) * 11])
def test_a_few_tokens_at_a_time_equal_all_at_once(split, generator):
    mixer = hybrid()
    x = torch.randn(2, 11, 16, generator=generator)
    cache = mixer.new_cache(2)
    with torch.no_grad():
        parts = [mixer(part, cache=cache) for part in x.split(split, dim=1)]
        whole = mixer(x)
    torch.testing.assert_close(
        torch.cat([part.output for part in parts], 1), whole.output, atol=1e-5, rtol=0
    )
    assert torch.equal(torch.cat([part.meter for part in parts], 1), whole.meter)


@pytest.mark.parametrize("name", WITH_SEQUENCE)
def test_a_sequence_memory_streams_in_any_place(name, generator):
    mixer = WITH_SEQUENCE[name]()
    x = torch.randn(2, 11, 16, generator=generator)
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[0, :4] = False
    with torch.no_grad():
        whole = mixer(x, token_mask=mask)
        for split in ((4, 7), (1,) * 11):
            cache, ends = mixer.new_cache(2), itertools.accumulate(split)
            parts = [
                mixer(x[:, end - n : end], token_mask=mask[:, end - n : end], cache=cache)
                for n, end in zip(split, ends, strict=True)
            ]
            streamed = torch.cat([part.output for part in parts], 1)
            torch.testing.assert_close(streamed, whole.output, atol=1e-5, rtol=0)
            assert torch.equal(torch.cat([part.meter for part in parts], 1), whole.meter)
        torch.testing.assert_close(mixer(x[:1, 4:]).output[0], whole.output[0, 4:])


def test_a_fusion_counts_the_locations_of_both_parts(generator):
    x = torch.randn(2, 5, 16, generator=generator)
    assert FusionLayer(16, Attention(16, 2), sequence())(x).meter.tolist() == [[6] * 5] * 2
    assert FusionLayer(16, sequence(), memory())(x).meter.tolist() == [[12] * 5] * 2
    assert TransformerBlock(16, WITH_SEQUENCE["three"]())(x).meter.tolist() == [[12] * 5] * 2


def test_a_fusion_with_a_sequence_memory_is_its_two_parts(generator):
    layer = WITH_SEQUENCE["beside attention"]()
    x = torch.randn(2, 11, 16, generator=generator)
    expected = 0.9 * layer.local(x) + 0.1 * layer.memory(x).output
    torch.testing.assert_close(layer(x).output, expected)


def test_gradients_reach_every_parameter_of_the_hybrid(generator):
    mixer = hybrid()
    x = torch.randn(2, 11, 16, generator=generator)
    (mixer(x).output * torch.randn(2, 11, 16, generator=generator)).sum().backward()
    without = [n for n, p in mixer.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_a_swiglu_is_its_formula(generator):
    layer = SwiGLU(6, 3.0)
    assert layer.hidden == 16  # 2/3 · 3 · 6 = 12, and a multiple of 8
    x = torch.randn(5, 6, generator=generator)
    first, second = layer.inward.weight[:16], layer.inward.weight[16:]
    inner = nn.functional.silu(x @ first.T) * (x @ second.T)
    torch.testing.assert_close(layer(x), inner @ layer.outward.weight.T)


def test_a_block_adds_both_parts_to_what_came(generator):
    block = TransformerBlock(6, Constant(2.0, 7), feed_forward=Constant(3.0, 5))
    x = torch.randn(2, 5, 6, generator=generator)
    output, meter = block(x)
    torch.testing.assert_close(output, x + 5)
    assert meter.tolist() == [[12] * 5] * 2
    mask = torch.tensor([[False, True, True, True, True]] * 2)
    output, meter = block(x, token_mask=mask)
    assert torch.equal(output[:, 0], x[:, 0])
    assert meter[0].tolist() == [0, 12, 12, 12, 12]


def test_a_block_norms_what_each_part_sees(generator):
    block = TransformerBlock(6, nn.Identity(), feed_forward=nn.Identity())
    x = 100 * torch.randn(2, 5, 6, generator=generator)
    middle = x + x / x.square().mean(-1, keepdim=True).sqrt()
    expected = middle + middle / middle.square().mean(-1, keepdim=True).sqrt()
    output, meter = block(x)
    torch.testing.assert_close(output, expected)
    assert meter.tolist() == [[0] * 5] * 2


def test_a_block_drops_out_only_while_training(generator):
    torch.manual_seed(1)
    block = TransformerBlock(60, Constant(2.0, 7), feed_forward=Zero(), dropout=0.5)
    x = torch.zeros(5, 7, 60)
    values = set(block(x).output.unique().tolist())
    assert values == {0.0, 4.0}
    assert block.eval()(x).output.eq(2).all()


def test_a_block_takes_a_memory_for_its_feed_forward(generator):
    block = TransformerBlock(16, Attention(16, 2), feed_forward=memory())
    x = torch.randn(2, 5, 16, generator=generator)
    assert block(x).meter.tolist() == [[6] * 5] * 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FusionLayer(0, Zero(), Zero()), "FusionLayer: `dim` must be at least 1, got 0"),
        (lambda: FusionLayer(6, Zero(), Zero(), start=1.0), r"FusionLayer: `start` must be in \(0"),
        (lambda: TransformerBlock(0, Zero()), "TransformerBlock: `dim` must be"),
        (lambda: TransformerBlock(6, Zero(), dropout=1), "TransformerBlock: `dropout` must be bel"),
        (lambda: TransformerBlock(6, Zero(), dropout=-1), r"`dropout` must be in \[0.0, 1.0\], go"),
        (lambda: FusionLayer(6, Zero(), 5), "FusionLayer: `memory` must be a torch module, got 5"),
        (lambda: FusionLayer(6, Zero(), Zero(), per_channel=3), "`per_channel` must be one of Fal"),
        (
            lambda: TransformerBlock(6, None),
            "TransformerBlock: `mixer` must be a torch module, got",
        ),
        (lambda: SwiGLU(0), "SwiGLU: `dim` must be"),
        (lambda: SwiGLU(6, 0), "SwiGLU: `factor` must be above 0, got 0"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


class Wrapped(nn.Module):
    """Hands everything on, as compiled and checkpointed modules do."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, *args, **more):
        return self.inside(*args, **more)

    def new_cache(self, batch):
        return self.inside.new_cache(batch)


def test_a_wrapped_mixer_still_gets_mask_and_cache(compiler, generator):
    attention, known = Attention(16, 2), memory()
    plain = FusionLayer(16, attention, known).requires_grad_(False)
    wrapped = FusionLayer(16, Wrapped(attention), compiler(known, backend="eager"))
    wrapped.requires_grad_(False)
    x, mask = torch.randn(2, 5, 16, generator=generator), torch.ones(2, 5, dtype=torch.bool)
    mask[0, :2] = False
    torch.testing.assert_close(wrapped(x, token_mask=mask), plain(x, token_mask=mask))
    cache = wrapped.new_cache(2)
    parts = [wrapped(part, cache=cache).output for part in x.split(1, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), plain(x).output, atol=1e-6, rtol=1e-5)


def test_another_mixer_in_the_same_place_is_asked_anew(generator):
    block = TransformerBlock(16, nn.Identity())
    block.mixer = Attention(16, 2)
    x, mask = torch.randn(2, 5, 16, generator=generator), torch.ones(2, 5, dtype=torch.bool)
    mask[0, :2] = False
    padded = block(x, token_mask=mask).output[0, 2:]
    torch.testing.assert_close(padded, block(x[:1, 2:]).output[0])
    block.mixer = nn.Identity()
    assert block(x, token_mask=mask).output.shape == x.shape


def test_what_takes_a_cache_must_make_one():
    class Forgetful(nn.Module):
        def forward(self, x, cache=None):
            return x if cache is None else cache + x

    with pytest.raises(ArgumentError, match="Forgetful: `new_cache` must be a method where `forw"):
        TransformerBlock(6, Forgetful()).new_cache(2)


@pytest.mark.parametrize("make", [hybrid, lambda: TransformerBlock(16, memory())])
def test_bad_tokens_masks_and_caches_are_named(make):
    layer, x = make(), torch.zeros(2, 5, 16)
    for given, more, message in (
        ([1.0], {}, r"`x_BLD` must be a tensor of shape \(…, 16\), got list"),
        (x[..., :7], {}, r"`x_BLD` must be a tensor of shape \(…, 16\), got torch.Size\(\[2, 5, 7"),
        (x, {"token_mask": [[True]]}, "`token_mask` must be a bool tensor, got a list"),
        (x, {"token_mask": torch.ones(2, 5)}, "`token_mask` must be a bool tensor, got a torch.fl"),
        (
            x,
            {"token_mask": torch.ones(2, 3, dtype=torch.bool)},
            r"`token_mask` must have the shape \(2, 5\) of the tokens, got \(2, 3\)",
        ),
        (
            x,
            {"token_mask": torch.ones(2, 5, dtype=torch.bool, device="meta")},
            "`token_mask` must be on cpu, got meta",
        ),
        (x, {"cache": {}}, "`cache` must come from `new_cache`, got a dict"),
    ):
        with pytest.raises(ArgumentError, match=message):
            layer(given, **more)
