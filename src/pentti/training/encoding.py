"""Text to token ids and back: bytes as they are, or the pieces of a tokenizer."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pentti.errors import ArgumentError, StoreError

__all__ = ["Encoding"]

Ids = npt.NDArray[Any]


class Encoding:
    """How text becomes token ids, with one more id for the border between documents.

    Args:
        tokenizer: A ``tokenizer.json`` as Hugging Face's *tokenizers* writes it; None for bytes.

    Raises:
        StoreError: if the tokenizer cannot be read.
        ArgumentError: if there is a tokenizer, and the package *tokenizers* is not installed.

    Examples:
        >>> encoding = Encoding()
        >>> encoding.encode("Åbo".encode()).tolist(), encoding.border, encoding.vocab_size
        ([195, 133, 98, 111], 256, 257)
        >>> encoding.decode([195, 133, 98, 111, 256])
        'Åbo'
    """

    def __init__(self, tokenizer: str | os.PathLike[str] | None = None) -> None:
        self.tokenizer = None if tokenizer is None else Path(tokenizer)
        self._pieces = None if self.tokenizer is None else _tokenizer(self.tokenizer)
        self.border = 256 if self._pieces is None else int(self._pieces.get_vocab_size())
        """The id that stands before and after every document."""

    @property
    def vocab_size(self) -> int:
        """How many ids there are, V, the border included."""
        return self.border + 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest type that holds all ids but the border, which is in no file."""
        return np.min_scalar_type(self.border - 1)

    def encode(self, text: bytes) -> Ids:
        """The ids of a text, without borders.

        Args:
            text: Bytes; a tokenizer reads them as UTF-8, and what is none as U+FFFD.

        Returns:
            Array of `dtype`.
        """
        if self._pieces is None:
            return np.frombuffer(text, dtype=np.uint8)
        found = self._pieces.encode(text.decode("utf-8", "replace"), add_special_tokens=False)
        return np.array(found.ids, dtype=self.dtype)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; borders are left out.

        Args:
            ids: Each below `vocab_size`.

        Returns:
            The text, with U+FFFD for bytes that are no UTF-8.
        """
        inner = [int(i) for i in ids if int(i) != self.border]
        if self._pieces is None:
            return bytes(inner).decode("utf-8", "replace")
        return str(self._pieces.decode(inner))


def _tokenizer(path: Path) -> Any:
    try:
        import tokenizers
    except ModuleNotFoundError as error:
        raise ArgumentError(
            "Encoding: a `tokenizer` needs the package tokenizers; install it with: "
            "pip install 'pentti[training]'"
        ) from error
    if not path.is_file():
        raise StoreError(f"cannot read {path}: there is no such file")
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # what tokenizers raises has no narrower type
        raise StoreError(f"cannot read {path}: it is no tokenizer ({error})") from error
