"""Which files are the documents of a corpus, what they hold, and which are kept for validation."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from pentti import checks
from pentti.errors import StoreError
from pentti.training.labels import is_labelled

__all__ = ["Document", "documents", "drawn", "read", "standard_library"]

_SEEN = 8192  # bytes of a file that tell whether it is text
_INSTALLED = ("dist-packages", "site-packages")
_OWN = {"run.json": "run", "corpus.json": "corpus"}


class Document(NamedTuple):
    """A file, and what it is called wherever its folder may lie.

    Attributes:
        path: The file.
        name: Its path below the folder that was named, or below the part of a pattern that has no
            wildcard; of a file that was named itself, its last part. Names that several files would
            share begin with as much of their folders as tells them apart.
    """

    path: Path
    name: str


def standard_library() -> str:
    """The folder of the Python standard library's own source: real text that is always at hand.

    Returns:
        The path.
    """
    return sysconfig.get_paths()["stdlib"]


def documents(sources: Sequence[str | os.PathLike[str]]) -> list[Document]:
    """The files that some paths and patterns name, each once, in the order of their names.

    A file is a document. Of a folder all text files are, in folders below too, but hidden ones,
    those that hold a zero byte near their start, and what a run or a corpus of pentti has written;
    of the standard library only Python source, without what was installed beside it. A pattern may
    have ``*``, ``?``, ``[…]`` and ``**``; it finds no hidden files either, unless it has their dot.
    Links to folders are followed where they are named, not where they are found.

    Args:
        sources: Files, folders and patterns.

    Returns:
        The files, at least one.

    Raises:
        ArgumentError: if no source is given, or one is no path.
        StoreError: if a source names no file, or a file or folder cannot be read.
    """
    what = "at least one path"
    given = checks.items("documents", "sources", sources, what)
    if not given or not all(isinstance(one, str | os.PathLike) and str(one) for one in given):
        checks.reject("documents", "sources", f"be a list of {what}", sources)
    found: dict[Path, Document] = {}
    for source in map(os.fspath, given):
        try:
            some = sorted(_named(source), key=lambda one: (one.path.is_symlink(), one.name))
            for one in some:  # a link to what is there already adds nothing
                found.setdefault(one.path.resolve(), one)
        except OSError as error:
            name = error.filename or source
            raise StoreError(f"cannot read {name}: {error.strerror or error}") from error
        if not some:
            raise StoreError(f"cannot read {source}: there is no such file, or no text in it")
    return sorted(_told_apart([*found.values()]), key=lambda one: one.name.split("/"))


def _told_apart(found: list[Document]) -> list[Document]:
    while True:
        shared = Counter(one.name for one in found)
        if max(shared.values()) == 1:
            return found
        found = [_longer(one) if shared[one.name] > 1 else one for one in found]


def _longer(one: Document) -> Document:
    """With one more folder in its name."""
    n = one.name.count("/") + 2
    return one._replace(name=Path(*one.path.absolute().parts[-n:]).as_posix())


def _named(source: str) -> Iterator[Document]:
    path = Path(os.path.expanduser(source))  # noqa: PTH111 an unknown ~user is left as it is
    if path.is_file():
        yield Document(path, path.name)
    elif source == standard_library():
        yield from _below(path, ("**", "*.py"), _INSTALLED)
    elif path.is_dir():
        if _is_own(path):
            raise StoreError(f"cannot read {source}: it is what pentti has written, and no text")
        yield from (one for one in _below(path, ("**",)) if _is_text(one.path))
    elif path.exists():
        raise StoreError(f"cannot read {source}: it is neither a file nor a folder")
    else:
        n = next((i for i, part in enumerate(path.parts) if _is_wild(part)), len(path.parts))
        fixed, pattern = Path(*path.parts[:n]), path.parts[n:]
        if pattern and fixed.is_dir():
            yield from _below(fixed, pattern)


def _below(
    folder: Path, pattern: Sequence[str], left_out: Collection[str] = ()
) -> Iterator[Document]:
    """The files whose path below a folder fits the parts of a pattern."""
    todo = [(folder, [*pattern])]
    while todo:
        place, (first, *rest) = todo.pop()
        deep = first == "**"
        if deep and rest:
            todo.append((place, rest))
        for path in _found(place, first):
            if path.name in left_out:
                continue
            if not path.is_dir():
                if not rest and path.is_file():
                    yield Document(path, path.relative_to(folder).as_posix())
            elif deep and not path.is_symlink():
                todo.append((path, [first, *rest]))
            elif rest and not deep:
                todo.append((path, rest))


def _found(folder: Path, part: str) -> list[Path]:
    """What in a folder fits a part of a pattern, without what pentti has written."""
    if not _is_wild(part):
        return [folder / part]
    found = (path for path in folder.iterdir() if fnmatch(path.name, part))
    shown = (path for path in found if part.startswith(".") or not path.name.startswith("."))
    return sorted(path for path in shown if not _is_own(path))


def _is_wild(part: str) -> bool:
    return not set(part).isdisjoint("*?[")


def _is_own(folder: Path) -> bool:
    return any(is_labelled(folder / name, kind) for name, kind in _OWN.items())


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        return b"\0" not in file.read(_SEEN)


def read(path: Path) -> bytes:
    """What a document holds.

    Args:
        path: One of `documents`.

    Returns:
        Its bytes.

    Raises:
        StoreError: if it cannot be read any more.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error


def drawn(name: str) -> float:
    """The number that a document draws in the lot for validation: its name alone decides.

    So documents that come or go leave the others where they are.

    Args:
        name: Of the document.

    Returns:
        As good as random, in [0, 1).
    """
    known = name.encode("utf-8", "surrogatepass")  # file names may be no UTF-8
    return int.from_bytes(hashlib.blake2b(known, digest_size=8).digest(), "big") / 2**64
