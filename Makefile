# Each target sets up what it needs in .venv: only Python (3.11 or newer), make and a package index have to be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEER := .venv-modelopt
TRITON := .venv-triton

.PHONY: demo test check-docs check-full lint bench bench-engine bench-int8 bench-precision clean

demo: $(VENV)/installed  ## Train on a sample, export, build a T4 engine, compare: everything stays in demo-run/
	$(BIN)/python examples/demo.py demo-run

test: $(VENV)/installed  ## The tests, on up to four cores; no GPU and no network needed
	@$(MAKE) --silent $(TRITON)/installed || echo "No Triton server could be installed: its tests are left out."
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

check-docs: $(VENV)/installed  ## Every command that the README names, in the order that a reader meets them
	$(BIN)/python -m pytest -m documentation

check-full: $(VENV)/installed  ## The paper's own network from a checkpoint to an engine
	$(BIN)/python -m pytest -m full_size

lint: $(VENV)/installed  ## Format, lint, types, import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/installed  ## Ratios, measured side by side in one run
	$(BIN)/python -m benchmarks.export_speed
	$(BIN)/python -m benchmarks.training_speed

bench-engine: $(VENV)/installed  ## Kernels that TensorRT-RTX compiles from our graphs, pass by pass, beside the plain architecture
	$(BIN)/python -m benchmarks.engine_census

bench-int8: $(VENV)/installed  ## What TensorRT-RTX makes of each kind of product in FP16 and in INT8, by compute capability
	$(BIN)/python -m benchmarks.int8_products

bench-precision: $(VENV)/installed  ## FP16 and INT8 files beside ModelOpt, where that can be installed, and inference
	@$(MAKE) --silent $(PEER)/installed || true
	$(BIN)/python -m benchmarks.precision

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; say which with PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# ModelOpt pins older versions than we need, so it gets an environment of its own. The path file lets that fall back on
# .venv's packages for torch, which would be gigabytes again. The .gitignore keeps it out of git.
$(PEER)/installed: benchmarks/requirements-modelopt.txt $(VENV)/installed
	$(BIN)/python -m venv --clear $(PEER)
	@echo '*' > $(PEER)/.gitignore
	$(PEER)/bin/python -m pip install --quiet --no-deps --requirement $<
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$($(PEER)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch.pth"
	@touch $@

# Not an environment but a folder that the tests take the server from. The .gitignore keeps it out of git.
$(TRITON)/installed: tests/requirements-triton.txt $(VENV)/installed
	rm -rf $(TRITON)
	$(BIN)/python -m pip install --quiet --no-deps --target $(TRITON) --requirement $<
	@echo '*' > $(TRITON)/.gitignore
	@touch $@

clean:
	rm -rf $(VENV) $(PEER) $(TRITON) demo-run build dist *.egg-info
