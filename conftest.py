"""For every run of pytest, wherever it is started: paths from the root; no GPU where stored outputs are compared."""

import os


def pytest_configure(config):
    options = config.option
    if options.nbval_sanitize_with:
        options.nbval_sanitize_with = str(config.rootpath / options.nbval_sanitize_with)
    if not options.nbval_lax:  # stored outputs are a CPU's; `make test-gpu` is lax
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
