"""What a model loses on a batch, and the optimisers that make it lose less."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from pentti.nn import PenttiTransformer, RowwiseAdagrad, SequenceMemory, crowding, parameter_groups
from pentti.nn.evidence import heard, of_layers
from pentti.nn.local import SparseAttention
from pentti.nn.loss import cross_entropy
from pentti.training.config import TrainingConfig

__all__ = ["Learner", "optimisers"]

_BETAS = (0.9, 0.95)


class Learner(nn.Module):
    """A model and what it is trained by: one forward pass, which several processes can share.

    Args:
        model: The model.
        spread: Weight of `crowding`, for each token.
    """

    def __init__(self, model: PenttiTransformer, spread: float = 0.0) -> None:
        super().__init__()
        self.model, self.spread = model, spread
        self._writes = any(isinstance(one, SequenceMemory) for one in model.modules())

    def forward(
        self, ids: Tensor, targets: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of a batch, summed over its tokens.

        Args:
            ids: As `Batch` has them.
            targets: As `Batch` has them.
            mask: As `Batch` has it; None where all are tokens.

        Returns:
            What is to become less, the nats in it, and the meters of all layers, added up.
        """
        n = ids.numel() if mask is None else mask.sum()
        if not (self._writes and self.spread):
            nats, meters = self._nats(ids, targets, mask, n)
            return nats, nats.detach(), meters
        with heard(self.model.blocks) as found:
            nats, meters = self._nats(ids, targets, mask, n)
        like = ids[:, None].expand(-1, len(found), -1)
        apart = crowding(of_layers(found, like), mask) * n
        return nats + self.spread * apart, nats.detach(), meters

    def _nats(
        self, ids: Tensor, targets: Tensor, mask: Tensor | None, n: int | Tensor
    ) -> tuple[Tensor, Tensor]:
        x_BLD, meters = self.model.hidden(ids, token_mask=mask)
        mean = cross_entropy(x_BLD.flatten(0, 1), self.model.head_weight, targets.flatten())
        return mean * n, meters.sum()


def optimisers(model: nn.Module, config: TrainingConfig) -> dict[str, Optimizer]:
    """AdamW for all but contents with sparse gradients, which take row-wise Adagrad.

    Matrices decay; vectors and contents do not. β of the attention, which has far to go, has a rate
    of its own.

    Args:
        model: Its parameters are trained.
        config: Says at what rates.

    Returns:
        By name.

    **Source:** Loshchilov and Hutter 2019 (arXiv 1711.05101) for the decay.
    """
    rest, contents = parameter_groups(model, lr=config.lr, memory_lr=config.memory_lr)
    matrices = [p for p in rest["params"] if p.ndim > 1]
    attentions = [one for one in model.modules() if isinstance(one, SparseAttention)]
    betas = {one.log_beta: None for one in attentions if one.log_beta is not None}  # by identity
    others = [p for p in rest["params"] if p.ndim <= 1 and p not in betas]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "lr": config.lr, "weight_decay": config.weight_decay},
        {"params": others, "lr": config.lr, "weight_decay": 0.0},
    ]
    sparse = getattr(getattr(model, "config", None), "sparse_gradients", False)
    if betas:
        groups.append({"params": list(betas), "lr": config.beta_lr, "weight_decay": 0.0})
    if contents["params"] and not sparse:
        groups.append({**contents, "weight_decay": 0.0})
    found: dict[str, Optimizer] = {"adamw": AdamW(groups, betas=_BETAS, fused=True)}
    if contents["params"] and sparse:
        found["adagrad"] = RowwiseAdagrad(contents["params"], lr=config.memory_lr)
    for optimiser in found.values():
        for group in optimiser.param_groups:
            group["highest_lr"] = group["lr"]
    return found
