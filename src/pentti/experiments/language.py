"""Which model tells real text best, at equal parameters, tokens and time?"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pentti.experiments.drawing import COLOURS, draw, plot
from pentti.experiments.finding import (
    Claim,
    Experiment,
    Figure,
    Finding,
    Order,
    Step,
    Table,
    portion,
    told,
)
from pentti.experiments.judging import lead
from pentti.experiments.language_models import BASE, MEMORIES, MODELS, Plan
from pentti.experiments.language_runs import (
    Cost,
    Library,
    Trained,
    measured,
    opened,
    place,
    rate_of,
    trained,
)

__all__ = ["EXPERIMENT", "PLANS"]

_QUICK = Plan(
    dim=64, n_layers=3, n_heads=4, window=32, block=32, n_locations=1024, context=1024,
    batch_tokens=1024, n_steps=400, rates=(4e-3,), tune_steps=1, n_seeds=1, validate_every=40,
    validation_tokens=16_384, n_documents=24, n_timings=5,
)  # fmt: skip
_FULL = Plan(
    dim=256, n_layers=6, n_heads=4, window=128, block=64, n_locations=16_384, context=8192,
    batch_tokens=8192, n_steps=192, rates=(5e-4, 1e-3, 2e-3, 4e-3), tune_steps=48, n_seeds=3,
    validate_every=32, validation_tokens=65_536, n_documents=32, n_timings=5,
    precision="bfloat16",
)  # fmt: skip
_CUDA = Plan(
    dim=768, n_layers=12, n_heads=12, window=256, block=64, n_locations=99_856, context=16_384,
    batch_tokens=65_536, n_steps=2000, rates=(3e-4, 6e-4, 1.2e-3), tune_steps=200, n_seeds=3,
    validate_every=100, validation_tokens=500_000, n_documents=32, n_timings=10,
    precision="bfloat16",
)  # fmt: skip
PLANS = {"quick": _QUICK, "full": _FULL, "full on cuda": _CUDA}
"""By name; the last one is the full run's where there is such a device."""

_DENSE, _SEQUENCE, _BOTH, _LEARNED = "dense", "window + sequence", "window + both", "window + SDM"
_SAME_TIME = "dense, equal time"
_LONG = 4096  # tokens from which the memory should cost less than dense attention


@dataclass(frozen=True)
class _Outcome:
    """All trainings of a model, one for each seed, and what they took."""

    runs: Sequence[Trained]
    cost: Cost
    rates: Mapping[float, float]

    @property
    def bits(self) -> float:
        """Bits per byte, the mean over seeds."""
        return float(np.mean([run.bits for run in self.runs]))

    @property
    def seconds(self) -> float:
        """What one training takes."""
        return self.cost.seconds * self.runs[0].curve[-1][0]

    @property
    def curve(self) -> list[tuple[int, float]]:
        """Tokens and bits per byte, the mean over seeds."""
        points = zip(*(run.curve for run in self.runs), strict=True)
        return [(each[0][0], float(np.mean([bits for _, bits in each]))) for each in points]

    def by_place(self, number: int) -> float:
        """Bits per byte in a stretch of the documents, the mean over seeds."""
        return float(np.mean([run.stretches[number].bits_per_byte for run in self.runs]))


Outcomes = Mapping[str, _Outcome]


def _run(order: Order) -> Generator[Step, None, Finding]:
    on_cuda = order.device.startswith("cuda") and order.size == "full"
    plan = PLANS["full on cuda" if on_cuda else order.size]
    with place(order) as folder:
        library = yield from told(portion(opened(plan, folder, order.device), 0.0, 0.01))
        costs = yield from told(portion(measured(MODELS, plan, library), 0.01, 0.04))
        outcomes = yield from told(portion(_outcomes(plan, library, costs), 0.05, 0.95))
    return Finding(
        _claims(outcomes, plan),
        [_draw_learning(outcomes), _draw_places(outcomes)],
        [_table(outcomes), _places(outcomes), _curves(outcomes), _rates(outcomes)],
        _conclusion(outcomes, plan),
        {**asdict(plan), "device": order.device, "documents": len(library.corpus),
         "bytes": sum(library.corpus.n_bytes), "tests": len(library.tests)},
    )  # fmt: skip


def _outcomes(
    plan: Plan, library: Library, costs: Mapping[str, Cost]
) -> Generator[float, None, dict[str, _Outcome]]:
    """Train all models; dense attention once more, for as long as the sequence memory took."""
    outcomes = {}
    n_steps = dict.fromkeys(MODELS, plan.n_steps)
    ratio = costs[_SEQUENCE].seconds / costs[_DENSE].seconds
    n_steps[_SAME_TIME] = max(1, round(plan.n_steps * ratio))
    each = 1 / len(n_steps)
    for number, (name, n) in enumerate(n_steps.items()):
        like = _DENSE if name == _SAME_TIME else name
        work = _outcome(like, n, plan, library, costs[like])
        outcomes[name] = yield from portion(work, number * each, each)
    return outcomes


def _outcome(
    name: str, n_steps: int, plan: Plan, library: Library, cost: Cost
) -> Generator[float, None, _Outcome]:
    own: dict[str, Any] = MODELS[name]
    lr, tried = yield from portion(rate_of(name, own, plan, library), 0.0, 0.2)
    runs = []
    for seed in range(plan.n_seeds):
        work = trained(name, own, plan, lr, n_steps, seed, library)
        start, width = 0.2 + 0.8 * seed / plan.n_seeds, 0.8 / plan.n_seeds
        runs.append((yield from portion(work, start, width)))
    return _Outcome(runs, cost, tried)


def _claims(outcomes: Outcomes, plan: Plan) -> list[Claim]:
    base, sequence, both = outcomes[BASE], outcomes[_SEQUENCE], outcomes[_BOTH]
    dense, same_time = outcomes[_DENSE], outcomes[_SAME_TIME]
    near, far = base.by_place(0) - sequence.by_place(0), base.by_place(-1) - sequence.by_place(-1)
    learned = base.bits - outcomes[_LEARNED].bits
    dearer = sequence.cost.seconds / dense.cost.seconds
    counts = [outcome.runs[0].n_dense for outcome in outcomes.values()]
    apart = max(counts) / min(counts) - 1
    claims = [
        Claim(
            "All models have as many dense parameters",
            "within 2 %",
            f"{100 * apart:.1f} %, {max(counts):,} at most",
            apart <= 0.02,
        ),
        _ahead("The sequence memory beats the window alone", sequence, base),
        _ahead("It beats dense attention at equal tokens", sequence, dense),
        _ahead("It beats dense attention at equal time", sequence, same_time),
        _ahead("A learned memory beside it adds to it", both, sequence),
        Claim(
            "A learned memory alone changes little in so short a training",
            "within 0.1 bits per byte of the window",
            f"{learned:+.3f} bits ahead",
            abs(learned) <= 0.1,
        ),
        Claim(
            "What the sequence memory gains, it gains far from a document's beginning",
            "more in the last places than in the first",
            f"{far:.3f} bits there, {near:.3f} in the first places",
            far > near,
        ),
    ]
    if plan.context >= _LONG:
        claims.append(
            Claim(
                "A token's training costs less than with dense attention",
                f"a ratio below 1, from contexts of {_LONG:,}",
                f"{dearer:.2f}",
                dearer < 1,
            )
        )
    return claims


def _ahead(text: str, one: _Outcome, other: _Outcome) -> Claim:
    ahead, error = lead(one.runs, other.runs)
    return Claim(
        text,
        "ahead by more than 3 standard errors",
        f"{ahead:+.3f} bits per byte, {ahead / error:.1f} standard errors",
        ahead > 3 * error,
    )


def _conclusion(outcomes: Outcomes, plan: Plan) -> str:
    base = outcomes[BASE]
    tokens = base.runs[0].curve[-1][0]
    by_bits = sorted(outcomes, key=lambda name: outcomes[name].bits)
    said = ", ".join(f"{name} {outcomes[name].bits:.2f}" for name in by_bits)
    sequence, dense = outcomes[_SEQUENCE], outcomes[_DENSE]
    return (
        f"After {tokens:,} bytes with contexts of {plan.context:,}, models of "
        f"{base.runs[0].n_dense:,} dense parameters take so many bits for a byte of documents that "
        f"they have not seen: {said}. A token of training costs the sequence memory "
        f"{sequence.cost.seconds / base.cost.seconds:.2f} times what the window alone costs, "
        f"dense attention {dense.cost.seconds / base.cost.seconds:.2f} times."
    )


def _table(outcomes: Outcomes) -> Table:
    rows, base = [], outcomes[BASE]
    for name, outcome in outcomes.items():
        ahead, error = lead(outcome.runs, base.runs) if name != BASE else (None, None)
        first, peak = outcome.runs[0], outcome.cost.peak
        rows.append((
            name, round(outcome.bits, 4),
            None if ahead is None else round(ahead, 4), None if error is None else round(error, 4),
            first.curve[-1][0], round(1 / outcome.cost.seconds), round(outcome.seconds / 60, 2),
            None if peak is None else round(peak / 2**20), first.n_dense, first.n_contents,
            round(first.meter, 1), first.lr,
        ))  # fmt: skip
    return Table(
        "Validation documents, up to the context's length (lead over the window, its standard "
        "error)",
        (
            "model", "bits per byte", "lead", "± of the lead", "training tokens",
            "training tokens/s", "minutes of training", "peak memory (MiB)", "dense parameters",
            "contents", "locations a token and memory", "learning rate",
        ),
        rows,
    )  # fmt: skip


def _places(outcomes: Outcomes) -> Table:
    stretches = outcomes[BASE].runs[0].stretches
    return Table(
        "Bits per byte by place in the document (first place to last)",
        ("model", *(f"{each.first:,} to {each.last:,}" for each in stretches)),
        [
            (name, *(round(outcome.by_place(i), 3) for i in range(len(stretches))))
            for name, outcome in outcomes.items()
        ],
    )


def _curves(outcomes: Outcomes) -> Table:
    return Table(
        "Learning: validation bits per byte, each training by itself",
        ("model", "seed", "training tokens", "bits per byte"),
        [
            (name, run.seed, tokens, round(bits, 4))
            for name, outcome in outcomes.items()
            for run in outcome.runs
            for tokens, bits in run.curve
        ],
    )


def _rates(outcomes: Outcomes) -> Table:
    return Table(
        "Learning rates: bits per byte after a short trial",
        ("model", "learning rate", "bits per byte", "chosen"),
        [
            (name, lr, round(bits, 4), _chosen(lr, outcome))
            for name, outcome in outcomes.items()
            for lr, bits in outcome.rates.items()
        ],
    )


def _chosen(lr: float, outcome: _Outcome) -> str:
    if lr != outcome.runs[0].lr:
        return ""
    at_edge = lr in (min(outcome.rates), max(outcome.rates))
    return "yes, at the edge" if at_edge else "yes"


def _styles(outcomes: Outcomes) -> dict[str, dict[str, Any]]:
    """Memories in full lines, attention alone in broken ones; no two alike."""
    styles = {}
    for number, name in enumerate(name for name in outcomes if name not in MEMORIES):
        styles[name] = {"color": COLOURS[number % len(COLOURS)], "linestyle": "--"}
    for number, name in enumerate(MEMORIES):
        styles[name] = {"color": COLOURS[number], "linestyle": "-", "marker": "o"}
    return styles


def _draw_learning(outcomes: Outcomes) -> Figure:
    canvas, axes = plot(2)
    styles = _styles(outcomes)
    for name, outcome in outcomes.items():
        if name == _SAME_TIME:
            continue
        tokens, bits = zip(*outcome.curve, strict=True)
        axes[0].plot([n / 1e6 for n in tokens], bits, **styles[name])
        minutes = [n * outcome.cost.seconds / 60 for n in tokens]
        axes[1].plot(minutes, bits, label=name, **styles[name])
    last = outcomes[_SAME_TIME]
    at = [last.seconds / 60], [last.curve[-1][1]]
    axes[1].plot(*at, "x", color=styles[_DENSE]["color"], label=_SAME_TIME)
    axes[0].set(xlabel="training tokens (millions)", ylabel="validation bits per byte")
    axes[1].set(xlabel="minutes of training")
    canvas.legend(loc="outside right center")
    return draw(canvas, "Learning, by tokens and by time (memories in full lines).")


def _draw_places(outcomes: Outcomes) -> Figure:
    canvas, axes = plot(2)
    styles = _styles(outcomes)
    stretches = outcomes[BASE].runs[0].stretches
    places = [each.last + 1 for each in stretches]
    for name, outcome in outcomes.items():
        if name == _SAME_TIME:
            continue
        bits = [outcome.by_place(i) for i in range(len(places))]
        axes[0].plot(places, bits, label=name, **styles[name])
        shape = "o" if name in MEMORIES else "D"
        at = (1 / outcome.cost.seconds, outcome.bits)
        axes[1].plot(*at, shape, color=styles[name]["color"])
        axes[1].annotate(name, at, (5, -9), textcoords="offset points", fontsize=8)
    axes[1].margins(x=0.2)
    axes[0].set_xscale("log", base=2)
    axes[0].set(xlabel="place in the document, up to", ylabel="bits per byte")
    canvas.legend(loc="outside right center")
    axes[1].set(xlabel="training tokens a second", ylabel="bits per byte")
    return draw(
        canvas, "Left: the farther from its beginning, the more of a document a model can use. "
        "Right: what it costs."
    )  # fmt: skip


EXPERIMENT = Experiment(
    name="language",
    question="Which model tells real text best, at equal parameters, tokens and time?",
    method=(
        "Byte-level language models are trained on the Python standard library's own source, "
        "document by document, a tenth of the documents kept apart by their names. Eight models "
        "have the same width, depth and (within 2 %; contents of learned memories not counted) "
        "dense parameters: dense attention, a sliding window, Longformer (one global token), "
        "BigBird, the Sparse Transformer's strided attention, and the window with memories beside "
        "it in two layers: learned (SDM), written by the text (sequence: error-correcting, with "
        "room for sixteen contexts, as `ablation` has it), or one of each. All see "
        "the same documents in the same order, each with the learning rate that does best in short "
        "trials (the quick run has one for all). Dense attention is trained once more for as many "
        "steps as take it the time of the sequence memory. Tested are documents longer than the "
        "context that no training has seen, that decided no learning rate, and of which less than "
        "a fifth, of the whole and of the tested part, stands in training documents word for word. "
        "Errors are of documents and, where there are several, of seeds. Time is the tokens times "
        "the time that a token takes in batches of the training, on which all models took turns; "
        "peak memory is what a step with one whole row "
        "takes beyond the weights and their averages."
    ),
    prediction=(
        "Source repeats names and idioms from far back, which a window cannot see: the sequence "
        "memory, which finds what followed the last time, should gain on it, and the more the "
        "farther from the beginning. A trial of 0.8 million parameters gave 2.30 bits per byte for "
        "the window and 1.47 with the memory after 4 million bytes, with dense attention behind. "
        "Dense attention must learn to look back first, and costs more a token at these lengths. A "
        "learned memory adds contents that few steps can fill, so it should change little."
    ),
    source=(
        "Kanerva (1988) for the memory; Beltagy et al. 2020 (arXiv 2004.05150), Zaheer et al. 2020 "
        "(arXiv 2007.14062) and Child et al. 2019 (arXiv 1904.10509) for the other attentions"
    ),
    run=_run,
)
