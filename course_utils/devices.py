"""What hardware is here, and N logical devices of it."""

import contextlib
import glob
import importlib.util
import os
import re
import subprocess
import sys

from course_utils.arguments import one_of, whole_number
from course_utils.language import counted, translated as _


def host() -> str:
    """Return whose runtime this is, "Google Colab" or "Kaggle"; "" for one's own."""
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return "Kaggle"
    return "Google Colab" if "google.colab" in sys.modules else ""


def tpu_in_machine() -> bool:
    """Return whether this machine has a TPU, by its device files; whether TensorFlow
    can use it is another question.
    """
    return bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))


def accelerator() -> str:
    """Return the kind of device that computes here, "GPU", "TPU" or "CPU"; a TPU that
    TensorFlow cannot use, JAX may use.
    """
    tf = sys.modules.get("tensorflow")
    kinds = [
        kind for kind in ("TPU", "GPU") if tf and tf.config.list_physical_devices(kind)
    ]
    return (kinds + ["TPU"] * tpu_in_machine() + ["CPU"])[0]


# from here on importing tensorflow-tpu 2.20.0 aborts the process (seen up to 0.0.52)
LIBTPU_TOO_NEW = (0, 0, 32)
INSTALL_FOR_TPU = 'pip install "tensorflow-tpu==2.20.0" "libtpu<0.0.32"'


def unfit_libtpu() -> str:
    """Return why TensorFlow must not be imported here, if it must not: with its libtpu
    it would abort the process. Else "".
    """
    libtpu = (version_of("tensorflow-tpu") == "2.20.0" and version_of("libtpu")) or ""
    if tuple(map(int, re.findall(r"\d+", libtpu)[:3])) < LIBTPU_TOO_NEW:
        return ""
    return _(
        "libtpu {libtpu} is too new for tensorflow-tpu 2.20.0, which would "
        "abort: {remedy}, then restart",
        libtpu=libtpu,
        remedy=INSTALL_FOR_TPU,
    )


def nvidia_smi(what: str) -> str:
    """Return what NVIDIA's tool says of the first GPU that this process may see, or ""
    (no such tool, no GPU, no answer).
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    if first not in ("", "-1"):
        command.append(f"--id={first}")
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=True
        ).stdout
        return said.strip().split("\n")[0]
    return ""


def installed(module: str) -> bool:
    """Return whether a module of this name can be found to import, whatever the package
    is called that brought it.
    """
    return (module in sys.modules and sys.modules[module] is not None) or bool(
        importlib.util.find_spec(module)
    )


def version_of(distribution: str) -> str | None:
    """Return the installed version of this distribution; None if there is none."""
    from importlib.metadata import PackageNotFoundError, version

    with contextlib.suppress(PackageNotFoundError):
        return version(distribution)


def logical_devices(count: int, kind: str = "auto") -> list[str]:
    """Return the names of devices to build a strategy on: `["CPU:0", "CPU:1"]`.

    It prints one line on what they are. TensorFlow fixes its devices when it first uses
    one: after that only the same count will do.

    Args:
        count: how many, 1 or more.
        kind: "auto" takes physical GPUs if there are enough, else equal slices of the
            first GPU's free memory, less a fifth for everything else, else logical
            CPUs; "gpu" and "cpu" leave only those.

    Raises:
        ValueError: for a count or kind that makes no sense.
        RuntimeError: with the remedy, when a GPU is asked for and none is there, or
            when TensorFlow has fixed another number of devices.
    """
    import tensorflow as tf

    count, kind = (
        whole_number("count", count, 1),
        one_of("kind", kind, ("auto", "cpu", "gpu")),
    )
    gpus = [] if kind == "cpu" else tf.config.list_physical_devices("GPU")
    simulated = _("simulated devices prove correctness, never speed")
    if kind == "gpu" and not gpus:
        raise RuntimeError(
            _(
                "kind='gpu' asks for a GPU and TensorFlow sees none: use "
                "kind='auto' to go on with CPUs"
            )
        )
    if len(gpus) >= count:
        if tf.config.get_logical_device_configuration(gpus[0]):
            split(gpus[0], count, [])  # split by an earlier call: make it whole again
        line = counted(count, "physical GPU", "physical GPUs")
    elif gpus:
        free = nvidia_smi("memory.free")
        size = int(0.8 * int(free) / count) if free.isdigit() else 1024  # MiB
        split(
            gpus[0],
            count,
            [tf.config.LogicalDeviceConfiguration(memory_limit=size)] * count,
        )
        line = _(
            "{count} logical GPUs, slices of one physical GPU: {simulated}",
            count=count,
            simulated=simulated,
        )
    else:
        split(
            tf.config.list_physical_devices("CPU")[0],
            count,
            [tf.config.LogicalDeviceConfiguration()] * count,
        )
        line = counted(count, "logical CPU", "logical CPUs")
        if count > 1:
            line += _(" on one physical CPU: {simulated}", simulated=simulated)
    print(line)
    return [f"{'GPU' if gpus else 'CPU'}:{i}" for i in range(count)]


def short_name(device: str) -> str:
    """Return the end of a device's full name:
    "/job:localhost/replica:0/task:0/device:CPU:10" → "CPU:10".
    """
    if name := re.search(r"[A-Z_]+:\d+$", str(device).upper()):
        return name.group()
    raise ValueError(
        _(
            "device={device!r}: must be a device's name, such as tensor.device "
            "or 'GPU:0'",
            device=device,
        )
    )


def split(physical, count: int, parts: list) -> None:
    """Have TensorFlow present one physical device as these logical ones, or find that
    it has `count` already.
    """
    import tensorflow as tf

    try:
        tf.config.set_logical_device_configuration(physical, parts)
    # the devices are initialised: TensorFlow keeps what it has until the process ends
    except RuntimeError:
        there = len(tf.config.get_logical_device_configuration(physical) or ["whole"])
        if there != count:
            raise RuntimeError(
                _(
                    "{count} logical {kind} devices were asked for, but "
                    "TensorFlow already runs with {there} and cannot change "
                    "that: restart the kernel, and ask for them before "
                    "anything uses TensorFlow",
                    count=count,
                    kind=physical.device_type,
                    there=there,
                )
            ) from None
