"""How much of a document stands in the training documents."""

import numpy as np
import pytest
from helpers import outcome_of

from pentti.errors import ArgumentError
from pentti.training import build, copied


def noise(seed, n):
    return np.random.default_rng(seed).integers(256, size=n, dtype=np.uint8).tobytes()


BOOK = noise(1, 5000)
KEPT = {
    "copy": BOOK,
    "copy of a note": noise(3, 64),
    "first half": BOOK[:2500] + noise(5, 2500),
    "nothing": noise(6, 5000),
    "short": BOOK[:63],
    "twice": BOOK[1000:1500] + noise(7, 500) + BOOK[1000:1500],
}
TRAINED = {"book": BOOK, "note": noise(3, 64), "scrap": noise(4, 63), "zeros": bytes(700)}


def corpus_of(folder, kept, trained):
    """Documents by name, of which some are trained on and the others are kept."""
    texts = folder / "texts"
    texts.mkdir()
    for name, text in (kept | trained).items():
        (texts / name).write_bytes(text)
    built, _ = outcome_of(build([str(texts / "*")], folder / "corpus"))
    built.validation = [built.names.index(name) for name in kept]
    built.train = [built.names.index(name) for name in trained]
    return built


def shares_of(corpus, **settings):
    found, done = outcome_of(copied(corpus, corpus.validation, **settings))
    assert done == sorted(done)
    assert done[-1] == 1
    return dict(zip((corpus.names[d] for d in corpus.validation), found, strict=True))


def plain(text, trained):
    """The same, run by run."""
    starts = {i for other in trained for i in (*range(0, len(other) - 63, 64), len(other) - 64)}
    known = {other[i : i + 64] for other in trained for i in starts if 0 <= i <= len(other) - 64}
    inside = set()
    for i in range(len(text) - 63):
        if text[i : i + 64] in known:
            inside |= {*range(i, i + 64)}
    return len(inside) / len(text)


def test_a_copy_has_all_and_a_half_has_half(tmp_path):
    shares = shares_of(corpus_of(tmp_path, KEPT, TRAINED))
    assert shares["copy"] == 1
    assert shares["copy of a note"] == 1
    assert 0.5 - 63 / 5000 <= shares["first half"] <= 0.5
    assert shares["nothing"] == 0
    assert shares["short"] == 0
    assert 2 * (500 - 126) / 1500 <= shares["twice"] <= 1000 / 1500


def test_it_is_what_a_comparison_run_by_run_gives(tmp_path):
    shares = shares_of(corpus_of(tmp_path, KEPT, {"book": BOOK}))
    assert shares == {name: plain(text, [BOOK]) for name, text in KEPT.items()}


def test_a_stretch_of_127_is_found_wherever_it_stands(tmp_path):
    """It holds a whole run of the training document, at whichever of its 64 offsets it begins."""
    kept = {}
    for offset in range(64, 129):
        stretch = BOOK[offset : offset + 127]
        kept[f"{offset}"] = noise(offset, 3 * offset) + stretch + noise(offset + 1000, 50)
    shares = shares_of(corpus_of(tmp_path, kept, {"book": BOOK}))
    for name, text in kept.items():
        assert 64 <= round(shares[name] * len(text)) <= 127


def test_only_the_first_tokens_count_where_they_are_told(tmp_path):
    built = corpus_of(tmp_path, KEPT, TRAINED)
    shares = shares_of(built, most_tokens=1280)
    assert shares["first half"] == 1
    assert shares["copy"] == 1
    assert shares["copy of a note"] == 1  # it is shorter
    assert shares_of(built, most_tokens=63)["copy"] == 0


def test_no_training_documents_hold_no_copy(tmp_path):
    built = corpus_of(tmp_path, KEPT, {})
    assert set(shares_of(built).values()) == {0.0}


def test_training_documents_that_are_too_short_hold_no_copy(tmp_path):
    built = corpus_of(tmp_path, {"copy": BOOK[:63]}, {"scrap": BOOK[:63]})
    assert shares_of(built) == {"copy": 0.0}


def test_wrong_arguments_are_named(tmp_path):
    built = corpus_of(tmp_path, KEPT, TRAINED)
    kept = built.validation[0]
    for given, message in (
        (([kept, built.train[0]],), "`documents` must hold no training document, got 0"),
        (([len(built)],), r"`documents` must be in \[0, 9\], got 10"),
        (([-1],), r"`documents` must be in \[0, 9\], got -1"),
        ((kept,), "`documents` must be a list of documents, got"),
        (([kept], 0), "`most_tokens` must be at least 1, got 0"),
        (([kept], 2.5), "`most_tokens` must be an integer at least 1, got 2.5"),
    ):
        with pytest.raises(ArgumentError, match=f"copied: {message}"):
            outcome_of(copied(built, given[0], most_tokens=[*given, None][1]))
