# Set-up, a first run, the tests and the checks. Each target does its own set-up in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt
OUT := out/quickstart
KUBERAY ?= 1.4.0 1.5.0

.PHONY: run test test-slow check docs kuberay-crd release-check release-test clean

run: $(VENV)/.run
	$(BIN)/wanbatch run examples/quickstart.jsonl --out $(OUT)
	$(BIN)/wanbatch report $(OUT)

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/house/lengths.py
	$(BIN)/python tests/house/cycles.py
	$(BIN)/python tests/house/names.py
	$(BIN)/lint-imports

# Draws and writes what the documents take from the code.
docs: $(VENV)/.test
	$(BIN)/python tests/house/draw_architecture.py
	$(BIN)/python tests/house/write_architecture.py

# Fetches KubeRay's own definition of a RayJob, of these releases, from GitHub; tests check by what lies there.
kuberay-crd: $(VENV)/.test
	$(BIN)/python tests/support/kuberay_crd.py $(KUBERAY)

# What docs/releasing.md asks for before a version is tagged.
release-check: release-test
	version=$$($(BIN)/python -c "import wanbatch; print(wanbatch.__version__)"); \
	grep -q "^## $$version (" CHANGELOG.md || { echo "CHANGELOG.md has no section for $$version"; exit 1; }

# Builds the package and installs it in an empty environment. It downloads what the wheel depends on.
release-test: $(VENV)/.test
	$(BIN)/python -m pytest -m "slow or not slow" tests/house/test_release.py

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
