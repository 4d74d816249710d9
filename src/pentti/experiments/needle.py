"""Does a model find what was said once, far longer ago than any text that it was trained on?"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass

from pentti.experiments.drawing import draw, mark, plot
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
from pentti.experiments.needle_reading import CROWDED, FINDERS, Plan, Trained, find, train
from pentti.experiments.pair_learning import one_thread

__all__ = ["EXPERIMENT"]

_PLANS = {
    "quick": Plan(
        n_steps=60, longest=1536, lengths=(1536, 8192), n_test_bytes=1 << 16
    ),
    "full": Plan(),
}  # fmt: skip
_LONGEST_DENSE = 32_768  # beyond which dense attention takes minutes for a text
_SHARE_TRAINING = 0.7  # of the work of one model
_ADDS, _CORRECTS = "sequence memory", "sequence memory, delta"
_MEMORIES = (_ADDS, _CORRECTS, CROWDED)
_SMOOTH = 10  # training steps that a point of a learning curve averages


@dataclass(frozen=True)
class _Outcome:
    """A trained model, and for each length the share of keys found, of how many, and seconds."""

    trained: Trained
    found: dict[int, tuple[float, int, float]]

    def share(self, length: int) -> float:
        """Keys found at a length; NaN where it was not tried."""
        return self.found.get(length, (float("nan"),))[0]


def _run(order: Order) -> Generator[Step, None, Finding]:
    plan = _PLANS[order.size]
    outcomes: dict[str, _Outcome] = {}
    with one_thread():
        for number, name in enumerate(FINDERS):
            work = portion(_outcome(name, plan), number / len(FINDERS), 1 / len(FINDERS))
            outcomes[name] = yield from told(work)
    return Finding(
        _claims(outcomes, plan),
        [_draw(outcomes, plan)],
        [_table(outcomes, plan)],
        _conclusion(outcomes, plan),
        asdict(plan),
    )


def _outcome(name: str, plan: Plan) -> Generator[float, None, _Outcome]:
    """Train one model and test it."""
    trained = yield from portion(train(name, plan), 0.0, _SHARE_TRAINING)
    lengths = [n for n in plan.lengths if name in _MEMORIES or n <= _LONGEST_DENSE]
    found, each = {}, (1 - _SHARE_TRAINING) / len(lengths)
    for place, length in enumerate(lengths):
        start = _SHARE_TRAINING + place * each
        found[length] = yield from portion(find(trained.model, length, plan), start, each)
    return _Outcome(trained, found)


def _claims(outcomes: Mapping[str, _Outcome], plan: Plan) -> list[Claim]:
    first, last = plan.lengths[0], plan.lengths[-1]
    others = {n: o.share(first) for n, o in outcomes.items() if n not in _MEMORIES}
    rival = max(others, key=lambda name: others[name])
    wanted = {8192: 0.99, 131072: 0.95}
    adds, corrects, alone = (outcomes[name].share(last) for name in _MEMORIES)
    goals = [
        Claim(
            f"The error-correcting memory finds the keys of {length:,} bytes",
            f"at least {wanted[length]:.2f}",
            f"{outcomes[_CORRECTS].share(length):.3f}",
            outcomes[_CORRECTS].share(length) >= wanted[length],
        )
        for length in plan.lengths
        if length in wanted
    ]
    return [
        Claim(
            f"The error-correcting memory finds the keys of its training's length, {first:,} bytes",
            "at least 0.90",
            f"{outcomes[_CORRECTS].share(first):.3f}",
            outcomes[_CORRECTS].share(first) >= 0.90,
        ),
        *goals,
        Claim(
            "On the same training the others find next to none: they need far more of it",
            "at most 0.10",
            f"{others[rival]:.3f} ({rival})",
            others[rival] <= 0.10,
        ),
        Claim(
            f"The error-correcting rule keeps as much at {last:,} bytes as adding up, or more",
            "as much, or both at least 0.95",
            f"{adds:.3f} and {corrects:.3f}",
            corrects >= adds or min(adds, corrects) >= 0.95,
        ),
        Claim(
            f"Addresses kept apart in training find more at {last:,} bytes than those left alone",
            "above, or both at least 0.99",
            f"{corrects:.3f} for {alone:.3f}",
            corrects > alone or min(corrects, alone) >= 0.99,
        ),
    ]


def _conclusion(outcomes: Mapping[str, _Outcome], plan: Plan) -> str:
    said = []
    for name in _MEMORIES:
        shares = ", ".join(f"{100 * outcomes[name].share(n):.0f} %" for n in plan.lengths)
        said.append(f"the {name} finds {shares}")
    lengths = ", ".join(f"{n:,}" for n in plan.lengths)
    return (
        f"Trained on {plan.n_steps * plan.batch:,} texts of at most {plan.longest:,} bytes and "
        f"asked in texts of {lengths} bytes, {'; '.join(said)}."
    )


def _table(outcomes: Mapping[str, _Outcome], plan: Plan) -> Table:
    rows = []
    for name, outcome in outcomes.items():
        cells: list[object] = [name, round(outcome.trained.seconds / plan.n_steps, 3)]
        for length in plan.lengths:
            share, _, seconds = outcome.found.get(length, (None, 0, None))
            cells += [None if share is None else round(share, 3)]
            cells += [None if seconds is None else round(seconds, 2)]
        rows.append(tuple(cells))
    heads = [text for n in plan.lengths for text in (f"found at {n:,}", "seconds a text")]
    return Table(
        "Share of pass keys given without a mistake, by bytes of text",
        ("second block", "seconds a training step", *heads),
        rows,
    )


def _draw(outcomes: Mapping[str, _Outcome], plan: Plan) -> Figure:
    canvas, axes = plot(2)
    for name, outcome in outcomes.items():
        steps, shares = outcome.trained.steps, outcome.trained.shares
        ends = range(_SMOOTH, len(steps) + 1, _SMOOTH)
        smooth = [sum(shares[end - _SMOOTH : end]) / _SMOOTH for end in ends]
        axes[0].plot([steps[end - 1] for end in ends], smooth, "o-", label=name)
        lengths = list(outcome.found)
        axes[1].plot(lengths, [outcome.share(n) for n in lengths], "o-", label=name)
    axes[0].set(xlabel="training steps", ylabel="digits right in training", ylim=(0, 1.03))
    axes[0].legend(loc="center right")
    mark(axes[1], plan.lengths)
    axes[1].set(xlabel="bytes of text", ylabel="keys found", ylim=(0, 1.03))
    return draw(
        canvas,
        "Left: learning, on texts no longer than the shortest on the right. Right: keys found in "
        "longer and longer texts, without more training.",
    )


EXPERIMENT = Experiment(
    name="needle",
    question="Does a model find what was said once, far longer ago than any text it learned from?",
    method=(
        "The Python standard library's own source is the text, so that figures depend on its "
        "version; every fourth module is kept for the tests. Hidden in it, eight sentences "
        "each tell a name's pass key of five digits; at the end all eight are asked for, in "
        "another order. Models of three blocks read bytes: the first and the last see a window of "
        "16, the second mixes by a sequence memory (64⁴ hard locations a head, top-8), which adds "
        "up or corrects (delta), or by dense attention, linear attention, or a window of 128. "
        "All are trained on the same short texts, by the answers' digits alone; the loss of the "
        "memories has four times `nn.crowding` too, but for one whose addresses are left alone. A "
        "key counts as found if all five digits are right."
    ),
    prediction=(
        "A read finds exactly what was written at the same address, so what is learned on short "
        "texts should carry over to long ones as long as chance overlaps stay few. Wanted: 99 % "
        "at 8,192 bytes and 95 % at 131,072. A first trial had 65,536 locations, two codebooks, "
        "and found .99 and .91 with the error-correcting rule; four codebooks make 16,777,216, and "
        "found .995 and .84. Hence the loss for crowding, which should keep apart what is "
        "different on texts of any length (added after these trials, with the weight that did best "
        "in them at all lengths, see the log). "
        "Attention has to learn to look for the name and to copy what follows, which takes "
        "thousands of steps."
    ),
    source=(
        "Kanerva (1988), chapter 8; passkey retrieval: Mohtashami and Jaggi 2023 (arXiv "
        "2305.16300); Schlag et al. 2021 (arXiv 2102.11174) for the delta rule"
    ),
    run=_run,
)
