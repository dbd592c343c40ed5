# make demo               code to report on this machine, about thirteen minutes
# make demo PRESET=smoke  the same in about a minute
# make test               lint, formats, import contracts, types, tests, README
# make test-long          the tests that take minutes

PYTHON ?= python3
VENV ?= .venv
PRESET ?= demo
WORKDIR ?= runs/$(PRESET)
CONSTRAINTS ?= --constraint constraints.txt
BIN := $(VENV)/bin
# Most of the tests' time is compilation: processes share what is compiled, with
# few optimizations. test-long compiles as users do.
FAST_COMPILATION := JAX_DISABLE_MOST_OPTIMIZATIONS=1 \
  JAX_COMPILATION_CACHE_DIR=$(abspath $(VENV))/compiled \
  JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
# A flag that a later JAX does not know would end every process, so it is tried.
FAST_XLA := --xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false \
  --xla_cpu_parallel_codegen_split_count=1

.PHONY: demo test test-long clean

demo: $(VENV)/.installed-corpus
	$(BIN)/python -m experiments.demo --config=experiments/configs/$(PRESET).py --workdir=$(WORKDIR)

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyrefly check --min-severity=error --python-interpreter-path $(BIN)/python
	export XLA_FLAGS='$(FAST_XLA)'; \
	  $(BIN)/python -c 'import jax; jax.devices()' 2>/dev/null || unset XLA_FLAGS; \
	  $(FAST_COMPILATION) $(BIN)/python -m pytest -q -n 2 --dist worksteal

test-long: $(VENV)/.installed-test $(VENV)/.installed-corpus $(VENV)/.installed-cluster
	$(BIN)/python -m pytest -q -n 2 --dist worksteal --whole -m '(long or sampled) and not timed'
	$(BIN)/python -m pytest -q -m timed

# One stamp an extra, newer than what it was installed from. The versions are those
# that were tested; CONSTRAINTS= takes the newest that pyproject.toml allows. Python
# compiles what it imports; all of it would take pip longer than the rest.
$(VENV)/.installed-%: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; got " + sys.version) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile $(CONSTRAINTS) --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) runs .cache
