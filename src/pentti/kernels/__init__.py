"""The inner loops: `reference` defines them, `cpu` makes them fast, with equal results."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Kernels", "for_device"]


class Kernels(Protocol):
    """What every module of kernels offers; `reference` documents each."""

    def hamming_scan(
        self, tiles_TW8: Tensor, n_locations: int, cue_BW: Tensor, radius: int, probability: float
    ) -> tuple[Tensor, Tensor]:
        """Hard locations within a radius of each cue."""

    def literal_match(
        self, literal_MK: Tensor, address_bits: int, cue_BW: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Hard locations all of whose literals the cue satisfies."""

    def add_rows(
        self,
        contents_MU: Tensor,
        locations: Tensor,
        offsets: Tensor,
        data_BU: Tensor,
        weights: Tensor | None = None,
    ) -> None:
        """Scatter: data into the contents of active locations."""

    def sum_rows(
        self,
        contents_MU: Tensor,
        locations: Tensor,
        offsets: Tensor,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Gather: the sum of the contents of active locations."""

    def majority_rows(
        self,
        contents_MU: Tensor,
        locations: Tensor,
        offsets: Tensor,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Gather: whether that sum is above 0."""


def for_device(device: torch.device) -> Kernels:
    """The fastest kernels for tensors on a device.

    Args:
        device: Where the tensors are.

    Returns:
        A module of kernels.
    """
    if device.type == "cpu":
        from pentti.kernels import cpu

        return cpu
    from pentti.kernels import reference

    return reference
