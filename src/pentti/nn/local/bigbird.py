"""BigBird's attention: neighbouring blocks, global blocks and random blocks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pentti import checks
from pentti.nn.local import ops
from pentti.nn.local.base import SparseAttention
from pentti.nn.local.plan import Cut, Part, present, silence
from pentti.nn.local.random_blocks import random_blocks

__all__ = ["BigBirdAttention"]


class BigBirdAttention(SparseAttention):
    """Blocks that see their neighbours, the first blocks, and random ones.

    The sequence is cut into blocks. A block sees itself, the block before and (where not causal)
    the block after, the first `n_global` blocks, and `n_random` others, drawn from the seed, the
    same for all heads. Where not causal, the tokens of global blocks see every token.

    What a block draws does not depend on the length of the sequence, so that a cache gives what
    the whole gives. Causal: it draws from its past, and the first g + r + 2 blocks see all of
    theirs. Else block b draws from the blocks up to 2b + r + 3, and in the second half of a
    sequence it loses what lies beyond the end.

    Costs about 4·D·s·(g + r + 2) operations a token (causal; else g + r + 3), s being the size of
    a block and g, r the numbers of global and random ones. A later block may draw any earlier
    one, so the cache keeps every token.

    Args:
        dim: Width of a token, D.
        n_heads: Number of heads, H; each is D / H wide.
        block: Tokens in a block, s.
        n_random: Random blocks that a block sees, r.
        n_global: Global blocks, g.
        causal: No token sees a later one.
        rotary: Queries and keys carry rotary positions.
        beta: Where the learned β of each head begins, for queries and keys of length 1; None for
            scaled products of any length.
        seed: Of the random blocks; the same on every machine.

    Raises:
        ArgumentError: if a size is below 1 (`n_random`, `n_global`: 0), the heads do not divide
            the width, or rotary positions meet an odd head width.

    Shapes:
        x (B, L, D) → (B, L, D).

    Examples:
        >>> attention = BigBirdAttention(12, 2, block=2, n_random=1, n_global=1, seed=4)
        >>> attention(torch.randn(1, 15, 12)).shape
        torch.Size([1, 15, 12])
        >>> attention.visible(torch.tensor(14), torch.arange(15)).int()
        tensor([1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1], dtype=torch.int32)

    **Source:** Zaheer et al., *Big Bird* (2020, arXiv 2007.14062), section 2 and appendix D; their
    b is `block`, r is `n_random`, g is `n_global` (internal global tokens, "ITC"), and their
    window w is 3 blocks. They have the bidirectional form only.
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        *,
        block: int,
        n_random: int,
        n_global: int,
        causal: bool = True,
        rotary: bool = True,
        beta: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, n_heads, causal=causal, rotary=rotary, beta=beta)
        self.block = checks.count(self._where, "block", block)
        self.n_random = checks.integer(self._where, "n_random", n_random, 0)
        self.n_global = checks.integer(self._where, "n_global", n_global, 0)
        self.seed = checks.integer(self._where, "seed", seed, 0, 2**63 - 1)
        self._n_dense = self.n_global + self.n_random + 2 if self.causal else 0

    def visible(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Which keys a query sees: near, global and random blocks.

        Args:
            query_positions: Positions in the sequence, counted from 0.
            key_positions: Positions, of a shape that broadcasts with the queries'.

        Returns:
            True where the key is seen.
        """
        query, key = query_positions // self.block, key_positions // self.block
        seen = ((query - key).abs() <= 1) | (key < self.n_global)
        n_blocks = int(query.max().clamp(min=0)) + 1 if query.numel() else 0
        drawn = self._drawn(query, n_blocks)[query.clamp(min=0)]
        for i in range(self.n_random):
            seen |= drawn[..., i] == key
        if self.causal:
            return (seen | (query < self._n_dense)) & (query_positions >= key_positions)
        return seen | (query < self.n_global)

    def _drawn(self, like: Tensor, n_blocks: int) -> Tensor:
        settings = (self.n_global, self.n_random, self.causal, self.seed)
        return random_blocks(like, n_blocks, *settings)

    def _mix(
        self, x_BLD: Tensor, q: Tensor, k: Tensor, v: Tensor, key_bias_BL: Tensor | None
    ) -> Tensor:
        del x_BLD
        if self.causal:
            return self._causal_mix(q, k, v)
        return self._bidirectional_mix(q, k, v, key_bias_BL)

    def _causal_mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        length, first = q.shape[2], self._n_dense
        n_blocks = length // self.block
        asked = -(-length // self.block)
        if self.n_random and asked > first:
            blocks = self._drawn(q, asked)[first:].flatten()
            k, v = (
                torch.cat((x, _blocks(x[:, :, : n_blocks * self.block], self.block, blocks)), 2)
                for x in (k, v)
            )
        return ops.attend(q, k, v, self._plan(length, backward=False))

    def _plan(self, length: int, *, backward: bool) -> list[Part]:
        """The causal form; the keys of the random blocks follow those of the sequence."""
        del backward
        size, drawn = self.block, self.n_random * self.block
        start = min(length, self._n_dense * size)
        n, rest = (length - start) // size, (length - start) % size
        last = start + n * size
        whole = Cut(start, size, n, size)
        tail = Cut(last, rest)
        return present(
            Part(Cut(0, start), Cut(0, start), 0, fresh=True),
            Part(whole, Cut(start - size, 2 * size, n, size), -size, fresh=True),
            Part(tail, Cut(last - size, size + rest), -size, fresh=True),
            Part(Cut(start, length - start), Cut(0, self.n_global * size)),
            Part(whole, Cut(length, drawn, n, drawn)),
            Part(tail, Cut(length + n * drawn, drawn)),
        )

    def _bidirectional_mix(
        self, q: Tensor, k: Tensor, v: Tensor, key_bias_BL: Tensor | None
    ) -> Tensor:
        batch, _, length, _ = q.shape
        if length <= self.block:  # all in one block, which is not filled up
            everything = [Part(Cut(0, length), Cut(0, length), fresh=True)]
            return ops.attend(q, k, v, everything, key_bias_BS=key_bias_BL)
        n_blocks = -(-length // self.block)
        missing = n_blocks * self.block - length
        q, k, v = (functional.pad(x, (0, 0, 0, missing)) for x in (q, k, v))
        if key_bias_BL is None:
            key_bias_BL = q.new_zeros((batch, length), dtype=torch.float32)
        beyond = silence(torch.zeros(batch, missing, dtype=torch.bool, device=q.device))
        bias = torch.cat((key_bias_BL, beyond), 1)
        drawn = self._drawn(q, n_blocks)[self.n_global :].flatten()
        exists = silence(drawn < n_blocks).repeat_interleave(self.block)
        drawn = drawn.clamp(max=n_blocks - 1)
        k_all, v_all = (torch.cat((x, _blocks(x, self.block, drawn)), 2) for x in (k, v))
        of_drawn = _blocks(bias[:, None, :, None], self.block, drawn)[:, 0, :, 0]
        bias_all = torch.cat((bias, torch.minimum(of_drawn, exists)), 1)
        y = ops.attend(q, k_all, v_all, self._both_sides(n_blocks), key_bias_BS=bias_all)
        return y[:, :, :length]

    def _both_sides(self, n_blocks: int) -> list[Part]:
        """The bidirectional form, of whole blocks; the keys of the random blocks follow."""
        size, g, drawn = self.block, min(self.n_global, n_blocks), self.n_random * self.block
        end, n_local = n_blocks * size, n_blocks - g
        inner = n_local - 2
        locals_ = Cut(g * size, size, n_local, size)
        edges = [  # the block before the first local one is global, and none follows the last
            Part(Cut(g * size, size), Cut(g * size, min(n_local, 2) * size), fresh=True),
            Part(Cut(end - size, size), Cut(end - 2 * size, 2 * size), fresh=True),
        ]
        within = Cut((g + 1) * size, size, inner, size), Cut(g * size, 3 * size, inner, size)
        return present(
            Part(Cut(0, g * size), Cut(0, end), fresh=True),
            *edges[: min(n_local, 2)],
            Part(*within, fresh=True),
            Part(Cut(g * size, n_local * size), Cut(0, g * size)),
            Part(locals_, Cut(end, drawn, n_local, drawn)),
        )

    def _settings(self) -> dict[str, object]:
        names = ("block", "n_random", "n_global", "seed")
        return {name: getattr(self, name) for name in names}


def _blocks(x_BHLE: Tensor, block: int, chosen: Tensor) -> Tensor:
    """The chosen blocks of a sequence, one after the other."""
    found: Tensor = x_BHLE.unflatten(2, (-1, block)).index_select(2, chosen).flatten(2, 3)
    return found
