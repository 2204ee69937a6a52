"""Write what follows from something else: the second half of the errors page, and the
sentence on versions.

usage: python tools/derive.py             write them python tools/derive.py --check
       change nothing; name what disagrees, and exit with 1

The errors are those of the notebooks' last sections. The versions, in docs/tested.md,
are those of requirements.txt, tests/hosted and GitHub's workflow.
"""

import argparse
import pathlib
import re
import sys

import nbformat

ROOT = pathlib.Path(__file__).resolve().parent.parent
MARKS = "<!-- written by tools/derive.py -->\n", "\n<!-- end -->"


def versions(root):
    """Return the sentence on what the course is tested with."""

    def pin(path, name):
        text = (root / path).read_text(encoding="utf-8")
        return re.findall(rf"^{name}==(\S+)", text, re.M)[0]

    workflow = (root / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    pythons = sorted(set(re.findall(r'ubuntu-latest, python: "([\d.]+)"', workflow)))
    pinned, colab, kaggle = (
        f"TensorFlow {pin(path, 'tensorflow')} and Keras {pin(path, 'keras')}"
        for path in (
            "requirements.txt",
            "tests/hosted/colab.txt",
            "tests/hosted/kaggle.txt",
        )
    )
    lists = [
        (root / "tests" / "hosted" / f"{host}.txt").read_text(encoding="utf-8")
        for host in ("colab", "kaggle")
    ]
    colabs, kaggles = (re.findall(r"(?:list|python) of ([\d-]+)", t)[0] for t in lists)
    return (
        f"Tested with Python {', '.join(pythons[:-1])} and {pythons[-1]}, {pinned} "
        "(below: pinned),\n"
        f"with Python 3.13, {colab} (Colab's, by its list of {colabs}), and\n"
        f"with Python 3.12, {kaggle} (Kaggle's, of {kaggles})."
    )


def errors(root):
    """Return the errors of the notebooks' last sections, once each: title, texts, cause
    and remedy, where.
    """
    entries = {}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        ids = [cell.id for cell in cells]
        title, texts = "", []
        for cell in cells[ids.index("errors") : ids.index("next")]:
            if cell.cell_type == "code":
                printed = "".join(output.get("text", "") for output in cell.outputs)
                texts += re.findall(r"^\w*Error: .*", printed, re.M)
                continue
            if texts:
                known, _, places = entries.setdefault(
                    title, ({}, cell.source.split("\n\n### ")[0], [])
                )
                for text in texts:  # once, whatever the numbers in it
                    known.setdefault(re.sub(r"\d+", "#", text), text)
                places.append(f"[{path.stem[:2]}]({path.name})")
            if titles := re.findall(r"^### (.*)", cell.source, re.M):
                title, texts = titles[-1], []
    parts = ["## From the last sections of the notebooks\n"]
    for title, (texts, remedy, places) in entries.items():
        box = "\n".join(["```text", *texts.values(), "```"])
        parts.append(
            f"### {title}\n\n{box}\n\n{remedy} Where: the last section of "
            f"{', '.join(dict.fromkeys(places))}.\n"
        )
    return "\n".join(parts)


DERIVED = {"docs/tested.md": versions, "notebooks/errors.md": errors}


def main(arguments, root=ROOT):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check, wrong = parser.parse_args(arguments).check, 0
    for name, write in DERIVED.items():
        text = (root / name).read_text(encoding="utf-8")
        if text.count(MARKS[0]) != 1 or MARKS[1] not in text.partition(MARKS[0])[2]:
            print(f"{name}: lacks {MARKS[0].strip()} and its end")
            return 1
        before, _, rest = text.partition(MARKS[0])
        expected = (
            before + MARKS[0] + write(root) + MARKS[1] + rest.partition(MARKS[1])[2]
        )
        if text != expected:
            wrong += check
            print(
                f"{name}: "
                + (
                    "says something else; type: python tools/derive.py"
                    if check
                    else "written"
                )
            )
            if not check:
                (root / name).write_text(expected, encoding="utf-8")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
