"""Attention by a plan, as a torch operator: with gradients, and inside `torch.compile`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pentti.nn.local import kernel
from pentti.nn.local.plan import Part, numbers, parts

__all__ = ["attend"]


def attend(
    q_BHLE: Tensor,
    k_BHSE: Tensor,
    v_BHSE: Tensor,
    plan: Sequence[Part],
    backward_plan: Sequence[Part] | None = None,
    *,
    key_bias_BS: Tensor | None = None,
) -> Tensor:
    """Softmax attention over the keys that a plan shows to each query.

    Args:
        q_BHLE: Queries.
        k_BHSE: Keys, as many as the plan speaks of.
        v_BHSE: Values.
        plan: The parts; every query stands in at least one.
        backward_plan: The same pattern, cut as suits the derivative; the same plan if None.
        key_bias_BS: float32, added to the scores of each key, from `plan.silence`.

    Returns:
        The output, contiguous, shape (B, H, L, E).
    """
    q, k, v = (x.contiguous().flatten(0, 1) for x in (q_BHLE, k_BHSE, v_BHSE))
    bias = None
    if key_bias_BS is not None:
        bias = key_bias_BS[:, None].expand(-1, q_BHLE.shape[1], -1).flatten(0, 1)
    flat = numbers(plan)
    back = flat if backward_plan is None else numbers(backward_plan)
    output, _ = _attend(q, k, v, bias, flat, back)
    result: Tensor = output.view(q_BHLE.shape)
    return result


@torch.library.custom_op(
    "pentti::attend",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor? key_bias, int[] plan, int[] backward_plan)"
    " -> (Tensor, Tensor)",
)
def _attend(
    q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None, plan: Any, backward_plan: Any
) -> tuple[Tensor, Tensor]:
    del backward_plan  # only kept for the derivative
    wide = torch.promote_types(q.dtype, torch.float32)
    output_NLE = torch.empty(q.shape, dtype=wide, device=q.device)
    total_NL1 = torch.empty((*q.shape[:-1], 1), dtype=wide, device=q.device)
    for part, cut, bias in _calls(parts(plan), key_bias, q.device):
        of_k, of_v = cut.keys.take(k), cut.keys.take(v)
        found, found_total = kernel.attend(cut.queries.take(q), of_k, of_v, bias, part.causal)
        _merge(cut, output_NLE, total_NL1, found, found_total[..., None])
    return output_NLE.to(q.dtype), total_NL1


@torch.library.custom_op(
    "pentti::attend_backward",
    mutates_args=(),
    schema="(Tensor d_output, Tensor q, Tensor k, Tensor v, Tensor output, Tensor total,"
    " Tensor? key_bias, int[] plan) -> (Tensor, Tensor, Tensor)",
)
def _attend_backward(
    d_output: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    output: Tensor,
    total: Tensor,
    key_bias: Tensor | None,
    plan: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.promote_types(q.dtype, torch.float32)
    sums = [torch.zeros(x.shape, dtype=wide, device=x.device) for x in (q, k, v)]
    for part, cut, bias in _calls(parts(plan), key_bias, q.device):
        of_q, of_output, of_d = (cut.queries.take(x) for x in (q, output, d_output))
        of_k, of_v, of_total = cut.keys.take(k), cut.keys.take(v), cut.queries.take(total)
        found = kernel.gradients(
            of_d, of_q, of_k, of_v, of_output, of_total[..., 0], bias, part.causal
        )
        for total_sum, of, share in zip(
            sums, (cut.queries, cut.keys, cut.keys), found, strict=True
        ):
            of.add(total_sum, share)
    d_q, d_k, d_v = (x.to(q.dtype) for x in sums)
    return d_q, d_k, d_v


def _calls(
    plan: Sequence[Part], key_bias: Tensor | None, device: torch.device
) -> Iterator[tuple[Part, Part, Tensor | None]]:
    """Each part as the calls that it takes: its shape, what is cut, and what is added to scores."""
    for part in plan:
        band = part.band(device)
        if key_bias is None:
            yield part, part, band
            continue
        of_keys = part.keys.take(key_bias[..., None]).mT
        if band is None:
            yield part, part, of_keys
            continue
        # Both at once are as large as the scores of a group, so the groups go one by one.
        for group, alone in enumerate(part.alone()):
            yield part, alone, of_keys[group, None] + band


def _merge(part: Part, output: Tensor, total: Tensor, found: Tensor, found_total: Tensor) -> None:
    """Weigh what this part found against what the parts before it found, in place."""
    rows = (part.queries.rows, part.queries.size)
    found, found_total = found.unflatten(2, rows), found_total.unflatten(2, rows)
    output, total = part.queries.view(output), part.queries.view(total)
    if part.fresh:
        output.copy_(found)
        total.copy_(found_total)
        return
    both = torch.logaddexp(total, found_total)
    output.mul_((total - both).exp_()).addcmul_(found.to(output.dtype), (found_total - both).exp_())
    total.copy_(both)


@_attend.register_fake
def _(q: Tensor, *_others: Any) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(q.dtype, torch.float32)
    return torch.empty_like(q), q.new_empty((*q.shape[:-1], 1), dtype=wide)


@_attend_backward.register_fake
def _(_d: Tensor, q: Tensor, k: Tensor, v: Tensor, *_others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    q, k, v, key_bias, _, ctx.plan = inputs
    ctx.save_for_backward(q, k, v, key_bias, *output)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, d_output: Tensor | None, _: Any) -> tuple[Any, ...]:
    if d_output is None:
        return None, None, None, None, None, None
    q, k, v, key_bias, output, total = ctx.saved_tensors
    found = _attend_backward(d_output.contiguous(), q, k, v, output, total, key_bias, ctx.plan)
    return *found, None, None, None


_attend.register_autograd(_backward, setup_context=_keep)
