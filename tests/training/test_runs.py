"""Runs in a folder: settings, stops, checkpoints, the log, and what is damaged."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from helpers import outcome_of
from running import BRIEF, SMALL, begun, curve, losses, run_of

from pentti.errors import ArgumentError, SettingWarning, StoreError, TrainingError
from pentti.nn import PenttiTransformer
from pentti.persistence import load_tensors, save_tensors
from pentti.training import (
    Processes,
    Run,
    Trainer,
    checkpoint,
    corpus_of,
    joined,
    model_of,
    prepare,
    trainer,
)


def test_tensorboard_shows_each_step_once_after_a_stop(texts, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = run_of(texts)
    corpus, _ = outcome_of(prepare(tmp_path, run))
    for now in trainer(tmp_path, run, corpus, tensorboard=True).run():
        if now.step == 5:
            break
    list(trainer(tmp_path, run, corpus, tensorboard=True).run())
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    shown = board.Scalars("loss")
    assert [one.step for one in shown] == [*range(1, 10)]
    assert [one.value for one in shown] == pytest.approx(losses(tmp_path))
    assert [one.step for one in board.Scalars("validation_bits_per_byte")] == [4, 8, 9]


def test_tensorboard_that_is_missing_is_named(texts, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run = run_of(texts)
    corpus, _ = outcome_of(prepare(tmp_path, run))
    work = trainer(tmp_path, run, corpus, tensorboard=True)
    with pytest.raises(ArgumentError, match="`tensorboard` needs the package tensorboard"):
        next(work.run())


@pytest.mark.parametrize("stop", [1, 3, 7])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(texts, tmp_path, stop):
    run = run_of(texts)
    list(begun(tmp_path / "whole", run).run())
    for now in begun(tmp_path / "parts", run).run():
        if now.step == stop:
            break
    rest = [now.step for now in begun(tmp_path / "parts", run).run()]
    assert rest == [*range(stop + 1, 10)]
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    assert [*begun(tmp_path / "parts", run).run()] == []  # it is done


def test_a_lost_checkpoint_is_made_up_for(texts, tmp_path):
    """As after a kill: the log has rows that no checkpoint has seen."""
    run = run_of(texts, save_every=4)
    list(begun(tmp_path / "whole", run).run())
    work = begun(tmp_path / "parts", run)
    steps = work.run()
    for _ in range(6):
        next(steps)
    work.save = lambda: None  # the end of the loop would save
    del steps
    assert len(curve(tmp_path / "parts")) == 6
    list(begun(tmp_path / "parts", run).run())
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")


def test_a_row_is_on_the_disk_before_its_checkpoint(texts, tmp_path, monkeypatch):
    """Whoever is stopped between the two would else lose the row for ever."""
    rows = []

    def stopped(*_, **__):
        rows.extend(curve(tmp_path))
        raise StoreError("cannot write: no space left")

    monkeypatch.setattr(checkpoint, "write", stopped)
    with pytest.raises(StoreError, match="no space left"):
        list(begun(tmp_path, run_of(texts)).run())
    assert [row[0] for row in rows] == ["1", "2", "3"]


def test_one_process_at_a_time_trains_in_a_folder(texts, tmp_path):
    run = run_of(texts)
    steps = begun(tmp_path, run).run()
    next(steps)
    with pytest.raises(StoreError, match="somebody works in it already; wait for their end"):
        begun(tmp_path, run)
    steps.close()
    begun(tmp_path, run)


def test_a_trainer_that_another_one_has_overtaken_is_refused(texts, tmp_path):
    run = run_of(texts)
    late = begun(tmp_path, run)
    list(begun(tmp_path, run).run())
    rows = curve(tmp_path)
    with pytest.raises(StoreError, match="it has come to step 9 since this trainer was made at st"):
        next(late.run())
    assert curve(tmp_path) == rows
    assert list(checkpoint.saved(tmp_path / "checkpoints")) == [6, 9]


def test_settings_that_others_have_replaced_are_refused(texts, tmp_path):
    """Before it has a checkpoint another command may begin the run anew."""
    work = begun(tmp_path, run_of(texts))
    begun(tmp_path, run_of(texts, lr=1e-3))
    with pytest.raises(ArgumentError, match=r"`lr` must be 0.001, as in the run"):
        next(work.run())


def test_after_a_step_that_failed_a_new_trainer_is_needed(texts, tmp_path, monkeypatch):
    list(begun(tmp_path / "whole", run_of(texts, n_batches=2)).run())
    work = begun(tmp_path / "parts", run_of(texts, n_batches=2))
    steps = work.run()
    next(steps)
    plain, calls = work._nats, []

    def failing(pieces):
        calls.append(pieces)
        if len(calls) == 2:
            raise MemoryError
        return plain(pieces)

    monkeypatch.setattr(work, "_nats", failing)
    with pytest.raises(MemoryError):
        next(steps)
    with pytest.raises(TrainingError, match="a step of this trainer has failed half-way"):
        next(work.run())
    list(begun(tmp_path / "parts", run_of(texts, n_batches=2)).run())
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")


def test_a_lost_index_does_not_cost_the_ids(texts, tmp_path):
    own = shutil.copytree(texts, tmp_path / "texts")
    folder, run = tmp_path / "run", run_of(own)
    list(begun(folder, run).run())
    index = (folder / "corpus" / "corpus.json").read_bytes()
    (folder / "corpus" / "corpus.json").unlink()
    first = next(own.iterdir())
    text = first.read_text()
    first.write_text("other")
    with pytest.raises(StoreError, match="its documents are not what they were"):
        begun(folder, run)
    (folder / "corpus" / "corpus.json").write_bytes(index)
    assert begun(folder, run).step == 9
    (folder / "corpus" / "corpus.json").unlink()
    first.write_text(text)
    assert begun(folder, run).step == 9
    assert not list(folder.glob("corpus-*"))


def test_a_folder_made_for_nothing_goes_again(texts, tmp_path):
    with pytest.raises(StoreError, match="there is no such file"):
        begun(tmp_path / "new", Run(sources=["nowhere"], model=SMALL, training=BRIEF))
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with pytest.raises(StoreError, match="there is no such file"):
        begun(tmp_path / "old", Run(sources=["nowhere"], model=SMALL, training=BRIEF))
    assert (tmp_path / "old").exists()


def test_what_a_killed_process_left_goes(texts, tmp_path):
    begun(tmp_path, run_of(texts))
    (tmp_path / ".pentti-abc").write_text("half a log")
    begun(tmp_path, run_of(texts))
    assert not list(tmp_path.glob(".pentti-*"))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "`environment` must be torchrun's, or none, got WORLD_SIZE without"),
        ({"WORLD_SIZE": "two", "RANK": "0", "LOCAL_RANK": "0"}, "a whole number as WORLD_SIZE"),
    ],
    ids=len,
)
def test_an_environment_that_is_not_torchruns_is_named(monkeypatch, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ArgumentError, match=message), joined("cpu"):
        pass


def test_lost_rows_are_told(texts, tmp_path):
    run = run_of(texts)
    for now in begun(tmp_path, run).run():
        if now.step == 5:
            break
    lines = (tmp_path / "log.csv").read_text().splitlines(keepends=True)
    (tmp_path / "log.csv").write_text("".join(lines[:3]) + lines[3][:7])
    with pytest.warns(SettingWarning, match=r"log.csv has 2 of the 5 rows so far; the others are"):
        list(begun(tmp_path, run).run())
    assert [row[0] for row in curve(tmp_path)] == ["1", "2", "6", "7", "8", "9"]


def test_a_foreign_log_stays_as_it_is(texts, tmp_path):
    (tmp_path / "log.csv").write_bytes(b"time,\xff\n1,2\n")
    with pytest.raises(StoreError, match=r"log.csv: it is no log of this pentti"):
        next(begun(tmp_path, run_of(texts)).run())
    assert (tmp_path / "log.csv").read_bytes() == b"time,\xff\n1,2\n"


def damaged_state(checkpoint_folder, change):
    """Write the optimisers' part of a checkpoint again, changed."""
    path = checkpoint_folder / "training.safetensors"
    facts, tensors = load_tensors(path, "training")
    change(facts, tensors)
    save_tensors(path, "training", facts, tensors)


@pytest.mark.parametrize(
    "change",
    [
        lambda facts, _: facts.pop("settings"),
        lambda facts, _: facts.pop("tokens"),
        lambda facts, _: facts["settings"].pop("adamw"),
        lambda facts, _: facts["settings"]["adamw"]["groups"].pop(),
        lambda _, tensors: tensors.update({"adamw/0/exp_avg": torch.zeros(3, 3)}),
        lambda _, tensors: tensors.update({"adamw/999/exp_avg": torch.zeros(3)}),
        lambda _, tensors: tensors.update({"adamw": torch.zeros(3)}),
    ],
    ids=["settings", "tokens", "optimiser", "groups", "shape", "index", "name"],
)
def test_a_damaged_checkpoint_is_named(texts, tmp_path, change):
    run = run_of(texts, n_kept=2)
    list(begun(tmp_path, run).run())
    damaged_state(checkpoint.newest(tmp_path / "checkpoints"), change)
    with pytest.raises(StoreError, match=r"step-00000009.*; take it away to go on from step-0+6"):
        begun(tmp_path, run)


def test_a_checkpoint_of_other_settings_is_refused(texts, tmp_path):
    run = run_of(texts)
    list(begun(tmp_path, run).run())
    other = PenttiTransformer(257, **SMALL | {"window": 9})
    message = "of another model, window is 8 there, 9 is asked for"
    with pytest.raises(StoreError, match=message):
        Trainer(other, corpus_of(tmp_path), BRIEF, tmp_path)


def test_until_there_is_a_checkpoint_a_run_may_begin_anew(texts, tmp_path):
    begun(tmp_path, run_of(texts))
    work = begun(tmp_path, run_of(texts, lr=1e-3, n_steps=1))
    list(work.run())
    assert work.config.lr == 1e-3
    with pytest.raises(ArgumentError, match=r"`lr` must be 0.001, as in the run that"):
        begun(tmp_path, run_of(texts, n_steps=1))


def test_settings_that_say_the_same_are_the_same(texts, tmp_path, monkeypatch):
    """A default that is named, numbers of NumPy's, another way to write a path."""
    list(begun(tmp_path, run_of(texts)).run())
    model = SMALL | {"dim": np.int64(16), "n_heads": np.int32(2), "beta": None, "seed": 0}
    monkeypatch.chdir(texts.parent)
    same = Run(sources=[texts.parent / "." / texts.name], model=model, training=BRIEF)
    assert begun(tmp_path, same).step == 9


def test_a_run_of_an_older_pentti_takes_the_defaults(texts, tmp_path):
    list(begun(tmp_path, run_of(texts)).run())
    path = tmp_path / "run.json"
    old = json.loads(path.read_text())
    del old["training"]["beta_lr"], old["model"]["beta"], old["corpus"]
    path.write_text(json.dumps(old))
    assert begun(tmp_path, run_of(texts)).step == 9
    with pytest.raises(ArgumentError, match=r"`beta_lr` must be 0.01, as in the run"):
        begun(tmp_path, run_of(texts, beta_lr=0.5))


@pytest.mark.parametrize("text", ["[]", "{}", "\xff", "[" * 100_000, '{"pentti": "run"}'], ids=len)
def test_damaged_settings_are_named(texts, tmp_path, text):
    list(begun(tmp_path, run_of(texts)).run())
    (tmp_path / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(StoreError, match=r"cannot read .*run.json: it is damaged"):
        begun(tmp_path, run_of(texts))


def test_a_run_with_checkpoints_keeps_to_its_documents(texts, tmp_path):
    own = shutil.copytree(texts, tmp_path / "texts")
    folder, run = tmp_path / "run", run_of(own)
    list(begun(folder, run).run())
    (own / "new.txt").write_text("more")
    assert begun(folder, run).step == 9  # it has a copy
    shutil.rmtree(folder / "corpus")
    with pytest.raises(StoreError, match="its documents are not what they were"):
        begun(folder, run)
    (own / "new.txt").unlink()
    assert begun(folder, run).step == 9
    (folder / "run.json").unlink()
    with pytest.raises(StoreError, match=r"cannot go on from .*: its run.json is missing"):
        begun(folder, run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": "texts"}, "`sources` must be a list of at least one path"),
        ({"sources": []}, "`sources` must be a list of at least one path"),
        ({"sources": [3]}, "`sources` must be a path"),
        ({"tokenizer": 3}, "`tokenizer` must be a path"),
        ({"validation": "x"}, "`validation` must be a number"),
        ({"model": [1]}, "`model` must be settings by name"),
        ({"training": {}}, "`training` must be a TrainingConfig"),
    ],
    ids=str,
)
def test_wrong_runs_are_refused(changes, message):
    with pytest.raises(ArgumentError, match=f"Run: {message}"):
        Run(**{"sources": ["texts"]} | changes)


def test_the_newest_checkpoints_are_kept(texts, tmp_path):
    list(begun(tmp_path, run_of(texts, save_every=2, n_kept=3)).run())
    assert list(checkpoint.saved(tmp_path / "checkpoints")) == [6, 8, 9]
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_other_settings_are_refused(texts, tmp_path):
    folder = tmp_path / "run"
    list(begun(folder, run_of(texts)).run())
    for changed, message in (
        (
            run_of(texts, lr=1e-3),
            "train: `lr` must be 0.01, as in the run that .* holds, got 0.001",
        ),
        (Run(sources=(str(texts),), model=SMALL | {"dim": 32}, training=BRIEF), "`dim` must be 16"),
        (Run(sources=("other",), model=SMALL, training=BRIEF), "`sources` must be"),
    ):
        with pytest.raises(ArgumentError, match=message):
            begun(folder, changed)
    with pytest.raises(
        ArgumentError, match="`n_batches` must be a multiple of the 2 processes, got 1"
    ):
        begun(folder, run_of(texts), Processes(0, 2, torch.device("cpu")))
    begun(tmp_path / "new", run_of(texts))
    with pytest.raises(StoreError, match="the run has no checkpoint yet"):
        model_of(tmp_path / "new")
    with pytest.raises(StoreError, match="there is no run in it"):
        model_of(tmp_path / "nowhere")
