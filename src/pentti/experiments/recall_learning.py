"""Multi-query associative recall: its texts, small models of one mixer each, and their training."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pentti.nn import LinearAttention, MemoryState, SequenceMemory
from pentti.nn.local import (
    Attention,
    BigBirdAttention,
    KeyValueCache,
    SlidingWindowAttention,
)

__all__ = [
    "ALL_MIXERS",
    "AS_DRAWN",
    "AT_ONE",
    "Convolution",
    "Curve",
    "Questions",
    "Reader",
    "Setting",
    "ask",
    "learn",
    "reachable",
    "reader",
    "recall",
    "state_bytes",
]

_POWER = 0.01  # of the law by which questions follow: a slot's chance falls as 1 / slot ** 0.99
_TAPS = 3  # tokens that the short convolution sees
_WARM_UP = 10
_DONE = 0.995  # of the answers right: training ends
_AT_ONCE = 32_768  # tokens in a pass without gradients


@dataclass(frozen=True)
class Setting:
    """A size of the task.

    Attributes:
        length: Tokens in a text, L; even, and at least four times the pairs and the gap.
        pairs: Keys with a value each.
        vocabulary: Tokens that there are, V: 0 fills, the lower half are keys, the rest values.
        gap: Tokens between the pairs and the first question, even: any words but the text's keys.
    """

    length: int
    pairs: int
    vocabulary: int = 8192
    gap: int = 0

    @property
    def reach(self) -> int:
        """Tokens that the sliding window shows: a quarter of the text."""
        return self.length // 4


class Questions(NamedTuple):
    """Texts (n, L), where in them keys are asked (n, pairs), and their values (n, pairs)."""

    tokens: Tensor
    positions: Tensor
    answers: Tensor


def ask(setting: Setting, n: int, generator: torch.Generator, *, random: bool = False) -> Questions:
    """Texts that begin with pairs of key and value, and then ask for each key once.

    Keys are all different, and values too. Questions stand at even places after the pairs, each
    in a slot of its own that a power law draws: near ones far more often.

    Args:
        setting: Sizes.
        n: Texts.
        generator: Of all that is drawn.
        random: Whether any token of the vocabulary fills the other places; else 0 does.

    Returns:
        The texts with their questions.

    **Source:** Arora et al. 2023, "Zoology" (arXiv 2312.04927), section 3 and appendix; their a is
    0.01, and their figure 2 fills with 0.
    """
    length, n_pairs, n_words = setting.length, setting.pairs, setting.vocabulary
    n_keys = n_words // 2
    keys = 1 + _different(n, n_keys - 1, n_pairs, generator)
    values = n_keys + _different(n, n_words - n_keys, n_pairs, generator)
    told, start = 2 * n_pairs, 2 * n_pairs + setting.gap
    slots = torch.arange(1, (length - start) // 2 + 1)
    # The largest of log p + Gumbel noise, one after the other: drawn by p without replacement.
    noise = torch.rand((n, len(slots)), generator=generator, dtype=torch.float64)
    scores = (_POWER - 1) * slots.log() - (-noise.log()).log()
    positions = start + 2 * scores.topk(n_pairs, dim=1).indices
    tokens = torch.zeros((n, length), dtype=torch.int64)
    if random:
        tokens = torch.randint(n_words, (n, length), generator=generator)
    tokens[:, 0:told:2], tokens[:, 1:told:2] = keys, values
    if setting.gap:
        tokens[:, told:start] = _others(keys, setting, generator)
    return Questions(tokens.scatter(1, positions, keys), positions, values)


def _others(keys: Tensor, setting: Setting, generator: torch.Generator) -> Tensor:
    """Words for the gap: any, and 0 for each that would be a key of its text, (n, gap)."""
    words = torch.randint(setting.vocabulary, (len(keys), setting.gap), generator=generator)
    taken = torch.zeros((len(keys), setting.vocabulary), dtype=torch.bool).scatter_(1, keys, True)
    return words.masked_fill_(taken.gather(1, words), 0)


def reachable(setting: Setting, questions: Questions) -> float:
    """The share of questions whose value the convolution and then the window can reach.

    Args:
        setting: Sizes.
        questions: Whose values are told in turn at the places 1, 3, 5 ….

    Returns:
        The share.
    """
    told = 1 + 2 * torch.arange(setting.pairs)
    near = questions.positions - told < setting.reach + _TAPS - 1
    return near.double().mean().item()


class Convolution(nn.Module):
    """Each component of a token with that of the two before it, weighed by learned numbers.

    Args:
        dim: Width of a token, D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.taps = nn.Conv1d(dim, dim, _TAPS, groups=dim)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Mix near tokens.

        Args:
            x_BLD: Tokens, shape (B, L, D).

        Returns:
            The same shape.
        """
        mixed: Tensor = self.taps(functional.pad(x_BLD.mT, (_TAPS - 1, 0))).mT
        return mixed


class Reader(nn.Module):
    """Embeddings, mixers with a norm before each, and the same embeddings to answer with.

    There is no feed-forward part, as in the published setting.

    Args:
        n_words: Vocabulary, V.
        mixers: One for each layer.
        dim: Width of a token, D.
    """

    def __init__(self, n_words: int, mixers: Sequence[nn.Module], dim: int) -> None:
        super().__init__()
        self.words = nn.Embedding(n_words, dim)
        nn.init.normal_(self.words.weight, std=0.02)
        self.mixers = nn.ModuleList(mixers)
        self.norms = nn.ModuleList(nn.RMSNorm(dim) for _ in range(len(mixers) + 1))

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Scores of all words as the next one, where they are asked for.

        Args:
            tokens: Shape (B, L).
            positions: Shape (B, P).

        Returns:
            Shape (B, P, V).
        """
        x = self.words(tokens)
        for norm, mixer in zip(self.norms, self.mixers, strict=False):
            mixed = mixer(norm(x))
            x = x + (mixed if isinstance(mixed, Tensor) else mixed.output)
        asked = x.gather(1, positions[..., None].expand(-1, -1, x.shape[-1]))
        return functional.linear(self.norms[-1](asked), self.words.weight)


def _after_convolution(dim: int, mixer: nn.Module) -> list[nn.Module]:
    return [Convolution(dim), mixer]


AS_DRAWN = "sequence memory, addresses as drawn"
"""The name of the memory whose addresses do not learn."""

AT_ONE = "sequence memory, 1 location a token"
"""The name of the memory of which a token activates one location, where others activate 8."""

ALL_MIXERS: dict[str, Callable[[Setting, int], list[nn.Module]]] = {
    "sequence memory": lambda _, dim: [SequenceMemory(dim, 1)],
    AS_DRAWN: lambda _, dim: [SequenceMemory(dim, 1)],
    AT_ONE: lambda _, dim: [SequenceMemory(dim, 1, n_locations=65_536, top_k=1)],
    "attention, two layers": lambda _, dim: [Attention(dim, 1) for _ in range(2)],
    "convolution + attention": lambda _, dim: _after_convolution(dim, Attention(dim, 1)),
    "convolution + sliding window": lambda setting, dim: _after_convolution(
        dim, SlidingWindowAttention(dim, 1, window=setting.reach)
    ),
    "convolution + BigBird": lambda setting, dim: _after_convolution(
        dim, BigBirdAttention(dim, 1, block=setting.length // 8, n_random=1, n_global=1)
    ),
    "convolution + linear attention": lambda _, dim: _after_convolution(
        dim, LinearAttention(dim, 1)
    ),
}
"""The layers of each model, by name, for a setting and a width."""


def reader(name: str, setting: Setting, dim: int, seed: int) -> Reader:
    """A model as it is before training.

    Args:
        name: Of `ALL_MIXERS`.
        setting: Sizes of the task.
        dim: Width of a token, D.
        seed: Of what it begins with.

    Returns:
        The model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Reader(setting.vocabulary, ALL_MIXERS[name](setting, dim), dim)
    if name == AS_DRAWN:
        memory = model.mixers[0]
        assert isinstance(memory, SequenceMemory)  # noqa: S101 made above
        for part in (memory.address, memory.decoder, memory.weigh):
            part.requires_grad_(False)
    return model


@dataclass(frozen=True)
class Curve:
    """How a model learned.

    Attributes:
        steps: When it was asked,
        recalls: and the share of its answers that were right.
        seconds: For a step.
        n_parameters: What it has to learn, without the embeddings.
    """

    steps: list[int]
    recalls: list[float]
    seconds: float
    n_parameters: int

    @property
    def best(self) -> float:
        """The highest share of right answers."""
        return max(self.recalls)

    def first(self, share: float) -> int | None:
        """When so many answers were right for the first time.

        Args:
            share: From 0 to 1.

        Returns:
            Steps, or None if it never came to that.
        """
        reached = (s for s, r in zip(self.steps, self.recalls, strict=True) if r >= share)
        return next(reached, None)


def recall(model: Reader, questions: Questions) -> float:
    """The share of answers that are right.

    Args:
        model: What answers.
        questions: What is asked.

    Returns:
        From 0 to 1.
    """
    size = max(1, _AT_ONCE // questions.tokens.shape[1])
    right = []
    with torch.no_grad():
        for tokens, positions, answers in zip(*(x.split(size) for x in questions), strict=True):
            right.append(model(tokens, positions).argmax(-1) == answers)
    return torch.cat(right).double().mean().item()


def state_bytes(model: Reader, tokens: Tensor) -> int:
    """What a model keeps of texts that it reads token by token.

    Args:
        model: The model.
        tokens: Texts, shape (n, L).

    Returns:
        Bytes for each text, rounded.
    """
    total = 0
    with torch.no_grad():
        x = model.words(tokens)
        for norm, mixer in zip(model.norms, model.mixers, strict=False):
            if isinstance(mixer, Convolution):  # it needs the tokens before the newest
                total += (_TAPS - 1) * x[:, 0].numel() * x.element_size()
                mixed = mixer(norm(x))
            else:
                cache: Any = mixer.new_cache(len(x))  # type: ignore[operator]
                mixed = mixer(norm(x), cache=cache)
                total += _needed(cache)
            x = x + (mixed if isinstance(mixed, Tensor) else mixed.output)
    return round(total / len(tokens))


def _needed(cache: Any) -> int:
    """Bytes that a cache needs, without its spare room and its table of places."""
    if isinstance(cache, MemoryState):
        return cache.touched_bytes
    if isinstance(cache, KeyValueCache):
        return cache.size_bytes * cache.n_kept // cache.room
    return int(cache.size_bytes)


def learn(
    model: Reader,
    setting: Setting,
    questions: Questions,
    *,
    lr: float,
    batch: int,
    n_steps: int,
    look: int,
    seed: int,
) -> Generator[float, None, Curve]:
    """Train until nearly all answers are right, or the steps are spent; each text is new.

    Args:
        model: What is to learn.
        setting: Sizes of the task.
        questions: What it is asked on the way.
        lr: Learning rate of AdamW after the warm-up.
        batch: Texts in a step.
        n_steps: Most steps.
        look: Steps between looks at the recall.
        seed: Of the texts.

    Returns:
        A generator of the share that is done, which returns the curve.
    """
    generator = torch.Generator().manual_seed(seed)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    warm = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: min(1.0, (i + 1) / _WARM_UP))
    steps, recalls, seconds = [0], [recall(model, questions)], 0.0
    start = time.perf_counter()
    for step in range(1, n_steps + 1):
        tokens, positions, answers = ask(setting, batch, generator)
        scores = model(tokens, positions)
        optimiser.zero_grad()
        functional.cross_entropy(scores.flatten(0, 1), answers.flatten()).backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        warm.step()
        if step % look and step != n_steps:
            continue
        seconds += time.perf_counter() - start
        steps.append(step)
        recalls.append(recall(model, questions))
        if recalls[-1] >= _DONE:
            break
        yield step / n_steps
        start = time.perf_counter()
    size = sum(p.numel() for p in learned) - model.words.weight.numel()
    return Curve(steps, recalls, seconds / steps[-1], size)


def _different(n_rows: int, n: int, k: int, generator: torch.Generator) -> Tensor:
    """For each row k different numbers below n, every choice and every order equally likely.

    **Source:** Floyd's algorithm, in Bentley and Floyd, "A sample of brilliance" (1987).
    """
    chosen = torch.empty((n_rows, k), dtype=torch.int64)
    for i in range(k):
        last = n - k + i
        drawn = torch.randint(last + 1, (n_rows,), generator=generator)
        taken = (chosen[:, :i] == drawn[:, None]).any(1)
        chosen[:, i] = torch.where(taken, last, drawn)
    order = torch.rand((n_rows, k), generator=generator).argsort(1)
    return chosen.gather(1, order)
