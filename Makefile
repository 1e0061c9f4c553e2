# Needs Python 3.11+, make and a C compiler. PYTHON=python3.12 picks another interpreter.
PYTHON ?= python3
# TORCH_INDEX=ADDRESS takes torch from that index, such as PyTorch's own for processors only
TORCH_INDEX ?=
BIN := .venv/bin
SEED ?= 0
SHARE ?= 1
KINDS ?=
READY := .venv/.ready

.PHONY: demo test test-all campaign lint types clean

demo: $(READY)  ## set up, then the main job: does guidance help a small ViT, here, now?
	$(BIN)/vitrellis demo

test: $(READY)  ## set up, then the default tests
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow"

test-all: $(READY)  ## the slow tests, too
	$(BIN)/pytest -n 2 --dist loadfile

campaign: $(READY)  ## faults by the thousand: an hour or more on two cores; SHARE=0.1 for a tenth
	$(BIN)/python -m tests.campaign --seed $(SEED) --share $(SHARE) $(KINDS)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Vitrellis needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --index-url $(TORCH_INDEX) torch torchvision)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

clean:  ## delete the environment; runs are kept
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
