"""The notebooks as programs.

nbval's comparison is strict, the set-up cell is plain, and the tools do what they say.
"""

import json
import os
import pathlib
import runpy
import shutil
import subprocess
import sys

import nbformat
import pytest

from benchmarks import workers as bench
from tests.notebooks import gpu_report
from tools import compatibility, publish, refresh
from tools.cells import set_up_elsewhere

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "01_one_device_strategy.ipynb"


def opening_cells(last):
    """The notebook up to the cell with this id.

    That is enough to judge by, and quick to run.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells = notebook.cells[
        : [cell.id for cell in notebook.cells].index(last) + 1
    ]
    return notebook


def nbval(notebook, folder, *words, path="notebooks/copy.ipynb", cwd=".", **env):
    """Run nbval, strict or with `words`, on a copy of the notebook in `folder`.

    It is configured as for the project.
    """
    (folder / "notebooks").mkdir(exist_ok=True)
    nbformat.write(notebook, folder / "notebooks" / "copy.ipynb")
    for name in ("conftest.py", "pyproject.toml", "tests/notebooks/nbval_sanitize.cfg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            shutil.copy(ROOT / name, folder / name)
    command = [
        sys.executable,
        "-m",
        "pytest",
        *(words or ["--nbval"]),
        "-p",
        "no:cacheprovider",
        "-q",
        path,
    ]
    env = os.environ | env
    return subprocess.run(
        command, cwd=folder / cwd, env=env, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_an_altered_output_fails(tmp_path):
    notebook = opening_cells("placement")
    faithful = nbval(notebook, tmp_path)
    assert faithful.returncode == 0, faithful.stdout
    output = notebook.cells[-1].outputs[0]
    assert "elsewhere lives on" in output.text
    output.text = output.text.replace("CPU:0", "CPU:1")
    altered = nbval(notebook, tmp_path)
    assert altered.returncode == 1 and "1 failed" in altered.stdout, altered.stdout


@pytest.mark.parametrize("words, seen", [(["--nbval"], "-1"), (["--nbval-lax"], "0")])
def test_gpus_are_hidden_where_outputs_are_compared_whoever_starts_pytest(
    tmp_path, words, seen
):
    source = f"import os; assert os.environ['CUDA_VISIBLE_DEVICES'] == {seen!r}"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    said = nbval(
        notebook,
        tmp_path,
        *words,
        path="copy.ipynb",
        cwd="notebooks",
        CUDA_VISIBLE_DEVICES="0",
    )
    assert said.returncode == 0, said.stdout


# The set-up cell where the course is not installed


def small_course(folder):
    """A git repository of a course with two commits.

    Its module says which of them it is from.
    """
    (folder / "course_utils").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "distributed-training-course"\nversion = "0"\n'
    )
    git = [
        "git",
        "-C",
        str(folder),
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@example.org",
    ]
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True, timeout=60)
    for text, words in {"old": ["tag", "v1"], "new": ["branch", "other"]}.items():
        (folder / "course_utils" / "__init__.py").write_text(f"print({text!r})")
        for command in (["add", "."], ["commit", "-q", "-m", text], words):
            subprocess.run([*git, *command], check=True, timeout=60)


@pytest.mark.skipif(
    os.name == "nt", reason="git's file:// addresses are written for POSIX paths here"
)
@pytest.mark.parametrize("revision, text", [("v1", "old"), ("main", "new")])
def test_set_up_installs_the_branch_or_the_tag(tmp_path, revision, text):
    small_course(tmp_path / "somebody" / "course")
    (tmp_path / "gitconfig").write_text(
        f'[url "file://{tmp_path}/"]\n  insteadOf = https://github.com/\n'
    )
    said = set_up_elsewhere(tmp_path, "somebody/course", revision)
    assert (
        said.returncode == 0
        and text in said.stdout.split()
        and (tmp_path / "installed" / "course_utils").exists()
    ), said.stderr
    again = set_up_elsewhere(tmp_path, "somebody/nothing")  # it is there already
    assert again.returncode == 0 and "restart" not in again.stdout


def test_set_up_takes_an_uploaded_zip(tmp_path):
    small_course(tmp_path / "course-main")
    shutil.make_archive(tmp_path / "course-main", "zip", tmp_path, "course-main")
    said = set_up_elsewhere(tmp_path)
    assert said.returncode == 0 and "new" in said.stdout.split(), said.stderr


def published_copy(folder):
    for name in ("README.md", "CITATION.cff", "notebooks", "tools/repository.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(
            ROOT / name, folder / name
        )
    return folder


def test_every_link_says_the_repository_of_the_one_place():
    assert publish.main(["--check"]) == 0


def test_publish_rewrites_every_place(tmp_path, capsys):
    root = published_copy(tmp_path)
    assert publish.main(["somebody/a.course-2"], root) == 0
    assert publish.main(["--check"], root) == 0
    cells = json.loads(
        (root / "notebooks" / NOTEBOOK.name).read_text(encoding="utf-8")
    )["cells"]
    assert "github/somebody/a.course-2/blob/main/notebooks/01_one" in "".join(
        cells[0]["source"]
    )
    assert 'COURSE = "git+https://github.com/somebody/a.course-2@main"' in "".join(
        cells[1]["source"]
    )
    assert (
        "url: https://github.com/somebody/a.course-2"
        in (root / "CITATION.cff").read_text()
    )
    assert "github.com/somebody/a.course-2/blob/main/notebooks/errors.md" in "".join(
        cells[-1]["source"]
    )
    foreign = "see https://github.com/keras-team/keras/blob/master/README.md"
    assert publish.rewritten(foreign, "somebody/a.course-2", "v1") == foreign
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert (
        "git clone https://github.com/somebody/a.course-2" in readme
        and "github/OWNER/NAME" not in readme
    )
    (root / "tools" / "repository.txt").write_text("somebody/else\n")
    capsys.readouterr()
    assert publish.main(["--check"], root) == 1
    assert (
        "README.md: does not say somebody/else main; type: python tools/publish.py"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["course"],
        ["a/b/c"],
        ["https://github.com/a/b"],
        ["a/b", "c/d"],
        ["a/b", "v1", "v2"],
        ["--chek"],
    ],
)
def test_publish_refuses_what_is_no_repository(arguments, tmp_path, capsys):
    root = published_copy(tmp_path)
    assert publish.main(arguments, root) == 2
    assert "is not OWNER/NAME" in capsys.readouterr().err
    assert (root / "tools" / "repository.txt").read_text() == (
        ROOT / "tools" / "repository.txt"
    ).read_text()


def small_notebook(folder, *sources):
    cells = [
        nbformat.v4.new_code_cell(source, id=f"cell-{i}")
        for i, source in enumerate(sources)
    ]
    path = folder / "small.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_refresh_twice_changes_nothing(tmp_path):
    path = small_notebook(
        tmp_path, "import sys\nprint(1)\nsys.stdout.flush()\nprint(2)", "{1, 2}"
    )
    assert refresh.main([str(path)]) == 0
    first = path.read_bytes()
    assert refresh.main([str(path)]) == 0
    assert path.read_bytes() == first
    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in notebook.cells] == [1, 2]
    assert [len(cell.outputs) for cell in notebook.cells] == [1, 1]
    assert all(not cell.metadata for cell in notebook.cells) and set(
        notebook.metadata
    ) == {
        "kernelspec",
        "language_info",
    }


def test_refresh_shortens_tracebacks_and_keeps_tags():
    cell = nbformat.v4.new_code_cell(
        "1/0", metadata={"tags": ["raises-exception"], "collapsed": False}
    )
    cell.outputs = [
        nbformat.v4.new_output(
            "error",
            ename="ZeroDivisionError",
            evalue="by 0",
            traceback=["File /home/me/x.py"],
        )
    ]
    notebook = nbformat.v4.new_notebook(cells=[cell])
    refresh.normalise(notebook)
    assert notebook.cells[0].metadata == {"tags": ["raises-exception"]}
    assert notebook.cells[0].outputs[0].traceback == ["ZeroDivisionError: by 0"]


def test_a_failing_cell_is_named_and_nothing_is_written(tmp_path, capsys):
    path = small_notebook(tmp_path, "print(1)", "raise ValueError('no such thing')")
    before = path.read_bytes()
    assert refresh.main([str(path)]) == 1
    assert (
        path.read_bytes() == before
        and "cell 'cell-1' raised ValueError: no such thing" in capsys.readouterr().out
    )


def test_a_kernel_that_dies_is_one_notebooks_failure(tmp_path, capsys):
    (tmp_path / "dies").mkdir()
    dies = small_notebook(tmp_path / "dies", "print(1)", "import os; os._exit(1)")
    lives = small_notebook(tmp_path, "print(1)")
    before = dies.read_bytes()
    assert refresh.main([str(dies), str(lives)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert (
        first == "small: Kernel died"
        and second.startswith("small: ")
        and second.endswith(" s")
    )
    assert (
        dies.read_bytes() == before
        and nbformat.read(lives, as_version=4).cells[0].outputs
    )


@pytest.mark.parametrize(
    "tool, words",
    [(compatibility, "--chek"), (compatibility, "nosuch"), (bench, "nothing")],
)
def test_unknown_words_are_refused(tool, words, capsys):
    with pytest.raises(SystemExit) as end:
        tool.main([words])
    assert end.value.code == 2 and words in capsys.readouterr().err


def test_a_notebook_that_is_not_there(capsys):
    with pytest.raises(SystemExit):
        refresh.main(["no.ipynb"])
    assert "no.ipynb: no such notebook" in capsys.readouterr().err


@pytest.mark.skipif(
    os.name == "nt", reason="the stand-in for nvidia-smi is a POSIX script"
)
def test_what_a_run_on_gpus_reports(tmp_path, monkeypatch, capsys):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\n"
        'case "$1" in *used*) echo 1234;; '
        "*) echo Tesla T4, 535.104.05, 15360;; esac\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    notebook = nbformat.v4.new_notebook()
    far = "print('far: max |Δ| = 3e-05, above 1e-05: not yet measured here, on a GPU')"
    for source in (
        "import time; time.sleep(1); print('equal ✓ (measured 2e-07)')",
        far,
        "print('2 replicas 5 ms')",
        "1 / 0",
    ):
        notebook.cells.append(nbformat.v4.new_code_cell(source))
    notebook.cells[2].metadata["tags"] = ["nbval-ignore-output"]
    for name, cells in ("good", notebook.cells[:3]), ("bad", notebook.cells[3:]):
        nbformat.write(
            nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb"
        )
    assert gpu_report.main([str(tmp_path / "good.ipynb")], tmp_path / "build") == 0
    assert (
        gpu_report.main(
            [str(tmp_path / f"{name}.ipynb") for name in ("good", "bad")],
            tmp_path / "build",
        )
        == 1
    )
    report = json.loads(
        (tmp_path / "build" / "gpu-report.json").read_text(encoding="utf-8")
    )
    good, bad = report["notebooks"].values()
    assert (good["proofs"], good["above"], good["peak"]) == (
        ["equal ✓ (measured 2e-07)"],
        [eval(far[6:-1])],
        1234,
    )
    assert (
        list(good["of this machine"].values()) == ["2 replicas 5 ms\n"]
        and "ZeroDivisionError" in bad["failure"]
    )
    page = (tmp_path / "build" / "gpu-report.md").read_text(encoding="utf-8")
    assert "Tesla T4, 535.104.05, 15360" in page and "| 1 | 1 | 1234 |  |" in page
    assert "I ran it on real hardware" in capsys.readouterr().out


def test_the_tests_have_an_ordinary_machines_environment():
    """`conftest.py` takes out what this machine sets, `PYTHONUNBUFFERED` say.

    It does so before a test or a kernel is started.
    """
    root = runpy.run_path(str(ROOT / "conftest.py"))
    environment = {
        "PYTHONUNBUFFERED": "1",
        "TF_NUM_INTEROP_THREADS": "3",
        "PYTHONPATH": "here",
        "HOME": "/home/me",
    }
    root["clear"](environment)
    assert environment == {"PYTHONPATH": "here", "HOME": "/home/me"}
    assert [
        name
        for name in os.environ
        if name in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")
    ] == []
