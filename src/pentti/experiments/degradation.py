"""What is left of a memory when parts of it are destroyed?"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch
from scipy import stats

from pentti import bits, theory
from pentti.decoders import HammingBall
from pentti.experiments.drawing import draw, plot
from pentti.experiments.finding import Claim, Experiment, Figure, Finding, Order, Step, Table
from pentti.experiments.judging import REVISED, deviation, standard_error
from pentti.memory import SparseDistributedMemory

__all__ = ["EXPERIMENT"]

_DESTROYED = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98)
_FLIPPED = (0.0, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5)
_NOISE = 100


def _run(order: Order) -> Generator[Step, None, Finding]:
    n_locations, n_cues = {"quick": (100_000, 100), "full": (1_000_000, 1000)}[order.size]
    n_stored = n_locations // 100
    decoder = HammingBall(1000, n_locations, radius=451, seed=9)
    generator = torch.Generator().manual_seed(10)
    stored, others = (bits.random(n_stored, 1000, generator=generator) for _ in range(2))
    alike = SparseDistributedMemory(decoder, counter_dtype=torch.int8)
    alike.write(stored)
    apart = SparseDistributedMemory(decoder, counter_dtype=torch.int8)
    apart.write(stored, others)
    intact = alike.contents.clone(), apart.contents.clone()
    shuffled = torch.randperm(n_locations, generator=generator)

    p = decoder.activation_probability
    rows: list[_Row] = []
    damages = [("locations destroyed", share) for share in _DESTROYED]
    damages += [("counters flipped", share) for share in _FLIPPED]
    for i, (kind, share) in enumerate(damages):
        for memory, contents in zip((alike, apart), intact, strict=True):
            memory.contents.copy_(contents)
            if kind == "locations destroyed":
                memory.contents[shuffled[: int(share * n_locations)]] = 0
            else:
                _flip_counters(memory.contents, share, generator)
        destroyed, flipped = (share, 0.0) if kind == "locations destroyed" else (0.0, share)
        left = round((1 - destroyed) * n_locations)
        expected = 1 - float(theory.mean_bit_fidelity(left, n_stored, p, flipped_share=flipped))
        closed = float(theory.signal_to_noise(left, n_stored, p)) ** 0.5 * (1 - 2 * flipped)
        wrong = (apart.read(stored[:n_cues]).word != others[:n_cues]).double().mean(1)
        error = standard_error(wrong, decoder.address_bits, expected)
        found = _found(alike, stored[:n_cues], generator)
        rows.append(
            _Row(
                kind,
                share,
                expected,
                float(stats.norm.sf(closed)),
                wrong.mean().item(),
                error,
                found,
            )
        )
        yield Step((i + 1) / len(damages))

    emptied, turned = rows[: len(_DESTROYED)], rows[len(_DESTROYED) :]
    half, fifth = emptied[_DESTROYED.index(0.5)], turned[_FLIPPED.index(0.2)]
    reach = theory.critical_distance(1000, n_locations // 2, n_stored, 451)
    claims = [
        _claim("Destroying a share of the hard locations is like never having had them", emptied),
        _claim("Flipping a share f of the counters leaves 1 − 2f of the signal", turned),
        Claim(
            f"With half of the locations gone, most words are found from {_NOISE} bits of noise: "
            f"the critical distance of what is left is {reach} bits {REVISED}",
            "at least 90 % of the cues",
            f"{100 * half.found:.0f} %",
            half.found >= 0.9,
        ),
    ]
    averaged, closed_form = (
        max(deviation(row.measured, expected, row.error) for expected, row in pairs)
        for pairs in (
            [(row.expected, row) for row in rows],
            [(row.closed_form, row) for row in rows],
        )
    )
    conclusion = (
        f"With {n_stored:,} words in {n_locations:,} hard locations, destroying half of them "
        f"leaves {100 * half.measured:.3g} % of the bits wrong and finds {100 * half.found:.0f} % "
        f"of the words from {_NOISE} bits of noise; with a fifth of the counters flipped it is "
        f"{100 * fifth.measured:.3g} % and {100 * fifth.found:.0f} %. Over all damages the share "
        f"of wrong bits is at most {averaged:.1f} standard errors from the theory, and "
        f"{closed_form:.1f} from the closed form of 1993, which counts the varying number of "
        "active locations, that all bits of a word share, as noise."
    )
    table = Table(
        f"Damage to a memory of {n_locations:,} locations with {n_stored:,} words",
        (
            "damage",
            "share",
            "wrong bits, theory",
            "wrong bits, closed form of 1993",
            "wrong bits, one heteroassociative read",
            "standard error",
            f"found from {_NOISE} bits of noise",
        ),
        [
            (
                row.damage,
                row.share,
                round(row.expected, 5),
                round(row.closed_form, 5),
                round(row.measured, 5),
                float(f"{row.error:.1g}"),
                round(row.found, 3),
            )
            for row in rows
        ],
    )
    settings = {"n_locations": n_locations, "n_stored": n_stored, "n_cues": n_cues}
    return Finding(claims, [_draw(rows)], [table], conclusion, {**settings, "seeds": [9, 10]})


@dataclass(frozen=True)
class _Row:
    damage: str
    share: float
    expected: float
    closed_form: float
    measured: float
    error: float
    found: float


def _claim(text: str, rows: list[_Row]) -> Claim:
    gap = max(abs(row.measured - row.expected) for row in rows)
    worst = max(deviation(row.measured, row.expected, row.error) for row in rows)
    within = all(abs(row.measured - row.expected) <= max(0.01, 4 * row.error) for row in rows)
    return Claim(
        f"{text} {REVISED}",
        "share of wrong bits within 0.01, or 4 standard errors, of the theory",
        f"largest difference {gap:.4f}, largest deviation {worst:.1f} standard errors",
        within,
    )


def _flip_counters(contents: torch.Tensor, share: float, generator: torch.Generator) -> None:
    """Change the sign of a random share of the counters (none is at the end of its range)."""
    for part in contents.split(10_000):
        part.mul_(1 - 2 * (torch.rand(part.shape, generator=generator) < share).to(part.dtype))


def _found(
    memory: SparseDistributedMemory, stored: torch.Tensor, generator: torch.Generator
) -> float:
    recalled = memory.recall(bits.flip(stored, _NOISE, generator=generator), max_reads=12)
    near = bits.hamming_distance(recalled.word, stored) <= 50
    return near.double().mean().item()


def _draw(rows: list[_Row]) -> Figure:
    canvas, axes = plot(2)
    for axis, damage in zip(axes, ("locations destroyed", "counters flipped"), strict=True):
        part = [row for row in rows if row.damage == damage]
        share = [row.share for row in part]
        axis.plot(share, [row.expected for row in part], label="wrong bits, theory")
        closed = [row.closed_form for row in part]
        axis.plot(share, closed, ":", color="C0", label="wrong bits, closed form of 1993")
        measured, error = [row.measured for row in part], [2 * row.error for row in part]
        axis.errorbar(share, measured, error, fmt="o", color="C1", label="wrong bits, measured")
        found = [row.found for row in part]
        axis.plot(share, found, "s--", color="C2", label=f"found from {_NOISE} bits of noise")
        axis.set(xlabel=f"share of {damage}", ylim=(-0.03, 1.05))
    axes[0].set_ylabel("share")
    axes[0].legend()
    return draw(canvas, "Errors and recall against damage, beside the theory.")


EXPERIMENT = Experiment(
    name="degradation",
    question="What is left when parts of the memory are destroyed?",
    method=(
        "A memory loaded to 1 % is damaged: a share of its hard locations is emptied, or a share "
        "of its counters changes sign. Words stored under unrelated addresses are read once; words "
        "stored under themselves are recalled from 100 bits of noise, found within 50 bits."
    ),
    prediction=(
        "Every word lies in about a thousandth of all locations, so nothing is lost at once: wrong "
        "bits follow Φ(−√(k / variance)), averaged over the number k of active locations "
        "left, with the signal weaker by 1 − 2f where a share f of the counters is flipped. "
        "Before the first run it was Φ(−ρ), without that average."
    ),
    source="Kanerva, Sparse Distributed Memory (1988), chapter 7; the formulas from Kanerva (1993)",
    run=_run,
)
