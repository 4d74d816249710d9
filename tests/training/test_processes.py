"""Runs as processes: killed, stopped, and several that train one model."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from running import curve

from pentti.training import (
    checkpoint,
    model_of,
)


def command(folder, texts, *more):
    return [
        sys.executable, "-m", "pentti", "train", str(folder), "--text", str(texts),
        "--dim", "16", "--layers", "2", "--heads", "2",
        "--window", "8", "--context", "64", "--batch-tokens", "256", "--steps", "30",
        "--set", "save_every=4", "--set", "validation_tokens=200", "--set", "n_batches=2",
        "--set", "model.dropout=0.1", *more,
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
    """What dropout leaves out too."""
    finished(TOGETHER + command(tmp_path, texts)[2:])
    assert_near(tmp_path, alone)


def test_two_processes_share_sparse_gradients(texts, tmp_path):
    sparse = ["--memory", "sdm", "--steps", "9"]
    for name, value in (("sparse_gradients", "true"), ("n_locations", "49"), ("top_k", "3")):
        sparse += ["--set", f"model.{name}={value}"]
    finished(command(tmp_path / "one", texts, *sparse))
    finished(TOGETHER + command(tmp_path / "two", texts, *sparse)[2:])
    assert_near(tmp_path / "two", tmp_path / "one")
    one, two = (model_of(tmp_path / name).state_dict() for name in ("one", "two"))
    contents = [name for name in one if name.endswith("contents")]
    assert contents
    for name in contents:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4)


def test_an_error_in_the_first_process_is_one_sentence(texts, tmp_path):
    given = command(tmp_path / "run", texts)[2:]
    done = subprocess.run(
        [*TOGETHER, *given, "--text", "nowhere"],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.count("pentti: cannot read nowhere: there is no such file") == 1
    assert done.stderr.count("Traceback") == 1  # torchrun's own


@pytest.mark.parametrize("in_background", [False, True])
def test_a_request_to_end_leaves_a_checkpoint(texts, tmp_path, in_background):
    """Of a script's background job too, which ignores Ctrl-C."""
    given = command(tmp_path, texts, "--set", "save_every=1000", "--steps", "100000")
    if in_background:
        given = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *given]
    process = begun_process(given, tmp_path, 3)
    process.send_signal(signal.SIGINT) if in_background else None
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130
    assert list(checkpoint.saved(tmp_path / "checkpoints")) == [len(curve(tmp_path))]


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
