# The verbs of this repository; CI calls the same ones (.ci/run). Needs make and Python 3.10 or newer.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
ARGS ?=

bin := $(VENV)/bin
stamp := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup programs tools unit test check format demo bench soak wheel wheel-test clean

help: ## Show this list
	@echo "make <verb> [PYTHON=python3] [VENV=.venv] [WORKERS=2] [ARGS='...']"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1\t\2/p' Makefile | expand -t 14

setup: $(stamp) ## Make the virtual environment and install everything into it

# Installed anew only when the list of dependencies may have changed.
$(stamp): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
		echo "'$(PYTHON)' is not installed. Install Python 3.10 or newer, or name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "Tagtrail needs Python 3.10 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name a newer one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
		echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(bin)/python -m pip install --quiet --upgrade pip
	$(bin)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,demo]'
	@touch $@

programs: ## Install the programs of the pipeline that Debian has: for all tests to run
	tools/install-programs

tools: ## Build or fetch what the tests need and Debian has not, once, into ~/.cache/tagtrail
	tools/build-programs

unit: setup ## Run the quick unit tests: seconds, no Ray
	$(bin)/python -m pytest tests/unit -m 'not slow' --hypothesis-profile=few $(ARGS)
	@echo "Left out: tests marked slow, and most examples of properties. 'make test' runs all."

test: setup ## Run all tests, on a Ray that the tests start and end; what failed is run once more
	$(bin)/python -m tools.suite.run tests -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: setup ## Lint, format, types and the direction of imports
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/python -m pytest --quiet tests/unit/test_import_direction.py

format: setup ## Format the code and sort its imports
	$(bin)/ruff check --select I --fix .
	$(bin)/ruff format .

demo: setup ## Serve two models, send requests, show who answered
	$(bin)/tagtrail demo $(ARGS)

bench: setup ## Measure, and print a table
	$(bin)/python -m benchmarks $(ARGS)

soak: setup ## Send 100,000 requests of mixed kinds and compare records and counters: ARGS='--requests N --seed S'
	$(bin)/python -m tests.mixed $(ARGS)

wheel: setup ## Build the wheel into dist/
	rm -rf build dist
	$(bin)/python -m build --wheel --outdir dist

wheel-test: wheel ## Install the wheel elsewhere and run its demo there
	PYTHON=$(PYTHON) tools/wheel-test dist/*.whl

clean: ## Remove the virtual environment and all that was built
	rm -rf $(VENV) build dist test-results *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
