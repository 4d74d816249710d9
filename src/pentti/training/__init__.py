"""Train models on documents: corpora, checkpoints, runs that go on after any stop."""

from pentti.training import documents
from pentti.training.batches import Batch, Batches, Piece
from pentti.training.config import TrainingConfig
from pentti.training.copies import copied
from pentti.training.corpus import Corpus, build
from pentti.training.encoding import Encoding
from pentti.training.evaluation import Evaluation, Stretch, evaluate
from pentti.training.processes import Processes, joined
from pentti.training.run import Run, corpus_of, model_of, prepare, trainer
from pentti.training.trainer import Progress, Trainer

__all__ = [
    "Batch",
    "Batches",
    "Corpus",
    "Encoding",
    "Evaluation",
    "Piece",
    "Processes",
    "Progress",
    "Run",
    "Stretch",
    "Trainer",
    "TrainingConfig",
    "build",
    "copied",
    "corpus_of",
    "documents",
    "evaluate",
    "joined",
    "model_of",
    "prepare",
    "trainer",
]
