"""The settings of a training run, checked once and frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pentti import checks

__all__ = ["PRECISIONS", "TrainingConfig"]

PRECISIONS = ("float32", "bfloat16")
"""What products are made in; weights and sums stay in float32."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained, but for the model and the corpus.

    Attributes:
        n_steps: Updates of the parameters.
        context: Ids of a row, L; what is longer in a document goes into several rows.
        batch_tokens: Ids that go through at once, padding included.
        n_batches: Batches of one step: gradients add up. A multiple of the processes.
        lr: Highest learning rate of everything but the two that follow.
        memory_lr: That of the memories' contents.
        beta_lr: That of the attention's β, where it has one: the most by which a step multiplies β
            is about 1 + `beta_lr`.
        weight_decay: Of matrices but the contents.
        n_warm_up: Steps until the rate is highest; then it falls as a cosine does.
        last_lr: Its last value, as a share of the highest.
        clip: Longest gradient; longer ones are shortened to it.
        crowding: Weight of `nn.crowding` in the loss, where there are sequence memories.
        precision: "float32", or "bfloat16" under autocast.
        compiled: Whether the model goes through `torch.compile`.
        seed: Of the model, the order of the documents and dropout.
        validate_every: Steps from one validation to the next.
        validation_tokens: Ids that a validation reads, at most.
        save_every: Steps from one checkpoint to the next.
        n_kept: Checkpoints that are kept, the newest.

    Raises:
        ArgumentError: if a value is of the wrong type or out of range.
    """

    n_steps: int = 1000
    context: int = 2048
    batch_tokens: int = 8192
    n_batches: int = 1
    lr: float = 2e-3
    memory_lr: float = 1e-2
    beta_lr: float = 1e-2
    weight_decay: float = 0.1
    n_warm_up: int = 100
    last_lr: float = 0.1
    clip: float = 1.0
    crowding: float = 0.0
    precision: str = "float32"
    compiled: bool = False
    seed: int = 0
    validate_every: int = 100
    validation_tokens: int = 100_000
    save_every: int = 100
    n_kept: int = 2

    def __post_init__(self) -> None:
        where = type(self).__name__
        for name in _COUNTS:
            object.__setattr__(self, name, checks.count(where, name, getattr(self, name)))
        for name, high in _NUMBERS.items():
            given = checks.number(where, name, getattr(self, name), 0.0, high)
            object.__setattr__(self, name, given)
        for name in ("lr", "clip"):
            if getattr(self, name) == 0:
                checks.reject(where, name, "be above 0", 0)
        object.__setattr__(self, "n_warm_up", checks.integer(where, "n_warm_up", self.n_warm_up, 0))
        object.__setattr__(self, "seed", checks.integer(where, "seed", self.seed, 0, 2**31 - 1))
        checks.one_of(where, "precision", self.precision, PRECISIONS)
        object.__setattr__(self, "compiled", checks.flag(where, "compiled", self.compiled))

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> TrainingConfig:
        """The settings from values by name; what is missing takes its default.

        Args:
            given: Such as JSON holds.

        Returns:
            The settings.

        Raises:
            ArgumentError: if a name is unknown, or a value out of range.
        """
        names = [field.name for field in fields(cls)]
        for name in given:
            checks.one_of(cls.__name__, "settings", name, sorted(names))
        return cls(**given)

    def as_dict(self) -> dict[str, Any]:
        """All settings by name.

        Returns:
            Values that JSON can hold.
        """
        return asdict(self)

    def rate(self, step: int) -> float:
        """The learning rate of a step, as a share of the highest.

        Args:
            step: From 0.

        Returns:
            In (0, 1].
        """
        if step < self.n_warm_up:
            return (step + 1) / self.n_warm_up
        passed = (step - self.n_warm_up) / max(1, self.n_steps - self.n_warm_up)
        return self.last_lr + (1 - self.last_lr) * (1 + math.cos(math.pi * passed)) / 2


_COUNTS = (
    "n_steps", "context", "batch_tokens", "n_batches", "validate_every", "validation_tokens",
    "save_every", "n_kept",
)  # fmt: skip
_NUMBERS = {
    "lr": math.inf, "memory_lr": math.inf, "beta_lr": math.inf, "weight_decay": math.inf,
    "last_lr": 1.0, "clip": math.inf, "crowding": math.inf,
}  # fmt: skip
