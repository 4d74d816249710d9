"""The command line, as its user meets it."""

import os
import signal
import subprocess
import sys
import time

import pytest

import pentti
from pentti import cli
from pentti.cli import app


def run(*arguments, **settings):
    command = [sys.executable, "-m", "pentti", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **settings)


def test_version():
    assert run("--version").stdout == f"pentti {pentti.__version__}\n"


def test_help_is_light_and_names_every_command():
    code = (
        "import sys, runpy; sys.argv = ['pentti', '--help']\n"
        "try: runpy.run_module('pentti', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'numba', 'numpy', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for command in app.registered_commands:
        assert command.callback.__doc__
        assert (command.name or command.callback.__name__) in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (("report", "--only", "nope"), "pentti: report: `only` must be one of 'digits', ", 1),
        (("report", "--quack"), "No such option", 2),
        (("quack",), "No such command", 2),
    ],
)
def test_wrong_arguments_get_one_sentence(arguments, message, code, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == code
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_is_expected_is_told_before_any_work(tmp_path):
    (tmp_path / "file").write_text("precious")
    start = time.perf_counter()
    done = run("report", "--out", tmp_path / "file")
    assert time.perf_counter() - start < 30
    assert done.stderr.splitlines()[-1].startswith("pentti: cannot write ")
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    assert (tmp_path / "file").read_text() == "precious"


def test_the_report_goes_on_after_ctrl_c(tmp_path):
    """Stop it in the second section: the first is kept, and the page shows it."""
    command = [sys.executable, "-m", "pentti", "report", "--out", str(tmp_path)]
    command += ["--only", "circle", "--only", "capacity"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    done = tmp_path / "results" / "circle.quick.json"
    deadline = time.monotonic() + 120
    while not done.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "pentti: stopped; finished sections are kept in" in stderr
    assert "Traceback" not in stderr
    page = (tmp_path / "index.html").read_text()
    assert "Is reading the memory a softmax?" in page
    before = done.read_bytes()
    again = run("report", "--out", tmp_path, "--only", "circle")
    assert again.returncode == 0, again.stderr
    assert "kept circle" in again.stderr
    assert again.stdout.strip() == str(tmp_path.resolve() / "index.html")
    assert done.read_bytes() == before


@pytest.mark.parametrize("module", ["jinja2", "matplotlib"])
def test_ctrl_c_during_imports_is_one_sentence(module, tmp_path):
    """Even where the import itself would swallow it."""
    stop = "try: os.kill(os.getpid(), signal.SIGINT); time.sleep(10)"
    lines = ["import os, signal, time", stop, "except BaseException: pass"]
    (tmp_path / f"{module}.py").write_text("\n".join(lines))
    out = tmp_path / "out"
    done = run("report", "--out", out, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert (done.stderr, done.stdout, done.returncode) == ("pentti: stopped\n", "", 130)
    assert not out.exists()


def test_the_command_line_leaves_ctrl_c_as_it_was(monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "app", lambda: seen.append(signal.getsignal(signal.SIGINT)))
    before = signal.getsignal(signal.SIGINT)
    cli.main()
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.setattr(cli.signal, "getsignal", lambda _: signal.SIG_IGN)
    cli.main()
    assert seen == [cli._end, signal.SIG_IGN]
