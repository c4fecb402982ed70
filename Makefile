# make demo | make up | make test: each makes its own environment in .venv first.
# Needs Python 3.11 or newer and a package index; PYTHON=… names another interpreter.

SHELL := /bin/sh
VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin

.PHONY: help demo up test chaos lint bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   import four image files into a stand-in cloud, on this machine, in a minute"
	@echo "make up     keep that stack running and print its addresses; Ctrl-C ends it"
	@echo "make test   run all tests"
	@echo "make chaos  faults, kills and disasters, N=100 imports a storm; prints a table"
	@echo "make lint   ruff, mypy and import-linter"
	@echo "make bench  imports and POSTs per second, beside what does less"
	@echo "make clean  remove .venv"

demo: $(STAMP)
	@$(BIN)/python -m ims_sandbox demo

# exec: the signal that ends it reaches the stack itself.
up: $(STAMP)
	@exec $(BIN)/python -m ims_sandbox up

# Two at a time, for most tests wait for processes; those of a file together, for they share a stack;
# in the order of their names, for the longest ones come first then.
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

N := 100
chaos: $(STAMP)
	CHAOS_IMPORTS=$(N) $(BIN)/python -m pytest tests/chaos -s

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy config ledger producer worker sandbox benchmarks
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python benchmarks/whole_chain.py
	$(BIN)/python benchmarks/api_load.py

clean:
	rm -rf $(VENV)

$(STAMP): pyproject.toml constraints.txt
	@sh deploy/make-venv.sh $(VENV) '-e .[dev]'
	@touch $(STAMP)
