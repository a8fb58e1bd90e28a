# `make demo` and `make test` do all the set-up; the rest is for people who work on mbkd.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin

.PHONY: demo test test-all lint format docs clean

demo: $(VENV)/installed
	$(BIN)/mbkd demo

test: lint
	$(BIN)/pytest -m "not slow" -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-all: lint
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# docs/_build/html/index.html; a warning is an error.
docs: $(VENV)/installed
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html

# Made anew only when the requirements change.
$(VENV)/installed: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
