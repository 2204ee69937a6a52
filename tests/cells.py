"""Cells of a notebook, executed outside Jupyter, for tests that need its functions."""

import contextlib
import json
import linecache
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
sys.path.insert(0, str(ROOT / "tools"))

import publish  # noqa: E402


def set_up_on_colab(folder, repository="OWNER/NAME", revision="main"):
    """What a notebook's set-up cell says in `folder` on Colab, if the notebook was published in this repository.

    `folder / "gitconfig"`, if it is there, is all that git knows: it can send github.com somewhere else.
    """
    cells = json.loads((NOTEBOOKS / "01_one_device_strategy.ipynb").read_text("utf-8"))["cells"]
    source = publish.rewritten("".join(cells[1]["source"]), repository, revision)
    fake_colab = "import sys, types; sys.modules['google.colab'] = types.ModuleType('google.colab')\n"
    environment = os.environ | {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(folder / "gitconfig"),
    }
    return subprocess.run(
        [sys.executable, "-c", fake_colab + source],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )


@contextlib.contextmanager
def executed(notebook, *ids):
    """What these cells of `notebooks/{notebook}.ipynb` define; while it lasts, their source can be looked up."""
    cells = json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text("utf-8"))["cells"]
    sources = {cell["id"]: "".join(cell["source"]) for cell in cells}
    space = {"__name__": "__main__"}
    try:
        for name in ids:
            linecache.cache[name] = (len(sources[name]), None, sources[name].splitlines(keepends=True), name)
            exec(compile(sources[name], name, "exec"), space)
        yield space
    finally:
        for name in ids:
            linecache.cache.pop(name, None)
