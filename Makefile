# make lab       open the course in JupyterLab
# make run       execute every notebook, and leave it as HTML under build/
# make test      everything that proves the course works; GPUs are hidden from it
# make lint      ruff, pyright and codespell, as .pre-commit-config.yaml has them before a commit
# make mnist     every notebook with DATASET = "mnist", on a stand-in: some fifteen minutes (with CI set, its first proofs)
# make soak      workers killed at random moments, fifty times; forty models planned; 06 with eight models; train.py's
#                rarer cases: some half an hour
# make cluster   the files of cluster/ on a real Slurm of two nodes; needs Linux, root, and Slurm: some two minutes
# make hosted    the notebooks as on Colab and on Kaggle: their packages, an empty folder; 04 on their TPU runtimes too,
#                and with the real tensorflow-tpu (but no TPU); needs Python 3.12 and 3.13 (with CI set, 02 and 04
#                with Kaggle's packages, the others with Colab's, and not Kaggle's TPU image)
# make compatibility  docs/compatibility.md, the table of what works together, seen again; some eight minutes; needs Python 3.13 too
#                (with CI set, with this environment's packages only)
# make browser   a real browser in JupyterLab: every notebook run, its answers opened, its exercises solved; needs Chromium
# make site      the course as a website under build/site, from what is stored: nothing is executed
# make links     which external links answer; needs a network
# make test-gpu  the notebooks on this machine's GPUs: proofs judge, stored outputs are not compared; build/gpu-report.md
# Each first makes .venv from requirements.txt if it is missing or older; with GPU=1 from requirements-gpu.txt.

FITS := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3.12 python3.13 python3.11 python3 python; do \
	$$python -c '$(FITS)' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
REQUIREMENTS := requirements$(if $(GPU),-gpu).txt
READY := .venv/ready$(if $(GPU),-gpu)
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root --ip=127.0.0.1)

.PHONY: lab run test lint mnist soak cluster hosted hosted-environments compatibility browser site links test-gpu
lab: $(READY)
	$(BIN)/jupyter lab $(AS_ROOT) notebooks

run: $(READY)
	$(BIN)/jupyter nbconvert --execute --to html --output-dir build notebooks/*.ipynb

test: $(READY)
	@echo "GPUs, if any, are hidden from TensorFlow: stored outputs are a CPU's. To use them: make test-gpu"
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/python -m pytest --nbval --numprocesses=2 --dist=loadfile

lint: $(READY)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet "pip>=25.1"  # which knows groups
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --group lint
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/python -m pyright
	$(BIN)/codespell .

mnist: $(READY)
	$(BIN)/python -m tests.mnist $(if $(CI),--data)

soak: $(READY)
	$(BIN)/python -m pytest --numprocesses=2 tests/take_home.py tests/soak.py tests/your_model.py

NAMESPACES := unshare --net --mount --uts --ipc --pid --fork --kill-child --mount-proc
cluster: export COURSE_NAMESPACES := own
cluster: $(READY)
	@for needed in unshare nsenter ip munged slurmctld slurmd sbatch; do command -v $$needed > /dev/null || \
		{ echo "make cluster needs a Slurm of its own, and $$needed is missing (on Debian: apt install slurm-wlm munge iproute2)" >&2; exit 1; }; done
	@$(NAMESPACES) ip link add course type bridge 2> /dev/null || \
		{ echo "make cluster needs namespaces, and they cannot be had here: be root, on Linux, outside an unprivileged container" >&2; exit 1; }
	$(NAMESPACES) $(BIN)/python -m pytest tests/real_slurm.py

HOSTED := .venv-hosted
ON_HOST = PYTHONPATH=$(CURDIR) $(HOSTED)/$(1)/bin/python -m pytest --nbval-lax notebooks/04_tpu_strategy.ipynb
hosted: export CUDA_VISIBLE_DEVICES := -1
LISTS := $(filter-out $(if $(CI),kaggle_tpu),$(patsubst tests/hosted/%.txt,%,$(wildcard tests/hosted/*.txt)))
hosted-environments: $(LISTS:%=$(HOSTED)/%/ready)
hosted: hosted-environments
	$(HOSTED)/colab/bin/python -m tests.hosted.rehearse colab $(if $(CI),00 01 03 05 06)
	$(HOSTED)/kaggle/bin/python -m tests.hosted.rehearse kaggle $(if $(CI),02 04)
	cd notebooks && PYTHONPATH=.. MPLBACKEND=Agg ../$(HOSTED)/colab_tpu/bin/python ../tests/hosted/without_tensorflow.py
	$(call ON_HOST,tensorflow_tpu)
	$(if $(CI),,KAGGLE_KERNEL_RUN_TYPE=Interactive TPU_PROCESS_ADDRESSES=local $(call ON_HOST,kaggle_tpu))

compatibility: export CUDA_VISIBLE_DEVICES := -1
compatibility: $(READY) $(if $(CI),,$(HOSTED)/colab/ready)
	$(BIN)/python -m tools.compatibility --check
	$(if $(CI),,$(HOSTED)/colab/bin/python -m tools.compatibility --check)

define environment  # in $(@D), from the first prerequisite
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --disable-pip-version-check --quiet --requirement $<
	@touch $@
endef

$(HOSTED)/%/ready: VERSION = $(if $(findstring kaggle,$*),3.12,3.13)
$(HOSTED)/%/ready: PYTHON = python$(VERSION)
$(HOSTED)/%/ready: tests/hosted/%.txt
	@$(PYTHON) -c 'import ensurepip, sys, venv; sys.exit("%d.%d" % sys.version_info[:2] != "$(VERSION)")' || { echo "make hosted needs python3.12, as on Kaggle, and python3.13, as on Colab, with venv and ensurepip; $(PYTHON) is no $(VERSION) of that kind" >&2; exit 1; }
	$(environment)

browser: .venv/ready-browser site
	$(BIN)/python -m pytest tests/browser.py

.venv/ready-browser: tests/browser.txt $(READY)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --requirement $<
	@touch $@

site: .venv-site/ready build/npm/ready
	.venv-site/bin/python -m sphinx -q --fail-on-warning --fresh-env -c site -b html . build/site
	cp build/site/README.html build/site/index.html
	@echo "python -m http.server -d build/site, then open http://localhost:8000 (from files all but the planner works)"

links: .venv-site/ready
	.venv-site/bin/python -m sphinx -q --fresh-env -c site -b linkcheck . build/links

build/npm/ready: site/package.json
	@command -v npm > /dev/null || { echo "make site needs npm (Node.js), once: the page that plans runs Python in the browser" >&2; exit 1; }
	mkdir -p $(@D) && cp $< $(@D)
	npm install --prefix $(@D) --no-audit --no-fund --silent
	@touch $@

.venv-site/ready: site/requirements.txt
	@test -n "$(PYTHON)" || { echo "make site needs Python 3.11, 3.12 or 3.13 with venv and ensurepip: make site PYTHON=/path/to/python" >&2; exit 1; }
	$(environment)

test-gpu: $(READY)
	@$(BIN)/python -c "import course_utils, sys, tensorflow as tf; sys.exit(None if tf.config.list_physical_devices('GPU') else 'TensorFlow sees no GPU here: make test runs everything without one')"
	$(BIN)/python -m tests.gpu_report

$(READY): requirements.txt $(REQUIREMENTS)
	@test -n "$(PYTHON)" || { echo "The course needs Python 3.11, 3.12 or 3.13 with venv and ensurepip (on Debian: apt install python3-venv); none was found. Name one: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c '$(FITS)' 2>/dev/null || { echo "PYTHON=$(PYTHON) is not Python 3.11, 3.12 or 3.13 with venv and ensurepip" >&2; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version): $(if $(GPU),8,3) GB to install, a few minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --requirement $(REQUIREMENTS)
	@touch $@
