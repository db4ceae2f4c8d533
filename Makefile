# `make demo` and `make test` do everything, set-up included; all that is needed is Python 3.11 or newer with its venv.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help

# Where python3 is older, try the name that a parallel installation has.
PYTHON ?= $(shell python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo python3 || echo python3.11)
VENV ?= .venv
BIN := $(VENV)/bin

# Written last, so that an environment without it is one whose set-up broke off: that one is emptied and made afresh.
# One that is only older than the two files is brought up to date in place.
INSTALLED := $(VENV)/.installed

$(INSTALLED): pyproject.toml constraints.txt
	@test -e $@ || $(PYTHON) -m venv --clear $(VENV)
	@rm -f $@
	@echo "installing into $(VENV): some minutes the first time, most of them for PyTorch"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[fast,plot,data,remote,study,postgresql,dev]"
	@touch $@

# The vendor's software, in a folder of its own: it wants versions that are not ours. Processes that have the folder on
# their PYTHONPATH import it beside the libraries of $(VENV).
VENDOR := .vendor
VENDOR_INSTALLED := $(VENDOR)/.installed

$(VENDOR_INSTALLED): tests/vendor.txt | $(INSTALLED)
	@rm -rf $(VENDOR)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENDOR) -r tests/vendor.txt
	@touch $@

.PHONY: help
help:  ## list the targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' Makefile | expand -t 14

.PHONY: setup
setup: $(INSTALLED)  ## make the virtual environment .venv (every other target does it when needed)

.PHONY: demo
demo: $(INSTALLED)  ## train the digits with five kinds of feedback; table, runs/demo/*.png
	$(BIN)/optical-dfa demo

# Compiled modules are kept whatever the environment says: the tests start many processes.
.PHONY: test
test: $(INSTALLED) $(VENDOR_INSTALLED)  ## run the tests
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n auto

.PHONY: soak
soak: $(INSTALLED) $(VENDOR_INSTALLED)  ## run the long tests and keep their output in docs/soak/
	@mkdir -p docs/soak
	$(BIN)/python -m pytest -m soak -v -s --durations=0 --no-header 2>&1 | tee docs/soak/soak.txt

.PHONY: bench
bench: $(INSTALLED)  ## measure the emulator against its bars; table in docs/results/, about four minutes
	$(BIN)/optical-dfa bench -o docs/results

.PHONY: bench-peers
bench-peers: $(INSTALLED) $(VENDOR_INSTALLED)  ## the same, and against the vendor's simulator, which it installs aside
	PYTHONPATH=$(VENDOR) $(BIN)/optical-dfa bench -o docs/results

.PHONY: lint
lint: style types contracts  ## style, types and contracts

.PHONY: style
style: $(INSTALLED)  ## ruff: rules and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

.PHONY: types
types: $(INSTALLED)  ## mypy, strict
	$(BIN)/mypy

.PHONY: contracts
contracts: $(INSTALLED)  ## import-linter: the one-way imports between the three folders
	$(BIN)/lint-imports

.PHONY: wheel
wheel: $(INSTALLED)  ## build the wheel, compare it with the tree, import all of it from an empty environment
	$(BIN)/python -m pytest -q tests/packaging/test_wheel.py

.PHONY: docs-links
docs-links: $(INSTALLED)  ## check every relative link and anchor in the documentation
	$(BIN)/python docs/check_links.py

.PHONY: check
check:  ## all that CI runs
	.ci/run

.PHONY: clean
clean:  ## remove the environment, caches and build products; keep runs/
	rm -rf $(VENV) $(VENDOR) build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
