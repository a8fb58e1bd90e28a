# `make demo` and `make test` do all the set-up; the rest is for people who work on mbkd.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin

.PHONY: demo test test-all test-gpu lint format docs wheels clean

demo: $(VENV)/installed
	$(BIN)/mbkd demo

# Without GPUs, so that a test says the same on every machine; `make test-gpu` has those that are about one.
test: lint
	CUDA_VISIBLE_DEVICES= $(BIN)/pytest -m "not slow" -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-all: lint
	CUDA_VISIBLE_DEVICES= $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# On a machine with one GPU, in minutes; `python -m benchmarks.gpu` measures there.
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

# docs/_build/html/index.html; a warning is an error.
docs: $(VENV)/installed
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html

# Rebuilt only when the requirements change.
$(VENV)/installed: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# wheels/: what a machine without a network lacks; docs/clusters.md.
wheels: $(VENV)/installed
	$(BIN)/python launchers/wheels.py

clean:
	rm -rf $(VENV) runs wheels .pytest_cache .mypy_cache .ruff_cache
