"""Train a model for the language experiments, and keep on disk what was found."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
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
    Batch,
    Batches,
    Corpus,
    Evaluation,
    Processes,
    Stretch,
    Trainer,
    build,
    copied,
    documents,
    evaluate,
    log,
)
from pentti.training.learning import Learner, optimisers

__all__ = ["Cost", "Library", "Trained", "measured", "opened", "place", "rate_of", "trained"]

_SHARE_TRAINING = 0.9  # of the work of one model
_COPIED = 0.2  # a document that shares as much with training documents is a near copy
_REPEATS = 2  # of each timing; the faster one counts
_SEEDS = 1000  # seeds of the drawn parts of a model, which each layer counts on from


@dataclass(frozen=True)
class Library:
    """What all models of an experiment share.

    Attributes:
        corpus: The standard library's source, byte by byte; for validation it has what the tests
            leave.
        tests: Documents longer than the context, which test the models and decide nothing; none
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
    """What training takes.

    Attributes:
        seconds: For a token of the training's own batches, on which all models took turns.
        peak: Bytes that a step with one row of the whole context takes at its peak, beyond what is
            there between two steps; None where the system does not say.
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

    Those that are not trained on, and are no near copy of one that is, are shared out: the first
    long ones in the order that their names draw are tests, but for those of which the tested part
    is a near copy; all others validate.

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
        build_it = build([documents.standard_library()], folder / "corpus")
        corpus = yield from portion(build_it, 0.0, 0.3)
    compare = copied(corpus, corpus.validation)
    shares = yield from portion(compare, 0.3, 0.4)
    new = [d for d, share in zip(corpus.validation, shares, strict=True) if share < _COPIED]
    long = [d for d in new if corpus.n_ids(d) > plan.context][: plan.n_documents]
    compare = copied(corpus, long, most_tokens=plan.context)
    shares = yield from portion(compare, 0.7, 0.3)
    tests = [d for d, share in zip(long, shares, strict=True) if share < _COPIED]
    corpus.validation = [d for d in new if d not in long]
    return Library(corpus, tests, folder, torch.device(device))


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
    config, corpus = training(plan, lr, n_steps, seed), library.corpus
    model_settings = {**settings(own, plan), "seed": _SEEDS * seed}
    wanted = {
        "model": model_settings, "training": config.as_dict(),
        "documents": [[corpus.names[d], corpus.n_bytes[d]] for d in corpus.train],
        "validation": [corpus.names[d] for d in corpus.validation],
    }  # fmt: skip
    text = json.dumps(wanted, sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    folder = library.folder / f"{name.replace(' ', '')}-{seed}-{digest}"
    result, tests = folder / "result.json", [corpus.names[d] for d in library.tests]
    if result.exists():
        kept = json.loads(result.read_text(encoding="utf-8"))
        if kept["tests"] == tests:
            return _read(kept["found"])
    torch.manual_seed(seed)
    model = PenttiTransformer.of(PenttiConfig.from_dict(model_settings))
    if change is not None:
        change(model)
    work = Trainer(model, corpus, config, folder, Processes(0, 1, library.device))
    with contextlib.closing(work.run()) as steps:
        for now in steps:
            yield _SHARE_TRAINING * now.step / n_steps
    rows = log.read(folder / "log.csv")
    told = Evaluation(_curve(rows)[-1][1], [], [])
    if tests:
        most = plan.context
        test = evaluate(model, corpus, library.tests, most_tokens=most, part=most)
        told = yield from portion(test, _SHARE_TRAINING, 1 - _SHARE_TRAINING)
    n = model.n_parameters()
    found = Trained(
        lr, seed, n_steps, n.dense, n.contents, _curve(rows), told.bits_per_byte, told.documents,
        told.stretches, float(rows[-1]["meter"]), pentti.__version__,
    )  # fmt: skip
    with replacing(result) as draft:
        plain = {"model": model_settings, "training": config.as_dict(), "tests": tests}
        draft.write_text(json.dumps({**plain, "found": asdict(found)}), encoding="utf-8")
    if not tests:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # a trial's
    return found


def rate_of(
    name: str, own: dict[str, Any], plan: Plan, library: Library
) -> Generator[float, None, tuple[float, dict[float, float]]]:
    """The learning rate that does best in short trials.

    Those in the middle are tried first, then what lies beside the best, until both its neighbours
    do worse or there are none.

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
    rates = sorted(plan.rates)
    untested = replace(library, tests=())
    wanted = rates[(len(rates) - 1) // 2 : len(rates) // 2 + 1]
    while wanted:
        lr = wanted[0]
        trial = trained(f"trial-{name}", own, plan, lr, plan.tune_steps, 0, untested)
        one = yield from portion(trial, len(tried) / len(rates), 1 / len(rates))
        tried[lr] = one.bits
        best = rates.index(min(tried, key=lambda lr: tried[lr]))
        beside = rates[max(best - 1, 0) : best + 2]
        wanted = [lr for lr in wanted[1:] or beside if lr not in tried]
    return rates[best], dict(sorted(tried.items()))


def measured(
    models: Mapping[str, dict[str, Any]], plan: Plan, library: Library
) -> Generator[float, None, dict[str, Cost]]:
    """What training takes, of models that take turns.

    Args:
        models: Settings by name.
        plan: Sizes.
        library: Documents, the device, and where to keep what is found.

    Returns:
        A generator of the share that is done, which returns the costs by name.
    """
    kept = library.folder / "costs.json"
    measured_of = {
        "models": list(models), "plan": json.loads(json.dumps(asdict(plan))),
        "device": str(library.device), "threads": torch.get_num_threads(),
        "version": pentti.__version__,
    }  # fmt: skip
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        if found["of"] == measured_of:
            return {name: Cost(**cost) for name, cost in found["costs"].items()}
    steps = {name: _Step(settings(own, plan), plan, library.device) for name, own in models.items()}
    drawn = Batches(library.corpus, plan.context, plan.batch_tokens, 0)
    batches = [Batch.of(library.corpus, drawn.pieces(i)) for i in range(plan.n_timings)]
    times = dict.fromkeys(models, 0.0)
    for turn, batch in enumerate(batches):
        for number, (name, step) in enumerate(steps.items()):
            times[name] += min(step.seconds(batch) for _ in range(_REPEATS))
            yield (turn + (number + 1) / len(steps)) / plan.n_timings
    n_tokens = sum(batch.n_targets for batch in batches)
    costs = {name: Cost(times[name] / n_tokens, step.peak()) for name, step in steps.items()}
    with replacing(kept) as draft:
        plain = {name: asdict(cost) for name, cost in costs.items()}
        draft.write_text(json.dumps({"of": measured_of, "costs": plain}), encoding="utf-8")
    return costs


class _Step:
    """Training steps of a model, as `Trainer` makes them."""

    def __init__(self, given: dict[str, Any], plan: Plan, device: torch.device) -> None:
        self.device, self.half = device, plan.precision == "bfloat16"
        model = PenttiTransformer.of(PenttiConfig.from_dict(given)).to(device)
        self.learner = Learner(model)
        self.optimisers = optimisers(model, training(plan, 1e-4, 1, 0))
        drawn = torch.Generator().manual_seed(1)
        ids = torch.randint(256, (1, plan.context + 1), generator=drawn)
        self.row = Batch(ids[:, :-1], ids[:, 1:], torch.ones_like(ids[:, 1:], dtype=torch.bool))
        self.run(self.row)  # the averages are there, and what is compiled

    def run(self, batch: Batch) -> None:
        ids, targets, mask = (x.to(self.device) for x in batch)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            loss, _, _ = self.learner(ids, targets, None if batch.mask.all() else mask)
        (loss / batch.n_targets).backward()
        for optimiser in self.optimisers.values():
            optimiser.step()
            optimiser.zero_grad()

    def seconds(self, batch: Batch) -> float:
        self._wait()
        start = time.perf_counter()
        self.run(batch)
        self._wait()
        return time.perf_counter() - start

    def peak(self) -> int | None:
        try:
            return peaks.extra_bytes(partial(self.run, self.row), self.device.type)
        except OSError:
            return None

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _curve(rows: Sequence[Mapping[str, str]]) -> list[tuple[int, float]]:
    """Tokens and validation bits per byte, of the rows of a log."""
    told = "validation_bits_per_byte"
    return [(int(row["tokens"]), float(row[told])) for row in rows if row[told]]


def _read(found: Mapping[str, Any]) -> Trained:
    curve = [(tokens, bits) for tokens, bits in found["curve"]]
    stretches = [Stretch(*each) for each in found["stretches"]]
    return Trained(**{**found, "curve": curve, "stretches": stretches})
