"""Documents, their ids, and what is kept for validation."""

import numpy as np
import pytest
import torch
from helpers import outcome_of

from pentti.errors import ArgumentError, StoreError
from pentti.training import Corpus, Encoding, build, documents


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    for i in range(30):
        (folder / f"{i:02}.txt").write_bytes(f"Document {i}: Åbo\n".encode() * (i + 1))
    (folder / "deep" / "more.md").write_text("below")
    (folder / ".hidden").write_text("no")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\0\0")
    (folder / "empty.txt").write_text("")
    return folder


def corpus(texts, tmp_path, **settings):
    built, shares = outcome_of(build([str(texts)], tmp_path / "corpus", **settings))
    assert shares == sorted(shares)
    assert shares[-1] == 1
    return built


def test_documents_come_back_byte_for_byte_between_borders(texts, tmp_path):
    built = corpus(texts, tmp_path)
    assert len(built) == 31  # neither the hidden, the empty, nor what is no text
    for again in (built, Corpus(tmp_path / "corpus")):
        for i, name in enumerate(again.names):
            ids = again.ids(i)
            assert ids.dtype == torch.int64
            assert (ids[0], ids[-1]) == (256, 256)
            assert bytes(ids[1:-1].tolist()) == (texts / name).read_bytes()
            assert again.n_ids(i) == len(ids)
            assert again.n_bytes[i] == len(ids) - 2
            assert again.bytes_per_id(i) == 1


def test_any_stretch_is_a_part_of_the_whole(texts, tmp_path):
    built = corpus(texts, tmp_path)
    whole = built.ids(3)
    for start in range(len(whole) + 2):
        for stop in (*range(start, len(whole) + 3), None):
            assert built.ids(3, start, stop).tolist() == whole[start:stop].tolist()


def test_the_name_alone_decides_what_validates(texts, tmp_path):
    built = corpus(texts, tmp_path, validation=0.3)
    kept = {built.names[i] for i in built.validation}
    assert sorted([*built.train, *built.validation]) == list(range(31))
    assert 2 < len(kept) < 20
    for i in range(0, 30, 2):
        (texts / f"{i:02}.txt").unlink()
    fewer = corpus(texts, tmp_path, validation=0.3)
    assert {fewer.names[i] for i in fewer.validation} == kept & set(fewer.names)


def test_a_folder_may_move(texts, tmp_path):
    before = corpus(texts, tmp_path, validation=0.3)
    texts.rename(tmp_path / "elsewhere")
    after = corpus(tmp_path / "elsewhere", tmp_path, validation=0.3)
    assert "deep/more.md" in after.names
    assert (after.names, after.validation) == (before.names, before.validation)


def test_a_share_of_documents_validates():
    names = [f"{i}.txt" for i in range(4000)]
    kept = sum(documents.is_validation(name, 0.1) for name in names)
    assert abs(kept - 400) < 5 * (4000 * 0.1 * 0.9) ** 0.5


def test_a_lone_document_is_cut(tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes(bytes(range(100)))
    built, _ = outcome_of(build([str(path)], tmp_path / "corpus"))
    assert (built.train, built.validation) == ([0], [1])
    assert [built.ids(i)[1:-1].tolist() for i in (0, 1)] == [[*range(90)], [*range(90, 100)]]


@pytest.mark.parametrize("validation", [0.0001, 0.9999])
def test_something_is_left_on_both_sides(texts, tmp_path, validation):
    built = corpus(texts, tmp_path, validation=validation)
    assert built.train
    assert built.validation


def test_patterns_and_files_are_each_found_once(texts):
    names = [
        path.name for path in documents.documents([str(texts / "0*.txt"), str(texts / "03.txt")])
    ]
    assert names == [f"{i:02}.txt" for i in range(10)]
    assert [one.name for one in documents.documents([str(texts / "**" / "*.md")])] == ["more.md"]


def test_the_standard_library_is_its_own_source():
    found = documents.documents([documents.standard_library()])
    names = {one.name for one in found}
    assert {"argparse.py", "inspect.py"} <= names
    assert all(one.name.endswith(".py") and "site-packages" not in one.name for one in found)


def test_bytes_are_ids():
    encoding = Encoding()
    text = bytes(range(256))
    assert encoding.encode(text).tolist() == [*range(256)]
    assert encoding.encode(text).dtype == np.uint8
    assert encoding.decode([65, 256, 0xC3]) == "A\ufffd"


def test_bad_sources_are_named(tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    for bad, kind, message in (
        ([], ArgumentError, "documents: `sources` must be a list of at least one path, got"),
        ("text", ArgumentError, "`sources` must be a list of at least one path, got 'text'"),
        ([str(empty)], StoreError, "cannot read .*empty: there is no such file, or no text in it"),
        ([str(tmp_path / "no*.txt")], StoreError, "cannot read .*no.*txt: there is no such file"),
    ):
        with pytest.raises(kind, match=message):
            documents.documents(bad)
    (empty / "a.txt").write_text("")
    (empty / "b.txt").write_text("")
    with pytest.raises(StoreError, match=r"cannot read .*empty: there is no text in it"):
        outcome_of(build([str(empty)], tmp_path / "corpus"))
    with pytest.raises(StoreError, match="there is no corpus in it"):
        Corpus(tmp_path / "corpus")


def test_a_file_that_vanishes_is_named(texts, tmp_path):
    work = build([str(texts)], tmp_path / "corpus")
    next(work)
    (texts / "20.txt").unlink()
    with pytest.raises(StoreError, match=r"cannot read .*20\.txt: No such file"):
        list(work)
    with pytest.raises(StoreError, match="there is no corpus in it"):
        Corpus(tmp_path / "corpus")


def test_a_damaged_corpus_is_refused(texts, tmp_path):
    corpus(texts, tmp_path)
    index, ids = tmp_path / "corpus" / "corpus.json", tmp_path / "corpus" / "tokens.bin"
    whole = index.read_text()
    for text, message in (
        ("{", "it is damaged, or no corpus"),
        (whole.replace('"corpus"', '"other"'), "it is damaged, or no corpus"),
        (
            whole.replace('"format_version": 1', '"format_version": 2'),
            "its format 2 is newer than 1",
        ),
    ):
        index.write_text(text)
        with pytest.raises(StoreError, match=message):
            Corpus(tmp_path / "corpus")
    index.write_text(whole)
    ids.write_bytes(ids.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"tokens\.bin: it is missing or damaged"):
        Corpus(tmp_path / "corpus")
