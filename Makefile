# Everything a newcomer needs: `make quickstart` grows a model and measures it, `make test` proves the house sound.
PYTHON ?= python3
VENV ?= .venv
RUN := runs/quickstart
BIN := $(VENV)/bin

.PHONY: quickstart install test lint types bench docs clean

quickstart: install  ## grow the quickstart model from nothing, measure it, show how to chat with it
	$(BIN)/sightling train quickstart --output $(RUN)
	$(BIN)/sightling evaluate $(RUN)
	@echo
	@echo "The report:  $(RUN)/evaluation/report.html"
	@echo "To chat:     $(BIN)/sightling chat $(RUN) docs/pictures/drawn-elsewhere.png --single"

install: $(VENV)/installed  ## everything into $(VENV), exact versions from constraints.txt

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	# torch first and by its exact version: a range would fetch the newest build with gigabytes of CUDA.
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==$$(sed -n 's/^torch==//p' constraints.txt)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

test: install  ## the whole test suite
	$(BIN)/python -m pytest -n 2 tests

lint: install  ## style and types
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy

bench: install  ## training and decoding against transformers, each in one run on this machine
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/decoding.py

docs: install  ## check that the documents tell what exists: commands, keys, files, links
	$(BIN)/python -m pytest tests/test_readme.py tests/test_house.py

clean:  ## remove what can be made again (never runs/)
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis src/*.egg-info
