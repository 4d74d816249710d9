"""Attention with its log-sum-exp, forward and backward, for one part of a plan.

On the CPU it is torch's own flash kernel, elsewhere plain torch. Given the output and the
log-sum-exp over *all* parts, the derivative of each part is exact: that is what makes a pattern
in parts differentiable without keeping any weight.

Shape suffixes beside the legend: G groups of a part, N batch · heads, S queries and T keys of a
group.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["attend", "gradients", "plain_attend", "plain_gradients"]

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001
_flash_gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward  # noqa: SLF001


def attend(
    q_GNSE: Tensor, k_GNTE: Tensor, v_GNTE: Tensor, bias: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attention of one part.

    Args:
        q_GNSE: Queries of each group.
        k_GNTE: Keys.
        v_GNTE: Values.
        bias: Added to the scores; broadcasts to (G, N, S, T).
        causal: Query i sees keys 0 … i only.

    Returns:
        The output (G, N, S, E), and the log-sum-exp of the scores (G, N, S).
    """
    if q_GNSE.device.type != "cpu":
        return plain_attend(q_GNSE, k_GNTE, v_GNTE, bias, causal)
    mask = _mask(bias, q_GNSE)
    output, total = _flash(q_GNSE, k_GNTE, v_GNTE, 0.0, causal, attn_mask=mask)
    return output, total


def gradients(
    d_output: Tensor,
    q_GNSE: Tensor,
    k_GNTE: Tensor,
    v_GNTE: Tensor,
    output: Tensor,
    total: Tensor,
    bias: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The derivative of one part.

    Args:
        d_output: Gradient of the whole output, shape (G, N, S, E).
        q_GNSE: Queries of each group.
        k_GNTE: Keys.
        v_GNTE: Values.
        output: The output over all parts.
        total: The log-sum-exp over all parts.
        bias: As for `attend`.
        causal: As for `attend`.

    Returns:
        Gradients of queries, keys and values.
    """
    if q_GNSE.device.type != "cpu":
        return plain_gradients(d_output, q_GNSE, k_GNTE, v_GNTE, output, total, bias, causal)
    mask = _mask(bias, q_GNSE)
    d_q, d_k, d_v = _flash_gradients(
        d_output, q_GNSE, k_GNTE, v_GNTE, output, total, 0.0, causal, attn_mask=mask
    )
    return d_q, d_k, d_v


def plain_attend(
    q_GNSE: Tensor, k_GNTE: Tensor, v_GNTE: Tensor, bias: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """`attend` in plain torch: the definition, and what runs where there is no flash kernel.

    Args:
        q_GNSE: Queries of each group.
        k_GNTE: Keys.
        v_GNTE: Values.
        bias: As for `attend`.
        causal: As for `attend`.

    Returns:
        As `attend`.
    """
    scores = _scores(q_GNSE, k_GNTE, bias, causal)
    total = scores.logsumexp(-1)
    weights = scores.sub_(total[..., None]).exp_()
    return (weights @ v_GNTE.to(weights.dtype)).to(q_GNSE.dtype), total


def plain_gradients(
    d_output: Tensor,
    q_GNSE: Tensor,
    k_GNTE: Tensor,
    v_GNTE: Tensor,
    output: Tensor,
    total: Tensor,
    bias: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """`gradients` in plain torch.

    Args:
        d_output: As for `gradients`.
        q_GNSE: Queries of each group.
        k_GNTE: Keys.
        v_GNTE: Values.
        output: As for `gradients`.
        total: As for `gradients`.
        bias: As for `attend`.
        causal: As for `attend`.

    Returns:
        Gradients of queries, keys and values.
    """
    weights = _scores(q_GNSE, k_GNTE, bias, causal).sub_(total[..., None]).exp_()
    wide, scale = weights.dtype, 1 / math.sqrt(q_GNSE.shape[-1])
    d_output = d_output.to(wide)
    d_v = weights.mT @ d_output
    mean = (d_output * output).sum(-1, keepdim=True)
    d_scores = (d_output @ v_GNTE.to(wide).mT).sub_(mean).mul_(weights).mul_(scale)
    d_q, d_k = d_scores @ k_GNTE.to(wide), d_scores.mT @ q_GNSE.to(wide)
    return d_q.to(q_GNSE.dtype), d_k.to(k_GNTE.dtype), d_v.to(v_GNTE.dtype)


def _mask(bias: Tensor | None, q_GNSE: Tensor) -> Tensor | None:
    """The bias as the flash kernel reads it: with float64 queries it misreads a float32 one."""
    return bias.double() if bias is not None and q_GNSE.dtype == torch.float64 else bias


def _scores(q_GNSE: Tensor, k_GNTE: Tensor, bias: Tensor | None, causal: bool) -> Tensor:
    wide = torch.promote_types(q_GNSE.dtype, torch.float32)
    scores = (q_GNSE.to(wide) / math.sqrt(q_GNSE.shape[-1])) @ k_GNTE.to(wide).mT
    if bias is not None:
        scores += bias
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu_(1)
        scores.masked_fill_(later, -math.inf)
    return scores
