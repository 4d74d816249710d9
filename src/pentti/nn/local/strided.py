"""The Sparse Transformer's strided attention: what is near, and every stride-th token."""

from __future__ import annotations

from torch import Tensor

from pentti import checks
from pentti.nn.local.base import SparseAttention
from pentti.nn.local.plan import ANY, Cut, Part, present
from pentti.nn.local.window import window_plan

__all__ = ["StridedAttention"]


class StridedAttention(SparseAttention):
    """A window of `stride` tokens, and every token a multiple of `stride` away.

    All heads see the union of the two patterns (the paper's "merged" heads). Any token reaches
    any earlier one in two layers.

    Costs about 4·D·(s + t / s) operations for token t, with s = `stride`, so take s near √L: then
    a sequence costs L·√L instead of L². Nothing is ever forgotten, so the cache keeps every token.

    Args:
        dim: Width of a token, D.
        n_heads: Number of heads, H; each is D / H wide.
        stride: s. Causal: a token sees itself, the s − 1 before it, and those s, 2s, 3s … before
            it. Else the same on both sides.
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
        >>> attention = StridedAttention(12, 2, stride=3)
        >>> attention(torch.randn(1, 9, 12)).shape
        torch.Size([1, 9, 12])
        >>> attention.visible(torch.tensor(8), torch.arange(9)).int()
        tensor([0, 0, 1, 0, 0, 1, 1, 1, 1], dtype=torch.int32)

    **Source:** Child et al., *Generating long sequences with Sparse Transformers* (2019, arXiv
    1904.10509), section 4.3; their l is `stride`, A⁽¹⁾ the window {max(0, i − l) … i} and A⁽²⁾ the
    column {j : (i − j) mod l = 0}, which holds i − l too. They have the causal form only.
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        *,
        stride: int,
        causal: bool = True,
        rotary: bool = True,
        beta: float | None = None,
    ) -> None:
        super().__init__(dim, n_heads, causal=causal, rotary=rotary, beta=beta)
        self.stride = checks.count(self._where, "stride", stride)

    def visible(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Which keys a query sees: the nearest, and every stride-th.

        Args:
            query_positions: Positions in the sequence, counted from 0.
            key_positions: Positions, of a shape that broadcasts with the queries'.

        Returns:
            True where the key is seen.
        """
        distance = query_positions - key_positions
        seen = (distance.abs() < self.stride) | (distance % self.stride == 0)
        return seen & (distance >= 0) if self.causal else seen

    def _plan(self, length: int, *, backward: bool) -> list[Part]:
        near = self.stride - 1
        plan = window_plan(length, near, 0 if self.causal else near, backward=backward)
        # The first columns have one row more. (The compiler knows no divmod of a changing length.)
        n_rows, n_longer = length // self.stride, length % self.stride
        plan += self._columns(0, n_longer, n_rows + 1)
        return plan + self._columns(n_longer, self.stride - n_longer, n_rows)

    def _columns(self, first: int, n_columns: int, n_rows: int) -> list[Part]:
        """Every token of a column sees those before it, and where not causal those after it."""
        step = self.stride
        upper = Cut(first, 1, n_columns, 1, n_rows - 1, step)
        lower = Cut(first + step, 1, n_columns, 1, n_rows - 1, step)
        if self.causal:
            return present(Part(lower, upper, 0))
        return present(Part(lower, upper, 0), Part(upper, lower, -ANY, 0))

    def _settings(self) -> dict[str, object]:
        return {"stride": self.stride}
