"""The notebooks are stored clean, and run from the first cell to the last."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

# What the machinery that talks to the kernel says about itself is not ours to mend.
of_the_machinery = [
    pytest.mark.filterwarnings(rf"ignore::{category}:{module}(\..*)?")
    for module in ("jupyter_client", "jupyter_core", "nbclient", "zmq", "tornado")
    for category in ("DeprecationWarning", "PendingDeprecationWarning", "RuntimeWarning")
] + [pytest.mark.filterwarnings("ignore:[Uu]nclosed (socket|context) <zmq:ResourceWarning")]


def with_marks(test):
    for mark in of_the_machinery:
        test = mark(test)
    return test


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_is_stored_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert code_cells(notebook)
    assert [cell.id for cell in code_cells(notebook) if cell.outputs] == []
    assert [cell.id for cell in code_cells(notebook) if cell.execution_count is not None] == []


def test_is_stored_as_the_format_writes_it(path):
    notebook = nbformat.read(path, as_version=4)
    assert path.read_text(encoding="utf-8") == nbformat.writes(notebook) + "\n"
    assert list(notebook.metadata) == ["kernelspec"]
    assert notebook.metadata.kernelspec.name == "python3"
    assert [cell.id for cell in notebook.cells if cell.metadata] == []
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


@with_marks
def test_runs_and_its_own_checks_hold(path, tmp_path, monkeypatch):
    work, home = tmp_path / "work", tmp_path / "home"
    work.mkdir()
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("IPYTHONDIR", str(home))
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(work)}},
    )

    # Without a mirror of the output widget, what a slider's function shows or raises lands in the
    # cell, and no message of ours can cross with the kernel's reply, which then gets lost at times.
    client.widget_registry = {}

    client.execute()  # raises at the first cell that fails

    checks = [cell for cell in code_cells(notebook) if "assert " in cell.source]
    assert len(checks) >= 10
    assert [cell.id for cell in checks if cell.execution_count is None] == []
    assert [complaint for cell in code_cells(notebook) for complaint in complaints_of(cell)] == []
    assert list(work.iterdir()) == []


def complaints_of(cell):
    warned = [out.text for out in cell.outputs if out.get("name") == "stderr"]
    raised = [out.evalue for out in cell.outputs if out.output_type == "error"]
    return [text for text in warned if "Warning" in text] + raised
