# Two commands do everything: `make demo` and `make test`. Each makes its own environment in .venv.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
PIP = $(VENV)/bin/python -m pip install --disable-pip-version-check -q
# One thread per test process: two processes with two threads each are slower than this on two cores.
PYTEST = OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(JOBS)

.PHONY: demo test test-core lint bench clean

demo: $(VENV)/.installed  ## score three baselines on an embedded mini dataset, print the leaderboard
	$(VENV)/bin/evar run logmel,mfcc,random:byola-v1-512 esc50,spcv2 --mini --results demo/results --embeddings demo/embeddings
	@echo "This was synthetic audio, made on the spot. With your own copy: $(VENV)/bin/evar run random:byola-v2 esc50 --data DIR"

test: $(VENV)/.installed-all  ## the whole suite, with every extra
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
	$(PYTEST)

test-core:  ## the base install alone, in an environment of its own: every missing extra gives its one line
	$(MAKE) VENV=.venv-core .venv-core/.installed-core
	EVAR_CORE=1 OMP_NUM_THREADS=1 .venv-core/bin/python -m pytest -n $(JOBS)

lint: $(VENV)/.installed-all
	$(VENV)/bin/ruff check --fix . && $(VENV)/bin/ruff format .

bench: $(VENV)/.installed-all  ## the tables of benchmarks/README.md
	$(VENV)/bin/python benchmarks/run_all.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	@echo "installing evar in $(VENV): torch and its company are about 5 GB, this takes a few minutes"
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-all: setup.cfg pyproject.toml | $(VENV)/bin/python
	@echo "installing evar with every extra in $(VENV): about 8 GB, this takes a few minutes"
	@$(PIP) -e '.[all,test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-core: setup.cfg pyproject.toml | $(VENV)/bin/python
	@$(PIP) -e '.[test]'
	@touch $@

clean:
	rm -rf .venv .venv-core build dist *.egg-info demo .pytest_cache .ruff_cache
