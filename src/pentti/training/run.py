"""A run in a folder: its settings, its corpus and its checkpoints, so that it goes on by itself."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from pentti import checks
from pentti.errors import StoreError
from pentti.files import replacing
from pentti.nn import PenttiConfig, PenttiTransformer
from pentti.training import checkpoint
from pentti.training.config import TrainingConfig
from pentti.training.corpus import Corpus, build
from pentti.training.encoding import Encoding
from pentti.training.labels import read_labelled
from pentti.training.processes import Processes
from pentti.training.trainer import Trainer

__all__ = ["Run", "corpus_of", "model_of", "prepare", "trainer"]

_KIND = "run"
_FORMAT = 1
_SETTINGS, _CORPUS = "run.json", "corpus"


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that decides what a run gives.

    Attributes:
        sources: Files, folders and patterns of the documents.
        tokenizer: A ``tokenizer.json``; None for bytes.
        validation: Share of the documents that is kept for validation.
        model: Settings of `PenttiConfig` by name, without the vocabulary.
        training: How the model is trained.
    """

    sources: tuple[str, ...]
    tokenizer: str | None = None
    validation: float = 0.1
    model: Mapping[str, Any] = field(default_factory=dict)
    training: TrainingConfig = TrainingConfig()  # noqa: RUF009 frozen

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
        return PenttiConfig(vocab_size=vocab_size, **self.model)


def prepare(folder: str | os.PathLike[str], run: Run) -> Generator[float, None, Corpus]:
    """Begin a run, or find it as it was left.

    Args:
        folder: Of the run; made if it is missing.
        run: Its settings.

    Returns:
        A generator of the share that is done, which returns the corpus.

    Raises:
        ArgumentError: if a setting is out of range, or the folder holds a run of other settings.
        StoreError: if the documents cannot be read, or the folder cannot be written.
    """
    target, wanted = Path(folder), _as_json(run)
    if (target / _SETTINGS).exists():
        _check_same(target, wanted, read_labelled(target / _SETTINGS, _KIND, _FORMAT))
        if (target / _CORPUS / "corpus.json").exists():
            return Corpus(target / _CORPUS)
    run.config(Encoding(run.tokenizer).vocab_size)  # refused before anything is written
    corpus = yield from build(
        run.sources, target / _CORPUS, tokenizer=run.tokenizer, validation=run.validation
    )
    with replacing(target / _SETTINGS) as draft:
        draft.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
    return corpus


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
    torch.manual_seed(run.training.seed)
    model = PenttiTransformer.of(run.config(corpus.encoding.vocab_size))
    return Trainer(model, corpus, run.training, folder, processes, sharded, tensorboard)


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
    last = checkpoint.newest(Path(folder) / "checkpoints")
    if last is None:
        raise StoreError(f"cannot read {folder}: the run has no checkpoint yet")
    return PenttiTransformer.from_pretrained(last).eval()


def _as_json(run: Run) -> dict[str, Any]:
    plain = asdict(run) | {"training": run.training.as_dict()}
    whole: dict[str, Any] = json.loads(json.dumps(plain))
    return {"pentti": _KIND, "format_version": _FORMAT, **whole}


def _check_same(folder: Path, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings than a run has begun with."""
    for part in ("model", "training"):
        names = sorted({*wanted[part], *found.get(part, {})})
        for name in names:
            own, given = found.get(part, {}).get(name), wanted[part].get(name)
            if own != given:
                _refuse(folder, name, own, given)
    for name in ("sources", "tokenizer", "validation"):
        if found.get(name) != wanted[name]:
            _refuse(folder, name, found.get(name), wanted[name])


def _refuse(folder: Path, name: str, own: Any, given: Any) -> None:
    expected = f"be {own!r}, as in the run that {folder} holds"
    checks.reject("train", name, expected, given)
