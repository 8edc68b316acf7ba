# Every target that needs an environment makes it first, in .venv, from the pins in constraints.txt.

RECIPE ?= quickstart
# Test processes; each holds torch to one thread, so this is the number of cores in use.
WORKERS ?= 2
# Extra pip arguments for torch alone, to choose its build (an index of CPU or CUDA wheels).
TORCH_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# Twice quiet: errors only. Warnings are mostly about how the machine is set up.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
# Written last, each by the step it vouches for: an interrupted step leaves none and is done again.
MADE := $(VENV)/.made
CORE := $(VENV)/.core
DEV := $(VENV)/.dev
DOCS := $(VENV)/.docs

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-quick gpu docs lint format clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

quickstart: $(CORE) ## train the smallest recipe from nothing (RECIPE=name or path for another)
	$(BIN)/understudy train $(RECIPE)

test: lint ## everything that has to hold: lint, then all tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS)

test-quick: $(DEV) ## the tests that take seconds
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) -m "not slow"

gpu: $(DEV) ## time the Wan student of 1.3 B parameters and an update of it on a GPU
	$(BIN)/python benchmarks/wan.py --size 1.3b --device cuda --compile --json benchmarks/results/wan_gpu.json
	$(BIN)/python benchmarks/wan_step.py --size 1.3b --device cuda --json benchmarks/results/wan_step_gpu.json

docs: $(DOCS) ## build the site of docs/ and the docstrings into site/; a broken link fails
	$(BIN)/mkdocs build --quiet

lint: $(DEV) ## style, format, types and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy src
	$(BIN)/lint-imports --no-logo

format: $(DEV) ## rewrite the sources in the house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove the environment, builds and caches; runs/ stays
	rm -rf $(VENV) build dist site src/*.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# An interpreter counts only if it starts, is new enough and can make an environment with pip in it: a version manager's
# shim may be on the path with nothing behind it, and some systems ship Python without ensurepip.
$(MADE):
	@for python in python3.12 python3.11 python3; do \
		if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "making $(VENV) with $$("$$python" --version)"; \
			"$$python" -m venv --clear $(VENV) && touch $@; \
			exit; \
		fi; \
	done; \
	echo "error: no Python >= 3.11 with venv and pip found (tried python3.12, python3.11, python3);" >&2; \
	echo "       install one (some systems need their python3-venv package too) and run make again" >&2; \
	exit 1

# torch goes first and alone, so that TORCH_ARGS can choose its build and no other requirement picks a newer one.
$(CORE): pyproject.toml constraints.txt | $(MADE)
	@echo "installing understudy (the first time takes a few minutes)"
	@$(PIP) $(TORCH_ARGS) -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	@$(PIP) -c constraints.txt -e .
	@touch $@

$(DEV): $(CORE)
	@echo "installing the development tools and what the extras need"
	@$(PIP) -c constraints.txt -e '.[dev,api,c2pa,parquet,serve,wan]'
	@touch $@

$(DOCS): $(CORE)
	@$(PIP) -c constraints.txt -e '.[docs]'
	@touch $@
