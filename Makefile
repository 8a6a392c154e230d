# Everything from a clean clone, with nothing but Python (3.11 or newer) and make.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# MLX's Linux CPU wheel carries the reference BLAS; Debian's OpenBLAS, where it is installed, is much faster.
OPENBLAS := $(firstword $(wildcard /usr/lib/*/openblas-pthread/libblas.so.3))
export MLX_ENABLE_TF32 = 0
# Where this is set, each of a run's many processes compiles all source again.
unexport PYTHONDONTWRITEBYTECODE
# One BLAS thread a process: the matrices are tiny, and the work is spread over processes.
export OPENBLAS_NUM_THREADS = 1
PRELOAD := $(if $(OPENBLAS),LD_PRELOAD=$(OPENBLAS) )
RUN := $(PRELOAD)$(PY)
# On Linux MLX's backend is an extra: cpu, or cuda13 on an NVIDIA machine (make parity BACKEND=cuda13).
BACKEND ?= $(if $(filter Darwin,$(shell uname -s)),,cpu)
comma := ,
ARGS ?=

# A small trace of the reference, with the weights that it needs, and a Python without torch to judge ours against it.
TRACE := fixtures/traces/tiny.json
TRACED := patchifiers sampling gemma:*:right transformer:tiny-2.0-interleaved:late \
	video_decoder:tiny-2.0-timestep:pixels vocoder:tiny-2.3-audio-group:base
REPLAY := .venv-replay
FLOORS := .venv-floors
PORTS := .venv-ports

.DEFAULT_GOAL := help
.PHONY: help parity parity-replay test fuzz demo ports selftest margins doctor bench lint floors fixtures trace readme clean full-size

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-22s %s\n", $$1, $$2 }'
	@echo 'Further arguments: make parity ARGS="--stage transformer --lane A"'

parity: $(VENV)/ready ## ours beside the reference, every tensor judged, a report in reports/latest/
	$(RUN) -m parity run $(ARGS)

parity-replay: $(REPLAY)/ready ## ours against a committed trace of the reference: needs no torch
	$(PRELOAD)$(REPLAY)/bin/python -m parity check $(TRACE) $(ARGS)

test: $(VENV)/ready ## all tests
	$(RUN) -m pytest -n auto $(ARGS)

fuzz: $(VENV)/ready ## 20,000 changed files and command lines, and 200 kills: nothing but a result or one line
	$(RUN) -m parity.tests.fuzz $(ARGS)
	$(RUN) -m pytest -n 0 --kills 134 tests/test_output_files.py parity/tests/test_command_line.py -k killed
	$(RUN) -m pytest -n auto --settings 2000 tests/test_plan_agrees.py

# Random weights: moving noise, and noise to hear. Of LTX-2.5, whose parts are files of their own: ARGS="--version 2.5".
TINY := fixtures/checkpoints
DEMO := $(if $(findstring --version 2.5,$(ARGS)),2.5,2.3)
DEMO_2.3 := --distilled-checkpoint-path $(TINY)/tiny-2.3.safetensors --gemma-root $(TINY)/tiny-gemma --lora $(TINY)/tiny-2.3-lora.safetensors 0.7
DEMO_2.5 := --transformer-path $(TINY)/tiny-2.5-transformer.safetensors --text-encoder-path $(TINY)/tiny-gemma4.safetensors \
	--video-vae-path $(TINY)/tiny-2.5-diffusion-vae.safetensors --audio-vae-path $(TINY)/tiny-2.5-audio-vae.safetensors
demo: fixtures ## a short video with audio from a tiny checkpoint: reports/latest/demo.mp4
	$(RUN) -m ltx2_mlx generate --pipeline distilled $(DEMO_$(DEMO)) --spatial-upsampler-path $(TINY)/tiny-2.3-upsampler-x2.safetensors \
		--prompt "A red fox walks through fresh snow." --image $(TINY)/media/image-0.png 0 0.9 --height 128 --width 192 --num-frames 25 \
		--output-path reports/latest/demo.mp4 --overwrite $(subst --version $(DEMO),,$(ARGS))
	$(RUN) -m ltx2_mlx info reports/latest/demo.mp4

# A finding is exit code 1, and no failure. Each run has a target, so that -j 3 makes them at once.
ports: port-diffusers port-three port-mlx-video-with-audio ## diffusers, and a published port in MLX, beside the reference: reports/latest/ports/*/ports.md

port-three: SUBJECT = ltx2-mlx,diffusers
port-%: SUBJECT = $*
port-%: $(PORTS)/ready
	$(PRELOAD)$(PORTS)/bin/python -m parity run --subject $(SUBJECT) --lane A,C --json reports/latest/ports/$*/results.json || test $$? = 1

selftest: $(VENV)/ready ## known faults planted one at a time: is each one noticed, and where?
	$(RUN) -m parity selftest --gate 12 $(ARGS)

margins: $(VENV)/ready ## ten seeds of inputs, with each BLAS library: no alarm, and how far from one?
	$(RUN) -m parity margins $(ARGS)
ifneq ($(OPENBLAS),)
	$(PY) -m parity margins $(ARGS)
endif

# Float32 as a shell without settings has it: whether it is TF32 is one of the questions.
doctor: $(VENV)/ready ## is this device sound? MLX's primitives at real sizes, in reports/latest/doctor.html
	env -u MLX_ENABLE_TF32 $(RUN) -m parity doctor $(ARGS)

# Results are kept by their time; the last two are compared. An otherwise idle machine, or the numbers mean nothing.
BENCH := reports/latest/bench
bench: $(VENV)/ready ## each part's time and memory beside torch's, and compared with the last time
	mkdir -p $(BENCH)
	$(RUN) -m pytest -n 0 -p no:randomly -s benchmarks --benchmark-json $(BENCH)/$$(date +%Y%m%d-%H%M%S).json $(ARGS)
	$(RUN) benchmarks/table.py $(BENCH)

lint: $(VENV)/ready ## style, types, and which folder may import which
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

fixtures: $(VENV)/ready ## build the tiny checkpoints
	$(PY) fixtures/make.py

# All 48 blocks: 43 GB of 2.0, 46 GB of 2.3, 72 GB of 2.5 or 24 GB of Gemma. make full-size SIZE=gemma ARGS="--blocks 2"
SIZE ?= 2.0
full-size: $(VENV)/ready ## a checkpoint of the released sizes with random values, in fixtures/checkpoints/full-size
	$(RUN) fixtures/make.py --full-size $(SIZE) --out $(TINY)/full-size $(ARGS)

floors: fixtures $(FLOORS)/ready ## the oldest allowed libraries: a trace judged and a video made, without torch
	$(PRELOAD)$(FLOORS)/bin/python -m parity check $(TRACE) --json reports/latest/floors/results.json
	$(MAKE) demo RUN="$(PRELOAD)$(FLOORS)/bin/python"

# After a change of the cases or taps of what is in it.
trace: $(VENV)/ready
	$(RUN) -m parity record --lane A,C --weights --out $(TRACE) $(foreach cell,$(TRACED),'$(cell)')

# The tables in the documents, the picture in the README and the sample report, from a run on this machine. The pages are made
# again after the pictures, so that they ask for none.
readme: parity selftest
	$(PY) -m parity report --plots reports/latest/results.json
	$(PY) -m parity tables reports/latest/results.json reports/latest/selftest.json \
		parity/README.md parity/faults/README.md parity/debug/README.md
	cp reports/latest/transformer-tiny-2.3.png reports/sample/
	$(PY) -m parity report reports/latest/results.json
	rm -rf reports/sample/report
	cp -r reports/latest/report.html reports/latest/report reports/sample/
	$(PY) -m parity.tests.browser reports/sample/report.html reports/sample/report.png

clean: ## remove what was built
	rm -rf $(VENV) $(REPLAY) $(FLOORS) $(PORTS) fixtures/checkpoints reports/latest

$(VENV)/ready: EXTRAS := reference,parity,dev
$(REPLAY)/ready $(FLOORS)/ready: EXTRAS := parity
$(PORTS)/ready: EXTRAS := reference,parity,ports
$(FLOORS)/ready: PINS = $(PYTHON) .ci/floors.py > $(@D)/floors.txt &&
$(FLOORS)/ready: CONSTRAIN = --constraint $(@D)/floors.txt
$(VENV)/ready $(REPLAY)/ready $(FLOORS)/ready $(PORTS)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, {sys.executable} is {v.major}.{v.minor}; try: make PYTHON=python3.11")'
	@echo "setting up $(@D), once; this takes a few minutes"
	$(PYTHON) -m venv $(@D)
	$(PINS) $(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(CONSTRAIN) -e ".[$(if $(BACKEND),$(BACKEND)$(comma))$(EXTRAS)]"
	@touch $@
