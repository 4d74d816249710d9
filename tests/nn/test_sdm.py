"""The memory as a layer: what it computes, what it learns, and what it refuses."""

import copy
import math

import pytest
import torch
from torch.autograd import gradcheck

from pentti import nn
from pentti.decoders import CosineCap, HammingBall, ProductKeys
from pentti.errors import ArgumentError, SettingWarning

DECODERS = {
    "product": lambda **more: ProductKeys(24, 49, n_heads=2, top_k=5, learned=True, **more),
    "product-threshold": lambda **more: ProductKeys(
        24, 49, n_heads=2, top_k=7, threshold=0.2, learned=True, **more
    ),
    "cosine": lambda **more: CosineCap(24, 35, n_heads=3, top_k=5, learned=True, **more),
    "cosine-threshold": lambda **more: CosineCap(
        24, 35, n_heads=3, top_k=7, threshold=0.15, learned=True, **more
    ),
}
WEIGHTINGS = ("softmax", "similarity", "inhibition")


@pytest.fixture(params=DECODERS)
def decoder(request):
    return DECODERS[request.param]()


@pytest.fixture
def layer(decoder):
    torch.manual_seed(3)
    return nn.SDMLayer(11, decoder)


def similarities(layer, x):
    """All of them, shape (B, H, M), by the definition."""
    decoder = layer.decoder
    query = layer.query(x).unflatten(-1, (decoder.n_heads, -1))
    if isinstance(decoder, CosineCap):
        unit = torch.nn.functional.normalize(decoder.addresses, dim=-1)
        return torch.einsum("bhe,hme->bhm", torch.nn.functional.normalize(query, dim=-1), unit)
    halves = torch.nn.functional.normalize(query.unflatten(-1, (2, -1)), dim=-1)
    books = torch.nn.functional.normalize(decoder.codebooks, dim=-1)
    scores = torch.einsum("bhse,shne->sbhn", halves, books)
    return ((scores[0][..., :, None] + scores[1][..., None, :]) / 2).flatten(-2)


def by_definition(layer, x):
    """Output and meter, with the whole matrix of similarities."""
    decoder = layer.decoder
    similarity = similarities(layer, x)
    best = similarity.topk(decoder.top_k).values
    least = best[..., -1:]
    active = similarity >= least
    if decoder.threshold is not None:
        active &= similarity >= decoder.threshold
    kind = layer.weigh.kind
    if kind == "softmax":
        scores = layer.weigh.beta[:, None] * similarity
        weights = scores.masked_fill(~active, -math.inf).softmax(-1).nan_to_num(0)
    elif kind == "similarity":
        weights = similarity.relu() * active
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-30)
    else:
        weights = (similarity - least).relu() * active
        active = active & (weights > 0)
    return torch.einsum("bhm,md->bd", weights, layer.contents), active.sum((-2, -1))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_layer_is_its_definition(decoder, weighting, generator):
    layer = nn.SDMLayer(11, decoder, weighting=weighting).double()
    x = torch.randn((13, 11), dtype=torch.float64, generator=generator).requires_grad_()
    upstream = torch.randn((13, 11), dtype=torch.float64, generator=generator)
    (output, meter), (expected, count) = layer(x), by_definition(layer, x)
    torch.testing.assert_close(output, expected)
    assert torch.equal(meter, count)
    leaves = [x, *layer.parameters()]
    found = torch.autograd.grad(output, leaves, upstream)
    for one, other in zip(found, torch.autograd.grad(expected, leaves, upstream), strict=True):
        torch.testing.assert_close(one, other)
        assert one.abs().max() > 0  # every part of the layer learns


def test_gradcheck(layer, generator):
    layer.double()
    x = torch.randn((3, 11), dtype=torch.float64, generator=generator).requires_grad_()
    assert gradcheck(lambda x: layer(x).output, x)


def test_all_leading_shapes_give_the_same(layer, generator):
    x = torch.randn((2, 3, 5, 11), generator=generator)
    output, meter = layer(x)
    assert output.shape == x.shape
    assert meter.shape == (2, 3, 5)
    flat = layer(x.reshape(-1, 11))
    assert torch.equal(flat.output.view_as(x), output)
    alone = layer(x[1, 2, 3])
    torch.testing.assert_close(alone.output, output[1, 2, 3])
    assert alone.meter.shape == ()
    nothing = layer(x[:0])
    assert nothing.output.shape == (0, 3, 5, 11)
    nothing.output.sum().backward()
    assert layer.contents.grad.abs().sum() == 0


def test_a_change_of_one_token_leaves_the_others_bitwise_the_same(layer, generator):
    x = torch.randn((2, 7, 11), generator=generator)
    other = x.clone()
    other[:, 4:] = 1e4 * torch.randn((2, 3, 11), generator=generator)
    one, two = layer(x), layer(other)
    assert torch.equal(one.output[:, :4], two.output[:, :4])
    assert torch.equal(one.meter[:, :4], two.meter[:, :4])
    assert not torch.equal(one.output[:, 4:], two.output[:, 4:])


def test_nan_stays_in_its_token(layer, generator):
    x = torch.randn((3, 11), generator=generator)
    clean = layer(x)
    x[1, 2] = torch.nan
    output, meter = layer(x)
    assert output[1].isnan().all()
    assert torch.equal(output[::2], clean.output[::2])
    assert meter.tolist() == [clean.meter[0], 0, clean.meter[2]]


def test_where_nothing_is_active_the_output_is_zero_and_gradients_are_finite(generator):
    decoder = ProductKeys(24, 49, n_heads=2, top_k=5, threshold=0.05, learned=True)
    layer = nn.SDMLayer(11, decoder)
    decoder.threshold = 0.99
    x = torch.randn((3, 11), generator=generator).requires_grad_()
    output, meter = layer(x)
    assert meter.tolist() == [0, 0, 0]
    assert not output.any()
    output.sum().backward()
    assert x.grad.abs().max() == 0
    zero = layer(torch.zeros(11))
    assert zero.output.isfinite().all()


def test_the_meter_counts_what_reaches_the_threshold(generator):
    decoder = ProductKeys(64, 2500, n_heads=4, top_k=40, activation_probability=0.01, learned=True)
    layer = nn.SDMLayer(64, decoder, projected=False)
    meter = layer(torch.randn((501, 64), generator=generator)).meter.double()
    expected = 4 * 2500 * (1 - (1 - 0.01) ** 0.25)
    assert abs(meter.mean() - expected) < 5 * meter.std() / 501**0.5
    assert meter.std() > 1


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_contents_have_the_gradient_that_was_asked_for(layer, sparse, generator):
    x = torch.randn((5, 11), generator=generator)
    layer(x).output.square().sum().backward()
    expected = layer.contents.grad
    layer.contents.grad, layer.sparse_gradients = None, sparse
    layer(x).output.square().sum().backward()
    assert layer.contents.grad.is_sparse is sparse
    torch.testing.assert_close(layer.contents.grad.to_dense(), expected)


def test_half_precision(layer, generator):
    x = torch.randn((5, 11), generator=generator)
    exact = layer(x).output
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(x).output
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    assert layer.contents.grad.abs().max() > 0
    assert layer.query.weight.grad.abs().max() > 0
    for dtype in (torch.bfloat16, torch.float16):
        half = copy.deepcopy(layer).to(dtype)(x.to(dtype)).output
        assert half.dtype == dtype
        # A query rounded to half precision may find other locations at the margin.
        assert (half.float() - exact).norm() < 0.3 * exact.norm()


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_compiled_equals_eager(decoder, weighting, generator, compiler):
    layer = nn.SDMLayer(11, decoder, weighting=weighting)
    x = torch.randn((5, 11), generator=generator)
    compiled = compiler(layer, fullgraph=True, backend="aot_eager")
    results = []
    for run in (layer, compiled):
        layer.zero_grad()
        layer.reset_utilisation()
        output, meter = run(x)
        output.square().sum().backward()
        gradients = [one.grad.clone() for one in layer.parameters()]
        results.append([output.detach(), meter, *gradients, layer.n_reads.clone()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit")  # torch's compiler warns of torch
def test_compiled_by_inductor_equals_eager(generator, compiler):
    layer = nn.SDMLayer(64, n_locations=1024, n_heads=2, top_k=8)
    x = torch.randn((65, 64), generator=generator)
    compiled = compiler(layer, fullgraph=True)
    torch.testing.assert_close(compiled(x).output, layer(x).output)
    compiled(x).output.sum().backward()
    found = layer.contents.grad.clone()
    layer.zero_grad()
    layer(x).output.sum().backward()
    torch.testing.assert_close(found, layer.contents.grad)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's compiler looks, not we
def test_sparse_gradients_leave_the_compiled_graph_and_are_right(generator, compiler):
    layer = nn.SDMLayer(24, n_locations=49, n_heads=2, top_k=3, sparse_gradients=True)
    x = torch.randn((5, 24), generator=generator)
    compiled = compiler(layer, backend="aot_eager")
    compiled(x).output.sum().backward()
    found = layer.contents.grad.to_dense()
    layer.zero_grad()
    layer(x).output.sum().backward()
    torch.testing.assert_close(found, layer.contents.grad.to_dense())


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_a_checkpointed_layer_has_the_same_gradients(layer, sparse, generator):
    layer.sparse_gradients = sparse
    x = torch.randn((5, 11), generator=generator).requires_grad_()
    leaves = [x, *layer.parameters()]
    expected = torch.autograd.grad(layer(x).output.square().sum(), leaves)
    output, meter = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
    assert meter.sum() > 0
    for one, other in zip(
        torch.autograd.grad(output.square().sum(), leaves), expected, strict=True
    ):
        torch.testing.assert_close(one.to_dense(), other.to_dense())


def test_a_penalty_on_the_gradient_can_be_learned(layer, generator):
    x = torch.randn((3, 11), generator=generator).requires_grad_()

    def penalty():
        slope = torch.autograd.grad(layer(x).output.sum(), x, create_graph=True)[0]
        return slope.square().sum()

    penalty().backward()
    found = layer.contents.grad.clone()
    layer.zero_grad()
    layer.sparse_gradients = True
    penalty().backward()
    torch.testing.assert_close(layer.contents.grad.to_dense(), found)
    with torch.no_grad():
        before = penalty_at(layer, x)
        layer.contents -= 1e-3 / found.norm() * found
        after = penalty_at(layer, x)
    assert (before - after).item() == pytest.approx(1e-3 * found.norm().item(), rel=0.05)


def penalty_at(layer, x):
    with torch.enable_grad():
        slope = torch.autograd.grad(layer(x).output.sum(), x)[0]
    return slope.square().sum()


@pytest.mark.parametrize(
    "decoder",
    [
        lambda: CosineCap(24, 7, top_k=7),
        lambda: CosineCap(24, 1, top_k=1),
        lambda: ProductKeys(24, 49, top_k=49, n_heads=2),
        lambda: ProductKeys(4, 1, top_k=1),
        lambda: CosineCap(24, 7, top_k=7, threshold=-1.0),
    ],
)
def test_where_every_location_is_active_the_softmax_still_weighs(decoder, generator):
    decoder = decoder()
    assert nn.implied_beta(decoder) == 0
    layer = nn.SDMLayer(11, decoder).double()
    assert (layer.weigh.beta == 1).all()
    x = torch.randn((5, 11), dtype=torch.float64, generator=generator)
    (output, meter), (expected, count) = layer(x), by_definition(layer, x)
    torch.testing.assert_close(output, expected)
    assert torch.equal(meter, count)
    assert (meter == decoder.n_locations * decoder.n_heads).all()


def test_a_threshold_of_one_makes_a_dead_layer_and_warns_of_it():
    with pytest.warns(SettingWarning, match="threshold=1 "):
        decoder = CosineCap(24, 7, top_k=3, threshold=1.0)
    assert nn.SDMLayer(24, decoder).weigh.beta == 1


def test_a_layer_lives_where_its_decoder_does():
    layer = nn.SDMLayer(11, ProductKeys(24, 49, top_k=5, learned=True).to("meta"))
    assert {one.device.type for one in (*layer.parameters(), layer.n_reads)} == {"meta"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_default_type_decides_the_type_and_not_the_addresses(dtype):
    usual = ProductKeys(24, 49, top_k=5, learned=True).codebooks
    torch.set_default_dtype(dtype)
    try:
        layer = nn.SDMLayer(24, n_locations=49, n_heads=1, top_k=5)
        query = layer.decoder.random_addresses(1, generator=torch.Generator())
    finally:
        torch.set_default_dtype(torch.float32)
    assert {one.dtype for one in layer.parameters()} == {dtype}
    assert torch.equal(layer.decoder.codebooks, usual.to(dtype))
    assert query.dtype == torch.float32


def test_mixed_types_are_read_in_that_of_the_contents(generator):
    decoder = ProductKeys(24, 49, n_heads=2, top_k=5, learned=True)
    layer = nn.SDMLayer(24, decoder, projected=False)
    x = torch.randn((5, 24), generator=generator)
    expected = layer(x).output
    layer.decoder.double()
    output = layer(x).output
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected)


def test_the_state_is_stable():
    layer = nn.SDMLayer(24, n_locations=49, n_heads=2, top_k=3)
    names = ["contents", "decoder.codebooks", "query.weight", "weigh.log_beta"]
    assert sorted(layer.state_dict()) == names
    other = nn.SDMLayer(24, n_locations=49, n_heads=2, top_k=3)
    assert not torch.equal(other.contents, layer.contents)
    other.load_state_dict(layer.state_dict())
    x = torch.ones(24)
    assert torch.equal(other(x).output, layer(x).output)


def test_a_state_of_another_version_or_shape_is_refused():
    layer = nn.SDMLayer(24, n_locations=49, n_heads=2, top_k=3)
    state = nn.SDMLayer(24, n_locations=64, n_heads=2, top_k=3).state_dict()
    with pytest.raises(RuntimeError, match=r"size mismatch for contents: .*\[64, 24\].*\[49, 24\]"):
        layer.load_state_dict(state)
    state = layer.state_dict()
    state._metadata[""]["version"] = 7
    with pytest.raises(RuntimeError, match="state_dict: the state of an SDMLayer is of version 7"):
        layer.load_state_dict(state)
    model = torch.nn.Sequential(layer)
    state = model.state_dict()
    state._metadata["0"]["version"] = 7
    with pytest.raises(RuntimeError, match="\t0: the state of an SDMLayer is of version 7"):
        model.load_state_dict(state)


def test_layers_share_nothing(layer, generator):
    twin = copy.deepcopy(layer)
    other = nn.SDMLayer(11, copy.deepcopy(layer.decoder))
    x = torch.randn((5, 11), generator=generator)
    before = twin(x).output, other(x).output
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(1)
    after = twin(x).output, other(x).output
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))


def test_utilisation_counts_reads_in_training(generator):
    layer = nn.SDMLayer(24, n_locations=49, n_heads=2, top_k=3)
    assert layer.utilisation().share_used == 0
    x = torch.randn((5, 24), generator=generator)
    layer.eval()(x)
    assert layer.n_reads.sum() == 0
    layer.train()(x)
    use = layer.utilisation()
    expected = torch.zeros(49, dtype=torch.int64)
    for location in layer.decoder.nearest(layer.query(x)).locations.flatten().tolist():
        expected[location] += 1
    assert torch.equal(use.n_reads, expected)
    assert use.share_used == (expected > 0).sum() / 49
    share = expected[expected > 0] / 30
    assert use.entropy == pytest.approx(-(share * share.log()).sum().item())
    assert use.effective_share == pytest.approx(math.exp(use.entropy) / 49)
    assert "reads=30 of 49 locations" in repr(use)
    layer.reset_utilisation()
    assert layer.n_reads.sum() == 0
    assert use.n_reads.sum() == 30  # what was given does not change


def test_beta_starts_where_the_overlap_says():
    decoder = ProductKeys(64, 2500, top_k=5)
    beta = nn.implied_beta(decoder)
    layer = nn.SDMLayer(64, decoder)
    assert layer.weigh.beta.item() == pytest.approx(beta)
    near, far = decoder.overlap([0.9, 0.6])
    assert math.log(near / far) / 0.3 == pytest.approx(beta, rel=0.25)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 0}, "SDMLayer: `dim` must be at least 1, got 0"),
        ({"projected": "no"}, "`projected` must be one of False, True, got 'no'"),
        ({"sparse_gradients": "no"}, "`sparse_gradients` must be one of False, True, got 'no'"),
        ({"weighting": "mean"}, "`weighting` must be one of 'softmax', 'similarity', 'inhibition'"),
        ({"n_locations": 50}, "`n_locations` must be a square, such as 49 = 7² or 64 = 8², got 50"),
        ({"n_heads": 5}, "`dim` must be a multiple of 10, .*, such as 20 or 30, got 24"),
        ({"top_k": 101, "n_locations": 100}, r"`top_k` must be in \[1, 100\], got 101"),
        ({"decoder": HammingBall(10, 100, radius=4)}, "`decoder` must be a ProductKeys or a Cos"),
        (
            {"decoder": ProductKeys(24, 49, threshold=0.1)},
            "`decoder` must have a `top_k`: it caps the active locations, got none",
        ),
        (
            {"decoder": ProductKeys(24, 49, top_k=3), "n_heads": 2},
            "`n_heads` must be left out where a decoder is given, got 2",
        ),
        (
            {"decoder": ProductKeys(20, 49, top_k=3), "projected": False},
            "`dim` must be the width of an address if not projected, got 24, where .* have 20",
        ),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ArgumentError, match=message):
        nn.SDMLayer(**{"dim": 24, **settings})


def test_bad_inputs_are_named(layer):
    with pytest.raises(ArgumentError, match=r"SDMLayer: `x` must have shape \(…, 11\), got shape"):
        layer(torch.zeros(3, 12))
    with pytest.raises(ArgumentError, match=r"`x` must be a floating tensor, got torch\.int64"):
        layer(torch.zeros(3, 11, dtype=torch.int64))
    with pytest.raises(ArgumentError, match="`x` must be a floating tensor, got 3"):
        layer(3)
    with pytest.raises(ArgumentError, match="`x` must be on cpu, got meta"):
        layer(torch.zeros(3, 11, device="meta"))
    other = "SDMLayer: `x` must be torch.float32 like the projection, or under autocast, got torch"
    for dtype in (torch.float64, torch.bfloat16):
        with pytest.raises(ArgumentError, match=f"{other}.{str(dtype)[6:]}"):
            layer(torch.zeros(3, 11, dtype=dtype))
    with torch.autocast("cpu"), pytest.raises(ArgumentError, match=other):
        layer(torch.zeros(3, 11, dtype=torch.float64))  # which autocast leaves alone
    with torch.autocast("cpu"):
        assert layer(torch.ones(3, 11, dtype=torch.bfloat16)).output.dtype == torch.bfloat16
