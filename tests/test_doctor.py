"""`python -m course_utils`: what it says of an environment that works, and of each thing that can be wrong with one."""

import importlib.metadata
import io
import json
import subprocess
import sys
import time

import psutil
import pytest

from course_utils import doctor

CODE = "import runpy, sys; sys.argv = ['course_utils']; runpy.run_module('course_utils', run_name='__main__')"


def lines(check):
    return list(check())


def test_here_all_is_well_within_20_seconds(python):
    start = time.monotonic()
    done = python(CODE)
    assert time.monotonic() - start < 20
    said = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert done.returncode == 0 and not done.stderr
    assert [line.split("]")[0] for line in said if "MNIST" not in line] == ["[ OK "] * (len(said) - 1)
    for words in (
        "Python 3.",
        "packages",
        "TensorFlow 2.",
        "devices: 1 CPU",
        "memory",
        "disk",
        "127.0.0.1",
        "worker",
        "kernel",
    ):
        assert sum(words in line for line in said) == 1


@pytest.mark.parametrize(
    "fake, words",
    [
        (
            "raise ModuleNotFoundError(\"No module named 'tensorflow'\")",
            "No module named 'tensorflow'\n       → install",
        ),
        ("raise ImportError('no libcuda')", "ImportError: no libcuda\n       → install it again"),
        ("import os; os.abort()", "cannot be loaded: "),
    ],
)
def test_tensorflow_is_missing_or_broken(python, tmp_path, fake, words):
    (tmp_path / "tensorflow.py").write_text(fake)
    done = python(CODE)
    assert done.returncode == 1
    assert words in done.stdout and done.stdout.count("[FAIL]") == 1
    assert "worker processes start" in done.stdout


def test_tensorflow_that_never_loads(monkeypatch):
    def never(*args, timeout, **more):
        raise subprocess.TimeoutExpired(args[0], timeout)

    monkeypatch.setattr(subprocess, "run", never)
    assert lines(doctor.tensorflow) == [
        (doctor.FAIL, "TensorFlow did not load within 60 seconds", "free some memory, and try again")
    ]


@pytest.mark.parametrize(
    "devices, nvidia, expected",
    [
        ({"CPU": 1, "GPU": 2, "TPU": 0}, True, (doctor.OK, "devices: 1 CPU, 2 GPU", "")),
        ({"CPU": 1, "GPU": 0, "TPU": 8}, False, (doctor.OK, "devices: 1 CPU, 8 TPU", "")),
        (
            {"CPU": 1, "GPU": 0, "TPU": 0},
            True,
            (doctor.WARN, "devices: 1 CPU; there is an NVIDIA GPU that TensorFlow does not see", "make lab GPU=1"),
        ),
    ],
)
def test_devices(monkeypatch, devices, nvidia, expected):
    answer = json.dumps(["2.21.0", devices])
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, answer, ""))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi" if nvidia else None)
    assert lines(doctor.tensorflow)[1] == expected


@pytest.mark.parametrize(
    "version, level", [((3, 10, 9), "FAIL"), ((3, 11, 0), " OK "), ((3, 13, 1), " OK "), ((3, 14, 0), "FAIL")]
)
def test_python(monkeypatch, version, level):
    monkeypatch.setattr(sys, "version_info", version)
    ((found, text, remedy),) = doctor.python()
    assert (
        found == f"[{level}]" and text == "Python " + ".".join(map(str, version)) and bool(remedy) == (level == "FAIL")
    )


def test_packages(monkeypatch):
    versions = {each: importlib.metadata.version(each) for each in doctor._requirements()}

    def version(name):
        if versions[name] is None:
            raise importlib.metadata.PackageNotFoundError
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert lines(doctor.packages) == [(doctor.OK, "all packages, in versions that were tested", "")]
    versions |= {"keras": "3.13.2", "numpy": None, "ruff": None}
    (needed, rest, others) = lines(doctor.packages)
    assert needed[:2] == (doctor.FAIL, "packages missing: numpy")
    assert rest[:2] == (doctor.WARN, "packages missing: ruff")
    assert others[:2] == (doctor.WARN, "other versions than tested: keras 3.13.2 (==3.15.1)")
    assert all("requirements.txt" in remedy for *_, remedy in (needed, rest, others))


def test_packages_without_the_list(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    assert lines(doctor.packages)[0][0] == doctor.OK


def test_little_memory_little_disk(monkeypatch):
    memory = psutil.virtual_memory()._replace(available=2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Free)
    assert lines(doctor.memory) == [(doctor.WARN, "memory: 1.0 GiB free", "notebooks want 3 GiB: close something")]
    assert lines(doctor.disk) == [(doctor.WARN, "disk: 0.5 GiB free here", "checkpoints want 1 GiB: free some")]


class Free:
    free = 2**29


def test_no_loopback_no_workers(monkeypatch):
    def refused(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(doctor.socket, "create_server", refused)
    ((level, text, remedy),) = doctor.loopback()
    assert level == doctor.FAIL and text == "127.0.0.1 cannot be reached (Operation not permitted)" and remedy
    monkeypatch.setattr(doctor.cluster, "run_on_workers", refused)
    ((level, text, remedy),) = doctor.workers()
    assert level == doctor.FAIL and text.endswith("do not start: [Errno 1] Operation not permitted") and remedy


def test_workers_that_fail_without_a_word(monkeypatch):
    def silent(*_, **__):
        raise MemoryError

    monkeypatch.setattr(doctor.cluster, "run_on_workers", silent)
    ((level, text, remedy),) = doctor.workers()
    assert level == doctor.FAIL and text.endswith("do not start: (no message)") and remedy


def test_mnist(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(doctor.socket, "create_connection", lambda *_, **__: io.BytesIO())
    assert lines(doctor.mnist) == [(doctor.OK, "MNIST can be downloaded", "")]

    def no_network(*_, **__):
        raise OSError

    monkeypatch.setattr(doctor.socket, "create_connection", no_network)
    ((level, _, remedy),) = doctor.mnist()
    assert level == doctor.WARN and 'DATASET = "digits"' in remedy
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "mnist.npz").touch()
    assert lines(doctor.mnist) == [(doctor.OK, "MNIST is here", "")]


def test_a_kernel_of_another_python(monkeypatch, tmp_path):
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({"argv": ["/other/python", "-m", "ipykernel_launcher"]}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    ((level, text, remedy),) = doctor.jupyter()
    assert (level, text) == (doctor.WARN, "Jupyter's kernel python3 is another Python: /other/python")
    assert "ipykernel install" in remedy


def test_no_jupyter(monkeypatch):
    monkeypatch.setitem(sys.modules, "jupyter_client.kernelspec", None)
    ((level, text, _),) = doctor.jupyter()
    assert (level, text) == (doctor.WARN, "no Jupyter kernel here (ModuleNotFoundError)")
