"""Several processes that train one model: who this one is, and what they share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from pentti import checks
from pentti.nn import SDMLayer
from pentti.training.learning import Learner

__all__ = ["Processes", "joined", "like", "whole"]

_PATIENCE = timedelta(days=1)  # while the first process reads; torchrun ends all if one fails


@dataclass(frozen=True)
class Processes:
    """This process among all.

    Attributes:
        rank: Its number, from 0.
        n: How many there are.
        device: Where it computes.
    """

    rank: int
    n: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files and talks."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.n > 1:
            distributed.barrier()

    def any(self, here: bool) -> bool:
        """Whether something is so in one process at least; all must ask.

        Args:
            here: Whether it is so in this one.

        Returns:
            The same in all.
        """
        return bool(self.added(torch.tensor([int(here)], device=self.device)).item())

    def sharing(self, learner: Learner, sharded: bool) -> nn.Module:
        """A learner whose gradients are the mean over all processes.

        Args:
            learner: Alike in all of them.
            sharded: Whether each process keeps a share of the parameters only; a block's are
                gathered while it works. Optimisers are to be made after that.

        Returns:
            The learner, or one around it.
        """
        if self.n == 1:
            return learner
        if not sharded:
            ddp: Any = DistributedDataParallel
            ignore = ddp._set_params_and_buffers_to_ignore_for_model  # noqa: SLF001
            ignore(learner, _apart(learner))
            return DistributedDataParallel(learner)
        for block in learner.model.blocks:
            fully_shard(block)
        fully_shard(learner)
        return learner

    def share_sparse(self, model: nn.Module) -> None:
        """Make sparse gradients the mean over all processes, as the others become by themselves.

        Args:
            model: After a backward pass.
        """
        if self.n == 1:
            return
        for parameter in model.parameters():
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = self._mean(parameter.grad.coalesce())

    def _mean(self, gradient: Tensor) -> Tensor:
        rows, values = gradient.indices()[0], gradient.values() / self.n
        counts = self._gathered(torch.tensor([len(rows)], device=rows.device))
        most = max(int(count) for count in counts)
        all_rows, all_values = (
            torch.cat([some[: int(n)] for some, n in zip(self._gathered(x), counts, strict=True)])
            for x in (_padded(rows, most), _padded(values, most))
        )
        mean = torch.sparse_coo_tensor(
            all_rows[None], all_values, gradient.shape, check_invariants=False
        )
        return mean.coalesce()

    def _gathered(self, x: Tensor) -> list[Tensor]:
        found = [torch.empty_like(x) for _ in range(self.n)]
        distributed.all_gather(found, x)
        return found

    @contextmanager
    def apart(self, module: nn.Module, wanted: bool) -> Iterator[None]:
        """Inside, gradients add up in each process for itself.

        Args:
            module: From `sharing`.
            wanted: Whether they do.

        Yields:
            Nothing.
        """
        if wanted and isinstance(module, DistributedDataParallel):
            with module.no_sync():
                yield
        elif isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(not wanted)
            yield
        else:
            yield

    def added(self, x: Tensor) -> Tensor:
        """The sum over all processes.

        Args:
            x: Of one shape in all of them.

        Returns:
            The sum, in each of them.
        """
        if self.n > 1:
            distributed.all_reduce(x)
        return x


@contextmanager
def joined(device: torch.device | str) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` has started, or be alone.

    Args:
        device: "cpu", or "cuda" for one device a process.

    Yields:
        Who this process is.

    Raises:
        ArgumentError: if there are more processes on this machine than devices, no such device, or
            the environment is not as ``torchrun`` makes it.
    """
    n, rank, local_rank = (_number(name) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
    own = _device(device, local_rank)
    if n <= 1:
        yield Processes(0, 1, own)
        return
    kind = "nccl" if own.type == "cuda" else "gloo"
    distributed.init_process_group(kind, timeout=_PATIENCE)
    try:
        yield Processes(rank, n, own)
    finally:
        distributed.destroy_process_group()


def whole(state: Any) -> Any:
    """A state with all shares of its tensors together; all processes must ask for it.

    Args:
        state: Dictionaries and lists of anything, as `state_dict` gives.

    Returns:
        The same, with plain tensors.
    """
    if isinstance(state, Mapping):
        return {name: whole(one) for name, one in state.items()}
    if isinstance(state, list):
        return [whole(one) for one in state]
    return state.full_tensor() if isinstance(state, DTensor) else state


def like(state: dict[str, Any], optimiser: Optimizer) -> dict[str, Any]:
    """A whole state of an optimiser, cut as its parameters are.

    Args:
        state: From `whole`.
        optimiser: Whose state it becomes.

    Returns:
        The state; its own if no parameter is cut.

    Raises:
        ValueError: if a tensor does not have its parameter's shape.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    cut = {
        index: {name: _cut(x, parameters[index]) for name, x in own.items()}
        for index, own in state["state"].items()
    }
    return {**state, "state": cut}


def _cut(x: Any, parameter: Tensor) -> Any:
    if not isinstance(x, Tensor):
        return x
    if x.shape != parameter.shape[: x.ndim]:
        raise ValueError(f"{tuple(x.shape)} in place of {tuple(parameter.shape)}")
    if not isinstance(parameter, DTensor) or x.shape != parameter.shape:
        return x
    return distribute_tensor(x.to(parameter.device), parameter.device_mesh, parameter.placements)


def _number(name: str) -> int:
    """What ``torchrun`` tells its processes; 0 without it."""
    given = os.environ.get(name)
    if given is None and "WORLD_SIZE" in os.environ:
        got = checks.Words(f"WORLD_SIZE without {name}")
        checks.reject("train", "environment", "be torchrun's, or none", got)
    if given is not None and not given.isdecimal():
        checks.reject("train", "environment", f"have a whole number as {name}", given)
    return int(given or 0)


def _apart(learner: Learner) -> list[str]:
    """Names of what DDP is to leave alone: counts, and what has sparse gradients."""
    names = [name for name, _ in learner.named_buffers()]
    if learner.model.config.sparse_gradients:  # `share_sparse` has them
        tables = {one.contents for one in learner.modules() if isinstance(one, SDMLayer)}
        names += [name for name, one in learner.named_parameters() if one in tables]
    return names


def _padded(x: Tensor, n: int) -> Tensor:
    return torch.cat([x, x.new_zeros(n - len(x), *x.shape[1:])])


def _device(given: torch.device | str, local_rank: int) -> torch.device:
    try:
        device = torch.device(given)
    except RuntimeError:
        checks.reject("train", "device", "be one that torch knows, such as cpu or cuda", given)
    if device.type != "cuda":
        try:
            torch.zeros(1, device=device).item()
        except (RuntimeError, NotImplementedError, AssertionError):
            checks.reject("train", "device", "be one that this machine has", str(device))
        return device
    n_devices = torch.cuda.device_count()
    if not n_devices:
        checks.reject("train", "device", "be one that this machine has", str(device))
    if ":" not in str(device):  # no number of its own
        if local_rank >= n_devices:
            got = checks.Words(f"process {local_rank + 1} with {n_devices} devices")
            checks.reject("train", "processes", "be no more than the devices", got)
        device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
