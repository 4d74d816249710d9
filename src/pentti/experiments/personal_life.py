"""What users tell a model over sessions, how it is kept on disk, and what is then asked."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pentti.experiments.needle_reading import (
    N_DIGITS,
    NAMES,
    Reader,
    Texts,
    as_ids,
    draw_keys,
    hide,
    question,
)
from pentti.nn import MemoryState

__all__ = ["Answers", "Life", "ask", "grow", "independent", "others"]

_CHUNK = 2048  # bytes of talk in a call
_ASKED = max(len(question(name)) for name in NAMES) + N_DIGITS  # bytes of every question

Keys = list[dict[str, str]]
"""For each user, what he told: keys by name, in the order of telling."""


@dataclass(frozen=True)
class Life:
    """What happens to each user.

    Attributes:
        n_sessions: Sessions,
        n_facts: with so many keys told in each,
        n_bytes: among so many bytes of text.
        n_talk: Bytes of other text after the last session.
    """

    n_sessions: int = 3
    n_facts: int = 4
    n_bytes: int = 2048
    n_talk: int = 10_000


class Answers(NamedTuple):
    """What users' memories say to questions.

    Attributes:
        right: Which digits are right, bool (B, Q, 5).
        logits: Of all digits, (B, Q, 5, 256).
        evidence: How much was found where the first digit was due, (B, Q).
    """

    right: Tensor
    logits: Tensor
    evidence: Tensor


@torch.no_grad()
def grow(
    model: Reader, life: Life, users: Sequence[int], folder: Path, generator: torch.Generator
) -> Generator[float, None, tuple[MemoryState, Keys]]:
    """Live through the sessions and the talk of some users at once.

    After each session the state of each user goes to a file of its own, and comes from there at
    the next.

    Args:
        model: Which listens.
        life: What happens.
        users: Their numbers, which name the files.
        folder: Where the files are.
        generator: Of what is told.

    Returns:
        A generator of the share that is done, which returns the states at the end, and what was
        told.
    """
    keys = [draw_keys(life.n_sessions * life.n_facts, generator) for _ in users]
    n_bytes = life.n_sessions * life.n_bytes + life.n_talk
    _keep(model.new_state(len(users)), users, folder)
    for session in range(life.n_sessions):
        some = slice(session * life.n_facts, (session + 1) * life.n_facts)
        told = [dict(list(own.items())[some]) for own in keys]
        texts = [hide(own, life.n_bytes, generator) for own in told]
        state = _fetch(users, folder)
        _hear(model, as_ids(texts), model.new_cache(len(users), state))
        _keep(state, users, folder)
        yield (session + 1) * life.n_bytes / n_bytes
    state = _fetch(users, folder)
    cache = model.new_cache(len(users), state)
    talk = as_ids([hide({}, life.n_talk, generator) for _ in users])
    heard = life.n_sessions * life.n_bytes
    for chunk in talk.split(_CHUNK, 1):
        _hear(model, chunk, cache)
        heard += chunk.shape[1]
        yield heard / n_bytes
    return state, keys


@torch.no_grad()
def ask(model: Reader, state: MemoryState, asked: Keys) -> Answers:
    """Ask each user's memory, which stays as it is.

    Args:
        model: Which answers.
        state: Of the users.
        asked: For each user, the names and what would be right: as many for all.

    Returns:
        The answers.
    """
    right, logits, evidence = [], [], []
    for pairs in zip(*(own.items() for own in asked), strict=True):  # one question to each user
        texts = [question(name) + key.encode() for name, key in pairs]
        ids = as_ids([text.rjust(_ASKED, b"\n") for text in texts])
        places = torch.arange(_ASKED - N_DIGITS, _ASKED).expand(len(texts), -1)
        rows = torch.arange(len(texts))[:, None].expand_as(places)
        text = Texts(ids, rows, places)
        said = model(text, model.new_cache(len(texts), state.clone()))
        logits.append(said)
        right.append(said.argmax(-1) == text.digits)
        assert model.evidence is not None  # noqa: S101 only models with a memory are asked
        evidence.append(model.evidence[:, _ASKED - N_DIGITS - 1])
    return Answers(torch.stack(right, 1), torch.stack(logits, 1), torch.stack(evidence, 1))


def others(keys: Keys, n: int) -> Keys:
    """For each user, what others told and he himself never did.

    Args:
        keys: What each told.
        n: Questions for each.

    Returns:
        Names that he never told of, with the key of the next user who did.
    """
    foreign = []
    for place, own in enumerate(keys):
        found: dict[str, str] = {}
        for other in (*keys[place + 1 :], *keys[:place]):
            found = {**_without(other, own), **found}
        foreign.append(dict(list(found.items())[:n]))
    return foreign


def _without(keys: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    return {name: key for name, key in keys.items() if name not in own}


def independent(model: Reader, state: MemoryState, keys: Keys) -> bool:
    """Whether the first user's logits are bitwise the same whatever the others have told.

    Args:
        model: Which answers.
        state: Of the users.
        keys: What they are asked.

    Returns:
        Whether nothing changed with the others' states in another order, and with none.
    """
    n = state.batch
    other_order = state.select([0, *reversed(range(1, n))])
    alone = state.clone()
    for user in range(1, n):
        alone.clear(user)
    first, second, third = (ask(model, one, keys).logits[0] for one in (state, other_order, alone))
    return torch.equal(first, second) and torch.equal(first, third)


def _hear(model: Reader, ids: Tensor, cache: Any) -> None:
    nowhere = torch.zeros((0, N_DIGITS), dtype=torch.int64)
    model(Texts(ids, nowhere, nowhere), cache)


def _keep(state: MemoryState, users: Sequence[int], folder: Path) -> None:
    for row, user in enumerate(users):
        state.select([row]).save(folder / f"user{user}.safetensors")


def _fetch(users: Sequence[int], folder: Path) -> MemoryState:
    return MemoryState.stack(MemoryState.load(folder / f"user{user}.safetensors") for user in users)
