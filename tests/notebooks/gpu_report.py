"""Run the notebooks on this machine's GPUs, where their proofs judge.

It writes build/gpu-report.json, and a page of it.

usage: python -m tests.notebooks.gpu_report [NOTEBOOK ...]
       default: all of notebooks/; `make test-gpu` does it
"""

import contextlib
import json
import pathlib
import sys
import threading

from course_utils import devices, report as found
from tools import refresh

ROOT = pathlib.Path(__file__).resolve().parents[2]

BUILD = ROOT / "build"


@contextlib.contextmanager
def peak_memory():
    """The most that was in use on the first GPU meanwhile, in MiB: `[number]`.

    It is looked at twice a second.
    """
    peak, ended = [0], threading.Event()

    def look():
        while not ended.wait(0.5):
            used = devices.nvidia_smi("memory.used")
            peak[0] = max(peak[0], int(used) if used.isdigit() else 0)

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield peak
    finally:
        ended.set()
        watching.join()


def told(notebook):
    """A notebook's proofs, those above a CPU's tolerance, and its machine.

    The tolerance was measured on CPUs; of the machine it is what the notebook printed.
    """
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    printed = {
        cell.id: "".join(output.get("text", "") for output in cell.outputs)
        for cell in cells
    }
    lines = [line for text in printed.values() for line in text.splitlines()]
    machine = [
        cell.id
        for cell in cells
        if "nbval-ignore-output" in cell.metadata.get("tags", []) and printed[cell.id]
    ]
    return {
        "proofs": [line for line in lines if "✓" in line],
        "above": [line for line in lines if "not yet measured here" in line],
        "of this machine": {name: printed[name] for name in machine},
    }


def page(report):
    rows = [
        "# The course on a GPU\n",
        "```text",
        *(f"{k}: {v}" for k, v in report["machine"].items()),
        "```\n",
    ]
    rows += [
        (
            "| notebook | seconds | proofs that hold | "
            "above a CPU's tolerance | peak, MiB | what failed |"
        ),
        "|---" * 6 + "|",
    ]
    for name, said in report["notebooks"].items():
        counts = len(said["proofs"]), len(said["above"])
        rows.append(
            f"| {name} | {said['seconds']} | {counts[0]} | {counts[1]} | "
            f"{said['peak']} | {said['failure']} |"
        )
    for name, said in report["notebooks"].items():
        parts = [*said["above"], *said["proofs"], *said["of this machine"].values()]
        rows.append(f"\n## {name}\n\n```text\n" + "\n".join(parts).strip() + "\n```")
    return "\n".join(rows) + "\n"


def main(arguments, build=BUILD):
    card = devices.nvidia_smi("name,driver_version,memory.total")
    report = {"machine": found.facts() | {"card, driver, MiB": card}, "notebooks": {}}
    build.mkdir(exist_ok=True)
    for path in refresh.chosen(arguments, __doc__):
        with peak_memory() as peak:
            notebook, seconds, failure = refresh.execute(path)
        said = {"seconds": round(seconds), "peak": peak[0], "failure": failure} | told(
            notebook
        )
        report["notebooks"][path.stem] = said
        print(
            f"{path.stem}:", failure or f"{len(said['proofs'])} proofs hold", flush=True
        )
        (build / "gpu-report.json").write_text(
            json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8"
        )
        (build / "gpu-report.md").write_text(page(report), encoding="utf-8")
    print(
        f"{build / 'gpu-report.md'}: please send it, "
        "with GitHub's form “I ran it on real hardware”"
    )
    return int(any(said["failure"] for said in report["notebooks"].values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
