"""Which files are the documents of a corpus, what they hold, and which are kept for validation."""

from __future__ import annotations

import glob
import hashlib
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pentti import checks
from pentti.errors import StoreError

__all__ = ["Document", "documents", "is_validation", "read", "standard_library"]

_SEEN = 8192  # bytes of a file that tell whether it is text


class Document(NamedTuple):
    """A file, and what it is called wherever its folder may lie.

    Attributes:
        path: The file.
        name: Its path below the folder that was named; of one that was named itself, its last part.
    """

    path: Path
    name: str


def standard_library() -> str:
    """The folder of the Python standard library's own source: real text that is always at hand.

    Returns:
        The path.
    """
    return sysconfig.get_paths()["stdlib"]


def documents(sources: Sequence[str]) -> list[Document]:
    """The files that some paths and patterns name, each once, in the order of their names.

    A file is a document. Of a folder all text files are, in folders below too, but hidden ones,
    and those that hold a zero byte near their start; of the standard library only Python source,
    without what was installed beside it. A pattern may have ``*``, ``?``, ``[…]`` and ``**``.

    Args:
        sources: Files, folders and patterns.

    Returns:
        The files, at least one.

    Raises:
        ArgumentError: if no source is given.
        StoreError: if a source names no file, or a file cannot be read.
    """
    if isinstance(sources, str) or not sources:
        checks.reject("documents", "sources", "be a list of at least one path", sources)
    found: dict[Path, str] = {}
    for source in sources:
        some = {path: _name(source, path) for path in _named(source)}
        if not some:
            raise StoreError(f"cannot read {source}: there is no such file, or no text in it")
        found = some | found
    return [Document(path, found[path]) for path in sorted(found)]


def _name(source: str, path: Path) -> str:
    folder = Path(source).expanduser()
    return path.relative_to(folder).as_posix() if folder.is_dir() else path.name


def _named(source: str) -> Iterator[Path]:
    path = Path(source).expanduser()
    if path.is_file():
        yield path
    elif source == standard_library():
        for one in path.rglob("*.py"):
            if not {"site-packages", "dist-packages"} & set(one.relative_to(path).parts):
                yield one
    elif path.is_dir():
        for one in path.rglob("*"):
            hidden = any(part.startswith(".") for part in one.relative_to(path).parts)
            if not hidden and one.is_file() and _is_text(one):
                yield one
    else:
        for name in glob.iglob(str(path), recursive=True):  # noqa: PTH207 patterns may be absolute
            if Path(name).is_file():
                yield Path(name)


def _is_text(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"\0" not in file.read(_SEEN)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error


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


def is_validation(name: str, share: float) -> bool:
    """Whether a document is kept for validation: its name alone decides.

    So documents that come or go leave the others where they are.

    Args:
        name: Of the document.
        share: Of all documents that are kept, in [0, 1].

    Returns:
        Whether it is.
    """
    drawn = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
    return drawn < share * 2**64
