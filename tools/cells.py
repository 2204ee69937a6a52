"""Cells of a notebook, executed outside Jupyter, for tests that need its functions."""

import contextlib
import json
import linecache
import os
import pathlib
import subprocess
import sys

from IPython.core.inputtransformer2 import TransformerManager

from tools import publish

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"

WITHOUT_COURSE = f"""
import sys
sys.path[:] = [path for path in sys.path if path not in ({str(ROOT)!r}, '')]
sys.path.append('installed')
sys.meta_path[:] = [finder for finder in sys.meta_path if 'editable' not in str(finder)]
"""


def in_both_languages(root=ROOT):
    """Yield each notebook's path and short name: "00", and "fr/00" of the French."""
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        yield path, path.stem[:2]
        yield path.parent / "fr" / path.name, f"fr/{path.stem[:2]}"


def set_up_elsewhere(folder, repository="OWNER/NAME", revision="main"):
    """Return what a notebook's set-up cell says in `folder` where the course is not
    installed; `installed/` gets it.

    `folder / "gitconfig"`, if it is there, is all that git knows: it can send
    github.com somewhere else.
    """
    cells = json.loads((NOTEBOOKS / "01_one_device_strategy.ipynb").read_text("utf-8"))[
        "cells"
    ]
    (folder / "installed").mkdir(exist_ok=True)
    source = publish.rewritten("".join(cells[1]["source"]), repository, revision)
    show = "\nimport course_utils; print(course_utils.__file__)"
    (folder / "set_up.ipy").write_text(WITHOUT_COURSE + source + show, encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(folder / "gitconfig"),
    }
    env |= {
        "PIP_TARGET": str(folder / "installed"),
        "PIP_NO_BUILD_ISOLATION": "0",
        "IPYTHONDIR": str(folder / "ip"),
    }
    command = [sys.executable, "-m", "IPython", "--colors=NoColor", "set_up.ipy"]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, env=env
    )


def source_of(notebook: str, name: str) -> str:
    """Return the source of one cell of `notebooks/{notebook}.ipynb`."""
    cells = json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text("utf-8"))["cells"]
    (source,) = ("".join(cell["source"]) for cell in cells if cell["id"] == name)
    return source


@contextlib.contextmanager
def executed(notebook, *ids):
    """Yield what these cells of `notebooks/{notebook}.ipynb` define; while it lasts,
    their source can be looked up.
    """
    cells = json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text("utf-8"))["cells"]
    sources = {
        cell["id"]: TransformerManager().transform_cell("".join(cell["source"]))
        for cell in cells
    }
    space = {"__name__": "__main__"}
    try:
        for name in ids:
            linecache.cache[name] = (
                len(sources[name]),
                None,
                sources[name].splitlines(keepends=True),
                name,
            )
            exec(compile(sources[name], name, "exec"), space)
        yield space
    finally:
        for name in ids:
            linecache.cache.pop(name, None)
