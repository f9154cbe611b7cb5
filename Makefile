# Every target does its own set-up, in .venv beside this file, and writes nothing outside this folder.

PYTHON ?= python3
CORES ?= all

VENV := .venv
STAMP := $(VENV)/.installed
# Relative to this folder for set-up, absolute where a command may change its working directory.
HERE := $(subst ','\'',$(CURDIR))
ENVIRONMENT := PATH='$(HERE)/$(VENV)/bin':"$$PATH" VIRTUAL_ENV='$(HERE)/$(VENV)' \
	XDG_CACHE_HOME='$(HERE)/.snakemake/cache' MPLCONFIGDIR='$(HERE)/.snakemake/cache/matplotlib' \
	TRITON_CACHE_DIR='$(HERE)/.snakemake/cache/triton'
SNAKEMAKE_TARGETS := all_tables all_figures all report

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_CACHE_DIR := 1
unexport PYTHONPATH PYTHONHOME

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup test lint docs lock unlock clean $(SNAKEMAKE_TARGETS)

help:
	@echo 'make all_tables   set-up, then the tables of the demo'
	@echo 'make all_figures  set-up, then its figures'
	@echo 'make all          set-up, then every table and figure'
	@echo 'make report       set-up, then the HTML report'
	@echo 'make test         set-up, then the tests'
	@echo 'make lint         set-up, then the linters, which the tests run too'
	@echo 'make docs         set-up, then the documentation, in build/site'
	@echo 'make unlock       after Snakemake was killed: remove its lock, unless a job of it is still running'
	@echo 'make setup        set-up alone: .venv with the pins of requirements.lock and this package'
	@echo 'make lock         requirements.lock from pyproject.toml, keeping the pins that still fit (needs uv)'
	@echo 'make clean        remove caches; results, reports and .venv stay'
	@echo
	@echo 'Options: CORES=N (default: all) and PYTHON=python3.12 (default: python3; 3.11 or newer)'

$(SNAKEMAKE_TARGETS): $(STAMP)
	@$(ENVIRONMENT) snakemake --cores $(CORES) $@

test: $(STAMP)
	@$(ENVIRONMENT) python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	@$(ENVIRONMENT) ruff check
	@$(ENVIRONMENT) ruff format --check
	@$(ENVIRONMENT) mypy
	@$(ENVIRONMENT) snakefmt --check Snakefile workflow
	@$(ENVIRONMENT) snakemake --lint

docs: $(STAMP)
	@$(ENVIRONMENT) NO_MKDOCS_2_WARNING=1 mkdocs build --strict
	@echo 'The documentation is in build/site/index.html'

unlock: $(STAMP)
	@$(ENVIRONMENT) cm unlock

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not: try make PYTHON=python3.11" >&2; exit 1; }
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo 'Installing the pins of requirements.lock into $(VENV): about 6 GB, some minutes the first time'
	@$(VENV)/bin/python -m pip install --quiet -r requirements.lock
	@$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

lock:
	uv pip compile pyproject.toml --no-config --universal --python-version 3.11 --extra dev --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' --quiet -o requirements.lock

clean:
	rm -rf build .pytest_cache .ruff_cache .snakemake/cache
	find cm tests -name __pycache__ -type d -prune -exec rm -rf {} +
