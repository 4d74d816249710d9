"""What a whole model has been told: the states of all its sequence memories, for some users."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pentti import checks
from pentti.errors import StoreError
from pentti.nn.memory_state import MemoryState
from pentti.persistence import load_tensors, save_tensors

__all__ = ["ModelMemory", "found_in", "put_into"]

_KIND = "model memory"


class ModelMemory:
    """What users have told a model: one `MemoryState` for each of its sequence memories.

    Made by `PenttiTransformer.new_memory`, and changed in place by what the model reads with it.
    It outlasts a session: attention forgets the text when its cache is let go of, this does not.
    It means something to the model that wrote it, and to no other: the addresses are that model's.

    Args:
        states: Of all sequence memories of the model, from the first layer to the last.

    Raises:
        ArgumentError: if there is none, or they are of batches of different sizes.

    Examples:
        >>> from pentti.nn import PenttiTransformer
        >>> model = PenttiTransformer(256, 32, 2, 2, memory_kind="sequence")
        >>> memory = model.new_memory(1)
        >>> new = model.generate(list(b"The cat is called Miu."), 4, memory=memory)
        >>> memory.n_tokens
        tensor([26])
        >>> new = model.generate(list(b"What is the cat called?"), 4, memory=memory)
        >>> memory.n_tokens
        tensor([53])
    """

    def __init__(self, states: Iterable[MemoryState]) -> None:
        where = "ModelMemory"
        self.states: tuple[MemoryState, ...] = tuple(
            checks.items(where, "states", states, "MemoryStates")
        )
        for state in self.states:
            if not isinstance(state, MemoryState):
                checks.reject(where, "states", "hold MemoryStates only", state)
        batches = {state.batch for state in self.states}
        if len(batches) != 1:
            got = checks.Words(f"batches of {sorted(batches)}" if batches else "none")
            checks.reject(where, "states", "hold at least one, all of one batch", got)

    @property
    def batch(self) -> int:
        """Number of users."""
        return self.states[0].batch

    @property
    def n_tokens(self) -> Tensor:
        """How many tokens each user has told, int64 (B,)."""
        return self.states[0].n_tokens

    @property
    def size_bytes(self) -> int:
        """Memory held, spare room included."""
        return sum(state.size_bytes for state in self.states)

    @property
    def touched_bytes(self) -> int:
        """Memory that the touched locations need."""
        return sum(state.touched_bytes for state in self.states)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.states[0].device

    def detach(self) -> ModelMemory:
        """Cut the history of gradients, in place.

        Returns:
            This memory.
        """
        for state in self.states:
            state.detach()
        return self

    def clone(self) -> ModelMemory:
        """A copy that shares nothing with this one: what it is told, this one is not.

        Returns:
            A new memory.
        """
        return ModelMemory(state.clone() for state in self.states)

    def to(self, device: torch.device | str) -> ModelMemory:
        """The memory on a device.

        Args:
            device: Where to.

        Returns:
            A new memory there, which shares nothing with this one.
        """
        return ModelMemory(state.to(device) for state in self.states)

    def clear(self, user: int | None = None) -> None:
        """Forget everything that one user told, or all.

        Args:
            user: Which of the batch; None for all.

        Raises:
            ArgumentError: if there is no such user.
        """
        if user is not None:
            user = checks.integer("ModelMemory.clear", "user", user, 0, self.batch - 1)
        for state in self.states:
            state.clear(user)

    def select(self, users: Sequence[int] | Tensor) -> ModelMemory:
        """Some users, in a given order: copies.

        Args:
            users: Which of the batch.

        Returns:
            A new memory with a batch of that size.

        Raises:
            ArgumentError: if there is no such user.
        """
        where = "ModelMemory.select"
        given = checks.items(where, "users", users, "integers")
        chosen = [checks.integer(where, "users", one, 0, self.batch - 1) for one in given]
        return ModelMemory(state.select(chosen) for state in self.states)

    @classmethod
    def stack(cls, memories: Iterable[ModelMemory]) -> ModelMemory:
        """One batch of the users of several memories, to be served together: copies.

        Args:
            memories: Of one model.

        Returns:
            A new memory; `select` takes the users apart again.

        Raises:
            ArgumentError: if there is none, or they are not of one model.
        """
        where = "ModelMemory.stack"
        all_memories = checks.items(where, "memories", memories, "ModelMemories")
        if not all_memories:
            checks.reject(where, "memories", "hold one memory at least", [])
        first = all_memories[0]
        for other in all_memories:
            _check_like(where, "memories", getattr(first, "states", ()), other)
        columns = zip(*(memory.states for memory in all_memories), strict=True)
        return cls(MemoryState.stack(column) for column in columns)

    def merge(self, other: ModelMemory) -> ModelMemory:
        """Add what another memory holds, user by user; the other stays as it is.

        Args:
            other: Of the same model and batch.

        Returns:
            This memory.

        Raises:
            ArgumentError: if it is not of the same model, or of another batch.
        """
        where = "ModelMemory.merge"
        _check_like(where, "other", self.states, other)
        _check_batch(where, "other", self.batch, other)
        for own, given in zip(self.states, other.states, strict=True):
            own.merge(given)
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what was told to one safetensors file, replacing it whole or not at all.

        Args:
            path: File to write.

        Raises:
            StoreError: if it cannot be written.
        """
        packed = [state.packed() for state in self.states]
        tensors = {
            f"{i}.{name}": tensor
            for i, (_, own) in enumerate(packed)
            for name, tensor in own.items()
        }
        save_tensors(path, _KIND, {"memories": [settings for settings, _ in packed]}, tensors)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ModelMemory:
        """Read what `save` wrote.

        Args:
            path: File to read.

        Returns:
            The memory, on the CPU.

        Raises:
            StoreError: if the file is missing, foreign, newer or damaged.
        """
        config, tensors = load_tensors(path, _KIND)
        try:
            return cls(
                MemoryState.unpacked(settings, _own(tensors, f"{i}."))
                for i, settings in enumerate(config["memories"])
            )
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise StoreError(f"cannot read {path}: it is damaged, or not a pentti file") from error

    def __repr__(self) -> str:
        """Its size, and how much was told."""
        return (
            f"ModelMemory(batch={self.batch}, n_memories={len(self.states)}, "
            f"n_tokens={self.n_tokens.tolist()})"
        )


def found_in(cache: Any) -> Iterator[MemoryState]:
    """The states of sequence memories in a model's cache, from the first layer to the last.

    Args:
        cache: From `new_cache`: lists and tuples of caches.

    Yields:
        Each state.
    """
    if isinstance(cache, MemoryState):
        yield cache
    if type(cache) in (list, tuple):
        for part in cache:
            yield from found_in(part)


def put_into(where: str, cache: Any, memory: Any) -> Any:
    """A cache with a memory's states in the place of its own.

    Args:
        where: The public function that was called, for the error.
        cache: From `new_cache`, with nothing in it yet.
        memory: What the states are taken from; they are shared, not copied.

    Returns:
        The cache.

    Raises:
        ArgumentError: if it is no memory, or of another shape, type, device or batch.
    """
    own = list(found_in(cache))
    _check_like(where, "memory", own, memory)
    _check_batch(where, "memory", own[0].batch, memory)
    return _replaced(cache, iter(memory.states))


def _replaced(cache: Any, states: Iterator[MemoryState]) -> Any:
    if isinstance(cache, MemoryState):
        return next(states)
    if type(cache) in (list, tuple):
        return type(cache)([_replaced(part, states) for part in cache])
    return cache


def _check_like(where: str, argument: str, own: Sequence[MemoryState], other: Any) -> None:
    """Refuse what is no memory of the same model."""
    if not isinstance(other, ModelMemory):
        checks.reject(where, argument, "be a ModelMemory", other)
    if len(own) != len(other.states):
        got = checks.Words(f"one of {len(other.states)}")
        checks.reject(where, argument, f"be of a model with {len(own)} sequence memories", got)
    for state, given in zip(own, other.states, strict=True):
        state.check_like(where, argument, given)


def _check_batch(where: str, argument: str, batch: int, other: ModelMemory) -> None:
    if other.batch != batch:
        got = checks.Words(f"a memory of {other.batch}")
        checks.reject(where, argument, f"be of {batch} users", got)


def _own(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names have a prefix, without it."""
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
