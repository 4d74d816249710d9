"""Tokens that come a few at a time give what the whole sequence gives."""

import pytest
import torch

from pentti.errors import ArgumentError
from pentti.nn import local
from pentti.nn.local import base

FORMS = {
    "dense": (local.Attention, {}),
    "window": (local.SlidingWindowAttention, {"window": 7}),
    "window-1": (local.SlidingWindowAttention, {"window": 1}),
    "longformer": (local.LongformerAttention, {"window": 5, "n_global": 3}),
    "bigbird": (local.BigBirdAttention, {"block": 3, "n_random": 2, "n_global": 1}),
    "strided": (local.StridedAttention, {"stride": 5}),
    "fixed": (local.FixedAttention, {"block": 6, "n_summary": 2}),
}
LENGTH = 67
SPLITS = {
    "one by one": [1] * LENGTH,
    "uneven": [1, 30, 0, 2, 1, 26, 7],
    "first empty": [0, 5, 62],
    "at once": [LENGTH],
}


@pytest.fixture(autouse=True)
def one_thread():
    """Sizes here are so small that threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=FORMS)
def attention(request):
    kind, settings = FORMS[request.param]
    torch.manual_seed(5)
    return kind(12, 2, **settings).double().requires_grad_(False)


def in_pieces(attention, x, sizes, token_mask=None):
    cache = attention.new_cache(len(x))
    masks = [None] * len(sizes) if token_mask is None else token_mask.split(sizes, 1)
    found = [
        attention(piece, token_mask=mask, cache=cache)
        for piece, mask in zip(x.split(sizes, 1), masks, strict=True)
    ]
    assert cache.length == sum(sizes)
    return torch.cat(found, 1), cache


def tokens(length, generator, batch=3):
    return torch.randn(batch, length, 12, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("split", SPLITS)
def test_any_split_equals_the_whole(attention, split, generator):
    x = tokens(LENGTH, generator)
    got, cache = in_pieces(attention, x, SPLITS[split])
    torch.testing.assert_close(got, attention(x), rtol=1e-11, atol=1e-13)
    assert cache.n_tokens_B.tolist() == [LENGTH] * 3


@pytest.mark.parametrize("split", SPLITS)
def test_and_with_padding(attention, split, generator):
    """Left, anywhere, and a whole sequence of it: each sequence counts its own tokens."""
    x, mask = tokens(LENGTH, generator), torch.rand(3, LENGTH, generator=generator) < 0.6
    mask[0] = torch.arange(LENGTH) >= 40
    mask[2] = False
    got, cache = in_pieces(attention, x, SPLITS[split], mask)
    torch.testing.assert_close(got, attention(x, token_mask=mask), rtol=1e-11, atol=1e-13)
    assert (got[~mask] == 0).all()
    assert cache.n_tokens_B.tolist() == mask.sum(1).tolist()


def test_a_long_piece_goes_in_steps(attention, monkeypatch, generator):
    x = tokens(LENGTH, generator)
    monkeypatch.setattr(base, "_STEP", 7)
    got, _ = in_pieces(attention, x, [4, LENGTH - 4])
    torch.testing.assert_close(got, attention(x), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("sizes", [[1] * 700, [500, *[1] * 200], [100] * 7])
def test_the_cache_holds_what_can_still_be_seen(attention, sizes, generator):
    """And at most about as much again, so that it need not be tidied at every token."""
    _, cache = in_pieces(attention, tokens(700, generator, 1), sizes)
    bound = {"SlidingWindowAttention": 7, "LongformerAttention": 8, "FixedAttention": 240}
    new = max(sizes[1:])
    most = bound.get(type(attention).__name__, 700)
    assert cache.n_kept <= cache.room <= 2 * (most + new)
    assert cache.size_bytes == cache.room * (2 * 12 * 8 + 8)
    if type(attention).__name__ not in bound:
        assert cache.n_kept == 700


def test_a_cache_remembers_half_precision(attention, generator):
    x = tokens(LENGTH, generator).bfloat16()
    attention = attention.bfloat16()
    got, _ = in_pieces(attention, x, SPLITS["uneven"])
    whole = attention(x)
    assert got.dtype == torch.bfloat16
    assert (got - whole).abs().max() < 0.04 * whole.abs().max()


def test_a_batch_of_none(attention):
    got, cache = in_pieces(attention, torch.zeros(0, 9, 12, dtype=torch.float64), [4, 5])
    assert got.shape == (0, 9, 12)
    assert cache.length == 9


def test_bad_caches(generator):
    attention = local.SlidingWindowAttention(12, 2, window=3)
    x = torch.randn(2, 5, 12, generator=generator)
    name = "SlidingWindowAttention"
    with torch.no_grad():
        message = f"{name}: `cache` must be for the 2 sequences of `x_BLD`, got one for 3"
        with pytest.raises(ArgumentError, match=message):
            attention(x, cache=attention.new_cache(3))
        with pytest.raises(ArgumentError, match="`cache` must come from `new_cache`, got a dict"):
            attention(x, cache={})
    message = r"`cache` must be used under `torch.no_grad\(\)`, got a call that records gradients"
    with pytest.raises(ArgumentError, match=message):
        attention(x, cache=attention.new_cache(2))
    both = local.SlidingWindowAttention(12, 2, window=3, causal=False)
    with pytest.raises(
        ArgumentError, match="`cache` must be None where the attention is not causal"
    ):
        both(x, cache=attention.new_cache(2))
    with pytest.raises(
        ArgumentError, match="`causal` must be True where a cache is used, got False"
    ):
        both.new_cache(2)
    with pytest.raises(ArgumentError, match="KeyValueCache: `batch` must be at least 0, got -1"):
        attention.new_cache(-1)
    with pytest.raises(RuntimeError, match="`append` must come before `kept`"):
        attention.new_cache(2).kept()
    assert repr(attention.new_cache(2)) == "KeyValueCache(batch=2, length=0, n_kept=0)"


def test_a_cache_of_another_attention_is_refused(generator):
    one, other = local.Attention(12, 2), local.Attention(12, 3)
    x = torch.randn(2, 5, 12, generator=generator)
    with torch.no_grad():
        cache = one.new_cache(2)
        one(x, cache=cache)
        with pytest.raises(
            ArgumentError, match="`cache` must come from the `new_cache` of this at"
        ):
            other(x, cache=cache)
        assert cache.length == 5


def test_a_cache_goes_on_outside_inference_mode(attention, generator):
    x = tokens(LENGTH, generator)
    cache = attention.new_cache(3)
    with torch.inference_mode():
        parts = [attention(x[:, :40], cache=cache)]
    parts += [attention(x[:, at : at + 1], cache=cache) for at in range(40, LENGTH)]
    torch.testing.assert_close(torch.cat(parts, 1), attention(x), rtol=1e-11, atol=1e-13)


def test_autocast_may_end_between_two_tokens(attention, generator):
    attention, x = attention.float(), tokens(LENGTH, generator).float()
    cache = attention.new_cache(3)
    with torch.autocast("cpu", torch.bfloat16):
        first = attention(x[:, :40], cache=cache)
    second = attention(x[:, 40:], cache=cache)
    assert (first.dtype, second.dtype) == (torch.bfloat16, torch.float32)
    whole = attention(x)[:, 40:]
    assert (second - whole).abs().max() < 0.05 * whole.abs().max()
