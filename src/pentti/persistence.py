"""Save and load a module as one safetensors file that cannot be half-written or half-read."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pentti.errors import StoreError
from pentti.files import replacing

__all__ = ["FORMAT_VERSION", "load_tensors", "save_tensors"]

FORMAT_VERSION = 1
"""Newest file format that this version reads, and the one that it writes."""


def save_tensors(
    path: str | os.PathLike[str],
    kind: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    """Write tensors and settings to one file, replacing it whole or not at all.

    Args:
        path: File to write.
        kind: What the file holds, such as "memory".
        config: Settings that JSON can hold.
        tensors: The tensors by name; moved to the CPU.

    Raises:
        StoreError: if the file cannot be written.
    """
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {
        "pentti": kind,
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps(dict(config), sort_keys=True),
    }
    header["checksum"] = _checksum(header, flat)
    with replacing(path) as draft:
        try:
            safetensors.torch.save_file(flat, draft, metadata=header)
        except safetensors.SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(str(error)) from error


def load_tensors(
    path: str | os.PathLike[str], kind: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `save_tensors` wrote, and check that it is whole.

    Args:
        path: File to read.
        kind: What the file must hold.

    Returns:
        The settings, and the tensors by name on the CPU.

    Raises:
        StoreError: if the file is missing, foreign, of another kind, of a newer format or damaged.
    """
    source = Path(path)
    if not source.is_file():
        what = "it is a directory" if source.is_dir() else "there is no such file"
        raise StoreError(f"cannot read {source}: {what}")
    try:
        with safetensors.safe_open(source, framework="pt") as file:
            header = file.metadata() or {}
            _check_header(source, header, kind)
            # Copies: what safetensors gives is a view of the file, which others may overwrite.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        config = json.loads(header["config"])
    except OSError as error:
        raise StoreError(f"cannot read {source}: {error.strerror or error}") from error
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise StoreError(f"cannot read {source}: it is damaged, or not a pentti file") from error
    if header.get("checksum") != _checksum(header, tensors):
        raise StoreError(f"cannot read {source}: it is damaged (its checksum does not match)")
    return config, tensors


def _check_header(source: Path, header: Mapping[str, str], kind: str) -> None:
    found = header.get("pentti")
    if found != kind:
        holds = f"a pentti {found}" if found else "something foreign"
        raise StoreError(f"cannot read {source}: it holds {holds}, a pentti {kind} is expected")
    version = int(header["format_version"])
    if version < 1:
        raise ValueError("format_version")
    if version > FORMAT_VERSION:
        raise StoreError(
            f"cannot read {source}: its format {version} is newer than {FORMAT_VERSION}, "
            "the newest that this pentti reads; install a newer one"
        )


def _checksum(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    total = zlib.crc32("".join(header[key] for key in ("pentti", "config")).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total = zlib.crc32(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode(), total)
        if tensor.numel():
            total = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, total)
    return f"crc32:{total:08x}"
