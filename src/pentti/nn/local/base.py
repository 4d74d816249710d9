"""What all forms of attention share: projections, heads, positions, padding, and the cache."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pentti import checks
from pentti.nn.local import ops
from pentti.nn.local.cache import KeyValueCache
from pentti.nn.local.plan import Part, fitted, silence
from pentti.nn.local.rotary import rotate
from pentti.tensors import check_device

__all__ = ["SparseAttention", "check_mask"]

_STEP = 256  # new tokens that meet the cache at a time, so that no mask is longer


class SparseAttention(nn.Module, ABC):
    """Base of attention with a pattern: who sees whom is `visible`, and how it is cut is `_plan`.

    With `beta` a query weighs a key by exp(β · cosine), as the theory that ties attention to SDM
    has it; each head learns its β.

    Padding is as if it were not there: the tokens of a sequence are numbered without it, so that
    a padded sequence gives what the sequence alone would, wherever the padding stands.

    Args:
        dim: Width of a token, D.
        n_heads: Number of heads, H; each is D / H wide.
        causal: No token sees a later one.
        rotary: Queries and keys carry rotary positions.
        beta: Where the learned β of each head begins, for queries and keys of length 1; None for
            scaled products of any length.

    Raises:
        ArgumentError: if a size is below 1, the heads do not divide the width, or rotary
            positions meet an odd head width, or `beta` is not above 0.

    **Source:** for `beta`: Henry et al., *Query-key normalization for Transformers* (2020, arXiv
    2010.04245), whose g is β; Bricken and Pehlevan, *Attention approximates Sparse Distributed
    Memory* (2021, arXiv 2111.05498).
    """

    def __init__(
        self, dim: int, n_heads: int, *, causal: bool, rotary: bool, beta: float | None
    ) -> None:
        super().__init__()
        self._where = type(self).__name__
        self.dim = checks.count(self._where, "dim", dim)
        self.n_heads = checks.count(self._where, "n_heads", n_heads)
        self.causal = checks.flag(self._where, "causal", causal)
        self.rotary = checks.flag(self._where, "rotary", rotary)
        if self.dim % self.n_heads:
            self._reject_heads(f"divide `dim` = {dim}", 1)
        if self.rotary and self.dim // self.n_heads % 2:
            self._reject_heads(f"leave rotary positions an even part of `dim` = {dim}", 2)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.log_beta: nn.Parameter | None = None
        if beta is not None:
            beta = checks.number(self._where, "beta", beta, 0.0, math.inf)
            if beta == 0:
                checks.reject(self._where, "beta", "be above 0", beta)
            self.log_beta = nn.Parameter(torch.full((self.n_heads,), math.log(beta)))

    @property
    def beta(self) -> Tensor | None:
        """β of each head, shape (H,); None where queries and keys keep their lengths."""
        return None if self.log_beta is None else self.log_beta.exp()

    @abstractmethod
    def visible(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Which keys a query sees: the definition of the pattern.

        Args:
            query_positions: Positions in the sequence, counted from 0.
            key_positions: Positions, of a shape that broadcasts with the queries'.

        Returns:
            True where the key is seen.
        """

    @abstractmethod
    def _plan(self, length: int, *, backward: bool) -> list[Part]:
        """How the pattern is cut for a sequence so long."""

    def forward(
        self,
        x_BLD: Tensor,
        *,
        token_mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Let the tokens see each other.

        Args:
            x_BLD: Tokens, shape (B, L, D).
            token_mask: bool of shape (B, L), True where there is a token; padding gets no weight
                and gives 0.
            cache: From `new_cache`; then x holds the new tokens only, which see those before.

        Returns:
            Tensor of shape (B, L, D).

        Raises:
            ArgumentError: if a shape or dtype does not fit, or a cache is given where the
                attention is not causal or gradients are recorded.
        """
        self._check(x_BLD, token_mask)
        if cache is not None:
            self._check_cache(x_BLD, cache)
        if x_BLD.numel() == 0:
            if cache is not None:
                cache.length += x_BLD.shape[1]
            return self.out(self.value(x_BLD))  # type: ignore[no-any-return]
        if token_mask is not None:  # nothing that stands in padding may go on, not even NaN
            x_BLD = x_BLD.masked_fill(~token_mask[..., None], 0)
        if cache is not None and cache.length:
            y_BLD = self._continue(x_BLD, token_mask, cache)
        elif token_mask is not None:
            y_BLD = self._padded(x_BLD, token_mask, cache)
        else:
            y_BLD = self._whole(x_BLD, None, cache)
        return self.out(y_BLD)  # type: ignore[no-any-return]

    def new_cache(self, batch: int) -> KeyValueCache:
        """An empty cache, for tokens that come a few at a time.

        Args:
            batch: Number of sequences.

        Returns:
            The cache.

        Raises:
            ArgumentError: if the attention is not causal.
        """
        if not self.causal:
            got = checks.Words("False")
            checks.reject(self._where, "causal", "be True where a cache is used", got)
        return KeyValueCache(batch)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        given = {"dim": self.dim, "n_heads": self.n_heads, **self._settings()}
        given |= {"causal": self.causal, "rotary": self.rotary}
        given |= {} if self.log_beta is None else {"beta": "learned"}
        return ", ".join(f"{name}={value}" for name, value in given.items())

    def _settings(self) -> dict[str, object]:
        """What this form has beside the common settings."""
        return {}

    def _live(self, key_positions: Tensor, next_position: Tensor) -> Tensor:
        """Which keys a query at the next position, or a later one, may still see."""
        del next_position
        return torch.ones_like(key_positions, dtype=torch.bool)

    def _heads(
        self, x_BLD: Tensor, positions_BL: Tensor | None = None, n_positions: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, H, L, E)."""
        shape = (self.n_heads, self.dim // self.n_heads)
        q, k, v = (
            project(x_BLD).unflatten(-1, shape).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        if self.rotary:
            q, k = (rotate(x, positions_BL, n_positions=n_positions) for x in (q, k))
        return *self._scaled(q, k), v

    def _scaled(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Such that their products over √E are β times the cosine, where there is a β."""
        if self.log_beta is None:
            return q, k
        wide = torch.promote_types(q.dtype, torch.float32)  # where no length becomes 0
        scale = self.log_beta.to(wide).exp() * math.sqrt(q.shape[-1])
        unit_q, unit_k = (functional.normalize(x.to(wide), dim=-1) for x in (q, k))
        return (unit_q * scale[:, None, None]).to(q.dtype), unit_k.to(k.dtype)

    def _mix(
        self, x_BLD: Tensor, q: Tensor, k: Tensor, v: Tensor, key_bias_BL: Tensor | None
    ) -> Tensor:
        """What each head sees, shape (B, H, L, E); forms that need more than a plan override it."""
        length = x_BLD.shape[1]
        plan, backward = (self._plan(length, backward=back) for back in (False, True))
        return ops.attend(q, k, v, plan, backward, key_bias_BS=key_bias_BL)

    def _whole(
        self, x_BLD: Tensor, n_tokens_B: Tensor | None, cache: KeyValueCache | None
    ) -> Tensor:
        """All positions at once; the first tokens of each sequence are real, the others padding."""
        q, k, v = self._heads(x_BLD)
        at = torch.arange(x_BLD.shape[1], device=x_BLD.device)[None]
        if cache is not None:
            present = at < (x_BLD.shape[1] if n_tokens_B is None else n_tokens_B[:, None])
            self._fill(cache, k, v, cache.place(present.expand(x_BLD.shape[:2])))
        key_bias = None
        if n_tokens_B is not None and not self.causal:  # a causal token never sees the end
            key_bias = silence(at < n_tokens_B[:, None])
        return self._mix(x_BLD, q, k, v, key_bias).transpose(1, 2).flatten(2)

    def _padded(self, x_BLD: Tensor, token_mask: Tensor, cache: KeyValueCache | None) -> Tensor:
        """Move the tokens of each sequence to its front, and the results back."""
        batch, length, _ = x_BLD.shape
        first = torch.arange(batch, device=x_BLD.device)[:, None] * length
        order = token_mask.logical_not().to(torch.uint8).argsort(dim=1, stable=True)
        rank = (token_mask.cumsum(1) - 1).clamp(min=0)
        front = x_BLD.flatten(0, 1)[(first + order).flatten()].view_as(x_BLD)
        y_BLD = self._whole(front, token_mask.sum(1), cache)
        back = y_BLD.flatten(0, 1)[(first + rank).flatten()].view_as(y_BLD)
        return back.masked_fill(~token_mask[..., None], 0)

    def _continue(self, x_BLD: Tensor, token_mask: Tensor | None, cache: KeyValueCache) -> Tensor:
        """New tokens against the cache, so many at a time that masks stay small."""
        if token_mask is None:
            token_mask = x_BLD.new_ones(x_BLD.shape[:2], dtype=torch.bool)
        found = [
            self._step(x, mask, cache)
            for x, mask in zip(x_BLD.split(_STEP, 1), token_mask.split(_STEP, 1), strict=True)
        ]
        return torch.cat(found, 1).masked_fill(~token_mask[..., None], 0)

    def _step(self, x_BLD: Tensor, token_mask: Tensor, cache: KeyValueCache) -> Tensor:
        if 0 < cache.room < cache.n_kept + x_BLD.shape[1]:
            positions = cache.kept()[2]
            live = self._live(positions, cache.n_tokens_B[:, None])
            cache.keep(live & (positions >= 0))
        positions_BL = cache.place(token_mask)
        q, k, v = self._heads(x_BLD, positions_BL.clamp(min=0), cache.length)
        cache.append(k, v, positions_BL)
        keys, values, key_positions = cache.kept()
        seen = self.visible(positions_BL[:, :, None], key_positions[:, None])
        seen &= key_positions[:, None] >= 0
        bias = fitted(silence(seen), keys.dtype)[:, None]
        q, dtype = q.to(keys.dtype), q.dtype  # another one where autocast has come or gone
        y = functional.scaled_dot_product_attention(q, keys, values, attn_mask=bias)
        return y.to(dtype).transpose(1, 2).flatten(2)

    def _fill(self, cache: KeyValueCache, k: Tensor, v: Tensor, positions_BL: Tensor) -> None:
        """Take what later tokens can see of a first piece."""
        live = self._live(positions_BL, cache.n_tokens_B[:, None]) & (positions_BL >= 0)
        slots = live.any(0).nonzero()[:, 0]
        cache.append(k[:, :, slots], v[:, :, slots], positions_BL[:, slots])

    def _check(self, x_BLD: Any, token_mask: Any) -> None:
        if not isinstance(x_BLD, Tensor) or not x_BLD.is_floating_point():
            got = checks.Words(_kind(x_BLD))
            checks.reject(self._where, "x_BLD", "be a floating tensor", got)
        if x_BLD.ndim != 3 or x_BLD.shape[-1] != self.dim:
            expected = f"have shape (batch, length, {self.dim})"
            checks.reject(self._where, "x_BLD", expected, checks.Words(tuple(x_BLD.shape)))
        check_device(self._where, "x_BLD", x_BLD, self.query.weight.device)
        check_mask(self._where, x_BLD, token_mask)

    def _check_cache(self, x_BLD: Tensor, cache: Any) -> None:
        if not isinstance(cache, KeyValueCache):
            got = checks.Words(_kind(cache))
            checks.reject(self._where, "cache", "come from `new_cache`", got)
        if not self.causal:
            got = checks.Words("one")
            checks.reject(self._where, "cache", "be None where the attention is not causal", got)
        if cache.batch != len(x_BLD):
            expected = f"be for the {len(x_BLD)} sequences of `x_BLD`"
            checks.reject(self._where, "cache", expected, checks.Words(f"one for {cache.batch}"))
        if not cache.fits(self.n_heads, self.dim // self.n_heads):
            expected = "come from the `new_cache` of this attention"
            checks.reject(self._where, "cache", expected, checks.Words("another one's"))
        learning = x_BLD.requires_grad or any(p.requires_grad for p in self.parameters())
        if torch.is_grad_enabled() and learning:
            got = checks.Words("a call that records gradients")
            checks.reject(self._where, "cache", "be used under `torch.no_grad()`", got)

    def _reject_heads(self, expected: str, multiple: int) -> None:
        good = [n for n in range(1, self.dim + 1) if self.dim % (n * multiple) == 0]
        listed = ", ".join(str(n) for n in good) or "none: rotary=False"
        checks.reject(self._where, "n_heads", f"{expected} (good: {listed})", self.n_heads)


def check_mask(where: str, x_BLD: Tensor, token_mask: Any) -> None:
    """Refuse a token mask that does not fit the tokens.

    Args:
        where: The class that was called.
        x_BLD: Tokens, shape (…, D).
        token_mask: What should be bool of shape (…), or None.

    Raises:
        ArgumentError: if it is of another type or shape, or on another device.
    """
    if token_mask is None:
        return
    if not isinstance(token_mask, Tensor) or token_mask.dtype != torch.bool:
        got = checks.Words(_kind(token_mask))
        checks.reject(where, "token_mask", "be a bool tensor", got)
    if token_mask.shape != x_BLD.shape[:-1]:
        expected = f"have the shape {tuple(x_BLD.shape[:-1])} of the tokens"
        checks.reject(where, "token_mask", expected, checks.Words(tuple(token_mask.shape)))
    check_device(where, "token_mask", token_mask, x_BLD.device)


def _kind(value: object) -> str:
    return f"a {value.dtype} tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"
