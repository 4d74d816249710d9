"""How much of what was told a model has found again: the evidence of its sequence memories."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pentti import checks
from pentti.nn.local.base import check_mask
from pentti.nn.sequence import SequenceMemory

__all__ = ["crowding", "heard", "of_layers"]


def crowding(evidence: Tensor, token_mask: Tensor | None = None) -> Tensor:
    """How crowded the addresses of a sequence memory are: the mean of log(1 + evidence).

    Nearly all the evidence of a text comes of tokens whose addresses lie close together for no good
    reason. Added to the loss, some times over, it drives them apart while a real match, one among
    many tokens, costs little: what is learned on short texts then holds on far longer ones.

    Args:
        evidence: Of a `SequenceMemory`, (B, L), or of all layers of a model, (B, n_layers, L), as
            `with_evidence` gives it.
        token_mask: True where there is a token, (B, L).

    Returns:
        A scalar with gradient; 0 for no tokens.

    Raises:
        ArgumentError: if a shape or type does not fit.

    Examples:
        >>> crowding(torch.tensor([[0.0, torch.e - 1]]))
        tensor(0.5000)
    """
    where = "crowding"
    if not isinstance(evidence, Tensor) or not evidence.is_floating_point():
        checks.reject(where, "evidence", "be a floating tensor", evidence)
    if evidence.ndim not in (2, 3):
        got = checks.Words(f"shape {tuple(evidence.shape)}")
        checks.reject(where, "evidence", "have shape (B, L) or (B, n_layers, L)", got)
    wide = evidence.to(torch.promote_types(evidence.dtype, torch.float32)).clamp_min(0)
    if token_mask is None:
        return wide.log1p().sum() / max(1, wide.numel())
    check_mask(where, wide[..., None] if wide.ndim == 2 else wide.movedim(-1, 1), token_mask)
    mask = token_mask if wide.ndim == 2 else token_mask[:, None].expand(wide.shape)
    return torch.where(mask, wide, 0).log1p().sum() / mask.sum().clamp_min(1)


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
