# K2, without Docker. `make help` lists what there is.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
READY := $(VENV)/.ready
ARGS ?=
# Where it is set, every start of a program would compile its imports again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo up down test crash-matrix monitoring-test object-store-test soak bench lint audit format lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make the virtual environment and install what is locked

$(READY): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
		|| { echo "error: $(PYTHON) is not Python 3.11, 3.12 or 3.13; name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "setting up $(VENV) (a minute or two, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(UV) || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.8
	@VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --compile-bytecode --requirement requirements-dev.txt
	@VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --no-deps --editable .
	@touch $@

demo: $(READY) ## run everything once: trades to candles to Iceberg, audited (ARGS="--trades ...")
	@$(BIN)/k2 demo $(ARGS)

up: $(READY) ## start the stack with Airflow's UI, and stay
	@$(BIN)/k2 up $(ARGS)

down: $(READY) ## stop the stack from another terminal
	@$(BIN)/k2 down

test: $(READY) ## run all tests, on two cores (ARGS="-k candles")
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

crash-matrix: $(READY) ## kill drivers and servers at every step, print what was lost (ARGS="-k gold")
	@$(BIN)/python -m pytest tests/crash -m crash --numprocesses 2 $(ARGS)

monitoring-test: $(READY) ## test alerts, dashboards and Airflow's metrics with a real Prometheus, built once by Go
	@$(BIN)/python -m pytest tests -m prometheus $(ARGS)

object-store-test: $(READY) ## test the lake on a real S3 server, which Go builds once
	@$(BIN)/python -m pytest tests -m s3 $(ARGS)

soak: $(READY) ## run many cycles under random faults, then audit (ARGS="--minutes 120")
	@K2_STATE=$(CURDIR)/.k2/soak $(BIN)/k2 down
	@rm -rf .k2/soak
	@K2_STATE=$(CURDIR)/.k2/soak $(BIN)/k2 soak $(ARGS)

bench: $(READY) ## measure everything on this machine, in half an hour; writes docs/benchmarks.md
	@$(BIN)/k2 bench freshness --rates 1000+100,10000+500 --minutes 2 --settle-every 2
	@$(BIN)/k2 bench settling --new-trades 20000,3800000 --table-trades 1000000,40000000
	@$(BIN)/k2 bench offload --rows 3800000 --large 40000000 --repeat 3
	@$(BIN)/k2 bench incremental --new-trades 20000 --table-trades 1000000,40000000 --repeat 3
	@$(BIN)/k2 bench dag --binance 3800000 --kraken 19000
	@$(BIN)/k2 bench server --rows 5000000 --repeat 3

lint: $(READY) ## check style, types, SQL, and that no file holds a secret
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/sqlfluff lint --disable-progress-bar --nocolor dbt_project/models dbt_project/tests
	$(BIN)/sqlfluff lint --disable-progress-bar --nocolor --templater placeholder include/clickhouse
	.ci/secrets

audit: $(READY) ## look for advisories on the locked versions (needs the package index's own service)
	$(UV) tool run --quiet pip-audit==2.10.1 --strict --disable-pip --no-deps --requirement requirements.txt
	$(UV) tool run --quiet pip-audit==2.10.1 --strict --disable-pip --no-deps --requirement requirements-dev.txt

format: $(READY) ## format Python
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format .

lock: $(READY) ## resolve the versions of requirements*.txt anew from pyproject.toml
	@$(UV) pip compile --quiet --python-version 3.11 --no-annotate --extra dev \
		--output-file requirements-dev.txt pyproject.toml
	@$(UV) pip compile --quiet --python-version 3.11 --no-annotate --constraint requirements-dev.txt \
		--output-file requirements.txt pyproject.toml

clean: ## stop the stack and remove its state
	@test ! -x $(BIN)/k2 || $(BIN)/k2 down
	@rm -rf .k2
