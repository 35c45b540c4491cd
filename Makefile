# Every target says what it does in `make help`. PYTHON chooses the interpreter (3.11 or newer).
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
UV_VERSION := 0.13.9
BIN := .venv/bin
export PYTHONSAFEPATH := 1

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 16

.PHONY: setup
setup: .venv/.installed ## Make the Python environment in .venv (quick when nothing changed)

.venv/.installed: requirements.lock pyproject.toml
	@echo "setup: making .venv with $$($(PYTHON) --version) and the locked packages (about half a minute the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fleetpack needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-build-isolation --no-deps --editable .
	@touch $@

.PHONY: lock
lock: ## Resolve requirements.lock anew from pyproject.toml
	@$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --custom-compile-command "make lock" --output-file requirements.lock --quiet

.PHONY: check
check: setup ## Format, lint, types, import layers, generated files (no cluster needed)
	@$(BIN)/ruff format --check --quiet . || { echo "check: run 'make format'"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/mypy -p control_plane -p kind_cluster -p demonstration -p benchmarks -p images_build -m installation -m run_tests
	@$(BIN)/lint-imports --no-cache > /tmp/fleetpack-lint-imports.$$$$ || { cat /tmp/fleetpack-lint-imports.$$$$; exit 1; }; rm -f /tmp/fleetpack-lint-imports.*
	@$(BIN)/python hack/generate_crds.py --check
	@$(BIN)/python hack/generate_api_reference.py --check
	@$(BIN)/python hack/generate_chart_crds.py --check
	@$(BIN)/python hack/generate_kubelet_stubs.py --check
	@echo "check: all good"

.PHONY: test
test: setup ## Run every test, on a real control plane too (built the first time), and in kind where a Docker engine answers
	@$(if $(TESTS),$(BIN)/pytest $(TESTS),$(BIN)/python hack/run_tests.py)

.PHONY: test-kind
test-kind: setup ## Run the tests that need real kubelets, in a kind cluster of their own (FLEETPACK_KIND_CLUSTER=NAME: in that one; FLEETPACK_TEST_DEMO=1: the demo on it too)
	@FLEETPACK_KIND_REQUIRED=1 $(BIN)/pytest $(or $(TESTS),tests/kind)

.PHONY: test-kills
test-kills: setup ## Kill the operator at each of its first 100 writes, before and after delivery (a quarter of an hour)
	@FLEETPACK_TEST_KILLS=all $(BIN)/pytest tests/end_to_end/test_kills.py

.PHONY: test-fast
test-fast: setup ## Run the tests that need no cluster
	@$(BIN)/pytest -m "not cluster and not kind" $(TESTS)

.PHONY: format
format: setup ## Format and fix what can be fixed by itself
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix --quiet .

.PHONY: cluster-up
cluster-up: setup ## Start a real control plane on this machine (NAME=x for another one); builds its programs the first time
	@$(BIN)/python hack/cluster --name $(or $(NAME),default) up

.PHONY: cluster-down
cluster-down: setup ## End that control plane and remove its state
	@$(BIN)/python hack/cluster --name $(or $(NAME),default) down

# Needs a Docker engine; where there is none, `hack/kind engine up` starts one (Debian, as root).
.PHONY: kind-up
kind-up: setup ## Create a kind cluster with real kubelets (NAME=x for another one); `hack/kind env` says how to use it
	@$(BIN)/python hack/kind --name $(or $(NAME),fleetpack) up

.PHONY: kind-down
kind-down: setup ## Delete that kind cluster
	@$(BIN)/python hack/kind --name $(or $(NAME),fleetpack) down

.PHONY: images
images: setup ## Build the container images (LOAD=CLUSTER puts them on the nodes of a kind cluster)
	@$(BIN)/python hack/images $(if $(LOAD),--load $(LOAD))

.PHONY: bench
bench: setup ## Measure what is promised against bench/budgets.yaml (twenty minutes; BENCH="planning reaction" for a part)
	@$(BIN)/python hack/bench $(BENCH)

# Whole days are played with one seed, everything else with three.
.PHONY: comparison
comparison: setup ## Play the published traces in TRACES=FOLDER with every policy; tables and pages in OUT=FOLDER (half an hour)
	@test -d "$(TRACES)" || { echo "comparison: TRACES=FOLDER must name the folder that holds the traces"; exit 2; }
	@mkdir -p $(or $(OUT),comparison)
	@for scenario in examples/scenarios/generated/*.yaml examples/scenarios/traces/*.yaml; do \
	  out="$(or $(OUT),comparison)/$$(basename $$scenario .yaml)"; case $$scenario in *-day.yaml) seeds=1;; *) seeds=3;; esac; \
	  $(BIN)/fleetpack-sim compare --scenario $$scenario --traces "$(TRACES)" --seeds $$seeds \
	    --markdown $$out.md --html $$out.html --json $$out.json || exit; done

# TRACE=FILE replays a trace, KEEP=1 leaves everything running, LOAD_SECONDS=n sets how long the load lasts.
.PHONY: demo
demo: setup ## Show it all at work on a real control plane (CLUSTER=kind, TRACE=FILE, KEEP=1; four minutes, the first time ten more)
	@$(BIN)/python hack/demo $(if $(filter kind,$(CLUSTER)),--on-kind) $(if $(TRACE),--trace $(TRACE)) $(if $(KEEP),--keep) $(if $(LOAD_SECONDS),--seconds $(LOAD_SECONDS)) $(if $(JSON),--json $(JSON))

.PHONY: demo-down
demo-down: setup ## End what `make demo KEEP=1` left running, in kind too
	@$(BIN)/python hack/cluster --name demo down
	@$(BIN)/python hack/kind --name demo down
