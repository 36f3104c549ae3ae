# Two commands do everything: `make demo` and `make test`. Each makes its own environment in .venv.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
PIP = $(VENV)/bin/python -m pip install --disable-pip-version-check -q
# One thread per test process: two processes with two threads each are slower than this on two cores.
PYTEST = OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(JOBS)

.PHONY: demo test test-core lint bench drill pretrained docs clean

demo: $(VENV)/.installed  ## score bundled BYOL-A and baselines on an embedded mini dataset, print the leaderboard
	$(VENV)/bin/evar run byola,byola-v1-512,logmel,random:byola-v2,random:byola-v1-512 esc50,spcv2 --mini --results demo/results --embeddings demo/embeddings
	@echo "This was synthetic audio, made on the spot. With your own copy: $(VENV)/bin/evar run byola,logmel esc50 --data DIR"

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

drill: $(VENV)/.installed-all  ## break evar in every way we know and count what was lost: about an hour
	@mkdir -p drills/out
	$(VENV)/bin/python drills/run_all.py --json drills/out/drills.json

AUDIO ?= ../shared/data/unlabeled-pretrain/manifest.csv
DATA ?= ../shared/data
SCORED = esc10,emodb,pack-fsdd,pack-spcv2-10,pack-notes-family,pack-notes-pitch
SAW = --licence "Apache-2.0; attribution in MODEL_CARD.md" $(addprefix --trained-on ,librispeech berklee-olpc blanket librosa-examples sonic-pi body-percussion picovoice-speech-to-intent)
TRAIN = train() { test -f pretrained/$$1/$$1.safetensors || OMP_NUM_THREADS=1 $(VENV)/bin/evar pretrain $$2 --preset $$3 --seed $$4 --precision $$5 \
	  --audio $(AUDIO) --skip-licence NC $(SAW) --out pretrained/$$1 $$6; }; train
UNTRAINED_V1 = random:byola-v1-512,random:byola-v1-512@1,random:byola-v1-512@2
UNTRAINED = logmel,$(UNTRAINED_V1),random:byola-v2,random:cola
TRAINED = byola-v1-512@evar-v1-512-identity-short,byola-v1-512@evar-v1-512-identity-s0,byola-v1-512@evar-v1-512-identity-s1,byola-v1-512@evar-v1-512-identity-s2,byola-v2@evar-v2-s0,cola-prime-512@evar-cola-prime-512-s0,cola@evar-cola-s0

pretrained: $(VENV)/.installed  ## train what results/pretrained/ holds, on one core, and score it: about four hours
	$(TRAIN) evar-v1-512-identity-short byola quick-v1-512 0 bf16 "--steps 2000 --warmup 100"
	$(TRAIN) evar-v1-512-identity-s0 byola quick-v1-512 0 bf16
	$(TRAIN) evar-v1-512-identity-s1 byola quick-v1-512 1 bf16
	$(TRAIN) evar-v1-512-identity-s2 byola quick-v1-512 2 bf16
	$(TRAIN) evar-v2-s0 byola quick-v2 0 bf16 --half
	$(TRAIN) evar-cola-prime-512-s0 cola quick-cola-prime-512 0 bf16
	$(TRAIN) evar-cola-s0 cola quick-cola 0 fp32
	$(VENV)/bin/evar run $(UNTRAINED),$(TRAINED) $(SCORED) --tasks-dir tests/cards --data $(DATA) --results results/pretrained
	$(VENV)/bin/evar run $(UNTRAINED_V1) $(SCORED) --layers block3 --tasks-dir tests/cards --data $(DATA) --results results/pretrained
	$(VENV)/bin/python results/pretrained/share.py

docs: $(VENV)/.installed-all  ## the documentation as a static site, site/index.html; nothing in it needs the network
	$(VENV)/bin/mkdocs build --strict
	@echo "site/index.html"

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
	rm -rf .venv .venv-core build dist site *.egg-info demo .pytest_cache .ruff_cache
