# What people do with a checkout. python3 (3.11 or newer) and make are all that has to be there before.

PYTHON ?= python3
RUN_ARGS ?= --tools examples/tools.py:TOOLS --exit-zero
SERVE_ARGS ?= --tools examples/tools.py:TOOLS --data build/gateway
PYTEST_ARGS ?= -q
# Each worker starts servers of its own, and a file's tests stay with one worker.
TEST_WORKERS ?= 2
BENCH_ARGS ?= --json build/overhead.json
FUZZ_ARGS ?=
FUZZ_SECONDS ?= 60

SHELL := /bin/sh
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --require-hashes
PIP_EDITABLE := -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
LOCK := uv pip compile --quiet --upgrade --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
	--universal --python-version 3.11
# What the image in deploy/ has beside toolpost itself.
DEPLOYED := $(addprefix --extra ,serve mcp redis postgres s3 auth sql html)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run serve test lint format prepare services bench fuzz lock clean

help: ## Show what there is to do
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

run: .venv/.ready ## Start a gateway, run the example calls through it and show what came out
	@mkdir -p build && rm -f build/results.jsonl
	.venv/bin/toolpost run examples/calls.jsonl -o build/results.jsonl --serve $(RUN_ARGS)
	@echo "every result is in build/results.jsonl; 'make serve' keeps a gateway running and says where to look"

serve: .venv/.ready ## Run a gateway with the example tools until Ctrl-C
	@mkdir -p build
	.venv/bin/toolpost serve $(SERVE_ARGS)

test: lint prepare ## Lint, then run all tests
	.venv/bin/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

lint: .venv/.ready ## Check style, format and types
	.venv/bin/ruff check --quiet .
	.venv/bin/ruff format --quiet --check . || { echo "run 'make format' to format these files" >&2; exit 1; }
	.venv/bin/mypy --no-error-summary

format: .venv/.ready ## Put the sources into the format that lint checks
	.venv/bin/ruff check --quiet --fix . ; .venv/bin/ruff format --quiet .

prepare: .venv/.ready ## Get the servers that the tests use, once
	@.venv/bin/python -m tests.services prepare --install

services: prepare ## Run the servers that the tests use, until Ctrl-C
	@.venv/bin/python -m tests.services serve

bench: .venv-bench/.ready ## Measure what a call costs, next to other libraries, what policies add, what screening, sandboxes and doors cost
	@mkdir -p build
	.venv-bench/bin/python benchmarks/overhead.py $(BENCH_ARGS)
	.venv-bench/bin/python benchmarks/policies.py --json build/policies.json
	.venv-bench/bin/python benchmarks/screening.py --json build/screening.json
	.venv-bench/bin/python benchmarks/sandbox.py --concurrent 100 --leaks 10000 --json build/sandbox.json
	.venv-bench/bin/python benchmarks/doors.py --json build/doors.json

fuzz: .venv/.fuzz ## Look for inputs that break a promise, FUZZ_SECONDS (60) for each target
	@FUZZ_SECONDS=$(FUZZ_SECONDS) .venv/bin/python -m tests.fuzz $(FUZZ_ARGS)

lock: ## Pin the requirements anew (needs uv)
	@command -v uv >/dev/null || { echo "make lock needs uv: $(PYTHON) -m pip install uv" >&2; exit 1; }
	$(LOCK) requirements/build.in -o requirements/build.txt
	$(LOCK) --all-extras pyproject.toml requirements/dev.in -o requirements/dev.txt
	$(LOCK) --all-extras pyproject.toml requirements/bench.in -o requirements/bench.txt
	$(LOCK) requirements/fuzz.in -o requirements/fuzz.txt
	$(LOCK) --no-annotate $(DEPLOYED) -c requirements/dev.txt pyproject.toml requirements/build.in \
		-o requirements/deploy.txt
	$(LOCK) requirements/clients.in -o requirements/clients.txt
	$(LOCK) requirements/clients-legacy.in -o requirements/clients-legacy.txt

clean: ## Remove everything that make has made
	rm -rf .venv .venv-bench .cache build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: an environment is made anew when its requirements have changed; when only pyproject.toml has, toolpost
# alone is installed again.

.venv/.ready: .venv/.requirements pyproject.toml
	@.venv/bin/python $(PIP_EDITABLE)
	@touch $@

.venv/.requirements: requirements/build.txt requirements/dev.txt requirements/json-schema-suite.txt
	$(call make_venv,.venv,requirements/dev.txt)
	@.venv/bin/python tests/json_schema_suite.py >/dev/null
	@touch $@

.venv-bench/.ready: .venv-bench/.requirements pyproject.toml
	@.venv-bench/bin/python $(PIP_EDITABLE)
	@touch $@

.venv-bench/.requirements: requirements/build.txt requirements/bench.txt
	$(call make_venv,.venv-bench,requirements/bench.txt)
	@touch $@

# Without a wheel for this Python the targets run all the same, only less cleverly.
.venv/.fuzz: .venv/.ready requirements/fuzz.txt
	@.venv/bin/python $(PIP_INSTALL) --only-binary :all: -r requirements/fuzz.txt \
		|| echo "atheris cannot be had for this Python; inputs will be mutated without it" >&2
	@touch $@

# $(1) is the folder, $(2) what goes into it.
define make_venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "toolpost needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing);" \
	"name another with: make PYTHON=/path/to/python3.11" >&2; exit 1; }
@echo "setting up $(1) from $(2)"
@$(PYTHON) -m venv --clear $(1)
@$(1)/bin/python $(PIP_INSTALL) -r requirements/build.txt
@$(1)/bin/python $(PIP_INSTALL) --no-build-isolation -r $(2)
endef
