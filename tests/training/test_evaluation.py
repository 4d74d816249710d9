"""What an evaluation says, against a plain sum over all places."""

import math

import pytest
import torch
from helpers import outcome_of

from pentti.errors import ArgumentError
from pentti.nn import PenttiTransformer
from pentti.training import Stretch, build, evaluate

WORDS = ["a", "to", "two", "four", "eleven", "thirteen", "seventeen"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Documents of words, a token each, that are the longer the later the document."""
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("evaluation")
    words = tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="a")
    made = tokenizers.Tokenizer(words)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    (folder / "texts").mkdir()
    generator = torch.Generator().manual_seed(5)
    for i, n in enumerate((1, 63, 64, 130, 301)):
        drawn = torch.randint(1 + i, 3 + i, (n,), generator=generator).tolist()
        (folder / "texts" / f"{i}.txt").write_text(" ".join(WORDS[j] for j in drawn))
    texts, tokenizer = str(folder / "texts"), folder / "tokenizer.json"
    return outcome_of(build([texts], folder / "corpus", tokenizer=tokenizer))[0]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(2)
    made = PenttiTransformer(8, 16, 2, 2, window=8, memory_kind="sequence", dropout=0.5)
    return made.double()


def cost_of(model, corpus, document):
    """Bits of each place of a document, all read at once."""
    ids = corpus.ids(document)
    with torch.no_grad():
        told = model.eval()(ids[None, :-1]).logits[0].log_softmax(-1)
    model.train()
    return [-row[i].item() / math.log(2) for row, i in zip(told, ids[1:], strict=True)]


def sums(costs, sizes, places):
    """Tokens and bits per byte of some places, over all documents."""
    told = [
        (cost[p], size)
        for cost, size in zip(costs, sizes, strict=True)
        for p in places
        if p < len(cost)
    ]
    return len(told), sum(bits for bits, _ in told) / sum(size for _, size in told)


@pytest.mark.parametrize("part", [37, 64, 10_000])
@pytest.mark.parametrize("most_tokens", [None, 64, 100])
def test_it_is_the_sum_over_all_places(corpus, model, part, most_tokens):
    documents = [4, 0, 3, 1, 2]
    costs = [cost_of(model, corpus, document)[:most_tokens] for document in documents]
    sizes = [(corpus.n_bytes[document] / len(corpus.ids(document)[1:-1])) for document in documents]
    work = evaluate(model, corpus, documents, most_tokens=most_tokens, part=part)
    found, shares = outcome_of(work)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(shares) == sum(math.ceil(len(cost) / part) for cost in costs)
    assert found.bits_per_byte == pytest.approx(sums(costs, sizes, range(302))[1], rel=1e-6)
    alone = [sum(cost) / len(cost) / size for cost, size in zip(costs, sizes, strict=True)]
    assert found.documents == pytest.approx(alone, rel=1e-6)
    ends = [(0, 63), (64, 127), (128, 255), (256, 511)][: {None: 4, 64: 1, 100: 2}[most_tokens]]
    assert [one[:2] for one in found.stretches] == ends
    for one in found.stretches:
        n, bits = sums(costs, sizes, range(one.first, one.last + 1))
        assert one.n_tokens == n
        assert one.bits_per_byte == pytest.approx(bits, rel=1e-6)
    assert model.training


def test_one_token_is_a_stretch_of_its_own_length(corpus, model):
    found, _ = outcome_of(evaluate(model, corpus, [3], most_tokens=1, part=1))
    bits = cost_of(model, corpus, 3)[0] / corpus.bytes_per_id(3)
    assert found.stretches == [Stretch(0, 63, 1, pytest.approx(bits, rel=1e-6))]


def test_wrong_arguments_are_named(corpus, model):
    other = PenttiTransformer(9, 16, 1, 2, memory_layers=())
    both_ways = PenttiTransformer(8, 16, 1, 2, memory_layers=(), causal=False)
    for given, settings, message in (
        ((model, corpus, []), {}, "`documents` must hold one at least, got"),
        ((model, corpus, 1), {}, "`documents` must be a list of documents, got 1"),
        ((model, corpus, "12"), {}, "`documents` must be a list of documents, got '12'"),
        ((model, corpus, [0, 5]), {}, r"`documents` must be in \[0, 4\], got 5"),
        ((model, corpus, [-1]), {}, r"`documents` must be in \[0, 4\], got -1"),
        ((model, corpus, [1.0]), {}, r"`documents` must be an integer in \[0, 4\], got 1.0"),
        ((model, corpus, [0]), {"part": -1}, "`part` must be at least 1, got -1"),
        ((model, corpus, [0]), {"part": 0}, "`part` must be at least 1, got 0"),
        ((model, corpus, [0]), {"part": 1.5}, "`part` must be an integer at least 1, got 1.5"),
        ((model, corpus, [0]), {"most_tokens": 0}, "`most_tokens` must be at least 1, got 0"),
        ((model, corpus, [0]), {"most_tokens": -3}, "`most_tokens` must be at least 1, got -3"),
        ((model, corpus, [0]), {"most_tokens": 2.0}, "`most_tokens` must be an integer"),
        ((other, corpus, [0]), {}, "`model` must have a vocabulary of 8, got 9"),
        ((both_ways, corpus, [0]), {}, "`causal` must be True"),
    ):
        with pytest.raises(ArgumentError, match=message):
            outcome_of(evaluate(*given, **settings))
