"""`python -m tools.check_environment`.

Of an environment that works, and of each thing that can be wrong with one.
"""

import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
import types

import pytest
from packaging.specifiers import SpecifierSet

from tools import check_environment as doctor

CODE = (
    "import sys; from tools import check_environment; "
    "sys.exit(check_environment.main())"
)


def lines(check):
    return doctor.verdicts(check)


@pytest.fixture
def nvidia(tmp_path, monkeypatch):
    """NVIDIA's driver is on this machine, and a card."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(
        '#!/bin/sh\ncase "$1" in *driver*) echo 535.104.05;; *) echo Tesla T4;; esac\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")


# A machine with memory and room on its disk, which may be busy: what the doctor would
# say of the real one is its own affair.
PLENTY = """import types
from tools import check_environment as doctor
from course_utils import devices, report
doctor.SHARED, report.memory = "/", lambda: (32.0, 16.0)
doctor.shutil.disk_usage = lambda path: types.SimpleNamespace(total=2**36, free=2**35)
"""


def test_an_old_driver_and_little_shared_memory(monkeypatch):
    monkeypatch.setattr(
        doctor.devices, "nvidia_smi", {"driver_version": "470.57.02"}.get
    )
    monkeypatch.setattr(
        doctor.shutil,
        "disk_usage",
        lambda path: types.SimpleNamespace(total=64 * 2**20),
    )
    monkeypatch.setattr(doctor, "SHARED", "/")
    (_, driver, newer), (_, shared, larger) = lines(doctor.nvidia)
    assert (
        driver == "NVIDIA driver 470.57.02" and "CUDA 12 needs 525.60 or newer" in newer
    )
    assert shared == "/: 0.06 GiB" and "--shm-size=1g" in larger
    monkeypatch.setattr(doctor.devices, "nvidia_smi", lambda what: "")
    assert not lines(doctor.nvidia)


@pytest.mark.parametrize(
    "fake, words",
    [
        (
            "raise ModuleNotFoundError(\"No module named 'wrapt'\")",
            (
                "TensorFlow is broken\n"
                "       → install requirements.txt again: "
                "TensorFlow cannot be imported"
            ),
        ),
        ("raise ImportError('no libcuda')", "(ImportError: no libcuda)"),
        ("import os; os.abort()", "cannot be loaded: "),
        (None, "[FAIL] TensorFlow is not installed\n       → install requirements.txt"),
    ],
)
def test_tensorflow_is_missing_or_broken(python, tmp_path, fake, words):
    without = (
        "devices.installed = lambda name, there=devices.installed: "
        "name != 'tensorflow' and there(name)\n"
    )
    if fake is not None:
        (tmp_path / "tensorflow.py").write_text(fake)
    done = python(PLENTY + without * (fake is None) + CODE)
    assert done.returncode == 1
    assert words in done.stdout and done.stdout.count("[FAIL]") == 1
    assert "worker processes start" in done.stdout


def test_another_python_than_the_courses(tmp_path):
    """As it is started on the command line; and with none of the course's packages."""
    course = tmp_path / "course"
    for package in "course_utils", "course_launcher", "tools":
        shutil.copytree(doctor.ROOT / package, course / package)
    (course / ".venv").mkdir()
    (course / ".venv" / "pyvenv.cfg").touch()
    command = [sys._base_executable, "-m", "tools.check_environment"]
    done = subprocess.run(
        command, cwd=course, capture_output=True, text=True, timeout=300
    )
    first, remedy, *_ = done.stdout.splitlines()
    assert (
        first
        == "[WARN] this is another Python than that of the course's environment, .venv"
    )
    assert ".venv/bin/python -m tools.check_environment" in remedy
    assert (
        done.returncode == 1
        and "[FAIL] TensorFlow is not installed" in done.stdout
        and not done.stderr
    )


@pytest.mark.parametrize("by_file", [False, True])
def test_another_keras_backend(monkeypatch, tmp_path, by_file):
    if by_file:
        (tmp_path / "keras.json").write_text('{"backend": "torch"}')
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    else:
        monkeypatch.setenv("KERAS_BACKEND", "torch")
    ((level, text, remedy),) = lines(doctor.keras_backend)
    assert level == doctor.FAIL and text.startswith(
        "Keras would run on torch, by KERAS_BACKEND"
    )
    assert remedy == "set KERAS_BACKEND=tensorflow before Jupyter starts"
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert lines(doctor.keras_backend) == []


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_an_output_that_knows_no_arrow(monkeypatch, encoding):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    monkeypatch.setattr(
        doctor, "CHECKS", [lambda: iter([(False, doctor.FAIL, "no Δ here", "do this")])]
    )
    assert doctor.main() == 1
    sys.stdout.flush()
    assert (
        written.getvalue().decode(encoding) == "[FAIL] no ? here\n       -> do this\n"
    )


def test_tensorflow_that_never_loads(monkeypatch):
    def never(*args, timeout, **more):
        raise subprocess.TimeoutExpired(args[0], timeout)

    monkeypatch.setattr(subprocess, "run", never)
    too_late = (
        doctor.FAIL,
        "TensorFlow did not load within 300 seconds",
        "free some memory, and try again",
    )
    assert lines(doctor.tensorflow) == [too_late]
    monkeypatch.setattr(
        doctor.devices, "installed", lambda module: module in ("libtpu", "tensorflow")
    )
    ((*_, remedy),) = lines(doctor.tensorflow)
    assert remedy.endswith(
        "waits for Google's metadata server, set TPU_SKIP_MDS_QUERY=1"
    )


@pytest.mark.parametrize(
    "facts, expected",
    [
        (
            {},
            [
                (doctor.OK, "TensorFlow 2.21.0 loads"),
                (doctor.OK, "GPUs: none, TPUs: none (the"),
            ],
        ),
        (
            {"GPUs": "Tesla T4"},
            [
                (doctor.OK, "TensorFlow 2.21.0 loads"),
                (doctor.OK, "GPUs: Tesla T4, TPUs: none ("),
            ],
        ),
        (
            {"remedy": "do"},
            [
                (doctor.OK, "TensorFlow 2.21.0 loads"),
                (doctor.WARN, "GPUs: none, TPUs: none"),
            ],
        ),
        (
            {"GPUs": "unknown", "TensorFlow": "not loaded", "remedy": "do"},
            [(doctor.FAIL, "TensorFlow is not loaded")],
        ),
        (
            {"TensorFlow": "2.99"},
            [
                (doctor.WARN, "TensorFlow 2.99 loads; tested is ==2"),
                (doctor.OK, "GPUs: none, "),
            ],
        ),
    ],
)
def test_what_the_report_says_the_doctor_judges(monkeypatch, facts, expected):
    answer = json.dumps(
        {"TensorFlow": "2.21.0", "GPUs": "none", "TPUs": "none"} | facts
    )
    monkeypatch.setattr(
        doctor, "_requirements", lambda: {"tensorflow": SpecifierSet("==2.21.0")}
    )
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda *_, **__: subprocess.CompletedProcess([], 0, answer, ""),
    )
    found = lines(doctor.tensorflow)
    assert [level for level, *_ in found] == [level for level, _ in expected]
    assert all(
        text.startswith(words)
        for (_, text, _), (_, words) in zip(found, expected, strict=True)
    )
    assert all(
        remedy == "do"
        for level, text, remedy in found
        if "remedy" in facts and "loads" not in text
    )


@pytest.mark.parametrize(
    "version, level",
    [
        ((3, 10, 9), "FAIL"),
        ((3, 11, 0), " OK "),
        ((3, 13, 1), " OK "),
        ((3, 14, 0), "FAIL"),
    ],
)
def test_python(monkeypatch, version, level):
    monkeypatch.setattr(sys, "version_info", version)
    ((found, text, remedy),) = lines(doctor.python)
    assert (
        found == f"[{level}]"
        and text == "Python " + ".".join(map(str, version))
        and bool(remedy) == (level == "FAIL")
    )


def test_packages(monkeypatch):
    versions = {
        each: importlib.metadata.version(each)
        for each in doctor._requirements()
        if each != "tensorflow"
    }

    def version(name):
        if versions[name] is None:
            raise importlib.metadata.PackageNotFoundError
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert lines(doctor.packages) == [
        (doctor.OK, "all packages, in versions that were tested", "")
    ]
    versions |= {"keras": "3.13.2", "numpy": None, "ipython": None}
    (needed, rest, others) = lines(doctor.packages)
    assert needed[:2] == (doctor.FAIL, "packages missing: numpy")
    assert rest[:2] == (doctor.WARN, "packages missing: ipython")
    assert others[:2] == (
        doctor.WARN,
        "other versions than tested: keras 3.13.2 (==3.15.1)",
    )
    assert all("requirements.txt" in remedy for *_, remedy in (needed, rest, others))


def test_little_memory_little_disk(monkeypatch):
    monkeypatch.setattr(doctor.report, "memory", lambda: (8.0, 1.0))
    monkeypatch.setattr(
        doctor.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=2**29)
    )
    assert lines(doctor.memory) == [
        (doctor.WARN, "memory: 1.0 GiB free", "notebooks want 3 GiB: close something")
    ]
    assert lines(doctor.disk) == [
        (doctor.WARN, "disk: 0.5 GiB free here", "checkpoints want 1 GiB: free some")
    ]


def test_no_loopback_no_workers(monkeypatch):
    def refused(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(doctor.socket, "create_server", refused)
    ((level, text, remedy),) = lines(doctor.loopback)
    assert (
        level == doctor.FAIL
        and text == "127.0.0.1 cannot be reached (Operation not permitted)"
        and remedy
    )
    monkeypatch.setattr(doctor.launcher, "run_on_workers", refused)
    ((level, text, remedy),) = lines(doctor.workers)
    assert (
        level == doctor.FAIL
        and text.endswith("do not start: [Errno 1] Operation not permitted")
        and remedy
    )


def test_mnist(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(
        doctor.socket, "create_connection", lambda *_, **__: io.BytesIO()
    )
    assert lines(doctor.mnist) == [(doctor.OK, "MNIST can be downloaded", "")]

    def no_network(*_, **__):
        raise OSError

    monkeypatch.setattr(doctor.socket, "create_connection", no_network)
    ((level, _, remedy),) = lines(doctor.mnist)
    assert level == doctor.WARN and 'DATASET = "digits"' in remedy
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "mnist.npz").touch()
    assert lines(doctor.mnist) == [(doctor.OK, "MNIST is here", "")]


def test_a_kernel_of_another_python(monkeypatch, tmp_path):
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(
        json.dumps({"argv": ["/other/python", "-m", "ipykernel_launcher"]})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    ((level, text, remedy),) = lines(doctor.jupyter)
    assert (level, text) == (
        doctor.WARN,
        "Jupyter's kernel python3 is another Python: /other/python",
    )
    assert "ipykernel install" in remedy
