"""Does the layer learn a table of random pairs, and how many?"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pentti.experiments.drawing import COLOURS, draw, mark, plot
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
from pentti.experiments.judging import REVISED
from pentti.experiments.pair_learning import (
    SAMPLE,
    WIDTH,
    Learned,
    Pairs,
    Recipe,
    expected_recall,
    learn_layer,
    learn_perceptron,
    least_squares,
    one_thread,
    small_layer,
    use,
)
from pentti.nn import SDMLayer, Utilisation

__all__ = ["EXPERIMENT"]

_NOISES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
_SEED = 21
_LAYER = "memory layer"
_LINEAR = "linear map, least squares"
_ATTENTION = "attention over the table"
_SAME_WORK = "perceptron, equal multiplications"
_SAME_SIZE = "perceptron, equal parameters"
_RECIPES = {
    "contents 0.1, rest 0.01": Recipe(),
    "contents 0.01, rest 0.001": Recipe(lr=1e-3, memory_lr=1e-2),
    "0.001 for all": Recipe(lr=1e-3, memory_lr=1e-3),
    "RowwiseAdagrad 1, rest 0.01": Recipe("RowwiseAdagrad", memory_lr=1.0),
    "as the first, keys with noise 0.3": Recipe(noise=0.3),
}


@dataclass(frozen=True)
class _Plan:
    """Sizes: of the table of 10,000 pairs, of the capacity, and of what takes long."""

    n_pairs: int
    n_locations: int
    n_steps: int
    few_locations: int
    loads: tuple[int, ...]
    load_steps: tuple[int, ...]
    solved: int  # largest load of which least squares is computed
    wide_steps: int  # of the perceptron with as many parameters


_PLANS = {
    "quick": _Plan(10_000, 16_384, 120, 2500, (3000, 10_000, 30_000), (60, 200, 300), 10_000, 0),
    "full": _Plan(
        10_000,
        99_856,
        400,
        2500,
        (1000, 3000, 10_000, 20_000, 30_000, 50_000),
        (200, 400, 2000, 3000, 4000, 5000),
        50_000,
        400,
    ),
}


@dataclass(frozen=True)
class _Peer:
    name: str
    multiplications: int
    parameters: int
    recalls: list[float]  # at each of _NOISES
    seconds: float | None = None


@dataclass(frozen=True)
class _Load:
    n_pairs: int
    counted: float
    solved: float | None
    learned: float
    n_steps: int


def _run(order: Order) -> Generator[Step, None, Finding]:
    with one_thread():
        return (yield from told(_answer(_PLANS[order.size])))


def _answer(plan: _Plan) -> Generator[float, None, Finding]:
    pairs = Pairs(plan.n_pairs, _SEED)
    before = use(small_layer(plan.n_locations, _SEED), pairs.key)
    learned: dict[str, Learned] = {}
    for i, (name, recipe) in enumerate(_RECIPES.items()):
        whole = replace(recipe, n_steps=plan.n_steps)
        sparse = recipe.optimiser == "RowwiseAdagrad"
        layer = small_layer(plan.n_locations, _SEED, sparse)
        training = learn_layer(layer, Pairs(plan.n_pairs, _SEED), whole)
        learned[name] = yield from portion(training, 0.1 * i, 0.1)
    best = learned[next(iter(_RECIPES))]
    peers = yield from portion(_peers(pairs, best, plan), 0.5, 0.2)
    loads = yield from portion(_loads(plan), 0.7, 0.3)
    after = best.utilisation(pairs.key)
    noisy = learned["as the first, keys with noise 0.3"]
    noisy_recalls = [pairs.recall(noisy.output(cue)) for cue in _cues(pairs)]
    recipes = [_recipe_row(name, one, pairs) for name, one in learned.items()]
    settings = {**asdict(plan), "width": WIDTH, "n_heads": 4, "top_k": 32, "batch": 1000}
    return Finding(
        _claims(peers, loads, before, after, best, plan),
        [_draw_learning(learned, loads, plan), _draw_noise(peers, noisy_recalls)],
        [_peer_table(peers, plan), _load_table(loads, plan), _recipe_table(recipes, plan)],
        _conclusion(peers, loads, (before, after), learned, noisy_recalls, plan),
        {**settings, "seeds": [_SEED]},
    )


def _cues(pairs: Pairs) -> list[Tensor]:
    """All keys, and a sample of them at each of the noises above 0."""
    return [pairs.key, *(pairs.noisy(noise)[:SAMPLE] for noise in _NOISES[1:])]


def _peers(pairs: Pairs, best: Learned, plan: _Plan) -> Generator[float, None, list[_Peer]]:
    layer = best.model
    assert isinstance(layer, SDMLayer)  # noqa: S101 made above
    work, n_weights = _cost(layer), sum(weights.numel() for weights in layer.parameters())
    noisy = _cues(pairs)
    recalls = [pairs.recall(best.output(key)) for key in noisy]
    peers = [_Peer(_LAYER, work, n_weights, recalls, best.seconds)]
    best_map = torch.linalg.lstsq(pairs.key, pairs.value).solution
    recalls = [pairs.recall(key @ best_map) for key in noisy]
    peers.append(_Peer(_LINEAR, WIDTH**2, WIDTH**2, recalls))
    n_hidden = round(work / (2 * WIDTH))
    recipe = Recipe(n_steps=5 * plan.n_steps)
    training = learn_perceptron(pairs, n_hidden, _SEED, recipe)
    small = yield from portion(training, 0.0, 0.2)
    recalls = [pairs.recall(small.output(key)) for key in noisy]
    size = 2 * WIDTH * n_hidden
    peers.append(_Peer(_SAME_WORK, size, size + n_hidden + WIDTH, recalls, small.seconds))
    if plan.wide_steps:
        n_hidden = round(n_weights / (2 * WIDTH))
        recipe = Recipe(lr=1e-3, n_steps=plan.wide_steps)
        training = learn_perceptron(pairs, n_hidden, _SEED, recipe)
        wide = yield from portion(training, 0.2, 0.8)
        recalls = [pairs.recall(wide.output(key)) for key in noisy]
        size = 2 * WIDTH * n_hidden
        peers.append(_Peer(_SAME_SIZE, size, size + n_hidden + WIDTH, recalls, wide.seconds))
    table = functional.normalize(pairs.key, dim=1)
    nearest = [(key @ table.T).argmax(1) for key in noisy]
    found = [(at == torch.arange(len(at))).double().mean().item() for at in nearest]
    size = 2 * WIDTH * len(pairs)
    peers.append(_Peer(_ATTENTION, size, size, found))
    return peers


def _cost(layer: SDMLayer) -> int:
    """Multiplications for a token: the query, the scores of both codebooks, the read."""
    decoder = layer.decoder
    n_scores = 2 * round(decoder.n_locations**0.5) * decoder.n_heads
    n_read = decoder.n_heads * (decoder.top_k or 0)
    return int(layer.dim**2 + n_scores * decoder.part_width + n_read * layer.dim)


def _loads(plan: _Plan) -> Generator[float, None, list[_Load]]:
    loads = []
    for i, (n, n_steps) in enumerate(zip(plan.loads, plan.load_steps, strict=True)):
        pairs = Pairs(n, _SEED)
        solved = None
        if n <= plan.solved:
            solved = pairs.recall(least_squares(small_layer(plan.few_locations, _SEED), pairs))
        layer = small_layer(plan.few_locations, _SEED)
        training = learn_layer(layer, pairs, Recipe(n_steps=n_steps))
        learned = yield from portion(training, i / len(plan.loads), 1 / len(plan.loads))
        counted = expected_recall(plan.few_locations, n)
        loads.append(_Load(n, counted, solved, learned.recalls[-1], n_steps))
    return loads


def _claims(
    peers: Sequence[_Peer],
    loads: Sequence[_Load],
    before: Utilisation,
    after: Utilisation,
    best: Learned,
    plan: _Plan,
) -> list[Claim]:
    recall = {peer.name: peer.recalls[0] for peer in peers}
    counted = expected_recall(plan.n_locations, plan.n_pairs)
    linear = expected_recall(WIDTH, plan.n_pairs) * plan.n_pairs
    found = recall[_LINEAR] * plan.n_pairs
    gap = max(abs(load.solved - load.counted) for load in loads if load.solved is not None)
    lead = min(load.learned - load.counted for load in loads)
    betas = _betas(best)
    start = _betas(Learned([], [], 0.0, small_layer(plan.n_locations, _SEED)))
    return [
        Claim(
            f"The layer learns {plan.n_pairs:,} random pairs in {plan.n_steps} steps",
            f"{100 * counted:.1f} % recalled (by the count), at least 99.5 %",
            f"{100 * recall[_LAYER]:.2f} %",
            recall[_LAYER] >= 0.995,
        ),
        Claim(
            f"With {plan.few_locations:,} locations whose addresses do not learn, least squares "
            "recalls as many as the count of the contents says",
            "within 0.02 at every load",
            f"largest difference {gap:.4f}",
            gap <= 0.02,
        ),
        Claim(
            f"Training, which moves the addresses too, comes at least as far {REVISED}",
            "no less than the count less 0.02 at every load",
            f"least lead over the count {lead:+.4f}",
            lead >= -0.02,
        ),
        Claim(
            f"A perceptron of as many multiplications holds few of them {REVISED}",
            "at most 10 % after five times as many steps",
            f"{100 * recall[_SAME_WORK]:.1f} %",
            recall[_SAME_WORK] <= 0.1,
        ),
        Claim(
            "A linear map holds next to nothing, as the count says",
            f"{linear:.1f} of {plan.n_pairs:,} pairs, within 4 standard errors",
            f"{found:.0f}",
            abs(found - linear) <= 4 * linear**0.5,
        ),
        Claim(
            f"Training leaves no location dead, and reads spread more evenly {REVISED}",
            "99 % used, and an effective share no smaller than before",
            f"{100 * after.share_used:.1f} % used, effective share {before.effective_share:.3f} "
            f"before and {after.effective_share:.3f} after",
            after.share_used >= 0.99 and after.effective_share >= before.effective_share,
        ),
        Claim(
            "β rises: sharper reads tell pairs apart better",
            f"every head above its start of {start[0]:.1f}",
            f"{min(betas):.1f} to {max(betas):.1f}",
            min(betas) > start[0],
        ),
    ]


def _betas(learned: Learned) -> list[float]:
    assert isinstance(learned.model, SDMLayer)  # noqa: S101 made above
    beta = learned.model.weigh.beta
    return [] if beta is None else beta.tolist()


def _recipe_row(name: str, learned: Learned, pairs: Pairs) -> tuple[str | float, ...]:
    after = [learned.recalls[i] for i in (0, len(learned.recalls) // 2 - 1, -1)]
    shares = learned.utilisation(pairs.key)
    beta = sum(_betas(learned)) / len(_betas(learned))
    noisy = pairs.recall(learned.output(pairs.noisy(0.3)[:SAMPLE]))
    figures = (*after, noisy, beta, shares.share_used, shares.effective_share)
    return (name, *(round(figure, 4) for figure in figures), round(learned.seconds, 1))


def _conclusion(
    peers: Sequence[_Peer],
    loads: Sequence[_Load],
    shares: tuple[Utilisation, Utilisation],
    learned: dict[str, Learned],
    noisy_recalls: Sequence[float],
    plan: _Plan,
) -> str:
    by_name = {peer.name: peer for peer in peers}
    layer, attention = by_name[_LAYER], by_name[_ATTENTION]
    last, at = loads[-1], _NOISES.index(0.3)
    final = {name: one.recalls[-1] for name, one in learned.items()}
    worst = min(final, key=lambda name: final[name])
    return (
        f"The layer recalls {100 * layer.recalls[0]:.2f} % of {plan.n_pairs:,} random pairs after "
        f"{plan.n_steps} steps, with {attention.multiplications / layer.multiplications:.0f} times "
        "fewer multiplications than attention over the table; a perceptron of as many "
        f"multiplications recalls {100 * by_name[_SAME_WORK].recalls[0]:.1f} %, a linear map "
        f"{100 * by_name[_LINEAR].recalls[0]:.2f} %. With noise of 0.3 on the keys it finds "
        f"{100 * layer.recalls[at]:.0f} %, {100 * noisy_recalls[at]:.0f} % if it was trained with "
        f"that noise, and attention, which looks at every key, {100 * attention.recalls[at]:.0f} "
        f"%. {plan.few_locations:,} locations hold {100 * last.learned:.1f} % of {last.n_pairs:,} "
        f"pairs after {last.n_steps} steps, where the count says {100 * last.counted:.1f} %. "
        f"{100 * shares[0].share_used:.1f} % of the locations are read before training and "
        f"{100 * shares[1].share_used:.1f} % after it. Learning rates decide how fast it goes: "
        f"after {plan.n_steps} steps the slowest recipe ({worst}) recalls {100 * final[worst]:.1f} "
        f"%, the first {100 * next(iter(final.values())):.1f} %."
    )


def _peer_table(peers: Sequence[_Peer], plan: _Plan) -> Table:
    return Table(
        f"{plan.n_pairs:,} random pairs of {WIDTH} components: share recalled, by noise on the key",
        (
            "model",
            "multiplications a token",
            "parameters",
            "training (s)",
            *(f"noise {noise:g}" for noise in _NOISES),
        ),
        [
            (
                peer.name,
                peer.multiplications,
                peer.parameters,
                None if peer.seconds is None else round(peer.seconds, 1),
                *(round(recall, 4) for recall in peer.recalls),
            )
            for peer in peers
        ],
    )


def _load_table(loads: Sequence[_Load], plan: _Plan) -> Table:
    return Table(
        f"Share recalled by {plan.few_locations:,} locations, by number of pairs",
        ("pairs", "by the count", "least squares, addresses as drawn", "trained", "steps"),
        [
            (
                load.n_pairs,
                round(load.counted, 4),
                None if load.solved is None else round(load.solved, 4),
                round(load.learned, 4),
                load.n_steps,
            )
            for load in loads
        ],
    )


def _recipe_table(rows: Sequence[tuple[str | float, ...]], plan: _Plan) -> Table:
    steps = [round(plan.n_steps * share) for share in (0.1, 0.5, 1.0)]
    return Table(
        f"Recipes: AdamW unless said, rates as given, {plan.n_locations:,} locations",
        (
            "recipe",
            *(f"recalled after {n} steps" for n in steps),
            "with noise 0.3",
            "mean β",
            "share used",
            "effective share",
            "training (s)",
        ),
        rows,
    )


def _draw_learning(learned: dict[str, Learned], loads: Sequence[_Load], plan: _Plan) -> Figure:
    canvas, axes = plot(2)
    for name, one in learned.items():
        axes[0].plot([0, *one.steps], [1 / plan.n_pairs, *one.recalls], "o-", label=name)
    axes[0].set(xlabel="steps of 1,000 pairs", ylabel="share recalled")
    axes[0].legend()
    low, high = 1000, 1.2 * max(plan.loads)
    counts = np.geomspace(low, high, 60)
    counted = [expected_recall(plan.few_locations, round(n)) for n in counts]
    axes[1].plot(counts, counted, color="gray", label="by the count")
    solved = [(load.n_pairs, load.solved) for load in loads if load.solved is not None]
    axes[1].plot(
        *zip(*solved, strict=True), "s", color=COLOURS[1], label="least squares, contents only"
    )
    trained = [(load.n_pairs, load.learned) for load in loads]
    axes[1].plot(*zip(*trained, strict=True), "o", color=COLOURS[0], label="trained, addresses too")
    axes[1].set(xlabel=f"pairs in {plan.few_locations:,} locations")
    mark(axes[1], (1000, 3000, 10_000, 30_000))
    axes[1].legend()
    return draw(canvas, "Left: how fast each recipe learns. Right: how much a layer holds.")


def _draw_noise(peers: Sequence[_Peer], noisy_recalls: Sequence[float]) -> Figure:
    canvas, (axis,) = plot()
    for peer in peers:
        axis.plot(_NOISES, peer.recalls, "o-", label=peer.name)
    axis.plot(
        _NOISES, noisy_recalls, "o--", color=COLOURS[0], label="memory layer, trained with noise"
    )
    axis.set(xlabel="noise on the key (times its own spread)", ylabel="share recalled")
    axis.legend()
    return draw(canvas, "Noisy keys: only attention compares the cue with every key.")


EXPERIMENT = Experiment(
    name="pairs",
    question="Does the layer learn a table of random pairs, and how many?",
    method=(
        f"Keys are {WIDTH} Gaussian numbers, values random directions. A memory layer with learned "
        "product keys (4 heads, 32 locations each) is trained by the mean square error; a pair is "
        "recalled where its own value is the nearest of all. Beside it stand a linear map, a "
        "perceptron of as many multiplications (in the full run one of as many parameters too) and "
        "attention over the whole table. Then a small layer gets ever more pairs."
    ),
    prediction=(
        "Least squares with F free numbers for each component returns a share P = F / n of a value "
        "of n, with noise P(1 − P); the chance that the own value is the nearest follows from the "
        "area of a cap. Contents of M locations count F = M, so everything comes back up to n = M "
        "and some of it far beyond; a linear map counts F = 64 and holds nothing. Contents are "
        "touched by few pairs each and need a larger learning rate. Revised after trial runs: "
        "addresses that learn hold more than the count (see the log)."
    ),
    source=(
        "Kanerva (1988) for the memory, Lample et al. 2019 for the layer; the count is that of a "
        "projection on F of n dimensions"
    ),
    run=_run,
)
