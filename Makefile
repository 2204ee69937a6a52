# make lab    open the course in JupyterLab
# make test   prove that everything works here: some ten minutes; GPUs are hidden from it
# make site   build the course as a website under build/site; nothing is executed
# make run    execute every notebook, and leave it as HTML under build/
# Each first makes .venv if it is missing or older than its lists; with GPU=1 with CUDA. What takes longer, or needs
# another environment, is in noxfile.py: .venv/bin/nox --list (after make test).

FITS := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3.12 python3.13 python3.11 python3 python; do \
	$$python -c '$(FITS)' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
REQUIREMENTS := requirements$(if $(GPU),-gpu).txt
READY := .venv/ready$(if $(GPU),-gpu)
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root --ip=127.0.0.1)
# the exact packages that were tested on this Python, where there is such a list
VERSION = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null)
LOCK = $(patsubst %,--constraint %,$(wildcard locks/python$(call VERSION,$(1)).txt))
PIP = $(BIN)/python -m pip install --disable-pip-version-check

.PHONY: lab test site run
lab: $(READY)
	$(BIN)/jupyter lab $(AS_ROOT) notebooks

test: .venv/ready-test
	$(BIN)/nox -s test

site: .venv/ready-test
	$(BIN)/nox -s site

run: $(READY)
	$(BIN)/jupyter nbconvert --execute --to html --output-dir build notebooks/*.ipynb

$(READY): requirements.txt $(REQUIREMENTS)
	@test -n "$(PYTHON)" || { echo "The course needs Python 3.11, 3.12 or 3.13 with venv and ensurepip (on Debian: apt install python3-venv); none was found. Name one: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c '$(FITS)' 2>/dev/null || { echo "PYTHON=$(PYTHON) is not Python 3.11, 3.12 or 3.13 with venv and ensurepip" >&2; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version): $(if $(GPU),8,3) GB to install, a few minutes"
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade "pip>=25.1"  # which knows dependency groups
	$(PIP) --requirement $(REQUIREMENTS) $(call LOCK,$(PYTHON))
	@touch $@

.venv/ready-test: $(READY) pyproject.toml
	$(PIP) --quiet --group test $(call LOCK,$(BIN)/python)
	@touch $@
