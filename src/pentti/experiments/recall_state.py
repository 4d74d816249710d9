"""How much can a mixer recall for each byte that it keeps?"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from pentti.experiments.drawing import COLOURS, draw, mark, plot
from pentti.experiments.finding import (
    Claim,
    Experiment,
    Figure,
    Finding,
    Order,
    Size,
    Step,
    Table,
    portion,
    told,
)
from pentti.experiments.pair_learning import one_thread
from pentti.experiments.recall_learning import Reader, Setting, ask, learn, recall, state_bytes
from pentti.nn import LinearAttention, MemoryState, SequenceMemory
from pentti.nn.local import Attention, SlidingWindowAttention

__all__ = ["EXPERIMENT"]

_SEED = 47
_MEMORY = "sequence memory"
_DELTA = "sequence memory, delta rule"
_LINEAR = "linear attention"
_CACHE = "key/value cache"
_WINDOW = "cache of a window"
_MEMORIES = (_MEMORY, _DELTA)
_STYLES = dict(zip((_MEMORY, _DELTA, _LINEAR, _CACHE, _WINDOW), "oDs^v", strict=True))
_RATES = (1e-2, 3e-3)
_GOAL = 0.90
_NEARLY_ALL = 0.99
_CLOSE = 0.05
_PIECE = 32  # tokens after which a bounded state forgets
_MATCH = 10.0  # logarithm of the weight that a baseline gives an equal token, at the start


@dataclass(frozen=True)
class _Mixer:
    """A kind of mixer, its width and what else sizes its state."""

    kind: str
    width: int
    n_heads: int = 1
    n_locations: int | None = None
    top_k: int | None = None
    most: int | None = None  # locations that a bounded state keeps, or tokens of a window

    def make(self) -> nn.Module:
        """The layer, as it is before training."""
        if self.kind in _MEMORIES:
            memory = SequenceMemory(
                self.width, self.n_heads, n_locations=self.n_locations, top_k=self.top_k or 1,
                max_locations=self.most, rule="hebbian" if self.kind == _MEMORY else "delta",
            )  # fmt: skip
            return memory if self.most is None else _Bounded(memory)
        if self.kind == _LINEAR:
            return _shifted(LinearAttention(self.width, self.n_heads))
        if self.kind == _CACHE:
            return _shifted(Attention(self.width, self.n_heads, rotary=False))
        window = self.most or 1
        return _shifted(
            SlidingWindowAttention(self.width, self.n_heads, window=window, rotary=False)
        )

    @property
    def last_bytes(self) -> int:
        """What is kept of the newest token: a baseline keeps it, a memory where it pointed."""
        if self.kind in _MEMORIES:
            return self.n_heads * (self.top_k or 1) * (8 + 4)
        return 4 * self.width

    @property
    def label(self) -> str:
        """What sizes it, in words."""
        words = [f"{self.width} wide"]
        if self.n_heads > 1:
            words += [f"{self.n_heads} heads"]
        if self.n_locations is not None:
            words += [f"M = {self.n_locations:,}", f"K = {self.top_k}"]
        if self.most is not None:
            words += [f"at most {self.most:,} {'tokens' if self.kind == _WINDOW else 'locations'}"]
        return ", ".join(words)


@dataclass(frozen=True)
class _Plan:
    """Sizes of a run; the texts of training come first, and longer ones have a longer gap."""

    setting: Setting
    lengths: tuple[int, ...]
    n_asked: int  # questions, at each length
    batch: int
    n_steps: int
    look: int  # steps between looks at the recall
    mixers: tuple[_Mixer, ...]

    def at(self, length: int) -> Setting:
        """The setting in which texts are so long."""
        return replace(self.setting, length=length, gap=self.setting.gap + length - self.lengths[0])


def _memories(kind: str, width: int, *sizes: tuple[int, int]) -> list[_Mixer]:
    return [_Mixer(kind, width, n_locations=m, top_k=k) for m, k in sizes]


_PLANS = {
    "quick": _Plan(
        Setting(96, 16, 256, gap=32), (96, 512, 2048), 480, 32, 60, 15,
        (
            *_memories(_MEMORY, 32, (64, 1), (4096, 1), (4096, 2), (4096, 4)),
            _Mixer(_MEMORY, 32, n_locations=4096, top_k=2, most=128),
            *_memories(_DELTA, 32, (4096, 2)),
            _Mixer(_LINEAR, 32),
            _Mixer(_CACHE, 32),
            _Mixer(_WINDOW, 32, most=80),
        ),
    ),
    "full": _Plan(
        Setting(320, 64, 8192, gap=64), (320, 2048, 8192), 1024, 16, 100, 20,
        (
            *_memories(_MEMORY, 64, (64, 1), (256, 1), (1024, 1), (4096, 1), (65_536, 1)),
            *_memories(_MEMORY, 64, (1024, 4), (4096, 2), (65_536, 2), (65_536, 4), (65_536, 8)),
            *_memories(_MEMORY, 32, (65_536, 1), (65_536, 2), (65_536, 4)),
            _Mixer(_MEMORY, 64, 4, n_locations=4096, top_k=1),
            _Mixer(_MEMORY, 64, 4, n_locations=65_536, top_k=1),
            _Mixer(_MEMORY, 64, n_locations=65_536, top_k=1, most=1024),
            *_memories(_DELTA, 64, (1024, 1), (4096, 2), (65_536, 1)),
            *(_Mixer(_LINEAR, width) for width in (32, 64, 128, 256)),
            *(_Mixer(_CACHE, width) for width in (16, 32, 64)),
            *(_Mixer(_WINDOW, 64, most=most) for most in (64, 128, 256)),
        ),
    ),
}  # fmt: skip


class _Bounded(nn.Module):
    """A memory that is asked in pieces, so that its bounded state forgets on the way."""

    def __init__(self, memory: SequenceMemory) -> None:
        super().__init__()
        self.memory = memory
        self.new_cache = memory.new_cache

    def forward(self, x_BLD: Tensor, cache: MemoryState | None = None) -> Tensor:
        if torch.is_grad_enabled():
            whole: Tensor = self.memory(x_BLD).output
            return whole
        state = self.new_cache(len(x_BLD)) if cache is None else cache
        return torch.cat([self.memory(x, state).output for x in x_BLD.split(_PIECE, dim=1)], 1)


class _Before(nn.Module):
    """Each token's place taken by the token before it."""

    def forward(self, x_BLD: Tensor) -> Tensor:
        return functional.pad(x_BLD, (0, 0, 1, 0))[:, :-1]


def _shifted(mixer: nn.Module) -> nn.Module:
    """A baseline whose keys are of the token before, and which matches equal tokens at the start.

    A sequence memory has both by its write rule; whoever has to find them first takes hundreds of
    steps, and what is to be compared here is what a state can hold.
    """
    query, key = mixer.query, mixer.key
    assert isinstance(query, nn.Linear)  # noqa: S101 the baselines are ours
    assert isinstance(key, nn.Linear)  # noqa: S101
    with torch.no_grad():
        nn.init.orthogonal_(query.weight)
        query.weight.mul_((_MATCH / query.in_features**0.5) ** 0.5)
        key.weight.copy_(query.weight)
    mixer.key = nn.Sequential(_Before(), key)
    return mixer


@dataclass(frozen=True)
class _Outcome:
    """A trained mixer: its recall and the bytes that it keeps, at each length."""

    mixer: _Mixer
    rate: float
    n_steps: int
    recalls: Mapping[int, float]
    n_bytes: Mapping[int, int]


def _run(order: Order) -> Generator[Step, None, Finding]:
    plan = _PLANS[order.size]
    outcomes: list[_Outcome] = []
    n = len(plan.mixers)
    with one_thread():
        for i, mixer in enumerate(plan.mixers):
            outcomes.append((yield from told(portion(_outcome(mixer, plan), i / n, 1 / n))))
            yield Step(i / n + 1 / n)  # where it was done early
    settings = {
        **asdict(plan.setting), "lengths": plan.lengths, "questions": plan.n_asked,
        "batch": plan.batch, "most steps": plan.n_steps, "rates": _RATES, "seed": _SEED,
    }  # fmt: skip
    return Finding(
        _claims(outcomes, plan),
        [_draw(outcomes, plan)],
        [_table(outcomes, plan)],
        _conclusion(outcomes, plan, order.size),
        settings,
    )


def _outcome(mixer: _Mixer, plan: _Plan) -> Generator[float, None, _Outcome]:
    """Train at each rate unless the first answers nearly all; ask what recalled more."""
    best: tuple[float, float, int, Reader] | None = None
    n_texts = max(1, plan.n_asked // plan.setting.pairs)
    looked = ask(plan.setting, n_texts, torch.Generator().manual_seed(_SEED + 1))
    for i, rate in enumerate(_RATES):
        model = _reader(mixer, plan.setting.vocabulary)
        work = learn(
            model, plan.setting, looked, lr=rate, batch=plan.batch, n_steps=plan.n_steps,
            look=plan.look, seed=_SEED,
        )  # fmt: skip
        curve = yield from portion(work, i / len(_RATES), 1 / len(_RATES))
        if best is None or curve.recalls[-1] > best[0]:
            best = curve.recalls[-1], rate, curve.steps[-1], model
        if curve.recalls[-1] >= _NEARLY_ALL:
            break
    assert best is not None  # noqa: S101 there is a rate
    _, rate, n_steps, model = best
    recalls, n_bytes = {}, {}
    for length in plan.lengths:
        questions = ask(plan.at(length), n_texts, torch.Generator().manual_seed(_SEED + length))
        recalls[length] = recall(model, questions)
        n_bytes[length] = state_bytes(model, questions.tokens[:4]) + mixer.last_bytes
    return _Outcome(mixer, rate, n_steps, recalls, n_bytes)


def _reader(mixer: _Mixer, n_words: int) -> Reader:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return Reader(n_words, [mixer.make()], mixer.width)


def _cheapest(
    outcomes: Sequence[_Outcome], kinds: Sequence[str], length: int, share: float
) -> _Outcome | None:
    """Whichever of these kinds recalls so much with the fewest bytes, if any does."""
    enough = [o for o in outcomes if o.mixer.kind in kinds and o.recalls[length] >= share]
    return min(enough, key=lambda o: o.n_bytes[length], default=None)


def _needed(outcome: _Outcome | None, length: int) -> float:
    return math.inf if outcome is None else outcome.n_bytes[length]


def _kib(outcome: _Outcome | None, length: int) -> str:
    """Bytes that it took, and what took them."""
    if outcome is None:
        return "none that was tried"
    return f"{outcome.n_bytes[length] / 1024:,.0f} KiB ({outcome.mixer.label})"


def _best(outcomes: Sequence[_Outcome], kind: str, length: int) -> float:
    return max(o.recalls[length] for o in outcomes if o.mixer.kind == kind)


def _alone(n_locations: int, setting: Setting) -> float:
    """The expected share of keys that share their one location with no other word of a text."""
    n_words = 2 * setting.pairs + setting.gap  # of which few are equal
    return (1 - 1 / n_locations) ** n_words


def _short_of_alone(outcomes: Sequence[_Outcome], plan: _Plan) -> float:
    """The least recall less `_alone`, of memories that write a value into one location only."""
    single = [
        o
        for o in outcomes
        if o.mixer.kind == _MEMORY and o.mixer.top_k == o.mixer.n_heads == 1 and not o.mixer.most
    ]
    first = plan.lengths[0]
    return min(o.recalls[first] - _alone(o.mixer.n_locations or 1, plan.setting) for o in single)


def _growth(outcomes: Sequence[_Outcome], kinds: Sequence[str], plan: _Plan) -> float:
    """By what factor the state grows from the first length to the last, at the most."""
    first, last = plan.lengths[0], plan.lengths[-1]
    return max(o.n_bytes[last] / o.n_bytes[first] for o in outcomes if o.mixer.kind in kinds)


def _claims(outcomes: Sequence[_Outcome], plan: _Plan) -> list[Claim]:
    first, last = plan.lengths[0], plan.lengths[-1]
    by = {
        (length, kind): _cheapest(outcomes, (kind,), length, _GOAL)
        for length in (first, last)
        for kind in _STYLES
    }
    memory = {n: _cheapest(outcomes, _MEMORIES, n, _GOAL) for n in (first, last)}
    many = _many(outcomes)
    near = [o for o in outcomes if o.mixer.kind == _CACHE and o.mixer.width == many.mixer.width]
    short = _short_of_alone(outcomes, plan)
    linear = max(_best(outcomes, _LINEAR, n) for n in plan.lengths)
    grown, times = _growth(outcomes, _MEMORIES, plan), last / first
    cut = _best(outcomes, _WINDOW, last)
    return [
        Claim(
            f"At {first:,} tokens the best memory takes fewer bytes for {100 * _GOAL:.0f} % than "
            "the key/value cache",
            "fewer bytes",
            f"{_kib(memory[first], first)} against {_kib(by[first, _CACHE], first)}",
            _needed(memory[first], first) < _needed(by[first, _CACHE], first),
        ),
        Claim(
            f"At {first:,} tokens {many.mixer.top_k} locations a token take more bytes than the "
            "cache of the same width",
            "more bytes",
            f"{_kib(many, first)} against {_kib(near[0], first)}",
            many.n_bytes[first] > near[0].n_bytes[first],
        ),
        Claim(
            f"At {last:,} tokens the memory takes at most half of the cache's bytes for "
            f"{100 * _GOAL:.0f} %",
            "at most half",
            f"{_kib(memory[last], last)} against {_kib(by[last, _CACHE], last)}",
            memory[last] is not None
            and 2 * _needed(memory[last], last) <= _needed(by[last, _CACHE], last),
        ),
        Claim(
            f"Its state grows by a smaller factor than the text, {times:.1f}",
            f"less than {times:.1f} for each",
            f"at most {grown:.1f}; the cache's {_growth(outcomes, (_CACHE,), plan):.1f}",
            grown < times,
        ),
        Claim(
            "Linear attention does not come to "
            f"{100 * _GOAL:.0f} % on the same training, at any width that was tried",
            f"below {100 * _GOAL:.0f} %",
            f"at most {100 * linear:.1f} %",
            linear < _GOAL,
        ),
        Claim(
            "With one location a token, keys that share theirs with no other word are recalled",
            f"no more than {_CLOSE:g} below the share of such keys",
            f"at least {short:+.3f} from it",
            short >= -_CLOSE,
        ),
        Claim(
            f"A window, shorter than the gap of {last:,} tokens, recalls nothing",
            "at most 2 %",
            f"{100 * cut:.1f} %",
            cut <= 0.02,
        ),
    ]


def _many(outcomes: Sequence[_Outcome]) -> _Outcome:
    """The memory that writes a value into most locations."""
    of = [o for o in outcomes if o.mixer.kind == _MEMORY]
    return max(of, key=lambda o: (o.mixer.top_k or 0, o.mixer.n_locations or 0))


def _pair(outcomes: Sequence[_Outcome], length: int, share: float) -> str:
    memory, cache = (
        _kib(_cheapest(outcomes, kinds, length, share), length) for kinds in (_MEMORIES, (_CACHE,))
    )
    return f"{memory} for a memory, {cache} for a cache"


def _conclusion(outcomes: Sequence[_Outcome], plan: _Plan, size: Size) -> str:
    last = plan.lengths[-1]
    said = [f"in {n:,} tokens {_pair(outcomes, n, _GOAL)}" for n in plan.lengths]
    nearly = f"For {100 * _NEARLY_ALL:.0f} % it is {_pair(outcomes, last, _NEARLY_ALL)}"
    first = plan.lengths[0]
    linear = max(_best(outcomes, _LINEAR, n) for n in plan.lengths)
    grown, cached = (_growth(outcomes, kinds, plan) for kinds in (_MEMORIES, (_CACHE,)))
    small = (
        " This is a small setting, to be quick; 8,192 words and 64 pairs are in the full report."
        if size == "quick"
        else ""
    )
    crowded = (
        " With one location a token, more keys share theirs than chance has it: while embeddings "
        "learn, those of all keys move alike, and their addresses draw together."
        if _short_of_alone(outcomes, plan) < -_CLOSE
        else ""
    )
    bounded = "; ".join(
        f"{100 * o.recalls[last]:.0f} %, {o.mixer.label}"
        for o in outcomes
        if o.mixer.kind in _MEMORIES and o.mixer.most
    )
    return (
        f"The fewest bytes for {100 * _GOAL:.0f} % of {plan.setting.pairs} values: "
        f"{'; '.join(said)}. {nearly}, in {last:,} tokens. A cache keeps a key and a value for "
        "each token; a memory keeps a value for each location, and a word that comes again has "
        "its locations already. So the one grows with the text, and the other with the different "
        "words of it, times the locations a token, until all M are touched. The price: words "
        "share locations. A table that is small beside the words of a text confuses them, and a "
        f"bounded one forgets what was told first (recalled at {last:,} tokens: {bounded}). "
        f"From {first:,} to {last:,} tokens its state grows by a factor of {grown:.1f} at most, "
        f"where the cache's grows by {cached:.1f}. Linear attention, whose state "
        f"never grows, gave at most {100 * linear:.1f} % on this training.{crowded}{small}"
    )


def _table(outcomes: Sequence[_Outcome], plan: _Plan) -> Table:
    heads = [
        text
        for length in plan.lengths
        for text in (f"recall at {length:,}", f"state at {length:,} (KiB)")
    ]
    rows = []
    for o in outcomes:
        cells: list[object] = []
        for length in plan.lengths:
            cells += [round(o.recalls[length], 4), round(o.n_bytes[length] / 1024, 1)]
        rows.append((o.mixer.kind, o.mixer.label, o.rate, o.n_steps, *cells))
    return Table(
        "Share of right answers and bytes of state of a text, by its tokens",
        ("mixer", "size", "learning rate", "steps made", *heads),
        rows,
    )


def _draw(outcomes: Sequence[_Outcome], plan: _Plan) -> Figure:
    canvas, axes = plot(len(plan.lengths))
    sizes = [n / 1024 for o in outcomes for n in o.n_bytes.values()]
    for axis, length in zip(axes, plan.lengths, strict=True):
        for (kind, style), colour in zip(_STYLES.items(), COLOURS, strict=False):
            of = [o for o in outcomes if o.mixer.kind == kind]
            points = [o.n_bytes[length] / 1024 for o in of], [o.recalls[length] for o in of]
            axis.plot(*points, style, color=colour, label=kind, alpha=0.8)
        mark(axis, [8**i for i in range(1, 6) if min(sizes) <= 8**i <= max(sizes)])
        axis.set_xlim(min(sizes) / 2, 2 * max(sizes))
        axis.set(title=f"{length:,} tokens", xlabel="state of a text (KiB)", ylim=(-0.04, 1.04))
    axes[0].set_ylabel("share of right answers")
    below = {"loc": "lower center", "bbox_to_anchor": (0.5, 0), "ncols": len(_STYLES)}
    axes[0].legend(**below, bbox_transform=canvas.transFigure).set_in_layout(False)
    canvas.set_layout_engine("constrained", rect=(0, 0.1, 1, 0.9))
    return draw(
        canvas,
        "Recall by the bytes of state that it took, each point a model; up and to the left is "
        "better. The same models in each panel, trained on texts as long as in the first.",
    )


EXPERIMENT = Experiment(
    name="state",
    question="How much can a mixer recall for each byte that it keeps?",
    method=(
        "A text tells pairs of key and value, then random words that are none of its keys, and "
        "then asks for each key once; the answer is the value. Longer texts have more words in "
        "between. Each model is one mixer between embeddings, which answer too. To compare what "
        "states hold and not how fast a match is found, the baselines get what the memory's write "
        "rule has: their keys are of the token before, and queries and keys begin as the same "
        "orthogonal map, so that equal tokens match; no positions. All train on as many texts of "
        "the shortest length at most (until 99.5 % of the answers are right), at a rate of 0.01, "
        "and at 0.003 too if fewer than 99 % are right then; the better is kept. Bytes, all "
        "float32, are those of the touched locations of a state that was really written "
        "(contents, evidence, which it is and when: 4 E + 16 each in a head of width E), of the "
        "keys and values in a cache (8 D + 8 a token), or of the sums of linear attention, and "
        "what is kept of the newest token; spare room and a memory's index, by which locations "
        "are found, are left out. A bounded state is asked by 32 tokens at a time, and forgets "
        "after each 32 what was written longest ago."
    ),
    prediction=(
        "At 64 components a cache takes 520 bytes a token, and a memory 272 for each location "
        "touched: at one location a token fewer bytes than the cache even in short texts, since a "
        "word that comes again takes none; at 8 a token more. In 8,192 tokens drawn from 8,192 "
        "words there are some 5,100 different ones: 1.4 MB with one location each, at most half of "
        "the cache's 4.3 MB. With one location a token and M in all, those keys are recalled that "
        "share theirs with no other word, (1 - 1 / M) to the number of words. The sums of linear "
        "attention hold few pairs: its features are all positive, so that every word adds to every "
        "answer, and it does not come to 90 %. A window recalls what it reaches. Written before "
        "the first run; some memories with 2 or 4 locations a token joined after a trial with two "
        "of these models and a small one of each kind."
    ),
    source=(
        "Task: Arora et al. 2023, Zoology (arXiv 2312.04927); recall by state: Arora et al. 2024, "
        "Based (arXiv 2402.18668); storing a sequence: Kanerva (1988), chapter 8"
    ),
    run=_run,
)
