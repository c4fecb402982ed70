# Every target creates its environment in .venv first.
# Needs Python 3.11 or newer and a package index; PYTHON=… names another interpreter.

SHELL := /bin/sh
VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin

.PHONY: help demo up check test chaos lint mutations bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   import four image files into a simulated cloud on this machine, in a minute"
	@echo "make up     start the demo stack and print its addresses; Ctrl-C stops it"
	@echo "make check  lint, unit and contract tests, in a minute"
	@echo "make test   all tests except chaos, in six minutes"
	@echo "make chaos  faults, kills and disasters, N=100 imports per storm; prints a table"
	@echo "make lint   ruff, mypy and import-linter"
	@echo "make mutations  break the code on purpose; the tests must notice each defect"
	@echo "make bench  measure imports and POSTs per second against simpler alternatives"
	@echo "make clean  remove .venv"

demo: $(STAMP)
	@$(BIN)/python -m ims_sandbox demo

# exec: the stack itself receives the signal that stops it.
up: $(STAMP)
	@exec $(BIN)/python -m ims_sandbox up

# Three xdist workers on two cores: tests mostly wait on subprocesses; loadfile shares a file's stack.
# tests/conftest.py sorts the files, longest first.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

check: lint
	$(PYTEST) -q tests/unit tests/contract

test: $(STAMP)
	$(PYTEST) tests/unit tests/contract tests/integration tests/acceptance

N := 100
chaos: $(STAMP)
	CHAOS_IMPORTS=$(N) $(BIN)/python -m pytest tests/chaos -s

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy config ledger producer worker sandbox benchmarks
	$(BIN)/lint-imports

mutations: $(STAMP)
	$(BIN)/python tests/mutations.py

bench: $(STAMP)
	$(BIN)/python benchmarks/whole_chain.py
	$(BIN)/python benchmarks/api_load.py

clean:
	rm -rf $(VENV)

$(STAMP): pyproject.toml constraints.txt
	@sh deploy/make-venv.sh $(VENV) '-e .[dev]'
	@touch $(STAMP)
