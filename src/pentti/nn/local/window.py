"""Sliding-window attention: every token sees its neighbours."""

from __future__ import annotations

from torch import Tensor

from pentti import checks
from pentti.nn.local.base import SparseAttention
from pentti.nn.local.plan import ANY, Cut, Part, present

__all__ = ["SlidingWindowAttention", "window_plan"]

_BLOCK = 64  # queries that share their keys, going forward: fewest keys computed in vain
_SMALL_BLOCK = 32


class SlidingWindowAttention(SparseAttention):
    """Attention to the nearest tokens.

    Costs about 4·D·w operations a token, whatever the length; nothing of size L × L is held. The
    cache holds the last `window` − 1 tokens (and room for about as many).

    Args:
        dim: Width of a token, D.
        n_heads: Number of heads, H; each is D / H wide.
        window: w. Causal: a token sees itself and the w − 1 before it. Else: itself and
            w // 2 on either side.
        causal: No token sees a later one.
        rotary: Queries and keys carry rotary positions.
        beta: Where the learned β of each head begins, for queries and keys of length 1; None for
            scaled products of any length.

    Raises:
        ArgumentError: if a size is below 1, the heads do not divide the width, or rotary
            positions meet an odd head width.

    Shapes:
        x (B, L, D) → (B, L, D).

    Examples:
        >>> import torch
        >>> attention = SlidingWindowAttention(12, 2, window=3)
        >>> x = torch.randn(1, 7, 12)
        >>> attention(x).shape
        torch.Size([1, 7, 12])
        >>> attention.visible(torch.tensor(5), torch.arange(7)).int()
        tensor([0, 0, 0, 1, 1, 1, 0], dtype=torch.int32)

    **Source:** Beltagy, Peters and Cohan, *Longformer* (2020, arXiv 2004.05150), section 3.1;
    their w is `window`, with w / 2 on each side. The causal form is that of section 4.1.
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        *,
        window: int,
        causal: bool = True,
        rotary: bool = True,
        beta: float | None = None,
    ) -> None:
        super().__init__(dim, n_heads, causal=causal, rotary=rotary, beta=beta)
        self.window = checks.count(self._where, "window", window)

    def visible(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Which keys a query sees: those in the window around it.

        Args:
            query_positions: Positions in the sequence, counted from 0.
            key_positions: Positions, of a shape that broadcasts with the queries'.

        Returns:
            True where the key is seen.
        """
        distance = query_positions - key_positions
        if self.causal:
            return (distance >= 0) & (distance < self.window)
        return distance.abs() <= self.window // 2

    def _plan(self, length: int, *, backward: bool) -> list[Part]:
        before, after = (self.window - 1, 0) if self.causal else (self.window // 2,) * 2
        return window_plan(length, before, after, backward=backward)

    def _live(self, key_positions: Tensor, next_position: Tensor) -> Tensor:
        return next_position - key_positions < self.window

    def _settings(self) -> dict[str, object]:
        return {"window": self.window}


def window_plan(length: int, before: int, after: int, *, backward: bool) -> list[Part]:
    """How to see so many tokens before and after each.

    Blocks of queries share the keys from the first one's window to the last one's. Small blocks
    compute least in vain, so the forward pass takes them; the backward pass takes larger ones,
    because each block adds a gradient to every key of its windows.

    Args:
        length: Tokens in the sequence.
        before: How many before it a token sees.
        after: How many after it.
        backward: Cut for the derivative.

    Returns:
        The parts, no two with the same queries.
    """
    before, after = min(before, length), min(after, length)
    span = before + after
    block = _BLOCK if span >= 2 * _BLOCK else _SMALL_BLOCK
    block = max(_BLOCK, span // 2) if backward else block
    n_blocks = max(0, (length - span) // block)
    rest = before + n_blocks * block
    band = (-span, 0)
    head = Cut(0, min(before, length)), Cut(0, min(span, length))
    body = Cut(before, block, n_blocks, block), Cut(0, span + block, n_blocks, block)
    tail = Cut(rest, length - rest), Cut(rest - before, length - rest + before)
    return present(
        Part(*head, -after, ANY, fresh=True),
        Part(*body, *band, fresh=True),
        Part(*tail, *band, fresh=True),
    )
