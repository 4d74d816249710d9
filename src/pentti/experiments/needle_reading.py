"""Pass keys in long texts: the texts, small models that read them, and their training."""

from __future__ import annotations

import sysconfig
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pentti.experiments.pair_learning import seeded
from pentti.nn import LinearAttention, SequenceMemory, TransformerBlock
from pentti.nn.local import Attention, SlidingWindowAttention

__all__ = ["FINDERS", "Haystack", "Plan", "Reader", "Trained", "find", "hidden_keys", "train"]

_N_DIGITS = 5
_NAMES = (
    "amber", "basil", "cedar", "delta", "ember", "flint", "grape", "hazel", "ivory", "jade",
    "karma", "lemon", "mango", "nylon", "olive", "pearl", "quartz", "raven", "sable", "tulip",
    "umber", "viola", "willow", "xenon", "yarrow", "zebra",
)  # fmt: skip
_WINDOW = 16
_HEADS = 4
_WARM_UP = 20
_LAST_RATE = 0.1  # of the first, at the end of training


class Haystack(NamedTuple):
    """Texts (B, L) of bytes, and where the digits of the answers stand: rows and columns (A, 5)."""

    ids: Tensor
    rows: Tensor
    columns: Tensor

    @property
    def digits(self) -> Tensor:
        """The right answers, (A, 5)."""
        return self.ids[self.rows, self.columns]


@dataclass(frozen=True)
class Plan:
    """Sizes of a run.

    Attributes:
        width: Of the models.
        n_locations: Hard locations of each head of the sequence memory.
        n_steps: Training steps,
        batch: each with so many texts,
        longest: of at most so many bytes.
        lengths: On which the models are tested,
        n_test_bytes: with so much text in all at each, but four texts at least.
        n_keys: Pass keys that are hidden in a text, and asked for.
        rate: Learning rate.
    """

    width: int = 128
    n_locations: int = 1 << 16
    n_steps: int = 400
    batch: int = 8
    longest: int = 2048
    lengths: tuple[int, ...] = (2048, 8192, 32768, 131072)
    n_test_bytes: int = 1 << 20
    n_keys: int = 8
    rate: float = 3e-3


def hidden_keys(n: int, length: int, n_keys: int, generator: torch.Generator) -> Haystack:
    """Real text with sentences hidden in it, each of which tells somebody's pass key.

    The text is the Python standard library's own source. At the end all keys are asked for, in
    another order, and answered.

    Args:
        n: Texts.
        length: Bytes of each, questions included.
        n_keys: Pass keys in each, at most one for each name.
        generator: Of what is drawn.

    Returns:
        The texts.
    """
    source = _source()
    texts, rows, columns = [], [], []
    for row in range(n):
        who = torch.randperm(len(_NAMES), generator=generator)[:n_keys].tolist()
        keys = torch.randint(10 ** (_N_DIGITS - 1), 10**_N_DIGITS, (n_keys,), generator=generator)
        told = {_NAMES[name]: str(key) for name, key in zip(who, keys.tolist(), strict=True)}
        needles = [f"\nThe pass key of {name} is {key}.\n".encode() for name, key in told.items()]
        asked = [list(told)[i] for i in torch.randperm(n_keys, generator=generator).tolist()]
        questions = [
            f"\nWhich is the pass key of {one}? The pass key of {one} is " for one in asked
        ]
        endings = [
            f"{text}{told[one]}".encode() for text, one in zip(questions, asked, strict=True)
        ]
        room = length - sum(map(len, needles)) - sum(map(len, endings))
        start = int(torch.randint(len(source) - room, (1,), generator=generator))
        cuts = torch.randint(room + 1, (n_keys,), generator=generator).sort().values.tolist()
        parts, last = [], 0
        for cut, needle in zip(cuts, needles, strict=True):
            parts += [source[start + last : start + cut], needle]
            last = cut
        parts.append(source[start + last : start + room])
        end = sum(map(len, parts))
        for ending in endings:
            end += len(ending)
            rows.append(row)
            columns.append(end - _N_DIGITS)
        texts.append(b"".join((*parts, *endings)))
    ids = torch.frombuffer(bytearray(b"".join(texts)), dtype=torch.uint8).long().view(n, length)
    places = torch.tensor(columns)[:, None] + torch.arange(_N_DIGITS)
    return Haystack(ids, torch.tensor(rows)[:, None].expand(-1, _N_DIGITS), places)


@cache
def _source() -> bytes:
    """The standard library's own modules, one after the other: some megabytes of real text."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))


def _memory(plan: Plan, rule: str) -> nn.Module:
    return SequenceMemory(plan.width, _HEADS, n_locations=plan.n_locations, top_k=8, rule=rule)


FINDERS: dict[str, Callable[[Plan], nn.Module]] = {
    "sequence memory": lambda plan: _memory(plan, "hebbian"),
    "sequence memory, delta": lambda plan: _memory(plan, "delta"),
    "dense attention": lambda plan: Attention(plan.width, _HEADS),
    "linear attention": lambda plan: LinearAttention(plan.width, _HEADS),
    "window": lambda plan: SlidingWindowAttention(plan.width, _HEADS, window=8 * _WINDOW),
}
"""What the second block of a model mixes with; the first always sees a small window."""


class Reader(nn.Module):
    """A block with a small window, one with a finder, and one with a small window again.

    Args:
        finder: One of `FINDERS`.
        plan: Sizes.
        seed: Of what it begins with.
    """

    def __init__(self, finder: str, plan: Plan, seed: int) -> None:
        super().__init__()
        width = plan.width
        with seeded(seed):
            self.embedding = nn.Embedding(256, width)
            nn.init.normal_(self.embedding.weight, std=width**-0.5)
            mixers = [_near(width), FINDERS[finder](plan), _near(width)]
            self.blocks = nn.ModuleList(TransformerBlock(width, mixer) for mixer in mixers)
            self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, 256, bias=False)

    def forward(self, texts: Haystack) -> Tensor:
        """Logits of the answers' digits.

        Args:
            texts: Of any length.

        Returns:
            Shape (A, 5, 256).
        """
        x = self.embedding(texts.ids)
        for block in self.blocks:
            x = block(x).output
        logits: Tensor = self.head(self.norm(x[texts.rows, texts.columns - 1]))
        return logits


def _near(width: int) -> nn.Module:
    return SlidingWindowAttention(width, _HEADS, window=_WINDOW)


@dataclass(frozen=True)
class Trained:
    """A model, and the share of digits that it got right after so many steps, in training."""

    model: Reader
    steps: list[int]
    shares: list[float]
    seconds: float


def train(finder: str, plan: Plan, seed: int = 0) -> Generator[float, None, Trained]:
    """Train a reader on short texts.

    Args:
        finder: One of `FINDERS`.
        plan: Sizes.
        seed: Of the model and of the texts.

    Returns:
        A generator of the share that is done, which returns the outcome.
    """
    model = Reader(finder, plan, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=plan.rate, weight_decay=0.01)
    pace = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min(1.0, (step + 1) / _WARM_UP) * (1 - (1 - _LAST_RATE) * step / plan.n_steps),
    )
    steps, shares, start = [], [], time.perf_counter()
    for step in range(plan.n_steps):
        shortest = plan.longest // 2
        length = int(torch.randint(shortest, plan.longest + 1, (1,), generator=generator))
        texts = hidden_keys(plan.batch, length, plan.n_keys, generator)
        logits = model(texts)
        loss = functional.cross_entropy(logits.flatten(0, 1), texts.digits.flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        pace.step()
        steps.append(step + 1)
        shares.append((logits.argmax(-1) == texts.digits).double().mean().item())
        yield (step + 1) / plan.n_steps
    return Trained(model, steps, shares, time.perf_counter() - start)


@torch.no_grad()
def find(
    model: Reader, length: int, plan: Plan, seed: int = 7
) -> Generator[float, None, tuple[float, int, float]]:
    """Ask for the pass keys in long texts.

    Args:
        model: Trained.
        length: Bytes of each text.
        plan: Sizes.
        seed: Of the texts, which no training text shares.

    Returns:
        A generator of the share that is done, which returns the share of keys that were given
        without a mistake, of how many, and seconds a text.
    """
    generator = torch.Generator().manual_seed(seed)
    n_texts = max(4, plan.n_test_bytes // length)
    right, start = [], time.perf_counter()
    for text in range(n_texts):
        texts = hidden_keys(1, length, plan.n_keys, generator)
        right.append((model(texts).argmax(-1) == texts.digits).all(-1))
        yield (text + 1) / n_texts
    found = torch.cat(right)
    seconds = (time.perf_counter() - start) / n_texts
    return found.double().mean().item(), len(found), seconds
