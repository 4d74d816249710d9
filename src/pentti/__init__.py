"""pentti: Kanerva's Sparse Distributed Memory as a working part of machine learning.

An address goes in; a decoder says which hard locations are active; the memory adds to their
contents or sums them; a word comes out, and a meter says how many took part.

The names below load on first use, so that ``import pentti`` is instant.

**Source:** Pentti Kanerva, *Sparse Distributed Memory*, MIT Press (1988).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pentti import bits, decoders, nn, theory
    from pentti.activation import Activation
    from pentti.decoders import (
        CosineCap,
        HammingBall,
        Hyperplane,
        ProductKeys,
        SelectedCoordinates,
    )
    from pentti.errors import ArgumentError, PenttiError, SettingWarning, StoreError
    from pentti.memory import SparseDistributedMemory
    from pentti.steps import finish

__version__ = "0.1.0"

__all__ = [
    "Activation",
    "ArgumentError",
    "CosineCap",
    "HammingBall",
    "Hyperplane",
    "PenttiError",
    "ProductKeys",
    "SelectedCoordinates",
    "SettingWarning",
    "SparseDistributedMemory",
    "StoreError",
    "bits",
    "decoders",
    "finish",
    "nn",
    "theory",
]

_HOMES = {
    "Activation": "activation",
    "ArgumentError": "errors",
    "CosineCap": "decoders",
    "HammingBall": "decoders",
    "Hyperplane": "decoders",
    "PenttiError": "errors",
    "ProductKeys": "decoders",
    "SelectedCoordinates": "decoders",
    "SettingWarning": "errors",
    "SparseDistributedMemory": "memory",
    "StoreError": "errors",
    "finish": "steps",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'pentti' has no attribute '{name}'")
    if name in _HOMES:
        value = getattr(importlib.import_module(f"pentti.{_HOMES[name]}"), name)
    else:
        value = importlib.import_module(f"pentti.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
