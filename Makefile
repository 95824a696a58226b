# `make sample` and `make test` do all set-up, in the virtual environment .venv.
#   make sample ARGS="prompt='a red circle' seed=3"

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=
DIST   ?= dist
URL    ?=
MINUTES ?= 10
MODEL  ?= opensora
PYTEST_ARGS ?=

# The pinned versions need Python 3.11. On 3.10, pip resolves the versions.
PINS := $(shell $(PYTHON) -c 'import sys; print("-c constraints.txt" if sys.version_info >= (3, 11) else "")')

# One thread per test process, because the processes share the cores.
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1

.PHONY: help vbench docs docs-serve dist sdist install dev sample serve-demo load eval-tiny compare-tiny bench bench-gpu bench-parallel test test-oldest test-pipelines test-slow fuzz lint format clean

help:
	@echo "make sample   install into $(VENV) and generate a video (ARGS are passed on)"
	@echo "make serve-demo  install into $(VENV), serve the tiny checkpoint and open its web page (ARGS are passed on)"
	@echo "make load     200 videos for 20 clients while the service is killed 20 times (CPU: many minutes; ARGS are passed on)"
	@echo "make test     install into $(VENV) and run all tests (PYTEST_ARGS are passed on)"
	@echo "make test-slow  the slow tests, which make test leaves out"
	@echo "make test-pipelines  the caches around each of the 73 video pipeline classes of diffusers (CPU: many minutes)"
	@echo "make test-oldest  examples, parity and unit tests with the oldest versions that setup.py declares (6 GB; ARGS=--quick for a part)"
	@echo "make fuzz     new random configs, files and messages for MINUTES=10; stops at a failure, which can be reproduced"
	@echo "make eval-tiny  evaluate every method on the tiny checkpoints and write a report (CPU, minutes; ARGS are passed on)"
	@echo "make compare-tiny MODEL=opensora  calibrate a tiny checkpoint, and compare all caches on it (CPU: half an hour or more)"
	@echo "make bench    speed and memory of the transformers and autoencoders (CPU: six minutes, an hour under load; ARGS are passed on)"
	@echo "make bench-gpu  the GPU table of docs/performance.md, in 10 minutes; can be resumed (ARGS are passed on)"
	@echo "make bench-parallel  bytes that each of several devices sends per step (CPU, minutes; ARGS are passed on)"
	@echo "make vbench   create an environment for VBench in .venv-vbench (PYTHON=python3.10 or python3.11)"
	@echo "make docs     build the documentation site in site/ (make docs-serve serves it at http://127.0.0.1:8001)"
	@echo "make dist     build the source distribution and the wheel in dist/ (URL= of the public repository for links)"
	@echo "make lint     ruff, mypy and codespell"
	@echo "make format   format, and apply ruff's automatic fixes"
	@echo "make clean    remove $(VENV)"

install: $(VENV)/.installed
dev: $(VENV)/.installed-dev

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("videosys needs Python 3.10 or newer") if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv $(VENV)

# The stamps are newer than their sources, so a second run installs nothing.
$(VENV)/.installed: setup.py constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q $(PINS) -e .
	@touch $@

$(VENV)/.installed-dev: setup.py constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q $(PINS) -e '.[dev]'
	@touch $(VENV)/.installed $@

sample: $(VENV)/.installed
	$(BIN)/python examples/opensora/sample.py $(ARGS)
	@echo
	@echo "Next:  . $(BIN)/activate                  use the environment that has videosys"
	@echo "       python -m videosys.tiny.words         the vocabulary of the tiny checkpoint"
	@echo "       python examples/opensora/sample.py --help"

$(VENV)/.installed-serve: setup.py constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q $(PINS) -e '.[serve]'
	@touch $(VENV)/.installed $@

serve-demo: $(VENV)/.installed-serve
	$(BIN)/python -m videosys ui --config examples/opensora/tiny.yaml $(ARGS)

load: $(VENV)/.installed-serve
	$(BIN)/python -m eval.serving $(ARGS)

eval-tiny: $(VENV)/.installed
	$(TEST_ENV) $(BIN)/python eval/teacache/tiny.py --output outputs/eval_tiny $(ARGS)

compare-tiny: $(VENV)/.installed-dev
	$(TEST_ENV) $(BIN)/python -m eval.policies --model $(MODEL) --out outputs/compare_$(MODEL) --bundle $(ARGS)

test: $(VENV)/.installed-dev
	$(TEST_ENV) $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist worksteal $(PYTEST_ARGS)

# Each round uses new examples. The first failing example is printed in its smallest form.
fuzz: $(VENV)/.installed-dev
	@end=$$(( $$(date +%s) + 60 * $(MINUTES) )); \
	while [ $$(date +%s) -lt $$end ]; do \
		$(TEST_ENV) FUZZ_EXAMPLES=300 $(BIN)/python -m pytest -q -x tests/property/test_fuzz_*.py || exit 1; \
	done

test-pipelines: $(VENV)/.installed-dev
	$(TEST_ENV) $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist worksteal -m pipelines $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-dev
	$(TEST_ENV) $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist worksteal -m slow $(PYTEST_ARGS)

# In a separate environment, .venv-oldest.
test-oldest:
	PYTHON="$(PYTHON)" bash .ci/oldest $(ARGS)

bench: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m eval.performance $(ARGS)

bench-gpu: $(VENV)/.installed
	$(BIN)/python -m eval.performance.gpu $(ARGS)

bench-parallel: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m eval.performance.volume $(ARGS)

# The wheel is built from the source distribution, which shows that it is complete.
dist: $(VENV)/.installed-dev
	PROJECT_URL="$(URL)" $(BIN)/python -m build -q --no-isolation --outdir "$(DIST)" .

sdist: $(VENV)/.installed-dev
	PROJECT_URL="$(URL)" $(BIN)/python -m build -q --no-isolation --sdist --outdir "$(DIST)" .

$(VENV)/.installed-docs: setup.py constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q $(PINS) -e '.[docs]'
	@touch $(VENV)/.installed $@

# vbench pins versions of 2023, whose packages exist only for Python 3.10 and 3.11.
vbench:
	$(PYTHON) -c 'import sys; sys.exit("vbench 0.1.5 needs Python 3.10 or 3.11: make vbench PYTHON=python3.10") if sys.version_info[:2] not in ((3, 10), (3, 11)) else None'
	$(PYTHON) -m venv .venv-vbench
	.venv-vbench/bin/python -m pip install -q vbench==0.1.5 torch torchvision "setuptools<70"

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q --strict
	@echo "site/index.html"

docs-serve: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve -a 127.0.0.1:8001

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV)
