# Each target sets up what it needs in .venv: only Python (3.11 or newer), make and a package index have to be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEER := .venv-modelopt
TRITON := .venv-triton
# Compiled modules are kept: the programs that tests start need not compile them again.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: demo test test-extended docs pictures check-docs check-full check-gpu lint bench bench-engine bench-int8 bench-precision clean

demo: $(VENV)/installed  ## Train on a sample, export, build a T4 engine, compare: everything stays in demo-run/
	@$(BIN)/python examples/demo.py demo-run

test: $(VENV)/installed  ## The tests, on up to four cores; no GPU and no network needed
	$(PYTEST) $(PARALLEL)

test-extended: $(VENV)/installed  ## Kills and resumption, several processes, C++, a Triton server, engines of whole networks
	@$(MAKE) --silent $(TRITON)/installed || echo "No Triton server could be installed: its tests are left out."
	$(PYTEST) $(PARALLEL) -m extended

docs: $(VENV)/docs-installed  ## The documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

pictures: $(VENV)/installed  ## The README's commands run on the sample: their output and the pictures, anew; needs Chromium
	$(BIN)/python examples/readme.py readme-run

check-docs: $(VENV)/installed  ## Every command that the README and the pages of docs/ name
	$(PYTEST) -m documentation

check-full: $(VENV)/installed  ## The paper's own network from a checkpoint to an engine
	$(PYTEST) -m full_size

check-gpu: $(VENV)/installed  ## Everything that needs a GPU, on the one that is here; a report into gpu-check/
	$(BIN)/hemf-export doctor --gpu -o gpu-check

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

# Warnings of pip and setuptools are nobody's business, unless the installation fails.
LOGGED = > $(VENV)/install.log 2>&1 || { tail -n 40 $(VENV)/install.log; echo "The whole log: $(VENV)/install.log"; exit 1; }

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; say which with PYTHON=..."; exit 1; }
	@echo "Installing into $(VENV), once: this takes minutes."
	@$(PYTHON) -m venv $(VENV)
	@{ $(BIN)/python -m pip install --upgrade pip && $(BIN)/python -m pip install --editable '.[dev]'; } $(LOGGED)
	@touch $@

$(VENV)/docs-installed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
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
	rm -rf $(VENV) $(PEER) $(TRITON) demo-run readme-run gpu-check site build dist *.egg-info
