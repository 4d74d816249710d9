"""The kernels of the layers: each equals the reference, and the operators have right gradients."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from pentti.errors import ArgumentError
from pentti.kernels import buffers, cpu, ops, reference

GRIDS = [(1, 1, 1), (3, 5, 25), (7, 5, 7), (65, 63, 32), (5, 316, 32), (9, 257, 100), (4, 300, 1)]
GRIDS += [(0, 5, 3), (3, 40, 1600), (2, 70, 1024), (2, 67, 1)]
GRIDS += [(1000, 16, 8), (47, 32, 18), (16, 8, 8), (33, 4, 16), (17, 32, 1), (5, 2, 4)]
FLOATS = [torch.float32, torch.float64]
SIZES = [(1, 1, 1, 1), (63, 65, 7, 33), (257, 100, 3, 1), (1001, 65, 1, 64), (5, 0, 4, 7)]


def table(n_locations, n_entries, k, width, dtype, generator):
    contents = torch.randn((n_locations, width), dtype=dtype, generator=generator)
    locations = torch.randint(n_locations, (n_entries, k), generator=generator)
    weights = torch.randn((n_entries, k), dtype=dtype, generator=generator)
    weights[::3] = 0
    x = torch.randn((n_entries, width), dtype=dtype, generator=generator)
    return contents, locations, weights, x


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("n_rows", "n", "k"), GRIDS)
@pytest.mark.parametrize("rounded", [False, True], ids=["distinct", "ties"])
def test_top_k_equals_the_reference(n_rows, n, k, rounded, dtype, generator):
    scores = torch.randn((2, n_rows, n), dtype=dtype, generator=generator)
    if rounded:  # to halves: nearly all sums are tied, and some are -0
        scores = (2 * scores).round() / 2
    assert torch.equal(cpu.product_top_k(scores, k), reference.product_top_k(scores, k))


def test_the_reference_top_k_is_the_definition(generator):
    scores = torch.randn((2, 3, 11), generator=generator)
    sums = (scores[0, :, :, None] + scores[1, :, None, :]).flatten(1)
    i, j = reference.product_top_k(scores, 17)
    assert torch.equal(11 * i + j, sums.topk(17).indices)


@pytest.mark.parametrize(("n", "k"), [(50, 32), (16, 8)])
def test_top_k_survives_nan(n, k, generator):
    scores = torch.randn((2, 5, n), generator=generator)
    scores[0, 1, 3] = torch.nan
    scores[1, 2, :] = -torch.nan
    scores[1, 3, ::3] = torch.inf
    scores[0, 4, ::2] = -torch.inf
    pairs = cpu.product_top_k(scores, k)
    assert torch.equal(pairs, reference.product_top_k(scores, k))
    assert (pairs[0, 1] == 3).all()  # NaN counts as the largest
    assert pairs.min() >= 0
    assert pairs.max() < n


@pytest.mark.parametrize(("n", "k"), [(8, 8), (12, 30), (50, 8)])
def test_sub_scores_in_order_need_no_sort(n, k, generator):
    scores = (3 * torch.randn((2, 70, n), generator=generator)).round() / 3
    scores = scores.sort(dim=-1, descending=True, stable=True).values
    pairs = cpu.product_top_k(scores, k, ordered=True)
    assert torch.equal(pairs, reference.product_top_k(scores, k))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("n_rows", "n", "k"), GRIDS)
@pytest.mark.parametrize("threshold", [-50.0, 0.0, 1.5, 50.0])
def test_threshold_equals_the_reference(n_rows, n, k, threshold, dtype, generator):
    scores = (4 * torch.randn((2, n_rows, n), dtype=dtype, generator=generator)).round() / 4
    found = cpu.product_threshold(scores, threshold)
    expected = reference.product_threshold(scores, threshold)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_the_reference_threshold_is_the_definition(generator):
    scores = torch.randn((2, 3, 11), generator=generator)
    scores[1, 2, 4] = torch.nan
    sums = (scores[0, :, :, None] + scores[1, :, None, :]).flatten(1)
    for search in (cpu, reference):
        locations, offsets = search.product_threshold(scores, 1.0)
        assert offsets.tolist() == [0, *(sums >= 1).sum(1).cumsum(0).tolist()]
        assert torch.equal(locations, (sums >= 1).nonzero()[:, 1])
    assert len(locations) > 10


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("n_locations", "n_entries", "k", "width"), SIZES)
@pytest.mark.parametrize("small", [0, 1 << 18], ids=["sorted", "small"])
def test_rows_equal_the_reference(
    n_locations, n_entries, k, width, dtype, small, generator, monkeypatch
):
    monkeypatch.setattr(cpu, "_SMALL_TABLE", small)
    contents, locations, weights, x = table(n_locations, n_entries, k, width, dtype, generator)
    same = torch.testing.assert_close
    same(
        cpu.read_rows(contents, locations, weights),
        reference.read_rows(contents, locations, weights),
    )
    same(cpu.row_dots(contents, locations, x), reference.row_dots(contents, locations, x))
    same(cpu.scatter_rows(locations, weights, x), reference.scatter_rows(locations, weights, x))
    dense = cpu.scatter_dense(locations, weights, x, n_locations)
    same(dense, reference.scatter_dense(locations, weights, x, n_locations))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("n_locations", "n_entries", "k", "width"), SIZES)
@pytest.mark.parametrize("past", [0, 1 << 40], ids=["past the cache", "cached"])
def test_both_derivatives_at_once_equal_the_reference(
    n_locations, n_entries, k, width, dtype, past, generator, monkeypatch
):
    monkeypatch.setattr(cpu, "_SMALL_TABLE", 0)
    monkeypatch.setattr(cpu, "_UNCACHED_BYTES", past)
    monkeypatch.setattr(buffers, "_LEAST_BYTES", 1)
    # Widths of whole cache lines too, for only these can go past the cache.
    for d in (width, 32):
        given = table(n_locations, n_entries, k, d, dtype, generator)
        for name in ("read_backward", "read_backward_dense"):
            found, expected = getattr(cpu, name)(*given), getattr(reference, name)(*given)
            torch.testing.assert_close(found, expected)


def test_the_reference_rows_are_the_definition(generator):
    contents, locations, weights, x = table(23, 13, 5, 7, torch.float64, generator)
    matrix = torch.zeros(13, 23, dtype=torch.float64)
    matrix.scatter_add_(1, locations, weights)
    same = torch.testing.assert_close
    same(reference.read_rows(contents, locations, weights), matrix @ contents)
    same(reference.row_dots(contents, locations, x), (x @ contents.T).gather(1, locations))
    same(reference.scatter_dense(locations, weights, x, 23), matrix.T @ x)
    rows, sums = reference.scatter_rows(locations, weights, x)
    assert torch.equal(rows, locations[weights != 0].unique())
    same(sums, (matrix.T @ x)[rows])


@pytest.mark.parametrize("small", [0, 1 << 18], ids=["sorted", "small"])
def test_large_batches_are_shared_among_threads_and_stay_the_same(small, generator, monkeypatch):
    monkeypatch.setattr(cpu, "_SMALL_TABLE", small)
    contents, locations, weights, x = table(301, 701, 33, 129, torch.float32, generator)
    assert locations.numel() * 129 > cpu._GATHER_WORK
    threads = torch.get_num_threads()
    results = []
    for n in (1, 3):
        torch.set_num_threads(n)
        results.append(
            (
                cpu.read_rows(contents, locations, weights),
                cpu.row_dots(contents, locations, x),
                *cpu.scatter_rows(locations, weights, x),
                cpu.scatter_dense(locations, weights, x, 301),
                *cpu.read_backward(contents, locations, weights, x),
                *cpu.read_backward_dense(contents, locations, weights, x),
            )
        )
    torch.set_num_threads(threads)
    for one, three in zip(*results, strict=True):
        assert torch.equal(one, three)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_works_by_upcasting(dtype, generator):
    contents, locations, weights, x = table(101, 9, 5, 17, torch.float32, generator)
    exact = reference.read_rows(contents.to(dtype).float(), locations, weights.to(dtype).float())
    read = cpu.read_rows(contents.to(dtype), locations, weights.to(dtype))
    assert read.dtype == dtype
    assert torch.equal(read, exact.to(dtype))
    assert cpu.row_dots(contents.to(dtype), locations, x).dtype == torch.float32
    assert cpu.scatter_rows(locations, weights.to(dtype), x.to(dtype))[1].dtype == torch.float32
    halves = (contents.to(dtype), locations, weights.to(dtype), x.to(dtype))
    for name in ("read_backward", "read_backward_dense"):
        found = getattr(cpu, name)(*halves)
        assert found[-2].dtype == torch.float32
        torch.testing.assert_close(found, getattr(reference, name)(*halves))


def test_gradients_of_the_operators(generator):
    contents, locations, weights, x = table(11, 5, 3, 7, torch.float64, generator)
    for tensor in (contents, weights, x):
        tensor.requires_grad_()
    assert gradcheck(lambda c, w: ops.read_rows(c, locations, w), (contents, weights))
    assert gradcheck(lambda c, y: ops.row_dots(c, locations, y), (contents, x))


def test_gradients_of_what_a_search_finds(generator):
    halves = torch.randn((4, 5, 3), dtype=torch.float64, generator=generator).requires_grad_()
    books = torch.randn((4, 7, 3), dtype=torch.float64, generator=generator).requires_grad_()
    pairs, sums = ops.product_search(halves, books, 6)
    first, second = halves.view(2, 2, 5, 3).unbind()
    for h in range(2):  # the definition
        one = (first[h, :, None] * books[h][pairs[0, h]]).sum(-1)
        two = (second[h, :, None] * books[2 + h][pairs[1, h]]).sum(-1)
        torch.testing.assert_close(sums[h], one + two)
    assert not pairs.requires_grad

    def scores(halves, books):
        return ops.product_search(halves, books, 6)[1]

    assert gradcheck(scores, (halves, books))
    assert gradgradcheck(scores, (halves, books))


def test_second_derivatives_of_the_operators(generator):
    contents, locations, weights, x = table(11, 5, 3, 7, torch.float64, generator)
    weights += 2  # none is 0: such an entry is left out
    for tensor in (contents, weights, x):
        tensor.requires_grad_()
    assert gradgradcheck(lambda c, w: ops.read_rows(c, locations, w), (contents, weights))
    assert gradgradcheck(lambda c, y: ops.row_dots(c, locations, y), (contents, x))


def test_a_sparse_gradient_has_no_derivative_but_others_beside_it_have(generator):
    contents, locations, weights, x = table(11, 5, 3, 7, torch.float64, generator)
    for tensor in (contents, weights):
        tensor.requires_grad_()
    found = []
    for sparse in (False, True):
        loss = (ops.read_rows(contents, locations, weights, sparse) * x).square().sum()
        to_contents, to_weights = torch.autograd.grad(loss, (contents, weights), create_graph=True)
        found.append(torch.autograd.grad(to_weights.square().sum(), weights, retain_graph=True)[0])
    assert found[0].abs().max() > 0
    torch.testing.assert_close(*found)
    with pytest.raises(ArgumentError, match="`sparse_gradients` must be False where gradients are"):
        to_contents.to_dense().sum().backward()


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_gradients_survive_checkpoints(sparse, generator):
    contents, locations, weights, x = table(101, 5, 3, 7, torch.float32, generator)
    for tensor in (contents, weights, x):
        tensor.requires_grad_()

    def both(contents, weights, x):
        read = ops.read_rows(contents, locations, weights, sparse)
        return (read * x).sum() + ops.row_dots(contents, locations, x, sparse).square().sum()

    leaves = (contents, weights, x)
    expected = torch.autograd.grad(both(*leaves), leaves)
    again = torch.utils.checkpoint.checkpoint(both, *leaves, use_reentrant=False)
    for one, other in zip(torch.autograd.grad(again, leaves), expected, strict=True):
        torch.testing.assert_close(one.to_dense(), other.to_dense())


@pytest.mark.parametrize("small", [0, 1 << 18], ids=["sorted", "small"])
def test_an_entry_of_weight_zero_is_left_out_whatever_it_is(small, generator, monkeypatch):
    monkeypatch.setattr(cpu, "_SMALL_TABLE", small)
    _, locations, weights, x = table(11, 7, 3, 5, torch.float32, generator)
    x[0] = torch.nan  # whose weights are 0
    assert not weights[0].any()
    dense = cpu.scatter_dense(locations, weights, x, 11)
    torch.testing.assert_close(dense, reference.scatter_dense(locations, weights, x, 11))
    assert dense.isfinite().all()
    assert dense.abs().max() > 0


def test_a_sparse_gradient_has_the_touched_rows_only(generator):
    contents, locations, weights, x = table(1001, 5, 3, 7, torch.float32, generator)
    uses = {
        "read": lambda leaf, sparse: (ops.read_rows(leaf, locations, weights, sparse) * x).sum(),
        "dots": lambda leaf, sparse: (ops.row_dots(leaf, locations, x, sparse) * weights).sum(),
    }
    for use in uses.values():
        leaves = [contents.clone().requires_grad_() for _ in range(2)]
        for leaf, sparse in zip(leaves, (False, True), strict=True):
            use(leaf, sparse).backward()
        dense, gradient = (leaf.grad for leaf in leaves)
        assert gradient.is_sparse
        assert torch.equal(gradient._indices()[0], locations[weights != 0].unique())
        assert torch.equal(gradient.to_dense(), dense)


def test_a_search_in_blocks_finds_the_same(generator, monkeypatch):
    halves = torch.randn((6, 17, 5), dtype=torch.float64, generator=generator)
    books = torch.randn((6, 11, 5), dtype=torch.float64, generator=generator)
    pairs, sums = ops.product_search(halves, books, 7)
    assert pairs.shape == (2, 3, 17, 7)
    scores = torch.bmm(halves, books.mT).view(2, 51, 11)
    assert torch.equal(pairs.view(2, 51, 7), reference.product_top_k(scores, 7))
    monkeypatch.setattr(ops, "_SCORES", 6 * 11 * 3)
    again = ops.product_search(halves, books, 7)
    assert torch.equal(again[0], pairs)
    torch.testing.assert_close(again[1], sums)
    nothing = ops.product_search(halves[:, :0], books, 7)
    assert [found.shape for found in nothing] == [(2, 3, 0, 7), (3, 0, 7)]


def test_operators_are_registered_as_torch_asks(generator):
    contents, locations, weights, x = table(11, 5, 3, 7, torch.float32, generator)
    for tensor in (contents, weights, x):
        tensor.requires_grad_()
    opcheck = torch.library.opcheck
    for done in (
        opcheck(ops._read, (contents, locations, weights, False)),
        opcheck(ops._dots, (contents, locations, x, False)),
        opcheck(ops._search, (x[None].expand(4, -1, -1).detach(), torch.randn(4, 13, 7), 4)),
        opcheck(ops._read_gradients, tuple(t.detach() for t in (contents, locations, weights, x))),
        opcheck(ops._scatter_dense, (locations, weights.detach(), x.detach(), 11)),
    ):
        assert set(done.values()) == {"SUCCESS"}


def test_compiled_operators_equal_eager_ones(generator, compiler):
    contents, locations, weights, x = table(101, 9, 5, 17, torch.float32, generator)
    scores = torch.randn((4, 9, 13), generator=generator)
    books = torch.randn((4, 11, 13), generator=generator)

    def both(contents, weights, x, scores):
        pairs, sums = ops.product_search(scores, books, 4)
        read = ops.read_rows(contents, locations, weights)
        return read, ops.row_dots(contents, locations, x), sums, pairs

    leaves = [t.requires_grad_() for t in (contents, weights, x, scores, books)]
    eager = both(*leaves[:4])
    compiled = compiler(both, fullgraph=True, backend="aot_eager")(*leaves[:4])
    for one, other in zip(eager, compiled, strict=True):
        assert torch.equal(one, other)
    expected = torch.autograd.grad(sum(part.sum() for part in eager[:3]), leaves)
    found = torch.autograd.grad(sum(part.sum() for part in compiled[:3]), leaves)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16], ids=str)
def test_adagrad_equals_the_reference(dtype, generator):
    width = 33
    wide = torch.promote_types(dtype, torch.float32)
    tables = [torch.randn((71, width), generator=generator).to(dtype)] * 2
    tables = [one.clone() for one in tables]
    sums = [torch.zeros(71, dtype=wide) for _ in range(2)]
    for _ in range(3):
        rows = torch.randperm(71, generator=generator)[:17]
        gradient = torch.randn((17, width), generator=generator).to(wide)
        for kernel, table_, sum_ in zip((cpu, reference), tables, sums, strict=True):
            kernel.adagrad_rows(table_, sum_, rows, gradient, 0.1, 1e-10)
    torch.testing.assert_close(*tables)
    torch.testing.assert_close(*sums)
    assert (sums[0] == 0).sum() >= 71 - 3 * 17


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_a_gradient_that_somebody_holds_is_not_written_over(sparse, generator):
    n, width = 4096, 65  # over a megabyte: recycled
    contents = torch.randn((n, width), generator=generator).requires_grad_()
    locations = torch.arange(n).view(-1, 8)
    views = {
        "detached": lambda values: values.detach(),
        "rows": lambda values: values[5:9].T,
        "array": lambda values: values.numpy()[3:],
        "exported": torch.from_dlpack,
    }
    for name, view in views.items():
        contents.grad = None
        ops.read_rows(contents, locations, torch.ones(n // 8, 8), sparse).sum().backward()
        held = view(contents.grad._values() if sparse else contents.grad)
        for step in range(3):
            contents.grad = None
            weights = torch.full((n // 8, 8), 2.0 + step)
            ops.read_rows(contents, locations, weights, sparse).sum().backward()
        assert (held == 1).all(), name
        del held


def test_memory_is_used_again_only_once_it_is_free():
    size = (1 << 19,)
    first = torch.from_numpy(buffers.recycled(size, "float32"))
    address = first.data_ptr()
    view = first[5:]
    second = torch.from_numpy(buffers.recycled(size, "float32"))
    assert second.data_ptr() != address
    del first
    third = torch.from_numpy(buffers.recycled(size, "float32"))
    assert third.data_ptr() != address  # the view still holds it
    del view
    fourth = torch.from_numpy(buffers.recycled((size[0] - 7,), "float32"))
    assert fourth.data_ptr() == address
