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
        documents: Which ones.
        most_tokens: Of each document; None for all.
        part: Tokens that go through at once.

    Returns:
        A generator of the share that is done, which returns the evaluation.

    Raises:
        ArgumentError: if there is no document, or the model has another vocabulary.
    """
    if not documents:
        checks.reject("evaluate", "documents", "hold one at least", [])
    if model.vocab_size != corpus.encoding.vocab_size:
        expected = f"have a vocabulary of {corpus.encoding.vocab_size}"
        checks.reject("evaluate", "model", expected, model.vocab_size)
    lengths = [min(corpus.n_ids(d) - 1, most_tokens or corpus.n_ids(d)) for d in documents]
    n_stretches = max(0, math.ceil(math.log2(max(lengths) / _FIRST))) + 1
    bits, tokens = (torch.zeros(n_stretches, dtype=torch.float64) for _ in range(2))
    n_bytes, done = torch.zeros(n_stretches, dtype=torch.float64), 0
    by_document = []
    for document, length in zip(documents, lengths, strict=True):
        cache, cost = model.new_cache(1), 0.0
        for low in range(0, length, part):
            n = min(part, length - low)
            ids = corpus.ids(document, low, low + n + 1).to(model.embedding.weight.device)
            told = _bits(model, ids, cache)
            at = _stretch_of(torch.arange(low, low + n))
            bits.index_add_(0, at, told)
            tokens.index_add_(0, at, torch.ones_like(told))
            n_bytes.index_add_(0, at, torch.full_like(told, corpus.bytes_per_id(document)))
            done, cost = done + n, cost + float(told.sum())
            yield done / sum(lengths)
        by_document.append(cost / length / corpus.bytes_per_id(document))
    ends = [_FIRST * 2**i for i in range(n_stretches)]
    stretches = [
        Stretch(
            0 if not i else ends[i - 1], ends[i] - 1, int(tokens[i]), float(bits[i] / n_bytes[i])
        )
        for i in range(n_stretches)
        if tokens[i]
    ]
    return Evaluation(float(bits.sum() / n_bytes.sum()), by_document, stretches)


@torch.no_grad()
def _bits(model: PenttiTransformer, ids: torch.Tensor, cache: object) -> torch.Tensor:
    with evaluating(model):
        logits = model(ids[None, :-1], cache=cache).logits[0].float()
    nats = functional.cross_entropy(logits, ids[1:], reduction="none")
    return nats.double().cpu() / math.log(2)


def _stretch_of(places: torch.Tensor) -> torch.Tensor:
    """The number of the stretch of each place."""
    doublings = torch.log2((places + 1).double() / _FIRST).ceil()
    return doublings.clamp_min(0).long()
