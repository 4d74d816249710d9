"""What is special to the decoders of real addresses: the search, its gradients and its doors."""

import copy
import math
import pickle
import warnings

import pytest
import torch

from pentti import CosineCap, ProductKeys, decoders, theory
from pentti.decoders import real, search
from pentti.decoders.directions import directions
from pentti.decoders.protocol import good_probability
from pentti.errors import ArgumentError, SettingWarning

KINDS = [CosineCap, ProductKeys]


def make(kind, n_heads=2, dtype=torch.float32, n_locations=49, **settings):
    """An odd one: heads of 5 components, or of two halves of 3; learned, of uneven lengths."""
    settings = {"learned": True, "seed": 3, "n_heads": n_heads, **settings}
    decoder = kind(5 * n_heads if kind is CosineCap else 6 * n_heads, n_locations, **settings)
    for table in decoder.parameters():
        scale = torch.arange(1, table[..., :1].numel() + 1).view(table[..., :1].shape)
        table.data *= 0.3 * scale
    return decoder.to(dtype)


def dense(decoder, x):
    """The definition: every similarity, shape (B, H, M)."""
    table = getattr(decoder, decoder.table_name)
    parts = x.unflatten(-1, (decoder.n_heads, decoder.n_parts, decoder.part_width))
    parts = parts / parts.norm(dim=-1, keepdim=True)
    unit = table / table.norm(dim=-1, keepdim=True)
    if isinstance(decoder, CosineCap):
        return torch.einsum("bhe,hme->bhm", parts[:, :, 0], unit)
    first, second = (torch.einsum("bhe,hne->bhn", parts[:, :, i], unit[i]) for i in (0, 1))
    return ((first[..., :, None] + second[..., None, :]) / 2).flatten(2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_heads", [1, 3])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("k", [1, 7, 49])
def test_the_nearest_equal_brute_force_with_their_gradients(kind, n_heads, learned, k, generator):
    decoder = make(kind, n_heads, torch.float64, learned=learned, top_k=k)
    x = torch.randn(11, decoder.dim, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(11, n_heads, k, generator=generator, dtype=torch.float64)
    near = decoder.nearest(x)
    best, locations = dense(decoder, x).topk(k)
    assert torch.equal(near.locations, locations)
    assert near.active.all()
    torch.testing.assert_close(near.similarity, best, rtol=0, atol=1e-14)
    sources = [x, *decoder.parameters()]
    assert len(sources) == 1 + learned
    mine = torch.autograd.grad((near.similarity * weights).sum(), sources)
    theirs = torch.autograd.grad((best * weights).sum(), sources)
    for got, expected in zip(mine, theirs, strict=True):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_the_similarity_passes_gradcheck(kind, generator):
    decoder = make(kind, 2, torch.float64, n_locations=9, top_k=3)
    x = torch.randn(3, decoder.dim, generator=generator, dtype=torch.float64, requires_grad=True)
    table = next(decoder.parameters())

    def similarity(x, _):
        return decoder.nearest(x).similarity

    assert torch.autograd.gradcheck(similarity, (x, table))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_heads", [1, 3])
@pytest.mark.parametrize("threshold", [-1.0, -0.2, 0.1, 0.5, 1.0])
def test_a_threshold_equals_brute_force(kind, n_heads, threshold, generator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SettingWarning)
        decoder = make(kind, n_heads, torch.float64, threshold=threshold)
    x = torch.randn(13, decoder.dim, generator=generator, dtype=torch.float64)
    above = (dense(decoder, x) >= threshold).sum(1)
    found = decoder(x)
    assert torch.equal(found.dense().long(), above)
    assert (found.weights is None) == (n_heads == 1)
    assert torch.equal(found.meter, (above > 0).sum(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_heads", [1, 2])
def test_a_threshold_with_top_k_cuts_both_ways(kind, n_heads, generator):
    decoder = make(kind, n_heads, torch.float64, threshold=0.6, top_k=5)
    x = torch.randn(17, decoder.dim, generator=generator, dtype=torch.float64)
    score = dense(decoder, x)
    above = (score >= 0.6) & (score >= score.topk(5).values[..., -1:])
    near = decoder.nearest(x)
    assert 0 < near.active.double().mean() < 1
    assert torch.equal(near.active, near.similarity >= 0.6)
    assert torch.equal(near.active.sum(-1), above.sum(-1))
    assert torch.equal(decoder(x).dense().long(), above.sum(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{"threshold": 0.2}, {"top_k": 9}])
def test_blocks_do_not_change_results(kind, settings, generator, monkeypatch):
    decoder = make(kind, dtype=torch.float64, **settings)
    x = torch.randn(23, decoder.dim, generator=generator)
    whole = decoder(x)
    near = decoder.nearest(x) if decoder.top_k else None
    monkeypatch.setattr(search, "_ROWS", 6)
    monkeypatch.setattr(search, "QUERIES", 5)
    monkeypatch.setattr(real, "QUERIES", 7)
    parts = decoder(x)
    assert torch.equal(parts.locations, whole.locations)
    assert torch.equal(parts.offsets, whole.offsets)
    assert torch.equal(parts.weights, whole.weights)
    if near is not None:
        assert torch.equal(decoder.nearest(x).locations, near.locations)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_follow_the_query(kind, generator):
    decoder = make(kind, top_k=5)
    for shape in ((), (0,), (7,), (2, 0, 3), (2, 3)):
        near = decoder.nearest(torch.randn(*shape, decoder.dim, generator=generator))
        assert [part.shape for part in near] == [(*shape, 2, 5)] * 3
        assert [part.dtype for part in near] == [torch.int64, torch.float32, torch.bool]


@pytest.mark.parametrize("kind", KINDS)
def test_top_k_may_change_between_calls(kind, generator):
    decoder = make(kind, top_k=5)
    x = torch.randn(3, decoder.dim, generator=generator)
    five = decoder.nearest(x)
    decoder.top_k = 2
    assert torch.equal(decoder.nearest(x).locations, five.locations[..., :2])
    assert decoder(x).weights.sum() == 3 * 2 * 2
    decoder.top_k = 50
    with pytest.raises(ArgumentError, match=r"nearest: `top_k` must be in \[1, 49\], got 50"):
        decoder.nearest(x)
    decoder.top_k = None
    with pytest.raises(ArgumentError, match=r"nearest: `top_k` must be set on the decoder, got N"):
        decoder.nearest(x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("learned", [False, True])
def test_nan_stays_in_its_row(kind, learned, generator):
    decoder = make(kind, learned=learned, top_k=5)
    x = torch.randn(6, decoder.dim, generator=generator)
    clean = decoder.nearest(x)
    x[2, 1], x[4] = torch.nan, torch.inf
    near = decoder.nearest(x)
    for row in (0, 1, 3, 5):
        for got, expected in zip(near, clean, strict=True):
            assert torch.equal(got[row], expected[row])
    assert near.similarity[2, 0].isnan().all()
    assert near.similarity[4].isnan().all()
    assert not near.active[2, 0].any()
    assert not near.active[4].any()
    assert near.locations.min() >= 0
    assert near.locations.max() < 49


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_direction_is_like_nothing(kind):
    decoder = make(kind, top_k=5)
    x = torch.zeros(2, decoder.dim, requires_grad=True)
    near = decoder.nearest(x)
    assert (near.similarity == 0).all()
    near.similarity.sum().backward()
    assert x.grad.isfinite().all()
    decoder.get_parameter(decoder.table_name).data.zero_()
    near = decoder.nearest(torch.ones(2, decoder.dim))
    assert (near.similarity == 0).all()
    near.similarity.sum().backward()
    assert next(decoder.parameters()).grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_only_the_direction_counts(kind, size, generator):
    decoder = make(kind, learned=False, top_k=5)
    x = torch.randn(9, decoder.dim, generator=generator)
    near, far = decoder.nearest(x), decoder.nearest(size * x)
    assert torch.equal(near.locations, far.locations)
    torch.testing.assert_close(near.similarity, far.similarity)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_works_by_upcasting(kind, half, generator):
    decoder = make(kind, top_k=5)
    x = torch.randn(9, decoder.dim, generator=generator).to(half).requires_grad_()
    near, wide = decoder.nearest(x), decoder.nearest(x.detach().float())
    assert torch.equal(near.similarity, wide.similarity)
    near.similarity.sum().backward()
    assert x.grad.dtype == half
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(decoder.nearest(x).similarity, wide.similarity)
        assert torch.equal(decoder(x).locations, decoder(x.float()).locations)
    narrow = copy.deepcopy(decoder).to(half).nearest(x)
    assert narrow.similarity.dtype == torch.float32
    torch.testing.assert_close(narrow.similarity, wide.similarity, rtol=0, atol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_the_search_follows_every_optimiser(kind, generator):
    """Fused AdamW does not raise a parameter's version, so that a cache keyed by it goes stale."""
    decoder = make(kind, top_k=5)
    x = torch.randn(9, decoder.dim, generator=generator)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=0.5, fused=True)
    for _ in range(2):
        optimiser.zero_grad()
        decoder.nearest(x).similarity.sum().backward()
        optimiser.step()
    best, locations = dense(decoder, x).topk(5)
    near = decoder.nearest(x)
    assert torch.equal(near.locations, locations)
    torch.testing.assert_close(near.similarity, best)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_copies_find_the_same(kind, learned, dtype, generator):
    decoder = make(kind, learned=learned, dtype=dtype, top_k=5, threshold=0.1)
    x = torch.randn(9, decoder.dim, generator=generator)
    near = decoder.nearest(x)
    other = make(kind, learned=learned, dtype=dtype, top_k=5, threshold=0.1, seed=8)
    assert not torch.equal(other.nearest(x).locations, near.locations)
    other.load_state_dict(decoder.state_dict())
    restored = decoders.restore(decoder.config(), decoder.state_dict())
    for again in (
        other,
        restored,
        copy.deepcopy(decoder),
        pickle.loads(pickle.dumps(decoder)),
    ):
        assert again.dtype == decoder.dtype
        assert again.learned == learned
        for got, expected in zip(again.nearest(x), near, strict=True):
            assert torch.equal(got, expected)
        if learned:
            next(again.parameters()).data.zero_()
            assert torch.equal(decoder.nearest(x).locations, near.locations)
    assert list(decoder.state_dict()) == [decoder.table_name]


@pytest.mark.parametrize("kind", KINDS)
def test_hard_addresses_are_their_own_nearest(kind):
    decoder = make(kind, top_k=1)
    near = decoder.nearest(decoder.hard_addresses)
    assert (near.locations[..., 0] == torch.arange(49)[:, None]).all()
    torch.testing.assert_close(near.similarity, torch.ones_like(near.similarity))


def test_given_addresses_are_kept_in_their_direction(generator):
    hard = torch.randn(30, 12, generator=generator, dtype=torch.float64)
    hard[7] = 0
    before = hard.clone()
    decoder = CosineCap.at(hard, threshold=0.6, n_heads=2)
    assert decoder.dtype == torch.float64
    parts = hard.view(30, 2, 6)
    norm = parts.norm(dim=-1, keepdim=True)
    expected = torch.where(norm > 0, parts / norm, 0).flatten(1)
    torch.testing.assert_close(decoder.hard_addresses, expected)
    assert torch.equal(hard, before)
    x = torch.randn(40, 12, generator=generator)
    cosines = torch.einsum(
        "bhe,mhe->bhm", directions(x.double().view(40, 2, 6)), expected.view(30, 2, 6)
    )
    assert torch.equal(decoder(x).dense().long(), (cosines >= 0.6).sum(1))
    assert CosineCap.at(hard.numpy(), threshold=0.6).dtype == torch.float32
    same = CosineCap.at(torch.ones(500, 3), threshold=0.9)
    assert same.typical_meter == 500
    assert same.activation_probability == theory.cap_probability(3, 0.9)


def test_a_learned_decoder_starts_at_the_given_addresses_and_leaves_them(generator):
    hard = torch.randn(30, 12, generator=generator)
    before = hard.clone()
    decoder = CosineCap.at(hard, top_k=3, learned=True)
    decoder.addresses.data.zero_()
    assert torch.equal(hard, before)


def test_a_fixed_cap_takes_the_addresses_that_a_learned_one_found(generator):
    learned = make(CosineCap, learned=True, top_k=5, threshold=0.1)  # of uneven lengths
    x = torch.randn(9, learned.dim, generator=generator)
    expected = learned.nearest(x)
    fixed = make(CosineCap, learned=False, top_k=5, threshold=0.1)
    fixed.load_state_dict(learned.state_dict())
    for again in (fixed, copy.deepcopy(fixed), pickle.loads(pickle.dumps(fixed))):
        for got, wanted in zip(again.nearest(x), expected, strict=True):
            torch.testing.assert_close(got, wanted)
    assert torch.equal(fixed(x).dense(), learned(x).dense())


def test_a_fixed_cap_that_was_rounded_still_compares_directions(generator):
    decoder = make(CosineCap, learned=False, top_k=5).bfloat16().float()
    assert (decoder.addresses.norm(dim=-1) - 1).abs().max() > 1e-4
    x = torch.randn(9, decoder.dim, generator=generator)
    best, locations = dense(decoder, x).topk(5)
    near = decoder.nearest(x)
    assert torch.equal(near.locations, locations)
    torch.testing.assert_close(near.similarity, best, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wanted_probability_is_that_of_all_heads(kind):
    one = kind(64, 10_000, activation_probability=0.01)
    assert one.activation_probability == pytest.approx(0.01, rel=1e-9)
    heads = kind(64, 10_000, activation_probability=0.01, n_heads=4)
    assert heads.activation_probability == pytest.approx(0.01, rel=1e-9)
    each = kind(16, 10_000, threshold=heads.threshold).activation_probability
    assert each == pytest.approx(1 - 0.99**0.25, rel=1e-9)


def test_a_cut_takes_off_what_exceeds_it(generator):
    decoder = CosineCap(9, 400, threshold=0.6, top_k=12)
    meter = decoder(decoder.random_addresses(900, generator=generator)).meter.double()
    assert set(meter.tolist()) == set(range(int(meter.min()), 13))
    expected = 400 * decoder.activation_probability
    # Measured over random hard addresses too, since the exact share is a mean over them.
    means = [meter.mean().item()]
    for seed in range(1, 9):
        other = CosineCap(9, 400, threshold=0.6, top_k=12, seed=seed)
        address = other.random_addresses(900, generator=generator)
        means.append(other(address).meter.double().mean().item())
    mean = sum(means) / len(means)
    spread = (sum((m - mean) ** 2 for m in means) / (len(means) - 1) / len(means)) ** 0.5
    assert abs(mean - expected) < 5 * spread
    assert expected < 12 < 400 * theory.cap_probability(9, 0.6) + 3


def test_the_first_numbers_of_a_seed_are_fixed():
    cap = CosineCap(5, 7, top_k=1, seed=1).addresses[0, 0].tolist()
    assert cap == pytest.approx(FIRST, abs=1e-6)
    keys = ProductKeys(10, 9, top_k=1, seed=1).codebooks[0, 0, 0].tolist()
    assert keys == pytest.approx(FIRST, abs=1e-6)


FIRST = [0.198937, 0.770354, -0.560845, 0.193521, -0.122395]

GOOD = {"dim": 12, "n_locations": 100, "threshold": 0.3}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"threshold": None},
            "`threshold` must be given, or `activation_probability`, or `top_k`, got none of them",
        ),
        (
            {"activation_probability": 0.1},
            "`threshold` must be given, or `activation_probability`, and not both, got both",
        ),
        ({"threshold": 1.5}, r"`threshold` must be in \[-1.0, 1.0\], got 1.5"),
        ({"threshold": math.nan}, "`threshold` must be finite, got nan"),
        ({"threshold": "0.3"}, "`threshold` must be a number, got '0.3'"),
        (
            {"threshold": None, "activation_probability": 1.0},
            r"`activation_probability` must be in \(0, 1\), got 1.0",
        ),
        ({"top_k": 101}, r"`top_k` must be in \[1, 100\], got 101"),
        ({"top_k": 0}, r"`top_k` must be in \[1, 100\], got 0"),
        ({"dim": 0}, "`dim` must be at least 1, got 0"),
        ({"n_locations": 0}, "`n_locations` must be at least 1, got 0"),
        ({"n_heads": 0}, "`n_heads` must be at least 1, got 0"),
        ({"seed": -1}, "`seed` must be in"),
        ({"learned": "yes"}, "`learned` must be one of False, True, got 'yes'"),
    ],
)
def test_bad_settings_are_named(kind, settings, message):
    with pytest.raises(ArgumentError, match=f"^{kind.__name__}: {message}"):
        kind(**{**GOOD, **settings})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: CosineCap(13, 9, top_k=1, n_heads=3),
            r"^CosineCap: .* a multiple of 3, one part of .* head, such as 12 or 15, got 13$",
        ),
        (lambda: CosineCap(1, 9, top_k=1), "a multiple of 1, .*, such as 2, got 1$"),
        (
            lambda: ProductKeys(510, 9, top_k=1, n_heads=4),
            r"^ProductKeys: `dim` must be a multiple of 8, two halves of 2 components or more for ",
        ),
        (lambda: ProductKeys(510, 9, top_k=1, n_heads=4), "head, such as 504 or 512, got 510$"),
        (lambda: ProductKeys(8, 9, top_k=1, n_heads=4), "for each head, such as 16, got 8$"),
        (
            lambda: ProductKeys(8, 100_000, top_k=1),
            r"`n_locations` must be a square, such as 99,856 = 316² or 100,489 = 317², got 100000$",
        ),
        (
            lambda: CosineCap.at(torch.zeros(3), top_k=1),
            r"`hard_addresses` must have shape \(locations, components\), got shape \(3,\)",
        ),
        (lambda: CosineCap.at(torch.zeros(0, 3), top_k=1), r"got shape \(0, 3\)"),
        (
            lambda: CosineCap.at([[1.0, math.inf]], top_k=1),
            "CosineCap.at: `hard_addresses` must be finite in torch.float32, got inf",
        ),
        (
            lambda: CosineCap.at([[1.0, 1e300]], top_k=1),
            r"`hard_addresses` must be finite in torch.float32, got 1e\+300",
        ),
        (lambda: CosineCap.at("here", top_k=1), "must be a tensor, an array or a list of numbers"),
    ],
)
def test_bad_sizes_name_good_ones(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize("kind", KINDS)
def test_bad_queries_are_named(kind):
    decoder = make(kind, top_k=3)
    name, dim = kind.__name__, decoder.dim
    for query, message in (
        (torch.zeros(2, dim + 1), rf"have shape \(…, {dim}\), got shape \(2, {dim + 1}\)"),
        (torch.tensor(1.0), rf"have shape \(…, {dim}\), got shape \(\)"),
        (torch.zeros(dim, dtype=torch.int64), r"be a floating tensor, got torch.int64"),
        ([0.0] * dim, r"be a floating tensor, got \[0.0, "),
        (torch.zeros(dim, device="meta"), "be on cpu, got meta"),
    ):
        with pytest.raises(ArgumentError, match=f"^{name}.nearest: `query` must {message}"):
            decoder.nearest(query)
    with pytest.raises(ArgumentError, match=rf"{name}: `address` must be finite in .*, got inf"):
        decoder(torch.full((dim,), torch.inf))
    with pytest.raises(ArgumentError, match=r"`cosines` must be in \[-1, 1\], got 1.5"):
        decoder.overlap(1.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: CosineCap(512, 1000, threshold=0.5),
            r"^CosineCap: threshold=0\.5 \(probability 4\.2e-34\) activates .*; threshold=0\.0\d+ ",
        ),
        (
            lambda: ProductKeys(512, 10_000, threshold=0.5, n_heads=4),
            r"^ProductKeys: threshold=0\.5 \(probability .*e-\d+\) .*; threshold=0\.\d+ would",
        ),
        (lambda: CosineCap(2, 1, threshold=0.0), "more hard locations would activate more"),
    ],
)
def test_a_dead_setting_is_warned_of_once_and_a_good_one_named(make, message):
    with pytest.warns(SettingWarning, match=message) as caught:
        make()
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_the_named_setting_is_good():
    with pytest.warns(SettingWarning) as caught:
        decoder = CosineCap(512, 1000, threshold=0.5, n_heads=2)
    threshold = float(str(caught[0].message).split("threshold=")[2].split()[0])
    meter = CosineCap(512, 1000, threshold=threshold, n_heads=2).typical_meter
    assert meter == pytest.approx(1000 * good_probability(1000), rel=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoders.restore(decoder.config(), decoder.state_dict())
        CosineCap.at(torch.ones(1, 512), threshold=0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_search_is_one_graph_with_equal_results(kind, generator):
    decoder = make(kind, top_k=5)
    x = torch.randn(11, decoder.dim, generator=generator)
    compiled = torch.compile(decoder.nearest, backend="aot_eager", fullgraph=True)
    results = []
    for nearest in (decoder.nearest, compiled):
        query = x.clone().requires_grad_()
        near = nearest(query)
        sources = [query, *decoder.parameters()]
        results.append((*near, *torch.autograd.grad(near.similarity.square().sum(), sources)))
    for got, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, expected)
