"""``python -m benchmarks``: run the cases and write a line of JSON for each entry."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import machine
from benchmarks.cases import CASES, jobs
from benchmarks.jobs import Job, Settings
from benchmarks.processes import in_process
from benchmarks.timing import Line, Patience

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

QUICK = {
    "n_locations": (100_000,),
    "batches": (1, 16),
    "patience": Patience(3, 0.2, 5.0),
    "n_tokens": (1, 128),
    "sides": (100, 200, 316),
    "lengths": (1024,),
    "crossing": (256, 2048),
    "contexts": (1024, 4096),
    "positions": (100, 10_000),
}


@app.command()
def main(
    case: Annotated[list[str] | None, typer.Option(help="Run this case; all without it.")] = None,
    quick: Annotated[bool, typer.Option(help="Only small sizes, few repetitions.")] = False,
    device: Annotated[str, typer.Option(help="Where pentti runs, such as cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="For pentti and for each peer.")] = 2,
    out: Annotated[Path, typer.Option(help="File of JSON lines; it is replaced.")] = Path(
        "benchmarks/results/results.jsonl"
    ),
    show: Annotated[bool, typer.Option("--list", help="Name the cases and stop.")] = False,
) -> None:
    """Time pentti beside its peers; only a right result gets a time."""
    if show:
        for name, one in CASES.items():
            print(f"{name:12} {one.summary}")
        return
    chosen = case or list(CASES)
    unknown = [name for name in chosen if name not in CASES]
    if unknown:
        _stop(f"there is no case {unknown[0]!r}; the cases are {', '.join(CASES)}")
    settings = Settings(threads, device, **QUICK) if quick else Settings(threads, device)  # type: ignore[arg-type]
    work = [job for name in chosen for job in jobs(name, settings)]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", encoding="utf-8") as file:
            _run(work, file)
    except OSError as error:
        _stop(f"cannot write {out}: {error.strerror}")
    except KeyboardInterrupt:
        _stop(f"stopped; the lines so far are in {out}", 130)


def _run(work: list[Job[Any]], file: TextIO) -> None:
    """Do the jobs one after the other, each in a fresh process, and keep every line at once."""
    _write(file, machine.describe())
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for number, job in enumerate(work, 1):
            task = progress.add_task(f"{number}/{len(work)} {job.title}", total=1)
            for line in in_process(job):
                _write(file, line)
                progress.console.print(_told(line), markup=False, highlight=False)
            progress.update(task, completed=1)


def _write(file: TextIO, line: Line) -> None:
    file.write(json.dumps(line) + "\n")
    file.flush()


def _told(line: Line) -> str:
    what = f"{line['operation']:7} batch {line['batch']:<5} {line['entry']:14}"
    for excuse in ("error", "skipped"):
        if excuse in line:
            return f"{what} {excuse}: {line[excuse]}"
    peak = f"   peak {line['peak_bytes'] / 1e6:,.1f} MB" if "peak_bytes" in line else ""
    if "median_s" not in line:
        return what + peak
    ratio = f"   ratio {line['ratio']:.2f}" if "ratio" in line else ""
    return f"{what} {1e3 * line['median_s']:10.3f} ms {line['per_second']:12,.1f}/s{ratio}{peak}"


def _stop(message: str, code: int = 2) -> None:
    print(f"benchmarks: {message}", file=sys.stderr)
    raise typer.Exit(code)


if __name__ == "__main__":
    app()
