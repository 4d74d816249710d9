"""How much each active hard location counts in a read."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["WEIGHTINGS", "Weighting"]

WEIGHTINGS = ("softmax", "similarity", "inhibition")
"""The ways to weigh the active locations."""


class Weighting(nn.Module):
    """Turns the similarities of the nearest locations into weights.

    Args:
        kind: "softmax", "similarity" or "inhibition", as `SDMLayer` explains them.
        n_heads: Heads, H.
        beta: What β starts at, for the softmax.
    """

    def __init__(self, kind: str, n_heads: int, beta: float) -> None:
        super().__init__()
        self.kind = kind
        if kind == "softmax":
            self.log_beta = nn.Parameter(torch.full((n_heads,), math.log(beta)))

    @property
    def beta(self) -> Tensor | None:
        """β of each head, shape (H,), for the softmax."""
        return self.log_beta.exp() if self.kind == "softmax" else None

    def forward(
        self, similarity: Tensor, active: Tensor, limited: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Weights, and which locations take part.

        Args:
            similarity: Shape (…, H, K), the best first.
            active: bool, of the same shape.
            limited: Whether some may be inactive, as below a threshold.

        Returns:
            Weights of the same shape, 0 where nothing is active, and which ones are active.
        """
        if self.kind == "softmax":
            return self._softmax(similarity, active, limited), active
        if self.kind == "similarity":
            positive = similarity.relu() * active
            tiny = torch.finfo(similarity.dtype).tiny
            return positive / positive.sum(-1, keepdim=True).clamp_min(tiny), active
        above = (similarity - similarity[..., -1:]).relu() * active
        return above, active & (above > 0)

    def _softmax(self, similarity: Tensor, active: Tensor, limited: bool) -> Tensor:
        scores = similarity * self.log_beta.to(similarity.dtype).exp()[:, None]
        if not limited:
            return scores.softmax(-1)
        silent = ~active & ~similarity.isnan()  # where NaN comes in, NaN goes out
        least = torch.finfo(scores.dtype).min
        return scores.masked_fill(silent, least).softmax(-1) * ~silent

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return self.kind
