# Every target sets up what it needs: a virtual environment in .venv with the package and its tools.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test test-slow test-gpu lint bench bench-compare bench-gpu clean

setup: $(VENV)/.installed

# pip is left as it comes with Python: torch is by far the largest part of what is installed.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/python train.py

# By file: what the tests of a file share is made once.
PYTEST := $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

test: setup
	$(PYTEST)

test-slow: setup
	$(PYTEST) -m slow

# They ask for nothing but PyTorch with CUDA, timm and the pure-Python dependencies.
test-gpu: setup
	$(BIN)/pytest -n 8 --dist worksteal -m gpu tests/test_gpu.py

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: setup
	$(BIN)/python benchmarks/suite.py

bench-compare: setup
	@test -n "$(REV)" || { echo 'say which revision: make bench-compare REV=HEAD~1'; exit 2; }
	$(BIN)/python benchmarks/suite.py --compare $(REV)

bench-gpu: setup
	$(BIN)/python benchmarks/gpu.py

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
