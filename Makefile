# Two commands do all set-up: `make sample` and `make test`. Both keep to the virtual environment .venv.
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

# The pinned versions need Python 3.11; on 3.10 the resolver chooses by itself.
PINS := $(shell $(PYTHON) -c 'import sys; print("-c constraints.txt" if sys.version_info >= (3, 11) else "")')

# One thread per test process: the processes share the cores already.
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1

.PHONY: help vbench docs docs-serve dist sdist install dev sample serve-demo load eval-tiny compare-tiny bench bench-gpu bench-parallel test test-oldest test-pipelines test-slow fuzz lint format clean

help:
	@echo "make sample   install into $(VENV) and make a video (ARGS are passed on)"
	@echo "make serve-demo  install into $(VENV), serve the tiny checkpoint and open its web page (ARGS are passed on)"
	@echo "make load     200 videos for 20 clients while the service is killed 20 times (CPU: many minutes; ARGS are passed on)"
	@echo "make test     install into $(VENV) and run all tests (PYTEST_ARGS are passed on)"
	@echo "make test-slow  the tests that make test leaves out because they take long"
	@echo "make test-pipelines  the caches around each of the 73 video pipeline classes of diffusers (CPU: many minutes)"
	@echo "make test-oldest  examples, parity and unit tests with the oldest versions that setup.py declares (6 GB; ARGS=--quick for a part)"
	@echo "make fuzz     new random configs, files and messages for MINUTES=10; a failure stops it and can be repeated"
	@echo "make eval-tiny  every method on the tiny checkpoints, and a report (CPU, minutes; ARGS are passed on)"
	@echo "make compare-tiny MODEL=opensora  calibrate a tiny checkpoint, and compare all caches on it (CPU: half an hour or more)"
	@echo "make bench    speed and memory of the transformers and autoencoders (CPU: six minutes, on a busy one an hour; ARGS are passed on)"
	@echo "make bench-gpu  the table of docs/performance.md about a GPU, in 10 minutes; run again it goes on (ARGS are passed on)"
	@echo "make bench-parallel  bytes that each of several devices sends per step (CPU, minutes; ARGS are passed on)"
	@echo "make vbench   an environment for VBench's scores, in .venv-vbench (PYTHON=python3.10 or python3.11)"
	@echo "make docs     the documentation as a site, in site/ (make docs-serve shows it at http://127.0.0.1:8001)"
	@echo "make dist     the source distribution and the wheel, in dist/ (URL= of the public repository for their links)"
	@echo "make lint     ruff, mypy and codespell"
	@echo "make format   let ruff mend what it can"
	@echo "make clean    remove $(VENV)"

install: $(VENV)/.installed
dev: $(VENV)/.installed-dev

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("videosys needs Python 3.10 or newer") if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv $(VENV)

# The stamps are newer than what they were made from, so a second run installs nothing.
$(VENV)/.installed: setup.py constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q $(PINS) -e .
	@touch $@

$(VENV)/.installed-dev: setup.py constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q $(PINS) -e '.[dev]'
	@touch $(VENV)/.installed $@

sample: $(VENV)/.installed
	$(BIN)/python examples/opensora/sample.py $(ARGS)
	@echo
	@echo "Next:  . $(BIN)/activate                     so that python knows videosys"
	@echo "       python -m videosys.tiny.words         the words that the tiny checkpoint knows"
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

# Each round takes other examples; the first failing one is printed, reduced to its smallest form.
fuzz: $(VENV)/.installed-dev
	@end=$$(( $$(date +%s) + 60 * $(MINUTES) )); \
	while [ $$(date +%s) -lt $$end ]; do \
		$(TEST_ENV) FUZZ_EXAMPLES=300 $(BIN)/python -m pytest -q -x tests/property/test_fuzz_*.py || exit 1; \
	done

test-pipelines: $(VENV)/.installed-dev
	$(TEST_ENV) $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist worksteal -m pipelines $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-dev
	$(TEST_ENV) $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist worksteal -m slow $(PYTEST_ARGS)

# An environment of its own: .venv-oldest.
test-oldest:
	PYTHON="$(PYTHON)" bash .ci/oldest $(ARGS)

bench: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m eval.performance $(ARGS)

bench-gpu: $(VENV)/.installed
	$(BIN)/python -m eval.performance.gpu $(ARGS)

bench-parallel: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m eval.performance.volume $(ARGS)

# The wheel is built from the source distribution, which is so shown to be whole.
dist: $(VENV)/.installed-dev
	PROJECT_URL="$(URL)" $(BIN)/python -m build -q --no-isolation --outdir "$(DIST)" .

sdist: $(VENV)/.installed-dev
	PROJECT_URL="$(URL)" $(BIN)/python -m build -q --no-isolation --sdist --outdir "$(DIST)" .

$(VENV)/.installed-docs: setup.py constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q $(PINS) -e '.[docs]'
	@touch $(VENV)/.installed $@

# vbench pins versions of 2023, for which there are packages for Python 3.10 and 3.11 only.
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
