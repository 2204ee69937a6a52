# make lab    open the course in JupyterLab
# make run    execute every notebook, and leave it as HTML under build/
# make test   everything that proves the course works
# Each first makes .venv from requirements.txt if it is missing or older.

PYTHON ?= $(shell for python in python3.12 python3.13 python3.11 python3 python; do \
	$$python -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin

.PHONY: lab run test
lab: .venv/ready
	$(BIN)/jupyter lab notebooks

run: .venv/ready
	$(BIN)/python tools/run.py

test: .venv/ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/python -m pytest --nbval

.venv/ready: requirements.txt
	@test -n "$(PYTHON)" || { echo "The course needs Python 3.11, 3.12 or 3.13; none was found. Name one: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	@touch $@
