# The commands of this project. Each target first installs its packages into .venv.
# Another interpreter: make repro PYTHON=python3.13. Extra arguments of pytest: make test ARGS="-k gate -x".

PYTHON ?= python3
VENV := $(CURDIR)/.venv

# DVC runs the commands of dvc.yaml with the `python` of PATH.
export PATH := $(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help repro test faults check fresh exports standins grid ablation robustness bench results documents web gate accept clean

help:  ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1|\2/p' Makefile | while IFS='|' read -r name text; do \
		printf '%-15s %s\n' "$$name" "$$text"; done

repro: $(VENV)/.installed  ## run the pipeline: train, evaluate, draw
	dvc repro

# Several processes of one thread each; ARGS="-n 0 --pdb" runs the tests in one, for a debugger.
test: export OMP_NUM_THREADS = 1
test: $(VENV)/.installed-test  ## run the tests
	python -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

faults: export OMP_NUM_THREADS = 1
faults: $(VENV)/.installed-test  ## kill, fill disks, damage files, fuzz (FULL=1: all of it, about an hour)
	for part in hostile disturb fuzz; do python -W ignore tests/faults/$$part.py $(if $(FULL),--full) || exit 1; done

check: $(VENV)/.installed-test  ## ruff and mypy
	ruff check .
	ruff format --check .
	mypy

.PHONY: docs
docs: $(VENV)/.installed-docs  ## build the pages into site/, without the network
	NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict --clean

fresh: $(VENV)/.installed  ## fail if a dvc.lock lags behind the code or the parameters
	@plan=$$(dvc repro --allow-missing --dry dvc.yaml studies/dvc.yaml) || { echo "$$plan"; exit 1; }; \
	if echo "$$plan" | grep "Running stage"; then \
		echo "a dvc.lock is stale: run make repro robustness, then commit both, metrics/ and plots/"; exit 1; fi

exports: $(VENV)/.installed-test  ## open exports with other versions of transformers (VERSIONS="5.16.0 5.19.0": these)
	python tests/export_versions.py $(VERSIONS)

standins: $(VENV)/.installed  ## train the small stand-in backbones again (slow; the results are committed)
	python -m panollava.backbones.standins.train

grid: $(VENV)/.installed  ## run every encoder with every language model; write metrics/combinations.*
	panollava grid

ablation: $(VENV)/.installed  ## run the ablation study, three seeds an arm (ARMS="default code-yaw": these alone)
	panollava ablation $(ARMS)

robustness: $(VENV)/.installed  ## ask about rotated panoramas: yaws, seam, latitude, tilts (minutes, after make repro)
	dvc repro studies/dvc.yaml

bench: $(VENV)/.installed-bench  ## time this package beside its alternatives; write metrics/bench.json
	panollava bench all --json metrics/bench.json

results: $(VENV)/.installed  ## write the tables of README.md and docs/ from metrics/
	panollava documents

documents: $(VENV)/.installed  ## fail if the committed tables do not show the committed metrics
	panollava documents --check

web:  ## build the page of `panollava view` from web/ (needs Node 20.19 or newer; the result is committed)
	npm ci --prefix web
	npm run --prefix web build

gate: $(VENV)/.installed  ## fail if a benchmark number got worse (BASE=<revision>; default: the accepted numbers)
	panollava gate $(if $(BASE),--base $(BASE))

accept: $(VENV)/.installed  ## make the present numbers the ones that the gate compares with
	panollava gate --accept

clean:  ## remove .venv and the scratch folder; data, models and results stay
	rm -rf $(VENV) .scratch

# The stamps carry the time of the last complete installation, so a call with nothing to install costs nothing.
$(VENV)/.installed: pyproject.toml requirements.lock
	$(call install,.)
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(call install,.[test])
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(call install,.[bench])
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(call install,.[docs])
	@touch $@

define install
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "PanoLLaVA needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
	echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
@$(VENV)/bin/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
@echo "Installing $(1) into .venv (a first installation takes minutes)"
@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '$(1)'
endef
