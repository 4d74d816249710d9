"""Decoders choose the hard locations that an address activates."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pentti import checks
from pentti.decoders.coordinates import Hyperplane, SelectedCoordinates
from pentti.decoders.cosine import CosineCap
from pentti.decoders.hamming import HammingBall
from pentti.decoders.product import ProductKeys
from pentti.decoders.protocol import Decoder
from pentti.decoders.real import Nearest
from pentti.errors import SettingWarning

__all__ = [
    "CosineCap",
    "Decoder",
    "HammingBall",
    "Hyperplane",
    "Nearest",
    "ProductKeys",
    "SelectedCoordinates",
    "check_restorable",
    "restore",
]

_KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (HammingBall, Hyperplane, SelectedCoordinates, CosineCap, ProductKeys)
}


def check_restorable(config: Mapping[str, Any]) -> None:
    """Refuse the settings of a decoder that `restore` does not know.

    Args:
        config: What `Decoder.config` gave.

    Raises:
        ArgumentError: if the kind of decoder is unknown.
    """
    checks.one_of("decoders", "decoder", config.get("decoder"), _KINDS)


def restore(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Decoder:
    """Make a decoder again from its `config()` and its `state_dict()`.

    Args:
        config: What `Decoder.config` gave.
        state: What `state_dict` gave.

    Returns:
        A decoder that activates the same hard locations, in the type that the state has.

    Raises:
        ArgumentError: if the kind of decoder is unknown or a setting is out of range.

    Examples:
        >>> decoder = SelectedCoordinates(20, 5, n_selected=2, seed=3)
        >>> restore(decoder.config(), decoder.state_dict())
        SelectedCoordinates(address_bits=20, n_locations=5, n_selected=2)
    """
    check_restorable(config)
    settings = dict(config)
    kind = _KINDS[settings.pop("decoder")]
    with warnings.catch_warnings():  # whoever made the decoder was warned already
        warnings.simplefilter("ignore", SettingWarning)
        decoder = kind(**settings)
    floating = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    for dtype in floating:
        decoder.to(dtype)
    decoder.load_state_dict(dict(state))
    restored: Decoder = decoder
    return restored
