"""The commands train, evaluate and generate: a thin coat over `pentti.training`."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from pentti.errors import ArgumentError, PenttiError
from pentti.interrupts import answered
from pentti.steps import finish

if TYPE_CHECKING:
    from pentti.training import Corpus, Processes, Run, Trainer

__all__ = ["add"]

Result = TypeVar("Result")


def _folder(given: str) -> Path:
    if not given:
        raise typer.BadParameter("a folder must have a name")
    return Path(given)


RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", parser=_folder)]

_ROOM = 16  # contexts that a sequence memory has room for: with few overlaps it learns sooner
_MEMORIES: dict[str, dict[str, Any]] = {
    "none": {"memory_layers": []},
    "sdm": {"memory_kind": "sdm"},
    "sequence": {"memory_kind": "sequence"},
}


def add(app: typer.Typer) -> None:
    """Give an app the commands of this file.

    Args:
        app: The app.
    """
    for name, command in (("train", _train), ("evaluate", _evaluate), ("generate", _generate)):
        app.command(name)(command)


def _train(
    out: RunFolder,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH_OR_GLOB",
            help="A file, a folder or a pattern; may be given several times. "
            "Unless given, the Python standard library's own source.",
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A tokenizer.json; bytes unless given.")
    ] = None,
    memory: Annotated[
        Literal["sequence", "sdm", "none"], typer.Option(help="What stands beside the attention.")
    ] = "sequence",
    dim: Annotated[int, typer.Option(help="Width of the model.", min=1, max=2**16)] = 128,
    layers: Annotated[int, typer.Option(help="Blocks.", min=1, max=1000)] = 4,
    heads: Annotated[int, typer.Option(help="Heads of the attention.", min=1)] = 4,
    window: Annotated[int, typer.Option(help="Tokens that the attention sees back.", min=1)] = 64,
    context: Annotated[int, typer.Option(help="Tokens of a row.", min=1)] = 2048,
    batch_tokens: Annotated[
        int, typer.Option(help="Tokens that go through at once.", min=1)
    ] = 8192,
    steps: Annotated[int, typer.Option(help="Updates of the parameters.", min=1)] = 1000,
    lr: Annotated[float, typer.Option(help="Highest learning rate.", min=0.0)] = 2e-3,
    seed: Annotated[
        int, typer.Option(help="Of the model and of the order of documents.", min=0, max=2**31 - 1)
    ] = 0,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting of TrainingConfig, or model.NAME of PenttiConfig.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    shard: Annotated[
        bool, typer.Option("--shard", help="Each process keeps a share of the parameters (FSDP2).")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Keep the log for TensorBoard too.")
    ] = False,
) -> None:
    """Train a model on documents of your own.

    Stopped at any time, the same command goes on from the last checkpoint, and gives what it would
    have given without the stop. Several processes share the work under torchrun.
    """
    from pentti.training import Run, TrainingConfig, documents, joined, trainer

    more, of_model = _settings(setting or [])
    of_sequence = of_model.get("sequence", {})
    if isinstance(of_sequence, dict):  # anything else is refused by the model's settings
        longest = more.get("context", context)
        if isinstance(longest, int):  # anything else is refused with the other settings
            of_sequence = {"max_length": _ROOM * longest, "rule": "delta", **of_sequence}
    model = {
        "dim": dim, "n_layers": layers, "n_heads": heads, "window": window,
        **_MEMORIES[memory], **of_model, "sequence": of_sequence,
    }  # fmt: skip
    training = TrainingConfig.of(
        {
            "n_steps": steps, "context": context, "batch_tokens": batch_tokens, "lr": lr,
            "seed": seed, **more,
        }
    )  # fmt: skip
    run = Run(
        sources=tuple(text or [documents.standard_library()]),
        tokenizer=None if tokenizer is None else str(tokenizer),
        model=model, training=training,
    )  # fmt: skip
    work = None
    try:
        with (
            answered(signal.default_int_handler, also_end=True),
            joined(device) as processes,
            _bars(not processes.is_first) as bars,
        ):
            corpus = _read(bars, processes, out, run)
            work = trainer(out, run, corpus, processes, sharded=shard, tensorboard=tensorboard)
            _follow(bars, work, processes.is_first)
    except KeyboardInterrupt:
        if work is None or work.processes.is_first:
            after = "" if work is None else f" after step {work.step}"
            said = f"pentti: stopped{after}; the same command goes on from there"
            typer.echo(said, err=True)
        raise typer.Exit(130) from None
    if processes.is_first:
        typer.echo(out.resolve())


def _read(bars: Any, processes: Processes, folder: Path, run: Run) -> Corpus:
    """The corpus, which the first of all processes reads; what stops it stops all."""
    from pentti.training import corpus_of, prepare

    corpus, failed = None, None
    if processes.is_first:
        try:
            corpus = _told(bars, "reading", prepare(folder, run))
        except PenttiError as error:
            failed = error
    if processes.any(failed is not None):
        if failed is not None:
            raise failed
        raise typer.Exit(1)
    return corpus_of(folder) if corpus is None else corpus


def _follow(bars: Any, work: Trainer, is_first: bool) -> None:
    """Go through the steps of a run under a bar; Ctrl-C leaves a checkpoint."""
    task = bars.add_task("training", total=work.config.n_steps, completed=work.step)
    with closing(work.run()) as steps:
        for now in steps:
            said = f"{now.bits_per_byte:.3f} bits a byte, {now.tokens_per_s:,.0f} tokens/s"
            said += f", meter {now.meter:,.0f}" if now.meter else ""
            said += f", {100 * now.used:.0f} % used" if now.used else ""
            bars.update(task, completed=now.step, description=said)
            if now.validation is not None and is_first:
                told = f"step {now.step}: {now.validation:.4f} bits a byte, validated"
                bars.console.print(told)


def _evaluate(
    run: RunFolder,
    most: Annotated[
        int | None, typer.Option(help="Tokens of each document; all unless given.", min=1)
    ] = None,
    documents: Annotated[
        int | None, typer.Option(help="Validation documents; all unless given.", min=1)
    ] = None,
) -> None:
    """Tell how well a run's model tells its validation documents, by the place in the document."""
    from pentti import training

    corpus, model = training.corpus_of(run), training.model_of(run)
    with _bars(False) as bars:
        work = training.evaluate(model, corpus, corpus.validation[:documents], most_tokens=most)
        found = _told(bars, "evaluating", work)
    typer.echo(f"{len(found.documents)} documents: {found.bits_per_byte:.4f} bits a byte")
    for stretch in found.stretches:
        where = f"{stretch.first:,} to {stretch.last:,}"
        typer.echo(f"{where:>24}  {stretch.bits_per_byte:.4f}  ({stretch.n_tokens:,} tokens)")


def _generate(
    run: RunFolder,
    prompt: Annotated[str, typer.Option(help="What the text begins with; - reads it.")] = "",
    n: Annotated[int, typer.Option(help="Most tokens to add.", min=1)] = 400,
    temperature: Annotated[
        float, typer.Option(help="0 takes the most likely token.", min=0.0)
    ] = 0.8,
    top_p: Annotated[
        float, typer.Option(help="Share of the probability to draw from.", min=0.0, max=1.0)
    ] = 0.95,
    seed: Annotated[int | None, typer.Option(help="Of the draws.", min=0, max=2**63 - 1)] = None,
) -> None:
    """Continue a text with a run's model."""
    import torch

    from pentti import training

    corpus, model = training.corpus_of(run), training.model_of(run)
    encoding = corpus.encoding
    given = sys.stdin.buffer.read() if prompt == "-" else os.fsencode(prompt)
    start = [encoding.border, *encoding.encode(given).tolist()]
    drawn = torch.Generator()
    drawn.seed() if seed is None else drawn.manual_seed(seed)
    _say(given.decode("utf-8", "replace"))
    ids: list[int] = []
    told = ""
    for token in model.stream(
        start, n, temperature=temperature, top_p=top_p, stop=[encoding.border], generator=drawn
    ):
        ids.append(int(token))
        text = encoding.decode(ids)
        if not text.endswith("\ufffd"):  # half a character
            _say(text[len(told) :])
            told = text
    typer.echo()


def _say(text: str) -> None:
    """Print text; in a terminal without control characters, of which half-learned text is full."""
    if sys.stdout.isatty():
        text = "".join(x if x.isprintable() or x in "\n\t" else "\ufffd" for x in text)
    typer.echo(text, nl=False)


def _settings(given: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of training, and of the model."""
    training: dict[str, Any] = {}
    model: dict[str, Any] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals:
            raise ArgumentError(f"train: `--set` must be NAME=VALUE, got {one!r}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        (model if name.startswith("model.") else training)[name.removeprefix("model.")] = value
    return training, model


@contextmanager
def _bars(silent: bool) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), disable=silent) as bars:
        yield bars


def _told(bars: Any, what: str, work: Generator[float, None, Result]) -> Result:
    """Run work that yields the share that is done, under a bar."""
    task = bars.add_task(what, total=100)
    result = finish(work, lambda share: bars.update(task, completed=int(100 * share)))
    bars.update(task, completed=100)
    return result
