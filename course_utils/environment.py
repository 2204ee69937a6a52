"""What hardware is here, and N logical devices of it; quiet logs. The ground of the other modules."""

import contextlib
import glob
import importlib.machinery
import os
import re
import subprocess
import sys
import warnings
from typing import NamedTuple

from course_utils.arguments import one_of, whole_number

GPU_SLICE_MIB = 1024
"""Memory of one logical GPU where its card does not say how much it has. The course's model needs a tenth of it."""


def quiet_logs():
    """Keep TensorFlow's start-up log and Keras' false alarms out of the notebook.

    `TF_CPP_MIN_LOG_LEVEL` silences TensorFlow once it runs; what TensorFlow 2.21 logs while it is being
    loaded ignores that variable, so the process's stderr is set aside during the import, and shown after
    all if the import fails. Call it before TensorFlow is imported (`import course_utils` does). Calling it
    twice changes nothing.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Keras 3.15 says this of every tf.data.Dataset that `fit` is given, shuffled or not.
    warnings.filterwarnings("ignore", message="`shuffle=True` was passed, but will be ignored")
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
    """Collect what C and C++ code writes to the process's stderr; let it be read if an exception passes by, or a crash.

    Another process keeps it, so that it outlives this one. In a notebook it appears below the cell after an exception;
    after a crash, when there is no notebook any more, where Jupyter was started (on Colab: in the runtime's log).
    """
    try:
        terminal = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # no stderr, or one that is no file
        terminal = 2
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


def on_colab():
    """True in a Google Colab runtime."""
    return "google.colab" in sys.modules


def facts():
    """What is here, as a dict from a short name to a short text, in the order in which `report` shows it.

    Works without TensorFlow, and does not initialise TensorFlow's devices: `logical_devices` may still be called.
    """
    import platform
    import shutil

    import psutil

    memory = psutil.virtual_memory()
    found = {
        "Python": platform.python_version(),
        "TensorFlow": _version("tensorflow"),
        "Keras": _version("keras"),
        "system": f"{platform.system()} {platform.machine()}" + (", Google Colab" if on_colab() else ""),
        "CPU cores": str(os.cpu_count()),
        "memory": f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB free",
        "disk": f"{shutil.disk_usage('.').free / 2**30:.0f} GiB free",
    }
    try:
        import tensorflow as tf
    except Exception as problem:  # a broken installation raises all sorts of errors
        remedy = f"install requirements.txt again: TensorFlow cannot be imported ({problem})"
        return found | {"GPUs": "unknown", "TPUs": "unknown", "remedy": remedy}
    gpus = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
    tpus = tf.config.list_physical_devices("TPU")
    found |= {"GPUs": ", ".join(names) or "none", "TPUs": str(len(tpus) or "none")}
    return found if gpus else found | _unused_gpu()


def _unused_gpu():
    """A remedy, if there is an NVIDIA GPU here that TensorFlow does not use; else nothing."""
    card = _nvidia_smi("name")
    if not card:
        return {}
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden in ("", "-1"):
        remedy = f"CUDA_VISIBLE_DEVICES={hidden!r} hides it: unset that before Python starts"
    elif os.name == "nt":
        remedy = "TensorFlow uses GPUs on Linux only: run the course in WSL2"
    else:
        remedy = (
            "TensorFlow lacks CUDA's libraries or a newer driver: make lab GPU=1, or pip install tensorflow[and-cuda]"
        )
    return {"GPUs": f"none that TensorFlow can use, though there is one ({card})", "remedy": remedy}


def _nvidia_smi(what):
    """What NVIDIA's tool says of the first GPU that this process may see, or "" (no such tool, no GPU, no answer)."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
    choice = [f"--id={first}"] if first not in ("", "-1") else []
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits", *choice]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.strip().split("\n")[0]


def report():
    """The same as `facts`, as a table to print: one line a fact."""
    found = facts()
    width = max(map(len, found))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in found.items())


def _version(package):
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def logical_devices(count, kind="auto"):
    """Names of `count` devices to build a strategy on, such as `["CPU:0", "CPU:1"]`; prints one line on what they are.

    count: how many devices, at least 1.
    kind: "auto" takes physical GPUs if there are enough, else equal slices of the first GPU's free memory, less a
        fifth for everything else, else logical CPUs; "gpu" and "cpu" leave only those.

    TensorFlow fixes its devices when it first uses one. Until then this may be called again with another count; after
    that only with the same. Raises ValueError for a count or kind that makes no sense, and RuntimeError, with the
    remedy, when a GPU is asked for and none is there, or when TensorFlow has fixed another number of devices.
    """
    import tensorflow as tf

    count, kind = whole_number("count", count, 1), one_of("kind", kind, ("auto", "cpu", "gpu"))
    gpus = [] if kind == "cpu" else tf.config.list_physical_devices("GPU")
    if kind == "gpu" and not gpus:
        raise RuntimeError(
            "kind='gpu' asks for a GPU and TensorFlow sees none here; use kind='auto' to go on with CPUs"
        )
    if len(gpus) >= count:
        if tf.config.get_logical_device_configuration(gpus[0]):  # split by an earlier call: make it whole again
            _split(gpus[0], count, [])
        print(f"{count} physical GPU{'s' if count > 1 else ''}")
        return [f"GPU:{i}" for i in range(count)]
    if gpus:
        free = _nvidia_smi("memory.free")
        size = int(0.8 * int(free) / count) if free.isdigit() else GPU_SLICE_MIB
        _split(gpus[0], count, [tf.config.LogicalDeviceConfiguration(memory_limit=size)] * count)
        print(f"{count} logical GPUs, slices of one physical GPU: simulated devices prove correctness, never speed")
        return [f"GPU:{i}" for i in range(count)]
    _split(tf.config.list_physical_devices("CPU")[0], count, [tf.config.LogicalDeviceConfiguration()] * count)
    simulated = "s on one physical CPU: simulated devices prove correctness, never speed" if count > 1 else ""
    print(f"{count} logical CPU{simulated}")
    return [f"CPU:{i}" for i in range(count)]


def short_name(device):
    """The end of a device's full name: "/job:localhost/replica:0/task:0/device:CPU:10" → "CPU:10"."""
    found = re.search(r"[A-Z_]+:\d+$", str(device).upper())
    if not found:
        raise ValueError(f"device={device!r}: must be a device's name, such as tensor.device or 'GPU:0'")
    return found.group()


def _split(physical, count, parts):
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


class Accelerator(NamedTuple):
    """What `connect_tpu` found: a strategy, its number of replicas, and what it really is, such as "8 logical CPUs"."""

    strategy: object
    num_replicas: int
    what: str


TPU_FAULTS = {
    "provide a TPU Name": "no TPU was named: say connect_tpu(name=…), or 'local' where the TPU is in this machine",
    "already in use": "another process holds the TPU: end it (on Colab: Runtime, Manage sessions), then restart",
    "libtpu.*(version|undefined symbol|not available in|has no attribute)": "libtpu, the TPU's library, is of another "
    "version than TensorFlow: pip install tensorflow-tpu=={}, then restart",
    "libtpu": "libtpu, the TPU's library, is missing: pip install tensorflow-tpu=={}, then restart",
    "Name or service not known|Could not lookup|urlopen|UNAVAILABLE|DEADLINE": "no TPU of the name {name!r} answers: "
    "check the name, the zone and the network",
}
"""What to say of errors with these words; {} is the version of TensorFlow."""


def connect_tpu(replicas=8, name=None):
    """Initialise the TPU, if there is one, and return it as an `Accelerator`; else that many logical CPUs in its place.

    replicas: how many logical CPUs stand in for a TPU; a TPU has as many as it has.
    name: of the TPU, or its address; by default what TPU_NAME says, else "local": in this machine, as on Colab.

    Call it first: a TPU loses what was made before it is initialised, and TensorFlow's devices are fixed then. Prints
    one line: what was found, or why there is no TPU and what to do about it. Where TensorFlow is not installed the
    strategy is None. Raises ValueError for replicas that make no sense, RuntimeError when it comes too late.
    """
    replicas = whole_number("replicas", replicas, 1)
    if _version("tensorflow") == "not installed":
        print("TensorFlow is not installed: pip install tensorflow-tpu==2.20.0, then restart; JAX works without it")
        return Accelerator(None, 0, "nothing: TensorFlow is not installed")
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    _split(
        cpu, replicas, [tf.config.LogicalDeviceConfiguration()] * replicas
    )  # now: a failed attempt fixes the devices
    name = os.environ.get("TPU_NAME", "local") if name is None else name
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        strategy = tf.distribute.TPUStrategy(resolver)
    except Exception as problem:  # each way of having no TPU has its own type of error
        print(f"{replicas} logical CPUs in place of a TPU: {_tpu_fault(problem, name)}")
        devices = [f"CPU:{i}" for i in range(replicas)]
        strategy = tf.distribute.MirroredStrategy(devices, tf.distribute.ReductionToOneDevice())
        return Accelerator(strategy, replicas, f"{replicas} logical CPUs")
    count = strategy.num_replicas_in_sync
    print(f"a TPU with {count} core{'s' * (count > 1)}")
    return Accelerator(strategy, count, f"{count} TPU core{'s' * (count > 1)}")


def _tpu_fault(problem, name):
    """Why there is no TPU, and what would help, in one sentence."""
    import tensorflow as tf

    text = f"{type(problem).__name__}: {problem}"
    if "No OpKernel was registered" in text:
        if glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"):
            version = tf.version.VERSION
            return f"this TensorFlow has no TPU kernels: pip install tensorflow-tpu=={version}, then restart"
        return "there is none in this machine"
    for words, remedy in TPU_FAULTS.items():
        if re.search(words, text):
            return remedy.format(tf.version.VERSION, name=name)
    return f"connecting failed ({text.splitlines()[0][:200]})"
