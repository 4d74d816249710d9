"""Time memory layers, forward and with gradients, on tokens that change with each repetition."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.jobs import Job
from benchmarks.layer_peers import Expected, Layer, LayerSize
from benchmarks.layer_pentti import LAYERS
from benchmarks.timing import Comparison, Entry, Line, measure

__all__ = [
    "OPERATIONS",
    "Tokens",
    "apart",
    "contents_fault",
    "excuse",
    "forward",
    "made",
    "rows_of",
    "time_layers",
    "training",
]

OPERATIONS = {"forward": "pentti", "forward + backward": "pentti, sparse gradients"}
"""What a layer does, and with which entry the others are compared."""
_SHORT_S = 3.0  # a slow entry stops at three repetitions after so long
_TOLERANCE = 1e-3  # of the largest value, float32 against float64


class Tokens:
    """Random tokens, the same ones for every entry; repetition 0 is the one that is checked.

    Args:
        dim: Width of a token.
        n_tokens: At a time.
        device: Where they are.
    """

    n_checked = 3

    def __init__(self, dim: int, n_tokens: int, device: str) -> None:
        generator = torch.Generator().manual_seed(7)
        n_turns = max(2, 8192 // n_tokens)
        pool = torch.randn(n_turns * n_tokens, dim, generator=generator)
        self.turns = pool.to(device).split(n_tokens)
        self.upstream = torch.randn(n_tokens, dim, generator=generator).to(device)
        # The gradients of so few tokens can be worked out in float64 by the plain formula.
        self.upstream_checked = self.upstream.clone()
        self.upstream_checked[self.n_checked :] = 0

    def __getitem__(self, repetition: int) -> Tensor:
        turn: Tensor = self.turns[repetition % len(self.turns)]
        return turn


class Trained(NamedTuple):
    """What forward and backward leave behind."""

    x: Tensor
    output: Tensor


def time_layers(job: Job[LayerSize]) -> Iterator[Line]:
    """Lines of every layer that takes part, for each number of tokens.

    Args:
        job: Names the peers; pentti takes part in any case.
    """
    settings = job.settings
    patience = replace(settings.patience, limit_s=min(settings.patience.limit_s, _SHORT_S))
    who = ["pentti", "pentti, sparse gradients", *job.peers]
    at_hand, missing = made(who, job)
    for operation, contender in OPERATIONS.items():
        trains = operation != "forward"
        yield from ({**job.facts(operation), **line} for line in missing)
        for n_tokens in settings.n_tokens:
            facts, entries = job.facts(operation, n_tokens), []
            tokens = Tokens(job.size.dim, n_tokens, settings.device)
            for name, layer in at_hand.items():
                if layer.only_trains and not trains:
                    continue
                reason = excuse(layer, job.size, n_tokens, trains)
                if reason is not None:
                    yield {**facts, "entry": name, "skipped": reason}
                    continue
                layer.network.train(trains)
                kind = training if trains else forward
                entries.append(kind(name, layer, tokens))
            yield from measure(Comparison(facts, entries, contender=contender), patience)
        missing = []


def made(who: list[str], job: Job[Any]) -> tuple[dict[str, Layer], list[Line]]:
    """The layers that are installed, and a line for each that is not.

    Args:
        who: Names of `LAYERS`.
        job: Says how large they are.
    """
    at_hand: dict[str, Layer] = {}
    missing: list[Line] = []
    for name in who:
        if importlib.util.find_spec(LAYERS[name].module) is None:
            missing.append({"entry": name, "skipped": "not installed"})
            continue
        torch.manual_seed(8)
        at_hand[name] = LAYERS[name](job.size, job.settings.device)
    return at_hand, missing


def excuse(layer: Layer, size: LayerSize, n_tokens: int, trains: bool) -> str | None:
    """Why a layer does not take so many tokens; None if it does.

    Args:
        layer: The one.
        size: Its own.
        n_tokens: At a time.
        trains: Whether it must give gradients as well.
    """
    if n_tokens > layer.most_tokens:
        return f"takes too long with more than {layer.most_tokens:,} tokens"
    needs = layer.needs_bytes(size, n_tokens, trains)
    free = machine.free_bytes(next(layer.network.parameters()).device.type)
    if needs > free:
        return f"needs {needs / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"
    return None


def forward(name: str, layer: Layer, tokens: Tokens) -> Entry:
    """Tokens in, tokens out, and no graph.

    Args:
        name: Of the entry.
        layer: Does it.
        tokens: Go in.
    """

    def run(repetition: int) -> Tensor:
        with torch.no_grad():
            return layer(tokens[repetition])

    def fault(output: Tensor) -> str | None:
        right = layer.expected(tokens[0][: tokens.n_checked].double()).output
        return apart("output", output[: tokens.n_checked], right)

    return Entry(name, run, len(tokens[0]), fault)


def training(name: str, layer: Layer, tokens: Tokens) -> Entry:
    """Gradients set to None, forward, and backward of a random gradient: all of it is timed.

    Args:
        name: Of the entry.
        layer: Does it.
        tokens: Go in; they get gradients too.
    """

    def run(repetition: int) -> Trained:
        layer.network.zero_grad(set_to_none=True)
        x = tokens[repetition].detach().requires_grad_()
        output = layer(x)
        output.backward(tokens.upstream if repetition else tokens.upstream_checked)
        return Trained(x, output.detach())

    return Entry(
        name,
        run,
        len(tokens[0]),
        lambda result: _training_fault(layer, result, tokens),
        lambda: layer.network.zero_grad(set_to_none=True),
    )


def _training_fault(layer: Layer, result: Trained, tokens: Tokens) -> str | None:
    n = tokens.n_checked
    x = result.x.detach()[:n].double().requires_grad_()
    right = layer.expected(x)
    right.output.backward(tokens.upstream[:n].double())
    assert x.grad is not None
    assert result.x.grad is not None
    faults = [
        apart("output", result.output[:n], right.output),
        apart("gradient of the tokens", result.x.grad[:n], x.grad),
        apart("gradient of the other tokens", result.x.grad[n:], torch.zeros_like(x.grad[:0])),
    ]
    if layer.contents is not None:
        faults.append(contents_fault(layer.contents.grad, right))
    return next((fault for fault in faults if fault is not None), None)


def contents_fault(gradient: Tensor | None, right: Expected) -> str | None:
    """A gradient must be right where something was read, and nothing elsewhere.

    Args:
        gradient: Of the contents, sparse or dense.
        right: What was read; its rows have gradients.
    """
    if gradient is None:
        return "the contents have no gradient"
    assert right.locations is not None
    assert right.rows is not None
    assert right.rows.grad is not None
    touched, turn = right.locations.unique(return_inverse=True)
    each = right.rows.grad.flatten(0, 1)
    rows = each.new_zeros((len(touched), each.shape[1])).index_add_(0, turn.flatten(), each)
    every, values = rows_of(gradient)
    at = torch.searchsorted(every, touched).clamp(max=len(every) - 1)
    found = values[at] * (every[at] == touched)[:, None]
    return apart("gradient of the contents", found, rows) or apart(
        "gradient of the contents, in all", values.sum(0), rows.sum(0)
    )


def rows_of(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows a gradient has, ascending, and the rows.

    Args:
        gradient: Dense or sparse, of two dimensions.
    """
    if not gradient.is_sparse:
        return torch.arange(len(gradient), device=gradient.device), gradient
    merged = gradient.coalesce()
    return merged.indices()[0], merged.values()


def apart(what: str, found: Tensor, right: Tensor) -> str | None:
    """What is wrong with a result, in words; None if it is right.

    Args:
        what: It is.
        found: The result.
        right: What it must be.
    """
    found = found.detach().double()
    if not found.numel():
        return None
    right = right.detach().expand_as(found) if right.numel() else torch.zeros_like(found)
    scale = float(right.abs().max()) or 1.0
    error = float((found - right).abs().max()) / scale
    return None if error <= _TOLERANCE else f"{what}: off by {error:.1e} of the largest value"
