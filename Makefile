# make study | test | test-slow | test-all | test-compile-only | bench | docs | test-docs | lint | format | constraints | clean
# Everything is set up on first use, in $(VENV), by the Python named in PYTHON (3.11 to 3.13).

PYTHON  ?= python3
VENV    ?= .venv
# pytest processes; more than cores only costs memory
WORKERS ?= 2
# further arguments to pytest, for example PYTEST_ARGS="-k hadamard -x"
PYTEST_ARGS ?=

MINOR := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
PINNED := $(if $(filter 3.11,$(MINOR)),3.11,3.13)
CONSTRAINTS := constraints-$(PINNED).txt
BIN := $(VENV)/bin

.PHONY: study test test-slow test-all test-compile-only bench docs test-docs lint lint-imports lint-types format \
  constraints clean check-python
.DEFAULT_GOAL := test

# The tests start hundreds of Python processes; without bytecode each compiles the package anew.
export PYTHONDONTWRITEBYTECODE :=

# Large pages of memory: training steps on Linux are 1.1 to 1.6 times as fast with them.
study bench: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

study: $(VENV)/.installed-study
	$(BIN)/fp4jax study demo

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-all
	$(BIN)/python -m pytest -m slow --timeout 3600 $(PYTEST_ARGS)

# With what files and networks are compared with, too (PyTorch, MONAI, OpenVINO: gigabytes).
test-all: lint $(VENV)/.installed-peers
	$(BIN)/python -m pytest -n $(WORKERS) -m "slow or not slow" --timeout 3600 $(PYTEST_ARGS)

# Compiles the kernels for five GPUs, without one, where JAX's CUDA plugin lies in $(CUDA_WHEELS):
# not in the environment itself, where JAX would look for a driver.
CUDA_WHEELS ?= $(VENV)/cuda
CUDA_PACKAGES = jax-cuda13-plugin==$$version jax-cuda13-pjrt==$$version nvidia-cuda-nvcc nvidia-nvvm \
  nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-nvdisasm absl-py

test-compile-only: $(VENV)/.installed-all
	@test -d $(CUDA_WHEELS)/jax_cuda13_plugin || \
	  { version=$$($(BIN)/python -c 'import jax; print(jax.__version__)'); \
	    echo "No CUDA plugin in $(CUDA_WHEELS): kernels are lowered, but not compiled. Hint (0.7 GB, no GPU needed):"; \
	    echo "  $(BIN)/python -m pip install --no-deps --target $(CUDA_WHEELS) $(CUDA_PACKAGES)"; }
	PYTHONPATH=$(CUDA_WHEELS) JAX_PLATFORMS=cpu JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 \
	  $(BIN)/python -m pytest -m "slow or not slow" --timeout 3600 -rs \
	  -k "compile or lower or instructions" \
	  $(PYTEST_ARGS) tests/kernels/test_compile_only.py tests/kernels/test_fused_compiled.py \
	  tests/kernels/test_fused_several_devices.py tests/kernels/experimental

bench: $(VENV)/.installed-all
	$(BIN)/python -m benchmarks.bench_quantize
	$(BIN)/python -m benchmarks.bench_ops
	$(BIN)/python -m benchmarks.bench_train
	$(BIN)/python -m benchmarks.bench_compile

# The site, in site/: open site/index.html, or for its search, which browsers give to servers only,
# `python3 -m http.server -d site`. (The variable silences an advertisement.)
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Of the built site: links and anchors, every public name, every equation, nothing from other hosts.
test-docs: $(VENV)/.installed-site
	$(BIN)/python -m pytest -m "slow or not slow" -rs $(PYTEST_ARGS) tests/test_site.py

lint: $(VENV)/.installed-all
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@$(MAKE) -j2 --no-print-directory lint-imports lint-types

# Side by side: each has one thread.
lint-imports:
	$(BIN)/lint-imports --no-logo

lint-types:
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-all
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Installed again only when the dependencies changed.
$(VENV)/.installed-study: EXTRAS = study,deploy
$(VENV)/.installed-docs: EXTRAS = docs
$(VENV)/.installed-site: EXTRAS = docs,study,test
$(VENV)/.installed-all: EXTRAS = study,deploy,test,bench,ray
$(VENV)/.installed-peers: EXTRAS = study,deploy,test,bench,ray,peers
$(VENV)/.installed-%: pyproject.toml $(CONSTRAINTS) | check-python
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]' -c $(CONSTRAINTS)
	@touch $@

check-python:
	@test -n "$(MINOR)" || { echo "No '$(PYTHON)' here. Hint: make PYTHON=/path/to/python3.11"; exit 1; }
	@case "$(MINOR)" in 3.11|3.12|3.13) ;; *) \
	  echo "fp4jax is tested on Python 3.11 to 3.13, '$(PYTHON)' is $(MINOR). Hint: make PYTHON=python3.11"; exit 1;; esac
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "'$(PYTHON)' cannot make virtual environments. Hint: apt install python$(MINOR)-venv"; exit 1; }
	@test ! -e $(VENV)/pyvenv.cfg || grep -q '^version = $(subst .,\.,$(MINOR))\.' $(VENV)/pyvenv.cfg || \
	  { echo "$(VENV) was made by another Python than '$(PYTHON)' ($(MINOR)). Hint: make clean"; exit 1; }

# Pins what a fresh install of everything resolves to now; run it once with Python 3.11 and once with 3.13.
# Nothing is installed.
ALL_EXTRAS = study,deploy,ray,track,test,docs,bench
READ_PINS = import json, sys; \
  found = [one["metadata"] for one in json.load(open(sys.argv[1]))["install"]]; \
  pins = {one["name"]: one["version"] for one in found if one["name"] != "fp4jax"}; \
  print(*(f"{name}=={pins[name]}" for name in sorted(pins, key=str.lower)), sep="\n")

constraints: check-python
	@test "$(MINOR)" = "$(PINNED)" || { echo "Hint: make constraints PYTHON=python3.11, then PYTHON=python3.13"; exit 1; }
	tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && $(PYTHON) -m venv $$tmp && \
	$$tmp/bin/python -m pip install --quiet --disable-pip-version-check --dry-run --report $$tmp/report '.[$(ALL_EXTRAS)]' && \
	{ echo "# Exact versions tested on Python $(PINNED). Regenerate: make constraints PYTHON=python$(PINNED)"; \
	  $$tmp/bin/python -c '$(READ_PINS)' $$tmp/report; } > $$tmp/pins && \
	cp $$tmp/pins $(CONSTRAINTS)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist site *.egg-info
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
