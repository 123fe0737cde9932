# Two commands on a fresh machine: `make fit` and `make test`. README.md has the plain pip and pam-kit lines.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RECIPE ?= pam_tiny

.PHONY: help install fit fit-video test lint typecheck wheel clean

help:
	@echo "make fit        train $(RECIPE) (RECIPE=... to choose another) and score it"
	@echo "make fit-video  the same for pam_tiny_video, which follows objects through videos"
	@echo "make test       run the tests"
	@echo "make lint       ruff and mypy"
	@echo "make wheel      build dist/*.whl"

# torch first: sam2 is a source distribution and is built against the torch that is already there, not a second one.
$(VENV)/.kit: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "torch==2.14.1" "torchvision==0.29.1" "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet hydra-core iopath
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps "sam2==1.1.0"
	$(BIN)/python -m pip install --quiet --no-build-isolation -e .
	touch $@

$(VENV)/.test: $(VENV)/.kit
	$(BIN)/python -m pip install --quiet --no-build-isolation -e ".[test]"
	touch $@

$(VENV)/.lint: $(VENV)/.kit
	$(BIN)/python -m pip install --quiet --no-build-isolation -e ".[lint]"
	touch $@

install: $(VENV)/.kit

fit: $(VENV)/.kit
	$(BIN)/pam-kit fit $(RECIPE)

fit-video:
	$(MAKE) fit RECIPE=pam_tiny_video

test: $(VENV)/.test
	$(BIN)/pytest -n 2 --dist loadfile

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(VENV)/.kit
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info
