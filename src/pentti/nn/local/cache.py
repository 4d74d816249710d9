"""What attention keeps of the tokens that have passed, so that new ones come a few at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from pentti import checks

__all__ = ["KeyValueCache"]


class KeyValueCache:
    """Keys and values of a batch of sequences, and where each stood.

    Made by `new_cache` of an attention, and filled by its `forward`. Where the attention has a
    bounded reach, it drops the keys that no later token can see, so that the size stays bounded.

    Args:
        batch: Number of sequences, B.

    Raises:
        ArgumentError: if the batch is negative.

    Examples:
        >>> from pentti.nn.local import SlidingWindowAttention
        >>> attention = SlidingWindowAttention(8, 2, window=3)
        >>> cache = attention.new_cache(1)
        >>> with torch.no_grad():
        ...     for _ in range(100):
        ...         _ = attention(torch.randn(1, 1, 8), cache=cache)
        >>> cache.length, cache.n_kept < 10
        (100, True)
    """

    def __init__(self, batch: int) -> None:
        self.batch = checks.integer("KeyValueCache", "batch", batch, 0)
        self.length = 0
        """How many positions have passed, padding included."""
        self.n_kept = 0
        """Slots in use, the same for all sequences."""
        self.n_tokens_B = torch.zeros(batch, dtype=torch.int64)
        """How many tokens each sequence has had."""
        self._held: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def room(self) -> int:
        """Slots that there is memory for."""
        return 0 if self._held is None else self._held[2].shape[-1]

    @property
    def size_bytes(self) -> int:
        """Memory held, spare room included."""
        return sum(x.numel() * x.element_size() for x in self._held or ())

    def place(self, token_mask: Tensor) -> Tensor:
        """The positions of new tokens, which are counted as passed from now on.

        Args:
            token_mask: True where there is a token, shape (B, L).

        Returns:
            int64 of shape (B, L): how many tokens came before in the sequence; −1 for padding.
        """
        self.n_tokens_B = self.n_tokens_B.to(token_mask.device)
        positions = self.n_tokens_B[:, None] + token_mask.cumsum(1) - 1
        self.n_tokens_B = self.n_tokens_B + token_mask.sum(1)
        self.length += token_mask.shape[1]
        return positions.masked_fill(~token_mask, -1)

    def append(self, keys_BHLE: Tensor, values_BHLE: Tensor, positions_BL: Tensor) -> None:
        """Keep new keys, in more room if there is too little.

        Args:
            keys_BHLE: Keys.
            values_BHLE: Values.
            positions_BL: From `place`.
        """
        end = self.n_kept + positions_BL.shape[1]
        new = (keys_BHLE, values_BHLE, positions_BL[:, None])
        if end > self.room:
            old = self._held
            with torch.inference_mode(False):  # else it could not go on outside of that mode
                self._held = tuple(  # type: ignore[assignment]
                    x.new_empty((*x.shape[:2], 2 * end, *x.shape[3:])) for x in new
                )
            self._write(old or (), 0, self.n_kept)
        self._write(new, self.n_kept, end)
        self.n_kept = end

    def kept(self) -> tuple[Tensor, Tensor, Tensor]:
        """What is kept, as views.

        Returns:
            Keys and values (B, H, S, E), and the position of each (B, S): −1 for padding.

        Raises:
            RuntimeError: if nothing was appended yet.
        """
        if self._held is None:
            raise RuntimeError("KeyValueCache: `append` must come before `kept`")
        keys, values, positions = (x[:, :, : self.n_kept] for x in self._held)
        return keys, values, positions[:, 0]

    def fits(self, n_heads: int, width: int) -> bool:
        """Whether keys of so many heads can be added to what is kept.

        Args:
            n_heads: Number of heads, H.
            width: Width of a head, E.

        Returns:
            True also where nothing is kept yet.
        """
        return self._held is None or self._held[0].shape[1::2] == (n_heads, width)

    def keep(self, wanted_BS: Tensor) -> None:
        """Drop the slots that no sequence wants.

        Args:
            wanted_BS: True for each key that a sequence still wants.
        """
        slots = wanted_BS.any(0).nonzero()[:, 0]
        if self._held is not None and len(slots) < self.n_kept:
            self._write(tuple(x.index_select(2, slots) for x in self._held), 0, len(slots))
            self.n_kept = len(slots)

    def _write(self, new: tuple[Tensor, ...], start: int, end: int) -> None:
        for held, x in zip(self._held or (), new, strict=False):
            held[:, :, start:end] = x[:, :, : end - start]

    def __repr__(self) -> str:
        """What it holds, in short."""
        return f"KeyValueCache(batch={self.batch}, length={self.length}, n_kept={self.n_kept})"
