"""Linear attention in chunks equals its definition, and continues from a state of fixed size."""

import pytest
import torch
from torch.nn import functional

from pentti.errors import ArgumentError
from pentti.nn import FusionLayer, LinearAttention, SDMLayer


@pytest.fixture
def layer():
    torch.manual_seed(1)
    return LinearAttention(16, 2, chunk=8).double()


def tokens(batch, length, generator):
    return torch.randn((batch, length, 16), dtype=torch.float64, generator=generator)


def definition(layer, x):
    q, k, v = (
        part(x).unflatten(-1, (2, 8)).transpose(1, 2)
        for part in (layer.query, layer.key, layer.value)
    )
    weights = ((functional.elu(q) + 1) @ (functional.elu(k) + 1).mT).tril()
    weights = weights / weights.sum(-1, keepdim=True)
    return layer.out((weights @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 53])
def test_chunks_equal_the_definition(layer, length, generator):
    x = tokens(2, length, generator)
    torch.testing.assert_close(layer(x), definition(layer, x))


@pytest.mark.parametrize("sizes", [[53], [1] * 53, [7, 1, 0, 30, 15]])
def test_any_split_equals_the_whole(layer, sizes, generator):
    x = tokens(2, 53, generator)
    state = layer.new_cache(2)
    size = state.size_bytes
    parts = [layer(part, cache=state) for part in x.split(sizes, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), layer(x))
    assert state.size_bytes == size


def test_the_future_leaves_the_past_as_it_was(layer, generator):
    x = tokens(2, 53, generator)
    changed = torch.cat([x[:, :20], tokens(2, 33, generator)], 1)
    assert torch.equal(layer(changed)[:, :20], layer(x)[:, :20])
    assert not torch.equal(layer(changed)[:, 20:], layer(x)[:, 20:])


def test_padding_is_as_if_it_were_not_there(layer, generator):
    x = tokens(2, 53, generator)
    mask = torch.rand((2, 53), generator=generator) > 0.3
    x[~mask] = torch.nan
    padded = layer(x, token_mask=mask)
    for row, kept in enumerate(mask):
        torch.testing.assert_close(padded[row][kept], layer(x[row : row + 1, kept])[0])


def test_it_stands_where_local_attention_does(layer, generator):
    fused = FusionLayer(16, layer.float(), SDMLayer(16, n_locations=49, n_heads=2, top_k=3))
    x = tokens(1, 9, generator).float()
    whole = fused(x).output
    cache = fused.new_cache(1)
    parts = [fused(part, cache=cache).output for part in x.split(4, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-5)


def test_bad_input_is_refused(layer, generator):
    with pytest.raises(ArgumentError, match="`dim` must be a multiple of `n_heads`"):
        LinearAttention(16, 3)
    with pytest.raises(ArgumentError, match=r"`x_BLD` must have shape \(…, 16\)"):
        layer(torch.zeros(1, 2, 8, dtype=torch.float64))
    with pytest.raises(ArgumentError, match=r"`cache` must come from `new_cache\(2\)`"):
        layer(tokens(2, 3, generator), cache=layer.new_cache(1))


def test_a_nan_that_is_no_token_reaches_nothing(generator):
    layer = LinearAttention(12, 3)
    x = torch.randn(2, 7, 12, generator=generator)
    x[0, 0] = torch.nan
    x.requires_grad_()
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, 0] = False
    layer(x, token_mask=mask)[mask].sum().backward()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_tokens_and_caches_that_do_not_fit_are_named():
    layer, x = LinearAttention(12, 3), torch.zeros(2, 5, 12)
    for bad, message in (
        (x[0], r"`x_BLD` must have shape \(batch, length, dim\), got shape \(5, 12\)"),
        (x.double(), "`x_BLD` must be torch.float32 like the layer, or under autocast, got .*64"),
    ):
        with pytest.raises(ArgumentError, match=f"LinearAttention: {message}"):
            layer(bad)
    for other in (LinearAttention(12, 2).new_cache(2), layer.double().new_cache(2), 3):
        with pytest.raises(ArgumentError, match=r"`cache` must come from `new_cache\(2\)`"):
            LinearAttention(12, 3)(x, cache=other)
    with pytest.raises(ArgumentError, match="new_cache: `batch` must be at least 0, got -1"):
        layer.new_cache(-1)
