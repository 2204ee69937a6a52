"""What was found on this machine, for a person to read."""

import os
import platform
import shutil

from course_utils.devices import (
    host,
    installed,
    nvidia_smi,
    tpu_in_machine,
    unfit_libtpu,
    version_of,
)
from course_utils.language import marked, translated as _

NAMES = (
    marked("system"),
    marked("CPU cores"),
    marked("memory"),
    marked("disk"),
    marked("GPUs"),
    marked("TPUs"),
    marked("remedy"),
)
"""Of facts, which are keys: their names are translated where they are printed."""


def memory() -> tuple[float, float]:
    """Return (all, free), in GiB."""
    import psutil

    machine = psutil.virtual_memory()
    return machine.total / 2**30, machine.available / 2**30


def facts() -> dict[str, str]:
    """Return what is here, `{short name: short text}`; "remedy" where something is
    wrong. The names are the same in all languages. Initialises no device.
    """
    total, free = memory()
    devices = tensorflow_facts()
    system = f"{platform.system()} {platform.machine()}"
    return {
        "Python": platform.python_version(),
        "TensorFlow": devices.pop("TensorFlow"),
        "Keras": (
            installed("keras") and (version_of("keras") or version_of("keras-nightly"))
        )
        or _("not installed"),
        "system": ", ".join(filter(None, [system, host()])),
        "CPU cores": str(os.cpu_count()),
        "memory": _("{total:.1f} GiB, {free:.1f} GiB free", total=total, free=free),
        "disk": _("{free:.0f} GiB free", free=shutil.disk_usage(".").free / 2**30),
    } | devices


def tensorflow_facts() -> dict[str, str]:
    """Return TensorFlow's version, and what it says of accelerators, or why it says
    nothing: {short name: short text}.
    """
    version, devices = _version_and_devices()
    return {"TensorFlow": version} | devices


def _version_and_devices():
    unknown = {"GPUs": _("unknown"), "TPUs": _("unknown")}
    if problem := unfit_libtpu():
        return _("not loaded"), unknown | {"remedy": problem}
    if not installed("tensorflow"):
        return _("not installed"), unknown | {
            "remedy": _("install requirements.txt (on a TPU: see notebook 04)")
        }
    try:
        import tensorflow as tf
    except Exception as problem:  # a broken installation raises all sorts of errors
        remedy = _(
            "install requirements.txt again: TensorFlow cannot be imported "
            "({kind}: {problem})",
            kind=type(problem).__name__,
            problem=problem,
        )
        return _("broken"), unknown | {"remedy": remedy}
    gpus = tf.config.list_physical_devices("GPU")
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
        for gpu in gpus
    ]
    no_tpu = (
        _("none that TensorFlow can use, though there is one: JAX may")
        if tpu_in_machine()
        else _("none")
    )
    devices = {
        "GPUs": ", ".join(names) or _("none"),
        "TPUs": str(len(tf.config.list_physical_devices("TPU")) or no_tpu),
    }
    return tf.__version__, devices if gpus else devices | _unused_gpu()


def _unused_gpu():
    """Return what to say, if there is an NVIDIA GPU here that TensorFlow does not use;
    a remedy unless that is meant.
    """
    if not (card := nvidia_smi("name")):
        return {}
    if (hidden := os.environ.get("CUDA_VISIBLE_DEVICES")) in ("", "-1"):
        return {
            "GPUs": (
                _(
                    "none: CUDA_VISIBLE_DEVICES={hidden!r} hides {card} (unset "
                    "it before Python starts)",
                    hidden=hidden,
                    card=card,
                )
            )
        }
    remedy = _(
        "TensorFlow lacks CUDA's libraries or a newer driver: make lab "
        "GPU=1, or pip install tensorflow[and-cuda]"
    )
    remedy = (
        _("TensorFlow uses GPUs on Linux only: run the course in WSL2")
        if os.name == "nt"
        else remedy
    )
    return {
        "GPUs": _(
            "none that TensorFlow can use, though there is one ({card})", card=card
        ),
        "remedy": remedy,
    }


def describe_environment() -> str:
    """Return the same as `facts`, as a table to print: one line a fact."""
    lines = {_(name): value for name, value in facts().items()}
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())
