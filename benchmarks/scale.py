"""``python -m benchmarks.scale``: train whole models of 125 million and a billion parameters.

Real steps on real bytes: the Python standard library's own source. The models differ in their
memories only, so that the time of a step shows what a hard location costs that is not active.
"""

from __future__ import annotations

import json
import math
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor

from benchmarks import machine
from benchmarks.timing import Line, summary
from pentti import peaks
from pentti.nn import PenttiConfig, PenttiTransformer, RowwiseAdagrad, parameter_groups

__all__ = ["MODELS", "Text", "Trained", "main", "standard_library"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)

_BASE = PenttiConfig(
    vocab_size=256,
    dim=512,
    n_layers=12,
    n_heads=8,
    n_locations=99_856,
    feed_forward_factor=1.4,  # brings the whole to 125 million
)
MODELS = {
    "125M": _BASE,
    "1B": replace(_BASE, n_locations=989**2, sparse_gradients=True),
    "tiny": replace(_BASE, dim=64, n_layers=3, n_locations=2500, sparse_gradients=True),
}
SMALL = 99_856
"""Hard locations of the model that a larger one is compared with."""

_TEXT_BYTES = 8 * 2**20
_WARM_UP = 2


@dataclass(frozen=True)
class Text:
    """Bytes, and pieces of them.

    Attributes:
        source: uint8.
        batch: Pieces at a time.
        length: Tokens of a piece that are to be told.
    """

    source: Tensor
    batch: int
    length: int

    @property
    def longest(self) -> int:
        """Tokens that a piece may have, so that the held-out part has one."""
        return len(self.source) - self._border - 2

    @property
    def _border(self) -> int:
        return len(self.source) * 7 // 8

    def piece(self, generator: torch.Generator, *, held_out: bool = False) -> Tensor:
        """Token ids (batch, length + 1) from random places; the last eighth is held out."""
        border, last = self._border, self.length + 1
        low, high = (border, len(self.source)) if held_out else (0, border)
        starts = torch.randint(low, high - last, (self.batch, 1), generator=generator)
        return self.source[starts + torch.arange(last)].long()


def standard_library() -> Tensor:
    """The first 8 MiB of the standard library's source, in the order of its paths."""
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    joined = b"".join(path.read_bytes() for path in paths)[:_TEXT_BYTES]
    return torch.frombuffer(bytearray(joined), dtype=torch.uint8)


class Trained:
    """A model and its optimisers, ready for steps."""

    def __init__(self, config: PenttiConfig) -> None:
        start = time.perf_counter()
        torch.manual_seed(0)
        self.model = PenttiTransformer.of(config)
        self.build_s = time.perf_counter() - start
        self.optimisers = _optimisers(self.model)
        self.generator = torch.Generator().manual_seed(0)

    def step(self, text: Text) -> None:
        """One step of training."""
        loss = self.model.loss(text.piece(self.generator))
        loss.backward()
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    @torch.no_grad()
    def held_out(self, text: Text) -> float:
        """The loss on four batches of text that training never sees, in nats a byte."""
        generator = torch.Generator().manual_seed(1)
        return (
            math.fsum(
                self.model.loss(text.piece(generator, held_out=True)).item() for _ in range(4)
            )
            / 4
        )


def _optimisers(model: PenttiTransformer) -> list[torch.optim.Optimizer]:
    """Dense gradients: one fused AdamW for all; sparse ones: row-wise Adagrad for the contents."""
    rest, contents = parameter_groups(model, lr=1e-3, memory_lr=1e-2)
    if not model.config.sparse_gradients:
        contents["lr"] = rest["lr"]  # AdamW's steps are of one size whatever the gradient
        return [torch.optim.AdamW([rest, contents], fused=True)]
    return [torch.optim.AdamW([rest], fused=True), RowwiseAdagrad([contents])]


def _lines(name: str, text: Text, steps: int, note: Callable[[str], None]) -> Iterator[Line]:
    """Train one model and say what it took; a large one then again beside a small one."""
    config = MODELS[name]
    note(f"{name}: building")
    large = Trained(config)
    line = _described(name, config, large) | {"batch": text.batch, "length": text.length}
    note(f"{name}: loss before")
    line["loss_before"] = large.held_out(text)
    times = [_timed(large, text, note, f"{name}: step") for _ in range(_WARM_UP + steps)]
    line |= summary(times[_WARM_UP:], text.batch * text.length)
    line["peak_bytes"] = _peak_bytes()
    line["loss_after"] = large.held_out(text)
    yield line
    if config.n_locations > SMALL or name == "tiny":
        yield from _beside(name, large, text, steps, note)


def _beside(
    name: str, large: Trained, text: Text, steps: int, note: Callable[[str], None]
) -> Iterator[Line]:
    """The same model with a small memory, in turns with the large one, so that drift hits both."""
    few = SMALL if MODELS[name].n_locations > SMALL else 625
    config = replace(MODELS[name], n_locations=few)
    note("small: building")
    small = Trained(config)
    both = {"large": large, "small": small}
    times: dict[str, list[float]] = {which: [] for which in both}
    for _ in range(_WARM_UP + steps):
        for which, one in both.items():
            times[which].append(_timed(one, text, note, f"{which}: step"))
    middle = {which: summary(own[_WARM_UP:], 1)["median_s"] for which, own in times.items()}
    yield {
        **_described(f"{name} beside a small memory", config, small),
        "batch": text.batch,
        "length": text.length,
        **summary(times["small"][_WARM_UP:], text.batch * text.length),
        "large_median_s": middle["large"],
        "ratio": middle["large"] / middle["small"],
    }


def _described(name: str, config: PenttiConfig, one: Trained) -> Line:
    counted = one.model.n_parameters()
    return {
        "case": "scale",
        "model": name,
        "parameters": counted.total,
        "dense": counted.dense,
        "contents": counted.contents,
        "n_locations": config.n_locations,
        "places": list(config.places),
        "sparse_gradients": config.sparse_gradients,
        "threads": torch.get_num_threads(),
        "build_s": one.build_s,
    }


def _peak_bytes() -> int | None:
    try:
        return peaks.resident_bytes()[1]
    except OSError:  # a system that does not tell; the rest is worth having
        return None


def _timed(one: Trained, text: Text, note: Callable[[str], None], what: str) -> float:
    start = time.perf_counter()
    one.step(text)
    taken = time.perf_counter() - start
    note(f"{what}, {taken:.2f} s")
    return taken


@app.command()
def main(
    parameters: Annotated[str, typer.Option(help=f"One of {', '.join(MODELS)}.")] = "125M",
    steps: Annotated[int, typer.Option(min=1, help="Steps to time, after two more.")] = 10,
    batch: Annotated[int, typer.Option(min=1, help="Pieces of text at a time.")] = 4,
    length: Annotated[int, typer.Option(min=1, help="Tokens in each.")] = 256,
    threads: Annotated[int, typer.Option(min=1, help="For torch and numba.")] = 2,
    out: Annotated[Path, typer.Option(help="File of JSON lines; more are added.")] = Path(
        "benchmarks/results/scale.jsonl"
    ),
) -> None:
    """Train a model for a few steps, and write down its size, time, memory and loss."""
    if parameters not in MODELS:
        wanted = ", ".join(MODELS)
        print(f"scale: --parameters must be one of {wanted}, got {parameters}", file=sys.stderr)
        raise typer.Exit(2)
    torch.set_num_threads(threads)
    text = Text(standard_library(), batch, length)
    if length > text.longest:
        print(f"scale: --length must be at most {text.longest}", file=sys.stderr)
        raise typer.Exit(2)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a", encoding="utf-8") as file, console.status("") as status:
            trained = _lines(parameters, text, steps, status.update)  # one by one, as they come
            for line in chain([machine.describe()], trained):
                file.write(json.dumps(line) + "\n")
                file.flush()
                print(json.dumps(line))
    except OSError as error:
        print(f"scale: cannot write {out}: {error.strerror}", file=sys.stderr)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        print(f"scale: stopped; the lines so far are in {out}", file=sys.stderr)
        raise typer.Exit(130) from None


if __name__ == "__main__":
    app()
