"""How well a model tells whole documents, by the place in the document: does far context help?"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from pentti import checks
from pentti.nn import PenttiTransformer
from pentti.nn.generation import evaluating
from pentti.training.corpus import Corpus

__all__ = ["Evaluation", "Stretch", "evaluate"]

_FIRST = 64  # places in the first stretch; each further one ends twice as far


class Stretch(NamedTuple):
    """Places in documents, and what they cost.

    Attributes:
        first: The first place, from 0.
        last: The last one.
        n_tokens: Told there, in all documents.
        bits_per_byte: What telling them cost.
    """

    first: int
    last: int
    n_tokens: int
    bits_per_byte: float


class Evaluation(NamedTuple):
    """What an evaluation gives.

    Attributes:
        bits_per_byte: Over all places.
        documents: Of each document alone, in the order given.
        stretches: By place, the nearest first.
    """

    bits_per_byte: float
    documents: list[float]
    stretches: list[Stretch]


def evaluate(
    model: PenttiTransformer,
    corpus: Corpus,
    documents: Sequence[int],
    *,
    most_tokens: int | None = None,
    part: int = 1024,
) -> Generator[float, None, Evaluation]:
    """Read whole documents, each from its beginning, with all that the model keeps of it.

    Args:
        model: A causal one, with the corpus' vocabulary.
        corpus: Where the documents are.
        documents: Which ones, at least one.
        most_tokens: Of each document; None for all.
        part: Tokens that go through at once.

    Returns:
        A generator of the share that is done, which returns the evaluation.

    Raises:
        ArgumentError: if there is no document, one is none of the corpus', the model is not causal
            or has another vocabulary, or a number is below 1.
    """
    documents = checks.items("evaluate", "documents", documents, "documents")
    if not documents:
        checks.reject("evaluate", "documents", "hold one at least", documents)
    for document in documents:
        checks.integer("evaluate", "documents", document, 0, len(corpus) - 1)
    part = checks.count("evaluate", "part", part)
    if model.vocab_size != corpus.encoding.vocab_size:
        expected = f"have a vocabulary of {corpus.encoding.vocab_size}"
        checks.reject("evaluate", "model", expected, model.vocab_size)
    lengths = [corpus.n_ids(document) - 1 for document in documents]
    if most_tokens is not None:
        most_tokens = checks.count("evaluate", "most_tokens", most_tokens)
        lengths = [min(length, most_tokens) for length in lengths]
    ends = [_FIRST]
    while ends[-1] < max(lengths):
        ends.append(2 * ends[-1])
    totals, done = torch.zeros(len(ends), 3, dtype=torch.float64), 0  # bits, tokens, bytes
    by_document = []
    for document, length in zip(documents, lengths, strict=True):
        cache, cost, n_bytes = model.new_cache(1), 0.0, corpus.bytes_per_id(document)
        for low in range(0, length, part):
            n = min(part, length - low)
            ids = corpus.ids(document, low, low + n + 1).to(model.embedding.weight.device)
            bits = _bits(model, ids, cache)
            at = torch.bucketize(torch.arange(low, low + n), torch.tensor(ends), right=True)
            ones = torch.ones_like(bits)
            totals.index_add_(0, at, torch.stack([bits, ones, n_bytes * ones], dim=1))
            done, cost = done + n, cost + float(bits.sum())
            yield done / sum(lengths)
        by_document.append(cost / (length * n_bytes))
    rows = zip([0, *ends[:-1]], ends, totals.tolist(), strict=True)
    stretches = [
        Stretch(first, end - 1, int(n), cost / size) for first, end, (cost, n, size) in rows
    ]
    cost, _, size = totals.sum(0).tolist()
    return Evaluation(cost / size, by_document, stretches)


@torch.no_grad()
def _bits(model: PenttiTransformer, ids: torch.Tensor, cache: object) -> torch.Tensor:
    with evaluating(model):
        logits = model(ids[None, :-1], cache=cache).logits[0].float()
    nats = functional.cross_entropy(logits, ids[1:], reduction="none")
    return nats.double().cpu() / math.log(2)
