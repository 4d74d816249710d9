"""A finished section on disk: the finding as JSON, its tables as CSV, its figures as SVG."""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import pentti
from pentti.errors import StoreError
from pentti.experiments.finding import Claim, Experiment, Figure, Finding, Size, Table
from pentti.files import replacing

__all__ = ["Section", "fingerprint", "load", "make", "save"]


@dataclasses.dataclass(frozen=True)
class Section:
    """An experiment with its finding.

    Attributes:
        experiment: The question.
        finding: The answer.
        size: "quick" or "full".
        seconds: How long the run took, without what an earlier one had kept.
        device: Where models were trained, in experiments that train large ones.
    """

    experiment: Experiment
    finding: Finding
    size: Size
    seconds: float
    device: str = "cpu"


@functools.cache  # the code that runs is the code that was there at the start
def fingerprint() -> str:
    """A text that changes with any line of pentti's code, so that no old result passes for new.

    Returns:
        Hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    root = Path(pentti.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def make(folder: Path) -> None:
    """Make the folder for results, before any work is done for it.

    Args:
        folder: Where results go.

    Raises:
        StoreError: if it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise StoreError(f"cannot write {folder}: Permission denied")


def save(folder: Path, section: Section) -> None:
    """Write a section, each file whole or not at all; the JSON last.

    Args:
        folder: Where results go.
        section: What to write.

    Raises:
        StoreError: if it cannot be written.
    """
    name, size = section.experiment.name, section.size
    for i, table in enumerate(section.finding.tables, 1):
        with (
            replacing(folder / f"{name}.{size}-{i}.csv") as draft,
            draft.open("w", newline="") as file,
        ):
            csv.writer(file).writerows([table.columns, *table.rows])
    for i, figure in enumerate(section.finding.figures, 1):
        with replacing(folder / f"{name}.{size}-{i}.svg") as draft:
            draft.write_text(figure.svg, encoding="utf-8")
    record = {
        "experiment": name,
        "question": section.experiment.question,
        "prediction": section.experiment.prediction,
        "size": size,
        "device": section.device,
        "seconds": round(section.seconds, 2),
        "fingerprint": fingerprint(),
        **dataclasses.asdict(section.finding),
    }
    with replacing(_path(folder, name, size)) as draft:
        text = json.dumps(_plain(record), indent=1, ensure_ascii=False)
        draft.write_text(text, encoding="utf-8")


def load(folder: Path, experiment: Experiment, size: Size, device: str) -> Section | None:
    """A section that an earlier run of this very code has finished.

    Args:
        folder: Where results are.
        experiment: The question.
        size: "quick" or "full".
        device: Where models were trained.

    Returns:
        The section, or None if there is none, it is damaged, of another device, or the code has
        changed since.
    """
    try:
        record = json.loads(_path(folder, experiment.name, size).read_text(encoding="utf-8"))
        if (record["fingerprint"], record["device"]) != (fingerprint(), device):
            return None
        finding = Finding(
            claims=[Claim(**claim) for claim in record["claims"]],
            figures=[Figure(**figure) for figure in record["figures"]],
            tables=[Table(**table) for table in record["tables"]],
            conclusion=record["conclusion"],
            settings=record["settings"],
        )
        return Section(experiment, finding, size, record["seconds"], device)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _path(folder: Path, name: str, size: Size) -> Path:
    return folder / f"{name}.{size}.json"


def _plain(value: Any) -> Any:
    """The same made of what JSON holds; NaN, which it does not, becomes null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # a NumPy number
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
