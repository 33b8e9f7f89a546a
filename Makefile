# Two commands: `make demo` trains a GAN on real images that come with the
# package; `make test` runs the tests. Both make their own environment.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint

$(BIN)/bigscale: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -e .
	@touch $@

# The test extra, which brings the linter too.
$(BIN)/pytest: $(BIN)/bigscale
	$(BIN)/pip install --quiet -e '.[test]'
	@touch $@

demo: $(BIN)/bigscale
	$(BIN)/bigscale train --config=configs/fashion_r3gan.py --workdir=runs/fashion_r3gan

test: $(BIN)/pytest
	$(BIN)/pytest

lint: $(BIN)/pytest
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
