# `make demo` and `make test` install what they need. The other targets are for contributors.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin

.PHONY: demo test test-all test-gpu lint format docs wheels clean

demo: $(VENV)/installed
	$(BIN)/mbkd demo

# GPUs are hidden: a test gives the same result on every machine. `make test-gpu` runs the tests of a GPU.
test: lint
	CUDA_VISIBLE_DEVICES= $(BIN)/pytest -m "not slow" -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-all: lint
	CUDA_VISIBLE_DEVICES= $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# On a machine with one GPU; takes minutes. `python -m benchmarks.gpu` measures there.
test-gpu: $(VENV)/installed
	@$(BIN)/python -c "import torch; exit(None if torch.cuda.is_available() else 'no GPU here for torch ' + torch.__version__)"
	$(BIN)/pytest tests/gpu

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Builds docs/_build/html/index.html. A warning is an error.
docs: $(VENV)/installed
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html

# Rebuilt only when the requirements change.
$(VENV)/installed: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# Collects wheels/ for a machine without a network (docs/clusters.md).
wheels: $(VENV)/installed
	$(BIN)/python launchers/wheels.py

clean:
	rm -rf $(VENV) runs wheels .pytest_cache .mypy_cache .ruff_cache
