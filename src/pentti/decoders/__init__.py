"""Decoders choose the hard locations that an address activates."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pentti import checks
from pentti.decoders.coordinates import Hyperplane, SelectedCoordinates
from pentti.decoders.hamming import HammingBall
from pentti.decoders.protocol import Decoder
from pentti.errors import SettingWarning

__all__ = ["Decoder", "HammingBall", "Hyperplane", "SelectedCoordinates", "restore"]


def restore(config: Mapping[str, Any], buffers: Mapping[str, Tensor]) -> Decoder:
    """Make a decoder again from its `config()` and its `state_dict()`.

    Args:
        config: What `Decoder.config` gave.
        buffers: What `state_dict` gave.

    Returns:
        A decoder that activates the same hard locations.

    Raises:
        ArgumentError: if the kind of decoder is unknown or a setting is out of range.

    Examples:
        >>> decoder = SelectedCoordinates(20, 5, n_selected=2, seed=3)
        >>> restore(decoder.config(), decoder.state_dict())
        SelectedCoordinates(address_bits=20, n_locations=5, n_selected=2)
    """
    settings = dict(config)
    kind = settings.pop("decoder", None)
    kinds = {cls.__name__: cls for cls in (HammingBall, Hyperplane, SelectedCoordinates)}
    checks.one_of("decoders.restore", "decoder", kind, kinds)
    with warnings.catch_warnings():  # whoever made the decoder was warned already
        warnings.simplefilter("ignore", SettingWarning)
        decoder: Decoder = kinds[kind](**settings)
    decoder.load_state_dict(dict(buffers))  # type: ignore[attr-defined]
    return decoder
