"""Train a model for the language experiments, and keep on disk what was found."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import pentti
from pentti import peaks
from pentti.experiments.finding import Order, portion
from pentti.experiments.language_models import Plan, settings, training
from pentti.files import replacing
from pentti.nn import PenttiConfig, PenttiTransformer
from pentti.training import (
    Corpus,
    Evaluation,
    Processes,
    Stretch,
    Trainer,
    build,
    documents,
    evaluate,
    log,
)
from pentti.training.learning import optimisers

__all__ = ["Cost", "Library", "Trained", "measured", "opened", "place", "rate_of", "trained"]

_SHARE_TRAINING = 0.9  # of the work of one model


@dataclass(frozen=True)
class Library:
    """What all models of an experiment share.

    Attributes:
        corpus: The standard library's source, byte by byte.
        tests: Validation documents at least as long as the context, which test the models; none
            where the end of the curve is enough.
        folder: Where what was found is kept.
        device: Where models are trained.
    """

    corpus: Corpus
    tests: Sequence[int]
    folder: Path
    device: torch.device


@dataclass(frozen=True)
class Trained:
    """What is kept of a trained model.

    Attributes:
        lr: Its learning rate.
        seed: Of its weights and of the order of the documents.
        n_steps: Steps it was trained for.
        n_dense: Parameters that every token uses.
        n_contents: Parameters in the contents of learned memories.
        curve: Tokens and validation bits per byte, as training went.
        bits: Bits per byte of the tests; without any, the last of the curve.
        documents: The same of each test alone.
        stretches: The same by place in the document.
        meter: Hard locations that a token activated in a layer with a memory, at the end.
        version: Of pentti.
    """

    lr: float
    seed: int
    n_steps: int
    n_dense: int
    n_contents: int
    curve: list[tuple[int, float]]
    bits: float
    documents: list[float]
    stretches: list[Stretch]
    meter: float
    version: str


@dataclass(frozen=True)
class Cost:
    """What a training step takes.

    Attributes:
        seconds: For a token: the median of steps that took turns with the other models'.
        peak: Bytes above the parameters, gradients and averages, at the peak of a step; None where
            the system does not say.
    """

    seconds: float
    peak: int | None


@contextlib.contextmanager
def place(order: Order) -> Iterator[Path]:
    """Where an experiment keeps what it finds: the folder that was ordered, or one that goes.

    Args:
        order: What was asked for.

    Yields:
        The folder.
    """
    if order.folder is not None:
        order.folder.mkdir(parents=True, exist_ok=True)
        yield order.folder
    else:
        with TemporaryDirectory() as folder:
            yield Path(folder)


def opened(plan: Plan, folder: Path, device: str) -> Generator[float, None, Library]:
    """The documents, read once and kept.

    Args:
        plan: Sizes.
        folder: Where to keep them.
        device: Where models are trained.

    Returns:
        A generator of the share that is done, which returns them.
    """
    if (folder / "corpus" / "corpus.json").exists():
        corpus = Corpus(folder / "corpus")
    else:
        corpus = yield from build([documents.standard_library()], folder / "corpus")
    long = [d for d in corpus.validation if corpus.n_ids(d) > plan.context]
    return Library(corpus, long[: plan.n_documents], folder, torch.device(device))


def trained(
    name: str,
    own: dict[str, Any],
    plan: Plan,
    lr: float,
    n_steps: int,
    seed: int,
    library: Library,
    change: Callable[[PenttiTransformer], None] | None = None,
) -> Generator[float, None, Trained]:
    """Train a model and test it, unless an earlier run has done so with the same settings.

    Args:
        name: What its folder begins with.
        own: Settings in which it differs from the others.
        plan: Sizes.
        lr: Learning rate.
        n_steps: Steps.
        seed: Of its weights and of the order of the documents.
        library: Documents, and where to keep what is found.
        change: Changes the new model in what no setting says; told by the name.

    Returns:
        A generator of the share that is done, which returns what was found. Stopped at any point,
        it goes on from the last checkpoint.
    """
    config = training(plan, lr, n_steps, seed)
    model_settings = settings(own, plan)
    wanted = {
        "model": model_settings, "training": config.as_dict(), "tests": list(library.tests),
        "corpus": [len(library.corpus), sum(library.corpus.n_bytes)],
    }  # fmt: skip
    text = json.dumps(wanted, sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    folder = library.folder / f"{name.replace(' ', '')}-{seed}-{digest}"
    result = folder / "result.json"
    if result.exists():
        return _read(result)
    torch.manual_seed(seed)
    model = PenttiTransformer.of(PenttiConfig.from_dict(model_settings))
    if change is not None:
        change(model)
    work = Trainer(model, library.corpus, config, folder, Processes(0, 1, library.device))
    with contextlib.closing(work.run()) as steps:
        for now in steps:
            yield _SHARE_TRAINING * now.step / n_steps
    rows = log.read(folder / "log.csv")
    told = Evaluation(_curve(rows)[-1][1], [], [])
    if library.tests:
        most = plan.context
        test = evaluate(model, library.corpus, library.tests, most_tokens=most, part=most)
        told = yield from portion(test, _SHARE_TRAINING, 1 - _SHARE_TRAINING)
    n = model.n_parameters()
    found = Trained(
        lr, seed, n_steps, n.dense, n.contents, _curve(rows), told.bits_per_byte, told.documents,
        told.stretches, float(rows[-1]["meter"]), pentti.__version__,
    )  # fmt: skip
    with replacing(result) as draft:
        draft.write_text(json.dumps({**wanted, "found": asdict(found)}), encoding="utf-8")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return found


def rate_of(
    name: str, own: dict[str, Any], plan: Plan, library: Library
) -> Generator[float, None, tuple[float, dict[float, float]]]:
    """The learning rate that does best in short trials.

    Args:
        name: What the trials' folders begin with.
        own: Settings in which the model differs from the others.
        plan: Sizes.
        library: Documents, and where to keep what is found.

    Returns:
        A generator of the share that is done, which returns the rate, and bits per byte by rate.
    """
    if len(plan.rates) == 1:
        return plan.rates[0], {}
    tried: dict[float, float] = {}
    untested = replace(library, tests=())
    for i, lr in enumerate(plan.rates):
        trial = trained(f"trial-{name}", own, plan, lr, plan.tune_steps, 0, untested)
        one = yield from portion(trial, i / len(plan.rates), 1 / len(plan.rates))
        tried[lr] = one.bits
    return min(tried, key=lambda lr: tried[lr]), tried


def measured(
    models: Mapping[str, dict[str, Any]], plan: Plan, library: Library
) -> Generator[float, None, dict[str, Cost]]:
    """What a training step of one whole row takes, of models that take turns.

    Args:
        models: Settings by name.
        plan: Sizes.
        library: Where to keep what is found, and the device.

    Returns:
        A generator of the share that is done, which returns the costs by name.
    """
    kept = library.folder / "costs.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        if list(found) == list(models):
            return {name: Cost(**cost) for name, cost in found.items()}
    steps = {name: _Step(settings(own, plan), plan, library.device) for name, own in models.items()}
    peak = {name: step.peak() for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(plan.n_timings):
        for number, (name, step) in enumerate(steps.items()):
            times[name].append(step.seconds())
            yield (turn + (number + 1) / len(steps)) / plan.n_timings
    costs = {
        name: Cost(statistics.median(times[name]) / plan.context, peak[name]) for name in models
    }
    with replacing(kept) as draft:
        plain = {name: asdict(cost) for name, cost in costs.items()}
        draft.write_text(json.dumps(plain), encoding="utf-8")
    return costs


class _Step:
    """A training step of a model on random tokens."""

    def __init__(self, given: dict[str, Any], plan: Plan, device: torch.device) -> None:
        self.device, self.half = device, plan.precision == "bfloat16"
        self.model = PenttiTransformer.of(PenttiConfig.from_dict(given)).to(device)
        self.optimisers = optimisers(self.model, training(plan, 1e-4, 1, 0))
        drawn = torch.Generator().manual_seed(1)
        ids = torch.randint(256, (1, plan.context + 1), generator=drawn)
        self.ids = ids.to(device)
        self.run()  # the averages are there, and what is compiled

    def run(self) -> None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            loss = self.model.loss(self.ids)
        loss.backward()
        for optimiser in self.optimisers.values():
            optimiser.step()
            optimiser.zero_grad()

    def seconds(self) -> float:
        self._wait()
        start = time.perf_counter()
        self.run()
        self._wait()
        return time.perf_counter() - start

    def peak(self) -> int | None:
        try:
            return peaks.extra_bytes(self.run, self.device.type)
        except OSError:
            return None

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _curve(rows: Sequence[Mapping[str, str]]) -> list[tuple[int, float]]:
    """Tokens and validation bits per byte, of the rows of a log."""
    told = "validation_bits_per_byte"
    return [(int(row["tokens"]), float(row[told])) for row in rows if row[told]]


def _read(path: Path) -> Trained:
    found = json.loads(path.read_text(encoding="utf-8"))["found"]
    curve = [(tokens, bits) for tokens, bits in found["curve"]]
    stretches = [Stretch(*each) for each in found["stretches"]]
    return Trained(**{**found, "curve": curve, "stretches": stretches})
