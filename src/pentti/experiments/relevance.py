"""Does the meter say how relevant a cue is? Activation count and familiarity side by side."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch
from scipy import stats

from pentti import bits
from pentti.decoders import HammingBall
from pentti.experiments.drawing import draw, plot
from pentti.experiments.finding import Claim, Experiment, Figure, Finding, Order, Step, Table
from pentti.memory import SparseDistributedMemory

__all__ = ["EXPERIMENT"]

_DISTANCES = (0, 50, 100, 150, 200, 250, 300)


def _run(order: Order) -> Generator[Step, None, Finding]:
    n_locations, n_cues = {"quick": (200_000, 400), "full": (1_000_000, 2000)}[order.size]
    n_stored = n_locations // 100
    decoder = HammingBall(1000, n_locations, radius=451, seed=3)
    memory = SparseDistributedMemory(decoder, counter_dtype=torch.int16)
    generator = torch.Generator().manual_seed(4)
    stored = bits.random(n_stored, 1000, generator=generator)
    strange = bits.random(n_cues, 1000, generator=generator)
    memory.write(stored)
    yield Step(0.4)

    count, score = {}, {}
    cues = {str(d): bits.flip(stored[:n_cues], d, generator=generator) for d in _DISTANCES}
    for i, (name, cue) in enumerate({**cues, "unrelated": strange}.items()):
        count[name] = decoder(cue).meter.double().numpy()
        score[name] = memory.familiarity(cue).numpy()
        yield Step(0.4 + 0.6 * (i + 1) / (len(cues) + 1))

    rows = [
        (
            name,
            round(count[name].mean(), 1),
            round(count[name].std(ddof=1), 1),
            round(score[name].mean(), 2),
            round(score[name].std(ddof=1), 2),
            round(_separation(count[name], count["unrelated"]), 3),
            round(_separation(score[name], score["unrelated"]), 3),
        )
        for name in (*cues, "unrelated")
    ]
    p = decoder.activation_probability
    mean, spread = n_locations * p, np.sqrt(n_locations * p * (1 - p))
    z = abs(count["unrelated"].mean() - mean) / (spread / np.sqrt(n_cues))
    count_auc = [row[5] for row in rows[:5]]
    score_auc = [row[6] for row in rows[:4]]
    chance = 5 * np.sqrt(1 / 6 / n_cues)  # of a separation of one half between equals
    claims = [
        Claim(
            "The activation count is Binomial(M, p) for cues that nothing was stored near",
            f"mean {mean:.1f} ± {spread / np.sqrt(n_cues):.1f}, deviation {spread:.1f}",
            f"mean {count['unrelated'].mean():.1f}, deviation {count['unrelated'].std(ddof=1):.1f}",
            bool(z < 5),
        ),
        Claim(
            "So the count does not tell stored cues from unrelated ones",
            f"separation 0.5 ± {chance:.2f} at 0 to 200 bits",
            f"{min(count_auc):.3f} to {max(count_auc):.3f}",
            all(abs(a - 0.5) < chance for a in count_auc),
        ),
        Claim(
            "Familiarity does",
            "separation above 0.99 up to 150 bits of noise",
            f"{min(score_auc):.3f} at worst",
            min(score_auc) > 0.99,
        ),
        Claim(
            "Familiarity is calibrated: unrelated cues score about 0",
            "mean within 5 standard errors of 0",
            f"mean {score['unrelated'].mean():.3f}",
            bool(abs(score["unrelated"].mean()) < 5 * np.sqrt(1 / 256 + 1 / n_cues)),
        ),
    ]
    conclusion = (
        f"With {n_locations:,} random hard locations and {n_stored:,} words stored, a stored cue "
        f"activates {rows[0][1]} locations and an unrelated one {rows[-1][1]}. The count scores a "
        f"stored cue above an unrelated one in {100 * rows[0][5]:.1f} % of the pairs, where 50 is "
        f"guessing, and familiarity in {100 * rows[0][6]:.1f} %. Familiarity is {rows[0][3]:.0f} "
        f"for a stored cue, {rows[4][3]:.1f} at 200 bits of noise and {rows[-1][3]:.2f} for an "
        "unrelated one."
    )
    table = Table(
        "Two signals for cues at a distance from a stored word",
        (
            "bits of noise",
            "activation count, mean",
            "s.d.",
            "familiarity, mean",
            "s.d.",
            "separation by count",
            "separation by familiarity",
        ),
        rows,
    )
    return Finding(
        claims,
        [_draw(count, score)],
        [table],
        conclusion,
        {"n_locations": n_locations, "n_stored": n_stored, "n_cues": n_cues, "seeds": [3, 4]},
    )


def _separation(cues: np.ndarray, unrelated: np.ndarray) -> float:
    """Chance that a cue scores above an unrelated one: area under the ROC curve."""
    result = stats.mannwhitneyu(cues, unrelated)
    return float(result.statistic / (len(cues) * len(unrelated)))


def _draw(count: dict[str, np.ndarray], score: dict[str, np.ndarray]) -> Figure:
    canvas, axes = plot(2)
    for name, label in (("0", "stored"), ("150", "150 bits of noise"), ("unrelated", "unrelated")):
        axes[0].hist(count[name], bins=30, histtype="step", linewidth=1.8, label=label)
        values = np.sort(score[name])
        axes[1].plot(values, np.linspace(1, 0, len(values)), label=label)
    axes[0].set(xlabel="activation count", ylabel="cues")
    axes[1].set(xscale="symlog", xlabel="familiarity (z-score)", ylabel="share of cues above")
    axes[0].legend()
    axes[1].legend()
    return draw(
        canvas,
        "What to look at: how far the curves for stored, noisy and unrelated cues lie apart, by "
        "activation count (left) and by familiarity (right).",
    )


EXPERIMENT = Experiment(
    name="relevance",
    question="Does the meter say how relevant a cue is?",
    method=(
        "A memory is loaded with random words to 1 % of its hard locations, and then asked with "
        "stored words, noisy ones and unrelated ones. Separation is the chance that a cue "
        "scores above an unrelated cue; 0.5 is guessing."
    ),
    prediction=(
        "With random hard addresses the activation count is Binomial(M, p) whatever is stored, so "
        "it separates nothing. Familiarity, which asks what was written where the cue reads, "
        "separates nearly perfectly up to 150 bits of noise."
    ),
    source="Kanerva, Sparse Distributed Memory (1988), chapter 6",
    run=_run,
)
