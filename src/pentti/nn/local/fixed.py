"""The Sparse Transformer's fixed attention: one's own block, and a summary of the others."""

from __future__ import annotations

from torch import Tensor

from pentti import checks
from pentti.nn.local.base import SparseAttention
from pentti.nn.local.plan import Cut, Part, present

__all__ = ["FixedAttention"]


class FixedAttention(SparseAttention):
    """One's own block of tokens, and the last `n_summary` tokens of every other block.

    All heads see the union of the two patterns (the paper's "merged" heads), and the same
    summary tokens. Causal: a token sees its block up to itself, and the summaries of the blocks
    before.

    Costs about 4·D·(l / 2 + c·t / l) operations for token t, with l = `block`, c = `n_summary`.
    The cache holds the current block and all summaries, c / l of the sequence.

    Args:
        dim: Width of a token, D.
        n_heads: Number of heads, H; each is D / H wide.
        block: Tokens in a block, l.
        n_summary: Tokens at the end of a block that all others see, c; a sixteenth of the block,
            at least one, if None.
        causal: No token sees a later one.
        rotary: Queries and keys carry rotary positions.
        beta: Where the learned β of each head begins, for queries and keys of length 1; None for
            scaled products of any length.

    Raises:
        ArgumentError: if a size is below 1, there are more summary tokens than a block has, the
            heads do not divide the width, or rotary positions meet an odd head width.

    Shapes:
        x (B, L, D) → (B, L, D).

    Examples:
        >>> import torch
        >>> attention = FixedAttention(12, 2, block=3, n_summary=1)
        >>> attention(torch.randn(1, 9, 12)).shape
        torch.Size([1, 9, 12])
        >>> attention.visible(torch.tensor(7), torch.arange(9)).int()
        tensor([0, 0, 1, 0, 0, 1, 1, 1, 0], dtype=torch.int32)

    **Source:** Child et al., *Generating long sequences with Sparse Transformers* (2019, arXiv
    1904.10509), section 4.3; their l is `block`, c is `n_summary` (8, 16 or 32 at l = 128 or 256),
    A⁽¹⁾ the own block, A⁽²⁾ = {j : j mod l ∈ {l − c … l − 1}}. They have the causal form only.
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        *,
        block: int,
        n_summary: int | None = None,
        causal: bool = True,
        rotary: bool = True,
        beta: float | None = None,
    ) -> None:
        super().__init__(dim, n_heads, causal=causal, rotary=rotary, beta=beta)
        self.block = checks.count(self._where, "block", block)
        wanted = max(1, self.block // 16) if n_summary is None else n_summary
        self.n_summary = checks.integer(self._where, "n_summary", wanted, 1, self.block)

    def visible(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Which keys a query sees: its own block, and the summaries of the others.

        Args:
            query_positions: Positions in the sequence, counted from 0.
            key_positions: Positions, of a shape that broadcasts with the queries'.

        Returns:
            True where the key is seen.
        """
        own = query_positions // self.block == key_positions // self.block
        seen = own | (key_positions % self.block >= self.block - self.n_summary)
        return seen & (query_positions >= key_positions) if self.causal else seen

    def _plan(self, length: int, *, backward: bool) -> list[Part]:
        del backward
        n_blocks, rest = length // self.block, length % self.block
        own = Cut(0, self.block, n_blocks, self.block)
        last = Cut(n_blocks * self.block, rest)
        limits = {"low": 0} if self.causal else {}
        plan = present(Part(own, own, fresh=True, **limits), Part(last, last, fresh=True, **limits))
        half = self.block  # pairs of halves of 1, 2, 4 … blocks: every two blocks meet once
        while half < length:
            plan += self._pairs(length, half)
            half *= 2
        return plan

    def _pairs(self, length: int, half: int) -> list[Part]:
        """Right halves see the summaries of their left halves, and where not causal vice versa."""
        n_pairs = length // (2 * half)
        left, right = (Cut(at, half, n_pairs, 2 * half) for at in (0, half))
        at = n_pairs * 2 * half  # a last pair, whose right half is shorter
        odd_left, odd_right = Cut(at, half), Cut(at + half, length - at - half)
        plan = [Part(right, self._summaries(left)), Part(odd_right, self._summaries(odd_left))]
        if not self.causal:
            plan += [Part(left, self._summaries(right)), Part(odd_left, self._summaries(odd_right))]
            # What a last block that is cut short has of its summary.
            n_more = length % self.block - (self.block - self.n_summary)
            if odd_right.size > 0:
                plan += [Part(odd_left, Cut(length - n_more, n_more))]
        return present(*plan)

    def _summaries(self, cut: Cut) -> Cut:
        """The last tokens of each whole block in a cut."""
        start = cut.start + self.block - self.n_summary
        n_blocks = cut.size // self.block
        return Cut(start, self.n_summary, cut.groups, cut.group_step, n_blocks, self.block)

    def _live(self, key_positions: Tensor, next_position: Tensor) -> Tensor:
        own = key_positions // self.block == next_position // self.block
        return own | (key_positions % self.block >= self.block - self.n_summary)

    def _settings(self) -> dict[str, object]:
        return {"block": self.block, "n_summary": self.n_summary}
