"""What a layer costs: memory, by its number of locations, and beside attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import torch

from benchmarks import machine
from benchmarks.jobs import Job
from benchmarks.layer_peers import Attention, Layer, LayerSize
from benchmarks.layer_pentti import Pentti
from benchmarks.layers import OPERATIONS, Tokens, excuse, forward, made, training
from benchmarks.timing import Comparison, Entry, Line, Patience, measure
from pentti.peaks import bytes_in_use, extra_bytes

__all__ = ["WEIGHED", "Weighing", "crossing", "peaks", "sizes", "weighings"]

WEIGHED = ("pentti", "pentti, sparse gradients", "product-key-memory", "GEMM + top-k")
_N_WARM = 1024  # locations of the layer that loads all code before memory is measured
_SIZE_TOKENS = 1024


@dataclass(frozen=True)
class Weighing(LayerSize):
    """A layer whose memory is measured in one operation."""

    operation: str = "forward"

    @property
    def title(self) -> str:
        return f"{super().title}, {self.operation}"


def weighings(size: LayerSize) -> list[Weighing]:
    """Forward, and forward + backward.

    Args:
        size: Of the layer.
    """
    return [Weighing(**asdict(size), operation=operation) for operation in OPERATIONS]


def peaks(job: Job[Weighing]) -> Iterator[Line]:
    """Peak extra memory of a layer's first large call, in a process that did nothing else.

    Args:
        job: Its one peer is the layer.
    """
    n_tokens, trains = job.settings.n_tokens[-1], job.size.operation != "forward"
    facts, kind = job.facts(job.size.operation, n_tokens), training if trains else forward
    # A small layer loads all code; a small call of the large one might fill buffers that stay.
    small = replace(job.size, n_locations=min(_N_WARM, job.size.n_locations))
    for name, layer in made(list(job.peers), replace(job, size=small))[0].items():
        layer.network.train(trains)
        kind(name, layer, Tokens(job.size.dim, min(8, n_tokens), job.settings.device)).run(1)
    at_hand, missing = made(list(job.peers), job)
    yield from ({**facts, **line} for line in missing)
    for name, layer in at_hand.items():
        line = {**facts, "entry": name, "n_cues": n_tokens}
        reason = excuse(layer, job.size, n_tokens, trains)
        if reason is not None:
            yield {**line, "skipped": reason}
            continue
        layer.network.train(trains)
        entry = kind(name, layer, Tokens(job.size.dim, n_tokens, job.settings.device))
        yield {**line, **_weigh(entry, layer, job.settings.device)}


def _weigh(entry: Entry, layer: Layer, device: str) -> Line:
    """The first call is weighed, the second one checked: its upstream gradient is mostly 0."""
    results: list[object] = []
    before = bytes_in_use(device)
    peak = extra_bytes(lambda: results.append(entry.run(1)), device)
    held = sum(_held_bytes(weight.grad) for weight in layer.network.parameters())
    results.clear()
    entry.reset()
    kept = bytes_in_use(device) - before
    fault = entry.fault(entry.run(0))
    if fault is not None:
        return {"error": f"wrong result: {fault}"}
    return {"peak_bytes": peak, "gradient_bytes": held, "kept_bytes": kept}


def _held_bytes(gradient: torch.Tensor | None) -> int:
    if gradient is None:
        return 0
    if not gradient.is_sparse:
        return gradient.nbytes
    return gradient._indices().nbytes + gradient._values().nbytes  # noqa: SLF001 its only way


def sizes(job: Job[LayerSize]) -> Iterator[Line]:
    """Forward through layers of more and more locations, in turns in one process.

    Args:
        job: Its settings say how many.
    """
    settings = job.settings
    facts = job.facts("forward", _SIZE_TOKENS)
    tokens = Tokens(job.size.dim, _SIZE_TOKENS, settings.device)
    entries = []
    for side in settings.sides:
        size = replace(job.size, n_locations=side**2)
        name = f"pentti {size.n_locations:,}"
        needs, free = size.n_locations * size.dim * 4, machine.free_bytes(settings.device)
        if needs > 0.9 * free:
            reason = f"needs {needs / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"
            yield {**facts, **size.facts(), "entry": name, "skipped": reason}
            continue
        torch.manual_seed(8)
        layer = Pentti(size, settings.device)
        layer.network.eval()
        entries.append(replace(forward(name, layer, tokens), facts=size.facts()))
    first = entries[0].name if entries else ""
    yield from measure(Comparison(facts, entries, contender=first), settings.patience)


def crossing(job: Job[LayerSize]) -> Iterator[Line]:
    """Forward through a layer and through dense causal attention, over the same sequences.

    Args:
        job: Its settings say how long these are.
    """
    settings = job.settings
    torch.manual_seed(8)
    layers: dict[str, Layer] = {
        "pentti": Pentti(job.size, settings.device),
        "attention": Attention(job.size, settings.device),
    }
    for layer in layers.values():
        layer.network.eval()
    patience = Patience(min(3, settings.patience.repetitions), settings.patience.seconds / 2, 5.0)
    for length in settings.crossing:
        tokens = Tokens(job.size.dim, length, settings.device)
        entries = [forward(name, layer, tokens) for name, layer in layers.items()]
        comparison = Comparison(job.facts("forward", length), entries, contender="pentti")
        yield from measure(comparison, patience)
