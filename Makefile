# `make demo` and `make test` do all of their own set-up: tools/setup.sh makes .venv, once.
# PYTHON=/path/to/python chooses the interpreter it is made with (3.11 or newer).
OUT = demo
PYTEST_ARGS =
BIN = .venv/bin

.PHONY: help setup demo check test slow test-minimum clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' Makefile

setup: ## make .venv with everything in it; nothing to do when it is up to date
	@sh tools/setup.sh

demo: setup ## run the main job; its results go to demo/, or to DIR with OUT=DIR
	$(BIN)/modelzoo-demo --out "$(OUT)"

check: setup ## lint, formatting, types, import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: export PYTHONDONTWRITEBYTECODE = # hundreds of processes would compile the package anew
test: check ## check, then the tests; pytest's options in PYTEST_ARGS="..."
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

slow: setup ## only the tests marked slow
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

test-minimum: setup ## the tests with the lowest versions that pyproject.toml allows, in .venv-minimum
	sh tools/test_minimum.sh $(PYTEST_ARGS)

clean: ## remove .venv, the caches and demo/
	rm -rf .venv .venv-minimum demo .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find . -name .git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
