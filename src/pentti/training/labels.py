"""JSON files that begin with what they are, and in which format."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pentti.errors import StoreError

__all__ = ["is_labelled", "read_labelled"]


def is_labelled(path: Path, kind: str) -> bool:
    """Whether there is such a file; only its beginning is read.

    Args:
        path: The file, which may be missing or another's.
        kind: What its label must say, such as "corpus".

    Returns:
        Whether it is one.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return bool(re.match(rf'{{\s*"pentti": "{kind}"'.encode(), file.read(100)))


def read_labelled(path: Path, kind: str, newest: int) -> dict[str, Any]:
    """What such a file holds.

    Args:
        path: The file, of which a folder has one.
        kind: What its label must say, such as "corpus".
        newest: Format that this version reads at most.

    Returns:
        All of it, the label included.

    Raises:
        StoreError: if it is missing, damaged, of another kind or newer.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = found["format_version"]
        if found["pentti"] != kind or type(version) is not int:
            raise ValueError
    except FileNotFoundError:
        raise StoreError(f"cannot read {path.parent}: there is no {kind} in it") from None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"cannot read {path}: it is damaged, or no {kind}") from error
    if version > newest:
        raise StoreError(
            f"cannot read {path}: its format {version} is newer than {newest}, the newest that "
            "this pentti reads; install a newer one"
        )
    return found
