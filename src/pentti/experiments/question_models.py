"""Small models that read a text and answer: alike but for how their second block looks back."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from pentti.nn import LinearAttention, SequenceMemory, TransformerBlock
from pentti.nn.evidence import heard
from pentti.nn.local import Attention, BigBirdAttention, SlidingWindowAttention

__all__ = ["MEMORY", "MIXERS", "SETTINGS", "TextAnswers", "TextReader"]

_WIDTH, _HEADS, _WINDOW = 64, 8, 12
SETTINGS = {"width": _WIDTH, "n_heads": _HEADS, "window": _WINDOW}
"""Sizes of all models."""

MEMORY = "sequence memory"


def _memory() -> nn.Module:
    # Few locations and short addresses overlap often at the start, which helps to learn.
    return SequenceMemory(_WIDTH, _HEADS, n_locations=64**2, top_k=8, address_dim=16)


MIXERS: dict[str, Callable[[], nn.Module]] = {
    MEMORY: _memory,
    "dense attention": lambda: Attention(_WIDTH, _HEADS, causal=True),
    "BigBird": lambda: BigBirdAttention(
        _WIDTH, _HEADS, block=32, n_random=2, n_global=1, causal=True
    ),
    "linear attention": lambda: LinearAttention(_WIDTH, _HEADS),
    "window only": lambda: SlidingWindowAttention(_WIDTH, _HEADS, window=_WINDOW),
}
"""What the second block looks back with, by name."""


class TextAnswers(NamedTuple):
    """What a model says where it is asked.

    Attributes:
        logits: Of all words, shape (B, Q, V).
        evidence: How much of what was told it has found, (B, Q); None without a memory.
    """

    logits: Tensor
    evidence: Tensor | None


class TextReader(nn.Module):
    """Words, a block of window attention, a block of something else, and words again.

    Args:
        vocab_size: Number of words, V.
        mixer: What the second block looks back with, a name of `MIXERS`.
    """

    def __init__(self, vocab_size: int, mixer: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, _WIDTH)
        # Small, so that at first a token is what its window is, and not only itself.
        nn.init.normal_(self.embedding.weight, std=0.02)
        near = SlidingWindowAttention(_WIDTH, _HEADS, window=_WINDOW)
        self.near = TransformerBlock(_WIDTH, near)
        self.far = TransformerBlock(_WIDTH, MIXERS[mixer]())
        self.norm = nn.RMSNorm(_WIDTH)
        self.head = nn.Linear(_WIDTH, vocab_size, bias=False)

    def forward(self, ids_BL: Tensor, at_BQ: Tensor) -> TextAnswers:
        """Read texts, and answer where they ask.

        Args:
            ids_BL: Words.
            at_BQ: Where answers are due.

        Returns:
            The answers.
        """
        with heard([self.far]) as (own,):
            x_BLD = self.far(self.near(self.embedding(ids_BL)).output).output
        found = x_BLD.gather(1, at_BQ[..., None].expand(-1, -1, _WIDTH))
        evidence = own[0].gather(1, at_BQ) if own else None
        return TextAnswers(self.head(self.norm(found)), evidence)
