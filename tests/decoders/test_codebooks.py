"""Product keys of more than two codebooks: the search against brute force, theory and doors."""

import copy

import numpy as np
import pytest
import torch

from pentti import ProductKeys, decoders
from pentti.errors import ArgumentError


def similarities(decoder, x):
    """The definition: the mean cosine of all parts with every hard address, (B, H, M)."""
    shape = (decoder.n_heads, decoder.n_codebooks, decoder.part_width)
    parts = torch.nn.functional.normalize(x.unflatten(-1, shape), dim=-1)
    books = torch.nn.functional.normalize(decoder.codebooks, dim=-1)
    scores = torch.einsum("bhce,chne->cbhn", parts, books) / decoder.n_codebooks
    total = scores[0]
    for more in scores[1:]:
        total = (total[..., :, None] + more[..., None, :]).flatten(2)
    return total


def make(n_codebooks, n, n_heads, k, **settings):
    settings = {"learned": True, "seed": 3, "top_k": k, "n_heads": n_heads} | settings
    dim = 3 * n_codebooks * n_heads
    return ProductKeys(dim, n**n_codebooks, n_codebooks=n_codebooks, **settings).double()


@pytest.mark.parametrize(
    ("n_codebooks", "n", "n_heads", "k"),
    [(4, 3, 2, 7), (4, 3, 1, 81), (4, 5, 3, 1), (8, 2, 3, 11), (16, 2, 1, 5), (2, 7, 2, 7)],
)
def test_the_nearest_equal_brute_force_with_their_gradients(n_codebooks, n, n_heads, k, generator):
    decoder = make(n_codebooks, n, n_heads, k)
    decoder.codebooks.data *= torch.rand(n, 1, generator=generator, dtype=torch.float64) + 0.1
    x = torch.randn(5, decoder.dim, generator=generator, dtype=torch.float64, requires_grad=True)
    near = decoder.nearest(x)
    best, locations = similarities(decoder, x).topk(k)
    assert torch.equal(near.locations, locations)
    torch.testing.assert_close(near.similarity, best, rtol=0, atol=1e-14)
    weights = torch.randn(best.shape, generator=generator, dtype=torch.float64)
    sources = [x, decoder.codebooks]
    mine = torch.autograd.grad((near.similarity * weights).sum(), sources)
    theirs = torch.autograd.grad((best * weights).sum(), sources)
    for got, expected in zip(mine, theirs, strict=True):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)


def test_hard_addresses_stand_in_the_order_of_the_locations(generator):
    decoder = make(4, 3, 2, 7)
    x = torch.randn(5, decoder.dim, generator=generator, dtype=torch.float64)
    hard = decoder.hard_addresses
    assert hard.shape == (81, decoder.dim)
    shape = (2, 4, 3)
    parts = torch.nn.functional.normalize(x.unflatten(-1, shape), dim=-1)
    products = torch.einsum("bhce,mhce->bhm", parts, hard.unflatten(-1, shape)) / 4
    torch.testing.assert_close(products, similarities(decoder, x), rtol=0, atol=1e-14)


def test_far_more_locations_than_memory_could_hold(generator):
    decoder = ProductKeys(64, 256**4, top_k=8, n_codebooks=4, seed=5)
    x = torch.randn(3, 64, generator=generator)
    near = decoder.nearest(torch.cat([x, x + 0.01 * torch.randn(3, 64, generator=generator)]))
    assert int(near.locations.max()) > 2**31
    assert decoder.activation_probability == 8 / 256**4
    assert "activation_probability=1.86265e-09" in repr(decoder)
    same = (near.locations[:3, 0, :, None] == near.locations[3:, 0, None]).any(-1)
    assert same.double().mean() > 0.5


def test_theory_gives_the_mean_number_above_the_threshold_and_of_what_two_share(generator):
    n, k = 12, 200
    decoder = ProductKeys(32, n**4, top_k=k, n_codebooks=4, seed=1)
    x = torch.randn(1000, 4, 8, generator=generator)
    x = torch.nn.functional.normalize(x, dim=-1)
    y = torch.randn(x.shape, generator=generator)
    y = torch.nn.functional.normalize(y - (x * y).sum(-1, keepdim=True) * x, dim=-1)
    y = 0.9 * x + (1 - 0.9**2) ** 0.5 * y
    first, second = (
        similarities(decoder, z.flatten(1)) >= decoder.effective_threshold for z in (x, y)
    )
    n_first, n_both = first.sum((1, 2)).double(), (first & second).sum((1, 2)).double()
    for found, expected in ((n_first, k), (n_both, float(decoder.overlap(0.9)) * n**4)):
        assert abs(float(found.mean()) - expected) < 4 * float(found.std()) / 1000**0.5
        assert float(found.std()) < 2 * expected


def test_settings_come_back(generator):
    decoder = make(4, 3, 2, 5)
    again = decoders.restore(decoder.config(), decoder.state_dict())
    x = torch.randn(4, decoder.dim, generator=generator, dtype=torch.float64)
    assert torch.equal(again.nearest(x).locations, decoder.nearest(x).locations)
    assert copy.deepcopy(decoder).n_codebooks == 4
    assert decoders.restore(*_without_codebooks(ProductKeys(8, 9, top_k=2))).n_codebooks == 2


def _without_codebooks(decoder):
    """Settings as they were saved before there was a choice."""
    config = {name: value for name, value in decoder.config().items() if name != "n_codebooks"}
    return config, decoder.state_dict()


def test_what_is_not_a_number_finds_nothing():
    near = make(4, 3, 2, 5)(torch.zeros(0, 24))
    assert near.locations.numel() == 0
    found = make(4, 3, 2, 5).nearest(torch.full((1, 24), np.nan, dtype=torch.float64))
    assert not found.active.any()
    assert found.similarity.isnan().all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n_codebooks": 3}, "power of two"),
        ({"n_codebooks": 64}, "n_codebooks"),
        ({"n_locations": 82}, "81 = 3⁴ or 256 = 4⁴"),
        ({"n_locations": 0}, "n_locations"),
        ({"n_locations": 2**64}, "n_locations"),
        ({"threshold": 0.1}, "left out"),
        ({"activation_probability": 0.1}, "left out"),
        ({"dim": 18}, "4 parts"),
        ({"top_k": 82}, "top_k"),
    ],
)
def test_bad_settings(settings, said):
    given = {"dim": 24, "n_locations": 81, "top_k": 3, "n_codebooks": 4} | settings
    with pytest.raises(ArgumentError, match=said):
        ProductKeys(**given)
