"""Plans cut patterns into pieces: what the operator does with them, their memory, and the draws."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from pentti.nn import local
from pentti.nn.local import ops, random_blocks, rotary
from pentti.nn.local.plan import Cut, Part, numbers, parts, silence

FORMS = {
    "window": (local.SlidingWindowAttention, {"window": 32}),
    "longformer": (local.LongformerAttention, {"window": 32, "n_global": 16}),
    "bigbird": (local.BigBirdAttention, {"block": 16, "n_random": 3, "n_global": 2}),
    "strided": (local.StridedAttention, {"stride": 64}),
    "fixed": (local.FixedAttention, {"block": 64, "n_summary": 4}),
}


def heads(n, length, generator, width=6):
    shape = (2, n, length, width)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", FORMS)
def test_no_tensor_is_near_the_size_of_a_mask(name, causal, generator):
    """The largest allocation of any operator, forward and backward, against a quarter of L²."""
    kind, settings = FORMS[name]
    x = torch.randn(1, 4096, 4, generator=generator).requires_grad_()
    mask = torch.rand(1, 4096, generator=generator) < 0.9
    attention = kind(4, 2, causal=causal, **settings)
    biggest = largest_allocation(lambda: attention(x, token_mask=mask).sum().backward())
    assert 4096 * 4 * 4 <= biggest < 4096**2  # bytes, of numbers of four bytes


def test_the_measure_of_memory_sees_a_mask():
    assert largest_allocation(lambda: torch.ones(4096, 4096, dtype=torch.bool)) == 4096**2


def largest_allocation(run):
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    return max(event.self_cpu_memory_usage for event in seen.events())


def test_a_plan_goes_through_numbers():
    plan = [Part(Cut(1, 2, 3, 4, 5, 6), Cut(7, 8), -9, 10, fresh=True), Part(Cut(1, 1), Cut(2, 3))]
    assert parts(numbers(plan)) == plan
    assert all(type(number) is int for number in numbers(plan))


def test_a_cut_reads_and_adds_where_it_says(generator):
    x = torch.randn(2, 40, 3, generator=generator)
    for cut in (
        Cut(3, 5),
        Cut(2, 4, 5, 7),
        Cut(1, 9, 4, 4),  # groups that overlap
        Cut(1, 2, 3, 12, 2, 5),
        Cut(2, 1, 4, 1, 6, 5),  # columns
    ):
        row = torch.arange(cut.rows)[:, None] * cut.row_step + torch.arange(cut.size)
        at = torch.arange(cut.groups)[:, None] * cut.group_step + row.flatten() + cut.start
        assert torch.equal(cut.take(x), x[:, at].transpose(0, 1))
        part = torch.randn(cut.groups, 2, at.shape[1], 3, generator=generator)
        added = torch.zeros(2, 40, 3)
        cut.add(added, part)
        wanted = torch.zeros(2, 40, 3).index_add_(
            1, at.flatten(), part.transpose(0, 1).flatten(1, 2)
        )
        torch.testing.assert_close(added, wanted)


@pytest.mark.parametrize("biased", [False, True])
def test_the_operator_keeps_torchs_rules(biased, generator):
    q, k, v = (heads(1, 21, generator).flatten(0, 1).detach().requires_grad_() for _ in range(3))
    bias = silence(torch.arange(21).expand(2, 21) < 15) if biased else None
    plan = [Part(Cut(0, 21), Cut(0, 21), 0, fresh=True)]
    arguments = (q, k, v, bias, numbers(plan), numbers(plan))
    results = torch.library.opcheck(torch.ops.pentti.attend.default, arguments)
    assert set(results.values()) == {"SUCCESS"}


def test_parts_of_one_query_are_weighed_against_each_other(generator):
    """Scores of very different size, and keys of which a part sees none."""
    q, k, v = (heads(3, 9, generator) for _ in range(3))
    with torch.no_grad():
        k[:, :, 4:] *= 1000
    everything = [Part(Cut(0, 9), Cut(0, 9), fresh=True)]
    cut = [Part(Cut(0, 9), Cut(at, 3), fresh=at == 0) for at in (0, 3, 6)]
    bias = silence(torch.arange(9).expand(2, 9) < 6)
    for key_bias in (None, bias):
        wanted = ops.attend(q, k, v, everything, key_bias_BS=key_bias)
        got = ops.attend(q, k, v, cut, key_bias_BS=key_bias)
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
        of_wanted = torch.autograd.grad(wanted.square().sum(), (q, k, v))
        of_got = torch.autograd.grad(got.square().sum(), (q, k, v))
        torch.testing.assert_close(of_got, of_wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
@pytest.mark.parametrize("name", FORMS)
def test_compiled_equals_eager(name, generator):
    kind, settings = FORMS[name]
    attention = kind(12, 2, **settings)
    torch.compiler.reset()  # all forms share one forward, and torch counts its compilations
    compiled = torch.compile(attention, fullgraph=True)
    for length, padded in ((131, False), (131, True), (150, False), (77, False)):
        x = torch.randn(2, length, 12, generator=generator).requires_grad_()
        token_mask = torch.rand(2, length, generator=generator) < 0.8 if padded else None
        wanted, got = attention(x, token_mask=token_mask), compiled(x, token_mask=token_mask)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
        of_wanted = torch.autograd.grad(wanted.square().sum(), x)
        of_got = torch.autograd.grad(got.square().sum(), x)
        torch.testing.assert_close(of_got, of_wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_random_blocks_are_others_each_once(causal):
    g, r = 2, 3
    chosen = random_blocks.random_blocks(torch.zeros(0), 3000, g, r, causal, 7)
    block = torch.arange(3000)[:, None]
    asks = slice(g + r + 2, None) if causal else slice(g, None)
    assert (chosen[asks] >= g).all()
    assert ((chosen - block).abs()[asks] > 1).all()
    assert (chosen[asks].sort(1).values.diff(dim=1) > 0).all()
    if causal:
        assert (chosen[asks] < block[asks]).all()
    else:
        assert (chosen < 2 * block + r + 4).all()
        assert ((chosen > block).sum() / chosen.numel() - 0.5).abs() < 0.03
    fewer = random_blocks.random_blocks(torch.zeros(0), 1030, g, r, causal, 7)
    assert torch.equal(fewer, chosen[:1030])
    other = random_blocks.random_blocks(torch.zeros(0), 3000, g, r, causal, 8)
    assert (other == chosen).float().mean() < 0.1


def test_every_set_of_random_blocks_is_equally_likely():
    """Block 8 draws 2 of {1 … 6}: 15 sets, each 1/15, to five standard errors."""
    n = 3000
    drawn = [random_blocks.drawn.__wrapped__(0, 1, 2, True, seed)[8] for seed in range(n)]
    pairs = torch.stack(drawn).sort(1).values
    counts = torch.bincount(pairs[:, 0] * 10 + pairs[:, 1])
    assert (counts > 0).sum() == 15
    share = counts[counts > 0] / n
    assert (share - 1 / 15).abs().max() < 5 * (14 / 15**2 / n) ** 0.5


def test_the_draw_is_fixed_for_ever():
    attention = local.BigBirdAttention(8, 2, block=1, n_random=2, n_global=1, seed=3)
    seen = attention.visible(torch.tensor(40), torch.arange(41)).nonzero()[:, 0].tolist()
    assert seen == [0, 1, 12, 39, 40]


def test_rotary_products_depend_on_the_distance_only(generator):
    q, k = torch.randn(2, 1, 1, 1, 8, generator=generator, dtype=torch.float64)

    def product(i, j):
        at = torch.tensor([[i]]), torch.tensor([[j]])
        turned = [rotary.rotate(x, p, n_positions=100_001) for x, p in zip((q, k), at, strict=True)]
        return (turned[0] * turned[1]).sum()

    assert product(7, 3) == pytest.approx(product(100_000, 99_996).item(), rel=1e-10)
    assert product(7, 3) != pytest.approx(product(8, 3).item(), rel=1e-3)


def test_rotary_tables_are_right_far_out():
    """In single precision the angle itself would be off by 0.004."""
    cos, sin = rotary.tables(100_001, 8, torch.device("cpu"), torch.float32)
    at = torch.tensor(100_000, dtype=torch.float64) * 10_000.0 ** (-2 / 8)
    assert cos[100_000, 1].item() == pytest.approx(at.cos().item(), abs=1e-7)
    assert sin[100_000, 1].item() == pytest.approx(at.sin().item(), abs=1e-7)


def test_tables_made_in_inference_serve_training(generator):
    attention = local.Attention(20, 2)  # a head width that no other test has
    x = torch.randn(1, 600, 20, generator=generator)
    with torch.inference_mode():
        wanted = attention(x)
    y = attention(x)
    y.sum().backward()
    assert torch.equal(y, wanted)
    assert attention.query.weight.grad.abs().max() > 0
