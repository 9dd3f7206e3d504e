# What a developer types. `make help` lists it; everything runs in .venv, which `setup` makes from uv.lock.
SHELL := bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCHES := $(sort $(wildcard bench/*.py))
ARGS ?=

.PHONY: help setup demo test test-long services services-stop lint fmt bench mutants docs lock check build clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv and install the locked packages (quick when nothing changed)

$(STAMP): pyproject.toml uv.lock tools/setup.sh
	@tools/setup.sh
	@touch $@

demo: $(STAMP) ## Replay a year of real flights through the whole loop; ARGS="--json FILE" for figures
	@$(BIN)/headrace demo flights $(ARGS)

test: $(STAMP) ## Run the whole test suite; ARGS="-k name" narrows it
	@$(BIN)/python -m pytest $(ARGS)

test-long: $(STAMP) ## Properties, simulations and kills, many times as many as in CI (takes hours; ARGS="-k name" narrows it)
	@HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest tests/properties tests/stateful tests/parity tests/recovery $(ARGS)

services: $(STAMP) ## Install and start the real services that tests and benches use; ARGS="redis" names some
	@tools/services.sh start $(ARGS)

services-stop: ## Stop them
	@tools/services.sh stop $(ARGS)

lint: $(STAMP) ## Formatting, style, types, import contracts, spelling, sizes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell
	$(BIN)/python tools/check_sizes.py

fmt: $(STAMP) ## Format the code and mend what can be mended by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## Run every benchmark; each prints one JSON line
	@set -e; for bench in $(BENCHES); do $(BIN)/python $$bench $(ARGS); done

mutants: $(STAMP) ## Break the rules of time and exactness one at a time: every break must be noticed (ARGS="tie" names some)
	$(BIN)/python tools/mutants.py $(ARGS)

docs: $(STAMP) ## Write the generated pages anew (docs/cli.md, docs/capabilities.md, docs/aggregations.md)
	$(BIN)/python tools/gen_cli_reference.py
	$(BIN)/python tools/gen_capabilities.py
	$(BIN)/python tools/gen_aggregations.py

lock: $(STAMP) ## Resolve the newest allowed packages into uv.lock
	@PATH="$(CURDIR)/$(BIN):$$PATH" uv lock --upgrade

check: lint test ## What CI runs

build: $(STAMP) ## Build the wheel and the source archive into dist/
	@PATH="$(CURDIR)/$(BIN):$$PATH" uv build --quiet --out-dir dist

clean: ## Remove the environment, built files and caches (never .headrace, which holds data)
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests bench examples tools -name __pycache__ -type d -prune -exec rm -rf {} +
