# Everything a person or CI runs here. `make help` lists the targets: the text behind each `##`.

# The newest Python that the tests know, else any later one. Asked by running it, because version managers leave names on
# PATH that do not run, and for ensurepip, because Debian ships Python without it.
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3 python; do \
	$$name -c 'import ensurepip, sqlite3, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { command -v $$name; break; }; done)

BIN := .venv/bin
READY := .venv/.ready
LOCK := requirements/dev.txt
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# More words for pytest, such as PYTEST_ARGS="tests/log -n 0"; the benchmarks take theirs in BENCH_ARGS.
PYTEST_ARGS ?=
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo services services-stop test lint format docs bench lock python clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv with the locked dependencies; instant when nothing has changed

$(READY): pyproject.toml $(LOCK)
	@test -n "$(PYTHON)" || { echo "No Python from 3.11 on with ensurepip and sqlite3 was found. Install one (Debian:" \
		"apt-get install python3 python3-venv) or name it: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing the locked dependencies into .venv: about a minute, once."
	@$(PIP) --require-hashes --requirement $(LOCK)
	@# setuptools warns of folders in the working directory that are named like a package; here they are the package.
	@PYTHONWARNINGS="ignore:Editable installation" $(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## Run the shop example on a local Ray, kill two of its actors, prove every sink right
	$(BIN)/raypipe demo

services: setup ## Install and start PostgreSQL 15, 16 and 18 and Kafka on loopback; quick when they run
	$(BIN)/python -m cluster.services up

services-stop: setup ## Stop them; their data stays in var/services
	$(BIN)/python -m cluster.services down

# One pytest, so that there is one closing line. Tests that start Ray share one worker (tests/conftest.py):
# on two cores they would only slow each other down until their deadlines pass.
test: setup ## Run the test suite
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup $(PYTEST_ARGS)

lint: setup ## Check format, lint, types and who imports whom, and that the reference is current
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/reference.py --check

format: setup ## Format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup ## Write the reference pages from the code, and the table of types from its test
	$(BIN)/python docs/reference.py
	RAYPIPE_UPDATE=1 $(BIN)/python -m pytest -q -n 0 tests/unit/sinks/test_type_round_trip.py

bench: setup ## Run the benchmarks, each beside its limit; BENCH_ARGS="--quick --only startup" for some
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

# Resolved on the oldest supported Python, whose markers ask for the most. raypipe itself is left out of its own lock.
lock: setup ## Resolve the dependencies again and write the lock with hashes
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
		|| { echo "The lock is made on Python 3.11: make clean setup PYTHON=python3.11" >&2; exit 1; }
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras --extra dev \
		--all-build-deps --unsafe-package raypipe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
		--no-emit-options --output-file $(LOCK) pyproject.toml
	sed -i '/^# WARNING: The following packages were not pinned/,$$d' $(LOCK)

python: ## Print which Python `make setup` uses
	@test -n "$(PYTHON)" && echo "$(PYTHON)"

clean: ## Remove what was built, .venv and caches included; the demo's results stay
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
