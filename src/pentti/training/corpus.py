"""A corpus: documents as token ids in one file, which is mapped into memory and not read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import numpy as np
import torch
from torch import Tensor

from pentti import checks
from pentti.errors import StoreError
from pentti.files import replacing
from pentti.training.documents import documents, drawn, read
from pentti.training.encoding import Encoding
from pentti.training.labels import read_labelled

__all__ = ["Corpus", "build"]

_KIND = "corpus"
_FORMAT = 1
_IDS, _INDEX, _TOKENIZER = "tokens.bin", "corpus.json", "tokenizer.json"
_LAST = 0.1  # of a lone document that is kept for validation


class Corpus:
    """Documents that `build` has written; opening them reads no more than their names.

    Every document has a border before it and one after it.

    Args:
        folder: Where they are.

    Raises:
        StoreError: if there is no corpus, or it is damaged or newer than this pentti.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        source = Path(folder)
        index = _index(source / _INDEX)
        tokenizer = source / _TOKENIZER if index["tokenizer"] else None
        self.encoding = Encoding(tokenizer)
        self.names: list[str] = index["names"]
        self.n_bytes: list[int] = index["n_bytes"]
        """Of each document, as it was read."""
        self.digest: str = index.get("digest") or _digest(index)
        """Another one where a document, its name, the tokenizer or the choice for validation is."""
        self._ids = _mapped(source / _IDS, self.encoding.dtype, sum(index["n_ids"]))
        self._offsets = np.cumsum([0, *index["n_ids"]])
        self.validation: list[int] = sorted(index["validation"], key=self._lot)
        """The documents that are kept for validation, in an order that their names draw: the first
        of them are a sample of all."""
        kept = set(self.validation)
        self.train: list[int] = [i for i in range(len(self.names)) if i not in kept]
        """All others."""

    def __len__(self) -> int:
        return len(self.names)

    def _lot(self, document: int) -> float:
        return drawn(self.names[document])

    def n_ids(self, document: int) -> int:
        """How many ids a document has, its two borders included.

        Args:
            document: Which one.

        Returns:
            The number.

        Raises:
            ArgumentError: if there is no such document.
        """
        document = checks.integer("Corpus", "document", document, 0, len(self) - 1)
        return int(self._offsets[document + 1] - self._offsets[document]) + 2

    def bytes_per_id(self, document: int) -> float:
        """How much text an id of a document stands for, on average.

        Args:
            document: Which one.

        Returns:
            Bytes.

        Raises:
            ArgumentError: if there is no such document.
        """
        n = self.n_ids(document) - 2
        return self.n_bytes[document] / n

    def ids(self, document: int, start: int = 0, stop: int | None = None) -> Tensor:
        """Some ids of a document.

        Args:
            document: Which one.
            start: The first; 0 is the border before it.
            stop: After the last; None for all.

        Returns:
            int64 tensor (n,).

        Raises:
            ArgumentError: if there is no such document, or a place is negative.
        """
        n, border = self.n_ids(document), self.encoding.border
        start = checks.integer("Corpus", "start", start, 0)
        stop = n if stop is None else min(checks.integer("Corpus", "stop", stop, 0), n)
        low, high = max(start, 1), min(stop, n - 1)
        first = int(self._offsets[document]) - 1  # of its border, as if it were in the file
        inner = self._ids[first + low : first + max(low, high)].astype(np.int64)
        before, after = [border] * (start < 1 <= stop), [border] * (start < n <= stop)
        return torch.from_numpy(np.concatenate([before, inner, after]).astype(np.int64))


def build(
    sources: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    validation: float = 0.1,
) -> Generator[float, None, Corpus]:
    """Write the documents of some files as a corpus.

    Which of them are kept for validation, their names alone decide, so that documents that come or
    go leave the others where they are. At least one is kept, and at least one is not; of a lone
    document it is the last tenth. A file without text, or of which the tokenizer leaves nothing, is
    no document.

    Args:
        sources: Files, folders and patterns; see `documents`.
        folder: Where to; what is there already is replaced at the end, and is no document.
        tokenizer: A ``tokenizer.json``; None for bytes.
        validation: Share of the documents that is kept for validation, in [0, 1].

    Returns:
        A generator of the share that is done, which returns the corpus.

    Raises:
        ArgumentError: if the share is none.
        StoreError: if a file cannot be read, all are empty, or the corpus cannot be written.
    """
    checks.number("build", "validation", validation, 0.0, 1.0)
    target, encoding = Path(folder), Encoding(tokenizer)
    own = target.resolve()
    files = [one for one in documents(sources) if own not in one.path.resolve().parents]
    try:
        target.mkdir(parents=True, exist_ok=True)
        for left in target.glob(".pentti-*"):  # of one that was killed
            left.unlink()
        with replacing(target / _IDS) as draft:
            with draft.open("wb") as out:
                new = _New(out, encoding)
                for number, (path, name) in enumerate(files):
                    new.add(name, read(path))
                    yield (number + 1) / len(files)
                lone = len(new.names) == 1
                if lone:
                    new = new.halved()
            if len(new.names) < 2:
                given = ", ".join(str(source) for source in sources)
                raise StoreError(f"cannot read {given}: there is no text in it, or too little")
            (target / _INDEX).unlink(missing_ok=True)  # no index, no corpus
        if tokenizer is not None:
            with replacing(target / _TOKENIZER) as draft:
                draft.write_bytes(read(Path(tokenizer)))
        with replacing(target / _INDEX) as draft:
            kept = [1] if lone else _kept(new.names, validation)
            draft.write_text(json.dumps(new.index(kept)), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror or error}") from error
    return Corpus(target)


class _New:
    """A corpus on its way to the disk: its ids in a file, what else there is of it here."""

    def __init__(self, out: BinaryIO, encoding: Encoding) -> None:
        self.names: list[str] = []
        self._n_bytes: list[int] = []
        self._n_ids: list[int] = []
        self._out, self._encoding = out, encoding
        self._last = b""
        tokenizer = encoding.tokenizer
        self._read = hashlib.blake2b(b"" if tokenizer is None else read(tokenizer))

    def add(self, name: str, text: bytes) -> None:
        """Write a document, if there is anything in it."""
        ids = self._encoding.encode(text)
        if len(ids):
            self._out.write(ids.tobytes())
            self.names.append(name)
            self._n_bytes.append(len(text))
            self._n_ids.append(len(ids))
            self._last = text
            self._read.update(text)

    def halved(self) -> _New:
        """The only document as two, so that there is something to validate on."""
        (name,), text = self.names, self._last
        cut = len(text) - max(1, int(_LAST * len(text)))
        self._out.seek(0)
        self._out.truncate()
        two = _New(self._out, self._encoding)
        two.add(f"{name} (start)", text[:cut])
        two.add(f"{name} (end)", text[cut:])
        return two

    def index(self, kept: Sequence[int]) -> dict[str, Any]:
        """What is written beside the ids, with the documents that are kept for validation."""
        index = {
            "pentti": _KIND, "format_version": _FORMAT,
            "tokenizer": self._encoding.tokenizer is not None, "names": self.names,
            "n_bytes": self._n_bytes, "n_ids": self._n_ids, "validation": kept,
        }  # fmt: skip
        return index | {"digest": _digest([index, self._read.hexdigest()])}


def _digest(facts: object) -> str:
    text = json.dumps(facts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _kept(names: Sequence[str], share: float) -> list[int]:
    kept = [i for i, name in enumerate(names) if drawn(name) < share]
    if not kept:
        return [len(names) - 1]
    return kept if len(kept) < len(names) else kept[1:]


def _index(path: Path) -> dict[str, Any]:
    """What is written beside the ids, if it may be true."""
    index = read_labelled(path, _KIND, _FORMAT)
    names, kept = index.get("names"), index.get("validation")
    if not (
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and all(_whole(index.get(key), 1) for key in ("n_bytes", "n_ids"))
        and len(names) == len(index["n_bytes"]) == len(index["n_ids"])
        and _whole(kept, 0)
        and 0 < len(set(kept)) == len(kept) < len(names)
        and max(kept) < len(names)
        and isinstance(index.get("tokenizer"), bool)
        and isinstance(index.get("digest", ""), str)
    ):
        raise StoreError(f"cannot read {path}: it is damaged, or no {_KIND}")
    return index


def _whole(values: object, least: int) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(n) is int and n >= least for n in values)


def _mapped(path: Path, dtype: np.dtype[Any], n_ids: int) -> np.ndarray[Any, Any]:
    try:
        if path.is_file() and path.stat().st_size == n_ids * dtype.itemsize:
            return np.memmap(path, dtype=dtype, mode="r")
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    raise StoreError(f"cannot read {path}: it is missing or damaged")
