"""A table of random pairs, ways to learn it, and how much of it a count of parameters lets in."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from pentti import theory
from pentti.nn import RowwiseAdagrad, SDMLayer, Utilisation, parameter_groups

__all__ = [
    "Learned",
    "Pairs",
    "Recipe",
    "expected_recall",
    "learn_layer",
    "learn_perceptron",
    "least_squares",
    "one_thread",
    "seeded",
    "small_layer",
]

WIDTH = 64
"""Components of a key and of a value."""

SAMPLE = 2000
"""Pairs that are asked for on the way; at the end all are."""

_COSINES = np.linspace(-1, 1, 4001)
_CAPS = np.array([theory.cap_probability(WIDTH, cosine) for cosine in _COSINES])


class Pairs:
    """Random pairs: Gaussian keys, and values that are random directions of length √D.

    Args:
        n: How many.
        seed: Of keys, values, noise and the order in which they are learned.
    """

    def __init__(self, n: int, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.key, value = (torch.randn((n, WIDTH), generator=self.generator) for _ in range(2))
        self.value = WIDTH**0.5 * functional.normalize(value, dim=1)

    def __len__(self) -> int:
        return len(self.key)

    def noisy(self, noise: float) -> Tensor:
        """The keys with Gaussian noise.

        Args:
            noise: Its spread, in units of the keys' own.

        Returns:
            As many keys.
        """
        return self.key + noise * torch.randn(self.key.shape, generator=self.generator)

    def batches(self, n_steps: int, size: int) -> Iterator[Tensor]:
        """Indices for each step: the pairs in random order, over and over.

        Args:
            n_steps: How many.
            size: Pairs in each; the last of a round may have fewer.

        Yields:
            Indices.
        """
        n_done = 0
        while True:
            for chosen in torch.randperm(len(self), generator=self.generator).split(size):
                if n_done == n_steps:
                    return
                n_done += 1
                yield chosen

    def recall(self, output: Tensor) -> float:
        """How many are recalled.

        Args:
            output: What came for the first pairs, or for all.

        Returns:
            Share of these whose nearest value, of all, is their own.
        """
        itself = torch.arange(len(output)).split(2000)
        found = [(output[rows] @ self.value.T).argmax(1) == rows for rows in itself]
        return torch.cat(found).double().mean().item()


@dataclass(frozen=True)
class Recipe:
    """How a layer is trained.

    Attributes:
        optimiser: "AdamW" (fused) or "RowwiseAdagrad" for the contents; AdamW for the rest.
        lr: Learning rate of all but the contents.
        memory_lr: Learning rate of the contents.
        n_steps: Steps,
        batch: each with so many pairs.
        noise: Noise on the keys in training, in units of their own spread.
    """

    optimiser: str = "AdamW"
    lr: float = 1e-2
    memory_lr: float = 1e-1
    n_steps: int = 200
    batch: int = 1000
    noise: float = 0.0


@dataclass(frozen=True)
class Learned:
    """What training came to: steps, recall after so many, seconds, and what learned."""

    steps: list[int]
    recalls: list[float]
    seconds: float
    model: nn.Module

    def output(self, key: Tensor) -> Tensor:
        """The values that the model gives.

        Args:
            key: Keys.

        Returns:
            One value for each.
        """
        with torch.no_grad():
            return torch.cat([_output(self.model, block) for block in key.split(2000)])

    def utilisation(self, key: Tensor) -> Utilisation:
        """Which locations keys read, where the model is a layer.

        Args:
            key: Keys.

        Returns:
            The utilisation.
        """
        assert isinstance(self.model, SDMLayer)  # noqa: S101 the caller made it
        return use(self.model, key)


@contextmanager
def seeded(seed: int) -> Generator[None, None, None]:
    """Modules that are made within draw from this seed; the caller's stream stays as it was.

    Args:
        seed: Of torch's own stream on the CPU.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def one_thread() -> Generator[None, None, None]:
    """Small steps on one thread of torch: no slower than on two, and steadier beside other work."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def small_layer(n_locations: int, seed: int, sparse_gradients: bool = False) -> SDMLayer:
    """A layer of `WIDTH` with learned product keys: 4 heads, 32 locations each.

    Args:
        n_locations: Hard locations, a square.
        seed: Of what the layer begins with.
        sparse_gradients: As in `SDMLayer`.

    Returns:
        The layer.
    """
    with seeded(seed):
        return SDMLayer(WIDTH, n_locations=n_locations, sparse_gradients=sparse_gradients)


def use(layer: SDMLayer, key: Tensor) -> Utilisation:
    """Which locations keys read.

    Args:
        layer: The layer, whose count begins anew.
        key: Keys.

    Returns:
        The utilisation.
    """
    layer.reset_utilisation()
    with torch.no_grad():
        layer.train()(key)
    return layer.utilisation()


def learn_layer(
    layer: SDMLayer, pairs: Pairs, recipe: Recipe, n_looks: int = 10
) -> Generator[float, None, Learned]:
    """Train a layer by the mean square error.

    Args:
        layer: What is to learn.
        pairs: What it is to learn.
        recipe: How.
        n_looks: How often recall is measured on the way.

    Returns:
        A generator of the share that is done, which returns the outcome.
    """
    rest, contents = parameter_groups(layer, lr=recipe.lr, memory_lr=recipe.memory_lr)
    optimisers: list[torch.optim.Optimizer]
    if recipe.optimiser == "RowwiseAdagrad":
        by_row = RowwiseAdagrad(contents["params"], lr=recipe.memory_lr)
        optimisers = [torch.optim.AdamW([rest], fused=True), by_row]
    else:
        optimisers = [torch.optim.AdamW([rest, contents], fused=True)]
    return (yield from _learn(layer, optimisers, pairs, recipe, n_looks))


def learn_perceptron(
    pairs: Pairs, n_hidden: int, seed: int, recipe: Recipe, n_looks: int = 10
) -> Generator[float, None, Learned]:
    """Train a perceptron of two layers by the mean square error.

    Args:
        pairs: What to learn.
        n_hidden: Hidden units.
        seed: Of the perceptron.
        recipe: How; `lr` is its learning rate.
        n_looks: How often recall is measured on the way.

    Returns:
        A generator of the share that is done, which returns the outcome.
    """
    with seeded(seed):
        model = nn.Sequential(nn.Linear(WIDTH, n_hidden), nn.ReLU(), nn.Linear(n_hidden, WIDTH))
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=0.0, fused=True)
    return (yield from _learn(model, [optimiser], pairs, recipe, n_looks))


def least_squares(layer: SDMLayer, pairs: Pairs) -> Tensor:
    """The outputs if only the contents learn, and learn perfectly.

    Args:
        layer: Its addresses and β are taken as they are.
        pairs: What to learn.

    Returns:
        The best outputs, shape (n, D).
    """
    blocks = pairs.key.split(2000)
    square = torch.zeros(2 * (layer.decoder.n_locations,))
    with torch.no_grad():
        right = torch.zeros(len(square), WIDTH)
        for key, value in zip(blocks, pairs.value.split(2000), strict=True):
            weights = _weights(layer, key)
            square.addmm_(weights.T, weights)
            right.addmm_(weights.T, value)
        square.diagonal().add_(1e-6 * square.diagonal().mean())  # where pairs are few
        contents = torch.cholesky_solve(right, torch.linalg.cholesky(square))
        return torch.cat([_weights(layer, key) @ contents for key in blocks])


def expected_recall(n_free: float, n_pairs: int) -> float:
    """The share of random pairs that least squares with so many free numbers recalls.

    With F numbers for each of the D components of a value, a fit returns a share P = F / n of each
    value and adds noise of variance P(1 − P) to each component. So the cosine of the output with
    its own value is known, and the other values, random directions, stay below it with the chance
    that a cap of that size holds none of them. A small share of each of them is in the output too,
    which makes their products wider by 1 + D(1 − P) / n in variance.

    Args:
        n_free: Free numbers for each component of a value, F.
        n_pairs: Pairs, n.

    Returns:
        The chance that the own value is the nearest.
    """
    share = min(1.0, n_free / n_pairs)
    noise = np.sqrt(share * (1 - share))
    normal = np.linspace(-7, 7, 281)
    weight = stats.norm.pdf(normal) / stats.norm.pdf(normal).sum()
    along = share * np.sqrt(WIDTH) + noise * normal[:, None]
    across = noise * np.sqrt(stats.chi2.ppf((np.arange(20) + 0.5) / 20, WIDTH - 1))
    cosines = (along / np.hypot(along, across)).clip(-1, 1)
    wider = np.sqrt(1 + WIDTH * (1 - share) / n_pairs)
    caps = np.interp(cosines / wider, _COSINES, _CAPS)
    with np.errstate(divide="ignore"):
        none_nearer = np.exp((n_pairs - 1) * np.log1p(-caps)).mean(1)
    return min(1.0, float(weight @ none_nearer))


def _learn(
    model: nn.Module,
    optimisers: list[torch.optim.Optimizer],
    pairs: Pairs,
    recipe: Recipe,
    n_looks: int,
) -> Generator[float, None, Learned]:
    looks = sorted({round(recipe.n_steps * (i + 1) / n_looks) for i in range(n_looks)})
    learned, seconds = Learned([], [], 0.0, model), 0.0
    start = time.perf_counter()
    for step, chosen in enumerate(pairs.batches(recipe.n_steps, recipe.batch), 1):
        key = pairs.key[chosen]
        if recipe.noise:
            key = key + recipe.noise * torch.randn(key.shape, generator=pairs.generator)
        for optimiser in optimisers:
            optimiser.zero_grad()
        (_output(model, key) - pairs.value[chosen]).square().mean().backward()
        for optimiser in optimisers:
            optimiser.step()
        if step in looks:
            seconds += time.perf_counter() - start
            learned.steps.append(step)
            seen = pairs.key if step == recipe.n_steps else pairs.key[:SAMPLE]
            learned.recalls.append(pairs.recall(learned.output(seen)))
            yield step / recipe.n_steps
            start = time.perf_counter()
    return Learned(learned.steps, learned.recalls, seconds, model)


def _output(model: nn.Module, key: Tensor) -> Tensor:
    output: Tensor = model(key).output if isinstance(model, SDMLayer) else model(key)
    return output


def _weights(layer: SDMLayer, key: Tensor) -> Tensor:
    """The weights of all locations, shape (B, M)."""
    locations, similarity, active = layer.decoder.nearest(layer.query(key))
    weights, _ = layer.weigh(similarity, active)
    dense = torch.zeros(len(key), layer.decoder.n_locations)
    return dense.scatter_add_(1, locations.flatten(1), weights.flatten(1))
