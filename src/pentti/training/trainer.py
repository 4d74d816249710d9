"""A training run: it can be stopped at any time, and goes on as if it had not been."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from pentti import checks
from pentti.errors import StoreError, TrainingError
from pentti.files import locked
from pentti.interrupts import held, noted
from pentti.nn import PenttiTransformer, SDMLayer, pretrained
from pentti.nn.generation import evaluating
from pentti.training import checkpoint
from pentti.training.batches import Batch, Batches, Piece
from pentti.training.config import TrainingConfig
from pentti.training.corpus import Corpus
from pentti.training.learning import Learner, optimisers
from pentti.training.log import Log
from pentti.training.processes import Processes, like, whole

__all__ = ["Progress", "Trainer"]


class Progress(NamedTuple):
    """Where a run stands after a step.

    Attributes:
        step: Steps so far.
        loss: Mean of the step's tokens, in nats.
        bits_per_byte: The same, per byte of text.
        tokens_per_s: Of this step.
        meter: Hard locations that a token activated in a layer with a memory, on average; 0
            without one.
        used: Share of the learned hard locations that were read since the process began; 0 without
            any.
        validation: Bits per byte of the validation documents; None but after some steps.
        saved: The checkpoint that was written; None but after some steps.
    """

    step: int
    loss: float
    bits_per_byte: float
    tokens_per_s: float
    meter: float
    used: float
    validation: float | None
    saved: Path | None


class Trainer:
    """Trains a model on a corpus, from where the last checkpoint of the run stands.

    What each step does follows from the settings and its number alone: which pieces it reads, what
    dropout leaves out, and the learning rate. So a run that was killed gives the same curve, and
    several processes make the steps of one. The caller's own random numbers are left alone.

    Args:
        model: The model; where there is a checkpoint, its weights are replaced.
        corpus: Where the documents are.
        config: How it is trained.
        folder: Of the run: checkpoints and the log.
        processes: This process among all that train it; alone unless given.
        sharded: Whether each process keeps a share of the parameters and of their averages only
            (FSDP2), for models that do not fit one device.
        tensorboard: Whether the log is kept for TensorBoard too, in the folder `tensorboard`.

    Raises:
        ArgumentError: if the batches of a step cannot be shared by the processes, or parameters
            with sparse gradients are to be sharded.
        StoreError: if the last checkpoint is damaged or of other settings.
    """

    def __init__(
        self,
        model: PenttiTransformer,
        corpus: Corpus,
        config: TrainingConfig,
        folder: str | os.PathLike[str],
        processes: Processes | None = None,
        sharded: bool = False,
        tensorboard: bool = False,
    ) -> None:
        alone = Processes(0, 1, torch.device("cpu"))
        self.processes = alone if processes is None else processes
        if config.n_batches % self.processes.n:
            expected = f"be a multiple of the {self.processes.n} processes"
            checks.reject("Trainer", "n_batches", expected, config.n_batches)
        self.corpus, self.config, self.folder = corpus, config, Path(folder)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self._stopping = self._broken = False
        self.check: Callable[[], None] | None = None
        """Called before a run begins, in the process that writes; raises if it must not."""
        self.tensorboard = checks.flag("Trainer", "tensorboard", tensorboard)
        last = checkpoint.newest(self.checkpoints)
        if last is not None:
            with self._hinted():
                _load(last, model)
        self.model = model.to(self.processes.device)
        sharded = checks.flag("Trainer", "sharded", sharded)
        if sharded and model.config.sparse_gradients:
            checks.reject("Trainer", "sharded", "be False with `sparse_gradients`", sharded)
        self._learner = self.processes.sharing(Learner(self.model, config.crowding), sharded)
        self._loss: Any = self._learner
        if config.compiled:
            self._loss = torch.compile(self._learner, dynamic=True)  # rows have any length
        self.optimisers = optimisers(self.model, config)
        if last is not None:
            with self._hinted():
                self._go_on(last)
        self.batches = Batches(corpus, config.context, config.batch_tokens, config.seed)
        self._n_memories = sum(kind != "none" for kind in self.model.config.kinds)
        self._learned = [one for one in self.model.modules() if isinstance(one, SDMLayer)]

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    def run(self) -> Generator[Progress, None, None]:
        """Train up to the last step.

        Ctrl-C, or an end of the caller's loop, takes effect between two steps, and leaves a
        checkpoint of where the run stands.

        Yields:
            Where it stands, after each step.

        Raises:
            ArgumentError: if TensorBoard is asked for and not installed.
            TrainingError: if the loss, the gradient or a parameter is no finite number, or an
                earlier step failed; the last checkpoint stays.
            StoreError: if a checkpoint or the log cannot be written, or another process trains in
                the folder.
            KeyboardInterrupt: in all of several processes, after the same step, if one was asked
                to stop.
        """
        if self._broken:
            raise TrainingError("a step of this trainer has failed half-way; make a new one")
        alone: list[int] = []
        together: Any = noted() if self.processes.n > 1 else nullcontext(alone)
        with self._writing() as log:
            try:
                with together as asked:
                    while self.step < self.config.n_steps:
                        with held():
                            self._broken = True
                            progress = self._advance(bool(asked), log)
                            self._broken = False
                        yield progress
                        if self._stopping:
                            raise KeyboardInterrupt
            except (KeyboardInterrupt, GeneratorExit):
                with held():
                    self.save()
                raise

    @contextmanager
    def _writing(self) -> Iterator[Log | None]:
        """The log, in the first of all processes, which keeps the folder to itself meanwhile."""
        if not self.processes.is_first:
            yield None
            return
        board = self.folder / "tensorboard" if self.tensorboard else None
        with locked(self.folder):
            if self.check is not None:
                self.check()
            last = max(checkpoint.saved(self.checkpoints), default=0)
            if last > self.step:
                raise StoreError(
                    f"cannot go on from {self.folder}: it has come to step {last} since this "
                    f"trainer was made at step {self.step}; make a new one"
                )
            with closing(Log(self.folder / "log.csv", self.step, board)) as log:
                yield log

    def save(self) -> Path | None:
        """Write a checkpoint, unless this step has one.

        Returns:
            Its folder; None in a process that does not write.

        Raises:
            StoreError: if it cannot be written.
            TrainingError: if a parameter is no finite number.
        """
        self.processes.wait()  # all see the same checkpoints
        kept = checkpoint.saved(self.checkpoints)
        if self.step in kept:
            return kept[self.step] if self.processes.is_first else None
        state = whole(self.model.state_dict())
        for name, x in state.items():
            if not x.isfinite().all():
                raise TrainingError(self._lost(f"{name} after step {self.step} is not finite"))
        states = {name: whole(one.state_dict()) for name, one in self.optimisers.items()}
        if not self.processes.is_first:
            return None
        facts = {"tokens": self.tokens, "seconds": self.seconds}
        where, n_kept = self.checkpoints, self.config.n_kept
        return checkpoint.write(where, self.step, self.model.config, state, states, facts, n_kept)

    def validate(self) -> float:
        """Bits per byte of the validation documents, each read from its beginning.

        Returns:
            The mean over `validation_tokens` of them: a row of each, then a second one of each that
            is longer, and so on.
        """
        pieces = self._validation()
        with torch.no_grad(), evaluating(self.model):
            nats = sum(float(self._nats([piece])[1]) for piece in pieces)
        return nats / math.log(2) / self._n_bytes(pieces)

    def _validation(self) -> list[Piece]:
        corpus, context, left = self.corpus, self.config.context, self.config.validation_tokens
        found: list[Piece] = []
        longest = max(corpus.n_ids(document) - 1 for document in corpus.validation)
        for start in range(0, longest, context):
            for document in corpus.validation:
                n = min(corpus.n_ids(document) - 1 - start, context, left)
                if n > 0:
                    found.append(Piece(document, start, n))
                    left -= n
        return found

    def _advance(self, asked: bool, log: Log | None) -> Progress:
        """One step; its row is written before a checkpoint, from which nobody would write it."""
        start, step, config = time.perf_counter(), self.step, self.config
        self.model.train()
        all_pieces = [
            self.batches.pieces(step * config.n_batches + i) for i in range(config.n_batches)
        ]
        n = sum(piece.n for pieces in all_pieces for piece in pieces)
        own = all_pieces[self.processes.rank :: self.processes.n]
        nats, meters = self._descend(own, n, asked)
        self._check_finite(f"loss of step {step + 1}", nats)
        gradient = self._update(config.rate(step))
        self.step, self.tokens = step + 1, self.tokens + n
        took = time.perf_counter() - start
        self.seconds += took
        is_last = self.step == config.n_steps
        validation = self.validate() if is_last or self.step % config.validate_every == 0 else None
        if validation is not None:
            self._check_finite(f"validation after step {step + 1}", validation)
        per_byte = nats / math.log(2) / self._n_bytes([p for pieces in all_pieces for p in pieces])
        meter = meters / (n * max(1, self._n_memories))
        saves = is_last or self.step % config.save_every == 0
        if log is not None:
            log.write({
                "step": self.step, "epoch": self.batches.epoch, "tokens": self.tokens,
                "loss": nats / n, "bits_per_byte": per_byte, "gradient": gradient,
                "lr": config.lr * config.rate(step), "tokens_per_s": n / took,
                "seconds": self.seconds, "meter": meter, "validation_bits_per_byte": validation,
            })  # fmt: skip
            if saves:
                log.sync()
        saved = self.save() if saves else None
        return Progress(
            self.step, nats / n, per_byte, n / took, meter, self._used(), validation, saved
        )

    def _descend(self, own: list[list[Piece]], n: int, asked: bool) -> tuple[float, float]:
        """Gradients of the step's mean loss; gives nats and meters, of all processes."""
        total = torch.zeros(3, dtype=torch.float64, device=self.processes.device)
        total[2] = asked
        for number, pieces in enumerate(own):
            batch = self.processes.rank + number * self.processes.n
            with self._dice(batch), self.processes.apart(self._learner, number < len(own) - 1):
                loss, nats, meters = self._nats(pieces)
                (loss * (self.processes.n / n)).backward()  # processes take the mean
            total[:2] += torch.stack([nats.double(), meters.double()])
        self.processes.share_sparse(self.model)
        all_nats, all_meters, n_asked = self.processes.added(total).tolist()
        self._stopping = n_asked > 0  # in all processes after the same step
        return all_nats, all_meters

    def _nats(self, pieces: list[Piece]) -> tuple[torch.Tensor, ...]:
        batch, device = Batch.of(self.corpus, pieces), self.processes.device
        mask = None if batch.mask.all() else batch.mask.to(device)
        half = self.config.precision == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            found: tuple[torch.Tensor, ...] = self._loss(
                batch.ids.to(device), batch.targets.to(device), mask
            )
        return found

    def _update(self, rate: float) -> float:
        """Change the parameters; gives the length of the gradient."""
        found = [p for p in self.model.parameters() if p.grad is not None]
        dense = [p for p in found if not _gradient(p).is_sparse]
        length = float(whole(nn.utils.clip_grad_norm_(dense, self.config.clip)))
        sparse = (_gradient(p) for p in found if _gradient(p).is_sparse)
        total = length + sum(float(torch.sparse.sum(x)) for x in sparse)
        self._check_finite(f"gradient of step {self.step + 1}", total)
        for optimiser in self.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = group["highest_lr"] * rate
            optimiser.step()
            optimiser.zero_grad()
        return length

    def _used(self) -> float:
        """Share of the learned locations that this process has read since it began."""
        n = sum(one.n_reads.numel() for one in self._learned)
        return sum(int((one.n_reads > 0).sum()) for one in self._learned) / max(1, n)

    @contextmanager
    def _dice(self, batch: int) -> Iterator[None]:
        """Random numbers that follow from the batch of the step alone, in whatever process."""
        device = self.processes.device
        own = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(own):
            torch.manual_seed(_mixed(self.config.seed, self.step, batch))
            yield

    @contextmanager
    def _hinted(self) -> Iterator[None]:
        """Where the last checkpoint cannot be read, say that there is an older one."""
        try:
            yield
        except StoreError as error:
            older = list(checkpoint.saved(self.checkpoints).values())[:-1]
            if not older:
                raise
            raise StoreError(f"{error}; take it away to go on from {older[-1].name}") from error

    def _go_on(self, last: Path) -> None:
        """Take over all of a checkpoint but the model."""
        facts, states = checkpoint.read_training(last)
        try:
            self.step, self.tokens = int(facts["step"]), int(facts["tokens"])
            self.seconds = float(facts["seconds"])
            for name, optimiser in self.optimisers.items():
                optimiser.load_state_dict(like(states[name], optimiser))
        except (LookupError, TypeError, ValueError) as error:
            raise StoreError(
                f"cannot go on from {last}: it is damaged, or of another pentti ({error})"
            ) from error

    def _n_bytes(self, pieces: list[Piece]) -> float:
        return sum(piece.n * self.corpus.bytes_per_id(piece.document) for piece in pieces)

    def _check_finite(self, what: str, x: float) -> None:
        if not math.isfinite(x):
            raise TrainingError(self._lost(f"the {what} is {x}"))

    def _lost(self, why: str) -> str:
        last = checkpoint.newest(self.checkpoints)
        kept = (
            "there is no checkpoint yet" if last is None else f"the last checkpoint is kept: {last}"
        )
        return (
            f"{why}; {kept}; in a new folder, a lower `lr`, a longer `n_warm_up` or a shorter "
            "`clip` may help"
        )


def _load(last: Path, model: PenttiTransformer) -> None:
    """Take over the model of a checkpoint, which must be of the same settings."""
    found, wanted = (one.as_dict() for one in (pretrained.read_config(last), model.config))
    for name, value in wanted.items():
        if found[name] != value:
            got = f"{name} is {found[name]!r} there, {value!r} is asked for"
            raise StoreError(f"cannot go on from {last}: it is of another model, {got}")
    pretrained.load(last, model)


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    assert parameter.grad is not None  # noqa: S101 the caller looked
    return parameter.grad


def _mixed(seed: int, step: int, batch: int) -> int:
    """A seed for each batch of each step."""
    return ((seed * 1_000_003 + step) * 1_009 + batch) % 2**63
