"""For every run of pytest, wherever it is started: an ordinary machine's environment;
paths from the root; no GPU where stored outputs are compared.
"""

import os

OF_THE_MACHINE = (
    "PYTHON",
    "TF_",
    "XLA_",
    "JAX_",
    "KERAS_",
    "OMP_",
    "MKL_",
    "KMP_",
    "OPENBLAS_",
    "SLURM_",
    "COURSE_LANGUAGE",
)
"""How names begin that may be set where the tests are run, and change what Python,
TensorFlow and others do.
"""
WHERE_THE_COURSE_IS = "PYTHONPATH"


def clear(environment):
    """Take out of this environment what an ordinary machine does not have: tests must
    not pass because of it.
    """
    for name in list(environment):
        if name.startswith(OF_THE_MACHINE) and name != WHERE_THE_COURSE_IS:
            del environment[name]


clear(os.environ)


def pytest_configure(config):
    options = config.option
    if options.nbval_sanitize_with:
        options.nbval_sanitize_with = str(config.rootpath / options.nbval_sanitize_with)
    if not options.nbval_lax:  # stored outputs are a CPU's; `nox -s test_gpu` is lax
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
