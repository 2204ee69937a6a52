"""What needs an environment of its own, or takes longer than `make test`.

`.venv/bin/nox --list` says what there is, `.venv/bin/nox -s soak` runs one of them, and
words after `--` go to pytest. `make test` and `make site` are doors to two. A session
runs in the environment that nox itself is in (`.venv`), except for the hosts' and the
website's, which nox makes under `.nox`. With CI set, those that take long are thinned.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import nox

nox.needs_version = ">=2025.2"
nox.options.sessions = ["test"]
nox.options.reuse_venv = "yes"

ROOT = pathlib.Path(__file__).resolve().parent
CI = bool(os.environ.get("CI"))
IN_BOTH_LANGUAGES = "00_data_vs_model_parallelism", "06_your_own_model"
NO_GPU = {"CUDA_VISIBLE_DEVICES": "-1"}
PYTEST = ("-m", "pytest", "--numprocesses=2")
NAMESPACES = [
    "unshare",
    "--net",
    "--mount",
    "--uts",
    "--ipc",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
]


def python(session, *words, **options):
    """Run the Python that nox itself runs on."""
    session.run(sys.executable, *words, external=True, **options)


def install(session, group):
    """Install a group of pyproject.toml into that Python's environment."""
    python(session, "-m", "pip", "install", "--quiet", "--group", group, silent=True)


@nox.session(python=False)
def test(session):
    """Prove that everything works here: the notebooks' outputs, and the quick tests."""
    session.log(
        "GPUs, if any, are hidden: stored outputs are a CPU's (nox -s test_gpu)"
    )
    python(session, "-m", "ruff", "check", ".")
    python(session, "-m", "ruff", "format", "--check", ".")
    french = [f"notebooks/fr/{name}.ipynb" for name in IN_BOTH_LANGUAGES]
    english = sorted(map(str, pathlib.Path("notebooks").glob("*.ipynb")))
    strictly(session, *(session.posargs or [*english, *french, "tests"]))


@nox.session(python=False)
def french(session):
    """Run all notebooks of the French edition, strictly; `test` runs two of them."""
    strictly(session, "notebooks/fr")


def strictly(session, *words):
    # files in their order, the long ones first: else those with many tests come first
    options = ["--nbval", "--dist=loadfile", "--no-loadscope-reorder", "-m", "not slow"]
    python(session, *PYTEST, *options, *words)


@nox.session(python=False)
def lint(session):
    """Run ruff, pyright and codespell, as .pre-commit-config.yaml has them."""
    install(session, "lint")
    python(session, "-m", "ruff", "check", ".")
    python(session, "-m", "ruff", "format", "--check", ".")
    python(session, "-m", "pyright")
    session.run(str(pathlib.Path(sys.executable).parent / "codespell"), external=True)


@nox.session(python=False)
def mnist(session):
    """Run every notebook with DATASET = "mnist", on a stand-in: half an hour."""
    thinned = ["--data", "00", "fr/01", "02", "04", "fr/05"]
    python(session, "-m", "tests.notebooks.mnist", *(thinned if CI else []))


@nox.session(python=False)
def soak(session):
    """Kill workers fifty times, plan forty models, run 06 with eight: an hour.

    In CI, a third of the tests, and another third after each commit.
    """
    paths = [f"tests/integration/{name}.py" for name in ("take_home", "soak")]
    paths.append("tests/notebooks/your_model.py")
    part = a_third() if CI else []
    python(session, *PYTEST, *part, "-m", "slow", "tests")
    python(session, *PYTEST, *(session.posargs or [*part, *paths]))  # named: all


def a_third():
    """Choose a third of the tests by the number of commits."""
    count = subprocess.check_output(["git", "rev-list", "--count", "HEAD"], cwd=ROOT)
    even = ["--splitting-algorithm", "least_duration"]  # all weigh the same: in turns
    return ["--splits", "3", *even, "--group", str(1 + int(count) % 3)]


@nox.session(python=False)
def cluster(session):
    """Run the files of cluster/ on a real Slurm of two nodes; Linux, as root."""
    needed = ["unshare", "nsenter", "ip", "munged", "slurmctld", "slurmd", "sbatch"]
    for name in needed:
        if not shutil.which(name):
            session.error(
                f"a Slurm of its own is needed, and {name} is missing (on Debian: apt "
                "install slurm-wlm munge iproute2)"
            )
    bridge = [*NAMESPACES, *["ip", "link", "add", "course", "type", "bridge"]]
    if subprocess.run(bridge, capture_output=True, timeout=60).returncode:
        session.error(
            "namespaces are needed, and cannot be had here: be root, on Linux, outside "
            "an unprivileged container"
        )
    words = [sys.executable, "-m", "pytest", "tests/integration/real_slurm.py"]
    env = {"COURSE_NAMESPACES": "own"}
    session.run(*NAMESPACES, *words, *session.posargs, external=True, env=env)


def on_host(session, name, *notebooks):
    """Rehearse Colab or Kaggle with these notebooks; outside CI with all, in both
    languages.
    """
    words = ["-m", "tests.hosted.rehearse", name, *(notebooks if CI else ())]
    session.run("python", *words, env=NO_GPU)


HOSTS = {
    "colab": "3.13",
    "kaggle": "3.12",
    "colab_tpu": "3.13",
    "tensorflow_tpu": "3.13",
    "kaggle_tpu": "3.12",
}


@nox.session
@nox.parametrize(
    "python, host",
    [nox.param(version, host, id=host) for host, version in HOSTS.items()],
)
def hosted(session, host):
    """Run the notebooks as on Colab and on Kaggle, in an empty folder."""
    if CI and host == "kaggle_tpu":
        session.skip("CI has no time for it")
    session.install("--requirement", f"tests/hosted/{host}.txt", silent=True)
    env = NO_GPU | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    if host == "colab":
        on_host(session, host, "fr/01", "fr/03", "fr/05")
        if not CI:
            session.run("python", "-m", "tools.compatibility", "--check", env=NO_GPU)
    elif host == "kaggle":
        on_host(session, host, "fr/02", "fr/04", "06")
    elif host == "colab_tpu":
        session.chdir("notebooks")
        session.run("python", "../tests/hosted/without_tensorflow.py", env=env)
    else:
        if host == "kaggle_tpu":
            env |= {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}
            env |= {"TPU_PROCESS_ADDRESSES": "local"}
        lax = ["--nbval-lax", "notebooks/04_tpu_strategy.ipynb"]
        session.run("python", "-m", "pytest", *lax, env=env)


@nox.session(python=False)
def compatibility(session):
    """See docs/compatibility.md again: eight minutes; `hosted` does so on Colab's.

    In CI, one strategy's rows.
    """
    words = ["Mirrored"] if CI else []
    python(session, "-m", "tools.compatibility", "--check", *words, env=NO_GPU)


@nox.session
def site(session):
    """Build the website under build/site, from what is stored; linkcheck: its links."""
    session.install("--requirement", "site/requirements.txt", silent=True)
    builder = "linkcheck" if "linkcheck" in session.posargs else "html"
    if not shutil.which("npm"):
        session.error(
            "npm (Node.js) is missing: the page that plans runs Python in the browser"
        )
    modules = ROOT / "build" / "npm"
    modules.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "site" / "package.json", modules)
    npm = ["npm", "install", "--prefix", str(modules), "--no-audit", "--no-fund"]
    session.run(*npm, "--silent", external=True)
    target = "site" if builder == "html" else "links"
    strict = ["--fail-on-warning"] if builder == "html" else []
    words = ["-q", *strict, "--fresh-env", "-c", "site", "-b", builder]
    session.run("python", "-m", "sphinx", *words, ".", f"build/{target}")
    if builder == "html":
        shutil.copy("build/site/README.html", "build/site/index.html")
        session.log("python -m http.server -d build/site, then http://localhost:8000")


@nox.session(python=False)
def browser(session):
    """Run all in JupyterLab in a real browser (Chromium), and visit the website."""
    install(session, "browser")
    python(session, "-m", "pytest", "tests/integration/browser.py", *session.posargs)


@nox.session(python=False)
def test_gpu(session):
    """Run the notebooks on this machine's GPUs; writes build/gpu-report.md."""
    look = (
        "import course_utils, sys, tensorflow as tf; sys.exit(None if tf.config."
        "list_physical_devices('GPU') else 'TensorFlow sees no GPU here')"
    )
    python(session, "-c", look)
    python(session, "-m", "tests.notebooks.gpu_report")


@nox.session(python=["3.11", "3.12", "3.13"])
def lock(session):
    """Write locks/pythonX.Y.txt: the exact packages that the lists mean today."""
    session.install("pip>=25.1")
    report = pathlib.Path(session.create_tmp()) / "report.json"
    words = ["pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report"]
    lists = ["-r", "requirements.txt", "--group", "test"]
    session.run("python", "-m", *words, str(report), *lists)
    found = json.loads(report.read_text(encoding="utf-8"))["install"]
    named = [(part["metadata"]["name"], part["metadata"]["version"]) for part in found]
    lines = [
        f"{name}=={version}\n"
        for name, version in sorted(named, key=lambda pair: pair[0].lower())
        if name != "distributed-training-course"
    ]
    head = f"# What requirements.txt and the group test mean on Python {session.python}"
    path = ROOT / "locks" / f"python{session.python}.txt"
    text = f"{head}; written by nox -s lock.\n" + "".join(lines)
    path.write_text(text, encoding="utf-8")
