"""What hardware is here, and N logical devices of it.

The GPUs are fake, since the tests run anywhere.
"""

import fnmatch
import os
import pathlib
import platform
import subprocess
import sys
import types

import nbformat
import pytest
import tensorflow as tf

from course_utils import devices, quiet, report
from course_utils.tpu import with_stand_in

ROOT = pathlib.Path(__file__).resolve().parents[2]

SIMULATED = "simulated devices prove correctness, never speed"
FACTS = [
    "Python",
    "TensorFlow",
    "Keras",
    "system",
    "CPU cores",
    "memory",
    "disk",
    "GPUs",
    "TPUs",
]


@pytest.fixture
def hardware(monkeypatch):
    """Give TensorFlow fake GPUs and TPUs.

    Returns how they are split, and whether they are initialised.
    """

    def fake(gpus, tpus=0):
        machine = types.SimpleNamespace(splits={}, initialised=False)
        count = {"GPU": gpus, "TPU": tpus, "CPU": 1}

        def listed(kind):
            names = [f"/physical_device:{kind}:{i}" for i in range(count[kind])]
            return [tf.config.PhysicalDevice(name, kind) for name in names]

        def splits(device):
            return machine.splits.get(device.name)

        def split(device, configurations):
            if device.device_type == "GPU" and any(
                each.memory_limit is None for each in configurations
            ):
                raise ValueError(
                    "Setting memory limit is required for GPU virtual devices"
                )
            if machine.initialised:
                raise RuntimeError(
                    "Virtual devices cannot be modified after being initialized"
                )
            machine.splits[device.name] = configurations

        monkeypatch.setattr(tf.config, "list_physical_devices", listed)
        monkeypatch.setattr(tf.config, "set_logical_device_configuration", split)
        monkeypatch.setattr(tf.config, "get_logical_device_configuration", splits)
        return machine

    return fake


@pytest.fixture(autouse=True)
def nvidia_smi(monkeypatch):
    """No NVIDIA tool on this machine, unless a test says what it answers.

    Returns the commands it was given.
    """

    def fake(*answers):
        asked, answers = [], iter(answers)

        def run(command, **_):
            asked.append(command)
            answer = next(answers, None)
            if answer is None:
                raise FileNotFoundError("nvidia-smi")
            return types.SimpleNamespace(stdout=answer)

        fake = types.SimpleNamespace(
            run=run, SubprocessError=subprocess.SubprocessError
        )
        monkeypatch.setattr(devices, "subprocess", fake)
        return asked

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fake()
    return fake


def slices(count, size=1024):
    return [tf.config.LogicalDeviceConfiguration(memory_limit=size)] * count


# logical_devices


@pytest.mark.parametrize("count", [0, -1, 2.5, True, "2", None])
def test_wrong_count(count):
    with pytest.raises(
        ValueError, match=f"^count={count!r}: must be a whole number, 1 or more"
    ):
        devices.logical_devices(count)


def test_gpu_without_gpu(hardware):
    hardware(gpus=0)
    with pytest.raises(RuntimeError, match="sees none: use kind='auto'"):
        devices.logical_devices(1, kind="gpu")


@pytest.mark.parametrize("kind", ["auto", "gpu"])
@pytest.mark.parametrize(
    "gpus, count, line, split",
    [
        (1, 1, "1 physical GPU", None),
        (4, 4, "4 physical GPUs", None),
        (8, 2, "2 physical GPUs", None),
        (1, 4, f"4 logical GPUs, slices of one physical GPU: {SIMULATED}", 4),
        (2, 3, f"3 logical GPUs, slices of one physical GPU: {SIMULATED}", 3),
    ],
)
def test_gpus(hardware, capsys, kind, gpus, count, line, split):
    machine = hardware(gpus)
    assert devices.logical_devices(count, kind) == [f"GPU:{i}" for i in range(count)]
    assert capsys.readouterr().out == line + "\n"
    assert machine.splits == (
        {"/physical_device:GPU:0": slices(split)} if split else {}
    )


@pytest.mark.parametrize(
    "said, count, size",
    [
        ("15000\n", 8, 1500),
        ("81000\n81000\n", 4, 16200),
        ("[N/A]\n", 8, 1024),
        ("", 2, 1024),
    ],
)
def test_a_slice_is_sized_from_the_cards_own_memory(
    hardware, nvidia_smi, said, count, size
):
    machine, asked = hardware(gpus=1), nvidia_smi(said)
    devices.logical_devices(count)
    assert machine.splits == {"/physical_device:GPU:0": slices(count, size)}
    assert asked == [
        ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    ]


@pytest.mark.parametrize(
    "visible, system, remedy", [(None, "posix", "make lab GPU=1"), (None, "nt", "WSL2")]
)
def test_a_gpu_that_tensorflow_cannot_use(
    hardware, nvidia_smi, monkeypatch, visible, system, remedy
):
    hardware(gpus=0)
    nvidia_smi("NVIDIA H100 80GB HBM3\n")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(report.os, "name", system)
    facts = report.facts()
    assert (
        facts["GPUs"]
        == "none that TensorFlow can use, though there is one (NVIDIA H100 80GB HBM3)"
    )
    assert remedy in facts["remedy"]


@pytest.mark.slow
def test_processes_share_a_gpu(python):
    """In this process and in those that it starts; what the user has set stays."""
    show = (
        "import course_utils, os, subprocess, sys\n"
        "from course_launcher import run_in_process\n"
        "look = lambda: [os.environ[n] for n in "
        "('TF_FORCE_GPU_ALLOW_GROWTH', 'XLA_PYTHON_CLIENT_PREALLOCATE')]\n"
        "print(look(), run_in_process(look))"
    )
    assert python(show).stdout == "['true', 'false'] ['true', 'false']\n"
    own = "import os; os.environ['TF_FORCE_GPU_ALLOW_GROWTH'] = 'false'\n"
    assert python(own + show).stdout == "['false', 'false'] ['false', 'false']\n"


@pytest.mark.parametrize(
    "gpus, tpus, kind", [(0, 0, "CPU"), (2, 0, "GPU"), (1, 8, "TPU")]
)
def test_what_computes_here(hardware, gpus, tpus, kind):
    hardware(gpus, tpus)
    assert devices.accelerator() == kind


@pytest.mark.parametrize(
    "files, kind", [([], "CPU"), (["/dev/accel0"], "TPU"), (["/dev/vfio/0"], "TPU")]
)
def test_what_computes_here_without_tensorflow(monkeypatch, files, kind):
    monkeypatch.delitem(sys.modules, "tensorflow")
    monkeypatch.setattr(
        devices.glob, "glob", lambda pattern: fnmatch.filter(files, pattern)
    )
    assert devices.accelerator() == kind
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    quiet.prepare()
    assert os.environ.get("TPU_SKIP_MDS_QUERY") == (None if files else "1")


def test_split_gpu_again(hardware):
    machine = hardware(gpus=1)
    first = devices.logical_devices(4)
    machine.initialised = True
    assert devices.logical_devices(4) == first
    with pytest.raises(
        RuntimeError, match=r"^2 logical GPU .*runs with 4 .*restart the kernel"
    ):
        devices.logical_devices(2)


@pytest.mark.parametrize(
    "gpus, system, count, way",
    [
        (0, "Linux", 4, "ReductionToOneDevice"),
        (1, "Linux", 4, "HierarchicalCopyAllReduce"),
        (2, "Linux", 2, "NcclAllReduce"),
        (8, "Linux", 8, "NcclAllReduce"),
        (2, "Windows", 2, "HierarchicalCopyAllReduce"),
    ],
)
def test_what_the_gpu_notebook_builds(hardware, monkeypatch, gpus, system, count, way):
    """Cells of notebook 02 that do something else on other hardware."""
    path = ROOT / "notebooks" / "02_gpu_strategy.ipynb"
    cells = {cell.id: cell.source for cell in nbformat.read(path, as_version=4).cells}
    hardware(gpus)
    monkeypatch.setattr(platform, "system", lambda: system)
    built = []
    monkeypatch.setattr(
        tf.distribute, "MirroredStrategy", lambda *arguments: built.append(arguments)
    )
    names = {"logical_devices": devices.logical_devices}
    exec(cells["devices"], names)
    exec(cells["choose"], names)
    names["mirrored"](2)
    (chosen, all_reduce), kind = built[0], "GPU" if gpus else "CPU"
    assert (
        names["DEVICES"] == [f"{kind}:{i}" for i in range(count)]
        and chosen == names["DEVICES"][:2]
    )
    assert type(all_reduce).__name__ == way and names["COUNTS"] == [
        n for n in (1, 2, 4, 8) if n <= count
    ]


# short_name


@pytest.mark.parametrize(
    "name, short",
    [
        ("/job:localhost/replica:0/task:0/device:CPU:1", "CPU:1"),
        ("/job:worker/replica:0/task:3/device:GPU:10", "GPU:10"),
        ("/physical_device:TPU:0", "TPU:0"),
        ("/job:worker/task:0/device:TPU_SYSTEM:0", "TPU_SYSTEM:0"),
        ("gpu:0", "GPU:0"),
        ("CPU:10", "CPU:10"),
    ],
)
def test_short_name(name, short):
    assert devices.short_name(name) == short


@pytest.mark.parametrize("name", ["", "CPU", "/job:localhost", None, 3])
def test_short_name_of_no_device(name):
    with pytest.raises(ValueError, match=r"must be a device's name"):
        devices.short_name(name)


# facts and report


def test_facts():
    facts = report.facts()
    assert list(facts) == FACTS
    assert all(isinstance(value, str) and value for value in facts.values())
    assert facts["Python"] == platform.python_version()
    assert facts["TensorFlow"] == tf.__version__
    assert facts["CPU cores"] == str(os.cpu_count())
    assert facts["memory"].count("GiB") == 2
    assert "Colab" not in facts["system"]


def test_accelerators(hardware, monkeypatch):
    hardware(gpus=2, tpus=8)
    details = {
        "/physical_device:GPU:0": {"device_name": "NVIDIA H200"},
        "/physical_device:GPU:1": {},
    }
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: details[gpu.name]
    )
    facts = report.facts()
    assert (facts["GPUs"], facts["TPUs"]) == (
        "NVIDIA H200, /physical_device:GPU:1",
        "8",
    )


def test_facts_without_tensorflow(monkeypatch):
    for name in "tensorflow", "keras":
        monkeypatch.setitem(sys.modules, name, None)
    facts = report.facts()
    assert list(facts) == [*FACTS, "remedy"]
    assert (facts["TensorFlow"], facts["Keras"]) == ("not installed", "not installed")
    assert (facts["GPUs"], facts["TPUs"]) == ("unknown", "unknown")
    assert "install requirements.txt" in facts["remedy"]


@pytest.mark.parametrize("name", ["tensorflow-cpu", "tensorflow-tpu", "tf-nightly"])
def test_whatever_the_package_is_called(python, tmp_path, name):
    """What counts is what can be imported, and the version that it states."""
    (tmp_path / "tensorflow.py").write_text(
        "from types import SimpleNamespace as N\n"
        "__version__ = '2.99.0'\n"
        "get_logger = lambda: N(setLevel=print)\n"
        "config = N(list_physical_devices=lambda kind: [])\n"
    )
    packages = {f"{name}-2.99.0": "tensorflow", "keras_nightly-3.99": "keras"}
    (tmp_path / "keras.py").touch()
    for folder, module in packages.items():
        (tmp_path / f"{folder}.dist-info").mkdir()
        distribution, version = folder.rsplit("-", 1)
        (tmp_path / f"{folder}.dist-info" / "METADATA").write_text(
            f"Name: {distribution}\nVersion: {version}\n"
        )
        (tmp_path / f"{folder}.dist-info" / "top_level.txt").write_text(module)
    answer = python(HIDE + "from course_utils.report import facts; print(facts())")
    assert (
        "'TensorFlow': '2.99.0', 'Keras': '3.99'" in answer.stdout
        and "remedy" not in answer.stdout
    ), answer.stderr


HIDE = """
import importlib.metadata as m, os
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
known = m.version
def version(name):  # the ones that are installed here
    if name in ("tensorflow", "keras"):
        raise m.PackageNotFoundError(name)
    return known(name)
m.version = version
"""


@pytest.mark.parametrize(
    "libtpu, fits",
    [("0.0.52", False), ("0.0.32", False), ("0.0.31", True), ("0.0.21.1", True)],
)
def test_a_libtpu_with_which_tensorflow_would_abort(monkeypatch, capsys, libtpu, fits):
    versions = {"tensorflow-tpu": "2.20.0", "libtpu": libtpu}
    monkeypatch.setattr(devices, "version_of", versions.get)
    assert (devices.unfit_libtpu() == "") == fits
    if not fits:
        facts = report.facts()
        assert (
            facts["TensorFlow"] == "not loaded" and '"libtpu<0.0.32"' in facts["remedy"]
        )
        assert (
            with_stand_in(None, 4).strategy is None
            and "too new for tensorflow-tpu 2.20.0" in capsys.readouterr().out
        )
    monkeypatch.setattr(devices, "version_of", {"tensorflow-tpu": "2.22.0"}.get)
    assert devices.unfit_libtpu() == ""


def test_whose_runtime_this_is(monkeypatch):
    assert devices.host() == ""
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    assert devices.host() == "Google Colab" and report.facts()["system"].endswith(
        ", Google Colab"
    )
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert devices.host() == "Kaggle"


def test_a_tpu_that_tensorflow_cannot_use(hardware, monkeypatch):
    hardware(0, 0)
    monkeypatch.setattr(devices.glob, "glob", lambda pattern: ["/dev/accel0"])
    assert devices.accelerator() == "TPU" and report.facts()["TPUs"].endswith(
        "there is one: JAX may"
    )
