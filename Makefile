# Two commands do everything: `make demo` and `make test`. Each makes its own environment in .venv.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
PIP = $(VENV)/bin/python -m pip install --disable-pip-version-check -q
# What requirements.lock was made for takes its exact versions, build dependencies included (the two variables reach pip's
# build environments too, older pips by the first, newer ones by the second); elsewhere the ranges of setup.cfg hold.
LOCK := $(shell $(PYTHON) -c "import platform as p, sys; here = sys.version_info[:2], p.system(), p.machine(); \
  print('requirements.lock' if here[:2] == ((3, 11), 'Linux') and here[2] in ('x86_64', 'aarch64') else '')")
LOCKED = $(if $(LOCK),PIP_CONSTRAINT=$(LOCK) PIP_BUILD_CONSTRAINT=$(LOCK) )
FROM = $(if $(LOCK),the versions of $(LOCK),the ranges of setup.cfg: requirements.lock is for Python 3.11 on Linux)
# One thread per test process: two processes with two threads each are slower than this on two cores.
PYTEST = OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal

.PHONY: demo test test-core test-newest lock lint bench drill pretrained docs clean

demo: $(VENV)/.installed  ## score bundled BYOL-A and baselines on an embedded mini dataset, print the leaderboard
	$(VENV)/bin/evar run byola,byola-v1-512,logmel,random:byola-v2,random:byola-v1-512 esc50,spcv2 --mini --results demo/results --embeddings demo/embeddings
	@echo "This was synthetic audio, made on the spot. With your own copy: $(VENV)/bin/evar run byola,logmel esc50 --data DIR"

test: $(VENV)/.installed-all  ## the whole suite, with every extra
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
	$(PYTEST)

test-core:  ## the base install alone, in an environment of its own: every missing extra gives its one line
	$(MAKE) VENV=.venv-core .venv-core/.installed-core
	EVAR_CORE=1 OMP_NUM_THREADS=1 .venv-core/bin/python -m pytest -n $(JOBS)

# the pair to try beside what the ranges admit: make test-newest WITH='torch==2.14.1 torchaudio==2.11.1 torchvision==0.29.1'
WITH ?=
test-newest:  ## no lock: the newest that setup.cfg admits, in an environment of its own; what it said: docs/versions.md
	rm -rf .venv-newest
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install -q --disable-pip-version-check -U --upgrade-strategy eager -e '.[all,test]'
	$(if $(WITH),.venv-newest/bin/python -m pip install -q --disable-pip-version-check --no-deps $(WITH))
	@echo "newer than the ranges admit:"; .venv-newest/bin/python -m pip list --outdated --disable-pip-version-check || true
	.venv-newest/bin/python -m pip freeze --exclude-editable > .venv-newest/versions.txt
	@diff requirements.lock .venv-newest/versions.txt | grep '^[<>] [^#]' || true
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -n $(JOBS)

# torch 2.11.0 is what the committed results were made with; uv is the tool that makes the lock
LOCKED_TORCH = torch==2.11.0
lock:  ## make requirements.lock again: the newest versions that go with $(LOCKED_TORCH)
	test -x .venv-lock/bin/uv || { $(PYTHON) -m venv .venv-lock && .venv-lock/bin/python -m pip install -q --disable-pip-version-check uv==0.13.9; }
	echo '$(LOCKED_TORCH)' | .venv-lock/bin/uv pip compile -q --upgrade setup.cfg - --extra all --extra test --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --no-annotate --no-emit-index-url --custom-compile-command 'make lock' -o requirements.lock

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

$(VENV)/.installed: setup.cfg pyproject.toml $(LOCK) | $(VENV)/bin/python
	@echo "installing evar in $(VENV) from $(FROM); torch and its company are about 5 GB, this takes a few minutes"
	@$(LOCKED)$(PIP) -e .
	@touch $@

$(VENV)/.installed-all: setup.cfg pyproject.toml $(LOCK) | $(VENV)/bin/python
	@echo "installing evar with every extra in $(VENV) from $(FROM); about 8 GB, this takes a few minutes"
	@$(LOCKED)$(PIP) -e '.[all,test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-core: setup.cfg pyproject.toml $(LOCK) | $(VENV)/bin/python
	@$(LOCKED)$(PIP) -e '.[test]'
	@touch $@

clean:
	rm -rf .venv .venv-core .venv-newest .venv-lock build dist site *.egg-info demo .pytest_cache .ruff_cache
