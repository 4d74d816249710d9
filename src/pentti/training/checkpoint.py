"""Checkpoints: everything that a run goes on from, each in a folder that is whole or not there."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from pentti.errors import StoreError
from pentti.files import sync
from pentti.nn import PenttiConfig, pretrained
from pentti.persistence import load_tensors, save_tensors

__all__ = ["newest", "read_training", "saved", "write"]

_KIND = "training"
_STATE = "training.safetensors"
_NAME = re.compile(r"step-(\d{8})")
_DRAFT = ".draft-"


def saved(folder: str | os.PathLike[str]) -> dict[int, Path]:
    """The checkpoints in a folder.

    Args:
        folder: Where `write` puts them.

    Returns:
        Their folders by step, the oldest first.
    """
    source = Path(folder)
    if not source.is_dir():
        return {}
    matches = ((_NAME.fullmatch(path.name), path) for path in source.iterdir())
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


def newest(folder: str | os.PathLike[str]) -> Path | None:
    """The last checkpoint in a folder.

    Args:
        folder: Where `write` puts them.

    Returns:
        Its folder; None where there is none.
    """
    return next(reversed(saved(folder).values()), None)


def write(
    folder: str | os.PathLike[str],
    step: int,
    config: PenttiConfig,
    state: Mapping[str, Tensor],
    optimisers: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Any],
    n_kept: int,
) -> Path:
    """Write a checkpoint, and then take away the oldest of too many.

    Whatever stops it, there is a whole checkpoint or none of this step, and the others stay.

    Args:
        folder: Where to; made if it is missing.
        step: Updates that were made so far.
        config: The model's settings.
        state: The model's state_dict, whole.
        optimisers: States of torch's optimisers, by name.
        facts: What else the run goes on from, as JSON can hold it.
        n_kept: Checkpoints that stay, the newest.

    Returns:
        The new folder.

    Raises:
        StoreError: if it cannot be written.
    """
    target = Path(folder)
    final, draft = target / f"step-{step:08}", target / f"{_DRAFT}{step:08}"
    try:
        target.mkdir(parents=True, exist_ok=True)
        for left in target.glob(f"{_DRAFT}*"):  # of a run that was killed
            shutil.rmtree(left)
        draft.mkdir()
        pretrained.save(draft, config, state)
        tensors, settings = _flat(optimisers)
        save_tensors(draft / _STATE, _KIND, {**facts, "step": step, "settings": settings}, tensors)
        if final.exists():  # written before the run went back to an older one
            _remove(final)
        draft.rename(final)
        with suppress(OSError):  # not all systems can sync a folder
            sync(target)
        for path in list(saved(target).values())[:-n_kept]:
            _remove(path)
    except OSError as error:
        raise StoreError(
            f"cannot write {final}: {error.strerror or error}; older checkpoints are unchanged"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return final


def read_training(
    checkpoint: str | os.PathLike[str],
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What `write` wrote beside the model.

    Args:
        checkpoint: From `newest`.

    Returns:
        The facts, the step among them, and the states of the optimisers.

    Raises:
        StoreError: if it is missing or damaged.
    """
    source = Path(checkpoint) / _STATE
    facts, tensors = load_tensors(source, _KIND)
    try:
        return facts, _nested(tensors, facts.pop("settings"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"cannot read {source}: it is damaged, or of another pentti") from error


def _remove(checkpoint: Path) -> None:
    """Take a checkpoint away, so that half of it never looks like a whole one."""
    gone = checkpoint.with_name(f"{_DRAFT}{checkpoint.name}")
    checkpoint.rename(gone)
    shutil.rmtree(gone)


def _flat(optimisers: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by path, and the rest as JSON: ``adamw/12/exp_avg``."""
    tensors, settings = {}, {}
    for name, state in optimisers.items():
        numbers: dict[str, Any] = {}
        for index, values in state["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"{name}/{index}/{key}"] = value
                else:
                    numbers[f"{index}/{key}"] = value
        settings[name] = {"groups": state["param_groups"], "state": numbers}
    return tensors, settings


def _nested(
    tensors: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    optimisers: dict[str, dict[str, Any]] = {
        name: {"state": {}, "param_groups": kept["groups"]} for name, kept in settings.items()
    }
    for path, tensor in tensors.items():
        name, index, key = path.split("/")
        optimisers[name]["state"].setdefault(int(index), {})[key] = tensor
    for name, kept in settings.items():
        for path, value in kept["state"].items():
            index, key = path.split("/")
            optimisers[name]["state"].setdefault(int(index), {})[key] = value
    return optimisers
