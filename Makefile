# `make demo` and `make test` do all their own set-up: a virtual environment in .venv with the pinned dependencies.

PYTHON ?= $(firstword $(foreach version,3.11 3.12 3.13 3,$(shell command -v python$(version))))
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test lint types sizes mini clean

help:
	@echo "make demo    install, index examples/corpus, and search it"
	@echo "make test    install, and run the tests (ARGS='tests/store -k edge' runs some of them)"
	@echo "make lint    check style and formatting"
	@echo "make types   check types"
	@echo "make sizes   say how large modules and functions are, by folder"
	@echo "make mini    train the model that ships as mini again, into .cache/mini (an hour on two cores)"
	@echo "make clean   remove what make made: .venv, .cache, build folders"

setup: $(INSTALLED)

# A virtual environment that is missing, half made or whose Python has gone is made anew.
$(INSTALLED): pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }; \
	  echo "Making .venv with $(PYTHON)"; \
	  "$(PYTHON)" -m venv --clear .venv; }
	@echo "Installing the pinned dependencies into .venv (the first time takes a few minutes)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)
	@PATH="$(CURDIR)/$(BIN):$$PATH" examples/demo

# One process more than there are cores (see tests/conftest.py), with one thread each: torch's own threads would wait for
# one another between tiny models.
test: $(INSTALLED)
	@OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist worksteal --durations=10 --durations-min=2 $(ARGS)

lint: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(INSTALLED)
	@.ci/types

sizes: $(INSTALLED)
	@$(BIN)/python tests/house_report.py

# From the data packages to the checkpoint; what is done already is not done again.
mini: $(INSTALLED)
	@$(BIN)/python examples/mini/data.py --public --out .cache/mini-mmeb-public
	@$(BIN)/python examples/mini/train.py .cache/mini-mmeb-public .cache/mini
	@$(BIN)/python examples/mini/calibrate.py --model .cache/mini/mini --write
	@$(BIN)/python examples/mini/limits.py --model .cache/mini/mini --write

clean:
	rm -rf .venv .cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
