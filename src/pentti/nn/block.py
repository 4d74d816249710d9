"""One layer of a Transformer: a mixer and a feed-forward network around a residual stream."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pentti import checks
from pentti.nn.feed_forward import SwiGLU
from pentti.nn.mixing import Mixing, cache_of, check_module
from pentti.nn.sdm import MemoryOutput

__all__ = ["TransformerBlock"]


class TransformerBlock(Mixing):
    """A pre-norm block: x ← x + mixer(norm(x)), then x ← x + feed_forward(norm(x)).

    The norm comes before each part, so that the residual stream runs through unchanged and deep
    models train without a warm-up made to measure. It is the root-mean-square norm.

    Args:
        dim: Width of a token, D.
        mixer: Attention, a memory or both: anything that maps (B, L, D) to the same shape, or to a
            tuple of that, a meter (B, L) and maybe more. It may take `token_mask` and `cache`.
        feed_forward: What follows, of the same form: `SwiGLU(dim)` unless given. A memory here
            takes the place of the feed-forward network.
        dropout: Share of the values set to 0 before each sum while training, in [0, 1).

    Raises:
        ArgumentError: if dim is below 1, dropout out of range, or a part is no module.

    Shapes:
        x (B, L, D) → output (B, L, D), meter (B, L): the memories' meters summed, 0 without one.

    Examples:
        >>> import torch
        >>> from pentti.nn import SDMLayer
        >>> block = TransformerBlock(16, SDMLayer(16, n_locations=49, n_heads=2, top_k=3))
        >>> output, meter = block(torch.randn(2, 5, 16))
        >>> output.shape, meter[0]
        (torch.Size([2, 5, 16]), tensor([...]))

    **Source:** pre-norm: Xiong et al., On layer normalization in the Transformer architecture
    (2020), arXiv 2002.04745. A memory for a feed-forward network: Lample et al. (2019), arXiv
    1907.05242; Berges et al., Memory layers at scale (2024), arXiv 2412.09764.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        *,
        feed_forward: nn.Module | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dim)
        share = checks.number("TransformerBlock", "dropout", dropout, 0.0, 1.0)
        if share == 1.0:
            checks.reject("TransformerBlock", "dropout", "be below 1", dropout)
        self.norm_mixer = nn.RMSNorm(dim, eps=1e-6)
        self.mixer = check_module("TransformerBlock", "mixer", mixer)
        self.norm_feed_forward = nn.RMSNorm(dim, eps=1e-6)
        self.feed_forward = check_module(
            "TransformerBlock",
            "feed_forward",
            SwiGLU(dim) if feed_forward is None else feed_forward,
        )
        self.dropout = nn.Dropout(share)

    def forward(
        self, x_BLD: Tensor, *, token_mask: Tensor | None = None, cache: Any = None
    ) -> MemoryOutput:
        """Run both parts.

        Args:
            x_BLD: Tokens, shape (B, L, D).
            token_mask: True where there is a token, shape (B, L); elsewhere x stays as it is, and
                the meter is 0.
            cache: From `new_cache`; then x holds the new tokens only.

        Returns:
            The output (B, L, D) and the meter (B, L).

        Raises:
            ArgumentError: if a shape or dtype does not fit, or the cache is not its own.
        """
        of_mixer, of_feed_forward = self._check(x_BLD, token_mask, cache)
        mixed = self._mix("mixer", self.mixer, self.norm_mixer(x_BLD), token_mask, of_mixer)
        x_BLD = x_BLD + self.dropout(mixed.output)
        normed = self.norm_feed_forward(x_BLD)
        fed = self._mix("feed_forward", self.feed_forward, normed, token_mask, of_feed_forward)
        return MemoryOutput(x_BLD + self.dropout(fed.output), mixed.meter + fed.meter)

    def new_cache(self, batch: int) -> tuple[Any, Any]:
        """An empty cache, for tokens that come a few at a time.

        Args:
            batch: Number of sequences.

        Returns:
            The caches of both parts; None for one that works token by token.
        """
        return cache_of(self.mixer, batch), cache_of(self.feed_forward, batch)
