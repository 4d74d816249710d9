"""What an experiment is, and what it hands to the report."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

__all__ = [
    "Claim", "Experiment", "Figure", "Finding", "Order", "Size", "Step", "Table", "portion", "told",
]  # fmt: skip

Size = Literal["quick", "full"]
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Order:
    """What is asked of an experiment.

    Attributes:
        size: "quick" for minutes, "full" for the larger sizes.
        device: Where models are trained, in experiments that train large ones.
        folder: Where what took long is kept, so that a stopped run goes on; None for nowhere.
    """

    size: Size = "quick"
    device: str = "cpu"
    folder: Path | None = None


@dataclass(frozen=True)
class Step:
    """How far an experiment has come: `share` of its work done, from 0 to 1."""

    share: float


@dataclass(frozen=True)
class Table:
    """Numbers with a heading for each column.

    Attributes:
        title: What the table shows.
        columns: One heading for each column, with its unit.
        rows: One value for each column.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Figure:
    """A drawing that can stand in a page as it is.

    Attributes:
        caption: What to see in it.
        svg: The drawing; `currentColor` stands for ink.
    """

    caption: str
    svg: str


@dataclass(frozen=True)
class Claim:
    """What was expected beside what was measured; the text says so if it was revised.

    Attributes:
        text: What was claimed.
        predicted: The number or range expected.
        measured: The number found.
        holds: Whether the measurement is within what was claimed.
    """

    text: str
    predicted: str
    measured: str
    holds: bool


@dataclass(frozen=True)
class Finding:
    """The outcome of an experiment.

    Attributes:
        claims: Claims with their verdicts.
        figures: Drawings.
        tables: All numbers.
        conclusion: The sentences that follow from the numbers.
        settings: Sizes and seeds that were used.
    """

    claims: Sequence[Claim]
    figures: Sequence[Figure]
    tables: Sequence[Table]
    conclusion: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A question that a run can answer.

    Attributes:
        name: Short name, for the command line.
        question: What is asked.
        method: How it is measured, in a few sentences.
        prediction: What is expected, and why; what was revised after a first run says so.
        source: Whose idea or figures they are.
        run: Yields `Step`s as it goes and returns the finding.
    """

    name: str
    question: str
    method: str
    prediction: str
    source: str
    run: Callable[[Order], Generator[Step, None, Finding]]


def portion(
    work: Generator[float, None, Outcome], start: float, width: float
) -> Generator[float, None, Outcome]:
    """The same work, as a portion of a larger whole.

    Args:
        work: Yields the share of it that is done.
        start: What of the whole was done before,
        width: and how much of it this work is.

    Returns:
        A generator of the share of the whole, which returns the work's outcome.
    """
    while True:
        try:
            done = next(work)
        except StopIteration as stop:
            outcome: Outcome = stop.value
            return outcome
        yield start + width * done


def told(work: Generator[float, None, Outcome]) -> Generator[Step, None, Outcome]:
    """The same work, told as the report has it.

    Args:
        work: Yields the share of it that is done.

    Returns:
        A generator of steps, which returns the work's outcome.
    """
    while True:
        try:
            done = next(work)
        except StopIteration as stop:
            outcome: Outcome = stop.value
            return outcome
        yield Step(done)
