"""A whole model in a folder: ``config.json`` for its shape, ``model.safetensors`` for its state."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pentti.errors import ArgumentError, StoreError
from pentti.files import replacing
from pentti.nn.config import PenttiConfig
from pentti.persistence import load_tensors, save_tensors

__all__ = ["STATE_VERSION", "adopt", "check_shapes", "check_state", "load", "read_config", "save"]

STATE_VERSION = 1
"""Newest arrangement of a model's state (names and shapes) that this version reads and writes."""

_KIND = "transformer"
_CONFIG = "config.json"
_STATE = "model.safetensors"


def save(folder: str | os.PathLike[str], config: PenttiConfig, state: Mapping[str, Tensor]) -> None:
    """Write a model; each file is replaced whole or not at all.

    Args:
        folder: Where to; made if it is missing.
        config: The model's settings.
        state: The model's state_dict; its tensors are written as they are, of any dtype.

    Raises:
        StoreError: if it cannot be written.
    """
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror or error}") from error
    written = {"pentti": _KIND, "state_version": STATE_VERSION, "settings": config.as_dict()}
    with replacing(target / _CONFIG) as draft:  # replaced only once the state is on the disk
        draft.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_tensors(target / _STATE, _KIND, written, state)


def read_config(folder: str | os.PathLike[str]) -> PenttiConfig:
    """The settings of the model in a folder.

    Args:
        folder: Where `save` wrote it.

    Returns:
        The settings.

    Raises:
        StoreError: if they are missing, damaged, of another kind or of a newer version.
    """
    return _config(Path(folder) / _CONFIG, _written(Path(folder)))


def load(folder: str | os.PathLike[str], model: nn.Module) -> None:
    """Give a model of the right shape the state that was saved, and its dtypes.

    Nothing is held twice: the model lets go of its own state before the saved one is read.

    Args:
        folder: Where `save` wrote it.
        model: A model just made from `read_config`; of no use if this fails.

    Raises:
        StoreError: if the state is missing, damaged, newer, of another shape or of another save.
    """
    source = Path(folder)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for tensor in model.state_dict(keep_vars=True).values():
        tensor.data = tensor.data.new_empty(0)
    header, tensors = load_tensors(source / _STATE, _KIND)
    if header != _written(source):
        raise StoreError(
            f"cannot read {source}: {_CONFIG} and {_STATE} are not of the same save; "
            "put back the one that was changed"
        )
    check_state(str(source / _STATE), shapes, tensors)
    adopt(model, tensors)


def check_state(
    source: str, expected: Mapping[str, torch.Size], tensors: Mapping[str, Tensor]
) -> None:
    """Refuse a state that is not the model's, before any of it is taken over.

    Args:
        source: Where it is from, for the error.
        expected: Shapes by name.
        tensors: The state.

    Raises:
        StoreError: if a tensor is missing, unknown or of another shape.
    """
    missing, unknown = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or unknown:
        told = [f"lacks {_some(missing)}"] * bool(missing)
        told += [f"has the unknown {_some(unknown)}"] * bool(unknown)
        raise StoreError(f"cannot read {source}: it {' and '.join(told)}")
    check_shapes(source, expected, tensors)


def check_shapes(
    source: str, expected: Mapping[str, torch.Size], tensors: Mapping[str, Tensor]
) -> None:
    """Refuse tensors of other shapes than the model's.

    Args:
        source: Where they are from, for the error.
        expected: Shapes by name.
        tensors: The state; what it lacks or has beside is not looked at.

    Raises:
        StoreError: if something is no tensor, or of another shape.
    """
    for name, shape in expected.items():
        if name in tensors and not isinstance(tensors[name], Tensor):
            raise StoreError(f"cannot read {source}: {name} is no tensor")
        if name in tensors and tensors[name].shape != shape:
            raise StoreError(
                f"cannot read {source}: {name} has shape {tuple(tensors[name].shape)}, "
                f"this model's has {tuple(shape)}"
            )


def adopt(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors in the place of a module's own, without a copy.

    Args:
        model: The module.
        tensors: As in its state_dict; any floating dtype.
    """
    for name, own in model.state_dict(keep_vars=True).items():
        own.data = tensors[name]


def _written(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"cannot read {path}: it is damaged (no JSON)") from error
    if not isinstance(written, dict) or written.get("pentti") != _KIND:
        raise StoreError(f"cannot read {path}: it does not describe a pentti {_KIND}")
    return written


def _config(path: Path, written: Mapping[str, Any]) -> PenttiConfig:
    version, settings = written.get("state_version"), written.get("settings")
    if not isinstance(version, int) or not isinstance(settings, dict):
        raise StoreError(f"cannot read {path}: it is damaged (no settings, or no version)")
    if version > STATE_VERSION:
        raise StoreError(
            f"cannot read {path}: its state version {version} is newer than {STATE_VERSION}, "
            "the newest that this pentti reads; install a newer one"
        )
    try:
        return PenttiConfig.from_dict(settings)
    except ArgumentError as error:
        raise StoreError(f"cannot read {path}: {error}") from error


def _some(names: Iterable[str]) -> str:
    names = list(names)
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest
