# Each target sets up what it needs in .venv: only Python (3.11 or newer), make and a package index have to be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench clean

demo: $(VENV)/installed  ## Train on a sample, export, build a T4 engine, compare: everything stays in demo-run/
	$(BIN)/python examples/demo.py demo-run

test: $(VENV)/installed  ## The tests; no GPU and no network needed
	$(BIN)/python -m pytest

lint: $(VENV)/installed  ## Format, lint, types, import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/installed  ## Ratios, measured side by side in one run
	$(BIN)/python -m benchmarks.export_speed

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; say which with PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) demo-run build dist *.egg-info
