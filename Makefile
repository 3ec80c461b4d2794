# `make demo` and `make test` need only Python 3.11 or later: they set up .venv themselves.
PYTHON ?= python3
VENV ?= .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
RUN := $(VENV)/bin

.PHONY: help setup demo test test-fast check fmt docs bench bench-run clients ladder clean
help:            ## print this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/: .*## / - /; s/:  *## / - /'

setup: $(VENV)/.ready ## make the environment in .venv, with all extras

# torch comes first and alone, so that its version is settled before anything else asks for it.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[run,train,mlx,gemlite,onnx,dev]'
	touch $@

demo: setup      ## convert, verify, compare and score mini-klein, the model in the package
	rm -rf bonsai-demo
	$(RUN)/bonsai-quant demo -o bonsai-demo

test: setup      ## all tests: no network, no GPU
	$(RUN)/python -m pytest -n auto --dist worksteal

test-fast: setup ## tests of every folder in two minutes, before each commit: nothing paints or trains
	$(RUN)/python -m pytest -n auto --dist worksteal -m "not heavy"

check: setup     ## lint, format, types, and which folder may import which
	$(RUN)/ruff check . && $(RUN)/ruff format --check . && $(RUN)/mypy && $(RUN)/lint-imports

fmt: setup       ## format the code
	$(RUN)/ruff check --fix . ; $(RUN)/ruff format .

docs: setup      ## the documentation site, into site/ (strict; nothing is fetched while building)
	$(PIP) --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(RUN)/mkdocs build --strict

bench: setup     ## convert a full-size checkpoint and compare (needs 30 GB of disk, half an hour)
	$(PIP) --editable '.[bench]'
	$(RUN)/python -m benchmarks.convert

bench-run: setup ## run full-size packs: seconds a step and memory (needs 20 GB of disk, half an hour)
	$(RUN)/python -m benchmarks.generate

clients: setup   ## run packs in other programs, for docs/clients.md (builds one of them; minutes)
	$(PIP) --editable '.[clients]' && $(PIP) --no-deps mlx-vlm==0.7.10
	$(RUN)/python -m benchmarks.clients

ladder: setup    ## score mini-klein and what rounding keeps of it, for docs/quality.md
	$(RUN)/python -m benchmarks.retention

clean:           ## remove what the other targets made
	rm -rf $(VENV) bonsai-demo build dist site .bench
