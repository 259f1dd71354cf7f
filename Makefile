# Everything a newcomer needs, from a Python 3.11 and the package index alone:
#   make demo    set up, denoise the clip that ships with the project, show what was gained
#   make test    set up, run the tests
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# Tests and training share few cores; a thread pool per process only makes them fight.
export OMP_NUM_THREADS ?= 1
SHARED ?= ../shared

.PHONY: demo test test-slow bench lint format sounds train-denoiser train-denoiser-hq evaluate clean

demo: $(VENV)/.runtime
	$(BIN)/python examples/demo/demo.py --out demo-out examples/demo/noisy.flac $(wildcard $(SHARED)/data/real/*noisy*.wav)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not soak and not bench"

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m "slow or soak" --timeout 3600

bench: $(VENV)/.dev
	$(BIN)/python -m streamproc bench --pool
	$(BIN)/python -m pytest -m bench -s -q tests/bench

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# More recordings to train on, out of packages of Debian: 3 GB of downloads, of which 0.5 stay. Needs apt-get and ffmpeg.
sounds: cache/debian
cache/debian: | $(VENV)/.dev
	$(BIN)/python -m export sounds --out $@

# Hours of CPU; stops and resumes where it was. Reads $(SHARED)/data and what `make sounds` has fetched, or
# SPEECH="dir dir" NOISE="dir".
SPEECH ?= $(SHARED)/data/train/speech $(wildcard cache/debian/speech)
NOISE  ?= $(SHARED)/data/train/noise $(wildcard cache/debian/noise)
TRAIN  := $(BIN)/python -m export train $(SPEECH:%=--speech %) $(NOISE:%=--noise %)

train-denoiser: $(VENV)/.dev
	$(TRAIN) --name denoise --minutes 1405

# START=file begins from the weights of any run with no more taps or lookahead.
train-denoiser-hq: $(VENV)/.dev
	$(TRAIN) --name denoise-hq --model denoise-hq $(START:%=--start % --optimiser soap) --minutes 1200

evaluate: $(VENV)/.dev
	$(BIN)/python -m export evaluate

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --upgrade "pip>=25.1"
	touch $@

# The runtime alone: no torch.
$(VENV)/.runtime: $(VENV)/.venv pyproject.toml constraints.txt
	$(PIP) --editable ".[plot]"
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) --editable ".[plot]" --group dev
	touch $@

clean:
	rm -rf $(VENV) demo-out evaluation dist build
