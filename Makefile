# Set-up, a first run, the tests and the checks. Each target does its own set-up in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt
OUT := out/quickstart

.PHONY: run test test-slow check clean

run: $(VENV)/.run
	$(BIN)/wanbatch run examples/quickstart.jsonl --out $(OUT)
	$(BIN)/wanbatch report $(OUT)

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/house/lengths.py
	$(BIN)/python tests/house/cycles.py
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) out build dist *.egg-info src/*.egg-info

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	touch $@

# torch alone first: an exact version takes a CPU build where the package index offers one.
$(VENV)/.run: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) -e .
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(PIP) -e ".[test]"
	touch $@

$(VENV)/.check: $(VENV)/.test
	$(PIP) -e ".[test,check]"
	touch $@
