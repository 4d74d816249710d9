"""Small training runs, for tests of several files."""

import csv

from helpers import outcome_of

from pentti.training import Run, TrainingConfig, prepare, trainer

SMALL = {
    "dim": 16, "n_layers": 2, "n_heads": 2, "window": 8, "memory_layers": [1],
    "memory_kind": "sequence", "sequence": {"max_length": 64, "top_k": 2}, "dropout": 0.1,
}  # fmt: skip
BRIEF = TrainingConfig(
    n_steps=9, context=64, batch_tokens=256, n_warm_up=2, validate_every=4, validation_tokens=200,
    save_every=3, lr=1e-2,
)  # fmt: skip
CURVE = ("step", "epoch", "tokens", "loss", "gradient", "lr", "meter", "validation_bits_per_byte")


def run_of(texts, **changes):
    training = TrainingConfig.of(BRIEF.as_dict() | changes)
    return Run(sources=(str(texts),), model=SMALL, training=training)


def begun(folder, run, processes=None):
    corpus, _ = outcome_of(prepare(folder, run))
    return trainer(folder, run, corpus, processes)


def curve(folder):
    with (folder / "log.csv").open(newline="") as file:
        return [[row[name] for name in CURVE] for row in csv.DictReader(file)]


def losses(folder):
    return [float(row[3]) for row in curve(folder)]
