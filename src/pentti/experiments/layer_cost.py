"""What does a token cost in the memory layer, and when is attention dearer?"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from pentti.experiments.drawing import draw, mark, plot
from pentti.experiments.finding import Claim, Experiment, Figure, Finding, Order, Step, Table
from pentti.experiments.pair_learning import one_thread, seeded
from pentti.nn import SDMLayer
from pentti.nn.local import Attention

__all__ = ["EXPERIMENT"]

_DIM = 512
_ROOT = 316
_HEADS = 4
_TOP_K = 32
_TOKENS = 1024  # at which numbers of locations are compared
_SEED = 31


@dataclass(frozen=True)
class _Plan:
    lengths: tuple[int, ...]
    roots: tuple[int, ...]  # of the number of locations, each twice the one before
    n_repetitions: int


_PLANS = {
    "quick": _Plan((128, 256, 512, 1024, 2048, 4096), (125, 250, 500, 1000), 5),
    "full": _Plan((128, 256, 512, 1024, 2048, 4096, 8192, 16_384), (125, 250, 500, 1000, 2000), 9),
}


@dataclass(frozen=True)
class _Length:
    """Microseconds a token over a sequence of so many."""

    length: int
    layer: float
    attention: float


@dataclass(frozen=True)
class _Number:
    """Microseconds a token with so many hard locations."""

    n_locations: int
    microseconds: float
    multiplications: int


def _run(order: Order) -> Generator[Step, None, Finding]:
    with one_thread():
        return (yield from _answer(_PLANS[order.size]))


def _answer(plan: _Plan) -> Generator[Step, None, Finding]:
    n_stages, lengths, numbers = len(plan.lengths) + len(plan.roots), [], []
    with seeded(_SEED):
        layer, attention = _layer(_ROOT), Attention(_DIM, 8).eval()
    for length in plan.lengths:
        n_repetitions = max(plan.n_repetitions, 8 * _TOKENS // length)  # short ones are cheap
        pair = _microseconds([layer, attention], length, n_repetitions)
        lengths.append(_Length(length, *pair))
        yield Step(len(lengths) / n_stages)
    del layer
    for root in plan.roots:
        with seeded(_SEED):
            layer = _layer(root)
        (cost,) = _microseconds([layer], _TOKENS, 2 * plan.n_repetitions)
        del layer  # before the next, four times as large
        numbers.append(_Number(root**2, cost, _layer_multiplications(root)))
        yield Step((len(lengths) + len(numbers)) / n_stages)
    settings = {"dim": _DIM, "n_heads": _HEADS, "top_k": _TOP_K, "threads": torch.get_num_threads()}
    return Finding(
        _claims(lengths, numbers),
        [_draw(lengths, numbers)],
        [_length_table(lengths), _number_table(numbers)],
        _conclusion(lengths, numbers),
        {**asdict(plan), **settings, "seeds": [_SEED]},
    )


def _layer(root: int) -> SDMLayer:
    return SDMLayer(_DIM, n_locations=root**2, n_heads=_HEADS, top_k=_TOP_K).eval()


@torch.no_grad()
def _microseconds(models: Sequence[nn.Module], length: int, n_repetitions: int) -> list[float]:
    """Least time of a token in each; the models take turns, so that a disturbance meets all."""
    generator = torch.Generator().manual_seed(_SEED)
    x = torch.randn((1, length, _DIM), generator=generator)
    for model in models:
        model(x)
    times = [[_seconds(model, x) for model in models] for _ in range(n_repetitions)]
    return [1e6 * min(each) / length for each in zip(*times, strict=True)]


def _seconds(model: nn.Module, x: Tensor) -> float:
    start = time.perf_counter()
    model(x)
    return time.perf_counter() - start


def _layer_multiplications(root: int) -> int:
    """For a token: the query, the scores of two codebooks in all heads, the read."""
    return _DIM**2 + root * _DIM + _HEADS * _TOP_K * _DIM


def _attention_multiplications(length: int) -> int:
    """For a token: four projections, and scores and sums over half of the others on average."""
    return 4 * _DIM**2 + _DIM * length


def _crossing(lengths: Sequence[_Length]) -> float | None:
    """Length from which on attention is dearer, between two by straight lines in logarithms."""
    gaps = [math.log(one.attention / one.layer) for one in lengths]
    below = [i for i, gap in enumerate(gaps) if gap <= 0]
    if not below:
        return float(lengths[0].length)
    i = below[-1]
    if i + 1 == len(gaps):
        return None
    step = math.log(lengths[i + 1].length / lengths[i].length)
    return lengths[i].length * math.exp(step * gaps[i] / (gaps[i] - gaps[i + 1]))


def _growth(numbers: Sequence[_Number]) -> float:
    """Cost for four times as many locations, the geometric mean over all steps."""
    return float((numbers[-1].microseconds / numbers[0].microseconds) ** (1 / (len(numbers) - 1)))


def _claims(lengths: Sequence[_Length], numbers: Sequence[_Number]) -> list[Claim]:
    first, last = lengths[0], lengths[-1]
    crossing, growth = _crossing(lengths), _growth(numbers)
    flat = last.layer / statistics.median(one.layer for one in lengths)
    grown = last.attention / min(one.attention for one in lengths[: len(lengths) // 2])
    counted = _attention_multiplications(last.length) / _attention_multiplications(first.length)
    by_count = (numbers[-1].multiplications / numbers[0].multiplications) ** (
        1 / (len(numbers) - 1)
    )
    return [
        Claim(
            "The cost of a token in the layer does not grow with the sequence",
            f"at {last.length:,} tokens at most twice the median of all lengths",
            f"{flat:.2f} times",
            flat <= 2,
        ),
        Claim(
            "In dense causal attention it does",
            f"{counted:.1f} times from {first.length:,} to {last.length:,} tokens (by the count); "
            "at least half of that, against the least of the shorter ones",
            f"{grown:.2f} times",
            grown >= counted / 2,
        ),
        Claim(
            "Attention, with its projections, is dearer from some 2,000 tokens on",
            "500 to 8,000",
            "nowhere that was tried" if crossing is None else f"{crossing:,.0f}",
            crossing is not None and 500 <= crossing <= 8000,
        ),
        Claim(
            "Four times as many locations cost little more",
            f"{by_count:.2f} times (by the count), at most 2.2 on average",
            f"{growth:.2f} times",
            growth <= 2.2,
        ),
    ]


def _conclusion(lengths: Sequence[_Length], numbers: Sequence[_Number]) -> str:
    crossing, last = _crossing(lengths), lengths[-1]
    where = (
        "Attention stays cheaper at every length tried"
        if crossing is None
        else f"Attention is dearer from {crossing:,.0f} tokens on"
    )
    dearer = "more" if last.attention > last.layer else "less"
    factor = max(last.attention / last.layer, last.layer / last.attention)
    return (
        f"A token costs {last.layer:.0f} µs in a layer of {_ROOT**2:,} locations and "
        f"{last.attention:.0f} µs in causal attention over {last.length:,} tokens, "
        f"{factor:.1f} times {dearer}. {where}. From {numbers[0].n_locations:,} to "
        f"{numbers[-1].n_locations:,} locations the layer's cost goes from "
        f"{numbers[0].microseconds:.0f} to {numbers[-1].microseconds:.0f} µs, a factor of "
        f"{_growth(numbers):.2f} for each quadrupling. These are times of this run on this "
        "machine; the benchmarks compare with peers."
    )


def _length_table(lengths: Sequence[_Length]) -> Table:
    return Table(
        f"Forward, {_DIM} wide: time and multiplications for each token, by length",
        ("tokens", "layer (µs)", "attention (µs)", "layer, multiplications", "attention"),
        [
            (
                one.length,
                round(one.layer, 1),
                round(one.attention, 1),
                _layer_multiplications(_ROOT),
                _attention_multiplications(one.length),
            )
            for one in lengths
        ],
    )


def _number_table(numbers: Sequence[_Number]) -> Table:
    return Table(
        f"Forward, {_TOKENS:,} tokens at a time: time for each token, by number of locations",
        ("locations", "µs", "multiplications", "contents (MB)"),
        [
            (
                one.n_locations,
                round(one.microseconds, 1),
                one.multiplications,
                round(one.n_locations * _DIM * 4 / 1e6),
            )
            for one in numbers
        ],
    )


def _draw(lengths: Sequence[_Length], numbers: Sequence[_Number]) -> Figure:
    canvas, axes = plot(2)
    length = [one.length for one in lengths]
    axes[0].plot(length, [one.layer for one in lengths], "o-", label="memory layer")
    axes[0].plot(length, [one.attention for one in lengths], "o-", label="dense causal attention")
    mark(axes[0], length)
    axes[0].set(xlabel="tokens in the sequence", ylabel="µs for each token")
    axes[0].set_ylim(bottom=0)
    axes[0].legend()
    number = [one.n_locations for one in numbers]
    axes[1].plot(number, [one.microseconds for one in numbers], "o-", label="measured")
    first = numbers[0]
    counted = [first.microseconds * one.multiplications / first.multiplications for one in numbers]
    axes[1].plot(number, counted, "--", color="gray", label="first, grown by the count")
    mark(axes[1], number)
    axes[1].set(xlabel="hard locations")
    axes[1].set_ylim(bottom=0)
    axes[1].legend()
    return draw(canvas, "Cost of a token by length of the sequence, and by number of locations.")


EXPERIMENT = Experiment(
    name="layer_cost",
    question="What does a token cost in the memory layer, and when is attention dearer?",
    method=(
        f"A layer {_DIM} wide ({_ROOT**2:,} locations, {_HEADS} heads, {_TOP_K} locations each) "
        "and a dense causal attention of 8 heads with its projections run forward in turns on the "
        "same tokens on one thread, which other work disturbs least; the least time of each "
        "counts. Then the layer alone with ever more "
        f"locations, {_TOKENS:,} tokens at a time. Times vary with the machine and its "
        "other work; claims leave room for that."
    ),
    prediction=(
        "A token costs the layer D² + √M·D + H·K·D multiplications, 490 thousand, whatever the "
        "length, and 262 kB from random rows of the contents, some 26 µs at 10 GB/s. Attention "
        "takes 4D² + L·D, in fast dense products: about the same time at some 2,000 tokens. "
        "Quadrupling M doubles the scores alone, 1.3 times the multiplications on average; rows "
        "that no cache holds cost more."
    ),
    source=(
        "Lample et al. 2019 for product keys, Vaswani et al. 2017 for attention; Kanerva (1988) "
        "for the memory"
    ),
    run=_run,
)
