"""Write a file whole or not at all, and a folder from one process at a time."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pentti.errors import StoreError

__all__ = ["locked", "replacing", "sync"]

_LOCK = ".lock"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to; it takes the place of `path` when the block ends well.

    The bytes are on the disk before the old file goes. Whatever goes wrong, a full disk and
    Ctrl-C included, `path` holds what it held before, and nothing else is left behind.

    Args:
        path: The file to replace or to make; its folder must exist.

    Yields:
        A temporary path in the same folder.

    Raises:
        StoreError: if the file cannot be written.

    Examples:
        >>> import tempfile, pathlib
        >>> target = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
        >>> with replacing(target) as draft:
        ...     _ = draft.write_text("done")
        >>> target.read_text()
        'done'
    """
    target = Path(path).resolve()  # a link stays a link
    if target.exists() and not target.is_file():
        what = "a directory" if target.is_dir() else "no regular file"
        raise StoreError(f"cannot write {target}: it is {what}, a file is expected")
    draft = None
    try:
        handle, name = tempfile.mkstemp(prefix=".pentti-", dir=target.parent)
        os.close(handle)
        draft = Path(name)
        yield draft
        draft.chmod(target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
        sync(draft)
        draft.replace(target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(
            f"cannot write {target}: {reason}; what was there before is unchanged"
        ) from error
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)
    with suppress(OSError):  # the file is whole either way; not all systems can sync a folder
        sync(target.parent)


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep a folder to oneself inside the block, where the system has locks.

    The lock goes with the process, however that ends; its file stays. A folder that was made for
    the block goes again if the block fails before there is anything in it.

    Args:
        folder: Made if it is missing.

    Yields:
        Nothing.

    Raises:
        StoreError: if another process, or another block of this one, has the lock, or the folder
            cannot be made.
    """
    target = Path(folder)
    try:
        is_new = not os.path.lexists(target)
        target.mkdir(parents=True, exist_ok=True)
        handle = os.open(target / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror or error}") from error
    try:
        _lock(handle, target)
        try:
            yield
        except BaseException:
            files = [path for path in target.rglob("*") if not path.is_dir()]
            if is_new and [path.name for path in files] == [_LOCK]:
                shutil.rmtree(target, ignore_errors=True)
            raise
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    try:
        import fcntl
    except ModuleNotFoundError:  # no such locks on Windows
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise StoreError(
                f"cannot write {folder}: somebody works in it already; wait for their end, or "
                "choose another folder"
            ) from None
        # Some network file systems have no locks: it goes without.


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk.

    Args:
        path: Which one.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
