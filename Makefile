# Every target sets up what it needs. PYTHON chooses the interpreter that .venv is made of: make test PYTHON=python3.13
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help:  ## say what can be made
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: venv  ## watch it work on real git repositories, in this terminal, until Ctrl-C
	@$(BIN)/swh-sched-runner demo

# What tests write is removed afterwards: it goes into memory where there is enough, since most of it is databases.
IN_MEMORY = [ "$$(df -k --output=avail /dev/shm 2>/dev/null | tail -n 1)" -gt 8000000 ] 2>/dev/null \
  && export PYTEST_DEBUG_TEMPROOT=/dev/shm;

.PHONY: test
test: venv releases old-program  ## run all tests, on private servers
	@$(IN_MEMORY) $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: rescue-trials
rescue-trials: venv  ## run all tests of the rescuer with real workers, and all others that CI leaves out, and say how long each takes
	@$(BIN)/pytest tests/rescuer tests/services/test_workers.py tests/hostile/test_rejected.py \
	  tests/migrations/test_adopt_interrupted.py -m "" \
	  --durations=0 --durations-min=1 $(ARGS)

.PHONY: quick
quick: venv  ## run the tests that need PostgreSQL at most, between two edits: a minute
	@$(IN_MEMORY) $(BIN)/pytest -n 3 --dist loadfile -m quick -o tmp_path_retention_count=1 $(ARGS)

.PHONY: check
check: lint test  ## everything that has to hold before a change lands: lint and test

.PHONY: lint
lint: venv  ## style, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy docs/spec/check.py
	$(BIN)/lint-imports

.PHONY: format
format: venv  ## put the code into the common style
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

.PHONY: schema
schema: venv  ## draw sql/schema.sql anew from the migrations
	$(BIN)/python -m tools.schema

.PHONY: reference
reference: venv  ## write docs/reference/{backend,tables,alerts}.md anew, from docstrings, sql/schema.sql and the alerts
	$(BIN)/python -m tools.reference
	$(BIN)/python -m tools.tables
	$(BIN)/python -m tools.alerts

# Not --quiet: --strict would not count warnings then. Material for MkDocs warns of MkDocs 2, which is not installed.
.PHONY: docs
docs: venv  ## build the documentation site in site/; any web server can serve it, without a network
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site/index.html is made; to read it: python3 -m http.server --directory site"

# From an empty build/: it would carry SQL files that were deleted since. The wheel is made from the sdist.
.PHONY: dist
dist: venv  ## build dist/*.tar.gz and dist/*.whl
	rm -rf build dist *.egg-info
	$(BIN)/python -m build --outdir dist .
	rm -rf build

.PHONY: venv
venv: $(VENV)/.made  ## make .venv with the project and its tools

$(VENV)/.made: setup.cfg | prerequisites
	@echo "Installing into $(VENV): once, about a minute"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,dev,docs]'
	@touch $@

# Only asked when .venv has to be made: names all that is missing at once.
.PHONY: prerequisites
prerequisites:
	@missing=; \
	if ! command -v $(PYTHON) >/dev/null; then missing="$$missing $(PYTHON)"; \
	elif ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V). Choose another one: make PYTHON=python3.12" >&2; \
	  exit 1; \
	elif ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then missing="$$missing $(notdir $(PYTHON))-venv"; \
	fi; \
	command -v git >/dev/null || missing="$$missing git"; \
	if [ -n "$$missing" ]; then \
	  echo "missing:$$missing. On Debian or Ubuntu: apt install$$missing" >&2; exit 1; \
	fi

# Workers of these run our messages in tests. Made once, 6 s; without a network what needs them is skipped, not in CI.
.PHONY: releases
releases: venv  ## make environments with the other releases of Celery, for tests
	@$(BIN)/python -m tests.support.processes.releases

# The program that had adopted databases before; benchmarks run beside it, tests let it use what we adopted.
.PHONY: old-program
old-program: venv  ## make an environment with swh.scheduler 3.6.0 in bench/.baseline, for tests and benchmarks
	@$(BIN)/python -m tests.support.processes.old_program

# A line a round; SEED, KIND and FAULT play one again (docs/explanation/crash-tests.md).
.PHONY: faults
faults: venv  ## kill services, workers, servers and connections under load, and judge: ROUNDS=100 RUNNERS=4 SEED=… KIND=… FAULT=…
	@$(BIN)/python -m faults $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(RUNNERS),--runners $(RUNNERS)) \
	  $(if $(SEED),--seed $(SEED)) $(if $(KIND),--kind $(KIND)) $(if $(FAULT),--fault $(FAULT)) $(ARGS)

# A line a round; SEED plays one again, CLASS one class of messages, EACH=1 each class alone (docs/explanation/crash-tests.md).
.PHONY: attack
attack: venv  ## send the listener 10,000 hostile messages between 1,000 good runs, and judge: ROUNDS=1 SEED=… EACH=1 CLASS=…
	@$(BIN)/python -m faults.attack $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED)) \
	  $(if $(HOSTILE),--hostile $(HOSTILE)) $(if $(GOOD),--good $(GOOD)) $(if $(EACH),--each) \
	  $(if $(CLASS),--class $(CLASS)) $(ARGS)

# FULL=1: the large searches as well, some minutes more; WRITE=1: into docs/spec/README.md.
.PHONY: spec
spec:  ## search the models of dispatch, events and lost runs (docs/spec/README.md); FULL=1, WRITE=1
	@$(PYTHON) docs/spec/check.py $(if $(FULL),--full) $(if $(WRITE),--write) $(ARGS)

.PHONY: clean
clean:  ## remove what was built, .venv too
	rm -rf $(VENV) .releases build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

bench/.baseline/.made: | venv
	@CI=true $(BIN)/python -m tests.support.processes.old_program

.PHONY: bench-create
bench-create: venv bench/.baseline/.made  ## measure bulk creation beside the baseline; whole with FULL=1, into the docs with WRITE=1
	$(BIN)/python -m bench.create $(if $(FULL),--full) $(if $(WRITE),--write)

$(VENV)/.bench: $(VENV)/.made
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

.PHONY: bench-dispatch
bench-dispatch: $(VENV)/.bench bench/.baseline/.made  ## measure dispatch beside the baseline; whole with FULL=1, into the docs with WRITE=1
	$(BIN)/python -m bench.dispatch $(if $(FULL),--full) $(if $(WRITE),--write) $(ARGS)

.PHONY: bench-latency
bench-latency: venv bench/.baseline/.made  ## measure from a task's creation into its queue, beside the baseline; FULL=1, WRITE=1
	$(BIN)/python -m bench.latency $(if $(FULL),--full) $(if $(WRITE),--write)

.PHONY: bench-feeding
bench-feeding: venv bench/.baseline/.made  ## measure how short queues are fed; FULL=1, into the docs with WRITE=1
	$(BIN)/python -m bench.feeding $(if $(FULL),--full) $(if $(WRITE),--write)

.PHONY: bench-events
bench-events: $(VENV)/.bench bench/.baseline/.made  ## measure the listener beside the baseline; whole with FULL=1, into the docs with WRITE=1
	$(BIN)/python -m bench.events $(if $(FULL),--full) $(if $(WRITE),--write) $(ARGS)

.PHONY: bench-memory
bench-memory: venv  ## measure the memory of the runner; a million tasks with FULL=1, into the docs with WRITE=1
	$(BIN)/python -m bench.memory $(if $(FULL),--full) $(if $(WRITE),--write)

.PHONY: bench-runs
bench-runs: venv  ## measure what a run costs PostgreSQL, by how task_run is stored (docs/adr/0023-run-retention.md)
	$(BIN)/python -m bench.task_run --batches 150
	$(BIN)/python -m bench.task_run --batches 150 --merged
