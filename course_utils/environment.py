"""What hardware is here, and N logical devices of it; quiet logs. The ground of the other modules."""

import contextlib
import glob
import importlib.machinery
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import warnings

from course_utils.arguments import one_of, whole_number


def prepare() -> None:
    """Keep TensorFlow's start-up log and Keras' false alarms out of the notebook, and leave GPUs to share.

    What TensorFlow 2.21 logs while it is loaded ignores `TF_CPP_MIN_LOG_LEVEL`: so stderr is set aside meanwhile, and
    shown after all if the import fails. `TPU_SKIP_MDS_QUERY` spares libtpu minutes of waiting for Google's servers.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # or the next process finds no memory left
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if not tpu_in_machine():
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # the next is a false alarm of Keras 3.15's, of every dataset
    warnings.filterwarnings("ignore", message="`shuffle=True` was passed, but will be ignored")
    warnings.filterwarnings("ignore", message="Explicitly requested dtype int64")  # Keras on JAX 0.12, of its counters
    if not any(isinstance(finder, _QuietImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _QuietImport())


class _QuietImport:
    """Finds `tensorflow` the ordinary way, and has it loaded with stderr set aside."""

    def find_spec(self, name, path=None, target=None):
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name == "tensorflow" else None
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def quiet_load(module):
                with _stderr_set_aside():
                    load(module)
                module.get_logger().setLevel("ERROR")  # in a notebook TensorFlow starts it at INFO, on stdout

            spec.loader.exec_module = quiet_load
        return spec


_KEEPER = """
import os, sys
said = sys.stdin.buffer.read()
if not said.endswith(b"loaded"):
    os.write(2 if said.endswith(b"failed") else int(sys.argv[1]), said.removesuffix(b"failed"))
"""


@contextlib.contextmanager
def _stderr_set_aside():
    """Another process keeps what is written to stderr, and shows it after an exception, or a crash of this one."""
    terminal = 2
    with contextlib.suppress(AttributeError, OSError, ValueError):  # no stderr, or one that is no file
        terminal = sys.stderr.fileno()
    pass_on = {"pass_fds": [terminal]} if os.name == "posix" else {}
    keeper = subprocess.Popen([sys.executable, "-ISc", _KEEPER, str(terminal)], stdin=subprocess.PIPE, **pass_on)
    stderr = os.dup(2)
    os.dup2(keeper.stdin.fileno(), 2)
    verdict = b"failed"
    try:
        yield
        verdict = b"loaded"
    finally:
        os.write(2, verdict)
        os.dup2(stderr, 2)
        os.close(stderr)
        keeper.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # should a process started meanwhile hold the pipe open
            keeper.wait(10)


def host() -> str:
    """Whose runtime this is, "Google Colab" or "Kaggle"; or "", a machine of one's own."""
    return "Kaggle" if "KAGGLE_KERNEL_RUN_TYPE" in os.environ else "Google Colab" * ("google.colab" in sys.modules)


def tpu_in_machine() -> bool:
    """True if this machine has a TPU, by its device files; whether TensorFlow can use it is another question."""
    return bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))


def accelerator() -> str:
    """The kind of device that computes here, "GPU", "TPU" or "CPU"; a TPU that TensorFlow cannot use, JAX may use."""
    tf = sys.modules.get("tensorflow")
    kinds = [kind for kind in ("TPU", "GPU") if tf and tf.config.list_physical_devices(kind)]
    return (kinds + ["TPU"] * tpu_in_machine() + ["CPU"])[0]


LIBTPU_TOO_NEW = (0, 0, 32)  # from here on importing tensorflow-tpu 2.20.0 aborts the process (seen up to 0.0.52)
INSTALL_FOR_TPU = 'pip install "tensorflow-tpu==2.20.0" "libtpu<0.0.32", then restart'


def unfit_libtpu() -> str:
    """Why TensorFlow must not be imported here, if it must not: with its libtpu it would abort the process. Else ""."""
    libtpu = (_version("tensorflow-tpu") == "2.20.0" and _version("libtpu")) or ""
    if tuple(map(int, re.findall(r"\d+", libtpu)[:3])) < LIBTPU_TOO_NEW:
        return ""
    return f"libtpu {libtpu} is too new for tensorflow-tpu 2.20.0, which would abort: {INSTALL_FOR_TPU}"


def memory() -> tuple[float, float]:
    """(all, free), in GiB."""
    import psutil

    machine = psutil.virtual_memory()
    return machine.total / 2**30, machine.available / 2**30


def facts() -> dict[str, str]:
    """What is here, `{short name: short text}`; "remedy" where something is wrong. Initialises no device."""
    import platform

    (total, free), devices = memory(), tensorflow_facts()
    return {
        "Python": platform.python_version(),
        "TensorFlow": devices.pop("TensorFlow"),
        "Keras": (installed("keras") and (_version("keras") or _version("keras-nightly"))) or "not installed",
        "system": f"{platform.system()} {platform.machine()}" + f", {host()}" * bool(host()),
        "CPU cores": str(os.cpu_count()),
        "memory": f"{total:.1f} GiB, {free:.1f} GiB free",
        "disk": f"{shutil.disk_usage('.').free / 2**30:.0f} GiB free",
    } | devices


def tensorflow_facts() -> dict[str, str]:
    """TensorFlow's version, and what it says of accelerators, or why it says nothing: {short name: short text}."""
    version, devices = _version_and_devices()
    return {"TensorFlow": version} | devices


def _version_and_devices():
    unknown = {"GPUs": "unknown", "TPUs": "unknown"}
    if problem := unfit_libtpu():
        return "not loaded", unknown | {"remedy": problem}
    if not installed("tensorflow"):
        return "not installed", unknown | {"remedy": "install requirements.txt (on a TPU: see notebook 04)"}
    try:
        import tensorflow as tf
    except Exception as problem:  # a broken installation raises all sorts of errors
        remedy = f"install requirements.txt again: TensorFlow cannot be imported ({type(problem).__name__}: {problem})"
        return "broken", unknown | {"remedy": remedy}
    gpus = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
    no_tpu = "none that TensorFlow can use, though there is one: JAX may" if tpu_in_machine() else "none"
    devices = {"GPUs": ", ".join(names) or "none", "TPUs": str(len(tf.config.list_physical_devices("TPU")) or no_tpu)}
    return tf.__version__, devices if gpus else devices | _unused_gpu()


def _unused_gpu():
    """What to say, if there is an NVIDIA GPU here that TensorFlow does not use; a remedy unless that is meant."""
    if not (card := nvidia_smi("name")):
        return {}
    if (hidden := os.environ.get("CUDA_VISIBLE_DEVICES")) in ("", "-1"):
        return {"GPUs": f"none: CUDA_VISIBLE_DEVICES={hidden!r} hides {card} (unset it before Python starts)"}
    remedy = "TensorFlow lacks CUDA's libraries or a newer driver: make lab GPU=1, or pip install tensorflow[and-cuda]"
    remedy = "TensorFlow uses GPUs on Linux only: run the course in WSL2" if os.name == "nt" else remedy
    return {"GPUs": f"none that TensorFlow can use, though there is one ({card})", "remedy": remedy}


def nvidia_smi(what):
    """What NVIDIA's tool says of the first GPU that this process may see, or "" (no such tool, no GPU, no answer)."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    command += [f"--id={first}"] * (first not in ("", "-1"))
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        return said.strip().split("\n")[0]
    return ""


def report() -> str:
    """The same as `facts`, as a table to print: one line a fact."""
    lines = facts()
    return "\n".join(f"{name:<{max(map(len, lines))}}  {value}" for name, value in lines.items())


def installed(module: str) -> bool:
    """True if a module of this name can be found to import, whatever the package is called that brought it."""
    return (module in sys.modules and sys.modules[module] is not None) or bool(importlib.util.find_spec(module))


def _version(distribution):
    from importlib.metadata import PackageNotFoundError, version

    with contextlib.suppress(PackageNotFoundError):
        return version(distribution)


def logical_devices(count: int, kind: str = "auto") -> list[str]:
    """Names of `count` devices to build a strategy on, such as `["CPU:0", "CPU:1"]`; prints one line on what they are.

    kind: "auto" takes physical GPUs if there are enough, else equal slices of the first GPU's free memory, less a
        fifth for everything else, else logical CPUs; "gpu" and "cpu" leave only those.

    TensorFlow fixes its devices when it first uses one: after that only the same count will do. Raises ValueError for
    a count (1 or more) or kind that makes no sense, and RuntimeError, with the remedy, when a GPU is asked for and none
    is there, or when TensorFlow has fixed another number of devices.
    """
    import tensorflow as tf

    count, kind = whole_number("count", count, 1), one_of("kind", kind, ("auto", "cpu", "gpu"))
    gpus = [] if kind == "cpu" else tf.config.list_physical_devices("GPU")
    simulated = "simulated devices prove correctness, never speed"
    if kind == "gpu" and not gpus:
        raise RuntimeError("kind='gpu' asks for a GPU and TensorFlow sees none: use kind='auto' to go on with CPUs")
    if len(gpus) >= count:
        if tf.config.get_logical_device_configuration(gpus[0]):
            split(gpus[0], count, [])  # split by an earlier call: make it whole again
        line = f"{count} physical GPU{'s' * (count > 1)}"
    elif gpus:
        free = nvidia_smi("memory.free")
        size = int(0.8 * int(free) / count) if free.isdigit() else 1024  # MiB
        split(gpus[0], count, [tf.config.LogicalDeviceConfiguration(memory_limit=size)] * count)
        line = f"{count} logical GPUs, slices of one physical GPU: {simulated}"
    else:
        split(tf.config.list_physical_devices("CPU")[0], count, [tf.config.LogicalDeviceConfiguration()] * count)
        line = f"{count} logical CPU" + f"s on one physical CPU: {simulated}" * (count > 1)
    print(line)
    return [f"{'GPU' if gpus else 'CPU'}:{i}" for i in range(count)]


def short_name(device: str) -> str:
    """The end of a device's full name: "/job:localhost/replica:0/task:0/device:CPU:10" → "CPU:10"."""
    if name := re.search(r"[A-Z_]+:\d+$", str(device).upper()):
        return name.group()
    raise ValueError(f"device={device!r}: must be a device's name, such as tensor.device or 'GPU:0'")


def split(physical, count: int, parts: list) -> None:
    """Have TensorFlow present one physical device as these logical ones, or find that it has `count` already."""
    import tensorflow as tf

    try:
        tf.config.set_logical_device_configuration(physical, parts)
    except RuntimeError:  # the devices are initialised: TensorFlow keeps what it has until the process ends
        there = len(tf.config.get_logical_device_configuration(physical) or ["whole"])
        if there != count:
            raise RuntimeError(
                f"{count} logical {physical.device_type} devices were asked for, but TensorFlow already runs with "
                f"{there} and cannot change that: restart the kernel, and ask for them before anything uses TensorFlow"
            ) from None
