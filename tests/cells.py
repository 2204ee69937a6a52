"""Cells of a notebook, executed outside Jupyter, for tests that need its functions."""

import contextlib
import json
import linecache
import pathlib

NOTEBOOKS = pathlib.Path(__file__).resolve().parent.parent / "notebooks"


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
