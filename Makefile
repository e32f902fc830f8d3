# Everything a developer does, in the folder's own environment (.venv).
PYTHON ?= python3
BIN := .venv/bin
export AOS_STATE_DIR ?= .aos
# Test processes at a time; most of a test is waiting for other processes.
JOBS ?= 3
# On Linux the newest torch brings several GB for GPUs; give another one, or an index of CPU builds, if you want.
TORCH ?= torch==2.13.0

.DEFAULT_GOAL := help
.PHONY: help setup run test test-sdks test-ml faults soak lint format bench bench-peers bench-wire bench-growth bench-cold bench-broker clean

help: ## Show this help
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(BIN)/.dev ## Make .venv with everything that work on AOS needs

run: $(BIN)/.local ## Start the local stack and AOS; prints a curl to try
	@$(BIN)/python -m emulators run --write $(AOS_STATE_DIR)/settings.env -- $(BIN)/python -m aos serve

test: $(BIN)/.dev ## Run all tests
	@# In their order: by default the files with the fewest tests come last, which are those that take minutes.
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-sdks: $(BIN)/.dev ## Run the tests of Foundry with the oldest SDKs that are admitted
	$(BIN)/python -m tests.foundry.lowest_sdks

test-ml: $(BIN)/.ml ## Run the tests that train and serve adapters, also in Azure ML (installs torch)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m ml tests/lora tests/ml

faults: $(BIN)/.dev ## Kill processes at every point of a turn and print what became of it
	$(BIN)/python -m pytest -q -s -m soak tests/e2e/test_fault_points.py tests/e2e/test_fault_parts.py

soak: $(BIN)/.dev ## Run the tests that take minutes: many conversations on two hosts, memory over many turns
	$(BIN)/python -m pytest -q -s -m soak tests/e2e/test_two_hosts.py tests/e2e/test_soak.py

lint: $(BIN)/.dev ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(BIN)/.dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(BIN)/.dev ## Measure AOS
	$(BIN)/python -m benchmarks

bench-wire: $(BIN)/.local ## Measure turns over the wire on the local stack, beside their floor
	$(BIN)/python -m benchmarks.wire

bench-growth: $(BIN)/.local ## Measure what grows with agents, conversations, history, tools and sizes (plots)
	$(BIN)/python -m benchmarks.growth --plots docs/plots

bench-cold: $(BIN)/.dev ## Measure a cold start
	$(BIN)/python -m benchmarks.cold

bench-broker: $(BIN)/.local ## Measure the Service Bus emulator
	$(BIN)/python -m benchmarks.broker

bench-peers: $(BIN)/.local ## Measure AOS beside other agent frameworks (installs each under .aos/peers)
	$(BIN)/python -m benchmarks.peers --plots docs/plots

clean: ## Remove the environment, the local stack's state and all caches
	rm -rf .venv .aos build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13)))' \
		|| { echo "AOS needs Python 3.11 to 3.13; $(PYTHON) is another one. Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv

$(BIN)/.local: $(BIN)/python requirements.txt pyproject.toml
	@echo "Installing AOS into .venv: once, about a minute."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[local]'
	@touch $@

$(BIN)/.dev: $(BIN)/python requirements.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@# The code that runs function apps in Azure; it says 3.13 but runs on 3.11, and needs none of its dependencies.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --ignore-requires-python --no-deps \
		'azure-functions-runtime>=1.3,<2'
	@touch $@ $(BIN)/.local

$(BIN)/.ml: $(BIN)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[ml,azureml]'
	@touch $@
