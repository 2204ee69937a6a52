"""The Makefile and noxfile.py: whom they refuse, and that the course opens.

It opens as root, too.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    os.name == "nt" or not shutil.which("make"), reason="needs make and a POSIX shell"
)


def make(folder, *words, **extra):
    command = ["make", "--no-print-directory", *words]
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAKE", "PYTHON"))
    }
    env = env | extra
    return subprocess.run(
        command,
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def fresh(tmp_path):
    """The Makefile and the requirements, without a virtual environment."""
    for name in "Makefile", "requirements.txt":
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def fake_python(folder, name, code):
    """A Python that does the check of the Makefile as `code` says.

    It writes down what else it is asked to do.
    """
    path = folder / name
    path.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = -c ] && exit {code}\n'
        f'echo "$0 $*" >> {folder}/asked\n'
        "exit 3\n"
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("python", ["old", "/no/such/python"])
def test_a_python_that_does_not_fit_is_refused_in_one_sentence(fresh, python):
    old = fake_python(fresh, "old", 1)
    said = make(fresh, "run", f"PYTHON={old if python == 'old' else python}")
    assert (
        said.returncode
        and "Making" not in said.stdout
        and not (fresh / ".venv").exists()
    )
    sentence, fault = said.stderr.splitlines()
    assert (
        "is not Python 3.11, 3.12 or 3.13 with venv and ensurepip" in sentence
        and fault.startswith("make: ***")
    )


def test_gpu_asks_for_cuda(fresh):
    shutil.copy(ROOT / "requirements-gpu.txt", fresh)
    python = fake_python(fresh, "fits", 0)
    plain, gpu = (
        make(fresh, "--dry-run", "run", f"PYTHON={python}", *words).stdout
        for words in ([], ["GPU=1"])
    )
    assert (
        "--requirement requirements.txt" in plain
        and "--requirement requirements-gpu.txt" in gpu
    )
    pins = [
        (ROOT / name).read_text()
        for name in ("requirements.txt", "requirements-gpu.txt")
    ]
    version, cuda = (
        re.search(r"^tensorflow(?:\[and-cuda\])?(==\S+)$", each, re.M)[1]
        for each in pins
    )
    assert version == cuda and "-r requirements.txt" in pins[1]


@pytest.mark.parametrize(
    "stand_ins, words",
    [
        (
            "unshare nsenter ip munged slurmd sbatch",
            "a Slurm of its own is needed, and slurmctld is missing (on Debian",
        ),
        (
            "unshare nsenter ip munged slurmctld slurmd sbatch",
            "namespaces are needed, and cannot be had here: be root, on Linux",
        ),
    ],
)
def test_where_there_is_no_slurm_or_there_are_no_namespaces(tmp_path, stand_ins, words):
    for name in stand_ins.split():
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    said = subprocess.run(
        [sys.executable, "-m", "nox", "-s", "cluster"],
        cwd=ROOT,
        env=os.environ | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said.returncode and words in said.stderr


def answers(address):
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return answer.status
    except urllib.error.URLError as problem:
        assert isinstance(problem.reason, ConnectionRefusedError), problem


@pytest.mark.skipif(
    not (ROOT / ".venv" / "ready").exists(),
    reason="needs the environment that make makes",
)
def test_lab_opens_with_its_token(tmp_path):
    log = tmp_path / "log"
    env = os.environ | {
        "JUPYTER_CONFIG_DIR": str(tmp_path),
        "JUPYTER_RUNTIME_DIR": str(tmp_path),
        "BROWSER": "true",
    }
    with open(log, "w") as file:
        lab = subprocess.Popen(
            ["make", "lab"],
            cwd=ROOT,
            env=env,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 60
        while not (
            found := re.search(
                r"http://(?:127\.0\.0\.1|localhost):(\d+)/lab\S*\?token=(\w+)",
                log.read_text(),
            )
        ):
            assert lab.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        port, token = found.groups()
        address = (
            f"http://127.0.0.1:{port}/api/contents/"
            "01_one_device_strategy.ipynb?content=0"
        )
        while not (
            status := answers(f"{address}&token={token}")
        ):  # it says its address before it listens
            assert lab.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        assert status == 200
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(address, timeout=30)
    finally:
        os.killpg(lab.pid, signal.SIGTERM)
        lab.wait(30)
