# Two commands from a clean clone, with nothing but Python (3.11 or newer) and make:
#   make parity    ours beside the reference, every tensor judged, a report in reports/latest/
#   make test      all tests
#   make bench     the video VAE's time and memory beside torch's
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# MLX's Linux CPU wheel carries the reference BLAS; Debian's OpenBLAS, where installed, is much faster.
OPENBLAS := $(firstword $(wildcard /usr/lib/*/openblas-pthread/libblas.so.3))
export MLX_ENABLE_TF32 = 0
# One BLAS thread a process: the matrices are tiny, and the work is spread over processes.
export OPENBLAS_NUM_THREADS = 1
RUN := $(if $(OPENBLAS),LD_PRELOAD=$(OPENBLAS) )$(PY)
# On Linux MLX's backend is an extra: cpu, or cuda13 on an NVIDIA machine (make parity BACKEND=cuda13).
BACKEND ?= $(if $(filter Darwin,$(shell uname -s)),,cpu)
comma := ,
ARGS ?=

.PHONY: parity test bench lint fixtures readme clean

parity: $(VENV)/ready
	$(RUN) -m parity run $(ARGS)

test: $(VENV)/ready
	$(RUN) -m pytest $(ARGS)

bench: $(VENV)/ready
	$(RUN) -m pytest -n 0 -s benchmarks $(ARGS)

lint: $(VENV)/ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/lint-imports

fixtures: $(VENV)/ready
	$(PY) fixtures/make.py

# The table and the picture in the README and the sample report, from a run on this machine.
readme: parity
	$(PY) -m parity.report.summary reports/latest/results.json README.md
	cp reports/latest/transformer-tiny-2.3.png reports/latest/report.html reports/sample/
	$(PY) -m parity.tests.browser reports/sample/report.html reports/sample/report.png

clean:
	rm -rf $(VENV) fixtures/checkpoints reports/latest

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, {sys.executable} is {v.major}.{v.minor}; try: make PYTHON=python3.11")'
	@echo "setting up $(VENV), once; this takes a few minutes"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[$(if $(BACKEND),$(BACKEND)$(comma))reference,parity,dev]"
	@touch $@
