"""`import course_utils` is quick, loads nothing heavy, and keeps TensorFlow's start-up log to itself."""

import json
import os
import pathlib
import sys
import warnings

import keras
import numpy as np
import pytest

from course_utils import quiet_logs

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODULES = [
    str(path.relative_to(ROOT).with_suffix("")).replace(os.sep, ".").removesuffix(".__init__")
    for path in sorted((ROOT / "course_utils").rglob("*.py"))
]
HEAVY = {"tensorflow", "keras", "matplotlib", "numpy", "scipy", "sklearn", "psutil"}


@pytest.mark.parametrize("module", MODULES)
def test_loads_nothing_heavy(python, module):
    answer = python(f"import {module}, json, sys; print(json.dumps(sorted(sys.modules)))")
    loaded = set(json.loads(answer.stdout))
    assert module in loaded and not HEAVY & loaded


def test_takes_under_50_ms(python):
    code = "import time; t = time.perf_counter(); import course_utils; print(time.perf_counter() - t)"
    assert min(float(python(code).stdout) for _ in range(5)) < 0.05


def test_start_up_is_quiet(python):
    start = "import tensorflow as tf; tf.config.list_logical_devices()"
    assert python(start).stderr, "TensorFlow no longer logs when it starts: this test shows nothing any more"
    quiet = python(f"import course_utils; {start}; print(tf.get_logger().level)")
    assert (quiet.stdout, quiet.stderr) == ("40\n", "")


FAKE_TENSORFLOW = """
import logging, os, sys
os.write(2, b"from C\\n")
print("from Python", file=sys.stderr, flush=True)
def get_logger(): return logging.getLogger("fake")
"""


def test_import_error_of_tensorflow_shows_its_log(python, tmp_path):
    fake = tmp_path / "tensorflow.py"
    fake.write_text(FAKE_TENSORFLOW)
    good = python("import course_utils, os, tensorflow; os.write(2, b'after')")
    assert (good.returncode, good.stderr) == (0, "after")
    fake.write_text(FAKE_TENSORFLOW + "raise ImportError('no libcuda')")
    bad = python("import course_utils, tensorflow")
    assert bad.returncode == 1
    assert bad.stderr.startswith("from C\nfrom Python\nTraceback")
    assert bad.stderr.rstrip().endswith("ImportError: no libcuda")


def test_missing_tensorflow_is_an_ordinary_import_error(python):
    hide = "import sys; sys.path = [path for path in sys.path if 'site-packages' not in path]"
    answer = python(f"{hide}; import course_utils, tensorflow")
    assert answer.stderr.endswith("ModuleNotFoundError: No module named 'tensorflow'\n")


def test_quiet_logs_twice_changes_nothing():
    quiet_logs()
    before = list(sys.meta_path), list(warnings.filters)
    quiet_logs()
    assert (list(sys.meta_path), list(warnings.filters)) == before


@pytest.mark.parametrize("chosen, kept", [(None, "3"), ("0", "0")])
def test_log_level_is_a_default(monkeypatch, chosen, kept):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    if chosen:
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", chosen)
    quiet_logs()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == kept


def test_false_alarm_of_fit_is_quiet():
    from course_utils.data import make_dataset

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    dataset = make_dataset(np.ones((4, 1), "float32"), np.ones(4, "float32"), 2)

    def alarms(prepare):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            prepare()
            model.fit(dataset, verbose=0)
        return [str(each.message) for each in caught if "shuffle" in str(each.message)]

    assert not alarms(quiet_logs)
    if keras.version() >= "3.15":
        assert alarms(lambda: None), "Keras has stopped warning: the filter can go"
