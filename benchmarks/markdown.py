"""How a figure, a comparison and a table are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.timing import Line

__all__ = ["beside", "digits", "own", "ratio", "section", "time"]


def own(line: Line | None) -> Iterator[str]:
    """Two cells: a time, and how many times the stream's it is.

    Args:
        line: None for what was not measured.
    """
    yield time(line)
    yield digits(line["median_s"] / line["stream_s"]) if line and "stream_s" in line else "–"


def time(line: Line | None) -> str:
    """Median and quartiles, in ms.

    Args:
        line: None for what was not measured.
    """
    if line is None:
        return "–"
    low, middle, high = (1e3 * line[key] for key in ("q1_s", "median_s", "q3_s"))
    return f"{digits(middle)} ({digits(low)}–{digits(high)})"


def beside(line: Line | None) -> str:
    """Median in ms, and how many times the contender's it is.

    Args:
        line: None for what was not measured.
    """
    return "–" if line is None else f"{digits(1e3 * line['median_s'])} ({ratio(line)})"


def ratio(line: Line) -> str:
    """How many times the contender's time for one cue.

    Args:
        line: Of any entry.
    """
    return f"{digits(line['ratio'])} ×" if "ratio" in line else "–"


def digits(value: float) -> str:
    """Three significant digits or all before the point.

    Args:
        value: Any number.
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def section(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], note: str = ""
) -> str:
    """A heading, a note and a table; nothing without rows.

    Args:
        title: Of the section.
        header: Of the table.
        rows: Of as many cells.
        note: Ends with a new line.
    """
    if not rows:
        return ""
    table = [header, ["---"] * len(header), *rows]
    text = "\n".join(f"| {' | '.join(row)} |" for row in table)
    return f"## {title}\n\n{note}\n{text}\n" if note else f"## {title}\n\n{text}\n"
