"""A training run: it can be stopped at any time, and goes on as if it had not been."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Generator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from pentti import checks
from pentti.errors import TrainingError
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
    dropout leaves out, and the learning rate. So a run that was killed gives the same curve.

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
        StoreError: if the last checkpoint is damaged or of another model.
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
        self._stopping = False
        self.tensorboard = checks.flag("Trainer", "tensorboard", tensorboard)
        last = checkpoint.newest(self.checkpoints)
        if last is not None:
            pretrained.load(last, model)
        self.model = model.to(self.processes.device)
        sharded = checks.flag("Trainer", "sharded", sharded)
        if sharded and model.config.sparse_gradients:
            checks.reject("Trainer", "sharded", "be False with `sparse_gradients`", sharded)
        self._learner = self.processes.sharing(Learner(self.model, config.crowding), sharded)
        self._loss: Any = torch.compile(self._learner) if config.compiled else self._learner
        self.optimisers = optimisers(self.model, config)
        if last is not None:
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
            TrainingError: if the loss is no finite number; the last checkpoint stays.
            StoreError: if a checkpoint or the log cannot be written.
            KeyboardInterrupt: in all of several processes, after the same step, if one was asked
                to stop.
        """
        log = self._log() if self.processes.is_first else None
        alone: list[int] = []
        together: Any = noted() if self.processes.n > 1 else nullcontext(alone)
        try:
            with together as asked:
                while self.step < self.config.n_steps:
                    with held():
                        progress, row = self._advance(bool(asked))
                        if log is not None:
                            log.write(row)
                    yield progress
                    if self._stopping:
                        raise KeyboardInterrupt
        except (KeyboardInterrupt, GeneratorExit):
            with held():
                self.save()
            raise
        finally:
            if log is not None:
                log.close()

    def save(self) -> Path | None:
        """Write a checkpoint, unless this step has one.

        Returns:
            Its folder; None in a process that does not write.

        Raises:
            StoreError: if it cannot be written.
        """
        self.processes.wait()  # all see the same checkpoints
        kept = checkpoint.saved(self.checkpoints)
        if self.step in kept:
            return kept[self.step] if self.processes.is_first else None
        state = whole(self.model.state_dict())
        states = {name: whole(one.state_dict()) for name, one in self.optimisers.items()}
        if not self.processes.is_first:
            return None
        facts = {"tokens": self.tokens, "seconds": self.seconds}
        where, n_kept = self.checkpoints, self.config.n_kept
        return checkpoint.write(where, self.step, self.model.config, state, states, facts, n_kept)

    def validate(self) -> float:
        """Bits per byte of the validation documents, each read from its beginning.

        Returns:
            The mean over the first `validation_tokens` of them.
        """
        config, batches, left = self.config, [], self.config.validation_tokens
        for document in self.corpus.validation:
            n = min(self.corpus.n_ids(document) - 1, left)
            starts = range(0, n, config.context)
            batches += [[Piece(document, a, min(config.context, n - a))] for a in starts]
            left -= n
            if left <= 0:
                break
        with torch.no_grad(), evaluating(self.model):
            nats = sum(float(self._nats(pieces)[1]) for pieces in batches)
        return nats / math.log(2) / self._n_bytes([piece for one in batches for piece in one])

    def _advance(self, asked: bool) -> tuple[Progress, dict[str, Any]]:
        """One step, and what there is to say of it."""
        start, step, config = time.perf_counter(), self.step, self.config
        self.model.train()
        torch.manual_seed(_mixed(config.seed, step, self.processes.rank))
        all_pieces = [
            self.batches.pieces(step * config.n_batches + i) for i in range(config.n_batches)
        ]
        n = sum(piece.n for pieces in all_pieces for piece in pieces)
        own = all_pieces[self.processes.rank :: self.processes.n]
        nats, meters = self._descend(own, n, asked)
        if not math.isfinite(nats):
            raise TrainingError(self._lost(nats))
        gradient = self._update(config.rate(step))
        self.step, self.tokens = step + 1, self.tokens + n
        took = time.perf_counter() - start
        self.seconds += took
        is_last = self.step == config.n_steps
        validation = self.validate() if is_last or self.step % config.validate_every == 0 else None
        saved = self.save() if is_last or self.step % config.save_every == 0 else None
        per_byte = nats / math.log(2) / self._n_bytes([p for pieces in all_pieces for p in pieces])
        meter = meters / (n * max(1, self._n_memories))
        progress = Progress(
            self.step, nats / n, per_byte, n / took, meter, self._used(), validation, saved
        )
        return progress, {
            "step": self.step, "epoch": self.batches.epoch, "tokens": self.tokens,
            "loss": nats / n, "bits_per_byte": per_byte, "gradient": gradient,
            "lr": config.lr * config.rate(step), "tokens_per_s": n / took,
            "seconds": self.seconds, "meter": meter, "validation_bits_per_byte": validation,
        }  # fmt: skip

    def _descend(self, own: list[list[Piece]], n: int, asked: bool) -> tuple[float, float]:
        """Gradients of the step's mean loss; gives nats and meters, of all processes."""
        total = torch.zeros(3, dtype=torch.float64, device=self.processes.device)
        total[2] = asked
        for number, pieces in enumerate(own):
            with self.processes.apart(self._learner, number < len(own) - 1):
                loss, nats, meters = self._nats(pieces)
                (loss * (self.processes.n / n)).backward()  # processes take the mean
            total[:2] += torch.stack([nats.double(), meters.double()])
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
        dense = [p for p in self.model.parameters() if p.grad is not None and not p.grad.is_sparse]
        length = whole(nn.utils.clip_grad_norm_(dense, self.config.clip))
        for optimiser in self.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = group["highest_lr"] * rate
            optimiser.step()
            optimiser.zero_grad()
        return float(length)

    def _used(self) -> float:
        """Share of the learned locations that this process has read since it began."""
        n = sum(one.n_reads.numel() for one in self._learned)
        return sum(int((one.n_reads > 0).sum()) for one in self._learned) / max(1, n)

    def _log(self) -> Log:
        board = self.folder / "tensorboard" if self.tensorboard else None
        return Log(self.folder / "log.csv", self.step, board)

    def _go_on(self, last: Path) -> None:
        """Take over all of a checkpoint but the model."""
        facts, states = checkpoint.read_training(last)
        self.step, self.tokens = int(facts["step"]), int(facts["tokens"])
        self.seconds = float(facts["seconds"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(like(states[name], optimiser))

    def _n_bytes(self, pieces: list[Piece]) -> float:
        return sum(piece.n * self.corpus.bytes_per_id(piece.document) for piece in pieces)

    def _lost(self, nats: float) -> str:
        last = checkpoint.newest(self.checkpoints)
        kept = (
            "there is no checkpoint yet" if last is None else f"the last checkpoint is kept: {last}"
        )
        return (
            f"the loss of step {self.step + 1} is {nats}; {kept}; a lower `lr`, a longer "
            "`n_warm_up` or a shorter `clip` may help"
        )


def _mixed(seed: int, step: int, rank: int) -> int:
    """A seed for each step of each process."""
    return ((seed * 1_000_003 + step) * 1_009 + rank) % 2**63
