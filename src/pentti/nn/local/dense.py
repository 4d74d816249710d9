"""Dense attention: every token sees every token, or every one before it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pentti.nn.local.base import SparseAttention
from pentti.nn.local.plan import Part, fitted

__all__ = ["Attention"]


class Attention(SparseAttention):
    """Scaled dot-product attention, the yardstick of the others.

    Costs about 4·D·t operations for a token that sees t others, 2·D·L on average where causal.
    Nothing of size L × L is held (torch's fused kernel). The cache grows with every token.

    Args:
        dim: Width of a token, D.
        n_heads: Number of heads, H; each is D / H wide.
        causal: A token sees itself and those before it; else all.
        rotary: Queries and keys carry rotary positions.
        beta: Where the learned β of each head begins, for queries and keys of length 1; None for
            scaled products of any length.

    Raises:
        ArgumentError: if a size is below 1, the heads do not divide the width, or rotary
            positions meet an odd head width.

    Shapes:
        x (B, L, D) → (B, L, D).

    Examples:
        >>> attention = Attention(12, 2)
        >>> attention(torch.randn(3, 7, 12)).shape
        torch.Size([3, 7, 12])

    **Source:** Vaswani et al., *Attention is all you need* (2017, arXiv 1706.03762), equation 1;
    their d_model is `dim`, h is `n_heads`, d_k = D / H.
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        *,
        causal: bool = True,
        rotary: bool = True,
        beta: float | None = None,
    ) -> None:
        super().__init__(dim, n_heads, causal=causal, rotary=rotary, beta=beta)

    def visible(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Which keys a query sees: all, or those at its position and before.

        Args:
            query_positions: Positions in the sequence, counted from 0.
            key_positions: Positions, of a shape that broadcasts with the queries'.

        Returns:
            True where the key is seen.
        """
        distance = query_positions - key_positions
        return distance >= 0 if self.causal else torch.ones_like(distance, dtype=torch.bool)

    def _plan(self, length: int, *, backward: bool) -> list[Part]:
        raise NotImplementedError  # one call of torch does it

    def _mix(
        self, x_BLD: Tensor, q: Tensor, k: Tensor, v: Tensor, key_bias_BL: Tensor | None
    ) -> Tensor:
        del x_BLD
        bias = None if key_bias_BL is None else fitted(key_bias_BL, q.dtype)[:, None, None]
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, is_causal=self.causal
        )
