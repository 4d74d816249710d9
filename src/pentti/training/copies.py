"""How much of a document stands in the training documents too: what a test must not have."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import numpy.typing as npt

from pentti import checks
from pentti.training.corpus import Corpus

__all__ = ["copied"]

_RUN = 64  # ids that are compared at once
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse
_INVERSE = np.uint64(pow(int(_BASE), -1, 2**64))


def copied(
    corpus: Corpus, documents: Sequence[int], *, most_tokens: int | None = None
) -> Generator[float, None, list[float]]:
    """The share of each document that is found in the training documents, word for word.

    A document of 64 ids or more that is a training document too has 1.0; shorter ones have 0.0.
    Any stretch of 127 ids or more is found, but for 63 ids at most at each of its ends; of shorter
    ones, from 64, some are.

    Args:
        corpus: Where the documents are.
        documents: Which ones; no training documents.
        most_tokens: Of each; None for all.

    Returns:
        A generator of the share that is done, which returns the share of each, in [0, 1].

    Raises:
        ArgumentError: if one of them is a training document or none of the corpus', or the number
            of tokens below 1.

    Examples:
        >>> from pentti import finish
        >>> finish(copied(corpus, corpus.validation))  # doctest: +SKIP
        [0.02, 0.98, 0.0]

    **Source:** Karp and Rabin, *Efficient randomized pattern-matching algorithms* (1987), for the
    sums by which stretches are compared.
    """
    train = set(corpus.train)
    documents = checks.items("copied", "documents", documents, "documents")
    for document in documents:
        if checks.integer("copied", "documents", document, 0, len(corpus) - 1) in train:
            checks.reject("copied", "documents", "hold no training document", document)
    if most_tokens is not None:
        checks.count("copied", "most_tokens", most_tokens)
    found = []
    for number, document in enumerate(corpus.train):
        sums = _sums(_ids(corpus, document, None))
        found.append(np.append(sums[::_RUN], sums[-1:]))
        yield 0.9 * (number + 1) / len(corpus.train)
    known = np.sort(np.concatenate([np.empty(0, np.uint64), *found]))
    if not len(known):
        yield 1.0
        return [0.0] * len(documents)
    shares = []
    for number, document in enumerate(documents):
        ids = _ids(corpus, document, most_tokens)
        inside = np.zeros(len(ids) + _RUN, dtype=np.int64)  # runs that begin less those that end
        runs = _sums(ids)
        at = np.searchsorted(known, runs).clip(max=len(known) - 1)
        starts = np.flatnonzero(known[at] == runs)
        inside[starts] += 1
        inside[starts + _RUN] -= 1
        shares.append(float((np.cumsum(inside[: len(ids)]) > 0).mean()))
        yield 0.9 + 0.1 * (number + 1) / len(documents)
    return shares


def _sums(ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A number for the run of ids that begins at each place, alike where the runs are."""
    powers = np.cumprod(np.full(len(ids), _BASE))
    before = np.concatenate([np.zeros(1, np.uint64), np.cumsum(ids * powers)])
    runs: npt.NDArray[np.uint64] = before[_RUN:] - before[:-_RUN]
    return runs * np.cumprod(np.full(len(runs), _INVERSE), dtype=np.uint64)


def _ids(corpus: Corpus, document: int, most: int | None) -> npt.NDArray[np.uint64]:
    stop = corpus.n_ids(document) - 1
    if most is not None:
        stop = min(stop, most + 1)
    inner: npt.NDArray[np.uint64] = corpus.ids(document, 1, stop).numpy().astype(np.uint64)
    return inner  # without its borders
