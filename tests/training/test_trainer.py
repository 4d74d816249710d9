"""Training: that it learns, goes on exactly, shares work exactly, and loses nothing."""

import csv
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers import outcome_of, write_texts

from pentti.errors import ArgumentError, StoreError, TrainingError
from pentti.nn import PenttiTransformer
from pentti.training import (
    Processes,
    Run,
    Trainer,
    TrainingConfig,
    build,
    corpus_of,
    evaluate,
    model_of,
    prepare,
    trainer,
)
from pentti.training.learning import Learner, optimisers

SMALL = {
    "dim": 16, "n_layers": 2, "n_heads": 2, "window": 8, "memory_layers": [1],
    "memory_kind": "sequence", "sequence": {"max_length": 64, "top_k": 2}, "dropout": 0.1,
}  # fmt: skip
BRIEF = TrainingConfig(
    n_steps=9, context=64, batch_tokens=256, n_warm_up=2, validate_every=4, validation_tokens=200,
    save_every=3, lr=1e-2,
)  # fmt: skip
CURVE = ("step", "epoch", "tokens", "loss", "gradient", "lr", "meter", "validation_bits_per_byte")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts"))


def run_of(texts, **changes):
    training = TrainingConfig.of(BRIEF.as_dict() | changes)
    return Run(sources=(str(texts),), model=SMALL, training=training)


def begun(folder, run, processes=None):
    corpus, _ = outcome_of(prepare(folder, run))
    return trainer(folder, run, corpus, processes)


def curve(folder):
    with (folder / "log.csv").open(newline="") as file:
        return [[row[name] for name in CURVE] for row in csv.DictReader(file)]


def test_it_learns(texts, tmp_path):
    """Prediction: texts of one form go from 8 bits a byte to below 2 in 150 steps."""
    work = begun(tmp_path, run_of(texts, n_steps=150, save_every=150, validate_every=150))
    steps = list(work.run())
    assert steps[0].bits_per_byte > 7
    assert steps[-1].bits_per_byte < 2
    assert steps[-1].validation < 2
    assert [now.step for now in steps] == [*range(1, 151)]
    model, corpus = model_of(tmp_path), corpus_of(tmp_path)
    found, _ = outcome_of(evaluate(model, corpus, corpus.validation))
    assert found.bits_per_byte < 2
    for one, other in zip(model.parameters(), work.model.parameters(), strict=True):
        assert torch.equal(one, other)


def losses(folder):
    return [float(row[3]) for row in curve(folder)]


def test_bfloat16_learns_as_float32_does(texts, tmp_path):
    """Products have 8 bits; weights, sums and the optimiser's averages stay in float32."""
    list(begun(tmp_path / "whole", run_of(texts, n_steps=40)).run())
    work = begun(tmp_path / "half", run_of(texts, n_steps=40, precision="bfloat16"))
    list(work.run())
    whole, half = losses(tmp_path / "whole"), losses(tmp_path / "half")
    assert half != whole
    assert half == pytest.approx(whole, rel=0.05)
    assert {p.dtype for p in work.model.parameters()} == {torch.float32}
    states = work.optimisers["adamw"].state.values()
    assert {state["exp_avg"].dtype for state in states} == {torch.float32}


def test_a_compiled_model_learns_the_same_and_is_saved_as_any_other(
    texts, tmp_path, compiler, monkeypatch
):
    monkeypatch.setattr(torch, "compile", lambda model: compiler(model, backend="aot_eager"))
    for name, compiled in (("whole", False), ("compiled", True)):
        run = run_of(texts, compiled=compiled, n_steps=3)
        list(begun(tmp_path / name, run).run())
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "whole"), rel=1e-3)
    one, other = (model_of(tmp_path / name) for name in ("whole", "compiled"))
    assert set(one.state_dict()) == set(other.state_dict())


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


def test_batches_add_up(texts, tmp_path):
    """Two batches of one step move the model as their mean over all tokens does."""
    corpus, _ = outcome_of(build([str(texts)], tmp_path / "corpus"))
    torch.manual_seed(0)
    model = PenttiTransformer(257, **SMALL | {"dropout": 0.0}).double()
    work = Trainer(model, corpus, TrainingConfig.of(BRIEF.as_dict() | {"n_batches": 3}), tmp_path)
    pieces = [work.batches.pieces(i) for i in range(3)]
    n = sum(piece.n for one in pieces for piece in one)
    nats, meters = work._descend(pieces, n, False)
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    total = sum(work._nats(one)[0] for one in pieces) / n
    total.backward()
    assert meters == n * 2 * 2  # heads and locations of one memory
    assert nats / n == pytest.approx(total.item(), rel=1e-9)
    for gradient, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_checkpoint(texts, tmp_path):
    run = run_of(texts)
    work = begun(tmp_path, run)
    steps = work.run()
    for _ in range(4):
        next(steps)
    with torch.no_grad():
        work.model.embedding.weight.fill_(math.nan)
    message = (
        r"the loss of step 5 is nan; the last checkpoint is kept: .*step-00000003; a lower `lr`"
    )
    with pytest.raises(TrainingError, match=message):
        next(steps)
    again = begun(tmp_path, run)
    assert again.step == 3
    assert all(parameter.isfinite().all() for parameter in again.model.parameters())


def test_other_settings_are_refused(texts, tmp_path):
    begun(tmp_path, run_of(texts))
    for changed, message in (
        (
            run_of(texts, lr=1e-3),
            "train: `lr` must be 0.01, as in the run that .* holds, got 0.001",
        ),
        (Run(sources=(str(texts),), model=SMALL | {"dim": 32}, training=BRIEF), "`dim` must be 16"),
        (Run(sources=("other",), model=SMALL, training=BRIEF), "`sources` must be"),
    ):
        with pytest.raises(ArgumentError, match=message):
            begun(tmp_path, changed)
    with pytest.raises(
        ArgumentError, match="`n_batches` must be a multiple of the 2 processes, got 1"
    ):
        begun(tmp_path, run_of(texts), Processes(0, 2, torch.device("cpu")))
    with pytest.raises(StoreError, match="the run has no checkpoint yet"):
        model_of(tmp_path)
    with pytest.raises(StoreError, match="there is no run in it"):
        model_of(tmp_path / "nowhere")


def test_matrices_decay_and_vectors_do_not(texts):
    model = PenttiTransformer(257, **SMALL)
    (one,) = optimisers(model, BRIEF).values()
    decays = {id(p): group["weight_decay"] for group in one.param_groups for p in group["params"]}
    assert len(decays) == len(list(model.parameters()))
    for parameter in model.parameters():
        assert (decays[id(parameter)] > 0) == (parameter.ndim > 1)


def test_the_beta_of_attention_has_a_rate_of_its_own(texts):
    model = PenttiTransformer(257, **SMALL | {"beta": 5.0})
    config = TrainingConfig.of(BRIEF.as_dict() | {"beta_lr": 0.5})
    (one,) = optimisers(model, config).values()
    rates = {id(p): group["lr"] for group in one.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    fast = [name for name, p in model.named_parameters() if rates[id(p)] == 0.5]
    assert len(fast) == SMALL["n_layers"]
    assert all(name.endswith("attention.log_beta") for name in fast)


def test_crowding_is_part_of_what_is_to_become_less():
    torch.manual_seed(1)
    model = PenttiTransformer(257, **SMALL | {"dropout": 0.0})
    ids = torch.randint(257, (2, 30))
    plain, nats, meters = Learner(model)(ids, ids, None)
    more, again, _ = Learner(model, 0.5)(ids, ids, None)
    assert int(meters) == ids.numel() * 4
    torch.testing.assert_close(nats, again)
    assert plain == nats
    assert more > plain + 0.1


def command(folder, texts):
    return [
        sys.executable, "-m", "pentti", "train", str(folder), "--text", str(texts),
        "--dim", "16", "--layers", "2", "--heads", "2",
        "--window", "8", "--context", "64", "--batch-tokens", "256", "--steps", "30",
        "--set", "save_every=4", "--set", "validation_tokens=200", "--set", "n_batches=2",
    ]  # fmt: skip


TOGETHER = [
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
]  # fmt: skip
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@pytest.fixture(scope="module")
def alone(texts, tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("alone")
    finished(command(folder, texts))
    return folder


def finished(command):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=True, capture_output=True, env=environment)


def begun_process(command, folder, n_steps):
    """The process, after some steps."""
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, **QUIET)
    deadline = time.monotonic() + 120
    while not (folder / "log.csv").exists() or len(curve(folder)) < n_steps:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    return process


def assert_near(folder, other):
    for one, two in zip(curve(folder), curve(other), strict=True):
        numbers = [[float(cell or 0) for cell in row] for row in (one, two)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-3)


def test_a_killed_run_gives_the_same_curve(texts, alone, tmp_path):
    process = begun_process(command(tmp_path, texts), tmp_path, 10)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(curve(tmp_path)) < 30
    finished(command(tmp_path, texts))
    assert curve(tmp_path) == curve(alone)


def test_two_processes_make_the_steps_of_one(texts, alone, tmp_path):
    finished(TOGETHER + command(tmp_path, texts)[2:])
    assert_near(tmp_path, alone)


@pytest.mark.parametrize("then", [[*TOGETHER, "--shard"], [sys.executable, "-m"]], ids=len)
def test_shares_of_the_parameters_stop_together_and_go_on(texts, alone, tmp_path, then):
    """FSDP2: each of two processes keeps a half; Ctrl-C stops both after the same step."""
    given = command(tmp_path, texts)[2:]
    process = begun_process([*TOGETHER, *given, "--shard"], tmp_path, 6)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    stopped = len(curve(tmp_path))
    assert 6 <= stopped < 30
    assert (tmp_path / "checkpoints" / f"step-{stopped:08}").is_dir()
    shard = ["--shard"] if "--shard" in then else []
    finished([*(part for part in then if part != "--shard"), *given, *shard])
    assert_near(tmp_path, alone)
    models = model_of(tmp_path), model_of(alone)
    for one, two in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, two, rtol=0.02, atol=2e-3)
