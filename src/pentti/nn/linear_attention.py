"""Linear attention: a baseline whose memory of the past is one matrix for each head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pentti import checks
from pentti.nn.local.base import check_mask
from pentti.tensors import check_tokens

__all__ = ["LinearAttention", "LinearState"]

_TINY = 1e-20  # where there is no token yet, nothing is divided by 0


class LinearState:
    """What linear attention keeps of the tokens that have passed.

    Args:
        sums: Outer products of keys and values, added up, (B, H, E, E).
        norms: Keys added up, (B, H, E).

    Attributes:
        sums: Outer products of keys and values, added up, (B, H, E, E).
        norms: Keys added up, (B, H, E).
    """

    def __init__(self, sums: Tensor, norms: Tensor) -> None:
        self.sums, self.norms = sums, norms

    @property
    def size_bytes(self) -> int:
        """Memory held: the same for any number of tokens."""
        return sum(x.numel() * x.element_size() for x in (self.sums, self.norms))


class LinearAttention(nn.Module):
    """Causal attention whose weights are products of positive features, at a linear cost.

    A token weighs another by φ(q) · φ(k), with φ(x) = elu(x) + 1. Within a chunk this is worked out
    pair by pair; all that came before is one E × E matrix for each head. So it is fast, and what it
    can recall is bounded by that matrix.

    Args:
        dim: Width of a token, D.
        n_heads: Number of heads, H; each is E = D / H wide.
        chunk: Tokens that are compared pair by pair.

    Raises:
        ArgumentError: if a size is below 1 or the heads do not divide the width.

    Shapes:
        x (B, L, D) → (B, L, D).

    Examples:
        >>> attention = LinearAttention(16, 2)
        >>> attention(torch.randn(3, 300, 16)).shape
        torch.Size([3, 300, 16])

    **Source:** Katharopoulos et al. 2020, "Transformers are RNNs" (arXiv 2006.16236), equations 7
    and 9; in chunks: Hua et al. 2022 (arXiv 2202.10447).
    """

    def __init__(self, dim: int, n_heads: int, *, chunk: int = 128) -> None:
        super().__init__()
        where = "LinearAttention"
        self.dim = checks.count(where, "dim", dim)
        self.n_heads = checks.count(where, "n_heads", n_heads)
        self.chunk = checks.count(where, "chunk", chunk)
        if self.dim % self.n_heads:
            got = checks.Words(f"{self.dim} with {self.n_heads} heads")
            checks.reject(where, "dim", "be a multiple of `n_heads`", got)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(
        self, x_BLD: Tensor, *, token_mask: Tensor | None = None, cache: LinearState | None = None
    ) -> Tensor:
        """Mix each token with those before it.

        Args:
            x_BLD: Tokens, shape (B, L, D).
            token_mask: True where there is a token, shape (B, L); others weigh nothing.
            cache: From `new_cache`; then x holds the new tokens only.

        Returns:
            Shape (B, L, D).

        Raises:
            ArgumentError: if a shape does not fit, or the cache is not its own.
        """
        state = self._state(x_BLD, token_mask, cache)
        if token_mask is not None:  # a NaN that is no token must not reach a gradient either
            x_BLD = torch.where(token_mask[..., None], x_BLD, 0)
        q, k, v = (
            part(x_BLD).unflatten(-1, (self.n_heads, -1)).transpose(1, 2).to(state.sums.dtype)
            for part in (self.query, self.key, self.value)
        )
        q, k = functional.elu(q) + 1, functional.elu(k) + 1
        if token_mask is not None:
            k = torch.where(token_mask[:, None, :, None], k, 0)
            v = torch.where(token_mask[:, None, :, None], v, 0)
        mixed = self._mixed(q, k, v, state)
        output: Tensor = self.out(mixed.transpose(1, 2).flatten(2).to(x_BLD.dtype))
        return output

    def _state(
        self, x: Tensor, token_mask: Tensor | None, cache: LinearState | None
    ) -> LinearState:
        """What came before; refuses what does not fit."""
        where = "LinearAttention"
        check_tokens(where, x, self.dim, self.query.weight)
        check_mask(where, x, token_mask)
        empty = self.new_cache(len(x))
        if cache is None:
            return empty
        alike = isinstance(cache, LinearState) and all(
            (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
            for one, other in ((cache.sums, empty.sums), (cache.norms, empty.norms))
        )
        if not alike:
            got = checks.Words("another one")
            checks.reject(where, "cache", f"come from `new_cache({len(x)})`", got)
        return cache

    def new_cache(self, batch: int) -> LinearState:
        """A state without tokens.

        Args:
            batch: Number of sequences.

        Returns:
            The state.

        Raises:
            ArgumentError: if `batch` is negative.
        """
        batch = checks.integer("LinearAttention.new_cache", "batch", batch, 0)
        weight = self.query.weight
        kind = torch.promote_types(weight.dtype, torch.float32)
        shape = (batch, self.n_heads, self.dim // self.n_heads)
        norms = weight.new_zeros(shape, dtype=kind)
        return LinearState(weight.new_zeros((*shape, shape[-1]), dtype=kind), norms)

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor, state: LinearState) -> Tensor:
        length = q.shape[2]
        chunk = max(1, min(self.chunk, length))
        q, k, v = (functional.pad(x, (0, 0, 0, -length % chunk)) for x in (q, k, v))
        q, k, v = (x.unflatten(2, (-1, chunk)) for x in (q, k, v))
        near = (q @ k.mT).tril()
        sums = torch.cat([state.sums[:, :, None], k.mT @ v], 2).cumsum(2)
        norms = torch.cat([state.norms[:, :, None], k.sum(3)], 2).cumsum(2)
        state.sums, state.norms = sums[:, :, -1], norms[:, :, -1]
        far = (q @ norms[:, :, :-1, :, None])[..., 0]
        total = near.sum(-1) + far
        mixed = (near @ v + q @ sums[:, :, :-1]) / total.clamp_min(_TINY)[..., None]
        return mixed.flatten(2, 3)[:, :, :length]

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"dim={self.dim}, n_heads={self.n_heads}, chunk={self.chunk}"
