"""Activation: which hard locations an address activates, how strongly, and how many."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["Activation"]


@dataclass(frozen=True, eq=False)
class Activation:
    """The active hard locations of a batch of addresses, as a sparse matrix in CSR form.

    Row b holds ``locations[offsets[b]:offsets[b + 1]]``, ascending. A ball gives rows of
    varying length, top-k of equal length, and weights are there only where a decoder is soft.
    `torch.nn.functional.embedding_bag` takes the three tensors as they are
    (``include_last_offset=True``).

    Attributes:
        locations: int64 tensor of shape (n_active,), each in [0, n_locations).
        offsets: int64 tensor of shape (B + 1,), from 0 to n_active.
        n_locations: Number of hard locations, M.
        weights: float tensor of shape (n_active,), or None: each active location counts 1,
            which is Kanerva's rule.

    Examples:
        >>> activation = Activation(torch.tensor([1, 4, 0]), torch.tensor([0, 2, 3]), 5)
        >>> activation.meter
        tensor([2, 1])
        >>> activation.dense().int()
        tensor([[0, 1, 0, 0, 1],
                [1, 0, 0, 0, 0]], dtype=torch.int32)
    """

    locations: Tensor
    offsets: Tensor
    n_locations: int
    weights: Tensor | None = None

    @cached_property
    def meter(self) -> Tensor:
        """How many locations each address activates: int64 tensor of shape (B,)."""
        return self.offsets.diff()

    @property
    def rows(self) -> Tensor:
        """The row that each entry of `locations` belongs to: int64 tensor of shape (n_active,)."""
        index = torch.arange(len(self.offsets) - 1, device=self.offsets.device)
        return index.repeat_interleave(self.meter)

    @property
    def total_weight(self) -> Tensor:
        """Sum of the weights of each row: float64 tensor of shape (B,)."""
        if self.weights is None:
            return self.meter.double()
        total = torch.zeros(len(self.offsets) - 1, dtype=torch.float64, device=self.offsets.device)
        return total.index_add_(0, self.rows, self.weights.double())

    def weighted(self, location_weights: Tensor | None) -> Activation:
        """The same locations, each also weighed by a number of its own.

        Args:
            location_weights: float tensor of shape (M,), or None to change nothing.

        Returns:
            The activation with the product of both weights.
        """
        if location_weights is None:
            return self
        weights = location_weights[self.locations]
        if self.weights is not None:
            weights = weights * self.weights
        return replace(self, weights=weights)

    def dense(self) -> Tensor:
        """The same as a matrix: for small examples and tests, it holds B × M numbers.

        Returns:
            Tensor of shape (B, M) with the weights, or booleans where there are none.
        """
        shape = (len(self.offsets) - 1, self.n_locations)
        if self.weights is None:
            matrix = torch.zeros(shape, dtype=torch.bool, device=self.locations.device)
            matrix[self.rows, self.locations] = True
            return matrix
        matrix = torch.zeros(shape, dtype=self.weights.dtype, device=self.locations.device)
        matrix[self.rows, self.locations] = self.weights
        return matrix
