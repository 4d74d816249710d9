"""Which hard locations a layer reads: dead ones learn nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Utilisation"]


@dataclass(frozen=True, eq=False)
class Utilisation:
    """How evenly the hard locations are read.

    Attributes:
        n_reads: How often each location was active, int64 of shape (M,).
        share_used: Share of the locations that were active at least once, in [0, 1].
        entropy: Entropy of the reads over the locations, in nats.
        effective_share: exp(entropy) / M: the share of the locations that reads as even as these
            would use; 1 where all are read alike, 1 / M where only one is.
    """

    n_reads: Tensor
    share_used: float
    entropy: float
    effective_share: float

    @classmethod
    def of(cls, n_reads: Tensor) -> Utilisation:
        """The utilisation that some counts show.

        Args:
            n_reads: How often each location was active, int64 of shape (M,).

        Returns:
            Counts (a copy) and what follows from them; all 0 where nothing was read.

        Examples:
            >>> import torch
            >>> use = Utilisation.of(torch.tensor([3, 0, 3, 0]))
            >>> use.share_used, round(use.effective_share, 3)
            (0.5, 0.5)
        """
        counts = n_reads.clone()
        total = int(counts.sum())
        if total == 0:
            return cls(counts, 0.0, 0.0, 0.0)
        share = counts[counts > 0].double() / total
        entropy = float(-(share * share.log()).sum())
        used = float((counts > 0).double().mean())
        return cls(counts, used, entropy, math.exp(entropy) / len(counts))

    def __repr__(self) -> str:
        return (
            f"Utilisation(share_used={self.share_used:.4f}, entropy={self.entropy:.4f}, "
            f"effective_share={self.effective_share:.4f}, reads={int(self.n_reads.sum()):,} "
            f"of {len(self.n_reads):,} locations)"
        )
