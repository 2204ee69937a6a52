"""Rehearse Colab or Kaggle, strictly: what their sessions would do with the course.

The set-up cell installs the course; then each notebook runs alone in an empty folder.

usage: python -m tests.hosted.rehearse colab|kaggle [NN ...] [fr/NN ...]
       all notebooks in both languages, or those with these numbers

`make hosted` runs this with the host's packages, among which there is no
course_utils. A local git repository, made from this working tree and published as
somebody/course, answers for github.com. On Colab a stand-in for `google.colab` is
loaded in every kernel; Kaggle sets a variable.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from tools import publish
from tools.cells import in_both_languages

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
HOSTS = {
    "colab": {"PYTHONPATH": str(HERE / "stand_in")},
    "kaggle": {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"},
}


def published(origin):
    """Make a repository of this working tree, under the name of the published one."""
    listed = [
        "git",
        "-C",
        str(ROOT),
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    for name in subprocess.check_output(listed, text=True).split("\0"):
        if name and (ROOT / name).is_file():
            (origin / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, origin / name)
    assert publish.main(["somebody/course"], origin) == 0
    git = [
        "git",
        "-C",
        str(origin),
        "-c",
        "user.name=rehearsal",
        "-c",
        "user.email=nobody@example.org",
    ]
    for words in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "."],
        ["commit", "--quiet", "-m", "course"],
    ):
        subprocess.run([*git, *words], check=True)


def set_up_cell(origin):
    cells = json.loads(
        (origin / "notebooks" / "01_one_device_strategy.ipynb").read_text(
            encoding="utf-8"
        )
    )["cells"]
    return "".join(next(cell["source"] for cell in cells if cell["id"] == "set-up"))


def main(host, *chosen):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        origin, content = folder / "somebody" / "course", folder / "content"
        published(origin)
        for path, short in in_both_languages(origin):
            if not chosen or short in chosen:
                place = content / short.replace("/", "-")
                place.mkdir(parents=True)
                shutil.copy(path, place)
        (folder / "gitconfig").write_text(
            f'[url "file://{folder}/"]\n  insteadOf = https://github.com/\n'
        )
        (folder / "pytest.ini").write_text("[pytest]\n")
        env = (
            os.environ | {"GIT_CONFIG_GLOBAL": str(folder / "gitconfig")} | HOSTS[host]
        )
        python = [sys.executable, "-m"]
        subprocess.run(
            [
                *python,
                "pip",
                "uninstall",
                "--quiet",
                "--yes",
                "distributed-training-course",
            ],
            check=True,
        )
        (folder / "set_up.ipy").write_text(set_up_cell(origin), encoding="utf-8")
        subprocess.run(
            [*python, "IPython", "set_up.ipy"], env=env, cwd=folder, check=True
        )
        command = [
            *python,
            "pytest",
            "-c",
            str(folder / "pytest.ini"),
            "--nbval",
            "--nbval-current-env",
        ]
        command += [
            "--nbval-cell-timeout=900",
            (
                "--nbval-sanitize-with="
                f"{ROOT / 'tests' / 'notebooks' / 'nbval_sanitize.cfg'}"
            ),
        ]
        command += ["--numprocesses=2", "--dist=loadfile", "-W", "ignore", str(content)]
        return subprocess.run(command, env=env, cwd=content).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
