# make help lists the targets. Each does its own set-up: a virtual environment from the pinned lock.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
# One stamp for the lock, one for this checkout: CI shares the environment between clones.
LOCKED := $(VENV)/.locked-$(shell cksum requirements.lock | cut -d' ' -f1)
STAMP := $(VENV)/.installed-$(shell (cat pyproject.toml; echo "$(CURDIR)") | cksum | cut -d' ' -f1)
RUNS ?= runs
PORT ?= 5000
DATA ?= ../shared/data
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help env demo test lint audit ui bench chaos cluster quality hostile figures gallery lock clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | awk -F'\t' '{printf "  make %-9s %s\n", $$1, $$2}'
	@echo 'variables: RUNS=$(RUNS) PORT=$(PORT) VENV=$(VENV) DATA=$(DATA) JOBS=$(JOBS) ARGS="further options"'

env: $(STAMP)  ## set up the virtual environment (5 GB, a few minutes, once)

$(LOCKED): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; make PYTHON=python3.12 ..."; exit 1; }
	@echo "setting up $(VENV) from requirements.lock (5 GB, a few minutes, once)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@rm -f $(VENV)/.locked-* && touch $@

$(STAMP): $(LOCKED) pyproject.toml
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.installed-* && touch $@

demo: env  ## train on spoken digits, or on AUDIO=<folder>: 5 minutes on two cores, then a report
	@$(PY) -m workers.demo $(if $(AUDIO),"$(AUDIO)") --run.dir "$(RUNS)" $(ARGS)

test: env lint  ## ruff, mypy and the test suite without slow tests, in JOBS=2 processes
	@$(PY) -m pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: env  ## ruff and mypy only
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

audit: env  ## bandit on the code, and pip-audit on the locked packages (which asks a service: needs the network)
	@$(PY) -m pip install --quiet --disable-pip-version-check bandit pip-audit
	@$(PY) -m bandit --quiet --recursive --configfile pyproject.toml pydreaming workers launch.py docker && echo "bandit: clean"
	@out=$$($(PY) -m pip_audit --strict --progress-spinner off --disable-pip --require-hashes -r requirements.lock 2>&1) && echo "$$out" || { \
	  case "$$out" in *"known vulnerabilit"*) echo "$$out" ;; \
	  *) echo "$$out" | tail -n 1; echo "make audit: no verdict on the packages: pip-audit could not ask its service, which needs the network" >&2 ;; \
	  esac; exit 1; }

ui: env  ## open MLflow on the runs: prints the link
	@$(PY) -m workers.ui --run-dir "$(RUNS)" --port $(PORT)

bench: env  ## the speed of every part beside peers, limits and targets, in RUNS/bench (20 minutes); PEERS="pydreamer=PATH ..." runs clones, too
	@mkdir -p "$(RUNS)/bench"
	@$(PY) -m benchmarks.frontend --json "$(RUNS)/bench/frontend.json"
	@$(PY) -m benchmarks.replay --json "$(RUNS)/bench/replay.json"
	@$(PY) -m benchmarks.step --json "$(RUNS)/bench/step.json"
	@$(PY) -m benchmarks.peers $(foreach peer,$(PEERS),--peer "$(peer)") --json "$(RUNS)/bench/peers.json"
	@$(PY) -m benchmarks.store --tokens 10000 100000 1000000 10000000 --json "$(RUNS)/bench/store.json"
	@$(PY) -m benchmarks.coordinator --recordings 100000 --seconds 15 --json "$(RUNS)/bench/coordinator.json"
	@$(PY) -m benchmarks.whole $(if $(wildcard $(DATA)/fsdd),--audio "$(DATA)/fsdd") --json "$(RUNS)/bench/whole.json"
	@$(PY) -m benchmarks.targets "$(RUNS)/bench" > "$(RUNS)/bench/targets.md"
	@cat "$(RUNS)/bench/targets.md"

chaos: env  ## break real processes, disks and files, at random and one by one: docs/reliability.md (minutes); figures in RUNS/chaos.json
	@mkdir -p "$(RUNS)"
	@PYDREAMING_CHAOS_REPORT="$(abspath $(RUNS))/chaos.json" $(PY) -m pytest -n $(JOBS) --dist loadfile -m chaos tests/chaos $(ARGS)
	@cat "$(RUNS)/chaos.md"

cluster: env  ## the compose stack on a real Docker engine (minutes)
	@$(PY) -m pytest -rs -m cluster tests/cluster $(ARGS)

quality: env  ## train for minutes and check the figures of README
	@$(PY) -m pytest -m quality tests/quality $(ARGS)

hostile: env  ## a million hostile messages, and damaged files of every kind (minutes)
	@$(PY) -m benchmarks.hostile $(ARGS)

figures: env  ## the world model beside its peers, over seeds: DATA=<folder with fsdd, esc10, ...> (hours; goes on where it was)
	@$(PY) -m benchmarks.quality --data "$(DATA)" --out "$(RUNS)/quality" --jobs 2 $(ARGS)

gallery: env  ## docs/gallery.md, every command with its picture: MODEL=<run trained on FSDD> DATA=<folder with fsdd, esc10, machines> (minutes)
	@$(PY) -m benchmarks.gallery --model "$(or $(MODEL),$(error set MODEL=<run trained on FSDD>))" --data "$(DATA)" --out docs/gallery $(ARGS)

lock: $(LOCKED)  ## renew requirements.lock from pyproject.toml
	@$(PY) -m pip install --quiet uv && $(VENV)/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
	  --generate-hashes --no-header --quiet --output-file requirements.lock

clean:  ## remove the virtual environment and caches (runs stay)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
