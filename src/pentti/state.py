"""The state of a memory: settings that belong to it, dtypes that it keeps to, and its lock."""

from __future__ import annotations

import threading
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from pentti import checks

__all__ = ["DTYPES", "StatefulMemory"]

_INTEGERS = (torch.int8, torch.int16, torch.int32)

DTYPES = {str(dtype): dtype for dtype in (*_INTEGERS, torch.float32, torch.float64)}
"""The types that contents may have, by name."""


class StatefulMemory(nn.Module):
    """A module whose state fits only where the settings agree, and which threads may share.

    Attributes:
        decoder: With its settings in `config()`.
        word_bits: Width of a word, U.
        contents: Tensor of shape (M, U), of one of the `DTYPES`.
    """

    decoder: Any
    word_bits: int
    contents: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._n_changes = 0
        self._lock = threading.RLock()

    @property
    def counter_dtype(self) -> torch.dtype:
        """Type of the contents."""
        return self.contents.dtype

    def get_extra_state(self) -> dict[str, Any]:
        """The settings that belong to the state: a state of other settings does not fit.

        Returns:
            Plain numbers and texts.
        """
        return {
            "word_bits": self.word_bits,
            "counter_dtype": str(self.counter_dtype),
            "decoder": self.decoder.config(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Nothing to do: `load_state_dict` has compared the settings before.

        Args:
            state: What `get_extra_state` gave.
        """

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        state = state_dict.get(f"{prefix}_extra_state")
        if state is not None and state != self.get_extra_state():
            expected = f"have the settings {self.get_extra_state()}"
            checks.reject("load_state_dict", "state_dict", expected, checks.Words(str(state)))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._n_changes += 1

    def _apply(self, fn: Any, recurse: bool = True) -> StatefulMemory:
        dtype = fn(self.contents[:0]).dtype
        if dtype not in DTYPES.values():
            expected = f"stay one of {', '.join(DTYPES)}"
            checks.reject(type(self).__name__, "counter_dtype", expected, dtype)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._lock = threading.RLock()

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"word_bits={self.word_bits}, counter_dtype={self.counter_dtype}"

    @property
    def _edits(self) -> tuple[int, ...]:
        """Numbers that are others once the contents have changed, or the decoder has."""
        tensors = (self.contents, *self.decoder.parameters(), *self.decoder.buffers())
        marks = [(_version(tensor), tensor.data_ptr()) for tensor in tensors]
        return self._n_changes, hash(repr(self.decoder.config())), *chain(*marks)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # noqa: SLF001
