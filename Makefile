# Two commands do everything on a machine that has only Python >= 3.10 and make:
#   make report   makes .venv, installs, runs the experiments, prints the path of the page
#   make test     installs what development needs, runs the tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: report test check bench docs clean

report: $(VENV)/.report
	$(BIN)/pentti report $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m "not slow and not gpu" $(ARGS)

# What else must hold before a change lands, but for the slow tests: make test ARGS='-m slow'.
check: $(VENV)/.dev docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pydoclint --quiet src/pentti

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) site

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "pentti needs Python 3.10 or newer, found: $$($(PYTHON) --version)"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.report: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing pentti into $(VENV): a few minutes, once"
	$(INSTALL) -e '.[report]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing pentti for development into $(VENV): a few minutes, once"
	$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.report

$(VENV)/.bench: $(VENV)/.dev
	$(INSTALL) -e '.[bench]'
	@touch $@
