"""The command line: a thin coat over the library. It imports the heavy parts only to use them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import typer

import pentti
from pentti import cli_training
from pentti.errors import PenttiError
from pentti.interrupts import answered

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Kanerva's Sparse Distributed Memory (1988), as a working part of machine learning.",
)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    if version:
        typer.echo(f"pentti {pentti.__version__}")
        raise typer.Exit


@app.command()
def report(
    full: Annotated[
        bool, typer.Option("--full/--quick", help="Larger sizes, for hours; or minutes.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Show this section only; may be given several times."),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the page and the results.")
    ] = Path("pentti-report"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Run again what an earlier run has finished.")
    ] = False,
    device: Annotated[
        str, typer.Option(help="Where the models of `language` are trained: cpu or cuda.")
    ] = "cpu",
) -> None:
    """Run the experiments and make one HTML page of what they found.

    Stopped half-way, the same command goes on after the last finished section.
    """
    try:
        _report("full" if full else "quick", only or [], out, fresh, device)
    except KeyboardInterrupt:
        message = f"pentti: stopped; finished sections are kept in {out}, the same command "
        typer.echo(message + "goes on from there", err=True)
        raise typer.Exit(130) from None


def _report(
    size: Literal["quick", "full"], only: list[str], out: Path, fresh: bool, device: str
) -> None:
    try:
        from pentti import report as reporting
    except ModuleNotFoundError as error:
        message = f"pentti: the report needs {error.name}; install it with: "
        typer.echo(message + "pip install 'pentti[report]'", err=True)
        raise typer.Exit(1) from None
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:12}"), BarColumn(), TimeElapsedColumn())
    experiments = reporting.chosen(only)
    stopping = answered(signal.default_int_handler)
    with stopping, Progress(*columns, console=console) as bars:
        tasks = {e.name: bars.add_task(e.name, total=1.0, start=False) for e in experiments}
        for step in reporting.build(out, size, only, fresh, device):
            bars.start_task(tasks[step.name])
            bars.update(tasks[step.name], completed=step.share)
            if step.section is not None:
                how = "kept" if step.reused else "done"
                bars.console.print(f"{how} {step.name}: {step.section.experiment.question}")
    typer.echo(out.resolve() / "index.html")


cli_training.add(app)


def _end(_number: int, _frame: FrameType | None) -> None:
    """End at once. An exception would not do: some imports catch it, and break later."""
    typer.echo("pentti: stopped", err=True)
    os._exit(130)


def main() -> None:
    """Run the command line; a stop, or an error raised on purpose, is one sentence."""
    try:
        with answered(_end):
            app()
    except PenttiError as error:
        typer.echo(f"pentti: {error}", err=True)
        sys.exit(1)
