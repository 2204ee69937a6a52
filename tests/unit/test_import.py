"""Importing the packages is quick, loads nothing heavy, and is quiet.

TensorFlow's start-up log is kept from the reader. The packages import one way: planner,
launcher and exercises import course_utils, and nothing imports tools or tests.
"""

import ast
import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import numpy as np
import pytest

from course_utils.quiet import prepare

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "locks").glob("python*.txt"))
PACKAGES = ("course_utils", "course_planner", "course_launcher", "course_exercises")
MODULES = [
    str(path.relative_to(ROOT).with_suffix(""))
    .replace(os.sep, ".")
    .removesuffix(".__init__")
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
]
HEAVY = {"tensorflow", "keras", "matplotlib", "numpy", "scipy", "sklearn", "psutil"}


def test_loads_nothing_heavy(python):
    answer = python(
        f"import {', '.join(MODULES)}, json, sys; "
        "print(json.dumps(sorted(sys.modules)))"
    )
    loaded = set(json.loads(answer.stdout))
    assert set(MODULES) <= loaded and not HEAVY & loaded


def test_start_up_is_quiet(python):
    start = "import tensorflow as tf; tf.config.list_logical_devices()"
    assert python(start).stderr, (
        "TensorFlow no longer logs when it starts: this test shows nothing any more"
    )
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


def test_a_crash_while_tensorflow_loads_leaves_its_last_words(python, tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os\nos.write(2, b'compiled for AVX\\n')\nos.abort()"
    )
    crash = python("import course_utils, tensorflow")
    assert crash.returncode not in (0, 1) and crash.stderr == "compiled for AVX\n"


WITHOUT_TENSORFLOW = """
import importlib.util
assert importlib.util.find_spec("tensorflow") is None
import numpy as np
import course_planner as planner
from course_utils import plots, proofs, report
from course_utils.data import load_digits
from course_utils.model import build_model
from course_exercises import large_models as exercises
from course_utils.tpu import with_stand_in

(x_train, y_train), (x_test, y_test) = load_digits()
model = build_model()
layers = planner.layer_costs(model)
sizes = {layer.name: layer.parameters for layer in layers}
plots.bars(sizes, "weights", "Almost all weights sit in one layer")
others = build_model().get_weights()
proofs.same(model.get_weights(), others, 0, "the same seed, the same weights")
exercises.micro_batches(lambda stages, idle: 1)
print(x_train.shape, np.asarray(model(x_test[:2])).shape, sum(sizes.values()))
print(report.describe_environment())
print(with_stand_in(None))
"""


@pytest.fixture
def without_tensorflow(tmp_path):
    """Run code in an interpreter that sees every installed package but TensorFlow's."""
    if os.name == "nt":
        pytest.skip("makes links to the installed packages")
    (tmp_path / "packages").mkdir()
    for package in pathlib.Path(np.__file__).parents[1].iterdir():
        if not package.name.lower().startswith("tensorflow"):
            (tmp_path / "packages" / package.name).symlink_to(package)

    def run(code, cwd=tmp_path, **env):
        env = (
            os.environ
            | {
                "PYTHONPATH": f"{tmp_path / 'packages'}{os.pathsep}{ROOT}",
                "MPLBACKEND": "Agg",
            }
            | env
        )
        command = [sys.executable, "-S", "-c", code]
        answer = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer

    return run


def test_without_tensorflow(without_tensorflow):
    answer = without_tensorflow(WITHOUT_TENSORFLOW, KERAS_BACKEND="jax")
    assert (
        "bit-identical ✓" in answer.stdout
        and "(1536, 28, 28, 1) (2, 10) 693962" in answer.stdout
    )
    assert (
        re.search("TensorFlow +not installed", answer.stdout)
        and "remedy " in answer.stdout
    )
    assert (
        "Accelerator(strategy=None, num_replicas=0, "
        "what='nothing: TensorFlow is not installed', is_tpu=False)"
    ) in answer.stdout


@pytest.mark.slow
def test_notebook_on_colabs_tpu_runtime(without_tensorflow):
    """Where TensorFlow is missing, notebook 04 gets to the end of its part on JAX."""
    program = (ROOT / "tests" / "hosted" / "without_tensorflow.py").read_text(
        encoding="utf-8"
    )
    answer = without_tensorflow(program, cwd=ROOT / "notebooks")
    assert (
        "TensorFlow is not installed: pip install "
        '"tensorflow-tpu==2.20.0" "libtpu<0.0.32"'
    ) in answer.stdout
    assert "sharded: weights after 6 steps = alone: max |Δ| ≤ 5e-06 ✓" in answer.stdout
    assert answer.stdout.endswith("reached jax-trap\n")


@pytest.mark.parametrize("chosen, kept", [(None, "3"), ("0", "0")])
def test_log_level_is_a_default(monkeypatch, chosen, kept):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    if chosen:
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", chosen)
    prepare()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == kept


PROVIDES = {
    "scikit-learn": "sklearn",
    "ipython": "IPython",
    "kubernetes-validate": "kubernetes_validate",
    "PyYAML": "yaml",
    "pillow": "PIL",
    "orbax-checkpoint": "orbax",
}


def dependency_groups():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["dependency-groups"]


def lists_of_requirements(*groups):
    """Return the lines of requirements.txt, and of these groups; by default test."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    named = [line for line in lines if re.match(r"\w", line)]
    return named + [
        line for group in groups or ["test"] for line in dependency_groups()[group]
    ]


def test_every_package_that_is_imported_is_listed():
    groups = [name for name in dependency_groups() if name != "test"]
    lines = lists_of_requirements("test", *groups)
    listed = [re.match(r"[\w-]*", line)[0] for line in lines]
    listed = {PROVIDES.get(name, name) for name in listed}
    own = {"tools", "tests", "benchmarks", *PACKAGES}
    sources = [
        path.read_text(encoding="utf-8")
        for folder in (*PACKAGES, "tests", "tools", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    ]
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = [
            "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"
        ]
        sources += [re.sub(r"^ *%.*", "", source, flags=re.M) for source in code]
    imported = set()
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = (
                [node.module]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
            )
            imported |= {name.split(".")[0] for name in names}
    optional = {
        "torch",
        "google",
    }  # benchmarks/workers.py compares with torch; Colab brings google
    assert imported - set(sys.stdlib_module_names) - own - optional <= listed


MAY_IMPORT = {
    "course_utils": set(),
    "course_planner": {"course_utils"},
    "course_launcher": {"course_utils"},
    "course_exercises": {"course_utils", "course_planner", "course_launcher"},
    "cluster": set(),
}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_go_one_way(package):
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            tops = {name.split(".")[0] for name in names} & {
                *PACKAGES,
                "tools",
                "tests",
                "benchmarks",
            }
            assert tops <= {package, *MAY_IMPORT[package]}, f"{path.name}: {tops}"


def test_no_file_edits_the_path_of_imports():
    """But for processes that are started with a path of their own.

    These are the launcher's, and a notebook's rehearsal.
    """
    own_processes = {"server.py", "run.py", "child.py", "cells.py", "test_import.py"}
    for folder in (*PACKAGES, "tests", "tools", "site", "cluster"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert path.name in own_processes or not re.search(
                r"sys\.path(\.insert|\.append|\[.*\] =| \+?=)", text
            ), path


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_the_locked_versions_are_what_the_lists_ask_for(path):
    from packaging.requirements import Requirement

    lines = path.read_text(encoding="utf-8").splitlines()
    locked = dict(line.lower().split("==") for line in lines if "==" in line)
    for line in lists_of_requirements():
        wanted = Requirement(line.split("  #")[0].split(" #")[0])
        assert locked[wanted.name.lower()] in wanted.specifier, line
