"""The models of the language experiments, made equal in all but what they are compared in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pentti.nn import ParameterCount, PenttiConfig, PenttiTransformer, SwiGLU
from pentti.training import Encoding, TrainingConfig

__all__ = ["BASE", "CONTEXTS", "MEMORIES", "MODELS", "Plan", "count", "settings", "training"]

BASE = "window"
"""What all others are compared with."""

_NONE: dict[str, Any] = {"memory_layers": ()}
MODELS: dict[str, dict[str, Any]] = {
    "dense": {**_NONE, "local": "dense"},
    BASE: {**_NONE, "local": "window"},
    "Longformer": {**_NONE, "local": "longformer"},
    "BigBird": {**_NONE, "local": "bigbird"},
    "Sparse Transformer": {**_NONE, "local": "strided"},
    "window + SDM": {"memory_kind": "sdm"},
    "window + sequence": {"memory_kind": "sequence"},
    "window + both": {"memory_kind": ("sequence", "sdm")},
}
"""By name, the settings of `PenttiConfig` in which they differ."""

MEMORIES = ("window + SDM", "window + sequence", "window + both")
CONTEXTS = 16
"""Contexts that a sequence memory has room for: with fewer chance overlaps it learns sooner."""
_WARM_UP = 20  # steps at the least
_UNIT = 12  # a step of the feed-forward network's factor, times the width


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes, of the models and of their training.

    Attributes:
        dim: Width.
        n_layers: Blocks.
        n_heads: Heads of attention and of the sequence memories.
        window: Tokens that a window sees.
        block: BigBird's; the Sparse Transformer's stride is twice as long.
        n_locations: Hard locations of a learned memory.
        context: Tokens of a row, and of a document that is tested.
        batch_tokens: Tokens of a step.
        n_steps: Steps of training.
        rates: Learning rates that each model is tried with.
        tune_steps: Steps of such a trial.
        n_seeds: Trainings of each model.
        validate_every: Steps from one point of a curve to the next.
        validation_tokens: Tokens of which it is measured.
        n_documents: Documents of the test, each longer than `context`.
        n_timings: Batches on which each model is timed.
        precision: As in `TrainingConfig`.
    """

    dim: int
    n_layers: int
    n_heads: int
    window: int
    block: int
    n_locations: int
    context: int
    batch_tokens: int
    n_steps: int
    rates: tuple[float, ...]
    tune_steps: int
    n_seeds: int
    validate_every: int
    validation_tokens: int
    n_documents: int
    n_timings: int
    precision: str = "float32"


def settings(own: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Settings of a model with as many dense parameters as the largest of `MODELS` has.

    What it has less, its feed-forward networks get.

    Args:
        own: Settings in which it differs from the others.
        plan: Sizes.

    Returns:
        Settings of `PenttiConfig` by name.
    """
    goal = max(count(_plain(each, plan)).dense for each in MODELS.values())
    plain = _plain(own, plan)
    bare = count(plain).dense
    step = 8 * 3 * plan.dim * plan.n_layers  # 8 hidden units more, in each layer
    units = _hidden(plan.dim) // 8 + round((goal - bare) / step)
    return {**plain, "feed_forward_factor": (_UNIT * units - _UNIT / 2) / plan.dim}


def count(given: dict[str, Any]) -> ParameterCount:
    """Parameters of a model, which is not made for it.

    Args:
        given: Settings of `PenttiConfig` by name.

    Returns:
        Dense parameters and contents.
    """
    with torch.device("meta"):
        return PenttiTransformer.of(PenttiConfig.from_dict(given)).n_parameters()


def training(plan: Plan, lr: float, n_steps: int, seed: int) -> TrainingConfig:
    """How one model is trained.

    Args:
        plan: Sizes.
        lr: Learning rate of all but the contents.
        n_steps: Steps.
        seed: Of its weights and of the order of the documents.

    Returns:
        The settings.
    """
    return TrainingConfig(
        n_steps=n_steps,
        context=plan.context,
        batch_tokens=plan.batch_tokens,
        lr=lr,
        n_warm_up=min(max(_WARM_UP, n_steps // 10), n_steps // 2),
        precision=plan.precision,
        seed=seed,
        validate_every=plan.validate_every if n_steps == plan.n_steps else n_steps,
        validation_tokens=plan.validation_tokens,
        save_every=max(1, n_steps // 8),
        n_kept=1,
    )


def _plain(own: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """A model's settings before parameters are made equal."""
    shared: dict[str, Any] = {
        "vocab_size": Encoding().vocab_size, "dim": plan.dim, "n_layers": plan.n_layers,
        "n_heads": plan.n_heads, "window": plan.window, "block": plan.block,
        "n_locations": plan.n_locations,
    }  # fmt: skip
    if own.get("local") == "strided":
        shared["block"] = 2 * plan.block
    memory = {"max_length": CONTEXTS * plan.context, "rule": "delta", **own.get("sequence", {})}
    return {**shared, **own, "sequence": memory}


def _hidden(dim: int) -> int:
    with torch.device("meta"):
        return SwiGLU(dim).hidden
