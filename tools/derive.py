"""Write the sentences that follow from something else: minutes, versions, the way around, the list of errors.

usage: python tools/derive.py             write them
       python tools/derive.py --check     change nothing; name what disagrees, and exit with 1

Derived are: the minutes in the notebooks' first cells and in the README, from the notebooks' size and from the seconds
that tools/refresh.py measured (tools/seconds.json); the links from each notebook to its neighbours; the README's
sentence on versions, from requirements.txt, tests/colab/cpu.txt and GitHub's workflow; the second half of
notebooks/errors.md, from the notebooks' own last sections.
"""

import json
import math
import pathlib
import re
import sys

import nbformat
import publish

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAMES = {
    "00": "data and model parallelism",
    "01": "one device",
    "02": "several GPUs",
    "03": "several machines",
    "04": "TPUs",
}
COLAB = "https://colab.research.google.com/github/OWNER/NAME/blob/main/notebooks"
GITHUB = "https://github.com/OWNER/NAME/blob/main/notebooks"
ERRORS = "<!-- from here on written by tools/derive.py, from the notebooks' own last sections -->\n"


class Unwritten(Exception):
    """A place that should hold something derived, and does not."""


def put(pattern, text, new, where):
    """The text with what the pattern finds, once, written anew."""
    text, count = re.subn(pattern, new, text)
    if count != 1:
        raise Unwritten(f"{where}: what {pattern!r} describes stands there {count} times, and must once")
    return text


def minutes(notebook):
    """To work through a notebook, to the quarter of an hour.

    150 words of prose a minute, 5 seconds for a line of code, half a minute for a figure, 1 minute to predict an
    outcome, 6 for an exercise. An estimate: nobody was timed.
    """
    total = 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            words = re.sub(r"<[^>]*>|\]\([^)]*\)", " ", cell.source).split()
            total += len(words) / 150 + cell.source.count("<b>Predict.</b>")
        elif cell.id != "set-up" and not cell.id.startswith("solution-"):
            total += sum(bool(line.strip()) for line in cell.source.splitlines()) / 12
            total += sum("image/png" in output.get("data", {}) for output in cell.outputs) / 2
            total += 6 * cell.id.startswith("exercise-")
    return 15 * round(total / 15)


def computing(seconds):
    """Measured seconds as minutes, up to the next half."""
    return math.ceil(seconds / 30) / 2


def around(name, names):
    """The ways out of a notebook, for its first cell and for its last."""
    place = names.index(name)
    before, after = (names[place - 1] if place else None), (names[place + 1] if place + 1 < len(names) else None)
    arrows = {before: "← {} {}", after: "{} {} →"}
    ways = [f"[{arrows[each].format(each[:2], NAMES[each[:2]])}](%s{each}.ipynb)" for each in (before, after) if each]
    here = [way % "" for way in ways]
    own = ["[exercises](#Exercises)", "[its errors](#Errors-you-may-meet)"]
    top = [*here, *own, "[all errors](errors.md)", "[glossary](glossary.md)"]
    bottom = [*here, "the [map of the course](../README.md)"]
    colab = [way % f"{COLAB}/" for way in ways] + [f"[{page}]({GITHUB}/{page}.md)" for page in ("errors", "glossary")]
    return " · ".join(top), f"{' · '.join(bottom)}\n\nOn Colab: {' · '.join(colab)}"


def versions():
    """The README's sentence on what the course is tested with."""

    def pin(path, name):
        return re.search(rf"^{name}==(\S+)", (ROOT / path).read_text(encoding="utf-8"), re.M)[1]

    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    pythons = sorted(set(re.findall(r'ubuntu-latest, python: "([\d.]+)"', workflow)))
    date = re.search(r"list of ([\d-]+)", (ROOT / "tests" / "colab" / "cpu.txt").read_text(encoding="utf-8"))[1]
    pinned, colab = (
        f"TensorFlow {pin(path, 'tensorflow')} and Keras {pin(path, 'keras')}"
        for path in ("requirements.txt", "tests/colab/cpu.txt")
    )
    return (
        f"Tested with Python {', '.join(pythons[:-1])} and {pythons[-1]}, {pinned} (below: pinned),\n"
        f"and with Python 3.13, {colab} (Colab's, by its list of {date})."
    )


def errors(notebooks):
    """The errors of the notebooks' last sections, once each: title, texts, cause and remedy, where."""
    found = {}
    for name, notebook in notebooks.items():
        ids = [cell.id for cell in notebook.cells]
        title, texts = "", []
        for cell in notebook.cells[ids.index("errors") : ids.index("next")]:
            if cell.cell_type == "code":
                said = "".join(output.get("text", "") for output in cell.outputs)
                texts += re.findall(r"^\w*Error: .*", said, re.M)
                continue
            if texts:
                remedy = cell.source.split("\n\n### ")[0]
                entry = found.setdefault(title, ({}, remedy, []))
                for text in texts:  # once, whatever the numbers in it
                    entry[0].setdefault(re.sub(r"\d+", "#", text), text)
                entry[2].append(name)
            if titles := re.findall(r"^### (.*)", cell.source, re.M):
                title, texts = titles[-1], []
    parts = []
    for title, (texts, remedy, names) in found.items():
        where = ", ".join(f"[{name[:2]}]({name}.ipynb)" for name in names)
        box = "\n".join(["```text", *texts.values(), "```"])
        parts.append(f"### {title}\n\n{box}\n\n{remedy} Where: the last section of {where}.\n")
    return "\n## From the last sections of the notebooks\n\n" + "\n".join(parts)


def derived(root=ROOT):
    """`(path, text as it should be)` of every file that holds something derived."""
    names = sorted(path.stem for path in (root / "notebooks").glob("*.ipynb"))
    seconds = json.loads((root / "tools" / "seconds.json").read_text(encoding="utf-8"))
    for name in names:
        if name[:2] not in NAMES:
            raise Unwritten(f"{name}: has no short name; give it one in NAMES, in tools/derive.py")
        if name not in seconds:
            raise Unwritten(f"{name}: was never executed by tools/refresh.py, so its minutes are not known")
    notebooks = {name: nbformat.read(root / "notebooks" / f"{name}.ipynb", as_version=4) for name in names}
    repository, revision = publish.published(root)
    readme = (root / "README.md").read_text(encoding="utf-8")
    for name, notebook in notebooks.items():
        cells = {cell.id: cell for cell in notebook.cells}
        if absent := {"title", "errors", "next"} - set(cells):
            raise Unwritten(f"{name}: has no cell called {' or '.join(sorted(absent))}")
        top, bottom = around(name, names)
        computed = computing(seconds[name])
        takes = rf"\g<1>{minutes(notebook)}\g<2>{computed:g} minute{'s' if computed > 1 else ''}\g<3>"
        first = put(
            r"(\*\*Takes\*\* )\d+( minutes to work through.*?; the computing is about )[\d.]+ minutes?( on a laptop)",
            cells["title"].source,
            takes,
            f"{name}, first cell",
        )
        top_line = (r"(?<=</a>\n\n)\[.*\n", first, lambda _, top=top: top + "\n", f"{name}, first cell")
        cells["title"].source = put(*top_line)
        ends = cells["next"].source.partition("\n\n[")[0].rstrip() + "\n\n" + bottom
        cells["next"].source = publish.rewritten(ends, repository, revision)
        row = rf"(\| \[{name[:2]} .*? \| )\d+ \([\d.]+\)( \| )"
        readme = put(row, readme, rf"\g<1>{minutes(notebook)} ({computed:g})\g<2>", "README.md")
        yield root / "notebooks" / f"{name}.ipynb", nbformat.writes(notebook) + "\n"
    marks = "<!-- written by tools/derive.py -->\n", "\n<!-- end -->"
    if any(mark not in readme for mark in marks):
        raise Unwritten(f"README.md: lacks {marks[0].strip()} and its end")
    start, end = readme.index(marks[0]) + len(marks[0]), readme.index(marks[1])
    yield root / "README.md", readme[:start] + versions() + readme[end:]
    page = (root / "notebooks" / "errors.md").read_text(encoding="utf-8")
    if ERRORS not in page:
        raise Unwritten(f"notebooks/errors.md: lacks {ERRORS.strip()}")
    yield root / "notebooks" / "errors.md", page.partition(ERRORS)[0] + ERRORS + errors(notebooks)


def main(arguments, root=ROOT):
    if arguments not in ([], ["--check"]):
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        stale = [(path, text) for path, text in derived(root) if path.read_text(encoding="utf-8") != text]
    except Unwritten as problem:
        print(problem)
        return 1
    for path, text in stale:
        if arguments:
            print(f"{path.relative_to(root)}: says something else than it should; type: python tools/derive.py")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"{path.relative_to(root)}: written")
    return int(bool(arguments and stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
