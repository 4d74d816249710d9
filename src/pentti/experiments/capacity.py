"""How much does a memory hold, and from how far is a word found?"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, astuple, dataclass

import numpy as np
import torch
from torch import Tensor

from pentti import bits, theory
from pentti.decoders import HammingBall
from pentti.experiments.drawing import draw, plot
from pentti.experiments.finding import Claim, Experiment, Figure, Finding, Order, Step, Table
from pentti.experiments.judging import REVISED, deviation, standard_error
from pentti.memory import SparseDistributedMemory

__all__ = ["EXPERIMENT"]

_N_BITS = 1000
_RADIUS = 451
_NEAR = 50  # bits within which a recall counts as having found its word
_DISTANCES = tuple(range(0, 401, 25))  # of one read
_FROM = tuple(range(100, 361, 20))  # of iterated reading, near whose edge reads are many
_MAX_READS = 40


@dataclass(frozen=True)
class _Plan:
    n_locations: int
    loads: tuple[int, ...]
    n_cues: int
    fidelity_locations: int
    fidelity_loads: tuple[int, ...]


_PLANS = {
    "quick": _Plan(1_000_000, (1000, 5000, 10_000), 30, 100_000, (1000, 2000, 5000, 10_000)),
    "full": _Plan(
        1_000_000,
        (1000, 2000, 5000, 10_000, 20_000, 30_000),
        200,
        1_000_000,
        (10_000, 20_000, 50_000, 100_000),
    ),
}


def _run(order: Order) -> Generator[Step, None, Finding]:
    plan = _PLANS[order.size]
    n_stages, done = 2 * len(plan.loads) + len(plan.fidelity_loads), 0
    curves: dict[tuple[str, int], _Curve] = {}
    for kind in ("autoassociative", "heteroassociative"):
        for load, curve in _distances(kind, plan):
            curves[kind, load] = curve
            done += 1
            yield Step(done / n_stages)
    fidelities = []
    for fidelity in _fidelities(plan):
        fidelities.append(fidelity)
        done += 1
        yield Step(done / n_stages)
    reaches = [_reach(load, curves, plan.n_locations) for load in plan.loads]
    return Finding(
        _claims(reaches, fidelities),
        [_draw_distances(curves, plan), _draw_fidelity(fidelities)],
        [_reach_table(reaches, plan), _fidelity_table(fidelities, plan)],
        _conclusion(reaches, fidelities, plan),
        {**asdict(plan), "seeds": [5, 6, 7, 8]},
    )


@dataclass(frozen=True)
class _Curve:
    """Mean distance read at each of `_DISTANCES`, and share found at last from each of `_FROM`."""

    read: np.ndarray
    found: np.ndarray


@dataclass(frozen=True)
class _Reach:
    """Critical distances in bits: two theories, two kinds of one read, and iterated reading.

    None where no distance that was tried is a crossing.
    """

    n_words: int
    exact: float
    simplified: float
    hetero: float | None
    auto: float | None
    iterated: float | None


@dataclass(frozen=True)
class _Fidelity:
    """Share of bits read right at the stored address, by two theories and as measured."""

    n_words: int
    radius: int
    load: float
    closed: float
    averaged: float
    measured: float
    error: float


def _distances(kind: str, plan: _Plan) -> Generator[tuple[int, _Curve], None, None]:
    decoder = HammingBall(_N_BITS, plan.n_locations, radius=_RADIUS, seed=5)
    memory = SparseDistributedMemory(decoder, counter_dtype=torch.int8)
    generator = torch.Generator().manual_seed(6)
    address = bits.random(max(plan.loads), _N_BITS, generator=generator)
    word = address
    if kind == "heteroassociative":
        word = bits.random(max(plan.loads), _N_BITS, generator=generator)
    stored = 0
    for load in plan.loads:
        memory.write(address[stored:load], word[stored:load])
        stored = load
        yield load, _measure(memory, address[: plan.n_cues], word[: plan.n_cues], generator)


def _measure(
    memory: SparseDistributedMemory, address: Tensor, word: Tensor, generator: torch.Generator
) -> _Curve:
    read, found = [], []
    for distance in _DISTANCES:
        once = memory.read(bits.flip(address, distance, generator=generator)).word
        read.append(bits.hamming_distance(once, word).double().mean().item())
    for distance in _FROM if torch.equal(address, word) else ():
        cue = bits.flip(address, distance, generator=generator)
        recalled = memory.recall(cue, max_reads=_MAX_READS).word
        near = bits.hamming_distance(recalled, word) <= _NEAR
        found.append(near.double().mean().item())
    return _Curve(np.array(read), np.array(found))


def _fidelities(plan: _Plan) -> Generator[_Fidelity, None, None]:
    m = plan.fidelity_locations
    for load in plan.fidelity_loads:
        radius = theory.radius_for_signal_to_noise(_N_BITS, m, load)
        decoder = HammingBall(_N_BITS, m, radius=radius, seed=7)
        memory = SparseDistributedMemory(decoder, counter_dtype=torch.int8)
        generator = torch.Generator().manual_seed(8)
        address, word = (bits.random(load, _N_BITS, generator=generator) for _ in range(2))
        memory.write(address, word)
        wrong = (memory.read(address[:1000]).word != word[:1000]).double().mean(1)
        p = decoder.activation_probability
        averaged = float(theory.mean_bit_fidelity(m, load, p))
        yield _Fidelity(
            n_words=load,
            radius=radius,
            load=load / m,
            closed=float(theory.bit_fidelity(m, load, p)),
            averaged=averaged,
            measured=1 - wrong.mean().item(),
            error=standard_error(wrong, _N_BITS, 1 - averaged),
        )


def _crossing(distances: tuple[int, ...], gap: np.ndarray) -> float | None:
    """First distance, by linear interpolation, at which the gap rises above 0."""
    above = np.flatnonzero((gap[1:] > 0) & (gap[:-1] <= 0))
    if not len(above):
        return None
    i = above[0]
    share = gap[i] / (gap[i] - gap[i + 1])
    return round(float(distances[i] + share * (distances[i + 1] - distances[i])), 1)


def _reach(load: int, curves: dict[tuple[str, int], _Curve], n_locations: int) -> _Reach:
    itself = np.array(_DISTANCES, dtype=float)
    auto, hetero = curves["autoassociative", load], curves["heteroassociative", load]
    return _Reach(
        load,
        theory.critical_distance(_N_BITS, n_locations, load, _RADIUS, variance="exact"),
        theory.critical_distance(_N_BITS, n_locations, load, _RADIUS, variance="simplified"),
        _crossing(_DISTANCES, hetero.read - itself),
        _crossing(_DISTANCES, auto.read - itself),
        _crossing(_FROM, 0.5 - auto.found),
    )


def _claims(reaches: Sequence[_Reach], fidelities: Sequence[_Fidelity]) -> list[Claim]:
    return [
        _meets_theory(reaches),
        _below_popular(next((r for r in reaches if r.n_words == 10_000), reaches[-1])),
        _auto_further(reaches),
        _within_errors(
            f"The share of bits read right is Φ(ρ), the closed form of 1993 {REVISED}",
            fidelities,
            [f.closed for f in fidelities],
        ),
        _within_errors(
            "The share of bits read right is Φ averaged over the number of active locations "
            f"{REVISED}",
            fidelities,
            [f.averaged for f in fidelities],
        ),
    ]


def _meets_theory(reaches: Sequence[_Reach]) -> Claim:
    gaps = [None if r.hetero is None else abs(r.hetero - r.exact) for r in reaches]
    return _every(
        "One heteroassociative read crosses where the theory with the exact variance says",
        "within 12 bits at every load (half a step of the grid)",
        gaps,
        "largest difference {:.1f} bits",
        lambda worst: worst <= 12,
        max,
    )


def _auto_further(reaches: Sequence[_Reach]) -> Claim:
    leads = [None if r.auto is None or r.hetero is None else r.auto - r.hetero for r in reaches]
    return _every(
        "One autoassociative read reaches further than a heteroassociative one",
        "at every load",
        leads,
        "smallest lead {:.1f} bits",
        lambda lead: lead > 0,
        min,
    )


def _every(
    text: str,
    predicted: str,
    values: Sequence[float | None],
    measured: str,
    holds: Callable[[float], bool],
    worst: Callable[[list[float]], float],
) -> Claim:
    """A claim about the worst of all values; where one is missing it fails."""
    known = [value for value in values if value is not None]
    missing = len(values) - len(known)
    if missing:
        return Claim(text, predicted, f"no crossing at {missing} of {len(values)} loads", False)
    return Claim(text, predicted, measured.format(worst(known)), holds(worst(known)))


def _below_popular(reach: _Reach) -> Claim:
    return Claim(
        f"It does not reach the popular 209 bits at 10,000 words {REVISED}",
        "at most 170 bits",
        _bits(reach.hetero),
        reach.n_words == 10_000 and reach.hetero is not None and reach.hetero <= 170,
    )


def _within_errors(text: str, fidelities: Sequence[_Fidelity], expected: Sequence[float]) -> Claim:
    pairs = list(zip(fidelities, expected, strict=True))
    worst = max(deviation(f.measured, e, f.error) for f, e in pairs)
    gap = max(abs(f.measured - e) for f, e in pairs)
    return Claim(
        text,
        f"within 4 standard errors at every load up to {100 * fidelities[-1].load:.0f} %",
        f"largest deviation {worst:.1f} standard errors (largest difference {gap:.5f})",
        worst <= 4,
    )


def _bits(distance: float | None) -> str:
    return "no crossing" if distance is None else f"{distance:g} bits"


def _conclusion(reaches: Sequence[_Reach], fidelities: Sequence[_Fidelity], plan: _Plan) -> str:
    last, full = reaches[-1], fidelities[-1]
    closed, averaged = (
        deviation(full.measured, expected, full.error) for expected in (full.closed, full.averaged)
    )
    return (
        f"With {last.n_words:,} words in {plan.n_locations:,} hard locations, the distances at "
        f"which a read stops bringing a cue nearer are: one heteroassociative read "
        f"{_bits(last.hetero)}, the theory with the exact variance {_bits(last.exact)}, the "
        f"simplified one of 1988 {_bits(last.simplified)}. For one autoassociative read, where the "
        "words that interfere were stored near the cue and so resemble it, it is "
        f"{_bits(last.auto)}; half of the cues find their word by reading on and on from "
        f"{_bits(last.iterated)}. For these two there is no formula here. "
        f"At a load of {100 * full.load:.0f} % and the best radius for it, "
        f"{100 * full.measured:.3f} % of the bits are right at the exact address. The closed form "
        f"of 1993 says {100 * full.closed:.3f} % ({closed:.1f} standard errors away), its average "
        f"over the number of active locations {100 * full.averaged:.3f} % ({averaged:.1f})."
    )


def _reach_table(reaches: Sequence[_Reach], plan: _Plan) -> Table:
    return Table(
        f"Critical distance in bits ({plan.n_locations:,} locations, radius 451 of 1,000)",
        (
            "words stored",
            "theory, exact variance",
            "theory, simplified (1988)",
            "one read, heteroassociative",
            "one read, autoassociative",
            "iterated, autoassociative",
        ),
        [astuple(reach) for reach in reaches],
    )


def _fidelity_table(fidelities: Sequence[_Fidelity], plan: _Plan) -> Table:
    return Table(
        f"Share of bits read right at the stored address ({plan.fidelity_locations:,} locations)",
        (
            "words stored",
            "radius (bits)",
            "load T / M",
            "closed form of 1993",
            "averaged over active locations",
            "measured",
            "standard error",
        ),
        [
            (
                f.n_words,
                f.radius,
                f.load,
                round(f.closed, 6),
                round(f.averaged, 6),
                round(f.measured, 6),
                float(f"{f.error:.1g}"),
            )
            for f in fidelities
        ],
    )


def _draw_distances(curves: dict[tuple[str, int], _Curve], plan: _Plan) -> Figure:
    canvas, axes = plot(2)
    for i, load in enumerate(plan.loads):
        hetero = curves["heteroassociative", load]
        axes[0].plot(_DISTANCES, hetero.read, "o-", color=f"C{i}", label=f"{load:,} words")
        expected = theory.critical_distance(_N_BITS, plan.n_locations, load, _RADIUS)
        axes[0].axvline(expected, ymax=0.68, color=f"C{i}", linestyle=":", linewidth=1)
        auto = curves["autoassociative", load]
        axes[1].plot(_FROM, auto.found, "o-", color=f"C{i}", label=f"{load:,} words")
    axes[0].plot(_DISTANCES, _DISTANCES, "--", color="gray", label="no nearer than the cue")
    axes[0].set(xlabel="distance of the cue (bits)", ylabel="distance of the word read (bits)")
    axes[1].set(xlabel="distance of the cue (bits)", ylabel="share found by iterated reading")
    axes[0].legend()
    axes[1].legend()
    return draw(
        canvas,
        "Left: one heteroassociative read; dotted, the critical distance of the theory (exact "
        "variance). Right: cues from which iterated reading finds the word.",
    )


def _draw_fidelity(fidelities: Sequence[_Fidelity]) -> Figure:
    canvas, (axis,) = plot()
    load = [f.load for f in fidelities]
    axis.plot(load, [1 - f.closed for f in fidelities], "--", label="closed form of 1993")
    axis.plot(load, [1 - f.averaged for f in fidelities], label="averaged over active locations")
    axis.errorbar(
        load,
        [1 - f.measured for f in fidelities],
        [2 * f.error for f in fidelities],
        fmt="o",
        color="C2",
        label="measured, ± 2 s.e.",
    )
    axis.set(xlabel="words per hard location", ylabel="share of bits read wrong", yscale="log")
    axis.set_ylim(bottom=min(f.error for f in fidelities) / 2)
    axis.legend()
    return draw(
        canvas,
        "Errors at the stored address against load, at the best radius for each; the axis ends "
        "at half a standard error, below which nothing could be seen.",
    )


EXPERIMENT = Experiment(
    name="capacity",
    question="How much does the memory hold, and from how far is a word found?",
    method=(
        "Random words are stored and asked for with cues at every 25 bits. One read is past its "
        "critical distance where it gives a word no nearer than the cue; iterated reading where "
        "fewer than half of the cues end within 50 bits of the word."
    ),
    prediction=(
        "One heteroassociative read follows the theory with the exact variance (322, 208 and 152 "
        "bits at 1,000, 5,000 and 10,000 words in 10⁶ locations), far below the popular 209 at "
        "10,000 words, which come from the simplified theory. Autoassociative reading reaches "
        "further. Bits at the exact address are right with probability Φ(ρ), to a load of 10 %; "
        "after a first run, with Φ averaged over the number of active locations."
    ),
    source=(
        "Kanerva, Sparse Distributed Memory (1988), chapter 7; Kanerva, Sparse Distributed Memory "
        "and related models (1993)"
    ),
    run=_run,
)
