"""What makes the sequence memory help: which of its parts can go?"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

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
from pentti.experiments.judging import REVISED, lead
from pentti.experiments.language_models import BASE, CONTEXTS, MODELS, Plan
from pentti.experiments.language_runs import Library, Trained, opened, place, trained
from pentti.nn import PenttiTransformer, SequenceMemory

__all__ = ["EXPERIMENT", "PLANS"]

_QUICK = Plan(
    dim=64, n_layers=3, n_heads=4, window=32, block=32, n_locations=1024, context=1024,
    batch_tokens=1024, n_steps=250, rates=(4e-3,), tune_steps=1, n_seeds=1, validate_every=50,
    validation_tokens=16_384, n_documents=24, n_timings=1,
)  # fmt: skip
_FULL = Plan(
    dim=128, n_layers=4, n_heads=4, window=64, block=64, n_locations=4096, context=2048,
    batch_tokens=2048, n_steps=500, rates=(2e-3,), tune_steps=1, n_seeds=3, validate_every=100,
    validation_tokens=65_536, n_documents=48, n_timings=1,
)  # fmt: skip
PLANS = {"quick": _QUICK, "full": _FULL}

_WHOLE, _NONE = "as it is", "no memory"
_APART, _UNSHIFTED = "writes at addresses of its own", "writes at its own place"
_FIXED, _FIXED_BETA = "addresses do not learn", "β does not learn"
_COLD, _WARM = "four times β, which does not learn", "a quarter of β, which does not learn"
_ONE, _MANY_READ = "one location a head", "32 locations a head"
_FEW, _MANY = "a sixteenth of the locations", "four times the locations"
_ADDS, _FOUR = "adds up (hebbian)", "four codebooks"


class _Apart(SequenceMemory):
    """A sequence memory that writes at addresses of their own, not at those that it reads."""

    write_address: nn.Linear

    def _writes(
        self, x_BLD: Tensor, locations: Tensor, weights: Tensor, values: Tensor, *rest: Any
    ) -> Any:
        own, similarity, active = self.decoder.nearest(self.write_address(x_BLD))
        own_weights, _ = self.weigh(similarity, active, limited=False)
        if self.rule == "delta":
            own_weights = functional.normalize(own_weights, dim=-1)
        writes = super()._writes(x_BLD, own, own_weights.to(weights.dtype), values, *rest)
        read, shares = (x.transpose(1, 2).flatten(0, 1) for x in (locations, weights))
        return writes._replace(read=read, shares=shares)


def _memories(model: PenttiTransformer) -> list[SequenceMemory]:
    return [one for one in model.modules() if isinstance(one, SequenceMemory)]


def _split(model: PenttiTransformer) -> None:
    """Give each memory a second map to addresses, alike at first, for what it writes."""
    for memory in _memories(model):
        memory.write_address = copy.deepcopy(memory.address)
        memory.__class__ = _Apart


def _hold_addresses(model: PenttiTransformer) -> None:
    for memory in _memories(model):
        memory.decoder.requires_grad_(False)
        memory.address.requires_grad_(False)


def _hold_beta(model: PenttiTransformer, factor: float = 1.0) -> None:
    for memory in _memories(model):
        memory.weigh.requires_grad_(False)
        memory.weigh.log_beta.data += math.log(factor)


@dataclass(frozen=True)
class _Variant:
    """What is changed: settings of the sequence memory, and what no setting says."""

    sequence: Callable[[Plan], Mapping[str, Any]] = lambda _: {}
    change: Callable[[PenttiTransformer], None] | None = None

    def settings(self, plan: Plan) -> dict[str, Any]:
        return {**MODELS["window + sequence"], "sequence": dict(self.sequence(plan))}


def _side(plan: Plan, factor: float) -> int:
    """The side of the square of locations, with so many times as many as usual."""
    longest = CONTEXTS * plan.context
    usual = SequenceMemory(plan.dim, plan.n_heads, max_length=longest).n_locations
    return int((usual * factor) ** 0.5)


VARIANTS = {
    _WHOLE: _Variant(),
    _APART: _Variant(change=_split),
    _UNSHIFTED: _Variant(lambda _: {"shift": False}),
    _FIXED: _Variant(change=_hold_addresses),
    _FIXED_BETA: _Variant(change=_hold_beta),
    _COLD: _Variant(change=partial(_hold_beta, factor=4.0)),
    _WARM: _Variant(change=partial(_hold_beta, factor=0.25)),
    _ONE: _Variant(lambda _: {"top_k": 1}),
    _MANY_READ: _Variant(lambda _: {"top_k": 32}),
    _FEW: _Variant(lambda plan: {"n_locations": _side(plan, 1 / 16) ** 2}),
    _MANY: _Variant(lambda plan: {"n_locations": _side(plan, 4) ** 2}),
    _FOUR: _Variant(lambda _: {"n_codebooks": 4}),
    _ADDS: _Variant(lambda _: {"rule": "hebbian"}),
}
"""By name, in the order of the table."""

Runs = Mapping[str, Sequence[Trained]]


def _run(order: Order) -> Generator[Step, None, Finding]:
    plan = PLANS[order.size]
    with place(order) as folder:
        library = yield from told(portion(opened(plan, folder, order.device), 0.0, 0.02))
        runs = yield from told(portion(_runs(plan, library), 0.02, 0.98))
    return Finding(
        _claims(runs), [_draw(runs)], [_table(runs)], _conclusion(runs),
        {**asdict(plan), "device": order.device},
    )  # fmt: skip


def _runs(plan: Plan, library: Library) -> Generator[float, None, dict[str, list[Trained]]]:
    jobs = [(name, seed) for name in (_NONE, *VARIANTS) for seed in range(plan.n_seeds)]
    runs: dict[str, list[Trained]] = {name: [] for name, _ in jobs}
    for number, (name, seed) in enumerate(jobs):
        variant = VARIANTS.get(name, _Variant())
        own = MODELS[BASE] if name == _NONE else variant.settings(plan)
        lr = plan.rates[0]
        work = trained(name, own, plan, lr, plan.n_steps, seed, library, variant.change)
        runs[name].append((yield from portion(work, number / len(jobs), 1 / len(jobs))))
    return runs


def _bits(runs: Sequence[Trained]) -> float:
    return sum(run.bits for run in runs) / len(runs)


def _claims(runs: Runs) -> list[Claim]:
    whole = runs[_WHOLE]
    gain = _bits(runs[_NONE]) - _bits(whole)

    def lost(name: str) -> float:
        """Share of the memory's gain that is lost without a part."""
        return (_bits(runs[name]) - _bits(whole)) / gain

    def needed(name: str, text: str) -> Claim:
        less, error = lead(whole, runs[name])
        measured = f"{less:+.3f} bits worse, {less / error:.1f} standard errors"
        wanted = "worse by more than 3 standard errors"
        return Claim(text, wanted, measured, less > 3 * error)

    def spared(name: str, text: str) -> Claim:
        share, error = lost(name), lead(whole, runs[name])[1] / gain
        wanted = "at most a tenth of the gain lost"
        measured = f"{100 * share:+.0f} ± {100 * error:.0f} % lost"
        return Claim(text, wanted, measured, share <= 0.1)

    return [
        needed(_NONE, "The memory helps"),
        needed(_APART, "Reads and writes must share their addresses"),
        needed(_UNSHIFTED, "A value must stand at the address before it"),
        needed(_FIXED, "Addresses must learn"),
        needed(_ONE, "One location a head is too few, for its address cannot learn"),
        spared(_FIXED_BETA, "β need not learn"),
        spared(_COLD, "A high β does no harm"),
        needed(_WARM, "A low β does: it reads all its locations alike, and addresses learn slowly"),
        spared(_MANY_READ, "More locations a head do no harm"),
        spared(_MANY, "Four times the locations do no harm"),
        spared(_FOUR, "Four codebooks, which cost less, do no harm"),
        needed(_FEW, f"Room for one context is too little {REVISED}"),
        needed(_ADDS, f"The error-correcting rule learns sooner than adding up {REVISED}"),
    ]


def _conclusion(runs: Runs) -> str:
    gain = _bits(runs[_NONE]) - _bits(runs[_WHOLE])
    lost = {
        name: (_bits(found) - _bits(runs[_WHOLE])) / gain
        for name, found in runs.items()
        if name not in (_NONE, _WHOLE)
    }
    worst = sorted(lost, key=lambda name: -lost[name])
    said = ", ".join(f"{name} {100 * lost[name]:+.0f} %" for name in worst)
    return (
        f"The memory takes {gain:.2f} bits per byte off the window's {_bits(runs[_NONE]):.2f}. Of "
        f"that gain each change alone loses (below zero: adds) so much: {said}."
    )


def _table(runs: Runs) -> Table:
    rows = []
    for name, found in runs.items():
        less, error = (None, None) if name == _WHOLE else lead(runs[_WHOLE], found)
        rows.append((
            name, round(_bits(found), 4), None if less is None else round(less, 4),
            None if error is None else round(error, 4), found[0].n_dense, round(found[0].meter, 1),
        ))  # fmt: skip
    return Table(
        "One part changed at a time (bits per byte; how much worse than as it is; standard error)",
        ("memory", "bits per byte", "worse by", "±", "dense parameters", "locations a token"),
        rows,
    )


def _draw(runs: Runs) -> Figure:
    canvas, (axis,) = plot()
    names = list(runs)[::-1]
    for row, name in enumerate(names):
        colour = COLOURS[1] if name == _NONE else COLOURS[2] if name == _WHOLE else COLOURS[0]
        axis.barh(row, _bits(runs[name]), color=colour, height=0.65)
    low = min(_bits(found) for found in runs.values())
    axis.set_xlim(0.9 * low, None)
    axis.set_yticks(range(len(names)), names, fontsize=9)
    axis.set(xlabel="bits per byte (the axis does not begin at 0)")
    return draw(canvas, "One part changed at a time: shorter is better.")


EXPERIMENT = Experiment(
    name="ablation",
    question="What makes the sequence memory help: which of its parts can go?",
    method=(
        "The models and texts of `language`, smaller: a window with sequence memories in two "
        "layers. In each, one thing is changed: values are written at addresses that have a map of "
        "their own (it begins as a copy), or at their own place in place of the one before; "
        "addresses (codebooks and map) or β stay as they were drawn, or β stays at four times "
        "that or a quarter of it; fewer or more locations are read, or are there; four codebooks "
        "in place of two; what is written adds up instead of correcting. Dense parameters are "
        "equal but for the second map."
    ),
    prediction=(
        "A read finds what followed the last time because reads and writes share their addresses "
        "and a value stands at the address before it: without either little is left. Addresses "
        "that do not learn still tell texts apart by bytes, but not by what matters. With one "
        "location a head no gradient reaches the addresses; a low β, at which the locations that "
        "are read weigh alike, leaves them little of it. The rest is spare at these lengths. "
        "Revised after a first run, with room for one context and a memory that adds up: both "
        "turned out to cost much (see the log), and are now the changes, not the rule."
    ),
    source="Kanerva (1988), chapter 8, for sequences; Schlag et al. 2021 (arXiv 2102.11174)",
    run=_run,
)
