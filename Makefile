# make lab       open the course in JupyterLab
# make run       execute every notebook, and leave it as HTML under build/
# make test      everything that proves the course works; GPUs are hidden from it
# make mnist     every notebook with DATASET = "mnist", on a stand-in: some fifteen minutes (with CI set, its first proofs)
# make soak      workers killed at random moments, fifty times; forty models planned; 06 with seven models: some twenty minutes
# make cluster   the files of cluster/ on a real Slurm of two nodes; needs Linux, root, and Slurm: some two minutes
# make colab     the notebooks as on Colab: its packages, an empty folder; 04 on its TPU runtime too, without TensorFlow
#                and with the real tensorflow-tpu (but no TPU); needs Python 3.13
# make compatibility  docs/compatibility.md, the table of what works together, seen again; some eight minutes; needs Python 3.13 too
# make browser   a real browser in JupyterLab: every notebook run, its answers opened, its exercises solved; needs Chromium
# make site      the course as a website under build/site, from what is stored: nothing is executed
# make links     which external links answer; needs a network
# make test-gpu  the notebooks on this machine's GPUs: proofs judge, stored outputs are not compared
# Each first makes .venv from requirements.txt if it is missing or older; with GPU=1 from requirements-gpu.txt.

FITS := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3.12 python3.13 python3.11 python3 python; do \
	$$python -c '$(FITS)' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
REQUIREMENTS := requirements$(if $(GPU),-gpu).txt
READY := .venv/ready$(if $(GPU),-gpu)
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root --ip=127.0.0.1)

.PHONY: lab run test mnist soak cluster colab compatibility browser site links test-gpu
lab: $(READY)
	$(BIN)/jupyter lab $(AS_ROOT) notebooks

run: $(READY)
	$(BIN)/jupyter nbconvert --execute --to html --output-dir build notebooks/*.ipynb

test: $(READY)
	@echo "GPUs, if any, are hidden from TensorFlow: stored outputs are a CPU's. To use them: make test-gpu"
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/python -m pytest --nbval --numprocesses=2 --dist=loadfile

mnist: $(READY)
	$(BIN)/python tests/mnist.py $(if $(CI),--data)

soak: $(READY)
	$(BIN)/python -m pytest --numprocesses=2 tests/soak.py tests/your_model.py

NAMESPACES := unshare --net --mount --uts --ipc --pid --fork --kill-child --mount-proc
cluster: export COURSE_NAMESPACES := own
cluster: $(READY)
	@for needed in unshare nsenter ip munged slurmctld slurmd sbatch; do command -v $$needed > /dev/null || \
		{ echo "make cluster needs a Slurm of its own, and $$needed is missing (on Debian: apt install slurm-wlm munge iproute2)" >&2; exit 1; }; done
	@$(NAMESPACES) ip link add course type bridge 2> /dev/null || \
		{ echo "make cluster needs namespaces, and they cannot be had here: be root, on Linux, outside an unprivileged container" >&2; exit 1; }
	$(NAMESPACES) $(BIN)/python -m pytest tests/real_slurm.py

colab: export CUDA_VISIBLE_DEVICES := -1
colab: .venv-colab/cpu/ready .venv-colab/tpu/ready .venv-colab/tensorflow_tpu/ready
	.venv-colab/cpu/bin/python tests/colab/cpu.py
	cd notebooks && PYTHONPATH=.. MPLBACKEND=Agg ../.venv-colab/tpu/bin/python ../tests/colab/tpu.py
	PYTHONPATH=$(CURDIR) .venv-colab/tensorflow_tpu/bin/python -m pytest --nbval-lax notebooks/04_tpu_strategy.ipynb

compatibility: export CUDA_VISIBLE_DEVICES := -1
compatibility: $(READY) .venv-colab/cpu/ready
	$(BIN)/python tools/compatibility.py --check
	.venv-colab/cpu/bin/python tools/compatibility.py --check

define environment  # in $(@D), from the first prerequisite
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --disable-pip-version-check --quiet --requirement $<
	@touch $@
endef

.venv-colab/%/ready: PYTHON := python3.13
.venv-colab/%/ready: tests/colab/%.txt
	@$(PYTHON) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 13))' || { echo "Colab has Python 3.13, and $(PYTHON) is none: make colab PYTHON=/path/to/python3.13" >&2; exit 1; }
	$(environment)

browser: .venv/ready-browser site
	$(BIN)/python -m pytest tests/browser.py

.venv/ready-browser: tests/browser.txt $(READY)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --requirement $<
	@touch $@

site: .venv-site/ready
	.venv-site/bin/sphinx-build -q --fail-on-warning --fresh-env -c site -b html . build/site
	cp build/site/README.html build/site/index.html
	@echo "open build/site/index.html"

links: .venv-site/ready
	.venv-site/bin/sphinx-build -q --fresh-env -c site -b linkcheck . build/links

.venv-site/ready: site/requirements.txt
	@test -n "$(PYTHON)" || { echo "make site needs Python 3.11, 3.12 or 3.13 with venv and ensurepip: make site PYTHON=/path/to/python" >&2; exit 1; }
	$(environment)

test-gpu: $(READY)
	@$(BIN)/python -c "import course_utils, sys, tensorflow as tf; sys.exit(None if tf.config.list_physical_devices('GPU') else 'TensorFlow sees no GPU here: make test runs everything without one')"
	$(BIN)/python -m pytest --nbval-lax notebooks

$(READY): requirements.txt $(REQUIREMENTS)
	@test -n "$(PYTHON)" || { echo "The course needs Python 3.11, 3.12 or 3.13 with venv and ensurepip (on Debian: apt install python3-venv); none was found. Name one: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c '$(FITS)' 2>/dev/null || { echo "PYTHON=$(PYTHON) is not Python 3.11, 3.12 or 3.13 with venv and ensurepip" >&2; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version): $(if $(GPU),8,3) GB to install, a few minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --requirement $(REQUIREMENTS)
	@touch $@
