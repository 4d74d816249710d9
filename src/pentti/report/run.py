"""Run the experiments that are not done yet, and draw the page after each."""

from __future__ import annotations

import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pentti import checks
from pentti.experiments import EXPERIMENTS
from pentti.experiments.finding import Experiment, Finding, Order, Size
from pentti.files import replacing
from pentti.report import sections
from pentti.report.page import render
from pentti.report.sections import Section

__all__ = ["Progress", "build", "chosen"]


@dataclass(frozen=True)
class Progress:
    """How far the report has come.

    Attributes:
        name: The experiment at work.
        share: Share of its work that is done, from 0 to 1.
        section: The finished section, at a share of 1.
        reused: Whether an earlier run had finished it.
    """

    name: str
    share: float
    section: Section | None = None
    reused: bool = False


def chosen(only: Sequence[str]) -> list[Experiment]:
    """The experiments of these names, in the order of the report; all of them for no names.

    Args:
        only: Names of experiments.

    Returns:
        The experiments.

    Raises:
        ArgumentError: if there is no experiment of a name.
    """
    for name in only:
        checks.one_of("report", "only", name, EXPERIMENTS)
    return [e for e in EXPERIMENTS.values() if not only or e.name in only]


def build(
    out: Path,
    size: Size = "quick",
    only: Sequence[str] = (),
    fresh: bool = False,
    device: str = "cpu",
) -> Iterator[Progress]:
    """Make the page `index.html`, a section at a time; what is done stays done.

    A section that an earlier run of the same code has finished stays in the page until it has run
    again.

    Args:
        out: Folder for the page, under `results` for JSON, CSV and SVG, and under `work` for the
            trained models of experiments that take hours.
        size: "quick" for minutes, "full" for the larger sizes.
        only: Names of the experiments to show; none for all.
        fresh: Whether to run again what an earlier run of the same code has finished.
        device: Where models are trained, in experiments that train large ones.

    Yields:
        The progress of each section.

    Raises:
        ArgumentError: if there is no experiment of a name.
        StoreError: if something cannot be written.
    """
    page, results = out / "index.html", out / "results"
    experiments = chosen(only)
    sections.make(results)
    finished = {e.name: sections.load(results, e, size, device) for e in experiments}
    for experiment in experiments:
        section = None if fresh else finished[experiment.name]
        reused = section is not None
        if section is None:
            work = out / "work" / f"{experiment.name}.{size}.{device.replace(':', '-')}"
            if fresh:
                shutil.rmtree(work, ignore_errors=True)
            section = yield from _run(experiment, Order(size, device, work))
            sections.save(results, section)
        finished[experiment.name] = section
        shown = [each for each in finished.values() if each is not None]
        with replacing(page) as draft:
            draft.write_text(render(shown), encoding="utf-8")
        yield Progress(experiment.name, 1.0, section, reused)


def _run(experiment: Experiment, order: Order) -> Generator[Progress, None, Section]:
    start = time.perf_counter()
    yield Progress(experiment.name, 0.0)
    steps = experiment.run(order)
    while True:
        try:
            step = next(steps)
        except StopIteration as stop:
            finding: Finding = stop.value
            seconds = time.perf_counter() - start
            return Section(experiment, finding, order.size, seconds, order.device)
        yield Progress(experiment.name, min(step.share, 0.999))
