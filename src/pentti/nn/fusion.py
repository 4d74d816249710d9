"""Local attention and a memory in one place, with a gate between them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pentti import checks
from pentti.nn.mixing import Mixing, cache_of, check_module
from pentti.nn.sdm import MemoryOutput

__all__ = ["FusionLayer"]


class FusionLayer(Mixing):
    """Local attention and a memory side by side: g · local(x) + (1 − g) · memory(x).

    The gate g = sigmoid(W x + b) is learned, and `gate` shows it. W starts at zero and b such that
    the gate is `start` for every token. A start near 1 lets a model first learn what is at hand,
    and ask the memory as it pays.

    Args:
        dim: Width of a token, D.
        local: Maps x (B, L, D) to the same shape; it may take `token_mask` and `cache`. It may
            also be a memory, or a fusion in its turn.
        memory: `SDMLayer`, which knows what training wrote, `SequenceMemory`, which knows the text,
            or anything that gives (output, meter); it may take the same.
        per_channel: A gate for each channel; otherwise one for each token.
        start: The gate at the start, in (0, 1).

    Raises:
        ArgumentError: if dim is below 1, start out of range, or a part is no module.

    Shapes:
        x (B, L, D) → output (B, L, D), meter (B, L): both parts' meters summed; attention has 0.

    Examples:
        >>> from pentti.nn import SDMLayer
        >>> layer = FusionLayer(16, nn.Linear(16, 16), SDMLayer(16, n_locations=49, top_k=3))
        >>> x = torch.randn(2, 5, 16)
        >>> output, meter = layer(x)
        >>> output.shape, meter.shape
        (torch.Size([2, 5, 16]), torch.Size([2, 5]))
        >>> round(layer.gate(x).mean().item(), 3)
        0.9
    """

    def __init__(
        self,
        dim: int,
        local: nn.Module,
        memory: nn.Module,
        *,
        per_channel: bool = True,
        start: float = 0.9,
    ) -> None:
        super().__init__(dim)
        start = checks.probability("FusionLayer", "start", start)
        self.local = check_module("FusionLayer", "local", local)
        self.memory = check_module("FusionLayer", "memory", memory)
        per_channel = checks.flag("FusionLayer", "per_channel", per_channel)
        self.gate_weight = nn.Linear(dim, dim if per_channel else 1)
        nn.init.zeros_(self.gate_weight.weight)
        nn.init.constant_(self.gate_weight.bias, math.log(start / (1 - start)))

    def gate(self, x_BLD: Tensor) -> Tensor:
        """How much of the local output goes in: 1 is all of it, 0 is the memory alone.

        Args:
            x_BLD: Tokens, shape (…, D).

        Returns:
            Values in (0, 1), shape (…, D), or (…, 1) with one gate for each token.
        """
        return torch.sigmoid(self.gate_weight(x_BLD))

    def forward(
        self, x_BLD: Tensor, *, token_mask: Tensor | None = None, cache: Any = None
    ) -> MemoryOutput:
        """Fuse what the local mixer and the memory give.

        Args:
            x_BLD: Tokens, shape (B, L, D).
            token_mask: True where there is a token, shape (B, L); elsewhere the output and the
                meter are 0.
            cache: From `new_cache`; then x holds the new tokens only.

        Returns:
            The output (B, L, D) and the meter (B, L).

        Raises:
            ArgumentError: if a shape or dtype does not fit, or the cache is not its own.
        """
        of_local, of_memory = self._check(x_BLD, token_mask, cache)
        if token_mask is not None:  # whatever stands there, were it NaN, goes nowhere
            x_BLD = torch.where(token_mask[..., None], x_BLD, 0)
        local = self._mix("local", self.local, x_BLD, token_mask, of_local)
        memory = self._mix("memory", self.memory, x_BLD, token_mask, of_memory)
        g = self.gate(x_BLD)
        output = g * local.output + (1 - g) * memory.output
        return MemoryOutput(output, local.meter + memory.meter)

    def new_cache(self, batch: int) -> tuple[Any, Any]:
        """An empty cache, for tokens that come a few at a time.

        Args:
            batch: Number of sequences.

        Returns:
            The caches of both parts; None for one that works token by token.
        """
        return cache_of(self.local, batch), cache_of(self.memory, batch)
