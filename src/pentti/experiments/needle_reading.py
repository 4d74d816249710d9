"""Pass keys in long texts: the texts, small models that read them, and their training."""

from __future__ import annotations

import sysconfig
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pentti import checks
from pentti.experiments.pair_learning import seeded
from pentti.nn import LinearAttention, MemoryState, SequenceMemory, TransformerBlock, crowding
from pentti.nn.evidence import heard
from pentti.nn.local import Attention, SlidingWindowAttention

__all__ = [
    "CROWDED",
    "FINDERS",
    "NAMES",
    "N_DIGITS",
    "Plan",
    "Reader",
    "Texts",
    "Trained",
    "as_ids",
    "draw_keys",
    "find",
    "hidden_keys",
    "hide",
    "question",
    "train",
]

N_DIGITS = 5
NAMES = (
    "amber", "basil", "cedar", "delta", "ember", "flint", "grape", "hazel", "ivory", "jade",
    "karma", "lemon", "mango", "nylon", "olive", "pearl", "quartz", "raven", "sable", "tulip",
    "umber", "viola", "willow", "xenon", "yarrow", "zebra",
)  # fmt: skip
_WINDOW = 16
_WARM_UP = 20
_LAST_RATE = 0.1  # of the first, at the end of training


class Texts(NamedTuple):
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
        n_heads: Heads of every mixer.
        n_locations: Hard locations of each head of the sequence memory,
        top_k: of which so many are active,
        n_codebooks: found by so many codebooks,
        address_dim: for an address of so many components.
        n_steps: Training steps,
        batch: each with so many texts,
        longest: of at most so many bytes.
        lengths: On which the models are tested,
        n_test_bytes: with so much text in all at each, but 4 texts at least and 32 at most.
        n_keys: Pass keys that are hidden in a text, and asked for.
        rate: Learning rate.
        spread: Weight of the sequence memory's `crowding` in the loss.
    """

    width: int = 64
    n_heads: int = 4
    n_locations: int = 64**4
    top_k: int = 8
    n_codebooks: int = 4
    address_dim: int = 32
    n_steps: int = 300
    batch: int = 4
    longest: int = 2048
    lengths: tuple[int, ...] = (2048, 8192, 32768, 131072)
    n_test_bytes: int = 1 << 20
    n_keys: int = 8
    rate: float = 5e-3
    spread: float = 4.0


def hidden_keys(
    n: int, length: int, n_keys: int, generator: torch.Generator, *, held_out: bool = True
) -> Texts:
    """Real text with sentences hidden in it, each of which tells somebody's pass key.

    The text is the Python standard library's own source. At the end all keys are asked for, in
    another order, and answered.

    Args:
        n: Texts.
        length: Bytes of each, questions included.
        n_keys: Pass keys in each, at most one for each name.
        generator: Of what is drawn.
        held_out: Whether the text is of modules that no training sees.

    Returns:
        The texts.
    """
    texts, rows, columns = [], [], []
    for row in range(n):
        told = draw_keys(n_keys, generator)
        order = torch.randperm(n_keys, generator=generator).tolist()
        endings = [question(list(told)[i]) + told[list(told)[i]].encode() for i in order]
        text = hide(told, length - sum(map(len, endings)), generator, held_out=held_out)
        end = len(text)
        for ending in endings:
            end += len(ending)
            rows.append(row)
            columns.append(end - N_DIGITS)
        texts.append(b"".join((text, *endings)))
    places = torch.tensor(columns)[:, None] + torch.arange(N_DIGITS)
    rows_A5 = torch.tensor(rows)[:, None].expand(-1, N_DIGITS)
    return Texts(as_ids(texts), rows_A5, places)


def draw_keys(n: int, generator: torch.Generator) -> dict[str, str]:
    """Pass keys of some names.

    Args:
        n: How many, at most one for each of `NAMES`.
        generator: Of the draw.

    Returns:
        Keys of five digits by name.
    """
    who = torch.randperm(len(NAMES), generator=generator)[:n].tolist()
    keys = torch.randint(10 ** (N_DIGITS - 1), 10**N_DIGITS, (n,), generator=generator)
    return {NAMES[name]: str(key) for name, key in zip(who, keys.tolist(), strict=True)}


def hide(
    keys: Mapping[str, str], length: int, generator: torch.Generator, *, held_out: bool = True
) -> bytes:
    """A stretch of real text in which keys are told.

    Args:
        keys: By name, told in this order.
        length: Bytes, the keys' sentences included.
        generator: Of where the stretch begins, and where the sentences stand.
        held_out: Whether the text is of modules that no training sees.

    Returns:
        So many bytes.

    Raises:
        ArgumentError: if they are too few for the sentences.
    """
    source = _source(held_out)
    needles = [f"\nThe pass key of {name} is {key}.\n".encode() for name, key in keys.items()]
    least = sum(map(len, needles))
    room = checks.integer("hide", "length", length, least) - least
    start = int(torch.randint(len(source) - room, (1,), generator=generator))
    cuts = torch.randint(room + 1, (len(needles),), generator=generator).sort().values.tolist()
    parts, last = [], 0
    for cut, needle in zip(cuts, needles, strict=True):
        parts += [source[start + last : start + cut], needle]
        last = cut
    parts.append(source[start + last : start + room])
    return b"".join(parts)


def question(name: str) -> bytes:
    """The question for a name's key, up to where the key is due.

    Args:
        name: Whose key.

    Returns:
        ASCII.
    """
    return f"\nWhich is the pass key of {name}? The pass key of {name} is ".encode()


def as_ids(texts: Sequence[bytes]) -> Tensor:
    """Texts of one length as a batch.

    Args:
        texts: B of them.

    Returns:
        int64 (B, L).
    """
    flat = torch.frombuffer(bytearray(b"".join(texts)), dtype=torch.uint8).long()
    return flat.view(len(texts), -1)


@cache
def _source(held_out: bool) -> bytes:
    """Modules of the standard library, one after the other: megabytes of real text.

    Every fourth is held out of training.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    modules = sorted(folder.glob("*.py"))
    chosen = [path for i, path in enumerate(modules) if (i % 4 == 3) == held_out]
    return b"".join(path.read_bytes() for path in chosen)


CROWDED = "sequence memory, delta, addresses left alone"
"""The finder that is trained without a loss for crowding."""


def _memory(plan: Plan, rule: str) -> nn.Module:
    return SequenceMemory(
        plan.width, plan.n_heads, n_locations=plan.n_locations, top_k=plan.top_k,
        n_codebooks=plan.n_codebooks, address_dim=plan.address_dim, rule=rule,
    )  # fmt: skip


FINDERS: dict[str, Callable[[Plan], nn.Module]] = {
    "sequence memory": lambda plan: _memory(plan, "hebbian"),
    "sequence memory, delta": lambda plan: _memory(plan, "delta"),
    CROWDED: lambda plan: _memory(plan, "delta"),
    "dense attention": lambda plan: Attention(plan.width, plan.n_heads),
    "linear attention": lambda plan: LinearAttention(plan.width, plan.n_heads),
    "window": lambda plan: SlidingWindowAttention(plan.width, plan.n_heads, window=8 * _WINDOW),
}
"""What the second block of a model mixes with; the first always sees a small window."""


class Reader(nn.Module):
    """A block with a small window, one with a finder, and one with a small window again.

    `evidence` is that of the last pass, (B, L), with gradient; None without a sequence memory.

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
            mixers = [_near(plan), FINDERS[finder](plan), _near(plan)]
            self.blocks = nn.ModuleList(TransformerBlock(width, mixer) for mixer in mixers)
            self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, 256, bias=False)
        self.evidence: Tensor | None = None

    def forward(self, texts: Texts, cache: Any = None) -> Tensor:
        """Logits of the answers' digits.

        Args:
            texts: Of any length.
            cache: From `new_cache`; then the texts go on where the last ones ended.

        Returns:
            Shape (A, 5, 256).
        """
        x = self.embedding(texts.ids)
        caches = [None] * len(self.blocks) if cache is None else cache
        with heard([self.blocks[1]]) as (found,):
            for block, own in zip(self.blocks, caches, strict=True):
                x = block(x, cache=own).output
        self.evidence = found[0] if found else None
        logits: Tensor = self.head(self.norm(x[texts.rows, texts.columns - 1]))
        return logits

    def new_cache(self, batch: int, told: MemoryState | None = None) -> Any:
        """What a text that comes in parts goes on with.

        Args:
            batch: Texts.
            told: What the sequence memory holds already; it is changed in place.

        Returns:
            The caches of all blocks.
        """
        first, (found, fed), last = (block.new_cache(batch) for block in self.blocks)  # type: ignore[operator]
        return first, (found if told is None else told, fed), last

    def new_state(self, batch: int) -> MemoryState:
        """A sequence memory in which nothing is told yet.

        Args:
            batch: Texts, or users.

        Returns:
            The state.
        """
        memory = self.blocks[1].mixer
        assert isinstance(memory, SequenceMemory)  # noqa: S101 only such a model is asked
        return memory.new_cache(batch)


def _near(plan: Plan) -> nn.Module:
    return SlidingWindowAttention(plan.width, plan.n_heads, window=_WINDOW)


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
        shortest = 2 * plan.longest // 3
        length = int(torch.randint(shortest, plan.longest + 1, (1,), generator=generator))
        texts = hidden_keys(plan.batch, length, plan.n_keys, generator, held_out=False)
        logits = model(texts)
        loss = functional.cross_entropy(logits.flatten(0, 1), texts.digits.flatten())
        if model.evidence is not None and finder != CROWDED:
            loss = loss + plan.spread * crowding(model.evidence)
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
        seed: Of the texts, which are of modules that no training text is taken from.

    Returns:
        A generator of the share that is done, which returns the share of keys that were given
        without a mistake, of how many, and seconds a text.
    """
    generator = torch.Generator().manual_seed(seed)
    n_texts = min(32, max(4, plan.n_test_bytes // length))
    right, start = [], time.perf_counter()
    for text in range(n_texts):
        texts = hidden_keys(1, length, plan.n_keys, generator)
        right.append((model(texts).argmax(-1) == texts.digits).all(-1))
        yield (text + 1) / n_texts
    found = torch.cat(right)
    seconds = (time.perf_counter() - start) / n_texts
    return found.double().mean().item(), len(found), seconds
