"""Documents, their ids, and what is kept for validation."""

import json
import os
import socket
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import outcome_of

from pentti.errors import ArgumentError, StoreError
from pentti.training import Corpus, Encoding, build, documents
from pentti.training import corpus as corpus_file


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


def names_of(*sources):
    return [one.name for one in documents.documents([str(source) for source in sources])]


@pytest.fixture
def words(tmp_path):
    """A tokenizer of three words, with gaps between their ids and none for other words."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"one": 0, "two": 5, "three": 300}))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.enable_truncation(2)
    made.enable_padding(length=7)
    made.save(str(tmp_path / "words.json"))
    return tmp_path / "words.json"


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
    for document in (0, 3, len(built) - 1):
        whole = built.ids(document)
        for start in range(len(whole) + 2):
            for stop in (*range(start and start - 1, len(whole) + 3), None):
                assert built.ids(document, start, stop).tolist() == whole[start:stop].tolist()


def test_a_place_that_is_none_is_named(texts, tmp_path):
    built = corpus(texts, tmp_path)
    for call, message in (
        (lambda: built.n_ids(-1), r"`document` must be in \[0, 30\], got -1"),
        (lambda: built.bytes_per_id(31), r"`document` must be in \[0, 30\], got 31"),
        (lambda: built.ids(1.0), r"`document` must be an integer in \[0, 30\], got 1.0"),
        (lambda: built.ids(0, -1), "`start` must be at least 0, got -1"),
        (lambda: built.ids(0, 0, -1), "`stop` must be at least 0, got -1"),
    ):
        with pytest.raises(ArgumentError, match=f"Corpus: {message}"):
            call()


def test_the_name_alone_decides_what_validates(texts, tmp_path):
    built = corpus(texts, tmp_path, validation=0.3)
    kept = {built.names[i] for i in built.validation}
    assert sorted([*built.train, *built.validation]) == list(range(31))
    assert 2 < len(kept) < 20
    for i in range(0, 30, 2):
        (texts / f"{i:02}.txt").unlink()
    fewer = corpus(texts, tmp_path, validation=0.3)
    assert {fewer.names[i] for i in fewer.validation} == kept & set(fewer.names)
    before = [built.names[i] for i in built.validation]
    after = [fewer.names[i] for i in fewer.validation]
    assert after == [name for name in before if name in fewer.names]


def test_validation_is_in_the_order_of_the_lot(texts, tmp_path):
    """So that its first documents are a sample of all, and not those at the top of the folder."""
    built = corpus(texts, tmp_path, validation=0.5)
    lots = [documents.drawn(built.names[i]) for i in built.validation]
    assert lots == sorted(lots)
    assert built.validation != sorted(built.validation)
    assert built.train == sorted(built.train)
    assert Corpus(tmp_path / "corpus").validation == built.validation


def test_a_folder_may_move(texts, tmp_path):
    before = corpus(texts, tmp_path, validation=0.3)
    texts.rename(tmp_path / "elsewhere")
    after = corpus(tmp_path / "elsewhere", tmp_path, validation=0.3)
    assert "deep/more.md" in after.names
    assert (after.names, after.validation) == (before.names, before.validation)


def test_a_share_of_documents_validates():
    names = [f"{i}.txt" for i in range(4000)]
    lots = [documents.drawn(name) for name in names]
    for share in (0.1, 0.5, 0.9):
        kept = sum(lot < share for lot in lots)
        assert abs(kept - 4000 * share) < 5 * (4000 * share * (1 - share)) ** 0.5


def test_the_lot_is_the_same_in_every_version():
    assert documents.drawn("a.txt") == 0.7853849123373798
    assert documents.drawn("\udcff") != documents.drawn("\udcfe")


def test_a_lone_document_is_cut(tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes(bytes(range(100)))
    built, _ = outcome_of(build([str(path)], tmp_path / "corpus"))
    assert (built.train, built.validation) == ([0], [1])
    assert [built.ids(i)[1:-1].tolist() for i in (0, 1)] == [[*range(90)], [*range(90, 100)]]


def test_a_lone_document_is_known_by_the_text_of_the_others(tmp_path, words):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "empty.txt").write_text("")
    (folder / "blank.txt").write_text(" \n")
    (folder / "full.txt").write_text("one two three " * 10)
    given = [str(folder)]
    built, _ = outcome_of(build(given, tmp_path / "corpus", tokenizer=words))
    assert built.names == ["full.txt (start)", "full.txt (end)"]
    assert (built.train, built.validation) == ([0], [1])
    assert built.ids(0)[1:-1].tolist() == [0, 5, 300] * 9
    (folder / "more.txt").write_text("one")
    built, _ = outcome_of(build(given, tmp_path / "corpus", tokenizer=words))
    assert built.names == ["full.txt", "more.txt"]


def test_a_cut_through_a_letter_leaves_a_sound_corpus(tmp_path):
    """The halves have fewer ids than the whole: the tokenizer has none for half a letter."""
    tokenizers = pytest.importorskip("tokenizers")
    letters = tokenizers.models.BPE({"a": 0, "Å": 1}, [])
    tokenizers.Tokenizer(letters).save(str(tmp_path / "letters.json"))
    (tmp_path / "a.txt").write_text("a" * 17 + "Åa", encoding="utf-8")
    work = build([str(tmp_path / "a.txt")], tmp_path / "c", tokenizer=tmp_path / "letters.json")
    built, _ = outcome_of(work)
    assert [built.ids(i)[1:-1].tolist() for i in (0, 1)] == [[0] * 17, [0]]


def test_two_documents_may_be_called_as_halves_are(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("a (start)", "b"):
        (folder / name).write_text(name)
    kept = "a (start)" if documents.drawn("a (start)") < documents.drawn("b") else "b"
    share = (documents.drawn("a (start)") + documents.drawn("b")) / 2
    built, _ = outcome_of(build([str(folder)], tmp_path / "corpus", validation=share))
    assert [built.names[i] for i in built.validation] == [kept]


@pytest.mark.parametrize("validation", [0.0001, 0.9999])
def test_something_is_left_on_both_sides(texts, tmp_path, validation):
    built = corpus(texts, tmp_path, validation=validation)
    assert built.train
    assert built.validation


def test_patterns_and_files_are_each_found_once(texts):
    names = names_of(texts / "0*.txt", texts / "03.txt", texts / "." / "04.txt")
    assert names == [f"{i:02}.txt" for i in range(10)]
    before = names_of(texts)
    (texts / "000.txt").symlink_to(texts / "03.txt")
    assert names_of(texts) == before


def test_a_name_is_the_path_below_the_part_without_wildcards(texts):
    (texts / "deep" / "deeper").mkdir()
    (texts / "deep" / "deeper" / "end.md").write_text("below")
    below = ["deep/deeper/end.md", "deep/more.md"]
    assert names_of(texts / "**" / "*.md") == below
    assert names_of(texts / "d??p" / "**") == below
    assert names_of(texts / "*" / "more.md") == ["deep/more.md"]
    assert names_of(texts / "deep" / "[m]*.md") == ["more.md"]
    assert names_of(texts / ".h*") == [".hidden"]
    with pytest.raises(StoreError, match="there is no such file"):
        names_of(texts / "*.md")


def test_files_of_one_name_are_told_apart_wherever_they_lie(tmp_path):
    for place in ("here", "there"):
        folder = tmp_path / place
        for name in ("a/x.txt", "b/x.txt", "a/y.txt", "b/n/x.txt", "c/n/x.txt"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
        assert names_of(folder / "a", folder / "b") == ["a/x.txt", "b/x.txt", "n/x.txt", "y.txt"]
        assert names_of(folder / "b", folder / "a") == ["a/x.txt", "b/x.txt", "n/x.txt", "y.txt"]
        assert names_of(folder / "b", folder / "c", folder / "a") == [
            "a/x.txt", "b/n/x.txt", "b/x.txt", "c/n/x.txt", "y.txt",
        ]  # fmt: skip
        assert names_of(folder / "a/x.txt", folder / "b/x.txt") == ["a/x.txt", "b/x.txt"]
    found = documents.documents([str(tmp_path / place / "b") for place in ("here", "there")])
    for one in found:
        assert str(one.path).endswith(f"/{one.name}")
    assert len({one.name for one in found}) == 4


def test_names_that_are_no_utf8_are_kept(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    try:
        for i in range(12):
            (folder / os.fsdecode(b"\xff\xe9%d" % i)).write_text(f"{i}")
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    built, _ = outcome_of(build([str(folder)], tmp_path / "corpus"))
    for again in (built, Corpus(tmp_path / "corpus")):
        assert len(again) == 12
        for i, name in enumerate(again.names):
            assert os.fsencode(name) == b"\xff\xe9" + bytes(again.ids(i)[1:-1].tolist())


def test_what_pentti_has_written_is_no_text(texts, tmp_path):
    """A run below the folder of its texts, as its first part leaves it and later."""
    before = names_of(texts)
    run = texts / "deep" / "run"
    built, _ = outcome_of(build([str(texts)], run / "corpus"))
    assert built.names == [name for name in before if name != "empty.txt"]
    (run / "corpus" / "corpus.json").unlink()  # as if it had been killed before it was done
    built, _ = outcome_of(build([str(texts)], run / "corpus"))
    assert built.names == [name for name in before if name != "empty.txt"]
    (run / "run.json").write_text(json.dumps({"pentti": "run", "format_version": 1}, indent=2))
    (run / "log.csv").write_text("step\n")
    assert names_of(texts) == before
    assert names_of(texts / "deep" / "**") == ["more.md"]
    for folder in (run, run / "corpus"):
        with pytest.raises(StoreError, match="it is what pentti has written, and no text"):
            names_of(folder)
    (run / "run.json").write_text('{"pentti": "other"}')
    (run / "corpus" / "corpus.json").write_text("[1]")
    assert {"deep/run/log.csv", "deep/run/run.json", "deep/run/corpus/corpus.json"} < {
        *names_of(texts)
    }


def test_links_make_no_circle(texts):
    before = names_of(texts)
    (texts / "deep" / "up").symlink_to(texts)
    (texts / "itself").symlink_to("itself")
    (texts / "broken").symlink_to("nowhere")
    (texts.parent / "other").mkdir()
    (texts.parent / "other" / "far.md").write_text("elsewhere")
    (texts / "other").symlink_to(texts.parent / "other")
    assert names_of(texts) == before
    assert names_of(texts / "**" / "*.md") == ["deep/more.md"]
    assert names_of(texts / "*" / "far.md") == names_of(texts / "o*" / "**") == ["other/far.md"]
    assert names_of(texts / "other") == ["far.md"]
    with pytest.raises(StoreError, match="itself: there is no such file"):
        names_of(texts / "itself")


def test_what_is_neither_a_file_nor_a_folder_is_not_waited_for(texts, tmp_path, monkeypatch):
    os.mkfifo(texts / "pipe")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
        for name in (texts / "pipe", "socket", os.devnull):
            with pytest.raises(StoreError, match=f"{name}: it is neither a file nor a folder"):
                names_of(name)
    assert "pipe" not in names_of(texts)


@pytest.mark.parametrize("method", ["iterdir", "open", "is_dir"])
def test_what_may_not_be_read_is_named(texts, monkeypatch, method):
    def refused(self, *arguments, **settings):
        if self.name in ("deep", "more.md"):
            raise PermissionError(13, "Permission denied", str(self))
        return plain(self, *arguments, **settings)

    plain = getattr(Path, method)
    monkeypatch.setattr(Path, method, refused)
    with pytest.raises(StoreError, match=r"cannot read .*deep.*: Permission denied"):
        names_of(texts)


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
    for bad in (257, -1):
        with pytest.raises(ArgumentError, match=rf"`ids` must be in \[0, 256\], got {bad}"):
            encoding.decode([bad])
    with pytest.raises(ArgumentError, match="`text` must be bytes, got 'text'"):
        encoding.encode("text")


def test_a_tokenizer_may_leave_ids_out(words):
    encoding = Encoding(words)
    assert (encoding.border, encoding.vocab_size, encoding.dtype) == (301, 302, np.uint16)
    ids = encoding.encode(b"three one\n two one")
    assert (ids.tolist(), ids.dtype) == ([300, 0, 5, 0], np.uint16)  # neither cut nor padded
    assert encoding.encode(b" \n").tolist() == []
    assert encoding.decode([300, 301, 7, 5]) == "three two"


def test_a_word_without_a_token_is_told(words, tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("four")
    work = build([str(tmp_path / "?.txt")], tmp_path / "corpus", tokenizer=words)
    with pytest.raises(StoreError, match=r"cannot encode a text with .*words\.json: .*UNK"):
        outcome_of(work)


def test_a_damaged_tokenizer_is_named(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    path = tmp_path / "words.json"
    tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(path))
    with pytest.raises(StoreError, match=r"words\.json: it is a tokenizer without tokens"):
        Encoding(path)
    for whole in (b"", b"[1]", b"\xff", b"[" * 100_000):
        path.write_bytes(whole)
        with pytest.raises(StoreError, match=r"words\.json: it is no tokenizer"):
            Encoding(path)
    with pytest.raises(StoreError, match="there is no such file"):
        Encoding(tmp_path)


def test_an_id_of_a_tokenizer_stands_for_many_bytes(words, tmp_path):
    (tmp_path / "a.txt").write_text("one three two")
    (tmp_path / "b.txt").write_text("two")
    given = [str(tmp_path / "?.txt")]
    built, _ = outcome_of(build(given, tmp_path / "corpus", tokenizer=words))
    assert [built.n_bytes, [built.n_ids(i) for i in (0, 1)]] == [[13, 3], [5, 3]]
    assert [built.bytes_per_id(i) for i in (0, 1)] == [13 / 3, 3]
    own = tmp_path / "corpus" / "tokenizer.json"  # as a second build with what the first one kept
    again, _ = outcome_of(build(given, tmp_path / "corpus", tokenizer=own))
    assert again.ids(0).tolist() == [301, 0, 300, 5, 301]
    assert own.read_bytes() == words.read_bytes()


def test_bad_sources_are_named(tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    for bad, kind, message in (
        ([], ArgumentError, "documents: `sources` must be a list of at least one path, got"),
        ("text", ArgumentError, "`sources` must be a list of at least one path, got 'text'"),
        (5, ArgumentError, "`sources` must be a list of at least one path, got 5"),
        ([""], ArgumentError, "`sources` must be a list of at least one path, got"),
        (["~nobody-of-this-name/x"], StoreError, "cannot read ~nobody.*: there is no such file"),
        (["\0/*"], StoreError, "there is no such file"),
        ([str(empty)], StoreError, "cannot read .*empty: there is no such file, or no text in it"),
        ([str(tmp_path / "no*.txt")], StoreError, "cannot read .*no.*txt: there is no such file"),
    ):
        with pytest.raises(kind, match=message):
            documents.documents(bad)
    (empty / "a.txt").write_text("")
    (empty / "b.txt").write_text("")
    for text in ("", "a"):
        (empty / "b.txt").write_text(text)
        message = r"cannot read .*empty: there is no text in it, or too little"
        with pytest.raises(StoreError, match=message):
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


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")


@contextmanager
def full(path):
    """As `replacing`, on a disk without room."""
    yield Path("/dev/full")


@needs_full
def test_a_full_disk_leaves_the_corpus_that_was_there(texts, tmp_path, monkeypatch):
    before = corpus(texts, tmp_path)
    monkeypatch.setattr(corpus_file, "replacing", full)
    with pytest.raises(StoreError, match=r"cannot write .*corpus: No space left on device"):
        outcome_of(build([str(texts / "1*")], tmp_path / "corpus"))
    assert Corpus(tmp_path / "corpus").digest == before.digest


@needs_full
def test_a_disk_that_is_full_in_the_end_leaves_no_corpus(texts, tmp_path, monkeypatch):
    """New ids with an old index would be a corpus that never was."""

    def replacing(path):
        return (full if path.name == "corpus.json" else plain)(path)

    plain = corpus_file.replacing
    corpus(texts, tmp_path)
    monkeypatch.setattr(corpus_file, "replacing", replacing)
    with pytest.raises(StoreError, match="No space left on device"):
        outcome_of(build([str(texts)], tmp_path / "corpus", validation=0.5))
    with pytest.raises(StoreError, match="there is no corpus in it"):
        Corpus(tmp_path / "corpus")


def test_a_build_that_is_stopped_leaves_the_corpus_that_was_there(texts, tmp_path):
    before = corpus(texts, tmp_path)
    work = build([str(texts / "1*")], tmp_path / "corpus")
    next(work)
    assert len([*(tmp_path / "corpus").iterdir()]) == 3
    work.close()
    assert sorted(path.name for path in (tmp_path / "corpus").iterdir()) == [
        "corpus.json", "tokens.bin",
    ]  # fmt: skip
    assert Corpus(tmp_path / "corpus").digest == before.digest


def test_what_a_killed_build_left_goes(texts, tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / ".pentti-abcdefgh").write_bytes(b"ids")
    corpus(texts, tmp_path)
    assert not list((tmp_path / "corpus").glob(".pentti-*"))


def test_a_corpus_has_a_digest_of_all_that_is_in_it(texts, tmp_path, words):
    def digest(name="00.txt", text="one two ", **settings):
        for path in tmp_path.glob("given/*"):
            path.unlink()
        (tmp_path / "given").mkdir(exist_ok=True)
        (tmp_path / "given" / name).write_text(text)
        (tmp_path / "given" / "11.txt").write_text("two")
        (tmp_path / "given" / "22.txt").write_text("three")
        built, _ = outcome_of(build([str(tmp_path / "given")], tmp_path / "corpus", **settings))
        assert Corpus(tmp_path / "corpus").digest == built.digest
        return built.digest

    first = digest()
    assert len(first) == 32
    assert digest() == first
    by_words = digest(tokenizer=words)
    other = tmp_path / "other.json"
    other.write_text(words.read_text() + "\n")
    shares = [documents.drawn(name) for name in ("00.txt", "11.txt", "22.txt")]
    more = sorted(shares)[1] + 1e-9
    found = [
        first, digest(text="one one "), digest(name="01.txt"), digest(validation=more), by_words,
        digest(tokenizer=words, text="one  two"), digest(tokenizer=other),
    ]  # fmt: skip
    assert len({*found}) == len(found)


def test_a_corpus_of_an_older_version_has_a_digest_of_its_index(texts, tmp_path):
    new = corpus(texts, tmp_path).digest
    path = tmp_path / "corpus" / "corpus.json"
    index = json.loads(path.read_text())
    del index["digest"]
    found = []
    for change in ({}, {}, {"validation": [3]}):
        path.write_text(json.dumps(index | change))
        found.append(Corpus(tmp_path / "corpus").digest)
    assert found[0] == found[1]
    assert len({new, *found}) == 3


WRONG = (
    {"names": None}, {"names": {}}, {"names": [1, 2, 3]}, {"names": ["a", "b"]}, {"n_ids": [1, 2]},
    {"n_ids": [1, 2, -3]}, {"n_ids": [1, 2, 0]}, {"n_ids": [1, 2, 3.0]}, {"n_ids": "123"},
    {"n_bytes": [1, 2]}, {"n_bytes": None}, {"n_bytes": [1, 2, 0]}, {"validation": []},
    {"validation": [3]}, {"validation": [-1]}, {"validation": [0, 0]}, {"validation": [0, 1, 2]},
    {"validation": [[0]]}, {"validation": 0}, {"validation": None}, {"tokenizer": "yes"},
    {"digest": 5}, {"format_version": None}, {"format_version": 1.5}, {"pentti": ["corpus"]},
)  # fmt: skip


@pytest.mark.parametrize("change", WRONG, ids=str)
def test_an_index_that_cannot_be_true_is_refused(tmp_path, change):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name)
    outcome_of(build([str(tmp_path / "?.txt")], tmp_path / "corpus"))
    path = tmp_path / "corpus" / "corpus.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StoreError, match=r"corpus\.json: it is damaged, or no corpus"):
        Corpus(tmp_path / "corpus")


def test_a_damaged_corpus_is_refused(texts, tmp_path):
    corpus(texts, tmp_path)
    index, ids = tmp_path / "corpus" / "corpus.json", tmp_path / "corpus" / "tokens.bin"
    whole = index.read_text()
    for text in (b"\xff\xfe", b"[]", b"5", b"null", b"[" * 100_000, b'{"a": ' * 100_000, b"{}"):
        index.write_bytes(text)
        with pytest.raises(StoreError, match=r"corpus\.json: it is damaged, or no corpus"):
            Corpus(tmp_path / "corpus")
    huge = whole.replace('"n_ids": [', f'"n_ids": [{10**30}, ').replace(
        '"n_bytes": [', '"n_bytes": [1, '
    )
    for text, message in (
        (huge.replace('"names": [', '"names": ["x", '), r"tokens\.bin: it is missing or damaged"),
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
