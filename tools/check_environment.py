"""What this machine has for the course, what it lacks, and what to do about it: `python
-m tools.check_environment`.

Each line says [ OK ], [WARN] (the course runs, with less) or [FAIL] (some notebook will
not run), and what would help.
Exit code: 0 without a [FAIL], else 1. It works where TensorFlow is missing or broken,
    and takes some ten seconds.
"""

import importlib.metadata
import io
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import course_launcher as launcher
from course_utils import devices, errors, language, report

ROOT = pathlib.Path(__file__).resolve().parent.parent
NEEDED = (
    "tensorflow",
    "keras",
    "numpy",
    "scipy",
    "scikit-learn",
    "matplotlib",
    "psutil",
    "cloudpickle",
)
INSTALL = "install requirements.txt (make lab does it, in an environment of its own)"
LOOK = (
    "import json; from course_utils import report; "
    "print(json.dumps(report.tensorflow_facts()))"
)
SHARED = "/dev/shm"
LOADED = (
    300  # seconds in which TensorFlow must be loaded: a busy machine may need minutes
)
OLDEST_DRIVER = 525  # for CUDA 12: https://www.tensorflow.org/install/pip
OK, WARN, FAIL = "[ OK ]", "[WARN]", "[FAIL]"


def python():
    """Check its version; and first of all whether it is the Python of the course's own
    environment, if there is one.
    """
    own = ROOT / ".venv"
    if (own / "pyvenv.cfg").exists() and not os.path.samefile(own, sys.prefix):
        remedy = (
            ".venv/bin/python -m tools.check_environment, in the course's folder "
            "(Windows: .venv\\Scripts\\python)"
        )
        yield (
            False,
            WARN,
            "this is another Python than that of the course's environment, .venv",
            remedy,
        )
    version = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield (
        fits,
        FAIL,
        f"Python {version}",
        "use Python 3.11, 3.12 or 3.13: TensorFlow has packages for these",
    )


def packages():
    """Check installed versions against requirements.txt, if it lies beside
    course_utils; else only whether they are there.
    """
    missing, others = [], []
    for name, wanted in _requirements().items():
        # whatever package brought it: the next check asks TensorFlow itself
        if name == "tensorflow":
            continue
        try:
            version = importlib.metadata.version(name)
            if wanted and version not in wanted:
                others.append(f"{name} {version} ({wanted})")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if needed := [name for name in missing if name in NEEDED]:
        yield False, FAIL, f"packages missing: {', '.join(needed)}", INSTALL
    if rest := [name for name in missing if name not in NEEDED]:
        yield (
            False,
            WARN,
            f"packages missing: {', '.join(rest)}",
            f"tests, tools and some sections need them: {INSTALL}",
        )
    if others:
        yield (
            False,
            WARN,
            f"other versions than tested: {', '.join(others)}",
            f"should something fail, {INSTALL}",
        )
    if not missing and not others:
        yield True, OK, "all packages, in versions that were tested", ""


def _requirements():
    """Return `{package: versions}` of requirements.txt; the needed packages, in any
    version, where that cannot be read.
    """
    try:
        from packaging.requirements import Requirement

        lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    except (ImportError, OSError):
        return dict.fromkeys(NEEDED)
    texts = [
        text
        for text in (line.partition("#")[0].strip() for line in lines)
        if text and not text.startswith("-")
    ]
    return {
        requirement.name: requirement.specifier
        for requirement in map(Requirement, texts)
    }


def keras_backend():
    """Check Keras' backend: the notebooks train Keras on TensorFlow; where they use
    JAX, they say so to a process of its own.
    """
    backend = os.environ.get("KERAS_BACKEND") or _configured_backend()
    if backend != "tensorflow":
        words = (
            f"Keras would run on {backend}, by KERAS_BACKEND or ~/.keras/keras.json: "
            "the notebooks need TensorFlow"
        )
        yield False, FAIL, words, "set KERAS_BACKEND=tensorflow before Jupyter starts"


def _configured_backend():
    """Return the backend in Keras' own file, which it reads where KERAS_BACKEND is not
    set.
    """
    path = (
        pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
        / "keras.json"
    )
    try:
        return json.loads(path.read_text(encoding="utf-8"))["backend"]
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow"


def tensorflow():
    """Load it in a process of its own, which a broken one may take with it."""
    if not devices.installed("tensorflow"):
        yield (
            False,
            FAIL,
            "TensorFlow is not installed",
            f"{INSTALL}; on a TPU see notebook 04",
        )
        return
    env = os.environ | {
        language.VARIABLE: "en",  # as all that is printed here
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    ways = {
        "capture_output": True,
        "text": True,
        "timeout": LOADED,
        "stdin": subprocess.DEVNULL,
    }
    try:
        done = subprocess.run([sys.executable, "-c", LOOK], env=env, **ways)
    except subprocess.TimeoutExpired:
        remedy = "free some memory, and try again"
        if devices.installed("libtpu"):
            remedy += (
                "; where libtpu waits for Google's metadata server, set "
                "TPU_SKIP_MDS_QUERY=1"
            )
        yield False, FAIL, f"TensorFlow did not load within {LOADED} seconds", remedy
        return
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[
            -1
        ]
        yield (
            False,
            FAIL,
            f"TensorFlow cannot be loaded: {last}",
            f"install it again: {INSTALL}",
        )
        return
    facts = json.loads(done.stdout.splitlines()[-1])
    version, tested = facts["TensorFlow"], _requirements().get("tensorflow")
    if facts["GPUs"] == "unknown":
        yield False, FAIL, f"TensorFlow is {version}", facts["remedy"]
        return
    known = not tested or version in tested
    words = f"TensorFlow {version} loads"
    if not known:
        words += f"; tested is {tested}"
    yield known, WARN, words, f"should something fail, {INSTALL}"
    well = "remedy" not in facts
    words = (
        f"GPUs: {facts['GPUs']}, TPUs: {facts['TPUs']}"
        + " (the notebooks simulate what is missing)" * well
    )
    yield well, WARN, words, facts.get("remedy", "")


def nvidia():
    """Check what a GPU needs besides TensorFlow: a driver for CUDA 12, and for NCCL, if
    there are several, shared memory.
    """
    version = devices.nvidia_smi("driver_version")
    major = version.partition(".")[0]
    if major.isdigit():
        remedy = f"CUDA 12 needs {OLDEST_DRIVER}.60 or newer: install a newer driver"
        yield int(major) >= OLDEST_DRIVER, WARN, f"NVIDIA driver {version}", remedy
        if os.path.isdir(SHARED):
            size = shutil.disk_usage(SHARED).total / 2**30
            remedy = (
                "NCCL between GPUs wants 1 GiB, and dies (SIGBUS) without: docker run "
                "--shm-size=1g"
            )
            yield size > 0.9, WARN, f"{SHARED}: {size:.2f} GiB", remedy


def memory():
    if devices.installed("psutil"):  # else packages() has said so
        _, free = report.memory()
        yield (
            free >= 3,
            WARN,
            f"memory: {free:.1f} GiB free",
            "notebooks want 3 GiB: close something",
        )


def disk():
    free = shutil.disk_usage(".").free / 2**30
    yield (
        free >= 1,
        WARN,
        f"disk: {free:.1f} GiB free here",
        "checkpoints want 1 GiB: free some",
    )


def loopback():
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
        yield True, OK, "processes of this machine can reach each other (127.0.0.1)", ""
    except OSError as problem:
        words = f"127.0.0.1 cannot be reached ({problem.strerror or problem})"
        yield False, FAIL, words, "ask what firewall or sandbox is here"


def workers():
    if devices.installed("cloudpickle"):  # else packages() has said so
        try:
            # without the seconds until they have begun
            launcher.run_on_workers(int, timeout=60)
            yield True, OK, "worker processes start (notebook 03)", ""
        except Exception as problem:  # a missing package, a full disk, another system
            words = f"worker processes do not start: {errors.message(problem)[0]}"
            yield False, FAIL, words, "notebook 03 needs them"


def mnist():
    cache = (
        pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
        / "datasets"
        / "mnist.npz"
    )
    if cache.exists():
        yield True, OK, "MNIST is here", ""
        return
    try:
        socket.create_connection(("storage.googleapis.com", 443), timeout=3).close()
        yield True, OK, "MNIST can be downloaded", ""
    except OSError:
        words = "MNIST can neither be found nor downloaded"
        yield False, WARN, words, 'leave DATASET = "digits", which needs no network'


def jupyter():
    try:
        from jupyter_client.kernelspec import KernelSpecManager

        argv = (
            KernelSpecManager(ensure_native_kernel=True).get_kernel_spec("python3").argv
        )
    except Exception as problem:
        words = f"no Jupyter kernel here ({type(problem).__name__})"
        yield False, WARN, words, f"to open the notebooks here, {INSTALL}"
        return
    own = os.path.basename(argv[0]) == argv[0] or os.path.abspath(
        argv[0]
    ) == os.path.abspath(sys.executable)
    words = (
        "Jupyter's kernel is this Python"
        if own
        else f"Jupyter's kernel python3 is another Python: {argv[0]}"
    )
    yield own, WARN, words, "python -m ipykernel install --sys-prefix, with this Python"


CHECKS = (
    python,
    packages,
    keras_backend,
    tensorflow,
    nvidia,
    memory,
    disk,
    loopback,
    workers,
    mnist,
    jupyter,
)


def verdicts(check) -> list[tuple[str, str, str]]:
    """Return what a check says, `[(level, text, remedy), …]`; "" where all is well."""
    return [
        (OK, text, "") if fits else (level, text, remedy)
        for fits, level, text, remedy in check()
    ]


def main() -> int:
    """Print every check's lines as soon as they are known, in whatever encoding.
    Returns the exit code.
    """
    arrow = "→"
    try:
        arrow.encode(sys.stdout.encoding)
    except UnicodeEncodeError:  # Windows' cp1252, or ASCII
        arrow = "->"
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
    worst = 0
    for check in CHECKS:
        for level, text, remedy in verdicts(check):
            print(f"{level} {text}", flush=True)
            if remedy:
                print(f"       {arrow} {remedy}", flush=True)
            worst |= level == FAIL
    return int(worst)


if __name__ == "__main__":
    sys.exit(main())
