"""Which pieces of which documents each training step takes: a function of the seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pentti.nn.loss import IGNORED
from pentti.training.corpus import Corpus

__all__ = ["Batch", "Batches", "Piece"]

_POOL = 64  # batches whose pieces are sorted by length, so that rows of a batch are alike


class Piece(NamedTuple):
    """A stretch of a document: `n` ids from `start` go in, and the id after each is to be told."""

    document: int
    start: int
    n: int


class Batch(NamedTuple):
    """Rows of pieces.

    Attributes:
        ids: int64 (B, L); the border's id where a row has ended.
        targets: int64 (B, L); `IGNORED` where a row has ended.
        mask: True where there is a token, (B, L).
    """

    ids: Tensor
    targets: Tensor
    mask: Tensor

    @property
    def n_targets(self) -> int:
        """How many tokens are to be told."""
        return int(self.mask.sum())

    @classmethod
    def of(cls, corpus: Corpus, pieces: Sequence[Piece]) -> Batch:
        """The rows of some pieces, padded to the longest.

        Args:
            corpus: Whose documents they are of.
            pieces: At least one.

        Returns:
            The batch, on the CPU.
        """
        shape = len(pieces), max(piece.n for piece in pieces)
        ids = torch.full(shape, corpus.encoding.border)
        targets = torch.full(shape, IGNORED)
        for row, (document, start, n) in enumerate(pieces):
            found = corpus.ids(document, start, start + n + 1)
            ids[row, :n], targets[row, :n] = found[:-1], found[1:]
        return cls(ids, targets, targets != IGNORED)


class Batches:
    """The batches of all steps, epoch after epoch.

    A document is cut into pieces of `context` ids; no row has pieces of two documents, so that
    nothing of one document reaches another. In the first epoch the cuts start at its beginning,
    later somewhere within the first `context` ids. Pieces of about the same length come together,
    as many as fill `n_tokens`.

    Args:
        corpus: Where the documents are.
        context: Ids that go in at once, L.
        n_tokens: Of a batch, its padding included; one row at least.
        seed: Of the order and of the cuts.

    Examples:
        The 7th step takes the same pieces, however often it is asked for, and whatever was before::

            batches.pieces(7)
    """

    def __init__(self, corpus: Corpus, context: int, n_tokens: int, seed: int) -> None:
        self.corpus, self.context, self.n_tokens, self.seed = corpus, context, n_tokens, seed
        self._rewind()

    def _rewind(self) -> None:
        """Stand before the first epoch."""
        self._epoch, self._first = -1, 0
        self._of_epoch: list[list[Piece]] = []  # from step `_first` on

    def pieces(self, step: int) -> list[Piece]:
        """The pieces of a step.

        Args:
            step: From 0.

        Returns:
            At least one piece.
        """
        if step < self._first:
            self._rewind()
        while step >= self._first + len(self._of_epoch):
            self._first += len(self._of_epoch)
            self._epoch += 1
            self._of_epoch = self._drawn(self._epoch)
        return self._of_epoch[step - self._first]

    @property
    def epoch(self) -> int:
        """The epoch of the step that was asked for last, from 0."""
        return self._epoch

    def _drawn(self, epoch: int) -> list[list[Piece]]:
        """The pieces of all steps of an epoch."""
        generator = np.random.default_rng([self.seed, epoch])
        pieces = []
        for document in self.corpus.train:
            n = self.corpus.n_ids(document) - 1  # the last one is to be told only
            first = int(generator.integers(1, self.context + 1)) if epoch else self.context
            cuts = [0, *range(first, n, self.context), n]
            pieces += [Piece(document, a, b - a) for a, b in pairwise(cuts)]
        order = generator.permutation(len(pieces))
        pool = max(1, _POOL * self.n_tokens // self.context)
        batches: list[list[Piece]] = []
        for low in range(0, len(order), pool):
            some = sorted((pieces[i] for i in order[low : low + pool]), key=lambda piece: -piece.n)
            batches += self._filled(some)
        return [batches[i] for i in generator.permutation(len(batches))]

    def _filled(self, pieces: Sequence[Piece]) -> list[list[Piece]]:
        """Pieces, the longest first, in batches of `n_tokens`."""
        batches: list[list[Piece]] = []
        for piece in pieces:
            if not batches or (len(batches[-1]) + 1) * batches[-1][0].n > self.n_tokens:
                batches.append([])
            batches[-1].append(piece)
        return batches
