"""How much of what was told a model has found again: the evidence of its sequence memories."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pentti.nn.sequence import SequenceMemory

__all__ = ["heard", "of_layers"]


@contextmanager
def heard(layers: Iterable[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """What the sequence memories in each layer give as evidence inside the block.

    Args:
        layers: Such as the blocks of a model.

    Yields:
        For each layer the evidence of each of its memories, (B, L), as it comes in.
    """
    thread, all_heard = threading.get_ident(), []
    with ExitStack() as stack:
        stack.enter_context(torch.compiler.set_stance("force_eager"))  # compiled ones are deaf
        for layer in layers:
            own: list[Tensor] = []

            def hear(_: Any, __: Any, given: Any, own: list[Tensor] = own) -> None:
                if threading.get_ident() == thread:  # others may be using the model
                    own.append(given.evidence)

            for module in layer.modules():
                if isinstance(module, SequenceMemory):
                    stack.enter_context(_hook(module, hear))
            all_heard.append(own)
        yield all_heard


def of_layers(all_heard: list[list[Tensor]], like: Tensor) -> Tensor:
    """The evidence of each layer: the mean of its memories', and 0 without one.

    Args:
        all_heard: From `heard`.
        like: The meters of the same tokens, (B, n_layers, L).

    Returns:
        Shape (B, n_layers, L).
    """
    nothing = torch.zeros(like[:, 0].shape, device=like.device)
    layers = [torch.stack(own).mean(0) if own else nothing for own in all_heard]
    return torch.stack(layers, dim=1)


@contextmanager
def _hook(module: nn.Module, hear: Any) -> Iterator[None]:
    handle = module.register_forward_hook(hear)
    try:
        yield
    finally:
        handle.remove()
