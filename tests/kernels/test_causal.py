"""The passes of the sequence memory: four forms of one definition, and their gradients."""

import subprocess
import sys

import pytest
import torch
from torch.autograd import gradcheck

from pentti.kernels import causal, causal_cpu, causal_ops, hashing, lookups
from pentti.kernels.causal import Visit

FLOATS = [torch.float32, torch.float64]
# Sequences, tokens, writes, reads, width, locations: with M below K, locations come twice.
SIZES = [(1, 1, 1, 1, 1, 1), (3, 17, 4, 3, 5, 11), (2, 67, 3, 5, 7, 2), (5, 63, 1, 2, 33, 1)]
SIZES += [(2, 100, 8, 8, 64, 4096), (4, 0, 2, 3, 3, 5), (0, 3, 2, 2, 3, 5), (0, 0, 2, 1, 3, 5)]
SIZES += [(7, 1, 2, 5, 3, 13), (2, 65, 2, 1, 1, 300)]


def sequences(n, length, k, j, width, n_locations, generator, dtype=torch.float64):
    """Every third token writes nothing, and the first location of every fifth has no share."""

    def normal(*shape):
        return torch.randn(shape, dtype=dtype, generator=generator)

    written = torch.randint(n_locations, (n, length, k), generator=generator)
    read = torch.randint(n_locations, (n, length, j), generator=generator)
    weights, shares = normal(n, length, k), normal(n, length, j)
    weights[:, ::3] = 0
    shares[:, ::5, 0] = 0
    return Visit(
        written, weights, normal(n, length, width), normal(n, length), read, shares,
        normal(n, length, width), normal(n, length),
    )  # fmt: skip


def token_by_token(visit):
    """The definition, in a loop of single numbers' arithmetic."""
    sums, masses, dots = (torch.zeros_like(x) for x in (visit.values, visit.amounts, visit.shares))
    n, length = visit.amounts.shape
    for i in range(n):
        contents, evidence = {}, {}
        for step in range(length):
            t = length - 1 - step if visit.backwards else step
            for w, p in zip(visit.written[i, t].tolist(), visit.weights[i, t], strict=True):
                contents[w] = contents.get(w, 0) + p * visit.values[i, t]
                evidence[w] = evidence.get(w, 0) + p * visit.amounts[i, t]
            for j, r in enumerate(visit.read[i, t].tolist()):
                if r in contents:
                    sums[i, t] += visit.shares[i, t, j] * contents[r]
                    masses[i, t] += visit.shares[i, t, j] * evidence[r]
                    dots[i, t, j] = contents[r] @ visit.probes[i, t]
                    dots[i, t, j] += evidence[r] * visit.probe_amounts[i, t]
    return causal.Visited(sums, masses, dots)


def correcting_token_by_token(visit, rates):
    """Sums, masses, contents and evidence of the error-correcting rule, one write at a time."""
    n, length, width = visit.values.shape
    n_locations = 1 + max(int(visit.written.max()), int(visit.read.max()))
    contents = visit.values.new_zeros(n, n_locations, width)
    evidence = visit.values.new_zeros(n, n_locations)
    sums, masses = torch.zeros_like(visit.values), torch.zeros_like(visit.amounts)
    for i in range(n):
        for t in range(length):
            w, p, r, q = (x[i, t] for x in (visit.written, visit.weights, visit.read, visit.shares))
            fault = visit.values[i, t] - p @ contents[i, w]
            contents[i].index_add_(0, w, rates[i, t] * p[:, None] * fault)
            evidence[i].index_add_(0, w, p * visit.amounts[i, t])
            sums[i, t], masses[i, t] = q @ contents[i, r], q @ evidence[i, r]
    return sums, masses, contents, evidence


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("size", [(2, 13, 3, 4, 5, 7), (3, 11, 4, 2, 3, 2), (2, 2, 1, 1, 1, 1)])
def test_the_quadratic_form_is_the_definition(size, backwards, generator):
    visit = sequences(*size, generator)._replace(backwards=backwards)
    expected = token_by_token(visit)
    assert all(part.abs().max() > 0 for part in expected)
    torch.testing.assert_close(causal.quadratic(visit), expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("size", SIZES)
def test_the_fast_forms_equal_it(size, backwards, dtype, generator, monkeypatch):
    monkeypatch.setattr(causal, "_BUDGET", 1 << 9)  # so that the scan goes in several parts
    visit = sequences(*size, generator, dtype)._replace(backwards=backwards)
    expected = causal.quadratic(visit)
    assert expected.sums.shape == visit.values.shape
    tolerance = {} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    for found in (causal.scan(visit), causal_cpu.visit(visit, size[-1])):
        torch.testing.assert_close(found, expected, check_dtype=False, **tolerance)
    assert causal_cpu.visit(visit, size[-1]).sums.dtype == dtype


@pytest.mark.parametrize("form", [causal.quadratic, causal.scan, lambda v: causal_cpu.visit(v, 11)])
def test_what_is_not_wanted_is_left_out(form, generator):
    visit = sequences(3, 17, 4, 3, 5, 11, generator)
    whole = form(visit)
    alone = form(visit._replace(summed=False))
    assert alone[:2] == (None, None)
    torch.testing.assert_close(alone.dots, whole.dots)
    bare = form(visit._replace(probes=None, probe_amounts=None))
    assert bare.dots is None
    torch.testing.assert_close(bare[:2], whole[:2])


def test_arguments_are_left_as_they_were(generator):
    visit = sequences(3, 17, 4, 3, 5, 11, generator)
    before = [x.clone() for x in visit[:8]]
    causal.scan(visit)
    causal_cpu.visit(visit, 11)
    causal_cpu.correct(
        visit.read, visit.shares, visit.written, visit.weights, visit.values, visit.amounts,
        visit.probe_amounts, 11,
    )  # fmt: skip
    assert all(torch.equal(one, two) for one, two in zip(before, visit[:8], strict=True))


@pytest.mark.parametrize("n_slots", [11, 10], ids=["direct", "hashed"])
def test_tables_go_on_where_they_ended(n_slots, generator):
    visit = sequences(3, 20, 4, 3, 5, 11 if n_slots == 11 else 5, generator)
    whole, n_locations = causal.quadratic(visit), 11
    tables = (
        torch.full((3, n_slots), -1, dtype=torch.int32).numpy(),
        torch.full((3, n_locations), -5).numpy(),
        torch.zeros(3, dtype=torch.int64).numpy(),
        torch.full((3, n_locations, 5), torch.nan, dtype=torch.float64).numpy(),
        torch.full((3, n_locations), torch.nan, dtype=torch.float64).numpy(),
    )
    parts = []
    for low, high in ((0, 1), (1, 1), (1, 12), (12, 20)):
        part = Visit(*(x[:, low:high] for x in visit[:8]))
        parts.append(causal_cpu.visit(part, n_locations, tables))
    for name in ("sums", "masses", "dots"):
        found = torch.cat([getattr(part, name) for part in parts], 1)
        torch.testing.assert_close(found, getattr(whole, name))
    for i in range(3):
        touched = visit.written[i][visit.weights[i] != 0].unique()
        assert tables[2][i] == len(touched)
        assert sorted(tables[1][i, : len(touched)]) == touched.tolist()


def all_passes(visit, rates, n_locations):
    """Everything that the compiled loops give, and both derivatives."""
    back = visit._replace(backwards=True)
    given = (visit.read, visit.shares, visit.written, visit.weights * 0.4)
    more = (rates, visit.amounts, n_locations)
    corrected = causal_cpu.correct(*given, visit.values, *more)
    to = (visit.probes, visit.probe_amounts)
    derived = causal_cpu.correct_backward(*given, corrected[2], *more, *to)
    visits = (*causal_cpu.visit(visit, n_locations), *causal_cpu.visit(back, n_locations))
    plain = causal_ops._plain_backward(*given, visit.values, n_locations, *to)
    return *visits, *corrected, *derived, *plain


def spread(n, generator):
    """So many locations of 2⁴⁰, each another."""
    start, step = torch.randint(2**39, (2,), generator=generator).tolist()
    return (start + torch.arange(n) * (2 * step + 1)) % 2**40


def collided(n, generator, length, k):
    """The same, all looking into one slot of the index that such a sequence has."""
    drawn = torch.randint(2**40, (n * length * k * 4,), generator=generator).unique()
    slots = lookups.slot(drawn, hashing.capacity(2**40, length * k))
    return drawn[slots == slots.mode().values][:n]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_locations_among_very_many_give_the_same_bit_for_bit(size, dtype, generator):
    visit = sequences(*size, generator, dtype)
    rates = torch.rand(size[:2], dtype=dtype, generator=generator)
    to = spread(size[-1], generator)
    vast = visit._replace(written=to[visit.written], read=to[visit.read])
    few, many = all_passes(visit, rates, size[-1]), all_passes(vast, rates, 2**40)
    for one, other in zip(few, many, strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(causal.scan(vast), causal.scan(visit))
    torch.testing.assert_close(
        causal.scan(vast)[:2], few[:2], check_dtype=False, rtol=1e-4, atol=1e-4
    )


def test_locations_that_collide_give_the_same_bit_for_bit(generator):
    visit = sequences(3, 17, 4, 3, 5, 11, generator)
    rates = torch.rand(3, 17, dtype=torch.float64, generator=generator)
    to = collided(11, generator, 17, 4)
    assert len(to) == 11
    vast = visit._replace(written=to[visit.written], read=to[visit.read])
    few, many = all_passes(visit, rates, 11), all_passes(vast, rates, 2**40)
    for one, other in zip(few, many, strict=True):
        assert torch.equal(one, other)
        assert one.abs().max() > 0


def test_gradients_among_very_many_locations(generator):
    visit = sequences(2, 9, 3, 2, 4, 7, generator)
    to = spread(7, generator)
    rates = torch.rand(2, 9, dtype=torch.float64, generator=generator)
    leaves = [x.requires_grad_() for x in (visit.shares, visit.weights, visit.values, rates)]

    def run(shares, weights, values, rates):
        given = (to[visit.read], shares, to[visit.written], weights, values)
        plain = causal_ops.causal_memory(*given, 2**40)
        return *plain, *causal_ops.correcting(*given, rates, visit.amounts, 2**40)

    assert gradcheck(run, leaves)


def test_the_scan_tells_the_last_locations_and_tokens_apart():
    """Locations near 2⁴⁰, which times a length of 2²² is still a number of 63 bits."""
    times = torch.arange(2**22)
    written = 2**40 - 1 - times % 2
    order, start, end = causal._lookup(written[:, None], torch.full_like(times, 2**40 - 1)[:, None])
    assert torch.equal(order, torch.cat([times[1::2], times[::2]]))  # those of the last come last
    assert (start == 2**21).all()
    assert torch.equal(end, 2**21 + 1 + times // 2)


@pytest.mark.parametrize("n", [1, 13])
def test_threads_share_the_work_and_change_nothing(n, generator):
    visit = sequences(n, 301, 8, 8, 64, 1024, generator, torch.float32)
    assert n == 1 or visit.values.numel() * 8 > causal_cpu._WORK
    given = (visit.read, visit.shares, visit.written, visit.weights * 0.1, visit.values)
    threads, results = torch.get_num_threads(), []
    for n_threads in (1, 3):
        torch.set_num_threads(n_threads)
        back = visit._replace(backwards=True)
        some = (*given, visit.amounts, visit.probe_amounts, 1024)
        sums, masses, faults = causal_cpu.correct(*some)
        to = causal_cpu.correct_backward(*some[:4], faults, *some[5:], sums, masses)
        visits = (*causal_cpu.visit(visit, 1024), *causal_cpu.visit(back, 1024))
        results.append((*visits, sums, masses, faults, *to))
    torch.set_num_threads(threads)
    for one, three in zip(*results, strict=True):
        assert torch.equal(one, three)
        assert one.isfinite().all()


@pytest.mark.parametrize("size", [(2, 150, 3, 3, 4, 29), (3, 65, 4, 2, 5, 3), (1, 64, 1, 3, 2, 1)])
def test_the_correcting_rule_is_the_definition(size, generator):
    visit = sequences(*size, generator)
    visit = visit._replace(weights=visit.weights * 0.4)
    rates = torch.rand(size[:2], dtype=torch.float64, generator=generator)
    sums, masses, contents, evidence = correcting_token_by_token(visit, rates)
    assert sums.abs().max() > 0.1
    same = torch.testing.assert_close
    found = causal.correct(
        visit.written, visit.weights, visit.values, rates, visit.amounts, visit.read, visit.shares
    )
    same(found[:2], (sums, masses))
    touched = torch.cat([visit.written.flatten(), visit.read.flatten()]).unique()
    same(found[2], (contents[:, touched], evidence[:, touched]))
    given = (visit.read, visit.shares, visit.written, visit.weights, visit.values)
    same(causal_ops.correcting(*given, rates, visit.amounts, size[-1]), (sums, masses))


def test_the_correcting_rule_in_chunks_goes_on_from_a_table(generator):
    visit = sequences(2, 90, 3, 3, 4, 13, generator)
    given = (visit.written, visit.weights * 0.4, visit.values, visit.amounts, visit.probe_amounts)
    given = (*given, visit.read, visit.shares)
    keys = torch.arange(13)
    empty = (keys, torch.zeros(2, 13, 4).double(), torch.zeros(2, 13).double())
    whole = causal.correct(*given, table=empty)
    first = causal.correct(*(x[:, :37] for x in given), table=empty)
    second = causal.correct(*(x[:, 37:] for x in given), table=(keys, *first[2]))
    for i in (0, 1):
        torch.testing.assert_close(torch.cat([first[i], second[i]], 1), whole[i])
    torch.testing.assert_close(second[2], whole[2])
    nothing = causal.correct(*(x[:, :0] for x in given), table=(keys, *first[2]))
    assert nothing[0].shape == (2, 0, 4)
    assert torch.equal(nothing[2][0], first[2][0])


@pytest.mark.parametrize("size", [(2, 9, 3, 2, 4, 7), (1, 6, 3, 4, 2, 2), (3, 1, 2, 1, 1, 1)])
def test_gradients_of_a_plain_write(size, generator):
    visit = sequences(*size, generator)
    leaves = [x.requires_grad_() for x in (visit.shares, visit.weights, visit.values)]

    def run(shares, weights, values):
        return causal_ops.causal_memory(
            visit.read, shares, visit.written, weights, values, size[-1]
        )

    torch.testing.assert_close(run(*leaves), causal.quadratic(one_amount(visit))[:2])
    assert gradcheck(run, leaves)


def one_amount(visit):
    return visit._replace(amounts=torch.ones_like(visit.amounts))


@pytest.mark.parametrize("size", [(2, 9, 3, 2, 4, 7), (1, 6, 3, 4, 2, 2), (3, 1, 2, 1, 1, 1)])
def test_gradients_of_the_correcting_rule(size, generator):
    visit = sequences(*size, generator)
    rates = torch.rand(size[:2], dtype=torch.float64, generator=generator)
    rates[:, ::4] = 0
    leaves = [x.requires_grad_() for x in (visit.shares, visit.weights, visit.values, rates)]

    def run(shares, weights, values, rates):
        given = (visit.read, shares, visit.written, weights, values, rates, visit.amounts)
        return causal_ops.correcting(*given, size[-1])

    def chunked(shares, weights, values, rates):
        given = (visit.written, weights, values, rates, visit.amounts, visit.read, shares)
        return causal.correct(*given)[:2]

    assert gradcheck(run, leaves)
    to = [torch.randn_like(x) for x in run(*leaves)]
    found = torch.autograd.grad(run(*leaves), leaves, to)
    torch.testing.assert_close(found, torch.autograd.grad(chunked(*leaves), leaves, to))


def test_both_derivatives_on_awkward_sizes_equal_the_quadratic_form(generator):
    for size in SIZES:
        visit = one_amount(sequences(*size, generator))
        leaves = [x.requires_grad_() for x in (visit.shares, visit.weights, visit.values)]
        given = (visit.read, leaves[0], visit.written, *leaves[1:], size[-1])
        to = (visit.probes, visit.probe_amounts)
        found = torch.autograd.grad(causal_ops.causal_memory(*given), leaves, to)
        expected = torch.autograd.grad(causal.quadratic(visit)[:2], leaves, to)
        torch.testing.assert_close(found, expected)


def test_a_write_of_weight_zero_is_left_out_whatever_it_is(generator):
    visit = sequences(2, 17, 3, 3, 5, 4, generator, torch.float32)
    visit.values[:, ::3] = torch.nan  # whose weights are 0
    assert not visit.weights[:, ::3].any()
    clean = visit._replace(values=visit.values.nan_to_num())
    given = (visit.read, visit.shares, visit.written, visit.weights)
    found = causal_ops.causal_memory(*given, visit.values, 4)
    assert found[0].abs().max() > 0
    for one, two in zip(found, causal_ops.causal_memory(*given, clean.values, 4), strict=True):
        assert torch.equal(one, two)
    more = (visit.amounts, visit.probe_amounts, 4)
    found = causal_ops.correcting(*given, visit.values, *more)
    for one, two in zip(found, causal_ops.correcting(*given, clean.values, *more), strict=True):
        assert torch.equal(one, two)


def test_the_future_changes_nothing_before_it(generator):
    one, two = (sequences(2, 40, 3, 3, 5, 7, generator, torch.float32) for _ in range(2))
    joined = Visit(
        *(torch.cat([x[:, :23], y[:, 23:]], 1) for x, y in zip(one[:8], two, strict=False))
    )
    for form in (causal.scan, lambda v: causal_cpu.visit(v, 7)):
        for found, other in zip(form(one), form(joined), strict=True):
            assert torch.equal(found[:, :23], other[:, :23])
            assert not torch.equal(found[:, 23:], other[:, 23:])


def test_operators_are_registered_as_torch_asks(generator):
    visit = sequences(2, 7, 3, 2, 5, 11, generator, torch.float32)
    rates = torch.rand((2, 7), generator=generator)
    for leaf in (visit.shares, visit.weights, visit.values, rates):
        leaf.requires_grad_()
    given = (visit.read, visit.shares, visit.written, visit.weights, visit.values)
    bare = [x.detach() for x in given]
    more, to = (rates, visit.amounts, 11), (visit.probes, visit.probe_amounts)
    opcheck = torch.library.opcheck
    for done in (
        opcheck(causal_ops._plain, (*given, 11)),
        opcheck(causal_ops._plain_backward, (*bare, 11, *to)),
        opcheck(causal_ops._correct, (*given, *more)),
        opcheck(causal_ops._correct_backward, (*bare, rates.detach(), *more[1:], *to)),
    ):
        assert set(done.values()) == {"SUCCESS"}


def test_compiled_operators_equal_eager_ones(generator, compiler):
    visit = sequences(2, 9, 3, 2, 5, 11, generator, torch.float32)
    rates = torch.rand((2, 9), generator=generator)
    leaves = [x.requires_grad_() for x in (visit.shares, visit.weights, visit.values, rates)]

    def both(shares, weights, values, rates):
        given = (visit.read, shares, visit.written, weights, values)
        plain = causal_ops.causal_memory(*given, 11)
        return *plain, *causal_ops.correcting(*given, rates, visit.amounts, 11)

    eager = both(*leaves)
    compiled = compiler(both, fullgraph=True, backend="aot_eager")(*leaves)
    assert all(torch.equal(one, two) for one, two in zip(eager, compiled, strict=True))
    gradients = [
        torch.autograd.grad(sum(x.square().sum() for x in found), leaves)
        for found in (eager, compiled)
    ]
    assert all(x.abs().max() > 0 for x in gradients[0])
    torch.testing.assert_close(*gradients)


# Each location adds up a quarter of a million writes in float32. Roundings of different writes
# are a random walk (measured 1e-5); those of one write again and again all go the same way
# (measured 2.5e-3), within the bound of n · 2⁻²⁴ for a plain sum.
@pytest.mark.parametrize(
    ("repeated", "bound"), [(False, 1e-4), (True, 10**6 / 4 * 2**-24)], ids=["different", "one"]
)
def test_a_long_sum_keeps_its_digits(repeated, bound, generator):
    length = 10**6
    read = torch.randint(4, (1, length, 1), generator=generator)
    shares = 0.2 + torch.rand((1, length, 1), generator=generator)
    values = 1 + torch.randn((1, length, 2), generator=generator)
    if repeated:
        shares, values = torch.full_like(shares, 0.7), torch.full_like(values, 1.1)
    found = causal_ops.causal_memory(read, shares, read, shares, values, 4)
    exact = causal_ops.causal_memory(
        read, shares.double(), read, shares.double(), values.double(), 4
    )
    assert exact[1].max() > 1e5
    for one, other in zip(found, exact, strict=True):
        assert (one - other).abs().max() < bound * other.abs().max()


def test_the_scan_keeps_its_digits(generator):
    visit = sequences(1, 10**5, 1, 1, 2, 4, generator, torch.float32)
    visit = visit._replace(values=1 + visit.values, weights=visit.weights.abs())
    wide = Visit(*(x.double() if x.is_floating_point() else x for x in visit[:8]))
    found, exact = causal.scan(visit), causal_cpu.visit(wide, 4)
    assert (found.sums - exact.sums).abs().max() < 1e-6 * exact.sums.abs().max()


LONG = """
import mmap, resource, torch
from pentti.kernels import causal, causal_ops
from pentti.kernels.causal import Visit
torch.set_num_threads(1)
n = 100_000
def run(length):
    read = torch.randint(n, (1, length, 2))
    shares, values = torch.rand(1, length, 2), torch.rand(1, length, 4)
    amounts = torch.ones(1, length)
    causal.scan(Visit(read, shares, values, amounts, read, shares))
    for x in (shares, values):
        x.requires_grad_()
    causal_ops.causal_memory(read, shares, read, shares, values, n)[0].sum().backward()
    found = causal_ops.correcting(read, shares, read, shares, values, amounts, amounts, n)
    found[0].sum().backward()
    return values.grad.abs().max().item()
run(10)
held = int(open("/proc/self/statm").read().split()[0]) * mmap.PAGESIZE
resource.setrlimit(resource.RLIMIT_AS, (held + 300_000_000,) * 2)
try:
    torch.empty(n, n // 8, dtype=torch.uint8)
except RuntimeError:
    print(run(n))
"""


def test_long_sequences_need_little_memory():
    """Of 100,000 tokens and locations, a bit for each pair would be 1.25 GB."""
    command = [sys.executable, "-c", LONG]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0
