"""How many hard locations does a layer activate, as made and as trained?"""

from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pentti import theory
from pentti.decoders import CosineCap, ProductKeys
from pentti.errors import SettingWarning
from pentti.experiments.drawing import COLOURS, draw, plot
from pentti.experiments.finding import Claim, Experiment, Figure, Finding, Order, Step, Table
from pentti.experiments.judging import deviation
from pentti.experiments.pair_learning import (
    WIDTH,
    Pairs,
    Recipe,
    learn_layer,
    one_thread,
    seeded,
    use,
)
from pentti.nn import SDMLayer

__all__ = ["EXPERIMENT"]

_SEED = 41
_CAP = 2048  # more than any token activates
_Setting = tuple[type[CosineCap] | type[ProductKeys], int, int, float]
_SETTINGS: tuple[_Setting, ...] = (
    (CosineCap, 64, 10_000, 0.01),
    (CosineCap, 512, 10_000, 0.01),
    (ProductKeys, 64, 99_856, 0.001),
    (ProductKeys, 512, 99_856, 0.001),
)
_POPULAR: tuple[_Setting, ...] = ((CosineCap, 512, 10_000, 0.5), (ProductKeys, 512, 99_856, 0.5))
_MEAN_METER = 16  # of a head of the layer that is trained
_ROOT = 50
_OUTLINE: dict[str, Any] = {"density": True, "histtype": "step", "linewidth": 1.5}


@dataclass(frozen=True)
class _Meter:
    """The meters of tokens, and what they are expected to be."""

    name: str
    threshold: float
    mean: float
    deviation: float
    meters: np.ndarray

    @property
    def error(self) -> float:
        """Standard error of the mean meter."""
        return self.deviation / math.sqrt(len(self.meters))


@dataclass(frozen=True)
class _Dead:
    """A layer of a popular setting: what it activates and how steep its loss is."""

    name: str
    probability: float
    active: int
    largest_gradient: float


@dataclass(frozen=True)
class _State:
    """A layer before or after training."""

    meters: np.ndarray
    beta: float
    share_used: float
    effective_share: float
    recall: float


def _run(order: Order) -> Generator[Step, None, Finding]:
    with one_thread():
        return (yield from _answer({"quick": 2000, "full": 20_000}[order.size]))


def _answer(n_tokens: int) -> Generator[Step, None, Finding]:
    meters, dead = [], []
    for setting in _SETTINGS:
        meters.append(_measure(setting, n_tokens))
        yield Step(len(meters) / 8)
    for setting in _POPULAR:
        dead.append(_try(setting))
        yield Step((len(meters) + len(dead)) / 8)
    pairs = Pairs(3000, _SEED)
    p = _MEAN_METER / _ROOT**2
    decoder = ProductKeys(
        WIDTH,
        _ROOT**2,
        activation_probability=theory.any_head(p, 4),
        top_k=4 * _MEAN_METER,
        n_heads=4,
        learned=True,
        seed=_SEED,
    )
    with seeded(_SEED):
        layer = SDMLayer(WIDTH, decoder)
    states = [_look(layer, pairs)]
    for share in learn_layer(layer, pairs, Recipe(n_steps=120)):
        yield Step((6 + 2 * share) / 8)
    states.append(_look(layer, pairs))
    return Finding(
        _claims(meters, dead, states),
        [_draw(meters, states)],
        [_meter_table(meters), _dead_table(dead), _state_table(states)],
        _conclusion(meters, dead, states),
        {"n_tokens": n_tokens, "n_pairs": len(pairs), "n_locations": _ROOT**2, "seeds": [_SEED]},
    )


def _measure(setting: _Setting, n_tokens: int) -> _Meter:
    kind, dim, n_locations, p = setting
    decoder = kind(dim, n_locations, activation_probability=p, top_k=_CAP, seed=_SEED)
    threshold = decoder.effective_threshold
    expected = n_locations * p, _spread(decoder, threshold, p)
    generator = torch.Generator().manual_seed(_SEED)
    tokens = torch.randn((n_tokens, dim), generator=generator)
    with torch.no_grad():
        near = [decoder.nearest(some).active.sum((-2, -1)) for some in tokens.split(500)]
    name = f"{kind.__name__}, {dim} wide"
    return _Meter(name, threshold, *expected, torch.cat(near).numpy())


def _spread(decoder: CosineCap | ProductKeys, threshold: float, p: float) -> float:
    """Standard deviation of the meter over random hard addresses.

    Locations of product keys share half addresses: of two in a row of the grid, with the one half
    at a cosine u, both are active with the square of the cap that is left for the other half.
    """
    m = decoder.n_locations
    variance = m * p * (1 - p)
    if isinstance(decoder, ProductKeys):
        half, n = decoder.part_width, math.isqrt(m)
        u, weight = np.polynomial.legendre.leggauss(1000)
        density = weight * (1 - u**2) ** ((half - 3) / 2)
        caps = [theory.cap_probability(half, c) for c in np.clip(2 * threshold - u, -1, 1)]
        both = float(np.square(caps) @ density / density.sum())
        variance += 2 * m * (n - 1) * (both - p**2)
    return math.sqrt(variance)


def _try(setting: _Setting) -> _Dead:
    """A layer with this threshold on 100 random tokens: meters and gradients."""
    kind, dim, n_locations, threshold = setting
    with warnings.catch_warnings(), seeded(_SEED):
        warnings.simplefilter("ignore", SettingWarning)  # which says just what is shown here
        decoder = kind(dim, n_locations, threshold=threshold, top_k=32, learned=True, seed=_SEED)
        layer = SDMLayer(dim, decoder)
        tokens = torch.randn(100, dim)
    output, meter = layer(tokens)
    (output - tokens).square().mean().backward()
    gradients = [
        float(weights.grad.abs().max())
        for weights in layer.parameters()
        if weights.grad is not None
    ]
    name = f"{kind.__name__}, {dim} wide, {n_locations:,} locations, threshold {threshold:g}"
    probability = decoder.activation_probability
    return _Dead(name, probability, int(meter.sum()), max(gradients))


def _look(layer: SDMLayer, pairs: Pairs) -> _State:
    with torch.no_grad():
        output, meter = layer(pairs.key)
    shares = use(layer, pairs.key)
    beta = layer.weigh.beta
    return _State(
        meter.numpy(),
        float("nan") if beta is None else beta.mean().item(),
        shares.share_used,
        shares.effective_share,
        pairs.recall(output),
    )


def _claims(
    meters: Sequence[_Meter], dead: Sequence[_Dead], states: Sequence[_State]
) -> list[Claim]:
    worst = max(deviation(float(m.meters.mean()), m.mean, m.error) for m in meters)
    ratios = [float(m.meters.std(ddof=1)) / m.deviation for m in meters]
    before, after = states
    expected = 4 * _MEAN_METER
    start, end = float(before.meters.mean()), float(after.meters.mean())
    return [
        Claim(
            "A token activates the share that the exact theory of caps and product keys gives",
            "mean meter within 4 standard errors for every decoder",
            f"largest deviation {worst:.1f}",
            worst <= 4,
        ),
        Claim(
            "The meter spreads as Binomial(M, p), and more for product keys, whose locations "
            "share half addresses",
            "standard deviation within 15 % of the theory",
            f"{min(ratios):.3f} to {max(ratios):.3f} times the theory",
            min(ratios) >= 0.85 and max(ratios) <= 1.15,
        ),
        Claim(
            "The popular threshold of 0.5 in 512 dimensions is dead",
            "nothing active, every gradient 0",
            f"{sum(one.active for one in dead)} active, largest gradient "
            f"{max(one.largest_gradient for one in dead):g}",
            all(one.active == 0 and one.largest_gradient == 0 for one in dead),
        ),
        Claim(
            "A layer with a threshold begins with the meter that the theory gives",
            f"{expected} within 5 %",
            f"{start:.1f}",
            abs(start / expected - 1) <= 0.05,
        ),
        Claim(
            "Training moves it little",
            "within 25 % of the start",
            f"{end:.1f}",
            abs(end / start - 1) <= 0.25,
        ),
        Claim(
            "As trained, reads are sharper and as even",
            "β above its start, at least 99 % of the locations used",
            f"β {before.beta:.1f} before and {after.beta:.1f} after, "
            f"{100 * after.share_used:.1f} % used",
            after.beta > before.beta and after.share_used >= 0.99,
        ),
    ]


def _conclusion(meters: Sequence[_Meter], dead: Sequence[_Dead], states: Sequence[_State]) -> str:
    before, after = states
    widest = max(meters, key=lambda m: m.deviation / math.sqrt(m.mean))
    times = float(widest.meters.std(ddof=1)) / math.sqrt(widest.mean)
    return (
        f"Asked for a share, a decoder activates it: {len(meters)} decoders come within "
        f"{100 * max(abs(m.meters.mean() / m.mean - 1) for m in meters):.1f} % of the mean meter. "
        f"The meter of {widest.name} spreads {times:.1f} times as far as independent locations "
        f"would. A threshold of {_POPULAR[0][3]:g} gives a probability of "
        f"{dead[0].probability:.1e} and a layer that returns zeros and has no gradient. Training "
        f"on {len(before.meters):,} pairs moves the mean meter from {before.meters.mean():.1f} to "
        f"{after.meters.mean():.1f}, β from {before.beta:.1f} to {after.beta:.1f} and the "
        f"effective share of the locations from {before.effective_share:.3f} to "
        f"{after.effective_share:.3f}; recall goes from {100 * before.recall:.1f} to "
        f"{100 * after.recall:.1f} %."
    )


def _meter_table(meters: Sequence[_Meter]) -> Table:
    return Table(
        "Meter of random tokens, as made",
        ("decoder", "threshold", "mean, theory", "mean", "s.d., theory", "s.d.", "if independent"),
        [
            (
                m.name,
                round(m.threshold, 4),
                round(m.mean, 2),
                round(float(m.meters.mean()), 2),
                round(m.deviation, 2),
                round(float(m.meters.std(ddof=1)), 2),
                round(math.sqrt(m.mean), 2),
            )
            for m in meters
        ],
    )


def _dead_table(dead: Sequence[_Dead]) -> Table:
    return Table(
        "Popular settings on 100 tokens",
        ("decoder", "activation probability", "active, all tokens", "largest gradient"),
        [(one.name, one.probability, one.active, one.largest_gradient) for one in dead],
    )


def _state_table(states: Sequence[_State]) -> Table:
    return Table(
        f"A layer of {_ROOT**2:,} locations with a threshold, before and after training",
        ("", "mean meter", "s.d.", "mean β", "share used", "effective share", "recalled"),
        [
            (
                name,
                round(float(state.meters.mean()), 2),
                round(float(state.meters.std(ddof=1)), 2),
                round(state.beta, 2),
                round(state.share_used, 4),
                round(state.effective_share, 4),
                round(state.recall, 4),
            )
            for name, state in zip(("as made", "as trained"), states, strict=True)
        ],
    )


def _bins(meters: np.ndarray) -> np.ndarray:
    """Edges between whole numbers, about four bins to a standard deviation."""
    width = max(1, round(float(meters.std()) / 4))
    return np.arange(meters.min(), meters.max() + width + 1, width) - 0.5


def _draw(meters: Sequence[_Meter], states: Sequence[_State]) -> Figure:
    canvas, axes = plot(2)
    for m, colour in zip(meters, COLOURS, strict=False):
        axes[0].hist(m.meters, _bins(m.meters), color=colour, label=m.name, **_OUTLINE)
        x = np.linspace(max(0, m.mean - 3 * m.deviation), m.mean + 3 * m.deviation, 200)
        bell = np.exp(-(((x - m.mean) / m.deviation) ** 2) / 2)
        axes[0].plot(x, bell / (m.deviation * math.sqrt(2 * math.pi)), ":", color=colour)
    for state, label in zip(states, ("as made", "as trained"), strict=True):
        axes[1].hist(state.meters, _bins(state.meters), label=label, **_OUTLINE)
    axes[0].set(xlabel="meter", ylabel="density")
    axes[1].set(xlabel="meter of a layer with a threshold")
    axes[0].legend()
    axes[1].legend()
    return draw(
        canvas,
        "Left: meters of random tokens; dotted, bells of the mean and deviation of the theory "
        "(product keys are skewed). "
        "Right: meters of a layer's own keys before and after training.",
    )


EXPERIMENT = Experiment(
    name="activation",
    question="How many hard locations does a layer activate, as made and as trained?",
    method=(
        "Random tokens go to decoders that were asked for an activation probability, and the meter "
        "is held against exact theory. Layers with the popular threshold of 0.5 get a forward and "
        "a backward pass. A layer with a threshold is trained on a table of random pairs."
    ),
    prediction=(
        "The mean meter is M·p exactly, the area of a cap or, for product keys, the law of the "
        "mean of two cosines. Locations with independent addresses give a binomial spread; in a "
        "grid two locations of a row or a column share half an address, which adds 2M(n − 1) times "
        "their covariance. A threshold of 0.5 in 512 dimensions has the probability 4·10⁻³⁴: no "
        "activation, no gradient. Training spreads addresses, so the meter moves by less than a "
        "quarter, and β rises."
    ),
    source=(
        "Kanerva (1988), chapter 6, carried over to the sphere; Lample et al. 2019 for product "
        "keys; caps after Li 2011"
    ),
    run=_run,
)
