"""Window attention and a memory as one mixer: what is near, and what is known."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pentti.decoders import ProductKeys
from pentti.nn.fusion import FusionLayer
from pentti.nn.local import SlidingWindowAttention
from pentti.nn.sdm import MemoryOutput, SDMLayer

__all__ = ["HybridSparseAttention"]


class HybridSparseAttention(nn.Module):
    """A drop-in mixer: sliding-window attention fused with a memory.

    Its cost per token does not depend on the length: the attention sees `window` tokens, the
    memory scores two sub-codebooks of √M. The memory holds what training has put there; it knows
    nothing of tokens that the window has passed.

    Args:
        dim: Width of a token, D.
        n_heads: Heads of the attention.
        window: How many tokens the attention sees back.
        n_locations: Hard locations of the memory, M; a square.
        memory_heads: Heads of the memory.
        top_k: Hard locations that each of them activates.
        causal: No token sees a later one.
        seed: Of the memory's first addresses.

    Raises:
        ArgumentError: if a size does not fit.

    Shapes:
        x (B, L, D) → output (B, L, D), meter (B, L).

    Examples:
        >>> import torch
        >>> layer = HybridSparseAttention(16, 2, window=4, n_locations=49, top_k=3)
        >>> output, meter = layer(torch.randn(2, 9, 16))
        >>> output.shape, meter.shape
        (torch.Size([2, 9, 16]), torch.Size([2, 9]))
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        *,
        window: int,
        n_locations: int = 99_856,
        memory_heads: int = 4,
        top_k: int = 32,
        causal: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        decoder = ProductKeys(
            dim, n_locations, n_heads=memory_heads, top_k=top_k, learned=True, seed=seed
        )
        local = SlidingWindowAttention(dim, n_heads, window=window, causal=causal)
        self.fusion = FusionLayer(dim, local, SDMLayer(dim, decoder))

    def forward(
        self, x_BLD: Tensor, *, token_mask: Tensor | None = None, cache: Any = None
    ) -> MemoryOutput:
        """Fuse what the window and the memory give.

        Args:
            x_BLD: Tokens, shape (B, L, D).
            token_mask: True where there is a token, shape (B, L); elsewhere the output and the
                meter are 0.
            cache: From `new_cache`; then x holds the new tokens only.

        Returns:
            The output (B, L, D) and the memory's meter (B, L).
        """
        fused: MemoryOutput = self.fusion(x_BLD, token_mask=token_mask, cache=cache)
        return fused

    def new_cache(self, batch: int) -> tuple[Any, Any]:
        """An empty cache, for tokens that come a few at a time.

        Args:
            batch: Number of sequences.

        Returns:
            The caches of both parts.
        """
        return self.fusion.new_cache(batch)
