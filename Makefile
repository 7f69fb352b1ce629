# Two commands to start with: `make run` sees the main job done on real data, `make test` proves it.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
HOME_DIR := .home
PORT := 3000
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export DAGSTER_DISABLE_TELEMETRY := yes

.PHONY: help run ui test test-all check bench reference format screenshots plain clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

$(VENV)/.run-installed: pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "No Python >= 3.11 found. Install python3.11 and python3.11-venv, or say: make PYTHON=/path/to/python"; exit 1; }
	started=$$SECONDS
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	echo "installing into $(VENV) ..."
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[ui,notify,metrics,examples,notebook]' 2> >(grep -v 'is ignored: it is neither a file' >&2)
	echo "installed in $$((SECONDS - started)) s"
	touch $@

$(VENV)/.test-installed: $(VENV)/.run-installed
	@started=$$SECONDS
	echo "installing what the tests need ..."
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[ui,notify,metrics,examples,notebook,postgres,team,dev]' 2> >(grep -v 'is ignored: it is neither a file' >&2)
	echo "installed in $$((SECONDS - started)) s"
	touch $@

run: $(VENV)/.run-installed ## runs the example workflows, learns, forecasts, tries one suggestion; under 6 minutes after installing
	@$(BIN)/python -m assets.tour --home $(HOME_DIR)

ui: $(VENV)/.run-installed ## the Dagster UI on the instance of `make run`, at port 3000 (PORT=...); Ctrl-C ends all
	@$(BIN)/python -m assets.ui --home $(HOME_DIR) --port $(PORT)

test: $(VENV)/.test-installed ## checks, tests with coverage, and an install of the bare wheel; under 12 minutes
	@$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest -m "untraced and not long" -q
	COVERAGE_FILE=.coverage $(BIN)/python -m pytest -n 2 --dist loadfile -m "not long and not untraced" --cov --cov-report=term:skip-covered
	$(MAKE) --no-print-directory plain

test-all: $(VENV)/.test-installed ## `make test` and the long tests
	@$(MAKE) --no-print-directory test
	$(BIN)/python -m pytest -m long -s

check: $(VENV)/.test-installed ## format, lint, types, import order, generated files fresh; under a minute
	@$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/lint-imports --no-cache | tail -n 4
	$(BIN)/basedpyright --level error --pythonpath $(BIN)/python
	for module in $(REFERENCE); do $(BIN)/python -m $$module --check; done

REFERENCE := workflows_pkg.spec.schema workflows_pkg.steps.reference workflows_pkg.history.dictionary workflows_pkg.history.questions.reference workflows_pkg.cli.reference

reference: $(VENV)/.test-installed ## writes the generated pages of docs/reference again
	@for module in $(REFERENCE); do $(BIN)/python -m $$module; done

format: $(VENV)/.test-installed ## formats the code
	@$(BIN)/ruff check -q --fix . ; $(BIN)/ruff format -q .

# What is replayed is generated unless TRACES names a folder of public traces; what machines a task never ran on cost, only traces tell.
bench: $(VENV)/.test-installed ## every benchmark at full size; results in benchmarks/results (TRACES=folder of public traces)
	@mkdir -p benchmarks/results
	run() { echo "$$1" >&2; $(BIN)/python benchmarks/$$1.py "$${@:2}" > benchmarks/results/$$1.jsonl; }
	for name in history_layout history_ingest history_questions history_lag look launch_lookup metering forecast_error deadlines archive_purge team_history cost what_changed; do
	  run $$name $(BENCH_ARGS)
	done
	for name in prediction scaling; do
	  run $$name $(if $(TRACES),--traces $(TRACES)) $(BENCH_ARGS)
	done
	$(if $(TRACES),run other_machines --traces $(TRACES))
	$(BIN)/python benchmarks/tables.py

screenshots: $(VENV)/.test-installed ## takes the pictures of docs/images from the instance of `make run`; needs Debian's chromium
	@PYTHONPATH=. $(BIN)/python docs/screenshots.py --home $(HOME_DIR)

plain: $(VENV)/.test-installed ## builds the wheel, installs it alone in a fresh environment, and asks it for help
	@place=$$(mktemp -d); trap 'rm -rf $$place' EXIT
	$(BIN)/python -m pip wheel -q --no-deps -w $$place . 2> >(grep -v 'is ignored: it is neither a file' >&2)
	$(BIN)/python -m venv $$place/env
	$$place/env/bin/python -m pip install -q -c constraints.txt $$place/*.whl 2> >(grep -v 'is ignored: it is neither a file' >&2)
	cd $$place && ./env/bin/workflows --help > help.txt && ./env/bin/workflows doctor > doctor.txt || { cat help.txt doctor.txt; exit 1; }
	echo "the bare wheel installs and answers --help and doctor"

clean: ## removes the example instance (.home)
	@rm -rf $(HOME_DIR)
