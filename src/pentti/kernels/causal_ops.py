"""The passes of the sequence memory as torch operators: with gradients, inside `torch.compile`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pentti import checks
from pentti.kernels import causal, causal_cpu
from pentti.kernels.causal import Visit, Visited

__all__ = ["causal_memory", "correcting"]


def causal_memory(
    read: Tensor,
    shares: Tensor,
    written: Tensor,
    weights: Tensor,
    values: Tensor,
    n_locations: int,
) -> tuple[Tensor, Tensor]:
    """Write and read along N sequences; see `causal`.

    Args:
        read: Locations, int64 (N, L, J), each in [0, M).
        shares: Of the reads, (N, L, J), float32 or float64.
        written: Locations, int64 (N, L, K).
        weights: Of the writes, (N, L, K).
        values: (N, L, D).
        n_locations: M.

    Returns:
        Sums (N, L, D) and masses (N, L), with gradients for shares, weights and values.
    """
    sums, masses = _plain(read, shares, written, weights, values, n_locations)
    return sums, masses


@torch.library.custom_op("pentti::causal_plain", mutates_args=())
def _plain(
    read: Tensor,
    shares: Tensor,
    written: Tensor,
    weights: Tensor,
    values: Tensor,
    n_locations: int,
) -> tuple[Tensor, Tensor]:
    given = Visit(written, weights, values, _ones(values), read, shares)
    found = _visit(given, n_locations)
    return found.sums.contiguous(), found.masses.contiguous()  # no views of one tensor


@_plain.register_fake
def _(*given: Any) -> tuple[Tensor, Tensor]:
    values: Tensor = given[4]
    return _like(values), values.new_empty(values.shape[:2])


@torch.library.custom_op("pentti::causal_plain_backward", mutates_args=())
def _plain_backward(
    read: Tensor,
    shares: Tensor,
    written: Tensor,
    weights: Tensor,
    values: Tensor,
    n_locations: int,
    to_sums: Tensor,
    to_masses: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    amounts = _ones(values)
    ahead = Visit(written, weights, values, amounts, read, shares, to_sums, to_masses, summed=False)
    back = Visit(
        read, shares, to_sums, to_masses, written, weights, values, amounts, backwards=True
    )
    to_shares = _visit(ahead, n_locations).dots
    to_values, _, to_weights = _visit(back, n_locations)
    return to_shares, to_weights, to_values


@_plain_backward.register_fake
def _(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
    _, shares, _, weights, values, *_ = given
    return _like(shares), _like(weights), _like(values)


def _keep_plain(ctx: Any, inputs: Any, output: Any) -> None:
    del output
    ctx.save_for_backward(*inputs[:5])
    ctx.n_locations = inputs[5]


def _backward_of_plain(ctx: Any, to_sums: Tensor, to_masses: Tensor) -> tuple[Any, ...]:
    given = ctx.saved_tensors
    to_shares, to_weights, to_values = _plain_backward(*given, ctx.n_locations, to_sums, to_masses)
    return None, to_shares, None, to_weights, to_values, None


_plain.register_autograd(_backward_of_plain, setup_context=_keep_plain)


def _visit(given: Visit, n_locations: int) -> Visited:
    if given.values.device.type == "cpu":
        return causal_cpu.visit(given, n_locations)
    return causal.scan(given)


def _like(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _ones(values: Tensor) -> Tensor:
    return values.new_ones(values.shape[:2])


def correcting(
    read: Tensor,
    shares: Tensor,
    written: Tensor,
    weights: Tensor,
    values: Tensor,
    rates: Tensor,
    amounts: Tensor,
    n_locations: int,
) -> tuple[Tensor, Tensor]:
    """The error-correcting rule; see `causal.correct`.

    Args:
        read: Locations, int64 (N, L, J), each in [0, M).
        shares: Of the reads, (N, L, J), float32 or float64.
        written: Locations, int64 (N, L, K).
        weights: Of the writes, (N, L, K).
        values: (N, L, D).
        rates: How far each write goes, (N, L).
        amounts: What a write adds to the evidence, (N, L).
        n_locations: M.

    Returns:
        Sums (N, L, D) and masses (N, L), with gradients for all that is floating.
    """
    if values.device.type != "cpu":
        return causal.correct(written, weights, values, rates, amounts, read, shares)[:2]
    sums, masses, _ = _correct(read, shares, written, weights, values, rates, amounts, n_locations)
    return sums, masses


@torch.library.custom_op("pentti::causal_correct", mutates_args=())
def _correct(
    read: Tensor,
    shares: Tensor,
    written: Tensor,
    weights: Tensor,
    values: Tensor,
    rates: Tensor,
    amounts: Tensor,
    n_locations: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return causal_cpu.correct(read, shares, written, weights, values, rates, amounts, n_locations)


@_correct.register_fake
def _(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
    values: Tensor = given[4]
    return _like(values), values.new_empty(values.shape[:2]), _like(values)


@torch.library.custom_op("pentti::causal_correct_backward", mutates_args=())
def _correct_backward(
    read: Tensor,
    shares: Tensor,
    written: Tensor,
    weights: Tensor,
    faults: Tensor,
    rates: Tensor,
    amounts: Tensor,
    n_locations: int,
    to_sums: Tensor,
    to_masses: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return causal_cpu.correct_backward(
        read, shares, written, weights, faults, rates, amounts, n_locations, to_sums, to_masses
    )


@_correct_backward.register_fake
def _(*given: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _, shares, _, weights, faults, rates, *_ = given
    return _like(shares), _like(weights), _like(faults), _like(rates)


def _keep_correct(ctx: Any, inputs: Any, output: Any) -> None:
    read, shares, written, weights, _, rates, amounts, ctx.n_locations = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(read, shares, written, weights, output[2], rates, amounts)


def _backward_of_correct(ctx: Any, to_sums: Tensor, to_masses: Tensor, _: Any) -> tuple[Any, ...]:
    given = ctx.saved_tensors
    found = _correct_backward(*given, ctx.n_locations, to_sums, to_masses)
    to_shares, to_weights, to_values, to_rates = found
    return None, to_shares, None, to_weights, to_values, to_rates, None, None


_correct.register_autograd(_backward_of_correct, setup_context=_keep_correct)


def _refuse(ctx: Any, *gradients: Any) -> Any:
    del ctx, gradients
    got = checks.Words("a second time")
    checks.reject("causal_memory", "values", "be differentiated once", got)


for _operator in (_plain_backward, _correct_backward):
    _operator.register_autograd(_refuse)
