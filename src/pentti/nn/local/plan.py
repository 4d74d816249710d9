"""Plans: which queries meet which keys, cut so that almost nothing is computed to be masked away.

A sparse pattern of attention is a list of parts. Each part is dense attention between groups of
queries and groups of keys, both read from the sequence as strided views; a band may be masked
inside a part. No mask is larger than one group of queries by one group of keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace

import torch
from torch import Tensor

__all__ = ["ANY", "Cut", "Part", "fitted", "numbers", "parts", "present", "silence"]

ANY = 2**62
"""A distance beyond all others: a band with this limit is open on that side."""

_SILENT = -torch.finfo(torch.float32).max / 4


@dataclass(frozen=True)
class Cut:
    """Groups of positions: group g holds start + g·group_step + r·row_step + (0 … size − 1).

    Args:
        start: First position.
        size: Neighbouring positions in a row.
        groups: Number of groups.
        group_step: From one group to the next, in positions.
        rows: Rows in a group.
        row_step: From one row to the next, in positions.
    """

    start: int
    size: int
    groups: int = 1
    group_step: int = 0
    rows: int = 1
    row_step: int = 0

    def view(self, x_NLE: Tensor) -> Tensor:
        """The positions as a view.

        Args:
            x_NLE: One vector for each position.

        Returns:
            View of shape (groups, N, rows, size, E).
        """
        n, _, width = x_NLE.shape
        by_n, by_l, by_e = x_NLE.stride()
        shape = (self.groups, n, self.rows, self.size, width)
        steps = (self.group_step * by_l, by_n, self.row_step * by_l, by_l, by_e)
        return x_NLE.as_strided(shape, steps, x_NLE.storage_offset() + self.start * by_l)

    def take(self, x_NLE: Tensor) -> Tensor:
        """The positions of each group in one row: a view where strides allow.

        Args:
            x_NLE: One vector for each position.

        Returns:
            Tensor of shape (groups, N, rows · size, E).
        """
        return self.view(x_NLE).flatten(2, 3)

    def add(self, x_NLE: Tensor, part: Tensor) -> None:
        """Add to the positions in place: the derivative of `take`.

        Args:
            x_NLE: What is added to.
            part: What is added, of the shape that `take` gives.
        """
        if self.rows > 1 or self.groups == 1 or self.group_step >= self.size:
            self.view(x_NLE).add_(part.unflatten(2, (self.rows, self.size)))
            return
        for at in range(0, self.size, self.group_step):  # groups overlap: add in disjoint strips
            width = min(self.group_step, self.size - at)
            strip = Cut(self.start + at, width, self.groups, self.group_step)
            strip.add(x_NLE, part[:, :, at : at + width])


@dataclass(frozen=True)
class Part:
    """Dense attention from groups of queries to as many groups of keys.

    Query i of a group sees key j of its group where low <= i − j <= high.

    Args:
        queries: The queries.
        keys: The keys; no query may see a key in two parts.
        low: Least i − j.
        high: Greatest i − j.
        fresh: No part before this one has any of its queries.
    """

    queries: Cut
    keys: Cut
    low: int = -ANY
    high: int = ANY
    fresh: bool = False

    @property
    def causal(self) -> bool:
        """Whether query i sees exactly the keys j <= i."""
        return self.low == 0 and self.high >= self.queries.rows * self.queries.size - 1

    def band(self, device: torch.device) -> Tensor | None:
        """What the band adds to the scores.

        Args:
            device: Where it is needed.

        Returns:
            float32 of shape (queries, keys): 0 where seen, and else so far below that the weight
            is 0; None where nothing is masked, or the mask is the plain causal one.
        """
        n_queries, n_keys = (cut.rows * cut.size for cut in (self.queries, self.keys))
        open_below, open_above = self.low <= 1 - n_keys, self.high >= n_queries - 1
        if self.causal or (open_below and open_above):
            return None
        distance = torch.arange(n_queries, device=device)[:, None] - torch.arange(
            n_keys, device=device
        )
        return silence((distance >= self.low) & (distance <= self.high))

    def alone(self) -> Iterator[Part]:
        """Each pair of groups as a part of its own.

        Yields:
            The same part with one group.
        """
        for group in range(self.queries.groups):
            cuts = [
                replace(cut, start=cut.start + group * cut.group_step, groups=1)
                for cut in (self.queries, self.keys)
            ]
            yield replace(self, queries=cuts[0], keys=cuts[1])


def silence(seen: Tensor) -> Tensor:
    """What to add to scores so that only some keys are seen.

    Args:
        seen: True where a key is seen.

    Returns:
        float32: 0 where seen; else so low that the weight is 0, but finite, so that a row which
        sees nothing does not become NaN.
    """
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, _SILENT)


def fitted(bias: Tensor, dtype: torch.dtype) -> Tensor:
    """What `silence` gave, in another dtype and still finite.

    Args:
        bias: From `silence`.
        dtype: A floating dtype.

    Returns:
        Tensor of that dtype.
    """
    return bias.clamp(min=max(_SILENT, torch.finfo(dtype).min / 4)).to(dtype)


def present(*plan: Part) -> list[Part]:
    """The parts that hold anything.

    Args:
        *plan: Parts, some of which may be empty because the sequence is short.

    Returns:
        The others.
    """

    def holds(cut: Cut) -> bool:
        return min(cut.groups, cut.rows, cut.size) > 0

    return [part for part in plan if holds(part.queries) and holds(part.keys)]


def numbers(plan: Sequence[Part]) -> list[int]:
    """The plan as a flat list, which an operator can take.

    Args:
        plan: The parts.

    Returns:
        As many integers for each part.
    """
    flat: list[int] = []
    for part in plan:
        flat += [*astuple(part.queries), *astuple(part.keys), part.low, part.high, part.fresh]
    return [int(number) for number in flat]


def parts(flat: Sequence[int]) -> list[Part]:
    """The plan from its numbers.

    Args:
        flat: What `numbers` gave.

    Returns:
        The parts.
    """
    rows = [flat[at : at + 15] for at in range(0, len(flat), 15)]
    return [Part(Cut(*row[:6]), Cut(*row[6:12]), row[12], row[13], bool(row[14])) for row in rows]
