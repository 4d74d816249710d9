"""From finished sections to one HTML page that needs nothing else."""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
import torch

import pentti
from pentti.report.sections import Section

__all__ = ["render"]


def render(sections: Sequence[Section]) -> str:
    """The page.

    Args:
        sections: What has been found, in the order to show it.

    Returns:
        HTML with figures and style inside.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(number=_number, own_names=_own_names, settings=_settings)
    claims = [claim for section in sections for claim in section.finding.claims]
    return environment.get_template("page.html").render(
        sections=sections,
        n_claims=len(claims),
        n_hold=sum(claim.holds for claim in claims),
        version=pentti.__version__,
        made=dt.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        machine=_machine(),
    )


def _number(value: Any) -> str:
    """A table cell: thousands apart, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def _settings(settings: Mapping[str, Any]) -> str:
    """`name: value` with commas between; values of a list with spaces between."""
    return ", ".join(f"{name}: {_value(value)}" for name, value in settings.items())


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(_value, value))
    return _number(value).replace(",", "\N{NARROW NO-BREAK SPACE}")


def _own_names(svg: str, prefix: str) -> str:
    """The drawing with a prefix to all its ids, for those of one page must differ."""
    svg = re.sub(r'(\sid=")', rf"\g<1>{prefix}-", svg)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", svg)


def _machine() -> str:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "numpy", "numba"))
    return (
        f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; "
        f"Python {platform.python_version()}, {versions}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
