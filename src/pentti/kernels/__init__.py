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

    def threshold_match(
        self, input_MK: Tensor, n_inputs: int, cue_BW: Tensor, threshold_BL: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Hard locations of whose inputs as many are active as their threshold asks."""

    def input_counts(self, input_MK: Tensor, n_inputs: int, cue_BW: Tensor) -> Tensor:
        """How many hard locations have how many active inputs."""

    def add_beams(
        self,
        contents_MF: Tensor,
        n_units: int,
        locations: Tensor,
        offsets: Tensor,
        change_BU: Tensor,
        ceiling: float,
    ) -> None:
        """Scatter: changes into contents that stay between 0 and a ceiling."""

    def sum_beams(
        self, contents_MF: Tensor, n_units: int, locations: Tensor, offsets: Tensor
    ) -> Tensor:
        """Gather: the sum of the contents that meet each unit."""

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

    def product_top_k(self, scores_2RN: Tensor, k: int, ordered: bool = False) -> Tensor:
        """The k best cells of each grid of sums."""

    def product_threshold(self, scores_2RN: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        """All cells of each grid whose sum reaches a threshold."""

    def read_rows(self, contents_MD: Tensor, locations_BK: Tensor, weights_BK: Tensor) -> Tensor:
        """Gather: the weighted sum of as many rows for each entry of a batch."""

    def row_dots(self, contents_MD: Tensor, locations_BK: Tensor, x_BD: Tensor) -> Tensor:
        """Gather: the products of each entry of a batch with as many rows."""

    def scatter_rows(
        self, locations_BK: Tensor, weights_BK: Tensor, x_BD: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scatter: weighted entries of a batch summed up by row."""

    def scatter_dense(
        self, locations_BK: Tensor, weights_BK: Tensor, x_BD: Tensor, n_rows: int
    ) -> Tensor:
        """Scatter: the same, with a row for every location."""

    def read_backward(
        self, contents_MD: Tensor, locations_BK: Tensor, weights_BK: Tensor, x_BD: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Both derivatives of `read_rows` at once, for touched rows."""

    def read_backward_dense(
        self, contents_MD: Tensor, locations_BK: Tensor, weights_BK: Tensor, x_BD: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same, with a row for every location."""

    def adagrad_rows(
        self,
        table_MD: Tensor,
        sums_M: Tensor,
        rows_R: Tensor,
        gradient_RD: Tensor,
        lr: float,
        eps: float,
    ) -> None:
        """One step of Adagrad for some rows, with one accumulator a row."""


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
