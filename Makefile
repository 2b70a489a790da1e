# `make train` and `make test` each do their own set-up in .venv from requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test slow lint table clean

train: $(VENV)/.ready
	$(BIN)/me-igm train --preset me_qmix --env smax/3m --run.seeds 3 \
		--run.total-steps 490000 --run.evals 10 --run.final-eval-episodes 512

test: $(VENV)/.ready
	$(BIN)/python -m pytest

slow: $(VENV)/.ready
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/basedpyright

table: $(VENV)/.ready
	$(BIN)/python benchmarks/matrix_table.py

clean:
	rm -rf $(VENV)

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@
