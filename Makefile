# `make demo` runs the main job, `make test` passes the tests, `make test-all` also the slow ones. Each makes .venv first; a second run reuses it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
export QLORA_CACHE ?= $(CURDIR)/.cache
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test test-all test-gpu check setup clean

demo: setup
	$(BIN)/qlora demo $(ARGS)

test: setup
	$(BIN)/python scripts/check.py

test-all: setup
	$(BIN)/python scripts/check_all.py

test-gpu: setup
	$(BIN)/python -m pytest -m gpu -o faulthandler_timeout=3600 tests

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt scripts/setup.py
	$(PYTHON) scripts/setup.py $(VENV)

clean:
	rm -rf $(VENV) .cache
