"""The commands: a run from the first word to the last, Ctrl-C, and wrong arguments."""

import json
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from helpers import outcome_of, write_texts
from typer.testing import CliRunner

from pentti import cli_training
from pentti.cli import app
from pentti.errors import ArgumentError, PenttiError
from pentti.nn import PenttiTransformer
from pentti.training import build, checkpoint, evaluate
from pentti.training.log import read

SMALL = [
    "--dim", "16", "--layers", "2", "--heads", "2", "--window", "8", "--context", "64",
    "--batch-tokens", "256", "--set", "validation_tokens=200",
]  # fmt: skip


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts"), "Åland ")


def run(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_a_run_from_the_first_word_to_the_last(texts, tmp_path):
    done = run("train", tmp_path / "run", "--text", texts, *SMALL, "--steps", 4, "--memory", "sdm",
               "--set", "model.n_locations=49", "--set", "model.top_k=3")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "run")
    assert [row["step"] for row in read(tmp_path / "run" / "log.csv")] == ["1", "2", "3", "4"]
    told = run("evaluate", tmp_path / "run", "--documents", 1)
    assert told.exit_code == 0, told.output
    assert "1 documents: " in told.stdout
    assert "0 to 63" in told.stdout
    texts_given = [
        run("generate", tmp_path / "run", "--prompt", "Å", "--n", 30, "--seed", 3) for _ in "ab"
    ]
    assert texts_given[0].stdout == texts_given[1].stdout
    assert texts_given[0].stdout.startswith("Å")


def test_ctrl_c_keeps_the_last_step(texts, tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "pentti", "train", str(folder), "--text", str(texts), *SMALL,
               "--steps", "100000", "--set", "save_every=100000"]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while len(read(folder / "log.csv")) < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    last = len(read(folder / "log.csv"))
    assert f"stopped after step {last}; the same command goes on from there" in said
    assert list(checkpoint.saved(folder / "checkpoints")) == [last]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "nowhere"], "cannot read nowhere: there is no such file"),
        (["--set", "foo=1"], "`settings` must be one of 'batch_tokens', .*, got 'foo'"),
        (["--set", "model.foo=1"], "Run: `model` must be one of 'beta', .*, got 'foo'"),
        (["--set", "model.sequence=5"], "SequenceConfig: `sequence` must be a SequenceConfig or"),
        (["--set", "model.sequence={\"top_k\": 0}"], "SequenceConfig: `top_k` must be at least 1"),
        (["--set", "context"], "train: `--set` must be NAME=VALUE, got 'context'"),
        (["--device", "abacus"], "`device` must be one that torch knows, .*, got 'abacus'"),
        (["--dim", "30", "--heads", "4"], "`dim` must be a multiple of `n_heads`, got 30 with 4"),
        (["--lr", "0"], "`lr` must be above 0, got 0"),
        (["--tokenizer", "no.json"], r"cannot read no\.json: there is no such file"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named_before_anything_is_written(texts, tmp_path, arguments, message):
    given = ["--text", texts] if "--text" not in arguments else []
    done = run("train", tmp_path / "run", *given, *arguments)
    assert isinstance(done.exception, PenttiError)
    with pytest.raises(PenttiError, match=message):
        raise done.exception
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", ""], "a folder must have a name"),
        (["train", "x", "--steps", "0"], "Invalid value for '--steps'"),
        (["train", "x", "--seed", "-1"], "Invalid value for '--seed'"),
        (["train", "x", "--layers", "1000000"], "Invalid value for '--layers'"),
        (["evaluate", "x", "--most", "0"], "Invalid value for '--most'"),
        (["evaluate", "x", "--documents", "-1"], "Invalid value for '--documents'"),
        (["generate", "x", "--seed", str(2**63)], "Invalid value for '--seed'"),
        (["generate", "x", "--top-p", "1.5"], "Invalid value for '--top-p'"),
    ],
)
def test_options_out_of_range_are_named_as_they_were_given(arguments, message):
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("\u2502", " ").split())


def test_more_than_the_memory_holds_is_one_sentence(texts, tmp_path):
    done = run("train", tmp_path / "run", "--text", texts, *SMALL, "--memory", "sdm",
               "--set", "model.n_locations=10000002149284")  # fmt: skip
    with pytest.raises(ArgumentError, match="Run: `model` must fit the memory of this machine"):
        raise done.exception


def test_the_room_of_a_memory_follows_the_context_wherever_it_is_given(texts, tmp_path):
    done = run("train", tmp_path, "--text", texts, *SMALL, "--steps", 1, "--set", "context=32")
    assert done.exit_code == 0, done.output
    settings = json.loads((tmp_path / "run.json").read_text())
    assert settings["training"]["context"] == 32
    assert settings["model"]["sequence"]["max_length"] == 16 * 32


def test_prompts_are_bytes_and_a_terminal_gets_no_control_characters(texts, tmp_path, monkeypatch):
    done = run("train", tmp_path, "--text", texts, *SMALL, "--steps", 1)
    assert done.exit_code == 0, done.output
    given = ["generate", tmp_path, "--n", 200, "--seed", 1, "--temperature", 5, "--prompt"]
    whole = run(*given, b"\xff".decode("utf-8", "surrogateescape"))
    assert whole.exit_code == 0, whole.output
    assert whole.stdout.startswith("\ufffd")
    assert any(not x.isprintable() for x in whole.stdout.strip("\n"))
    said = []
    monkeypatch.setattr(cli_training.typer, "echo", lambda text, **_: said.append(text))
    monkeypatch.setattr(cli_training.sys, "stdout", SimpleNamespace(isatty=lambda: True))
    cli_training._say("a\x1b[2Jb\n\tc\r")
    assert said == ["a\ufffd[2Jb\n\tc\ufffd"]


def test_a_tokenizer_goes_all_the_way(texts, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: i for i, word in enumerate(["<unk>", "and", *map(str, range(200))])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    done = run("train", tmp_path / "run", "--text", texts, *SMALL, "--steps", 2,
               "--tokenizer", tmp_path / "tokenizer.json")  # fmt: skip
    assert done.exit_code == 0, done.output
    (tmp_path / "tokenizer.json").unlink()  # the run has its own
    assert "bits a byte" in run("evaluate", tmp_path / "run").stdout


def test_an_evaluation_in_parts_is_that_of_the_whole(texts, tmp_path):
    corpus, _ = outcome_of(build([str(texts)], tmp_path / "corpus"))
    torch.manual_seed(2)
    model = PenttiTransformer(257, 16, 2, 2, window=8, memory_kind="sequence").eval()
    documents = corpus.train[:3]
    bits, n = 0.0, 0
    for document in documents:
        ids = corpus.ids(document)
        with torch.no_grad():
            logits = model(ids[None, :-1]).logits[0]
        nats = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum")
        bits, n = bits + nats.item() / 0.6931471805599453, n + len(ids) - 1
    for part in (17, 10_000):
        found, shares = outcome_of(evaluate(model, corpus, documents, part=part))
        assert found.bits_per_byte == pytest.approx(bits / n, rel=1e-4)
        assert sum(stretch.n_tokens for stretch in found.stretches) == n
        assert shares[-1] == 1
        assert found.stretches[0][:2] == (0, 63)
        assert found.stretches[1][:2] == (64, 127)


def test_a_full_disk_leaves_the_older_checkpoints(tmp_path, monkeypatch):
    model = PenttiTransformer(257, 16, 1, 2, memory_layers=())
    checkpoint.write(tmp_path, 1, model.config, model.state_dict(), {}, {}, n_kept=2)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_tensors", full)
    with pytest.raises(
        PenttiError, match="No space left on device; older checkpoints are unchanged"
    ):
        checkpoint.write(tmp_path, 2, model.config, model.state_dict(), {}, {}, n_kept=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
