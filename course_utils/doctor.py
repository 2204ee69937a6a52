"""What this machine has for the course, what it lacks, and what to do about it: `python -m course_utils`.

Each line says [ OK ], [WARN] (the course runs, with less) or [FAIL] (some notebook will not run), and what would help.
Exit code: 0 without a [FAIL], else 1. It works where TensorFlow is missing or broken, and takes some ten seconds.
"""

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import sys
import urllib.parse

from course_utils import cluster, data, environment, errors

ROOT = pathlib.Path(__file__).resolve().parent.parent
NEEDED = ("tensorflow", "keras", "numpy", "scipy", "scikit-learn", "matplotlib", "psutil", "cloudpickle")
INSTALL = "install requirements.txt (make lab does it, in an environment of its own)"
LOOK = "import json; from course_utils import environment; print(json.dumps(environment.facts()))"
OK, WARN, FAIL = "[ OK ]", "[WARN]", "[FAIL]"


def python():
    found = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield OK, f"Python {found}", ""
    else:
        yield FAIL, f"Python {found}", "use Python 3.11, 3.12 or 3.13: TensorFlow has packages for these"


def packages():
    """Installed versions against requirements.txt, if it lies beside course_utils; else only whether they are there."""
    missing, others = [], []
    for name, versions in _requirements().items():
        if name == "tensorflow":  # whatever package brought it: the next check asks TensorFlow itself
            continue
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if versions and found not in versions:
            others.append(f"{name} {found} ({versions})")
    if needed := [name for name in missing if name in NEEDED]:
        yield FAIL, f"packages missing: {', '.join(needed)}", INSTALL
    if rest := [name for name in missing if name not in NEEDED]:
        yield WARN, f"packages missing: {', '.join(rest)}", f"tests, tools and some sections need them: {INSTALL}"
    if others:
        yield WARN, f"other versions than tested: {', '.join(others)}", f"should something fail, {INSTALL}"
    if not missing and not others:
        yield OK, "all packages, in versions that were tested", ""


def _requirements():
    """`{package: versions}` of requirements.txt; the needed packages, in any version, where that cannot be read."""
    try:
        from packaging.requirements import Requirement

        lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    except (ImportError, OSError):
        return dict.fromkeys(NEEDED)
    wanted = [Requirement(line.partition("#")[0]) for line in lines if line.partition("#")[0].strip()]
    return {each.name: each.specifier for each in wanted}


def tensorflow():
    """Loaded in a process of its own, since a broken one may take the process with it."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    try:
        done = subprocess.run(
            [sys.executable, "-c", LOOK], env=env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        remedy = "free some memory, and try again"
        if environment.installed("libtpu"):
            remedy += "; where libtpu waits for Google's metadata server, set TPU_SKIP_MDS_QUERY=1"
        yield FAIL, "TensorFlow did not load within 60 seconds", remedy
        return
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        yield FAIL, f"TensorFlow cannot be loaded: {last}", f"install it again: {INSTALL}"
        return
    facts = json.loads(done.stdout.splitlines()[-1])
    version, devices = facts["TensorFlow"], f"GPUs: {facts['GPUs']}, TPUs: {facts['TPUs']}"
    if facts["GPUs"] == "unknown":
        yield FAIL, f"TensorFlow is {version}", facts["remedy"]
        return
    tested = _requirements().get("tensorflow")
    if tested and version not in tested:
        yield WARN, f"TensorFlow {version} loads; tested is {tested}", f"should something fail, {INSTALL}"
    else:
        yield OK, f"TensorFlow {version} loads", ""
    if "remedy" in facts:
        yield WARN, devices, facts["remedy"]
    else:
        yield OK, devices + " (where there is none, the notebooks simulate several)", ""


def memory():
    try:
        _, free = environment.memory()
    except ImportError:
        return  # packages() has said so
    fits = free >= 3
    yield OK if fits else WARN, f"memory: {free:.1f} GiB free", "" if fits else "notebooks want 3 GiB: close something"


def disk():
    free = environment.free_disk()
    fits = free >= 1
    yield OK if fits else WARN, f"disk: {free:.1f} GiB free here", "" if fits else "checkpoints want 1 GiB: free some"


def loopback():
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
        yield OK, "processes of this machine can reach each other (127.0.0.1)", ""
    except OSError as problem:
        yield (
            FAIL,
            f"127.0.0.1 cannot be reached ({problem.strerror or problem})",
            "ask what firewall or sandbox is here",
        )


def workers():
    if not importlib.util.find_spec("cloudpickle"):
        return  # packages() has said so
    try:
        cluster.run_on_workers(_nothing, timeout=20)
        yield OK, "worker processes start (notebook 03)", ""
    except Exception as problem:  # a missing package, a full disk, another system
        yield FAIL, f"worker processes do not start: {errors.message(problem)[0]}", "notebook 03 needs them"


def _nothing():
    pass


def mnist():
    if data.mnist_cache().exists():
        yield OK, "MNIST is here", ""
        return
    try:
        socket.create_connection((urllib.parse.urlsplit(data.MNIST).hostname, 443), timeout=3).close()
        yield OK, "MNIST can be downloaded", ""
    except OSError:
        yield WARN, "MNIST can neither be found nor downloaded", 'leave DATASET = "digits", which needs no network'


def jupyter():
    try:
        from jupyter_client.kernelspec import KernelSpecManager

        argv = KernelSpecManager(ensure_native_kernel=True).get_kernel_spec("python3").argv
    except Exception as problem:
        yield WARN, f"no Jupyter kernel here ({type(problem).__name__})", f"to open the notebooks here, {INSTALL}"
        return
    if os.path.basename(argv[0]) == argv[0] or os.path.abspath(argv[0]) == os.path.abspath(sys.executable):
        yield OK, "Jupyter's kernel is this Python", ""
    else:
        help_ = "python -m ipykernel install --sys-prefix, with this Python"
        yield WARN, f"Jupyter's kernel python3 is another Python: {argv[0]}", help_


CHECKS = (python, packages, tensorflow, memory, disk, loopback, workers, mnist, jupyter)


def main():
    """Print every check's lines as soon as they are known. Returns the exit code."""
    worst = 0
    for check in CHECKS:
        for level, text, remedy in check():
            print(f"{level} {text}" + (f"\n       → {remedy}" if remedy else ""), flush=True)
            worst |= level == FAIL
    return int(worst)
