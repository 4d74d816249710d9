"""One look for all figures: readable on light and on dark paper, on a phone and in print."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure as Canvas

from pentti.experiments.finding import Figure

__all__ = ["COLOURS", "draw", "images", "mark", "plot"]

COLOURS = ("#3b82c4", "#d1622b", "#2f9e6e", "#a463c7", "#b8860b", "#cc4778")
"""Told apart by the colour-blind too, and visible on white and on black."""

_INK = "#010203"  # stands for the reader's ink until the drawing is text
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pentti",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "xtick.color": _INK,
    "ytick.color": _INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
}


def plot(n_panels: int = 1) -> tuple[Canvas, list[Any]]:
    """An empty figure with axes side by side.

    Args:
        n_panels: How many.

    Returns:
        The figure and its axes.
    """
    with mpl.rc_context(_STYLE):
        canvas = Canvas(figsize=(10.4, 3.6), layout="constrained")
        axes = [canvas.add_subplot(1, n_panels, i + 1) for i in range(n_panels)]
    return canvas, axes


def mark(axis: Any, numbers: Sequence[int]) -> None:
    """Make the horizontal axis logarithmic and name these numbers on it, and no others.

    Args:
        axis: The axes.
        numbers: Above 0.
    """
    axis.set_xscale("log")
    axis.set_xticks(numbers, [f"{number:,}" for number in numbers])
    axis.set_xticks([], minor=True)


def draw(canvas: Canvas, caption: str) -> Figure:
    """Turn a finished figure into SVG text that takes the page's ink.

    Args:
        canvas: The figure.
        caption: What to see in it.

    Returns:
        The figure of the report.
    """
    for legend in (*canvas.legends, *(axis.get_legend() for axis in canvas.axes)):
        if legend is not None:
            legend.set_frame_on(False)
            for label in legend.get_texts():
                label.set(color=_INK, fontsize=9.5)
    text = io.StringIO()
    with mpl.rc_context(_STYLE):
        canvas.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"\s*<style.*?</style>", "", svg, flags=re.DOTALL)  # it would style the page
    svg = re.sub(r'(<image [^>]*?)\sid="[^"]*"', r"\1", svg)  # alike for equal pictures
    svg = svg.replace("<svg ", '<svg stroke-linejoin="round" stroke-linecap="butt" ', 1)
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"<svg \1\2", svg, count=1)
    return Figure(caption, svg)


def images(rows: Sequence[tuple[str, Any]], caption: str) -> Figure:
    """Rows of small grey pictures, each row with a label.

    Args:
        rows: Label and pictures, an array of shape (n, height, width) with values in [0, 1].
        caption: What to see in them.

    Returns:
        The figure of the report.
    """
    with mpl.rc_context(_STYLE):
        canvas = Canvas(figsize=(9.5, 0.8 * len(rows)))
        axes = canvas.subplots(len(rows), 1, squeeze=False)[:, 0]
        canvas.subplots_adjust(left=0.21, right=0.995, top=0.99, bottom=0.01, hspace=0.12)
        for axis, (label, pictures) in zip(axes, rows, strict=True):
            framed = np.pad(pictures, ((0, 0), (1, 1), (1, 1)), constant_values=0.35)
            axis.imshow(np.hstack(list(framed)), cmap="gray", vmin=0, vmax=1)
            axis.set_ylabel(label, rotation=0, ha="right", va="center")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    return draw(canvas, caption)
