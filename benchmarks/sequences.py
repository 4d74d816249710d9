"""The sequence memory beside attention: time and memory by length, and of a single token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.attentions import AttentionSize, Kernel, weighed
from benchmarks.jobs import Job
from benchmarks.layers import apart
from benchmarks.timing import Comparison, Entry, Line, Patience, measure
from pentti.nn import LinearAttention, SequenceMemory, local

__all__ = ["FORMS", "SequenceSize", "stream_tokens", "time_sequences"]

_TOP_K = 8
_N_LOCATIONS = 65_536
_N_CODEBOOKS = 4
_CHECKED = 5  # tokens whose output is worked out again


@dataclass(frozen=True)
class SequenceSize(AttentionSize):
    """A sequence, and whether it goes backward too."""

    operation: str = "forward"

    @property
    def title(self) -> str:
        return f"{super().title}, {self.operation}"


FORMS: dict[str, Callable[[AttentionSize], nn.Module]] = {
    "pentti": lambda size: SequenceMemory(
        size.dim, size.n_heads, n_locations=_N_LOCATIONS, n_codebooks=_N_CODEBOOKS, top_k=_TOP_K
    ),
    "SDPA": lambda _: Kernel(),
    "linear": lambda size: LinearAttention(size.dim, size.n_heads, chunk=128),
    "window": lambda size: local.SlidingWindowAttention(size.dim, size.n_heads, window=size.window),
    "BigBird": lambda size: local.BigBirdAttention(
        size.dim, size.n_heads, block=size.block, n_random=size.n_random, n_global=2
    ),
}


def time_sequences(job: Job[SequenceSize]) -> Iterator[Line]:
    """Lines of the memory and of the forms beside it, each with its peak memory.

    Args:
        job: Says how long the sequence is, and whether it goes backward.
    """
    size, device = job.size, job.settings.device
    trains = size.operation != "forward"
    torch.manual_seed(8)
    peaks: dict[str, int] = {}
    entries = []
    for name, make in FORMS.items():
        form = make(size).to(device).train(trains)
        _run(form, replace(size, length=256), device, trains)(1)  # loads all code
        entries.append(weighed(_entry(name, form, size, device), device, peaks))
    long = size.length >= 16_384
    patience = Patience(3, 0.0, 3.0, warms=False) if long else job.settings.patience
    facts = job.facts(size.operation, size.length)
    for line in measure(Comparison(facts, entries, contender="pentti"), patience):
        yield {**line, "peak_bytes": peaks[line["entry"]]} if "median_s" in line else line


def _entry(name: str, form: nn.Module, size: SequenceSize, device: str) -> Entry:
    run = _run(form, size, device, size.operation != "forward")

    def fault(output: Tensor) -> str | None:
        if not isinstance(form, SequenceMemory):
            return None if output.isfinite().all() else "the output is not finite"
        return _memory_fault(form, _tokens(form, size, device)[0], output)

    return Entry(name, run, size.length, fault, lambda: form.zero_grad(set_to_none=True))


def _run(
    form: nn.Module, size: AttentionSize, device: str, trains: bool
) -> Callable[[int], Tensor]:
    turns = _tokens(form, size, device)

    def run(repetition: int) -> Tensor:
        x = turns[repetition % len(turns)].detach()
        with torch.set_grad_enabled(trains):
            form.zero_grad(set_to_none=True)
            given = form(x.requires_grad_(trains))
            output: Tensor = given[0] if isinstance(given, tuple) else given
            if trains:
                output.backward(torch.ones_like(output))
            return output.detach()

    return run


def _tokens(form: nn.Module, size: AttentionSize, device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(9)
    bare = (3, size.n_heads, size.length, size.head_width)
    shape = bare if isinstance(form, Kernel) else (1, size.length, size.dim)
    return [torch.randn(shape, generator=generator).to(device) for _ in range(2)]


@torch.no_grad()
def _memory_fault(form: SequenceMemory, x: Tensor, output: Tensor) -> str | None:
    """A few tokens again in float64, compared with every token before them."""
    query = form.address(x)
    locations, similarity, active = form.decoder.nearest(query)
    weights = form.weigh(similarity, active)[0].double()[0]
    values = form.value(x).double()[0].unflatten(-1, (form.n_heads, -1))
    places, length = locations[0], x.shape[1]
    floor = torch.nn.functional.softplus(form.get_parameter("floor").double())
    for t in torch.linspace(0, length - 1, _CHECKED).long().tolist():
        same = places[t, :, :, None] == places[:t, :, None, :]  # (t, H, K, K)
        overlap = (same * weights[t, :, :, None] * weights[:t, :, None, :]).sum((-1, -2))
        total = torch.einsum("th,thd->hd", overlap, values[1 : t + 1])
        read = total / (overlap.sum(0) + floor)[:, None]
        right = form.out.weight.double() @ read.flatten()
        fault = apart(f"output {t}", output[0, t], right)
        if fault is not None:
            return fault
    return None


def stream_tokens(job: Job[AttentionSize]) -> Iterator[Line]:
    """One token at a time, once so many have passed: all positions in turns.

    Args:
        job: Its settings say how many.
    """
    settings = job.settings
    torch.manual_seed(8)
    form = FORMS["pentti"](job.size).to(settings.device).eval()
    state: Any = form.new_cache(1)  # type: ignore[operator]
    generator = torch.Generator().manual_seed(9)
    ones = torch.randn((1024, 1, 1, job.size.dim), generator=generator).to(settings.device)
    entries, passed = [], 0
    for position in settings.positions:
        while passed < position:
            n = min(16_384, position - passed)
            with torch.no_grad():
                form(torch.randn((1, n, job.size.dim), generator=generator).to(ones), state)
            passed += n
        entries.append(_one_more(form, state.clone(), ones, position))
    yield from measure(Comparison(job.facts("one token"), entries), settings.patience)


def _one_more(form: nn.Module, state: Any, ones: Tensor, position: int) -> Entry:
    # With gradients it goes another way, in plain torch; run 0 must give the same.
    right = form(ones[0].clone().requires_grad_(), state.clone()).output.detach()[0, 0]

    def run(repetition: int) -> Tensor:
        with torch.no_grad():
            output: Tensor = form(ones[repetition % len(ones)], state).output
            return output

    facts = {"batch": position, "state_bytes": state.size_bytes}
    return Entry(
        f"pentti after {position:,}", run, 1, lambda y: apart("output", y[0, 0], right), facts=facts
    )
