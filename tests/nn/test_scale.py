"""The script that trains whole models: the tiny one, and what it says of wrong arguments."""

import json
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import scale

TINY = ["--parameters", "tiny", "--steps", "2", "--batch", "2", "--length", "33", "--threads", "1"]


@pytest.fixture(autouse=True)
def _same_threads_afterwards():
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


def run(*arguments):
    return CliRunner().invoke(scale.app, list(arguments))


def test_the_tiny_model_trains_and_is_written_down(tmp_path):
    out = tmp_path / "deep" / "scale.jsonl"
    done = run(*TINY, "--out", str(out))
    assert done.exit_code == 0
    machine, alone, beside = map(json.loads, out.read_text().splitlines())
    assert machine["case"] == "machine"
    assert alone["model"] == "tiny"
    assert alone["contents"] == 2 * 2500 * 64
    assert alone["parameters"] == alone["dense"] + alone["contents"]
    assert alone["repetitions"] == 2
    assert alone["per_second"] == pytest.approx(66 / alone["median_s"])
    assert alone["loss_after"] < alone["loss_before"]
    assert beside["contents"] == 2 * 625 * 64
    assert beside["ratio"] == pytest.approx(beside["large_median_s"] / beside["median_s"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--parameters", "2B"], "--parameters must be one of 125M, 1B, tiny, got 2B"),
        (["--length", "2000000"], "--length must be at most "),
    ],
)
def test_a_wrong_argument_is_told_in_one_sentence(changed, message, tmp_path):
    done = run(*TINY, *changed, "--out", str(tmp_path / "scale.jsonl"))
    assert done.exit_code == 2
    assert done.stderr.startswith(f"scale: {message}")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    done = run(*TINY, "--out", str(tmp_path))
    assert done.exit_code == 2
    assert done.stderr == f"scale: cannot write {tmp_path}: Is a directory\n"


def test_ctrl_c_keeps_the_lines_so_far(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(scale.Trained, "step", interrupt)
    out = tmp_path / "scale.jsonl"
    done = run(*TINY, "--out", str(out))
    assert done.exit_code == 130
    assert done.stderr.endswith(f"scale: stopped; the lines so far are in {out}\n")
    assert json.loads(out.read_text())["case"] == "machine"


def test_a_system_that_hides_its_memory_loses_nothing_else(tmp_path, monkeypatch):
    def hidden():
        raise OSError("this system does not tell")

    monkeypatch.setattr(scale.peaks, "resident_bytes", hidden)
    out = tmp_path / "scale.jsonl"
    assert run(*TINY, "--out", str(out)).exit_code == 0
    assert json.loads(out.read_text().splitlines()[1])["peak_bytes"] is None
