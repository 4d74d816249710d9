"""Which parameters learn how: contents of memories apart from everything else."""

from __future__ import annotations

from typing import Any

from torch import nn

from pentti import checks
from pentti.nn.sdm import SDMLayer

__all__ = ["parameter_groups"]


def parameter_groups(
    module: nn.Module, *, lr: float, memory_lr: float, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """The parameters of a model in two groups, for one optimiser or for two.

    Each row of a memory's contents is seen by few tokens, so it learns with a larger rate, and
    without decay, which would wear out the rows that nothing has read.

    Args:
        module: The model.
        lr: Learning rate of everything but the contents.
        memory_lr: Learning rate of the contents.
        weight_decay: Of everything but the contents.

    Returns:
        Two groups: the rest, and the contents of all memories.

    Raises:
        ArgumentError: if a rate is negative or no finite number, or the module is none.

    Examples:
        >>> import torch
        >>> layer = SDMLayer(64, n_locations=1024)
        >>> groups = parameter_groups(layer, lr=1e-3, memory_lr=1e-2)
        >>> optimiser = torch.optim.AdamW(groups, fused=True)
        >>> [group["lr"] for group in groups]
        [0.001, 0.01]

    **Source:** Lample et al. 2019, section 4, where the values learn faster than the rest.
    """
    if not isinstance(module, nn.Module):
        checks.reject("parameter_groups", "module", "be a torch module", module)
    rates = {"lr": lr, "memory_lr": memory_lr, "weight_decay": weight_decay}
    for name, rate in rates.items():
        checks.number("parameter_groups", name, rate, 0.0, float("inf"))
    chosen = {id(one.contents) for one in module.modules() if isinstance(one, SDMLayer)}
    contents = [parameter for parameter in module.parameters() if id(parameter) in chosen]
    rest = [parameter for parameter in module.parameters() if id(parameter) not in chosen]
    return [
        {"params": rest, "lr": lr, "weight_decay": weight_decay},
        {"params": contents, "lr": memory_lr, "weight_decay": 0.0},
    ]
