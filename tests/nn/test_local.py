"""Every form of attention equals dense attention with the mask that `visible` defines."""

import copy
import io
import re

import pytest
import torch

from pentti.errors import ArgumentError
from pentti.nn import local
from pentti.nn.local import kernel

FORMS = {
    "dense": (local.Attention, {}),
    "window": (local.SlidingWindowAttention, {"window": 7}),
    "window-1": (local.SlidingWindowAttention, {"window": 1}),
    "window-wide": (local.SlidingWindowAttention, {"window": 131}),
    "longformer": (local.LongformerAttention, {"window": 9, "n_global": 3}),
    "longformer-global": (local.LongformerAttention, {"window": 4, "n_global": 11}),
    "bigbird": (local.BigBirdAttention, {"block": 5, "n_random": 2, "n_global": 1}),
    "bigbird-bare": (local.BigBirdAttention, {"block": 3, "n_random": 0, "n_global": 0}),
    "bigbird-random": (local.BigBirdAttention, {"block": 2, "n_random": 5, "n_global": 3}),
    "strided": (local.StridedAttention, {"stride": 7}),
    "strided-1": (local.StridedAttention, {"stride": 1}),
    "fixed": (local.FixedAttention, {"block": 6, "n_summary": 2}),
    "fixed-all": (local.FixedAttention, {"block": 5, "n_summary": 5}),
    "fixed-1": (local.FixedAttention, {"block": 1}),
    "dense-beta": (local.Attention, {"beta": 7.0}),
    "window-beta": (local.SlidingWindowAttention, {"window": 7, "beta": 0.5}),
    "longformer-beta": (local.LongformerAttention, {"window": 4, "n_global": 11, "beta": 20.0}),
    "bigbird-beta": (local.BigBirdAttention, {"block": 5, "n_random": 2, "n_global": 1, "beta": 3}),
    "strided-beta": (local.StridedAttention, {"stride": 7, "beta": 9.0}),
    "fixed-beta": (local.FixedAttention, {"block": 6, "n_summary": 2, "beta": 2.0}),
}
LENGTHS = (1, 2, 63, 65, 100, 257)


@pytest.fixture(autouse=True)
def one_thread():
    """Sizes here are so small that threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[True, False], ids=["causal", "both"])
def causal(request):
    return request.param


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


def made(form, causal, dim=12, n_heads=2, **more):
    kind, settings = form
    torch.manual_seed(5)
    return kind(dim, n_heads, causal=causal, **settings, **more).double()


def turned(x_HLE):
    """Rotary positions by their definition: a pair of components is a complex number."""
    length, width = x_HLE.shape[-2:]
    pairs = torch.complex(*x_HLE.chunk(2, -1))
    speed = 10_000.0 ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    turn = torch.exp(1j * torch.arange(length, dtype=torch.float64)[:, None] * speed)
    both = pairs * turn
    return torch.cat((both.real, both.imag), -1)


def dense(attention, x_LD, names=("query", "key", "value")):
    """What each head would give with the whole mask, for one sequence without padding."""
    length, heads = len(x_LD), attention.n_heads
    q, k, v = (
        getattr(attention, name)(x_LD).view(length, heads, -1).transpose(0, 1) for name in names
    )
    if attention.rotary:
        q, k = turned(q), turned(k)
    at = torch.arange(length)
    seen = attention.visible(at[:, None], at)
    assert seen.diagonal().all()
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if attention.beta is not None:
        cosine = q @ k.mT / (q.norm(dim=-1)[:, :, None] * k.norm(dim=-1)[:, None])
        scores = attention.beta[:, None, None] * cosine
    scores = scores.masked_fill(~seen, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)


def expected(attention, x_BLD, token_mask=None):
    """Every sequence without its padding, which gives 0."""
    if token_mask is None:
        token_mask = torch.ones(x_BLD.shape[:2], dtype=torch.bool)
    rows = []
    for x_LD, mask in zip(x_BLD, token_mask, strict=True):
        row = torch.zeros_like(x_LD)
        if mask.any():
            row[mask] = attention.out(dense(attention, x_LD[mask]))
        rows.append(row)
    return torch.stack(rows)


def assert_same(attention, x, got, wanted, generator):
    """Outputs, and gradients of x and of every parameter."""
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
    weight = torch.randn(got.shape, generator=generator, dtype=got.dtype)
    inputs = [x, *attention.parameters()]
    found = torch.autograd.grad(got, inputs, weight)
    for a, b in zip(found, torch.autograd.grad(wanted, inputs, weight), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    assert found[0].abs().max() > 0


def tokens(batch, length, generator, dim=12):
    x = torch.randn(batch, length, dim, generator=generator, dtype=torch.float64)
    return x.requires_grad_()


@pytest.mark.parametrize("length", LENGTHS)
def test_it_is_dense_attention_with_the_mask_of_visible(form, causal, length, generator):
    attention, x = made(form, causal), tokens(1 if length > 200 else 3, length, generator)
    assert_same(attention, x, attention(x), expected(attention, x), generator)


@pytest.mark.parametrize("length", [2, 65, 100])
def test_padding_is_as_if_it_were_not_there(form, causal, length, generator):
    """Before, after and between the tokens; and a sequence of padding only."""
    attention, x = made(form, causal), tokens(4, length, generator)
    mask = torch.rand(4, length, generator=generator) < 0.6
    mask[0] = torch.arange(length) >= length // 3
    mask[1] = torch.arange(length) < length // 2 + 1
    mask[3] = False
    got = attention(x, token_mask=mask)
    assert_same(attention, x, got, expected(attention, x, mask), generator)
    assert (got[~mask] == 0).all()
    (gradient,) = torch.autograd.grad(attention(x, token_mask=mask).square().sum(), x)
    assert (gradient[~mask] == 0).all()
    alone = attention(x[:1, length // 3 :])[0]
    torch.testing.assert_close(got[0, length // 3 :], alone, rtol=1e-12, atol=1e-14)


def test_what_stands_in_padding_goes_nowhere(form, causal, generator):
    attention, x = made(form, causal).float(), tokens(2, 33, generator).detach().float()
    mask = torch.rand(2, 33, generator=generator) < 0.6
    before = attention(x, token_mask=mask)
    x[~mask] = torch.nan
    assert torch.equal(attention(x, token_mask=mask), before)


@pytest.mark.parametrize("size", [1.0, 1e12])
def test_the_future_leaves_the_past_bitwise_the_same(form, size, generator):
    attention = made(form, True).float()
    x = torch.randn(2, 131, 12, generator=generator)
    before = attention(x)
    for t in (1, 30, 64, 66, 130):
        changed = x.clone()
        changed[:, t:] = size * torch.randn(2, 131 - t, 12, generator=generator)
        after = attention(changed)
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.equal(after[:, t], before[:, t])


def test_longformer_with_projections_of_its_own(generator):
    kind, settings = FORMS["longformer"]
    attention = kind(12, 2, causal=False, global_projections=True, **settings).double()
    x = tokens(1, 65, generator)
    rows = dense(attention, x[0])
    of_global = dense(attention, x[0], ("global_query", "global_key", "global_value"))
    wanted = attention.out(torch.cat((of_global[:3], rows[3:])))[None]
    assert_same(attention, x, attention(x), wanted, generator)


def test_gradcheck(form, causal, generator):
    attention = made(form, causal, 4, 2)
    x = tokens(1, 23, generator, 4)
    names = [name for name, _ in attention.named_parameters()]

    def run(x, *weights):
        return torch.func.functional_call(attention, dict(zip(names, weights, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *attention.parameters()), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", ["model", "autocast"])
def test_half_precision(form, causal, dtype, way, generator):
    attention, x = made(form, causal).float(), tokens(3, 67, generator).detach().float()
    mask = torch.rand(3, 67, generator=generator) < 0.8
    mask[2] = False
    wanted = attention(x, token_mask=mask)
    wanted.square().sum().backward()
    half = copy.deepcopy(attention)
    half.zero_grad()
    if way == "model":
        half, x = half.to(dtype), x.to(dtype)
        got = half(x, token_mask=mask)
    else:
        with torch.autocast("cpu", dtype):
            got = half(x, token_mask=mask)
    got.float().square().sum().backward()
    assert got.dtype == dtype
    eps = torch.finfo(dtype).eps
    assert (got.float() - wanted).abs().max() < 8 * eps * wanted.abs().max()
    for a, b in zip(half.parameters(), attention.parameters(), strict=True):
        scale = attention.out.weight.grad.norm()
        assert (a.grad.float() - b.grad).norm() < 8 * eps * max(scale, b.grad.norm())


def test_nothing_at_all(form, causal):
    attention = made(form, causal)
    for shape in ((2, 0, 12), (0, 5, 12)):
        x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        y = attention(x, token_mask=torch.ones(shape[:2], dtype=torch.bool))
        assert y.shape == shape
        y.sum().backward()
        assert x.grad.shape == shape
        assert attention.out.weight.grad.eq(0).all()


def test_it_goes_through_state_and_copies(form, causal, generator):
    attention, x = made(form, causal), tokens(2, 65, generator)
    other = made(form, causal)
    for parameter in other.parameters():
        parameter.data.zero_()
    assert other(x).abs().max() == 0
    held = io.BytesIO()
    torch.save(attention.state_dict(), held)
    held.seek(0)
    other.load_state_dict(torch.load(held, weights_only=True))
    assert torch.equal(other(x), attention(x))
    assert torch.equal(copy.deepcopy(attention)(x), attention(x))


def test_the_plain_kernel_is_what_the_flash_kernel_computes(form, causal, monkeypatch, generator):
    """What runs where there is no flash kernel, on the CPU for once."""
    attention, x = made(form, causal), tokens(2, 65, generator)
    mask = torch.rand(2, 65, generator=generator) < 0.8
    wanted = attention(x, token_mask=mask)
    of_wanted = torch.autograd.grad(wanted.square().sum(), x)
    monkeypatch.setattr(kernel, "attend", kernel.plain_attend)
    monkeypatch.setattr(kernel, "gradients", kernel.plain_gradients)
    got = attention(x, token_mask=mask)
    torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-13)
    of_got = torch.autograd.grad(got.square().sum(), x)
    torch.testing.assert_close(of_got, of_wanted, rtol=1e-10, atol=1e-12)


def test_without_rotary_positions_a_head_may_be_odd(form, causal, generator):
    attention, x = made(form, causal, 15, 5, rotary=False), tokens(2, 65, generator, 15)
    assert_same(attention, x, attention(x), expected(attention, x), generator)


def test_the_settings_are_shown():
    attention = local.LongformerAttention(12, 2, window=9, n_global=3)
    text = "(dim=12, n_heads=2, window=9, n_global=3, causal=True, rotary=True"
    assert text in re.sub(r"\s+", " ", repr(attention)).replace("( ", "(")
    assert local.FixedAttention(12, 2, block=128).n_summary == 8
    names = {
        kind.__name__: kind(4, 2, **settings).extra_repr()
        for kind, settings in FORMS.values()
        if "beta" not in settings
    }
    assert local.Attention(4, 2, beta=3.0).extra_repr().endswith("rotary=True, beta=learned")
    assert "block=1, n_summary=1" in names["FixedAttention"]
    assert "n_random=5, n_global=3, seed=0" in names["BigBirdAttention"]
    assert "stride=1," in names["StridedAttention"]


BAD = [
    (
        "window",
        {"n_heads": 5},
        r"`n_heads` must divide `dim` = 12 \(good: 1, 2, 3, 4, 6, 12\), got 5",
    ),
    ("dense", {"n_heads": 4}, r"an even part of `dim` = 12 \(good: 1, 2, 3, 6\), got 4"),
    ("dense", {"dim": 7, "n_heads": 7}, r"\(good: none: rotary=False\), got 7"),
    (
        "dense",
        {"dim": 0},
        "Attention: `dim` must be an integer at least 1, got 0|at least 1, got 0",
    ),
    ("dense", {"causal": 2}, "`causal` must be one of False, True, got 2"),
    ("window", {"window": 0}, "SlidingWindowAttention: `window` must be at least 1, got 0"),
    ("window", {"rotary": "no"}, "`rotary` must be one of False, True, got 'no'"),
    ("longformer", {"window": 0}, "LongformerAttention: `window` must be at least 1, got 0"),
    ("longformer", {"n_global": -1}, "`n_global` must be at least 0, got -1"),
    ("longformer", {"global_projections": True}, "`global_projections` must be False where causal"),
    ("bigbird", {"block": 0}, "BigBirdAttention: `block` must be at least 1, got 0"),
    ("bigbird", {"n_random": -1}, "`n_random` must be at least 0, got -1"),
    ("bigbird", {"n_global": -1}, "`n_global` must be at least 0, got -1"),
    ("bigbird", {"seed": -1}, r"`seed` must be in \[0, \d+\], got -1"),
    ("strided", {"stride": 0}, "StridedAttention: `stride` must be at least 1, got 0"),
    ("fixed", {"block": 0}, "FixedAttention: `block` must be at least 1, got 0"),
    ("fixed", {"n_summary": 7}, r"`n_summary` must be in \[1, 6\], got 7"),
]


@pytest.mark.parametrize(("name", "changed", "message"), BAD)
def test_bad_settings(name, changed, message):
    kind, settings = FORMS[name]
    with pytest.raises(ArgumentError, match=message):
        kind(**{"dim": 12, "n_heads": 2, **settings, **changed})


def test_bad_tokens(form):
    attention = made(form, True).float()
    name, x = type(attention).__name__, torch.zeros(2, 5, 12)
    for bad, message in (
        (torch.zeros(2, 5, 13), r"have shape \(batch, length, 12\), got \(2, 5, 13\)"),
        (torch.zeros(5, 12), r"have shape \(batch, length, 12\), got \(5, 12\)"),
        (
            torch.zeros(2, 5, 12, dtype=torch.int64),
            "be a floating tensor, got a torch.int64 tensor",
        ),
        ([1.0], "be a floating tensor, got a list"),
    ):
        with pytest.raises(ArgumentError, match=f"{name}: `x_BLD` must {message}"):
            attention(bad)
    for bad, message in (
        (torch.ones(2, 5), "be a bool tensor, got a torch.float32 tensor"),
        ([True], "be a bool tensor, got a list"),
        (torch.ones(5, dtype=torch.bool), r"have the shape \(2, 5\) of the tokens, got \(5,\)"),
    ):
        with pytest.raises(ArgumentError, match=f"{name}: `token_mask` must {message}"):
            attention(x, token_mask=bad)


def test_tokens_and_masks_elsewhere_are_named():
    attention, x = local.SlidingWindowAttention(12, 2, window=3), torch.zeros(2, 5, 12)
    with pytest.raises(ArgumentError, match="`x_BLD` must be on cpu, got meta"):
        attention(x.to("meta"))
    mask = torch.ones(2, 5, dtype=torch.bool, device="meta")
    with pytest.raises(ArgumentError, match="`token_mask` must be on cpu, got meta"):
        attention(x, token_mask=mask)


def test_a_block_beyond_the_end_is_not_filled_up(generator):
    """It would be a gigabyte for each of its tokens' numbers."""
    attention = local.BigBirdAttention(
        12, 2, block=10**9, n_random=2, n_global=1, causal=False
    ).double()
    x = tokens(2, 7, generator)
    mask = torch.tensor([[True] * 7, [False, True, True, False, True, True, False]])
    got = attention(x, token_mask=mask)
    assert_same(attention, x, got, expected(attention, x, mask), generator)


@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf])
def test_a_spoilt_token_leaves_the_other_sequences_alone(form, causal, spoilt, generator):
    attention, x = made(form, causal).float(), tokens(3, 67, generator).detach().float()
    before = attention(x)
    x[1, 40] = spoilt
    after = attention(x)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert after[1, 40].isnan().all()
