"""Each job in a fresh process: no job finds memory, threads or a library left by another."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.cases import lines
from benchmarks.jobs import Job
from benchmarks.timing import Line

__all__ = ["in_process"]


def in_process(job: Job[Any]) -> Iterator[Line]:
    """The lines of a job, done in a process of its own, whose memory is free afterwards.

    Args:
        job: What to do.

    Yields:
        Its lines; one with an error if it breaks off.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        while (line := ours.recv()) is not None:
            yield line
    except EOFError:
        process.join()
        error = f"the process ended with exit code {process.exitcode}"
        yield {**job.facts(job.case), "entry": "all", "error": error}
    finally:
        process.terminate()
        process.join()


def _work(job: Job[Any], to: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    try:
        for line in lines(job):
            to.send(line)
    except Exception as error:  # noqa: BLE001 the other jobs go on
        message = f"{type(error).__name__}: {error}"
        to.send({**job.facts(job.case), "entry": "all", "error": message})
    to.send(None)
