"""How a model learns to answer, and how well it then does."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import nn
from torch.nn import functional

from pentti.experiments.finding import portion
from pentti.experiments.pair_learning import seeded
from pentti.experiments.question_models import TextReader
from pentti.experiments.question_texts import Facts, Language, draw_facts, others, write

__all__ = ["Learned", "Signal", "Stage", "accuracy", "learn", "separation", "signals"]

_WARM_UP = 20
_LAST = 0.4  # share of a stage's steps over which the rate falls to nothing
_LOOK = 25  # steps between two points of a learning curve


class Stage(NamedTuple):
    """Texts of one size, for some steps.

    Attributes:
        n_steps: Steps.
        length: Words of a text.
        n_facts: Facts told in each, and asked.
        n_texts: Texts in a step.
        per_name: Facts for each name, on average.
    """

    n_steps: int
    length: int
    n_facts: int
    n_texts: int
    per_name: int = 2


@dataclass
class Learned:
    """A trained model, and its accuracy after so many steps, in training.

    Attributes:
        model: In evaluation mode.
        steps: At which the accuracy was taken,
        accuracy: over the steps since the last.
        n_steps: Steps in all.
        seconds: They took.
    """

    model: TextReader
    steps: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    n_steps: int = 0
    seconds: float = 0.0


class Signal(NamedTuple):
    """What a model shows at questions of one kind: its evidence, if any, and its confidence."""

    evidence: np.ndarray | None
    confidence: np.ndarray


def learn(
    mixer: str,
    language: Language,
    stages: Sequence[Stage],
    seed: int,
    *,
    n_starts: int = 1,
    lr: float = 4e-3,
) -> Generator[float, None, Learned]:
    """Train a model by the cross entropy of its answers alone.

    Several models go through the first stage, and the best of them at its end goes on.

    Args:
        mixer: What its second block looks back with.
        language: The words.
        stages: From short texts to long ones.
        seed: Of the first model and of the texts: the same texts for each mixer.
        n_starts: How many models begin.
        lr: Learning rate at its highest.

    Returns:
        A generator of the share that is done, which returns the outcome.
    """
    first, *rest = stages
    n_all = n_starts * first.n_steps + sum(stage.n_steps for stage in rest)
    starts = []
    for start in range(n_starts):
        run = _Run(mixer, language, seed + start, lr)
        yield from portion(run.go(first), start * first.n_steps / n_all, first.n_steps / n_all)
        starts.append(run)
    best = max(starts, key=lambda run: run.learned.accuracy[-1])
    done = n_starts * first.n_steps
    for stage in rest:
        yield from portion(best.go(stage), done / n_all, stage.n_steps / n_all)
        done += stage.n_steps
    return best.learned


class _Run:
    """A model on its way through the stages."""

    def __init__(self, mixer: str, language: Language, seed: int, lr: float) -> None:
        self.language = language
        self.generator = torch.Generator().manual_seed(seed)
        with seeded(seed):
            self.model = TextReader(language.vocab_size, mixer)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=lr, fused=True)
        self.lr, self.learned = lr, Learned(self.model)

    def go(self, stage: Stage) -> Generator[float, None, None]:
        """Learn from the texts of a stage; yields the share of it that is done."""
        right: list[float] = []
        for step in range(1, stage.n_steps + 1):
            start = time.perf_counter()
            for group in self.optimiser.param_groups:
                group["lr"] = self.lr * _rate(step - 1, stage.n_steps)
            right.append(self._step(stage))
            self.learned.seconds += time.perf_counter() - start
            self.learned.n_steps += 1
            if step % _LOOK == 0 or step == stage.n_steps:
                self.learned.steps.append(self.learned.n_steps)
                self.learned.accuracy.append(sum(right) / len(right))
                right.clear()
                yield step / stage.n_steps

    def _step(self, stage: Stage) -> float:
        self.model.train()
        facts = draw_facts(
            self.language, stage.n_texts, stage.n_facts, self.generator, per_name=stage.per_name
        )
        ids, at = write(self.language, facts, facts, stage.length, self.generator, any_synonym=True)
        logits, answers = self.model(ids, at).logits, self.language.value_words(facts)
        loss = functional.cross_entropy(logits.flatten(0, 1), answers.flatten())
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.model.eval()
        return float((logits.argmax(2) == answers).double().mean())


@torch.no_grad()
def accuracy(
    model: TextReader, language: Language, length: int, n_facts: int, n_texts: int, seed: int
) -> float:
    """The share of questions that are answered right, each asked in other words than told.

    Args:
        model: Which answers.
        language: The words.
        length: Words of a text.
        n_facts: Facts told in each, and asked.
        n_texts: Texts, one at a time.
        seed: Of the texts.

    Returns:
        The share.
    """
    generator = torch.Generator().manual_seed(seed)
    right = []
    for _ in range(n_texts):
        facts = draw_facts(language, 1, n_facts, generator)
        ids, at = write(language, facts, facts, length, generator)
        right.append(model(ids, at).logits.argmax(2) == language.value_words(facts))
    return torch.cat(right).double().mean().item()


@torch.no_grad()
def signals(
    model: TextReader, language: Language, length: int, n_facts: int, n_texts: int, seed: int
) -> tuple[Signal, Signal, Signal]:
    """What shows at questions about what was told and what was not.

    Args:
        model: Which answers.
        language: The words.
        length: Words of a text.
        n_facts: Facts told in each, and asked; as many are asked of each other kind.
        n_texts: Texts, one at a time.
        seed: Of the texts.

    Returns:
        For facts that were told, for others of the same names, and for those of other names.
    """
    generator = torch.Generator().manual_seed(seed)
    evidence: list[torch.Tensor] = []
    confidence: list[torch.Tensor] = []
    for _ in range(n_texts):
        told = draw_facts(language, 1, n_facts, generator)
        kinds = (told, *others(language, told, generator))
        asked = Facts(*(torch.cat(parts, 1) for parts in zip(*kinds, strict=True)))
        ids, at = write(language, told, asked, length, generator)
        answers = model(ids, at)
        confidence.append(answers.logits.softmax(2).amax(2).view(3, -1))
        if answers.evidence is not None:
            evidence.append(answers.evidence.view(3, -1))
    sure = torch.cat(confidence, 1).numpy()
    found = torch.cat(evidence, 1).numpy() if evidence else None
    one, two, three = (Signal(None if found is None else found[i], sure[i]) for i in range(3))
    return one, two, three


def separation(told: np.ndarray, never: np.ndarray) -> float:
    """The chance that what was told scores above what was not: area under the ROC curve.

    Args:
        told: Scores.
        never: Scores.

    Returns:
        0.5 where the scores tell nothing.
    """
    return float(stats.mannwhitneyu(told, never).statistic / (len(told) * len(never)))


def _rate(step: int, n_steps: int) -> float:
    """The learning rate at a step of a stage, as a share of the highest."""
    return min(1.0, (step + 1) / _WARM_UP, max(0.02, (n_steps - step) / (_LAST * n_steps + 1)))
