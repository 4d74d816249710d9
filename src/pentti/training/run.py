"""A run in a folder: its settings, its corpus and its checkpoints, so that it goes on by itself."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pentti import checks
from pentti.errors import ArgumentError, StoreError
from pentti.files import locked, replacing
from pentti.nn import PenttiConfig, PenttiTransformer
from pentti.training import checkpoint
from pentti.training.config import TrainingConfig
from pentti.training.corpus import Corpus, build
from pentti.training.labels import read_labelled
from pentti.training.processes import Processes
from pentti.training.trainer import Trainer

__all__ = ["Run", "corpus_of", "model_of", "prepare", "trainer"]

_KIND = "run"
_FORMAT = 1
_SETTINGS, _CORPUS, _CHECKPOINTS = "run.json", "corpus", "checkpoints"
_OF_CORPUS = ("sources", "tokenizer", "validation")


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that decides what a run gives.

    Attributes:
        sources: Files, folders and patterns of the documents.
        tokenizer: A ``tokenizer.json``; None for bytes.
        validation: Share of the documents that is kept for validation.
        model: Settings of `PenttiConfig` by name, without the vocabulary. Its `seed` is that of the
            training unless given.
        training: How the model is trained.

    Raises:
        ArgumentError: if a value is of the wrong type or out of range.
    """

    sources: Sequence[str | os.PathLike[str]]
    tokenizer: str | os.PathLike[str] | None = None
    validation: float = 0.1
    model: Mapping[str, Any] = field(default_factory=dict)
    training: TrainingConfig = TrainingConfig()  # noqa: RUF009 frozen

    def __post_init__(self) -> None:
        paths = self.sources
        if isinstance(paths, str) or not isinstance(paths, Sequence) or not paths:
            checks.reject("Run", "sources", "be a list of at least one path", paths)
        object.__setattr__(self, "sources", tuple(_path("sources", one) for one in paths))
        if self.tokenizer is not None:
            object.__setattr__(self, "tokenizer", _path("tokenizer", self.tokenizer))
        share = checks.number("Run", "validation", self.validation, 0.0, 1.0)
        object.__setattr__(self, "validation", share)
        if not isinstance(self.model, Mapping):
            checks.reject("Run", "model", "be settings by name", self.model)
        if not isinstance(self.training, TrainingConfig):
            checks.reject("Run", "training", "be a TrainingConfig", self.training)

    def config(self, vocab_size: int) -> PenttiConfig:
        """The settings of the model.

        Args:
            vocab_size: Of the corpus.

        Returns:
            The settings.

        Raises:
            ArgumentError: if one is unknown or out of range.
        """
        names = sorted({one.name for one in fields(PenttiConfig)} - {"vocab_size"})
        for name in self.model:
            checks.one_of("Run", "model", name, names)
        for name in ("dim", "n_layers", "n_heads"):
            if name not in self.model:
                checks.reject("Run", "model", f"have {name!r}", dict(self.model))
        return PenttiConfig(vocab_size=vocab_size, **{"seed": self.training.seed, **self.model})


def prepare(folder: str | os.PathLike[str], run: Run) -> Generator[float, None, Corpus]:
    """Begin a run, or find it as it was left.

    The run keeps what its documents hold, and goes on with that whatever becomes of them. Until it
    has a checkpoint, other settings begin it anew.

    Args:
        folder: Of the run; made if it is missing.
        run: Its settings.

    Returns:
        A generator of the share that is done, which returns the corpus.

    Raises:
        ArgumentError: if a setting is out of range, or the folder holds a run of other settings.
        StoreError: if the documents cannot be read, the folder cannot be written, another process
            works in it, or what a run with checkpoints needs is gone.
    """
    target, wanted = Path(folder), _as_json(run)
    with locked(target):
        for left in target.glob(".pentti-*"):  # of a process that was killed
            left.unlink(missing_ok=True)
        old = _begun(target)
        trained = checkpoint.newest(target / _CHECKPOINTS) is not None
        if trained:
            _check_same(target, wanted)
        corpus = _kept(target, wanted, old)
        if corpus is None:
            corpus = yield from _built(target, run, old.get("corpus") if trained else None)
        if not trained:
            with replacing(target / _SETTINGS) as draft:
                text = json.dumps({**wanted, "corpus": corpus.digest}, indent=2)
                draft.write_text(text + "\n", encoding="utf-8")
    return corpus


def _built(folder: Path, run: Run, digest: str | None) -> Generator[float, None, Corpus]:
    """The corpus of a run; where it must have a digest, the old one stays until that is so."""
    home = folder / _CORPUS
    place = home if digest is None else folder / f"{_CORPUS}-again"
    corpus = yield from build(
        [str(one) for one in run.sources],
        place,
        tokenizer=run.tokenizer,
        validation=run.validation,
    )
    if digest is None:
        return corpus
    if corpus.digest != digest:
        shutil.rmtree(place, ignore_errors=True)
        raise StoreError(f"cannot go on from {folder}: its documents are not what they were")
    try:
        shutil.rmtree(home, ignore_errors=True)
        place.rename(home)
    except OSError as error:
        raise StoreError(f"cannot write {home}: {error.strerror or error}") from error
    return Corpus(home)


def trainer(
    folder: str | os.PathLike[str],
    run: Run,
    corpus: Corpus,
    processes: Processes | None = None,
    *,
    sharded: bool = False,
    tensorboard: bool = False,
) -> Trainer:
    """The trainer of a run that `prepare` has begun, from its last checkpoint on.

    Args:
        folder: Of the run.
        run: Its settings.
        corpus: From `prepare`.
        processes: This process among all that train it.
        sharded: As for `Trainer`; no part of the run, which may go on without it.
        tensorboard: As for `Trainer`; no part of the run either.

    Returns:
        The trainer.

    Raises:
        ArgumentError: if a setting is out of range.
        StoreError: if the last checkpoint is damaged.
    """
    config = run.config(corpus.encoding.vocab_size)
    try:
        with torch.random.fork_rng([]):
            torch.manual_seed(run.training.seed)
            model = PenttiTransformer.of(config)
    except (MemoryError, OverflowError, RuntimeError) as error:
        first = str(error).partition("\n")[0]
        checks.reject("Run", "model", "fit the memory of this machine", checks.Words(first))
    work = Trainer(model, corpus, run.training, folder, processes, sharded, tensorboard)
    work.check = partial(_check_same, Path(folder), _as_json(run))
    return work


def corpus_of(folder: str | os.PathLike[str]) -> Corpus:
    """The corpus of a run.

    Args:
        folder: Of the run.

    Returns:
        The corpus.

    Raises:
        StoreError: if there is no run in it.
    """
    read_labelled(Path(folder) / _SETTINGS, _KIND, _FORMAT)
    return Corpus(Path(folder) / _CORPUS)


def model_of(folder: str | os.PathLike[str]) -> PenttiTransformer:
    """The model of a run as its last checkpoint has it, ready to be asked.

    Args:
        folder: Of the run.

    Returns:
        The model, on the CPU.

    Raises:
        StoreError: if there is no run in it, or it has no checkpoint yet.
    """
    read_labelled(Path(folder) / _SETTINGS, _KIND, _FORMAT)
    last = checkpoint.newest(Path(folder) / _CHECKPOINTS)
    if last is None:
        raise StoreError(f"cannot read {folder}: the run has no checkpoint yet")
    return PenttiTransformer.from_pretrained(last).eval()


def _as_json(run: Run) -> dict[str, Any]:
    model = run.config(1).as_dict()
    del model["vocab_size"]  # the tokenizer has it
    plain = {
        "pentti": _KIND, "format_version": _FORMAT, "sources": run.sources,
        "tokenizer": run.tokenizer, "validation": run.validation, "model": model,
        "training": run.training.as_dict(),
    }  # fmt: skip
    whole: dict[str, Any] = json.loads(json.dumps(plain))
    return whole


def _begun(folder: Path) -> dict[str, Any]:
    """What a run's settings are; all of them, though an older pentti did not know some."""
    path = folder / _SETTINGS
    if not path.exists():
        return {}
    found = read_labelled(path, _KIND, _FORMAT)
    try:
        run = Run(
            sources=found["sources"], tokenizer=found["tokenizer"],
            validation=found["validation"], model=found["model"],
            training=TrainingConfig.of(found["training"]),
        )  # fmt: skip
        return {**found, **_as_json(run)}
    except (ArgumentError, AttributeError, KeyError, TypeError) as error:
        raise StoreError(f"cannot read {path}: it is damaged, or of another pentti") from error


def _kept(folder: Path, wanted: Mapping[str, Any], old: Mapping[str, Any]) -> Corpus | None:
    """The corpus of a run that was begun with the same documents."""
    same = all(old.get(name) == wanted[name] for name in _OF_CORPUS)
    if not same or not (folder / _CORPUS / "corpus.json").exists():
        return None
    corpus = Corpus(folder / _CORPUS)
    return corpus if corpus.digest == old.get("corpus", corpus.digest) else None


def _path(name: str, given: Any) -> str:
    if not isinstance(given, str | os.PathLike) or not os.fspath(given):
        checks.reject("Run", name, "be a path", given)
    return os.path.normpath(os.fspath(given))


def _check_same(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings than a run has begun with."""
    found = _begun(folder)
    if not found:
        raise StoreError(f"cannot go on from {folder}: its {_SETTINGS} is missing")
    for part in ("model", "training"):
        for name, given in wanted[part].items():
            if found[part][name] != given:
                _refuse(folder, name, found[part][name], given)
    for name in _OF_CORPUS:
        if found[name] != wanted[name]:
            _refuse(folder, name, found[name], wanted[name])


def _refuse(folder: Path, name: str, own: Any, given: Any) -> None:
    expected = f"be {own!r}, as in the run that {folder} holds"
    checks.reject("train", name, expected, given)
