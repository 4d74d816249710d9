"""One step of an optimiser for the contents of a layer, with the gradient of some tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.jobs import Job
from benchmarks.layer_peers import LayerSize
from benchmarks.layer_pentti import Pentti, PenttiSparse
from benchmarks.layers import Tokens, apart, rows_of, training
from benchmarks.timing import Comparison, Entry, Line, measure
from pentti.nn import RowwiseAdagrad

__all__ = ["steps"]

_LR = 1e-2
_N_TOKENS = (16, 1024)

Expected = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Optimiser:
    """One way to change the contents, and by how much it must do so in its first step."""

    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    change: Expected
    sparse: bool


def _adam(gradient: Tensor) -> Tensor:
    """In its first step every component moves by the learning rate, but for ε."""
    return -_LR * gradient / (gradient.abs() + 1e-8)


def _sparse_adam(gradient: Tensor) -> Tensor:
    """There ε is added before the square root's bias is corrected."""
    change: Tensor = -_LR * gradient / (gradient.abs() + 1e-8 / 0.001**0.5)
    return change


def _rowwise(gradient: Tensor) -> Tensor:
    root = gradient.square().mean(1, keepdim=True).sqrt()
    change: Tensor = -_LR * gradient / (root + 1e-10)
    return change


_OPTIMISERS = {
    "AdamW": _Optimiser(
        lambda weights: torch.optim.AdamW(weights, lr=_LR, weight_decay=0.0), _adam, False
    ),
    "AdamW, fused": _Optimiser(
        lambda weights: torch.optim.AdamW(weights, lr=_LR, weight_decay=0.0, fused=True),
        _adam,
        False,
    ),
    "SparseAdam": _Optimiser(
        lambda weights: torch.optim.SparseAdam(weights, lr=_LR), _sparse_adam, True
    ),
    "RowwiseAdagrad": _Optimiser(lambda weights: RowwiseAdagrad(weights, lr=_LR), _rowwise, True),
}


def steps(job: Job[LayerSize]) -> Iterator[Line]:
    """Lines of every optimiser, for the gradients of few tokens and of many.

    Args:
        job: Says how large the layer is.
    """
    for n_tokens in _N_TOKENS:
        gradients = {sparse: _gradient(job, n_tokens, sparse) for sparse in (False, True)}
        entries = [
            _entry(name, one, gradients[one.sparse], n_tokens) for name, one in _OPTIMISERS.items()
        ]
        facts = job.facts("optimiser step", n_tokens)
        comparison = Comparison(facts, entries, contender="RowwiseAdagrad")
        yield from measure(comparison, job.settings.patience)


def _gradient(job: Job[LayerSize], n_tokens: int, sparse: bool) -> Tensor:
    """What backward gives for the contents, as the layer hands it over."""
    torch.manual_seed(8)
    layer = (PenttiSparse if sparse else Pentti)(job.size, job.settings.device)
    training("", layer, Tokens(job.size.dim, n_tokens, job.settings.device)).run(1)
    assert layer.contents is not None
    assert layer.contents.grad is not None
    return layer.contents.grad


def _entry(name: str, who: _Optimiser, gradient: Tensor, n_tokens: int) -> Entry:
    """A step with the same gradient each time, from contents of zero."""
    contents = nn.Parameter(torch.zeros_like(gradient, layout=torch.strided))
    contents.grad = gradient.clone()
    optimiser = who.make([contents])

    def run(repetition: int) -> Tensor:
        del repetition
        optimiser.step()
        return contents.detach()

    def fault(found: Tensor) -> str | None:
        right = torch.zeros_like(found, dtype=torch.float64)
        rows, values = rows_of(gradient)
        right[rows] = who.change(values.double())
        return apart("contents", found, right)

    def reset() -> None:
        contents.data.zero_()

    return Entry(name, run, n_tokens, fault, reset)
