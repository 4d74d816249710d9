"""Dense and sparse attention beside torch's own kernel: time, memory and the right result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.jobs import Job
from benchmarks.layers import apart
from benchmarks.timing import Comparison, Entry, Line, measure
from pentti.nn import local
from pentti.peaks import extra_bytes

__all__ = ["ATTENTIONS", "AttentionSize", "Kernel", "time_attention", "weighed"]

_SHORT_S = 3.0  # a slow entry stops at three repetitions after so long
_LONG = 16_384  # and from this length on at two, without a warm-up after the check
_SHORTEST = 1_024  # a sequence that loads all code before memory is measured


@dataclass(frozen=True)
class AttentionSize:
    """Attention over one sequence, causal, batch 1.

    Attributes:
        length: Tokens.
        n_heads: Heads,
        head_width: and how wide each is.
        window: Tokens that a sliding window and Longformer see back.
        n_global: First tokens that all see in Longformer.
        block: Tokens in a block of BigBird,
        n_random: which sees so many random ones, and two global ones.
        stride: Of the strided form, and the block of the fixed one.
    """

    length: int
    n_heads: int = 8
    head_width: int = 64
    window: int = 512
    n_global: int = 16
    block: int = 64
    n_random: int = 3
    stride: int = 128

    @property
    def dim(self) -> int:
        return self.n_heads * self.head_width

    @property
    def title(self) -> str:
        return f"{self.length:,} tokens"

    def facts(self) -> dict[str, int]:
        """What a line says of the size."""
        return {
            "length": self.length,
            "n_heads": self.n_heads,
            "head_width": self.head_width,
            "window": self.window,
            "n_global": self.n_global,
            "block": self.block,
            "n_random": self.n_random,
            "stride": self.stride,
        }


class Kernel(nn.Module):
    """`scaled_dot_product_attention` alone, on queries, keys and values (3, H, L, E)."""

    def forward(self, x_3HLE: Tensor) -> Tensor:
        q, k, v = x_3HLE.unsqueeze(1)
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


ATTENTIONS: dict[str, Callable[[AttentionSize], nn.Module]] = {
    "SDPA": lambda _: Kernel(),
    "dense": lambda size: local.Attention(size.dim, size.n_heads),
    "window": lambda size: local.SlidingWindowAttention(size.dim, size.n_heads, window=size.window),
    "Longformer": lambda size: local.LongformerAttention(
        size.dim, size.n_heads, window=size.window, n_global=size.n_global
    ),
    "BigBird": lambda size: local.BigBirdAttention(
        size.dim, size.n_heads, block=size.block, n_random=size.n_random, n_global=2
    ),
    "strided": lambda size: local.StridedAttention(size.dim, size.n_heads, stride=size.stride),
    "fixed": lambda size: local.FixedAttention(size.dim, size.n_heads, block=size.stride),
}


def time_attention(job: Job[AttentionSize]) -> Iterator[Line]:
    """Lines of every form, forward and with gradients.

    Args:
        job: Says how long the sequence is.
    """
    device, size = job.settings.device, job.size
    patience = job.settings.patience
    patience = replace(patience, limit_s=min(patience.limit_s, _SHORT_S))
    if size.length >= _LONG:
        patience = replace(patience, repetitions=2, seconds=0.0, warms=False)
    torch.manual_seed(8)
    forms = {name: make(size).to(device) for name, make in ATTENTIONS.items()}
    for operation in ("forward", "forward + backward"):
        trains = operation != "forward"
        peaks: dict[str, int] = {}
        entries = []
        for name, form in forms.items():
            form.train(trains)
            short = _Sequence(form, replace(size, length=min(size.length, _SHORTEST)), device)
            short.run(1, trains)
            form.zero_grad(set_to_none=True)
            sequence = _Sequence(form, size, device)
            entries.append(weighed(_entry(name, sequence, trains), device, peaks))
        facts = job.facts(operation, size.length)
        for line in measure(Comparison(facts, entries, contender="SDPA"), patience):
            yield {**line, "peak_bytes": peaks[line["entry"]]} if "median_s" in line else line


def _entry(name: str, sequence: _Sequence, trains: bool) -> Entry:
    return Entry(
        name,
        lambda repetition: sequence.run(repetition, trains),
        sequence.size.length,
        sequence.fault,
        lambda: sequence.form.zero_grad(set_to_none=True),
    )


def weighed(entry: Entry, device: str, peaks: dict[str, int]) -> Entry:
    """The same, which notes its peak memory in repetition 0, the one that is not timed.

    Args:
        entry: What is run.
        device: Where it runs.
        peaks: Takes its peak, in bytes, by its name.
    """

    def run(repetition: int) -> Any:
        if repetition:
            return entry.run(repetition)
        entry.reset()
        kept: list[Any] = []
        peak = extra_bytes(lambda: kept.append(entry.run(0)), device)
        peaks[entry.name] = max(peak, peaks.get(entry.name, 0))
        return kept[0]

    return replace(entry, run=run)


class _Sequence:
    """A sequence that goes through a form of attention, and what must come out.

    A few positions are worked out in float64 against every token that they see; in repetition 0
    the upstream gradient is 0 for all others, so that all gradients follow from these few.
    """

    def __init__(self, form: nn.Module, size: AttentionSize, device: str) -> None:
        self.form, self.size = form, size
        generator = torch.Generator().manual_seed(9)
        length, width = size.length, size.head_width
        bare = isinstance(form, Kernel)
        inner = (3, size.n_heads, length, width) if bare else (1, length, size.dim)
        outer = (1, size.n_heads, length, width) if bare else inner
        self.turns = [torch.randn(inner, generator=generator).to(device) for _ in range(2)]
        self.upstream = torch.randn(outer, generator=generator).to(device)
        some = {0, 1, length // 3, length // 2, length - 2, length - 1}
        self.rows = torch.tensor(sorted(some & set(range(length))), device=device)
        self.upstream_checked = torch.zeros_like(self.upstream).index_copy_(
            -2, self.rows, self.upstream.index_select(-2, self.rows)
        )

    def run(self, repetition: int, trains: bool) -> tuple[Tensor, Tensor | None]:
        """The output, and the gradient of what went in where there is to be one."""
        x = self.turns[repetition % len(self.turns)].detach()
        if not trains:
            with torch.no_grad():
                return self.form(x), None
        self.form.zero_grad(set_to_none=True)
        x.requires_grad_()
        output = self.form(x)
        output.backward(self.upstream if repetition else self.upstream_checked)
        return output.detach(), x.grad

    def fault(self, result: tuple[Tensor, Tensor | None]) -> str | None:
        """What is wrong with the result of repetition 0."""
        output, gradient = result
        x = self.turns[0].double().requires_grad_()
        weights = {
            name: weight.detach().double().requires_grad_()
            for name, weight in self.form.named_parameters()
        }
        right = self._expected(x, weights)
        fault = apart("output", output.index_select(-2, self.rows), right)
        if gradient is None or fault is not None:
            return fault
        right.backward(self.upstream.index_select(-2, self.rows).double())
        pairs: dict[str, tuple[Tensor | None, Tensor | None]] = {"what went in": (gradient, x.grad)}
        for name, weight in self.form.named_parameters():
            pairs[name] = (weight.grad, weights[name].grad)
        faults = (_gradient_fault(name, *pair) for name, pair in pairs.items())
        return next((fault for fault in faults if fault is not None), None)

    def _expected(self, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
        keys = torch.arange(self.size.length, device=x.device)
        if isinstance(self.form, Kernel):
            q, k, v = x.unsqueeze(1)
            seen = keys <= self.rows[:, None]
        else:
            q, k, v = (
                (x @ weights[f"{name}.weight"].T)
                .unflatten(-1, (self.size.n_heads, -1))
                .transpose(1, 2)
                for name in ("query", "key", "value")
            )
            q, k = _turned(q), _turned(k)
            seen = self._visible(self.rows[:, None], keys)
        scores = q[:, :, self.rows] @ k.mT / self.size.head_width**0.5
        mixed: Tensor = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v
        if not isinstance(self.form, Kernel):
            mixed = mixed.transpose(1, 2).flatten(2) @ weights["out.weight"].T
        return mixed

    def _visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        """As the form defines it, and never what comes later."""
        seen: Tensor = self.form.visible(queries, keys)  # type: ignore[operator]
        return seen & (keys <= queries)


def _turned(x_BHLE: Tensor) -> Tensor:
    """Rotary positions, written as complex numbers."""
    width = x_BHLE.shape[-1]
    at = torch.arange(x_BHLE.shape[2], device=x_BHLE.device, dtype=x_BHLE.dtype)
    speed = 10_000 ** (-torch.arange(0, width, 2, device=x_BHLE.device, dtype=x_BHLE.dtype) / width)
    turn = torch.polar(torch.ones_like(speed), at[:, None] * speed)
    pairs = torch.complex(*x_BHLE.chunk(2, -1)) * turn
    return torch.cat([pairs.real, pairs.imag], -1)


def _gradient_fault(name: str, found: Tensor | None, right: Tensor | None) -> str | None:
    if found is None or right is None:
        return f"{name} has no gradient"
    return apart(f"gradient of {name}", found, right)
