VENV ?= .venv
READY := $(VENV)/.hfdistill
RUN := $(VENV)/bin/python -m
LOCK := requirements.lock
EXTRAS := .[quickstart,test]
LATEST := .venv-latest
# accelerate gives a CPU process one thread unless told otherwise; all threads wait for the one on a busy core
THREADS = $(shell $(VENV)/bin/python -c 'from hfdistill.recipe.threads import main; main()')

# what is compiled where it is imported, as hardly any of it is: a third of all
LATER := packages/(.*/tests?/|transformers/models/|torch/(_inductor|testing)/|pip/|setuptools/)

# neighbours stay on one process, which then makes what they share once; one that is done takes from the other
SPREAD := -n auto --maxprocesses 4 --dist worksteal

.PHONY: help quickstart test test-latest lock fix check docs slow coverage shuffled mutants fuzz

help:        ## show this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/ —/'

# pip would compile on one core, and all of it; what cannot be compiled is a template. pip applies the first variable to what it installs, newer ones the second to what builds this package
$(READY): pyproject.toml $(LOCK)
	python3 -m venv $(VENV)
	PIP_CONSTRAINT=$(LOCK) PIP_BUILD_CONSTRAINT=$(LOCK) $(VENV)/bin/pip install --quiet --no-compile torch -e '$(EXTRAS)'
	-@$(VENV)/bin/python -m compileall -qq -j 0 -x '$(LATER)' $(VENV)/lib
	@touch $@

quickstart: $(READY)  ## distil a classifier, with no Hub and no account
	$(RUN) accelerate.commands.launch --num_cpu_threads_per_process $(THREADS) recipes/quickstart.py

test: $(READY)  ## the fast suite: no Hub, no GPU; a process for each core, at most 4
	PYTHONDONTWRITEBYTECODE= HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(RUN) pytest $(SPREAD)

lock:        ## write the lock anew: the newest versions of everything
	python3 -m venv $(LATEST)
	$(LATEST)/bin/pip install --quiet --upgrade torch hatchling -e '.[quickstart,test,docs]'
	{ grep '^#' $(LOCK); $(LATEST)/bin/pip freeze --exclude-editable | sed 's/+cpu//'; } > $(LOCK).new
	mv $(LOCK).new $(LOCK)

test-latest:  ## the fast suite on the newest versions of everything; says which differ from the lock
	python3 -m venv $(LATEST)
	$(LATEST)/bin/pip install --quiet --upgrade torch -e '$(EXTRAS)'
	@echo "locked and newest versions that differ:"
	@$(LATEST)/bin/pip freeze --exclude-editable | sed 's/+cpu//' | grep -vixFf $(LOCK) || echo none
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(LATEST)/bin/python -m pytest $(SPREAD)

fix: $(READY)  ## format the code and mend what ruff can mend
	$(RUN) ruff format . && $(RUN) ruff check --fix .

check: $(READY)  ## format, lint and types
	$(RUN) ruff format --check . && $(RUN) ruff check . && $(RUN) mypy

docs: $(READY)  ## build the reference from the docstrings, in build/docs; a warning stops it
	PIP_CONSTRAINT=$(LOCK) $(VENV)/bin/pip install --quiet -e '.[docs]'
	$(VENV)/bin/python -W error -m pdoc hfdistill --docformat google --output-directory build/docs

slow: $(READY)  ## the tests that train for minutes
	HF_HUB_OFFLINE=1 $(RUN) pytest -m slow --timeout=1800

coverage: $(READY)  ## which lines and branches the fast suite executes
	$(RUN) coverage erase
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(RUN) pytest $(SPREAD) --cov --cov-report=term --cov-report=html:build/coverage

shuffled: $(READY)  ## the fast suite 20 times, in another order each time
	for run in $$(seq 20); do \
	  HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(RUN) pytest $(SPREAD) -q -p randomly --randomly-dont-reset-seed || exit 1; \
	done

mutants: $(READY)  ## whether the tests notice changed lines of losses, label spaces, cache, checkpoints and readers
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(RUN) tests.mutation

KINDS := recording facts manifest report page csv_file answers_file

fuzz: $(READY)  ## 5 minutes for each kind of file that is read: contents that reach other code, found by atheris
	$(VENV)/bin/pip install --quiet --target build/atheris atheris
	for kind in $(KINDS); do \
	  PYTHONPATH=build/atheris HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 \
	    $(RUN) tests.faults.fuzz $$kind -max_total_time=300 -artifact_prefix=build/ || exit 1; \
	done
