VENV ?= .venv
READY := $(VENV)/.hfdistill
RUN := $(VENV)/bin/python -m
# accelerate gives a CPU process one thread unless told otherwise
THREADS := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 1)

.PHONY: help quickstart test fix check slow

help:        ## show this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/ —/'

$(READY): pyproject.toml
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet torch==2.13.0 -e '.[quickstart,test]'
	@touch $@

quickstart: $(READY)  ## distil a classifier, with no Hub and no account
	$(RUN) accelerate.commands.launch --num_cpu_threads_per_process $(THREADS) recipes/quickstart.py

test: $(READY)  ## the fast suite: no Hub, no GPU; a process for each core, at most 4
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(RUN) pytest -n auto --maxprocesses 4

fix: $(READY)  ## format the code and mend what ruff can mend
	$(RUN) ruff format . && $(RUN) ruff check --fix .

check: $(READY)  ## format, lint and types
	$(RUN) ruff format --check . && $(RUN) ruff check . && $(RUN) mypy

slow: $(READY)  ## the tests that train for minutes
	HF_HUB_OFFLINE=1 $(RUN) pytest -m slow --timeout=1800
