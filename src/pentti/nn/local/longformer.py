"""Longformer's attention: a sliding window, and a few global tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pentti import checks
from pentti.nn.local import ops
from pentti.nn.local.base import SparseAttention
from pentti.nn.local.plan import Cut, Part, present
from pentti.nn.local.rotary import rotate
from pentti.nn.local.window import window_plan

__all__ = ["LongformerAttention"]


class LongformerAttention(SparseAttention):
    """A sliding window, and the first tokens, which are global.

    Every token sees the window of `SlidingWindowAttention` and the first `n_global` tokens of
    the sequence (causal: as far as they are in its past). In the bidirectional form the global
    tokens see every token. The paper has no causal form with global tokens; here a global token
    is then seen by all later ones, and sees no more than others do.

    Costs about 4·D·(w + g) operations a token, with g global tokens; bidirectional, each global
    token costs 4·D·L more. The cache holds the window and the global tokens.

    Args:
        dim: Width of a token, D.
        n_heads: Number of heads, H; each is D / H wide.
        window: w. Causal: a token sees itself and the w − 1 before it. Else: itself and
            w // 2 on either side.
        n_global: How many of the first tokens are global, g.
        causal: No token sees a later one.
        rotary: Queries and keys carry rotary positions.
        beta: Where the learned β of each head begins, for queries and keys of length 1; None for
            scaled products of any length.
        global_projections: Global tokens look through projections of their own
            (`global_query`, `global_key`, `global_value`), as in the paper; only where not causal.

    Raises:
        ArgumentError: if a size is below 1 (`n_global`: 0), the heads do not divide the width,
            rotary positions meet an odd head width, or a causal form is to have global
            projections.

    Shapes:
        x (B, L, D) → (B, L, D).

    Examples:
        >>> attention = LongformerAttention(12, 2, window=3, n_global=1)
        >>> attention(torch.randn(1, 7, 12)).shape
        torch.Size([1, 7, 12])
        >>> attention.visible(torch.tensor(5), torch.arange(7)).int()
        tensor([1, 0, 0, 1, 1, 1, 0], dtype=torch.int32)

    **Source:** Beltagy, Peters and Cohan, *Longformer* (2020, arXiv 2004.05150), section 3.1;
    their w is `window`. Q_s, K_s, V_s are `query`, `key`, `value`; Q_g, K_g, V_g are
    `global_query`, `global_key`, `global_value`. Which tokens are global depends on the task
    there; here it is the first ones.
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        *,
        window: int,
        n_global: int,
        causal: bool = True,
        rotary: bool = True,
        beta: float | None = None,
        global_projections: bool = False,
    ) -> None:
        super().__init__(dim, n_heads, causal=causal, rotary=rotary, beta=beta)
        self.window = checks.count(self._where, "window", window)
        self.n_global = checks.integer(self._where, "n_global", n_global, 0)
        self.global_projections = checks.flag(self._where, "global_projections", global_projections)
        if self.causal and self.global_projections:
            checks.reject(self._where, "global_projections", "be False where causal", True)
        if self.global_projections:
            self.global_query = nn.Linear(dim, dim, bias=False)
            self.global_key = nn.Linear(dim, dim, bias=False)
            self.global_value = nn.Linear(dim, dim, bias=False)

    def visible(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Which keys a query sees: the window around it and the global tokens.

        Args:
            query_positions: Positions in the sequence, counted from 0.
            key_positions: Positions, of a shape that broadcasts with the queries'.

        Returns:
            True where the key is seen.
        """
        distance = query_positions - key_positions
        to_global = key_positions < self.n_global
        if self.causal:
            return (distance >= 0) & ((distance < self.window) | to_global)
        return (distance.abs() <= self.window // 2) | to_global | (query_positions < self.n_global)

    def _plan(self, length: int, *, backward: bool) -> list[Part]:
        before, after = (self.window - 1, 0) if self.causal else (self.window // 2,) * 2
        near = window_plan(length, before, after, backward=backward)
        n, past = self.n_global, before + 1  # from here on the first token is out of the window
        slope = min(n, length - past)  # queries for which only some global tokens are out of it
        leaving = Part(Cut(past, slope), Cut(0, slope), 0)
        return near + present(leaving, Part(Cut(past + n, length - past - n), Cut(0, n)))

    def _mix(
        self, x_BLD: Tensor, q: Tensor, k: Tensor, v: Tensor, key_bias_BL: Tensor | None
    ) -> Tensor:
        y_BHLE = super()._mix(x_BLD, q, k, v, key_bias_BL)
        n, length = min(self.n_global, x_BLD.shape[1]), x_BLD.shape[1]
        if self.causal or n == 0:
            return y_BHLE
        if self.global_projections:
            q, k, v = self._global_heads(x_BLD, n)
        everything = [Part(Cut(0, n), Cut(0, length), fresh=True)]
        wide = ops.attend(q[:, :, :n], k, v, everything, key_bias_BS=key_bias_BL)
        return torch.cat((wide, y_BHLE[:, :, n:]), 2)

    def _global_heads(self, x_BLD: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
        shape = (self.n_heads, self.dim // self.n_heads)
        q = self.global_query(x_BLD[:, :n]).unflatten(-1, shape).transpose(1, 2)
        k = self.global_key(x_BLD).unflatten(-1, shape).transpose(1, 2)
        v = self.global_value(x_BLD).unflatten(-1, shape).transpose(1, 2)
        if self.rotary:
            q, k = rotate(q), rotate(k)
        return *self._scaled(q, k), v

    def _live(self, key_positions: Tensor, next_position: Tensor) -> Tensor:
        return (next_position - key_positions < self.window) | (key_positions < self.n_global)

    def _settings(self) -> dict[str, object]:
        given: dict[str, object] = {"window": self.window, "n_global": self.n_global}
        return given | ({"global_projections": True} if self.global_projections else {})
