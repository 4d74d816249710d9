"""The parts of a model, as its configuration asks for them."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from pentti.decoders import ProductKeys
from pentti.nn import local
from pentti.nn.block import TransformerBlock
from pentti.nn.config import PenttiConfig
from pentti.nn.feed_forward import SwiGLU
from pentti.nn.fusion import FusionLayer
from pentti.nn.sdm import SDMLayer
from pentti.nn.sequence import SequenceMemory

__all__ = ["block", "local_mixer", "memory"]

_KINDS: dict[str, tuple[Any, dict[str, str]]] = {
    "dense": (local.Attention, {}),
    "window": (local.SlidingWindowAttention, {"window": "window"}),
    "longformer": (local.LongformerAttention, {"window": "window", "n_global": "n_global"}),
    "bigbird": (local.BigBirdAttention, {name: name for name in ("block", "n_random", "n_global")}),
    "strided": (local.StridedAttention, {"stride": "block"}),
    "fixed": (local.FixedAttention, {"block": "block", "n_summary": "n_summary"}),
}
"""For each kind its class, and which settings its arguments come from."""


def block(config: PenttiConfig, layer: int) -> TransformerBlock:
    """One block of a model.

    Args:
        config: The model's settings.
        layer: Which block, counted from 0.

    Returns:
        The block, with its memory where the settings want it.
    """
    place = config.places[layer]
    mixer = memory(config, layer) if place == "mixer" else local_mixer(config, layer)
    if place == "fusion":
        mixer = FusionLayer(config.dim, mixer, memory(config, layer))
    if place == "feed_forward":
        fed: nn.Module = memory(config, layer)
    else:
        fed = SwiGLU(config.dim, config.feed_forward_factor)
    made = TransformerBlock(config.dim, mixer, feed_forward=fed, dropout=config.dropout)
    _scale_residuals(made, 1 / math.sqrt(2 * config.n_layers))
    return made


def memory(config: PenttiConfig, layer: int) -> SDMLayer | SequenceMemory:
    """The memory of a layer.

    Args:
        config: The model's settings.
        layer: Which block, counted from 0; each has addresses of its own.

    Returns:
        A memory over learned product keys: one that training writes, or one that the text does.
    """
    seed = config.seed + layer
    if config.kinds[layer] == "sequence":
        own = asdict(config.sequence)
        heads = own.pop("n_heads") or config.n_heads
        return SequenceMemory(config.dim, heads, **own, seed=seed)
    decoder = ProductKeys(
        config.dim,
        config.n_locations,
        n_heads=config.memory_heads,
        top_k=config.top_k,
        learned=True,
        seed=seed,
    )
    return SDMLayer(
        config.dim,
        decoder,
        weighting=config.weighting,
        sparse_gradients=config.sparse_gradients,
    )


def local_mixer(config: PenttiConfig, layer: int) -> nn.Module:
    """The attention of a layer.

    Args:
        config: The model's settings.
        layer: Which block, counted from 0.

    Returns:
        Attention of the kind that the settings name.
    """
    kind, settings = _KINDS[config.local]
    given = {argument: getattr(config, name) for argument, name in settings.items()}
    if config.local == "bigbird":
        given["seed"] = config.seed + layer  # so that layers see different blocks
    made: nn.Module = kind(
        config.dim, config.n_heads, causal=config.causal, beta=config.beta, **given
    )
    return made


@torch.no_grad()
def _scale_residuals(made: nn.Module, factor: float) -> None:
    """Shrink what ends a residual branch, so that their sum keeps its scale at any depth.

    A learned memory's contents begin small enough, with variance 1 / D.
    """
    for module in made.modules():
        if isinstance(module, SwiGLU):
            module.outward.weight.mul_(factor)
        if isinstance(module, local.SparseAttention | SequenceMemory):
            module.get_parameter("out.weight").mul_(factor)
