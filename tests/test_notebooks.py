"""The notebooks are stored clean, and run from the first cell to the last."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

pytestmark = [
    pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem),
]


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
    assert all(not cell.metadata for cell in notebook.cells)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


def test_runs_and_its_own_checks_hold(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()  # raises at the first cell that fails
    checks = [cell for cell in code_cells(notebook) if "assert " in cell.source]
    assert len(checks) >= 5
    assert all(cell.execution_count is not None for cell in checks)
    complaints = [
        output.text
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.get("name") == "stderr"
    ]
    assert complaints == []
    assert list(tmp_path.iterdir()) == []
