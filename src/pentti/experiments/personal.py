"""Does a user's own memory keep what he told over sessions, and keep it to himself?"""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats

from pentti.experiments.drawing import draw, plot
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
from pentti.experiments.needle_reading import N_DIGITS, Plan, Reader, train
from pentti.experiments.pair_learning import one_thread
from pentti.experiments.personal_life import Life, ask, grow, independent, others

__all__ = ["EXPERIMENT"]

_SEED = 61
_FINDER = "sequence memory, delta"
_GUESS = 0.1 + 1 / 90 / N_DIGITS  # a digit: the first is never 0


@dataclass(frozen=True)
class _Plan:
    """Users, how many are served at once, what happens to each, and how the model is trained."""

    n_users: int
    group: int
    life: Life
    training: Plan


_PLANS = {
    "quick": _Plan(
        6, 3, Life(n_sessions=2, n_facts=3, n_bytes=1024, n_talk=2000),
        Plan(width=64, n_steps=60, batch=4, longest=1536, rate=5e-3),
    ),
    "full": _Plan(100, 10, Life(), Plan()),
}  # fmt: skip


class _Outcome(NamedTuple):
    """What all users' memories gave.

    Attributes:
        right: Whether each key was given without a mistake, (users, keys), in the order told.
        evidence: At these questions, and
        never: at those about names of which others told and the user never did, (users, asked).
        forgotten: Which digits were right after `clear`, (users cleared, keys, 5).
        leaked: Which digits of another user's keys came, (users, asked, 5).
        bitwise: Whether every group's first user was independent of the others.
        file_bytes: Mean size of a user's file after the last session.
    """

    right: np.ndarray
    evidence: np.ndarray
    never: np.ndarray
    forgotten: np.ndarray
    leaked: np.ndarray
    bitwise: bool
    file_bytes: float


def _run(order: Order) -> Generator[Step, None, Finding]:
    plan = _PLANS[order.size]
    with one_thread():
        trained = yield from told(portion(train(_FINDER, plan.training, _SEED), 0.0, 0.7))
        with tempfile.TemporaryDirectory() as folder:
            served = _serve(trained.model, plan, Path(folder))
            outcome = yield from told(portion(served, 0.7, 0.3))
    settings = asdict(plan.life) | {"n_users": plan.n_users, "seed": _SEED}
    training = {name: getattr(plan.training, name) for name in _SHOWN}
    return Finding(
        _claims(outcome, plan),
        [_draw(outcome, plan)],
        [_table(outcome, plan)],
        _conclusion(outcome, plan),
        settings | training,
    )


_SHOWN = ("width", "n_locations", "n_steps", "batch", "longest", "rate", "spread")


def _serve(model: Reader, plan: _Plan, folder: Path) -> Generator[float, None, _Outcome]:
    generator = torch.Generator().manual_seed(_SEED + 1)
    right, evidence, never, forgotten, leaked, same = [], [], [], [], [], []
    for first in range(0, plan.n_users, plan.group):
        users = range(first, min(first + plan.group, plan.n_users))
        share = len(users) / plan.n_users
        growing = grow(model, plan.life, users, folder, generator)
        state, keys = yield from portion(growing, first / plan.n_users, share)
        answers = ask(model, state, keys)
        right.append(answers.right.all(-1))
        evidence.append(answers.evidence)
        strange = ask(model, state, others(keys, plan.life.n_facts))
        never.append(strange.evidence)
        leaked.append(strange.right)
        same.append(independent(model, state, keys))
        state.clear(0)
        forgotten.append(ask(model, state, keys).right[:1])
    sizes = [file.stat().st_size for file in folder.iterdir()]
    return _Outcome(
        torch.cat(right).numpy(),
        torch.cat(evidence).numpy(),
        torch.cat(never).numpy(),
        torch.cat(forgotten).numpy(),
        torch.cat(leaked).numpy(),
        all(same),
        sum(sizes) / len(sizes),
    )


def _by_session(values: np.ndarray, plan: _Plan) -> list[float]:
    """The mean over what was told in each session."""
    split = np.split(values, plan.life.n_sessions, axis=1)
    return [float(part.mean()) for part in split]


def _separation(outcome: _Outcome) -> float:
    """The chance that evidence of what was told is above that of what was not."""
    one, other = outcome.evidence.ravel(), outcome.never.ravel()
    return float(stats.mannwhitneyu(one, other).statistic / (one.size * other.size))


def _bound(n: int) -> float:
    """The most of n digits that are right by chance, as a share: five standard errors above."""
    return _GUESS + 5 * float(np.sqrt(_GUESS * (1 - _GUESS) / n))


def _claims(outcome: _Outcome, plan: _Plan) -> list[Claim]:
    kept = _by_session(outcome.right, plan)
    n_leaked = int(outcome.leaked.all(-1).sum())
    leaked, forgotten = float(outcome.leaked.mean()), float(outcome.forgotten.mean())
    most, least = _bound(outcome.leaked.size), _bound(outcome.forgotten.size)
    evidence = _separation(outcome)
    return [
        Claim(
            f"After {plan.life.n_talk:,} bytes of other text users get back what they told",
            "at least 95 % of each session",
            ", ".join(f"{100 * share:.1f} %" for share in kept),
            min(kept) >= 0.95,
        ),
        Claim(
            "The first session is kept as well as the last: nothing fades",
            "within 5 points",
            f"{100 * kept[0]:.1f} and {100 * kept[-1]:.1f} %",
            min(kept) > 0.5 and abs(kept[0] - kept[-1]) <= 0.05,
        ),
        Claim(
            "Nobody gets what another told: no key, and its digits no more often than by guessing",
            f"0 keys, at most {100 * most:.1f} % of the digits",
            f"{n_leaked} keys, {100 * leaked:.1f} % of {outcome.leaked.size:,} digits",
            n_leaked == 0 and leaked <= most,
        ),
        Claim(
            "A user's answers do not depend on what others told",
            "logits bitwise the same",
            "the same" if outcome.bitwise else "they differ",
            outcome.bitwise,
        ),
        Claim(
            "Who is cleared is forgotten",
            f"at most {100 * least:.1f} % of the digits, as by guessing",
            f"{100 * forgotten:.1f} %",
            forgotten <= least,
        ),
        Claim(
            "Evidence tells what a user told from what he never mentioned",
            "separation above 0.95",
            f"{evidence:.3f}",
            evidence > 0.95,
        ),
    ]


def _conclusion(outcome: _Outcome, plan: _Plan) -> str:
    kept = _by_session(outcome.right, plan)
    return (
        f"{plan.n_users} users get back {100 * outcome.right.mean():.1f} % of the keys that they "
        f"told in {plan.life.n_sessions} sessions ({100 * kept[0]:.1f} % of the first, "
        f"{100 * kept[-1]:.1f} % of the last) after {plan.life.n_talk:,} bytes of other text, "
        f"through a file of {outcome.file_bytes / 1024:,.0f} KiB each. Asked about names of which "
        f"only others told, they give {int(outcome.leaked.all(-1).sum())} of "
        f"{outcome.leaked[..., 0].size:,} keys."
    )


def _table(outcome: _Outcome, plan: _Plan) -> Table:
    rows = zip(
        range(1, plan.life.n_sessions + 1),
        _by_session(outcome.right, plan),
        _by_session(outcome.evidence, plan),
        strict=True,
    )
    each = outcome.right.size // plan.life.n_sessions
    strange = outcome.leaked.all(-1)
    return Table(
        "What comes back, by the session in which it was told",
        ("session", "questions", "keys given without a mistake", "mean evidence"),
        [(session, each, round(right, 4), round(found, 3)) for session, right, found in rows]
        + [
            (
                "told by others alone",
                strange.size,
                round(float(strange.mean()), 4),
                round(float(outcome.never.mean()), 3),
            )
        ],
    )


def _draw(outcome: _Outcome, plan: _Plan) -> Figure:
    canvas, axes = plot(2)
    sessions = np.arange(1, plan.life.n_sessions + 1)
    axes[0].bar(sessions, _by_session(outcome.right, plan), width=0.6)
    axes[0].axhline(_GUESS**N_DIGITS, linestyle=":", color="grey", label="chance")
    axes[0].set(xlabel="session", xticks=sessions, ylabel="keys given", ylim=(0, 1.02))
    axes[0].legend(loc="lower right")
    for values, label in ((outcome.evidence, "told"), (outcome.never, "never told")):
        found = np.sort(values.ravel())
        axes[1].plot(found, np.linspace(1, 0, len(found)), label=label)
    axes[1].set(xlabel="evidence", ylabel="share of questions above", ylim=(0, 1.03))
    axes[1].legend()
    return draw(
        canvas,
        "Left: keys given without a mistake, by the session in which they were told. Right: "
        "evidence at questions about what a user told and what he never mentioned.",
    )


EXPERIMENT = Experiment(
    name="personal",
    question="Does a user's own memory keep what he told over sessions, and keep it to himself?",
    method=(
        "One model with a sequence memory, trained to find pass keys in short texts, serves many "
        "users. Each tells pass keys of some names in several sessions, among stretches of real "
        "text (the Python standard library's source). After each session his state is saved to a "
        "file of his own, and loaded for the next. Then much other text goes through the same "
        "memory, and all keys are asked for. Each user is also asked for keys of names of which "
        "others told, and one of each group is cleared and asked again."
    ),
    prediction=(
        "States share nothing, so that nothing leaks, to the bit. Without decay a write stays "
        "until others come close to its address, and 16,000 bytes are few beside the 131,072 of "
        "section needle: at least 95 % of the keys of each session come back. The "
        "evidence at a question about a name that was never told of is lower."
    ),
    source="Kanerva, Sparse Distributed Memory (1988), chapter 8",
    run=_run,
)
