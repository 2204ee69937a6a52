"""Execute notebooks in place in this environment, and leave no trace of the machine in
them.

The one way in which stored outputs are made. A notebook with a failing cell is left as
it was. How long each took goes into tools/seconds.json, with which a test compares the
minutes that a notebook states: use an idle machine.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

os.environ["JUPYTER_PREFER_ENV_PATH"] = (
    "1"  # the kernel is this environment's, whatever the user has installed
)

import nbclient.exceptions
import nbformat

NOTEBOOKS = pathlib.Path(__file__).resolve().parent.parent / "notebooks"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
KEPT_METADATA = ("cellView", "jupyter", "tags")
SECONDS = pathlib.Path(__file__).with_name("seconds.json")
CELL_TIMEOUT = 300  # seconds


def chosen(arguments, purpose):
    """Return the notebooks named on the command line, by default all. Exits for --help,
    and for one that is not there.
    """
    parser = argparse.ArgumentParser(
        description=purpose, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "notebooks", nargs="*", type=pathlib.Path, help="default: all of notebooks/"
    )
    paths = parser.parse_args(arguments).notebooks
    for path in paths:
        if not path.is_file():
            parser.error(f"{path}: no such notebook")
    return [path.resolve() for path in paths] or sorted(NOTEBOOKS.glob("*.ipynb"))


def execute(path):
    """Run all cells of the notebook at `path`: the executed notebook, the seconds it
    took, and what failed (or "").
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    client = nbclient.NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    failure, start = "", time.perf_counter()
    try:
        # the kernel's own log; what the cells write goes into the notebook
        client.execute(stderr=subprocess.DEVNULL)
    except nbclient.exceptions.CellExecutionError as problem:
        failed = next(
            cell.id for cell in reversed(notebook.cells) if cell.get("outputs")
        )
        failure = f"cell {failed!r} raised {problem.ename}: {problem.evalue}"
    except (
        nbclient.exceptions.CellTimeoutError,
        nbclient.exceptions.DeadKernelError,
    ) as problem:
        failure = str(problem).splitlines()[0]
    return notebook, time.perf_counter() - start, failure


def normalise(notebook):
    """Reduce a notebook, in place, to what its author wrote and what its cells
    answered.
    """
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    notebook.nbformat_minor = 5
    count = 0
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {key: cell.metadata[key] for key in KEPT_METADATA if key in cell.metadata}
        )
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            cell.outputs = _normal_outputs(cell.outputs, count)


def _normal_outputs(outputs, count):
    normal = []
    for output in outputs:
        # it lives with its kernel only
        if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
            continue
        if (
            output.output_type == "stream"
            and normal
            and normal[-1].get("name") == output.name
        ):
            normal[-1].text += output.text
            continue
        if output.output_type == "execute_result":
            output.execution_count = count
        if output.output_type == "error":
            # the frames name this machine's files
            output.traceback = [f"{output.ename}: {output.evalue}"]
        if "metadata" in output:
            title = output.metadata.get("image/png", {}).get("alt")
            output.metadata = nbformat.from_dict(
                {"image/png": {"alt": title}} if title else {}
            )
        normal.append(output)
    return normal


def main(arguments):
    failed = False
    for path in chosen(arguments, __doc__):
        notebook, seconds, failure = execute(path)
        print(f"{path.stem}: {failure or f'{seconds:.0f} s'}", flush=True)
        failed |= bool(failure)
        if not failure:
            normalise(notebook)
            nbformat.write(notebook, path)
            if path.parent == NOTEBOOKS:
                known = json.loads(SECONDS.read_text(encoding="utf-8")) | {
                    path.stem: round(seconds)
                }
                SECONDS.write_text(
                    json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8"
                )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
