"""The settings of a model's sequence memories, checked once and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from pentti import checks
from pentti.decoders.product import checked_codebooks
from pentti.nn.addressing import checked_address, checked_locations
from pentti.nn.memory_state import FORGET
from pentti.nn.sequence import RULES

__all__ = ["SequenceConfig"]


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """What every `SequenceMemory` of a model is made with; the names are the layer's own.

    Attributes:
        n_heads: Heads of each memory; those of the model's attention unless given.
        n_locations: Hard locations of each head, M, at most 2^40: a square, or an n-th power with n
            codebooks; as `max_length` needs unless given.
        max_length: Longest context that is expected; longer ones work, and match less well.
        top_k: Hard locations that a head activates, K.
        address_dim: Components of a head's address, a multiple of the codebooks; unless given the
            first such number from the width of its values on.
        n_codebooks: Codebooks of a head's addresses, a power of two up to 32.
        shift: Whether a value is written at the address before it.
        rule: "hebbian" adds; "delta" corrects what the address gave until now.
        decay: Whether what was written fades, at a rate that each head learns.
        write_gate: Whether each head learns which tokens to write.
        precise: Whether sums are kept in float64.
        max_locations: Most touched locations that a head's state keeps; None for all.
        forget: Which go first beyond that: "oldest" or "least".

    Raises:
        ArgumentError: if a value is of the wrong type or out of range.

    Examples:
        >>> from pentti.nn import PenttiTransformer
        >>> model = PenttiTransformer(
        ...     256, 32, 2, 2, memory_kind="sequence", sequence=SequenceConfig(max_length=1000)
        ... )
        >>> model.blocks[1].mixer.memory.n_locations
        8100
    """

    n_heads: int | None = None
    n_locations: int | None = None
    max_length: int = 8192
    top_k: int = 8
    address_dim: int | None = None
    n_codebooks: int = 2
    shift: bool = True
    rule: str = "hebbian"
    decay: bool = False
    write_gate: bool = False
    precise: bool = False
    max_locations: int | None = None
    forget: str = "oldest"

    def __post_init__(self) -> None:
        where = type(self).__name__
        for name in ("max_length", "top_k"):
            self._set(name, checks.count(where, name, getattr(self, name)))
        self._set("n_codebooks", checked_codebooks(where, self.n_codebooks))
        for name in ("n_heads", "n_locations", "address_dim", "max_locations"):
            if getattr(self, name) is not None:
                self._set(name, checks.count(where, name, getattr(self, name)))
        for name in ("shift", "decay", "write_gate", "precise"):
            self._set(name, checks.flag(where, name, getattr(self, name)))
        checks.one_of(where, "rule", self.rule, RULES)
        checks.one_of(where, "forget", self.forget, FORGET)
        checked_locations(where, self.n_locations, self.max_length, self.top_k, self.n_codebooks)
        if self.address_dim is not None:
            checked_address(where, self.address_dim, 1, self.n_codebooks)
        if self.max_locations is not None:
            checks.integer(where, "max_locations", self.max_locations, self.top_k)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @classmethod
    def of(cls, given: Any) -> SequenceConfig:
        """The settings, from themselves or from a dictionary such as JSON holds.

        Args:
            given: A SequenceConfig, or values by name; what is missing takes its default.

        Returns:
            The settings.

        Raises:
            ArgumentError: if it is neither, a name is unknown, or a value is out of range.
        """
        if isinstance(given, cls):
            return given
        where = cls.__name__
        if not isinstance(given, Mapping):
            checks.reject(where, "sequence", "be a SequenceConfig or a dictionary", given)
        known = sorted(field.name for field in fields(cls))
        for name in given:
            checks.one_of(where, "sequence", name, known)
        return cls(**given)
