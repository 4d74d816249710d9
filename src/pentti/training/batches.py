"""Which pieces of which documents each training step takes: a function of the seed alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pentti import checks
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

        Raises:
            ArgumentError: if there is no piece, or one is of no document of the corpus.
        """
        if not pieces:
            checks.reject("Batch", "pieces", "hold one at least", pieces)
        shape = len(pieces), max(piece.n for piece in pieces)
        ids = torch.full(shape, corpus.encoding.border)
        targets = torch.full(shape, IGNORED)
        for row, (document, start, n) in enumerate(pieces):
            found = corpus.ids(document, start, start + n + 1)
            ids[row, :n], targets[row, :n] = found[:-1], found[1:]
        return cls(ids, targets, targets != IGNORED)


class _Epoch(NamedTuple):
    """Pieces as rows (document, start, n), and the batches of all steps as ranges of them."""

    pieces: npt.NDArray[np.int64]
    batches: npt.NDArray[np.int64]


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
        seed: Of the order and of the cuts, from 0.

    Raises:
        ArgumentError: if a number is out of range.

    Examples:
        The 7th step takes the same pieces, however often it is asked for, and whatever was before::

            batches.pieces(7)
    """

    def __init__(self, corpus: Corpus, context: int, n_tokens: int, seed: int) -> None:
        self.corpus = corpus
        self.context = checks.count("Batches", "context", context)
        self.n_tokens = checks.count("Batches", "n_tokens", n_tokens)
        self.seed = checks.integer("Batches", "seed", seed, 0)
        self._rewind()

    def _rewind(self) -> None:
        """Stand before the first epoch."""
        self._epoch, self._first = -1, 0
        self._of_epoch = _Epoch(np.empty((0, 3), dtype=np.int64), np.empty((0, 2), dtype=np.int64))

    def pieces(self, step: int) -> list[Piece]:
        """The pieces of a step.

        Args:
            step: From 0.

        Returns:
            At least one piece.

        Raises:
            ArgumentError: if the step is negative.
        """
        step = checks.integer("Batches", "step", step, 0)
        if step < self._first:
            self._rewind()
        while step >= self._first + len(self._of_epoch.batches):
            self._first += len(self._of_epoch.batches)
            self._epoch += 1
            self._of_epoch = self._drawn(self._epoch)
        low, high = self._of_epoch.batches[step - self._first]
        return [Piece(*piece) for piece in self._of_epoch.pieces[low:high].tolist()]

    @property
    def epoch(self) -> int:
        """The epoch of the step that was asked for last, from 0."""
        return self._epoch

    def _drawn(self, epoch: int) -> _Epoch:
        """The pieces of all steps of an epoch."""
        generator = np.random.default_rng([self.seed, epoch])
        found = []
        for document in self.corpus.train:
            n = self.corpus.n_ids(document) - 1  # the last one is to be told only
            first = int(generator.integers(1, self.context + 1)) if epoch else self.context
            starts = np.concatenate([[0], np.arange(first, n, self.context)])
            lengths = np.diff(starts, append=n)
            found.append(np.stack([np.full_like(starts, document), starts, lengths], axis=1))
        pieces = np.concatenate(found)[generator.permutation(sum(map(len, found)))]
        pool = max(1, _POOL * self.n_tokens // self.context)
        ends: list[tuple[int, int]] = []
        for low in range(0, len(pieces), pool):
            some = pieces[low : low + pool]
            some[:] = some[np.argsort(-some[:, 2], kind="stable")]
            ends += [(low + a, low + b) for a, b in self._filled(some[:, 2])]
        return _Epoch(pieces, np.array(ends)[generator.permutation(len(ends))])

    def _filled(self, lengths: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """Where batches of `n_tokens` begin and end among pieces, the longest first."""
        low = 0
        while low < len(lengths):
            high = min(low + max(1, self.n_tokens // int(lengths[low])), len(lengths))
            yield low, high
            low = high
