"""Text to token ids and back: bytes as they are, or the pieces of a tokenizer."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pentti import checks
from pentti.errors import ArgumentError, StoreError

__all__ = ["Encoding"]

Ids = npt.NDArray[Any]


class Encoding:
    """How text becomes token ids, with one more id for the border between documents.

    Args:
        tokenizer: A ``tokenizer.json`` as Hugging Face's *tokenizers* writes it; None for bytes.
            What it says of padding and of the longest text is left aside.

    Raises:
        StoreError: if the tokenizer cannot be read, or has no tokens.
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
        self.border = 256 if self._pieces is None else 1 + max(self._pieces.get_vocab().values())
        """The id that stands before and after every document: the one after the last of the text's,
        of which a tokenizer may have left some out."""

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
            Array of `dtype`; empty where the tokenizer leaves all of the text out.

        Raises:
            ArgumentError: if the text is not bytes.
            StoreError: if the tokenizer fails, such as at a word that it has no token for.
        """
        if not isinstance(text, bytes):
            checks.reject("Encoding", "text", "be bytes", text)
        if self._pieces is None:
            return np.frombuffer(text, dtype=np.uint8)
        try:
            found = self._pieces.encode(text.decode("utf-8", "replace"), add_special_tokens=False)
        except Exception as error:  # what tokenizers raises has no narrower type
            raise StoreError(f"cannot encode a text with {self.tokenizer}: {error}") from error
        return np.array(found.ids, dtype=self.dtype)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; borders are left out.

        Args:
            ids: Each below `vocab_size`.

        Returns:
            The text, with U+FFFD for bytes that are no UTF-8.

        Raises:
            ArgumentError: if one is no id.
        """
        known = [checks.integer("Encoding", "ids", i, 0, self.border) for i in ids]
        inner = [i for i in known if i != self.border]
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
    try:
        if not path.is_file():
            raise StoreError(f"cannot read {path}: there is no such file")
        whole = path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        found = tokenizers.Tokenizer.from_buffer(whole)
    except Exception as error:  # what tokenizers raises has no narrower type
        raise StoreError(f"cannot read {path}: it is no tokenizer ({error})") from error
    if not found.get_vocab_size():
        raise StoreError(f"cannot read {path}: it is a tokenizer without tokens")
    found.no_truncation()  # it would cut documents
    found.no_padding()
    return found
