"""What the unit tests share.

Four logical CPUs, drawing without a screen, and fresh interpreters.
"""

import os
import pathlib
import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import pytest

import course_utils  # noqa: F401  (before anything loads TensorFlow)
from course_utils import devices

matplotlib.use(
    "Agg"
)  # not MPLBACKEND: the notebooks' kernels, which other tests start, would inherit that
DEVICES = devices.logical_devices(
    4, kind="cpu"
)  # now: a test module may use TensorFlow as it is loaded


@pytest.fixture
def devices():
    return DEVICES


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def python(tmp_path):
    """Run code in a fresh interpreter.

    It finds packages that lie in `tmp_path` first, and then course_utils.
    """

    def run(code):
        root = pathlib.Path(__file__).resolve().parent.parent
        env = {
            name: value
            for name, value in os.environ.items()
            if name != "TF_CPP_MIN_LOG_LEVEL"
        }
        env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(root)])
        return subprocess.run(
            [sys.executable, "-c", code],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run
