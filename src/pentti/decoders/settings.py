"""Checked settings of the decoders of real addresses."""

from __future__ import annotations

from collections.abc import Callable

from pentti import checks

__all__ = ["checked_dim", "checked_threshold"]


def checked_dim(kind: str, dim: object, n_heads: int, n_parts: int) -> int:
    """The components of an address, if they can be cut into the parts of all heads.

    Args:
        kind: The decoder's name, for the error.
        dim: What the caller gave.
        n_heads: Heads, H.
        n_parts: Vectors that each head's part is cut into: itself, two halves, or more.

    Returns:
        The number as a Python int.

    Raises:
        ArgumentError: if it is no multiple of the parts, or leaves one less than 2 components;
            the message names the nearest that will do.
    """
    width, parts = checks.count(kind, "dim", dim), n_heads * n_parts
    if width % parts or width < 2 * parts:
        below, above = (max(2, width // parts + more) * parts for more in (0, 1))
        named = f"{below} or {above}" if width > below else f"{below}"
        each = {1: "one part", 2: "two halves"}.get(n_parts, f"{n_parts} parts")
        expected = f"be a multiple of {parts}, {each} of 2 components or more for each head"
        checks.reject(kind, "dim", f"{expected}, such as {named}", width)
    return width


def checked_threshold(
    kind: str,
    threshold: object,
    share: float | None,
    top_k: int | None,
    threshold_for: Callable[[float], float],
) -> float | None:
    """The threshold: as given, or from the share that one head is to activate.

    Args:
        kind: The decoder's name, for the error.
        threshold: What the caller gave.
        share: Wanted share, checked, or None.
        top_k: Most active locations, or None.
        threshold_for: Gives the threshold of a share.

    Returns:
        The threshold; None where only `top_k` decides.

    Raises:
        ArgumentError: if it is out of range, if both it and the share are given, or nothing at all.
    """
    if threshold is not None and share is not None:
        got = checks.Words("both")
        expected = "be given, or `activation_probability`, and not both"
        checks.reject(kind, "threshold", expected, got)
    if threshold is not None:
        return checks.number(kind, "threshold", threshold, -1.0, 1.0)
    if share is not None:
        return threshold_for(share)
    if top_k is None:
        expected = "be given, or `activation_probability`, or `top_k`"
        checks.reject(kind, "threshold", expected, checks.Words("none of them"))
    return None
