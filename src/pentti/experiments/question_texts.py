"""Long made-up texts: facts among talk of the same words, asked for in other words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pentti import checks

__all__ = ["Facts", "Language", "draw_facts", "others", "write"]

_STATEMENTS = (
    "the R of N is V .",
    "N has the R V .",
    "when it comes to R N chose V .",
    "V is what N has for R .",
    "N W and W like V as R .",
    "it is V that N calls R .",
)
_QUESTIONS = ("what is the R of N ?", "N which R ?", "tell me N and R ?", "which R has N ?")
_TALK = (
    "W the W W of W .",
    "N W and W W .",
    "nobody knows the R of N .",
    "it is W that N saw V W .",
    "the R W W V .",
    "V is W for W .",
    "N has W W when W comes to W .",
)
_SLOTS = ("N", "R", "V", "W")
_WORDS = sorted({w for s in (*_STATEMENTS, *_QUESTIONS, *_TALK) for w in s.split()} - set(_SLOTS))
_NOTHING = -1  # where a sentence has ended


class Facts(NamedTuple):
    """What is told: each a name, a relation and a value, int64 (B, F).

    Attributes:
        names: Whose.
        relations: What of it.
        values: Is what.
        synonyms: Which word for the relation tells it.
    """

    names: Tensor
    relations: Tensor
    values: Tensor
    synonyms: Tensor


@dataclass(frozen=True)
class Language:
    """How many words there are of each kind.

    Attributes:
        n_names: Names.
        n_relations: Relations,
        n_synonyms: each with so many words, two at least.
        n_values: Values.
        n_fillers: Words that mean nothing.
    """

    n_names: int = 200
    n_relations: int = 8
    n_synonyms: int = 4
    n_values: int = 200
    n_fillers: int = 200

    @property
    def firsts(self) -> dict[str, int]:
        """The first id of the words for each slot; those of the frames come before."""
        counts = (self.n_names, self.n_relations * self.n_synonyms, self.n_values, self.n_fillers)
        firsts, at = {}, len(_WORDS)
        for slot, count in zip(_SLOTS, counts, strict=True):
            firsts[slot] = at
            at += count
        return firsts

    @property
    def vocab_size(self) -> int:
        """Number of words."""
        return self.firsts["W"] + self.n_fillers

    @property
    def question_mark(self) -> int:
        """Its id: where an answer is due."""
        return _WORDS.index("?")

    def value_words(self, facts: Facts) -> Tensor:
        """The answers.

        Args:
            facts: What is asked.

        Returns:
            Ids, of the shape of the facts.
        """
        return facts.values + self.firsts["V"]

    def spell(self, ids: Tensor) -> str:
        """A text to read.

        Args:
            ids: Of its words.

        Returns:
            Such as "the relation2b of name17 is value5 .".
        """
        return " ".join(map(self._word, ids.tolist()))

    def _word(self, at: int) -> str:
        if at < len(_WORDS):
            return _WORDS[at]
        slot = [s for s in _SLOTS if self.firsts[s] <= at][-1]
        at -= self.firsts[slot]
        if slot == "R":
            return f"relation{at // self.n_synonyms}{chr(97 + at % self.n_synonyms)}"
        return {"N": "name", "V": "value", "W": "word"}[slot] + str(at)


def draw_facts(
    language: Language,
    n_texts: int,
    n_facts: int,
    generator: torch.Generator,
    *,
    per_name: int = 2,
) -> Facts:
    """Facts without a contradiction: some for each name, so that no name alone is enough.

    Args:
        language: The words.
        n_texts: Texts, B.
        n_facts: Facts of each, F.
        generator: Of the draw.
        per_name: Of how many facts, on average, there is a name.

    Returns:
        The facts, in random order.

    Raises:
        ArgumentError: if there are not names enough.
    """
    checks.integer("draw_facts", "n_facts", n_facts, 0, language.n_names)
    checks.integer("draw_facts", "per_name", per_name, 1, language.n_relations)
    n_named = -(-n_facts // per_name)
    named = _rank(n_texts, language.n_names, generator)[:, :n_named]
    keys = torch.rand((n_texts, n_named, language.n_relations), generator=generator)
    keys.scatter_(2, keys.argmin(2, keepdim=True), -1.0)  # one fact of each name at least
    pairs = keys.flatten(1).argsort(1)[:, :n_facts]
    pairs = pairs.gather(1, _rank(n_texts, n_facts, generator))
    return _told(language, named, pairs, generator)


def others(language: Language, facts: Facts, generator: torch.Generator) -> tuple[Facts, Facts]:
    """What was never told: of names that facts were told of, and of other names.

    Args:
        language: The words.
        facts: What was told.
        generator: Of the draw.

    Returns:
        As many of either; their values mean nothing.
    """
    n_texts, n_facts = facts.names.shape
    n_pairs = language.n_names * language.n_relations
    keys = torch.rand((n_texts, n_pairs), generator=generator)
    named = torch.zeros((n_texts, language.n_names), dtype=torch.bool).scatter_(1, facts.names, 1)
    told = torch.zeros((n_texts, n_pairs), dtype=torch.bool)
    told.scatter_(1, facts.names * language.n_relations + facts.relations, 1)
    near = named.repeat_interleave(language.n_relations, 1)
    every = torch.arange(language.n_names).expand(n_texts, -1)
    return tuple(  # type: ignore[return-value]
        _told(language, every, (keys + 2.0 * unwanted).argsort(1)[:, :n_facts], generator)
        for unwanted in (~near | told, near)
    )


def write(
    language: Language,
    told: Facts,
    asked: Facts,
    length: int,
    generator: torch.Generator,
    *,
    any_synonym: bool = False,
) -> tuple[Tensor, Tensor]:
    """Texts: what is told stands anywhere among talk, and what is asked, at the end, in order.

    A question has other words around it than a statement, and another word for the relation.

    Args:
        language: The words.
        told: What is told, (B, F).
        asked: What is asked, (B, Q).
        length: Words of each text, L.
        generator: Of the draw.
        any_synonym: Whether a question may have the statement's word for the relation.

    Returns:
        Ids (B, L), and where the question marks of the questions stand, (B, Q).

    Raises:
        ArgumentError: if the text is too short for what is to be told and asked.
    """
    n_texts, n_told = told.names.shape
    n_asked = asked.names.shape[1]
    words = told.relations * language.n_synonyms + told.synonyms
    statements = _render(language, _STATEMENTS, told, words, generator)
    turn = torch.randint(
        0 if any_synonym else 1, language.n_synonyms, asked.synonyms.shape, generator=generator
    )
    words = (asked.synonyms + turn) % language.n_synonyms + asked.relations * language.n_synonyms
    questions = _render(language, _QUESTIONS, asked, words, generator)
    n_talk = length // min(len(s.split()) for s in _TALK) + 1
    talk = _talk(language, n_texts, n_talk, generator)
    used = _lengths(statements).sum(1) + _lengths(questions).sum(1)
    checks.integer("write", "length", length, int(used.max()) if n_texts else 0)
    kept = _lengths(talk).cumsum(1) <= (length - used)[:, None]
    talk = torch.where(kept[..., None], talk, _NOTHING)
    gap = length - used - _lengths(talk).sum(1)
    stray = _draw(language, "W", (n_texts, 1, talk.shape[2]), generator)
    stray = torch.where(torch.arange(talk.shape[2]) < gap[:, None, None], stray, _NOTHING)
    order = torch.cat(
        [
            torch.full((n_texts, 1), -1.0),
            torch.rand((n_texts, n_talk + n_told), generator=generator),
            torch.arange(1.0, n_asked + 1).expand(n_texts, -1),
        ],
        1,
    ).argsort(1)
    sentences = torch.cat([stray, talk, statements, questions], 1)
    ids = sentences.gather(1, order[..., None].expand_as(sentences)).flatten(1)
    ids = ids[ids != _NOTHING].view(n_texts, length)
    marks = (ids == language.question_mark).nonzero()[:, 1].view(n_texts, n_asked)
    return ids, marks


def _rank(n_texts: int, n: int, generator: torch.Generator) -> Tensor:
    """A random order for each text."""
    return torch.rand((n_texts, n), generator=generator).argsort(1)


def _told(language: Language, named: Tensor, pairs: Tensor, generator: torch.Generator) -> Facts:
    """Facts of pairs of a name, by its place among those named, and a relation."""
    values, synonyms = (
        torch.randint(n, pairs.shape, generator=generator)
        for n in (language.n_values, language.n_synonyms)
    )
    names = named.gather(1, pairs // language.n_relations)
    return Facts(names, pairs % language.n_relations, values, synonyms)


def _talk(language: Language, n_texts: int, n: int, generator: torch.Generator) -> Tensor:
    counts = (language.n_names, language.n_relations, language.n_values, language.n_synonyms)
    drawn = (torch.randint(count, (n_texts, n), generator=generator) for count in counts)
    facts = Facts(*drawn)
    words = facts.relations * language.n_synonyms + facts.synonyms
    return _render(language, _TALK, facts, words, generator)


def _render(
    language: Language,
    frames: tuple[str, ...],
    facts: Facts,
    relation_words: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """A sentence for each fact, in a frame drawn for it: ids (B, F, words)."""
    width = max(len(frame.split()) for frame in (*_STATEMENTS, *_QUESTIONS, *_TALK))
    codes = torch.full((len(frames), width), _NOTHING)
    for row, frame in zip(codes, frames, strict=True):
        for i, word in enumerate(frame.split()):
            row[i] = -2 - _SLOTS.index(word) if word in _SLOTS else _WORDS.index(word)
    ids = codes[torch.randint(len(frames), facts.names.shape, generator=generator)]
    firsts = language.firsts
    filled = {
        "N": (facts.names + firsts["N"])[..., None],
        "R": (relation_words + firsts["R"])[..., None],
        "V": (facts.values + firsts["V"])[..., None],
        "W": _draw(language, "W", (*facts.names.shape, width), generator),
    }
    for i, slot in enumerate(_SLOTS):
        ids = torch.where(ids == -2 - i, filled[slot], ids)
    return ids


def _draw(
    language: Language, slot: str, shape: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    return torch.randint(language.n_fillers, shape, generator=generator) + language.firsts[slot]


def _lengths(sentences: Tensor) -> Tensor:
    return (sentences != _NOTHING).sum(2)
