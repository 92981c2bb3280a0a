.PHONY: help fix check test slow

help:   ## show this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/ —/'

fix:    ## format the code and mend what ruff can mend
	ruff format . && ruff check --fix .

check:  ## lint, format and types
	ruff format --check . && ruff check . && mypy

test:   ## the fast suite: no Hub, no GPU
	HF_HUB_OFFLINE=1 python -m pytest

slow:   ## the tests that train for minutes
	HF_HUB_OFFLINE=1 python -m pytest -m slow --timeout=1800
