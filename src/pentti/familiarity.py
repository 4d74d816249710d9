"""How strongly cues read, compared with what random cues read from the same memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

__all__ = ["CHANCE_CUES", "Chance", "ChanceLevel", "strength"]

CHANCE_CUES = 256
"""Random cues that set the chance level."""


@dataclass(frozen=True)
class ChanceLevel:
    """What random cues read: mean and standard deviation of their strength."""

    mean: float
    spread: float

    @classmethod
    def of(cls, strengths: Tensor, word_bits: int, unit: float) -> ChanceLevel:
        """The level that a sample of random cues shows.

        Args:
            strengths: float64 tensor of shape (n,).
            word_bits: Width of a word, U.
            unit: Strength below which nothing counts, where hardly anything is stored.

        Returns:
            The level; its deviation is at least what U independent bits would show.
        """
        mean = strengths.mean().item()
        floor = math.sqrt(2 / word_bits) * max(mean, unit)
        return cls(mean, max(strengths.std().item(), floor))

    def score(self, strengths: Tensor) -> Tensor:
        """How many standard deviations above the level.

        Args:
            strengths: float64 tensor of any shape.

        Returns:
            A tensor of the same shape.
        """
        return (strengths - self.mean) / self.spread


class Chance:
    """The chance level of a memory, measured anew after its contents have changed."""

    def __init__(self) -> None:
        self._known: tuple[tuple[int, ...], ChanceLevel] | None = None

    def level(self, state: tuple[int, ...], measure: Callable[[], ChanceLevel]) -> ChanceLevel:
        """The level in a state of the contents.

        Args:
            state: Numbers that are others once the contents have changed.
            measure: Gives the level now.

        Returns:
            What was measured in this state.
        """
        if self._known is None or self._known[0] != state:
            self._known = (state, measure())
        return self._known[1]


def strength(sums: Tensor) -> Tensor:
    """Mean square of the sums that each cue reads.

    Args:
        sums: Tensor of shape (B, U).

    Returns:
        float64 tensor of shape (B,).
    """
    return sums.double().square().mean(-1)
