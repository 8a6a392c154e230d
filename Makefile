# Two commands from a clean clone, with nothing but Python (3.11 or newer) and make:
#   make parity    ours beside the reference, every tensor judged, a report in reports/latest/
#   make test      all tests
#   make parity-replay    ours against a committed trace of the reference: needs no torch
#   make demo      a short video with sound from the tiny checkpoint, through the code that makes real ones
#   make selftest  known faults planted one at a time: is each one noticed, and where?
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

# A small trace of the reference, with the weights that it needs, and a Python without torch to judge ours against it.
TRACE := fixtures/traces/tiny.json
TRACED := patchifiers sampling gemma:*:right transformer:tiny-2.0-interleaved:late \
	video_decoder:tiny-2.0-timestep:pixels vocoder:tiny-2.3-audio-group
REPLAY := .venv-replay

.PHONY: parity parity-replay test demo selftest bench lint fixtures trace readme clean

parity: $(VENV)/ready
	$(RUN) -m parity run $(ARGS)

parity-replay: $(REPLAY)/ready
	$(if $(OPENBLAS),LD_PRELOAD=$(OPENBLAS) )$(REPLAY)/bin/python -m parity check $(TRACE) $(ARGS)

test: $(VENV)/ready
	$(RUN) -m pytest $(ARGS)

# Random weights: moving noise, and noise to hear.
TINY := fixtures/checkpoints
demo: fixtures
	$(RUN) -m ltx2_mlx generate --pipeline distilled --distilled-checkpoint-path $(TINY)/tiny-2.3.safetensors \
		--spatial-upsampler-path $(TINY)/tiny-2.3-upsampler-x2.safetensors --gemma-root $(TINY)/tiny-gemma \
		--prompt "A red fox walks through fresh snow." --image $(TINY)/media/image-0.png 0 0.9 \
		--lora $(TINY)/tiny-2.3-lora.safetensors 0.7 --height 128 --width 192 --num-frames 25 \
		--output-path reports/latest/demo.mp4 $(ARGS)

selftest: $(VENV)/ready
	$(RUN) -m parity selftest $(ARGS)

bench: $(VENV)/ready
	$(RUN) -m pytest -n 0 -s benchmarks $(ARGS)

lint: $(VENV)/ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/lint-imports

fixtures: $(VENV)/ready
	$(PY) fixtures/make.py

# After a change of the cases or taps of what is in it.
trace: $(VENV)/ready
	$(RUN) -m parity record --lane A,C --weights --out $(TRACE) $(foreach cell,$(TRACED),'$(cell)')

# The tables in the documents, the picture in the README and the sample report, from a run on this machine.
readme: parity selftest
	$(PY) -m parity report --plots reports/latest/results.json
	$(PY) -m parity tables reports/latest/results.json reports/latest/selftest.json \
		parity/README.md parity/faults/README.md parity/debug/README.md
	cp reports/latest/transformer-tiny-2.3.png reports/latest/report.html reports/sample/
	$(PY) -m parity.tests.browser reports/sample/report.html reports/sample/report.png

clean:
	rm -rf $(VENV) $(REPLAY) fixtures/checkpoints reports/latest

$(VENV)/ready: EXTRAS := reference,parity,dev
$(REPLAY)/ready: EXTRAS := parity
$(VENV)/ready $(REPLAY)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, {sys.executable} is {v.major}.{v.minor}; try: make PYTHON=python3.11")'
	@echo "setting up $(@D), once; this takes a few minutes"
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$(if $(BACKEND),$(BACKEND)$(comma))$(EXTRAS)]"
	@touch $@
