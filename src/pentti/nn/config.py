"""The settings of a whole model, checked once and frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from pentti import checks
from pentti.nn.sequence_config import SequenceConfig
from pentti.nn.weighting import WEIGHTINGS

__all__ = ["LOCAL_KINDS", "MEMORY_KINDS", "MEMORY_PLACES", "PenttiConfig"]

LOCAL_KINDS = ("dense", "window", "longformer", "bigbird", "strided", "fixed")
"""Kinds of local attention, all in `pentti.nn.local`."""

MEMORY_PLACES = ("fusion", "mixer", "feed_forward")
"""Where a memory stands in its layer."""

MEMORY_KINDS = ("sdm", "sequence")
"""What a memory knows: what training wrote (`SDMLayer`), or the text (`SequenceMemory`)."""


@dataclass(frozen=True, kw_only=True)
class PenttiConfig:
    """Everything that decides the shape of a `PenttiTransformer`.

    Attributes:
        vocab_size: Number of tokens, V.
        dim: Width of a token, D; a multiple of n_heads.
        n_layers: Number of blocks.
        n_heads: Heads of the attention.
        n_locations: Hard locations of each learned memory, M; a square.
        memory_layers: The layers with a memory, counted from 0. Unless given two, at a third and
            at two thirds of the depth (one in a model of one or two layers); () for none.
        memory_place: What a memory does in its layer: "fusion" stands it beside the attention
            with a gate between them, "mixer" puts it in the attention's place, "feed_forward" in
            the feed-forward network's. One for all, or one for each memory layer.
        memory_kind: What each memory knows: "sdm" is learned in training, "sequence" is written by
            the text itself. One for all, or one for each memory layer.
        sequence: Settings of the sequence memories, also as a dictionary.
        memory_heads: Heads of each learned memory.
        top_k: Hard locations that each head of a learned memory activates.
        weighting: Of the active locations, as for `SDMLayer`.
        sparse_gradients: Gradients of the contents for their active rows only, for memories whose
            dense gradients do not fit.
        local: Kind of attention: "dense", "window", "longformer", "bigbird", "strided" or "fixed".
        window: How many tokens the attention sees back, for "window" and "longformer".
        block: Tokens in a block, for "bigbird", "strided" (its stride) and "fixed".
        n_global: Global tokens for "longformer", global blocks for "bigbird".
        n_summary: Summary tokens of each block, for "fixed"; a sixteenth of it unless given.
        n_random: Random blocks, for "bigbird".
        beta: Where the learned β of each head of the attention begins, for queries and keys of
            length 1; None for scaled products of any length.
        causal: No token sees a later one. Otherwise all see all, and the model cannot generate.
        feed_forward_factor: Size of the feed-forward network, as for `SwiGLU`.
        dropout: As for `TransformerBlock`, and after the embedding.
        tied: The logits come from the embedding's own vectors.
        seed: Of what is drawn once and fixed: the memories' first addresses, BigBird's blocks.

    Raises:
        ArgumentError: if a value is of the wrong type or out of range.

    Examples:
        >>> config = PenttiConfig(vocab_size=256, dim=64, n_layers=6, n_heads=4)
        >>> config.places
        ('local', 'local', 'fusion', 'local', 'fusion', 'local')
    """

    vocab_size: int
    dim: int
    n_layers: int
    n_heads: int
    n_locations: int = 99_856
    memory_layers: tuple[int, ...] | None = None
    memory_place: str | tuple[str, ...] = "fusion"
    memory_kind: str | tuple[str, ...] = "sdm"
    sequence: SequenceConfig = SequenceConfig()  # noqa: RUF009 frozen
    memory_heads: int = 4
    top_k: int = 32
    weighting: str = "softmax"
    sparse_gradients: bool = False
    local: str = "window"
    window: int = 256
    block: int = 64
    n_global: int = 1
    n_summary: int | None = None
    n_random: int = 2
    beta: float | None = None
    causal: bool = True
    feed_forward_factor: float = 4.0
    dropout: float = 0.0
    tied: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        where = "PenttiConfig"
        for name in _COUNTS:
            self._set(name, checks.count(where, name, getattr(self, name)))
        for name in ("n_global", "n_random"):
            self._set(name, checks.integer(where, name, getattr(self, name), 0))
        if self.n_summary is not None:
            self._set("n_summary", checks.count(where, "n_summary", self.n_summary))
        self._set("seed", checks.integer(where, "seed", self.seed, 0, 2**62))
        if self.dim % self.n_heads:
            got = checks.Words(f"{self.dim} with {self.n_heads} heads")
            checks.reject(where, "dim", "be a multiple of `n_heads`", got)
        for name in ("sparse_gradients", "causal", "tied"):
            self._set(name, checks.flag(where, name, getattr(self, name)))
        checks.one_of(where, "local", self.local, LOCAL_KINDS)
        factor = checks.number(where, "feed_forward_factor", self.feed_forward_factor, 0, math.inf)
        if factor == 0:
            checks.reject(where, "feed_forward_factor", "be above 0", factor)
        self._set("feed_forward_factor", factor)
        if self.beta is not None:
            self._set("beta", checks.number(where, "beta", self.beta, 0.0, math.inf))
            if self.beta == 0:
                checks.reject(where, "beta", "be above 0", self.beta)
        self._set("dropout", checks.number(where, "dropout", self.dropout, 0.0, 1.0))
        if self.dropout == 1:
            checks.reject(where, "dropout", "be below 1", self.dropout)
        checks.one_of(where, "weighting", self.weighting, WEIGHTINGS)
        self._set_memories(where)

    def _set_memories(self, where: str) -> None:
        if self.memory_layers is not None:
            self._set("memory_layers", _layers(self.memory_layers, self.n_layers))
        n = len(self._memory_layers)
        for name, choices in (("memory_place", MEMORY_PLACES), ("memory_kind", MEMORY_KINDS)):
            self._set(name, _one_or_each(name, getattr(self, name), n, choices))
        self._set("sequence", SequenceConfig.of(self.sequence))
        if "sequence" in self.kinds and not self.causal:
            checks.reject(
                where, "memory_kind", "be 'sdm' where `causal` is False", self.memory_kind
            )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def places(self) -> tuple[str, ...]:
        """What each layer is: "local", or where its memory stands."""
        return self._by_layer("local", self.memory_place)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each layer's memory: "none", "sdm" or "sequence"."""
        return self._by_layer("none", self.memory_kind)

    def _by_layer(self, without: str, own: str | tuple[str, ...]) -> tuple[str, ...]:
        layers = self._memory_layers
        each = (own,) * len(layers) if isinstance(own, str) else own
        found = dict(zip(layers, each, strict=True))
        return tuple(found.get(layer, without) for layer in range(self.n_layers))

    @property
    def _memory_layers(self) -> tuple[int, ...]:
        if self.memory_layers is not None:
            return self.memory_layers
        n = self.n_layers
        return tuple(sorted({n // 3, 2 * n // 3} - {0})) or (0,)

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON can hold them.

        Returns:
            A dictionary from which `from_dict` makes an equal configuration.
        """
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> PenttiConfig:
        """A configuration from what `as_dict` gave.

        Args:
            settings: Values by name; what is missing takes its default.

        Returns:
            The configuration.

        Raises:
            ArgumentError: if a name is unknown, one that is needed is missing, or a value is out
                of range.
        """
        known = {field.name for field in fields(cls)}
        needed = {"vocab_size", "dim", "n_layers", "n_heads"}
        for name in settings:
            checks.one_of("PenttiConfig.from_dict", "settings", name, sorted(known))
        for name in sorted(needed - set(settings)):
            got = checks.Words("none")
            checks.reject("PenttiConfig.from_dict", "settings", f"hold a {name!r}", got)
        return cls(**settings)


_COUNTS = (
    "vocab_size", "dim", "n_layers", "n_heads", "n_locations", "memory_heads", "top_k", "window",
    "block",
)  # fmt: skip


def _layers(layers: Any, n_layers: int) -> tuple[int, ...]:
    where = "PenttiConfig"
    if not isinstance(layers, Sequence) or isinstance(layers, str):
        checks.reject(where, "memory_layers", "be a list of layers", layers)
    found = [checks.integer(where, "memory_layers", one, 0, n_layers - 1) for one in layers]
    if len(set(found)) < len(found):
        checks.reject(where, "memory_layers", "name each layer once", tuple(found))
    return tuple(found)


def _one_or_each(name: str, given: Any, n: int, choices: tuple[str, ...]) -> str | tuple[str, ...]:
    """One of the choices for all memory layers, or one for each."""
    where, noun = "PenttiConfig", name.removeprefix("memory_")
    if isinstance(given, str):
        checks.one_of(where, name, given, choices)
        return given
    if not isinstance(given, Sequence) or len(given) != n:
        checks.reject(where, name, f"be one {noun}, or one for each of {n} layers", given)
    for one in given:
        checks.one_of(where, name, one, choices)
    return tuple(given)
