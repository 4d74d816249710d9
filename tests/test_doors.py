"""The doors: names, layers, documentation of every public function, and the command line."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pentti

SOURCE = Path(pentti.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
GUARDS = ("checks", "as_bits", "_flat", "checked_")


def modules():
    for found in pkgutil.walk_packages([str(SOURCE)], "pentti."):
        yield importlib.import_module(found.name)


def test_every_module_says_what_it_offers():
    for module in [pentti, *modules()]:
        assert module.__doc__, module.__name__
        names = module.__all__
        assert list(names) == sorted(names), module.__name__
        for name in names:
            assert hasattr(module, name), f"{module.__name__}.{name}"


def test_the_front_door_opens():
    for name in pentti.__all__:
        assert getattr(pentti, name) is not None
    assert set(pentti.__all__) < set(dir(pentti))
    with pytest.raises(AttributeError, match="module 'pentti' has no attribute 'nothing'"):
        _ = pentti.nothing


def public_functions(tree, prefix=""):
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node, f"{node.name}.")
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield f"{prefix}{node.name}", node


def test_every_public_function_documents_its_arguments_and_errors():
    """pydoclint compares what is written; this asks that it be written."""
    seen = 0
    for path in FILES:
        for name, node in public_functions(ast.parse(path.read_text())):
            where = f"{path.name}: {name}"
            text = ast.get_docstring(node) or ""
            assert text, where
            decorated = {ast.unparse(d) for d in node.decorator_list}
            if decorated & {"app.command()", "intrinsic"} or "custom_op" in str(decorated):
                continue
            arguments = [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]
            # documented beside the definition
            plain = path.name in (
                "__init__.py", "beams.py", "counting.py", "grids.py", "lookups.py", "loops.py",
                "networks.py", "orders.py", "visits.py",
            )  # fmt: skip
            if {*arguments} - {"self", "cls"} and not plain:
                assert "Args:" in text, where
                seen += 1
            body = "\n".join(ast.unparse(statement) for statement in node.body[1:])
            if any(guard in body for guard in GUARDS) or "raise " in body:
                assert "Raises:" in text or path.name == "cli.py", where
    assert seen > 80


def test_files_stay_readable():
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 600, path


def test_an_import_goes_down_only():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=SOURCE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "2 kept, 0 broken" in done.stdout


def test_every_file_that_the_readme_names_exists():
    root = SOURCE.parents[1]
    links = re.findall(r"\]\(([^)#]+)\)", (root / "README.md").read_text())
    local = [link for link in links if "://" not in link]
    assert len(local) > 8
    assert [link for link in local if not (root / link).exists()] == []
