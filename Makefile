# make quickstart   set up, then run the quickstart search (2 CPU cores, no network, no GPU)
# make test         set up, then run the tests
# Both need Python 3.11 to 3.13 and nothing else; PYTHON=/path/to/python chooses one.

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
  $$python -c '$(SUPPORTED)' 2> /dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: quickstart test setup clean

quickstart: setup
	$(BIN)/ragsearch run search_spaces/quickstart.yaml

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not long"

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@'$(PYTHON)' -c '$(SUPPORTED)' || { \
	  echo 'error: Python 3.11 to 3.13 is needed; choose one with make PYTHON=/path/to/python' >&2; \
	  exit 2; }
	test -x $(BIN)/python || '$(PYTHON)' -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV)
