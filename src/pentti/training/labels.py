"""JSON files that begin with what they are, and in which format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pentti.errors import StoreError

__all__ = ["read_labelled"]


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
        if found["pentti"] != kind:
            raise ValueError
        version = int(found["format_version"])
    except FileNotFoundError:
        raise StoreError(f"cannot read {path.parent}: there is no {kind} in it") from None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"cannot read {path}: it is damaged, or no {kind}") from error
    if version > newest:
        raise StoreError(
            f"cannot read {path}: its format {version} is newer than {newest}, the newest that "
            "this pentti reads; install a newer one"
        )
    return found
