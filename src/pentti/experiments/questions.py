"""Facts told anywhere in a long text, asked in other words: who finds them again?"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field

from pentti.experiments.drawing import COLOURS, draw, mark, plot
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
from pentti.experiments.pair_learning import one_thread
from pentti.experiments.question_learning import (
    Learned,
    Signal,
    Stage,
    accuracy,
    learn,
    separation,
    signals,
)
from pentti.experiments.question_models import MEMORY, MIXERS, SETTINGS
from pentti.experiments.question_texts import Language

__all__ = ["EXPERIMENT"]

_SEED = 0
_KINDS = ("told", "never told, of a name that was", "never told, of another name")


@dataclass(frozen=True)
class _Plan:
    """The words, the training, short texts first, and how many texts of which lengths test it."""

    language: Language
    n_starts: int
    stages: Sequence[Stage]
    lengths: tuple[int, ...]
    n_facts: int
    n_texts: int
    n_signals: int  # texts in which questions have no answer
    is_enough: bool = True  # whether the training is long enough for any verdict on what it taught


_PLANS = {
    "quick": _Plan(
        Language(n_names=10, n_relations=2, n_synonyms=2, n_values=10, n_fillers=20), 1,
        (Stage(40, 40, 2, 16, 1), Stage(40, 64, 4, 12)), (64, 512), 4, 10, 5, is_enough=False,
    ),
    "full": _Plan(
        Language(n_names=40, n_relations=4, n_synonyms=2, n_values=40, n_fillers=200), 4,
        (
            Stage(300, 64, 4, 24),
            Stage(700, 64, 4, 24),
            Stage(300, 256, 8, 8),
            Stage(200, 1024, 12, 2),
        ),
        (256, 1024, 4096, 8192), 12, 40, 40,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class _Outcome:
    """What a model came to: its accuracy at each length, and its signals at the longest."""

    learned: Learned
    accuracy: list[float] = field(default_factory=list)
    signals: Sequence[Signal] = ()

    def separations(self) -> list[float | None]:
        """Evidence, then confidence: told from never told, of the same names and of others."""
        told, *never = self.signals
        found: list[float | None] = []
        for kind in never:
            both = told.evidence is not None and kind.evidence is not None
            found.append(separation(told.evidence, kind.evidence) if both else None)  # type: ignore[arg-type]
        return found + [separation(told.confidence, kind.confidence) for kind in never]


def _run(order: Order) -> Generator[Step, None, Finding]:
    plan = _PLANS[order.size]
    outcomes: dict[str, _Outcome] = {}
    with one_thread():
        for i, mixer in enumerate(MIXERS):
            work = portion(_outcome(mixer, plan), i / len(MIXERS), 1 / len(MIXERS))
            outcomes[mixer] = yield from told(work)
    settings = {**SETTINGS, **asdict(plan.language)}
    settings |= {"n_facts": plan.n_facts, "texts of each length": plan.n_texts}
    settings |= {f"stage {i}": list(stage) for i, stage in enumerate(plan.stages, 1)}
    return Finding(
        _claims(outcomes, plan),
        [_draw(outcomes, plan)],
        [_table(outcomes, plan), _signal_table(outcomes)],
        _conclusion(outcomes, plan),
        {**settings, "starts": plan.n_starts, "seed": _SEED},
    )


def _outcome(mixer: str, plan: _Plan) -> Generator[float, None, _Outcome]:
    """Train a model, and test it with the same texts for each, others than in training."""
    work = learn(mixer, plan.language, plan.stages, _SEED, n_starts=plan.n_starts)
    learned = yield from portion(work, 0.0, 0.8)
    given = (learned.model, plan.language)
    found = []
    for i, length in enumerate(plan.lengths):
        found.append(accuracy(*given, length, plan.n_facts, plan.n_texts, _SEED + 100))
        yield 0.8 + 0.15 * (i + 1) / len(plan.lengths)
    longest = plan.lengths[-1]
    shown = signals(*given, longest, plan.n_facts, plan.n_signals, _SEED + 200)
    yield 1.0
    return _Outcome(learned, found, shown)


def _trained(plan: _Plan) -> int:
    """Place of the longest length that is no longer than the texts of training."""
    longest = max(stage.length for stage in plan.stages)
    return max(i for i, length in enumerate(plan.lengths) if length <= longest)


def _claims(outcomes: dict[str, _Outcome], plan: _Plan) -> list[Claim]:
    at, own = _trained(plan), outcomes[MEMORY].accuracy
    peers = {name: one.accuracy for name, one in outcomes.items() if name != MEMORY}
    best = max(peers, key=lambda name: peers[name][at])
    blind = peers["window only"]
    near, far = (s or 0.0 for s in outcomes[MEMORY].separations()[:2])
    chance = 1 / plan.language.n_values
    alone = Claim(
        "A window alone sees no answer",
        f"near chance, {100 * chance:g} %: at most {100 * chance + 7.5:g} %",
        f"{100 * max(blind):.1f} %",
        max(blind) <= chance + 0.075,
    )
    if not plan.is_enough:
        return [alone]
    return [
        Claim(
            f"The memory answers what was told in texts of {plan.lengths[at]:,} words",
            "at least 90 %",
            f"{100 * own[at]:.1f} %",
            own[at] >= 0.9,
        ),
        Claim(
            "On the same training budget it leads every other mixer there",
            "above the best of them",
            f"{100 * own[at]:.1f} %, {best} {100 * peers[best][at]:.1f} %",
            own[at] > peers[best][at],
        ),
        Claim(
            f"It keeps that in texts of {plan.lengths[-1]:,} words, longer than any of training",
            "within 5 points",
            f"{100 * own[-1]:.1f} %",
            own[at] >= 0.9 and own[-1] >= own[at] - 0.05,
        ),
        alone,
        Claim(
            "Evidence tells that a question has no answer, where its name was never told of",
            "separation above 0.9",
            f"{far:.3f}",
            far > 0.9,
        ),
        Claim(
            "And, less well, where other things were told of the name",
            "separation above 0.75",
            f"{near:.3f}",
            near > 0.75,
        ),
    ]


def _conclusion(outcomes: dict[str, _Outcome], plan: _Plan) -> str:
    at, own = _trained(plan), outcomes[MEMORY]
    others = ", ".join(
        f"{name} {100 * one.accuracy[at]:.1f} and {100 * one.accuracy[-1]:.1f} %"
        for name, one in outcomes.items()
        if name != MEMORY
    )
    near, far, sure_near, sure_far = own.separations()
    short = (
        ""
        if plan.is_enough
        else " So few steps teach which values a text holds, and not yet whose they are: the full "
        "size trains far longer, and only there are there verdicts on it."
    )
    return (
        f"After {own.learned.steps[-1]} steps the sequence memory answers "
        f"{100 * own.accuracy[at]:.1f} % of the questions at {plan.lengths[at]:,} words and "
        f"{100 * own.accuracy[-1]:.1f} % at {plan.lengths[-1]:,}; {others}. Its evidence tells "
        f"questions with an answer from those about other names in {100 * (far or 0):.1f} % of the "
        f"pairs, and from those about the same names in {100 * (near or 0):.1f} %; its confidence, "
        f"in {100 * (sure_far or 0):.1f} and {100 * (sure_near or 0):.1f} %." + short
    )


def _table(outcomes: dict[str, _Outcome], plan: _Plan) -> Table:
    return Table(
        f"Share of questions answered right, by words in the text ({plan.n_facts} facts each)",
        ("second block", "parameters", "ms a step", *(f"{n:,}" for n in plan.lengths)),
        [
            (
                name,
                sum(weights.numel() for weights in one.learned.model.parameters()),
                round(1000 * one.learned.seconds / one.learned.n_steps, 1),
                *(round(share, 4) for share in one.accuracy),
            )
            for name, one in outcomes.items()
        ],
    )


def _signal_table(outcomes: dict[str, _Outcome]) -> Table:
    rows = []
    for name, one in outcomes.items():
        means = [s.evidence.mean() if s.evidence is not None else None for s in one.signals]
        figures = (*means, *one.separations())
        rows.append((name, *(None if x is None else round(float(x), 3) for x in figures)))
    return Table(
        "Can a model tell that a question has no answer? Separation 0.5 is guessing",
        (
            "second block",
            *(f"mean evidence, {kind}" for kind in _KINDS),
            "separation by evidence, same names",
            "other names",
            "by confidence, same names",
            "other names",
        ),
        rows,
    )


def _draw(outcomes: dict[str, _Outcome], plan: _Plan) -> Figure:
    canvas, axes = plot(2)
    for (name, one), colour in zip(outcomes.items(), COLOURS, strict=False):
        axes[0].plot(one.learned.steps, one.learned.accuracy, color=colour, label=name)
        axes[1].plot(plan.lengths, one.accuracy, "o-", color=colour, label=name)
    done = 0
    for stage in plan.stages[:-1]:
        done += stage.n_steps
        axes[0].axvline(done, linestyle=":", color="grey", linewidth=0.8)
    axes[0].set(xlabel="steps", ylabel="answered right, in training", ylim=(0, 1.02))
    mark(axes[1], plan.lengths)
    axes[1].set(xlabel="words in a text", ylabel="answered right", ylim=(0, 1.02))
    axes[1].legend()
    return draw(
        canvas,
        "Left: learning curves; texts get longer at the dotted lines. Right: accuracy by length, "
        "after training.",
    )


EXPERIMENT = Experiment(
    name="questions",
    question="Facts told anywhere in a long text, asked in other words: who finds them again?",
    method=(
        "Made-up texts tell facts (a name, a relation, a value) in six kinds of sentence, among "
        "talk made of the same words. Questions at the end have another word for the relation and "
        "another order than the statement. Five models, each a block of window attention and a "
        "second block, differ in what the second looks back with; loss and accuracy count at the "
        "answers only. Texts grow in training, the same for each model; four of each kind begin, "
        "and the best after the first stage goes on. Accuracy is measured at the training length "
        "and beyond, and evidence and confidence at questions without an answer."
    ),
    prediction=(
        "The sequence memory learns in fewer steps than attention, because what is read is what "
        "was written at an address that both share, and keeps its accuracy on longer texts: talk "
        "adds only chance overlaps. Linear attention, whose state is small, falls behind; BigBird "
        "misses what its random blocks miss; a window sees nothing. A question about a name that "
        "was never told of finds less evidence. (The learning rate, the memory's number of "
        "locations and width of addresses, the heads of all and the number of starts were chosen "
        "in trials of the memory, see the log; the seed is the first of those tried.)"
    ),
    source=(
        "Kanerva 1988 for the memory; Zoology (Arora et al. 2023, arXiv 2312.04927) for recall as "
        "the test; the texts are our own"
    ),
    run=_run,
)
