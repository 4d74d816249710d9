"""The kernels of the layers as torch operators: with gradients, and inside `torch.compile`.

Each picks the kernels of the device that its tensors are on. What a search finds has no gradient,
but how well it fits has one. Reading (`read_rows`) and scoring (`row_dots`) are each other's
derivative, as often as one likes, but for sparse gradients, which have none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pentti import checks, kernels

__all__ = ["product_merge", "product_search", "read_rows", "row_dots", "scatter_rows_dense"]

_SCORES = 1 << 21  # scores held at a time, so that they stay in the cache and do not add up


def product_search(halves: Tensor, books: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best pairs of half addresses for each query, by the sum of their products with it.

    Args:
        halves: First halves of all heads and then second ones, shape (2 · H, B, E / 2).
        books: Codebooks in the same order, shape (2 · H, n, E / 2).
        k: How many pairs.

    Returns:
        int64 tensor of shape (2, H, B, k): places in the first and in the second codebook, the best
        pair first; see `reference.product_top_k`. And the sums of the winners, shape (H, B, k),
        with gradients for halves and books.
    """
    pairs, sums = _search(halves, books, k)
    return pairs, sums


@torch.library.custom_op("pentti::product_search", mutates_args=())
def _search(halves: Tensor, books: Tensor, k: int) -> tuple[Tensor, Tensor]:
    n_heads, n = len(books) // 2, books.shape[1]
    apply = kernels.for_device(halves.device)
    found = []
    for some in halves.split(max(1, _SCORES // (len(books) * n)), dim=1):
        scores_2RN = _products(some, books)
        pairs_2RK = apply.product_top_k(scores_2RN, k)
        sums_RK = scores_2RN.gather(2, pairs_2RK).sum(0)
        shape = (n_heads, some.shape[1], k)
        found.append((pairs_2RK.view(2, *shape), sums_RK.view(shape)))
    pairs, sums = zip(*found, strict=True)
    return torch.cat(pairs, dim=2), torch.cat(sums, dim=1)


def _products(halves: Tensor, books: Tensor) -> Tensor:
    """Of every half with its codebook, shape (2, H · B, n)."""
    n_rows = len(halves) // 2 * halves.shape[1]
    return torch.bmm(halves, books.mT).view(2, n_rows, books.shape[1])


@_search.register_fake
def _(halves: Tensor, books: Tensor, k: int) -> tuple[Tensor, Tensor]:
    shape = (books.shape[0] // 2, halves.shape[1], k)
    return halves.new_empty((2, *shape), dtype=torch.int64), halves.new_empty(shape)


def _keep_found(ctx: Any, inputs: Any, output: Any) -> None:
    halves, books, _ = inputs
    ctx.mark_non_differentiable(output[0])
    ctx.save_for_backward(halves, books, output[0])


def _search_backward(ctx: Any, _: Any, gradient_HBK: Tensor) -> tuple[Any, ...]:
    halves, books, pairs = ctx.saved_tensors
    n_books, n = books.shape[:2]
    # All codebooks are one table: the place i of book h is its row h · n + i.
    first = torch.arange(0, n_books * n, n, device=pairs.device)
    rows = (pairs.flatten(0, 1) + first[:, None, None]).flatten(0, 1)
    both = gradient_HBK.expand(2, *gradient_HBK.shape).reshape(rows.shape)
    to_halves = to_books = None
    if ctx.needs_input_grad[0]:
        to_halves = _tensor(_read(books.flatten(0, 1), rows, both, False)).view(halves.shape)
    if ctx.needs_input_grad[1]:
        dense = _scatter_dense(rows, both, halves.flatten(0, 1), n_books * n)
        to_books = _tensor(dense).view(books.shape)
    return to_halves, to_books, None


def product_merge(sums: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best pairs of what two searches found, by the sum of their sums.

    Args:
        sums: What the searches for first halves found, and then those for second ones: shape
            (2 · H, B, K), the best first.
        k: How many pairs, in [1, K²].

    Returns:
        int64 tensor of shape (2, H, B, k): places in both lists, the best pair first. And the sums
        of the winners, shape (H, B, k), with gradient.
    """
    halves = sums.unflatten(0, (2, -1))
    pairs = _merge(halves.detach(), k)
    return pairs, halves.gather(3, pairs).sum(0)


@torch.library.custom_op("pentti::product_merge", mutates_args=())
def _merge(sums_2HBK: Tensor, k: int) -> Tensor:
    pairs = kernels.for_device(sums_2HBK.device).product_top_k(
        sums_2HBK.flatten(1, 2), k, ordered=True
    )
    return pairs.view(*sums_2HBK.shape[:3], k)


@_merge.register_fake
def _(sums_2HBK: Tensor, k: int) -> Tensor:
    return sums_2HBK.new_empty((*sums_2HBK.shape[:3], k), dtype=torch.int64)


def read_rows(
    contents_MD: Tensor, locations_BK: Tensor, weights_BK: Tensor, sparse_gradients: bool = False
) -> Tensor:
    """The weighted sum of some rows of the contents, for each entry of a batch.

    Args:
        contents_MD: Floating, shape (M, D).
        locations_BK: int64, shape (B, K), each in [0, M).
        weights_BK: Floating, shape (B, K).
        sparse_gradients: Whether the gradient of the contents is a sparse tensor.

    Returns:
        Tensor of shape (B, D), with gradients for contents and weights.
    """
    if sparse_gradients:
        return _tensor(_outside_graphs(_read, contents_MD, locations_BK, weights_BK))
    return _tensor(_read(contents_MD, locations_BK, weights_BK, False))


def row_dots(
    contents_MD: Tensor, locations_BK: Tensor, x_BD: Tensor, sparse_gradients: bool = False
) -> Tensor:
    """The products of each entry of a batch with some rows of the contents.

    Args:
        contents_MD: Floating, shape (M, D).
        locations_BK: int64, shape (B, K), each in [0, M).
        x_BD: Floating, shape (B, D).
        sparse_gradients: Whether the gradient of the contents is a sparse tensor.

    Returns:
        Tensor of shape (B, K), with gradients for contents and x.
    """
    if sparse_gradients:
        return _tensor(_outside_graphs(_dots, contents_MD, locations_BK, x_BD))
    return _tensor(_dots(contents_MD, locations_BK, x_BD, False))


def scatter_rows_dense(
    locations_BK: Tensor, weights_BK: Tensor, x_BD: Tensor, n_rows: int
) -> Tensor:
    """The sums of the weighted entries that fall on each of some rows.

    Args:
        locations_BK: int64, shape (B, K), each in [0, M).
        weights_BK: Floating, shape (B, K).
        x_BD: Floating, shape (B, D).
        n_rows: M.

    Returns:
        Tensor of shape (M, D), with gradients for weights and x.
    """
    return _tensor(_scatter_dense(locations_BK, weights_BK, x_BD, n_rows))


# torch.compile cannot trace a sparse gradient, whose size depends on the data.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _outside_graphs(operator: Any, *tensors: Tensor) -> Tensor:
    result: Tensor = operator(*tensors, True)
    return result


def _tensor(result: Any) -> Tensor:
    """What an operator gives, with its type."""
    given: Tensor = result
    return given


@torch.library.custom_op("pentti::read_rows", mutates_args=())
def _read(
    contents_MD: Tensor, locations_BK: Tensor, weights_BK: Tensor, sparse_gradients: bool
) -> Tensor:
    del sparse_gradients  # is for the derivative
    apply = kernels.for_device(contents_MD.device)
    return apply.read_rows(contents_MD, locations_BK, weights_BK)


@_read.register_fake
def _(contents_MD: Tensor, locations_BK: Tensor, weights_BK: Tensor, _: bool) -> Tensor:
    kind = torch.promote_types(contents_MD.dtype, weights_BK.dtype)
    return contents_MD.new_empty((locations_BK.shape[0], contents_MD.shape[1]), dtype=kind)


@torch.library.custom_op("pentti::row_dots", mutates_args=())
def _dots(
    contents_MD: Tensor, locations_BK: Tensor, x_BD: Tensor, sparse_gradients: bool
) -> Tensor:
    del sparse_gradients  # is for the derivative
    return kernels.for_device(contents_MD.device).row_dots(contents_MD, locations_BK, x_BD)


@_dots.register_fake
def _(contents_MD: Tensor, locations_BK: Tensor, x_BD: Tensor, _: bool) -> Tensor:
    kind = torch.promote_types(contents_MD.dtype, x_BD.dtype)
    return contents_MD.new_empty(locations_BK.shape, dtype=kind)


@torch.library.custom_op("pentti::scatter_dense", mutates_args=())
def _scatter_dense(locations_BK: Tensor, weights_BK: Tensor, x_BD: Tensor, n_rows: int) -> Tensor:
    apply = kernels.for_device(x_BD.device)
    return apply.scatter_dense(locations_BK, weights_BK, x_BD, n_rows)


@_scatter_dense.register_fake
def _(_: Tensor, weights_BK: Tensor, x_BD: Tensor, n_rows: int) -> Tensor:
    kind = torch.promote_types(torch.promote_types(weights_BK.dtype, x_BD.dtype), torch.float32)
    return x_BD.new_empty((n_rows, x_BD.shape[1]), dtype=kind)


def _keep_entries(ctx: Any, inputs: Any, output: Any) -> None:
    del output
    ctx.save_for_backward(*inputs[:3])


def _scatter_backward(ctx: Any, gradient_MD: Tensor) -> tuple[Any, ...]:
    locations, weights, x = ctx.saved_tensors
    to_weights = to_x = None
    if ctx.needs_input_grad[1]:
        to_weights = _dots(gradient_MD, locations, x, False).to(weights.dtype)
    if ctx.needs_input_grad[2]:
        to_x = _read(gradient_MD, locations, weights, False).to(x.dtype)
    return None, to_weights, to_x, None


def _scatter(
    sparse: bool, contents: Tensor, locations: Tensor, weights_BK: Tensor, x_BD: Tensor
) -> Tensor:
    if not sparse:
        dense = _scatter_dense(locations, weights_BK, x_BD, len(contents))
        return _tensor(dense).to(contents.dtype)
    apply: Any = _ScatterRows.apply
    return _tensor(apply(weights_BK, x_BD, contents, locations))


class _ScatterRows(torch.autograd.Function):
    """A sparse gradient, which says so where somebody wants its derivative."""

    @staticmethod
    def forward(
        ctx: Any, weights_BK: Tensor, x_BD: Tensor, contents: Tensor, locations: Tensor
    ) -> Tensor:
        del ctx
        rows, sums = kernels.for_device(x_BD.device).scatter_rows(locations, weights_BK, x_BD)
        return _sparse_rows(rows, sums, contents)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        del ctx, gradients
        expected = "be False where gradients are differentiated again"
        checks.reject("pentti.kernels.ops", "sparse_gradients", expected, True)


def _sparse_rows(rows: Tensor, sums: Tensor, contents: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(
        rows[None],
        sums.to(contents.dtype),
        contents.shape,
        is_coalesced=True,
        check_invariants=False,
    )


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    del output
    ctx.save_for_backward(*inputs[:3])
    ctx.sparse = inputs[3]


def _read_backward(ctx: Any, gradient_BD: Tensor) -> tuple[Any, ...]:
    contents, locations, weights = ctx.saved_tensors
    to_contents = to_weights = None
    if ctx.needs_input_grad[0] and ctx.needs_input_grad[2] and not torch.is_grad_enabled():
        return _both_at_once(ctx.sparse, contents, locations, weights, gradient_BD)
    if ctx.needs_input_grad[0]:
        to_contents = _scatter(ctx.sparse, contents, locations, weights, gradient_BD)
    if ctx.needs_input_grad[2]:
        to_weights = _dots(contents, locations, gradient_BD, False).to(weights.dtype)
    return to_contents, None, to_weights, None


def _both_at_once(
    sparse: bool, contents: Tensor, locations: Tensor, weights: Tensor, gradient_BD: Tensor
) -> tuple[Any, ...]:
    """The derivatives where nobody differentiates them again: each row is read once for both."""
    if sparse:
        backward = kernels.for_device(contents.device).read_backward
        rows, sums, to_weights = backward(contents, locations, weights, gradient_BD)
        to_contents = _sparse_rows(rows, sums, contents)
    else:
        to_contents, to_weights = _read_gradients(contents, locations, weights, gradient_BD)
        to_contents = to_contents.to(contents.dtype)
    return to_contents, None, to_weights.to(weights.dtype), None


@torch.library.custom_op("pentti::read_gradients", mutates_args=())
def _read_gradients(
    contents_MD: Tensor, locations_BK: Tensor, weights_BK: Tensor, x_BD: Tensor
) -> tuple[Tensor, Tensor]:
    apply = kernels.for_device(contents_MD.device)
    return apply.read_backward_dense(contents_MD, locations_BK, weights_BK, x_BD)


@_read_gradients.register_fake
def _(
    contents_MD: Tensor, locations_BK: Tensor, weights_BK: Tensor, x_BD: Tensor
) -> tuple[Tensor, Tensor]:
    kind = torch.promote_types(torch.promote_types(weights_BK.dtype, x_BD.dtype), torch.float32)
    dots = torch.promote_types(contents_MD.dtype, x_BD.dtype)
    to_contents = contents_MD.new_empty(contents_MD.shape, dtype=kind)
    return to_contents, contents_MD.new_empty(locations_BK.shape, dtype=dots)


def _dots_backward(ctx: Any, gradient_BK: Tensor) -> tuple[Any, ...]:
    contents, locations, x = ctx.saved_tensors
    to_contents = to_x = None
    if ctx.needs_input_grad[0]:
        to_contents = _scatter(ctx.sparse, contents, locations, gradient_BK, x)
    if ctx.needs_input_grad[2]:
        to_x = _read(contents, locations, gradient_BK, False).to(x.dtype)
    return to_contents, None, to_x, None


_search.register_autograd(_search_backward, setup_context=_keep_found)
_scatter_dense.register_autograd(_scatter_backward, setup_context=_keep_entries)
_read.register_autograd(_read_backward, setup_context=_keep)
_dots.register_autograd(_dots_backward, setup_context=_keep)
