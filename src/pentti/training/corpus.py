"""A corpus: documents as token ids in one file, which is mapped into memory and not read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pentti import checks
from pentti.errors import StoreError
from pentti.files import replacing
from pentti.training.documents import documents, is_validation, read
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
        index = read_labelled(source / _INDEX, _KIND, _FORMAT)
        tokenizer = source / _TOKENIZER if index["tokenizer"] else None
        self.encoding = Encoding(tokenizer)
        self.names: list[str] = index["names"]
        self.n_bytes: list[int] = index["n_bytes"]
        """Of each document, as it was read."""
        self._offsets = np.cumsum([0, *index["n_ids"]])
        self.validation: list[int] = index["validation"]
        """The documents that are kept for validation, ascending."""
        kept = set(self.validation)
        self.train: list[int] = [i for i in range(len(self.names)) if i not in kept]
        """All others."""
        self._ids = _mapped(source / _IDS, self.encoding.dtype, int(self._offsets[-1]))

    def __len__(self) -> int:
        return len(self.names)

    def n_ids(self, document: int) -> int:
        """How many ids a document has, its two borders included.

        Args:
            document: Which one.

        Returns:
            The number.
        """
        return int(self._offsets[document + 1] - self._offsets[document]) + 2

    def bytes_per_id(self, document: int) -> float:
        """How much text an id of a document stands for, on average.

        Args:
            document: Which one.

        Returns:
            Bytes.
        """
        return self.n_bytes[document] / max(1, self.n_ids(document) - 2)

    def ids(self, document: int, start: int = 0, stop: int | None = None) -> Tensor:
        """Some ids of a document.

        Args:
            document: Which one.
            start: The first; 0 is the border before it.
            stop: After the last; None for all.

        Returns:
            int64 tensor (n,).
        """
        n, border = self.n_ids(document), self.encoding.border
        stop = n if stop is None else min(stop, n)
        first = int(self._offsets[document]) - 1  # of its border, as if it were in the file
        inner = self._ids[first + max(start, 1) : first + min(stop, n - 1)].astype(np.int64)
        before, after = [border] * (start < 1 <= stop), [border] * (start < n <= stop)
        return torch.from_numpy(np.concatenate([before, inner, after]).astype(np.int64))


def build(
    sources: Sequence[str],
    folder: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    validation: float = 0.1,
) -> Generator[float, None, Corpus]:
    """Write the documents of some files as a corpus.

    Which of them are kept for validation, their names alone decide, so that documents that come or
    go leave the others where they are. At least one is kept, and at least one is not; of a lone
    document it is the last tenth.

    Args:
        sources: Files, folders and patterns; see `documents`.
        folder: Where to; what is there already is replaced.
        tokenizer: A ``tokenizer.json``; None for bytes.
        validation: Share of the documents that is kept for validation, in (0, 1).

    Returns:
        A generator of the share that is done, which returns the corpus.

    Raises:
        ArgumentError: if the share is none.
        StoreError: if a file cannot be read, all are empty, or the corpus cannot be written.
    """
    checks.number("build", "validation", validation, 0.0, 1.0)
    files, target, encoding = documents(sources), Path(folder), Encoding(tokenizer)
    names, n_bytes, n_ids = [], [], []
    try:
        target.mkdir(parents=True, exist_ok=True)
        (target / _INDEX).unlink(missing_ok=True)  # no index, no corpus
        with replacing(target / _IDS) as draft, draft.open("wb") as out:
            for number, (path, called) in enumerate(files):
                text = read(path)
                for name, part in _parts(called, text, len(files)):
                    ids = encoding.encode(part)
                    ids.tofile(out)
                    names.append(name)
                    n_bytes.append(len(part))
                    n_ids.append(len(ids))
                yield (number + 1) / len(files)
        if tokenizer is not None:
            shutil.copyfile(tokenizer, target / _TOKENIZER)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror or error}") from error
    if not sum(n_ids) or not min(n_ids):  # of a lone byte nothing is left to train on
        raise StoreError(f"cannot read {', '.join(sources)}: there is no text in it")
    index = {
        "pentti": _KIND, "format_version": _FORMAT, "tokenizer": tokenizer is not None,
        "names": names, "n_bytes": n_bytes, "n_ids": n_ids,
        "validation": _kept(names, validation),
    }  # fmt: skip
    with replacing(target / _INDEX) as draft:
        draft.write_text(json.dumps(index), encoding="utf-8")
    return Corpus(target)


def _parts(name: str, text: bytes, n_files: int) -> list[tuple[str, bytes]]:
    """A document as it is; a lone one in two, so that there is something to validate on."""
    if n_files > 1:
        return [(name, text)] if text else []
    cut = len(text) - max(1, int(_LAST * len(text)))
    return [(f"{name} (start)", text[:cut]), (f"{name} (end)", text[cut:])]


def _kept(names: Sequence[str], share: float) -> list[int]:
    if len(names) == 2 and names[0].endswith(" (start)"):
        return [1]
    kept = [i for i, name in enumerate(names) if is_validation(name, share)]
    if not kept:
        return [len(names) - 1]
    return kept if len(kept) < len(names) else kept[1:]


def _mapped(path: Path, dtype: np.dtype[Any], n_ids: int) -> np.ndarray[Any, Any]:
    if not path.is_file() or path.stat().st_size != n_ids * dtype.itemsize:
        raise StoreError(f"cannot read {path}: it is missing or damaged")
    return np.memmap(path, dtype=dtype, mode="r") if n_ids else np.empty(0, dtype=dtype)
