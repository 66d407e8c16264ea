# A few verbs; `demo` and `test` install what they need first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_INSTALL := pip install --quiet --disable-pip-version-check

# For maintainers, see CONTRIBUTING.md: environments of other versions than the pins', made anew at every call.
TRIED := .tried
EXTRAS := dev,tensorboard,wandb,ray,maps
UV := $(TRIED)/uv/bin/uv
RESOLVE := $(UV) pip compile --quiet --all-extras --python-version 3.11 --constraint constraints-torch.txt

.PHONY: install demo test check docs notebooks dist fix clean pins test-lowest test-newest

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "suture needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP_INSTALL) -c constraints.txt -e '.[dev]'
	@touch $@

demo: install  ## the whole story on two shipped models, offline: ends with demo/report.html
	$(BIN)/suture demo --out demo --overwrite

test: install  ## the whole suite
	$(BIN)/pytest

check: install  ## lint, format, types; every public name has a complete one
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/python scripts/check_types.py

docs: install  ## the documentation's site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

notebooks: install  ## those in docs/notebooks run in fresh kernels; an error in one fails
	$(BIN)/python scripts/run_notebooks.py

dist: install  ## sdist and wheel in dist/, tried outside the repository
	$(BIN)/python scripts/check_dist.py --keep dist

fix: install  ## what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One pin for all platforms and Pythons where there can be one, markers where there cannot.
pins: $(UV)  ## constraints.txt anew: the newest of everything but torch
	$(RESOLVE) --universal --fork-strategy fewest --upgrade \
		--annotation-style line --custom-compile-command 'make pins' --output-file constraints.txt pyproject.toml

# What pyproject.toml names at its lower bound, and what that needs as new as goes with it.
test-lowest: $(UV)  ## suite and demo with the oldest versions that pyproject.toml admits
	$(PYTHON) scripts/lower_bounds.py > $(TRIED)/lower-bounds.txt
	$(RESOLVE) --constraint $(TRIED)/lower-bounds.txt --upgrade --output-file $(TRIED)/lowest.txt pyproject.toml
	$(call try,lowest,$(TRIED)/lowest.txt)

test-newest:  ## suite and demo with the newest of everything but torch
	$(call try,newest,constraints-torch.txt)

define try
$(PYTHON) -m venv --clear $(TRIED)/$(1)
$(TRIED)/$(1)/bin/$(PIP_INSTALL) -c $(2) -e '.[$(EXTRAS)]'
$(TRIED)/$(1)/bin/pip freeze --exclude-editable > $(TRIED)/$(1)-installed.txt
$(TRIED)/$(1)/bin/pytest
$(TRIED)/$(1)/bin/suture demo --out $(TRIED)/$(1)-demo --overwrite
endef

$(UV):
	$(PYTHON) -m venv $(TRIED)/uv
	$(TRIED)/uv/bin/$(PIP_INSTALL) uv

clean:
	rm -rf $(VENV) $(TRIED) .bench demo build dist .pytest_cache .ruff_cache .hypothesis
