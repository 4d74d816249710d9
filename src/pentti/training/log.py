"""The learning curve on disk, a row for each step, that a resumed run goes on with."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pentti.errors import ArgumentError, SettingWarning, StoreError
from pentti.files import replacing, sync

__all__ = ["COLUMNS", "Log"]

COLUMNS = (
    "step", "epoch", "tokens", "loss", "bits_per_byte", "gradient", "lr", "tokens_per_s",
    "seconds", "meter", "validation_bits_per_byte",
)  # fmt: skip
"""What a row holds; a cell is empty where nothing was measured."""


class Log:
    """Rows of a CSV file, each on the disk as soon as it is written; for TensorBoard too.

    Args:
        path: The file.
        step: Rows of later steps are of a run that was stopped after its last checkpoint; they go.
        tensorboard: A folder for TensorBoard's own files; None for none.

    Raises:
        ArgumentError: if TensorBoard is asked for and not installed.
        StoreError: if it cannot be read or written, or is no such file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        step: int,
        tensorboard: str | os.PathLike[str] | None = None,
    ) -> None:
        self.path = Path(path)
        self._board = None if tensorboard is None else _board(Path(tensorboard), step)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot write {self.path}: {error.strerror or error}") from error
        kept = [row for row in read(self.path) if int(row["step"]) <= step]
        if len(kept) < step:
            said = f"{self.path} has {len(kept)} of the {step} rows so far; the others are lost"
            warnings.warn(said, SettingWarning, stacklevel=2)
        with replacing(self.path) as draft, draft.open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, COLUMNS)
            writer.writeheader()
            writer.writerows(kept)

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row.

        Args:
            row: By column; what is missing stays empty.

        Raises:
            StoreError: if it cannot be written.
        """
        try:
            with self.path.open("a", newline="", encoding="utf-8") as out:
                csv.DictWriter(out, COLUMNS).writerow(dict(row))
        except OSError as error:
            raise StoreError(f"cannot write {self.path}: {error.strerror or error}") from error
        if self._board is not None:
            for name, value in row.items():
                if name != "step" and value is not None:
                    self._board.add_scalar(name, value, row["step"])

    def sync(self) -> None:
        """Wait until all rows are on the disk.

        Raises:
            StoreError: if they cannot be written.
        """
        try:
            sync(self.path)
        except OSError as error:
            raise StoreError(f"cannot write {self.path}: {error.strerror or error}") from error

    def close(self) -> None:
        """Write what TensorBoard holds back."""
        if self._board is not None:
            self._board.close()


def read(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The rows of a log.

    Args:
        path: The file; none is as good as an empty one.

    Returns:
        Cells by column, up to the first row that a crash has cut short.

    Raises:
        StoreError: if it cannot be read, or is no such file.
    """
    source = Path(path)
    if not source.exists():
        return []
    try:
        lines = source.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise StoreError(f"cannot read {source}: {error.strerror or error}") from error
    if lines and lines[0].strip() != ",".join(COLUMNS).encode():
        raise StoreError(f"cannot read {source}: it is no log of this pentti")
    rows = []
    for line in lines[1:]:
        cells = line.decode("ascii", "replace").strip().split(",")
        if len(cells) != len(COLUMNS) or not cells[0].isdigit():
            break
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


def _board(folder: Path, step: int) -> Any:
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"cannot write {folder}: it is no folder")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise ArgumentError(
            "Log: `tensorboard` needs the package tensorboard; install it with: "
            "pip install 'pentti[training]'"
        ) from error
    return SummaryWriter(str(folder), purge_step=step + 1)
