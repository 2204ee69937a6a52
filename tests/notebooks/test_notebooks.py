"""The notebooks as artefacts. Each rule is cheap and has a reason."""

import base64
import pathlib
import re

import nbformat
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAME = "01_one_device_strategy"


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook):
    return "\n".join(
        cell.source for cell in notebook.cells if cell.cell_type == "markdown"
    )


def stored_text(output):
    if output.output_type == "stream":
        return output.text
    texts = [
        value
        for kind, value in output.get("data", {}).items()
        if kind.startswith("text/")
    ]
    return re.sub(
        r"(?<=base64,)[\w+/=]+",
        lambda data: base64.b64decode(data[0]).decode(),
        "\n".join(texts),
    )


def tags(cell):
    return set(cell.metadata.get("tags", []))


def one_title(notebook, name):
    """A page has one title.

    Colab's and Jupyter's tables of contents are built on it.
    """
    titles = re.findall(r"^# .+", prose(notebook), re.M)
    if len(titles) != 1:
        yield f"{len(titles)} first-level headings"


def links_to_hosts(notebook, name):
    """A link copied from another notebook would open the wrong one."""
    hosts = (
        r"colab\.research\.google\.com/github/",
        r"kaggle\.com/kernels/welcome\?src=https://github\.com/",
    )
    paths = [
        re.findall(
            rf"{host}[^/]+/[^/]+/blob/[^/]+/([^\"')]+)", notebook.cells[0].source
        )
        for host in hosts
    ]
    if paths != [[f"notebooks/{name}.ipynb"]] * 2:
        yield f"links to Colab and Kaggle in the first cell: {paths}"


def objectives_return(notebook, name):
    """What was promised at the top is what has been done at the end."""
    promised = re.search(
        r"\*\*You will be able to\*\*\n\n((?:\d\..+\n)+)", prose(notebook) + "\n"
    )
    done = re.search(
        r"## What you can now do\n\n((?:\d\..+\n)+)", prose(notebook) + "\n"
    )
    counts = [
        len(part.group(1).splitlines()) if part else 0 for part in (promised, done)
    ]
    if counts[0] != counts[1] or not 3 <= counts[0] <= 5:
        yield (
            f"{counts[0]} objectives, {counts[1]} in the recap; "
            "3 to 5 of each are wanted"
        )


def readable_ids(notebook, name):
    """Cells are named by their author.

    A test, a diff or an issue can point at one for years.
    """
    ids = [cell.id for cell in notebook.cells]
    yield from (
        f"id {each!r} stands twice"
        for each in sorted({each for each in ids if ids.count(each) > 1})
    )
    yield from (
        f"id {each!r} is not a name"
        for each in ids
        if not re.fullmatch(r"(?![0-9a-f]{8}$)[a-z][a-z0-9-]*", each)
    )


def no_stored_error(notebook, name):
    """No error is stored in a cell that is not meant to raise.

    Such an output was never looked at.
    """
    for cell in code_cells(notebook):
        if "raises-exception" not in tags(cell) and any(
            output.output_type == "error" for output in cell.outputs
        ):
            yield f"{cell.id}: stored error"


def no_trace_of_a_machine(notebook, name):
    """Nothing is stored that differs on the next machine.

    That is stderr, absolute paths, network addresses and object addresses.
    """
    trace = re.compile(
        r"(?<![\w:.])/(?:tmp|home|root|Users|content|usr|opt|work)/|"
        r"[A-Z]:\\|0x[0-9a-f]{6,}|\d+(?:\.\d+){3}:\d+"
    )
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if output.get("name") == "stderr":
                yield f"{cell.id}: stderr"
            elif found := trace.search(stored_text(output)):
                yield f"{cell.id}: stored output holds {found.group()!r}"


def mostly_strict(notebook, name):
    """An output that is not compared proves nothing: at least 80 % are."""
    with_output = [cell for cell in code_cells(notebook) if cell.outputs]
    strict = [
        cell
        for cell in with_output
        if not tags(cell) & {"nbval-ignore-output", "nbval-skip"}
    ]
    if len(strict) < 0.8 * len(with_output):
        yield f"{len(strict)} of {len(with_output)} outputs are compared"


def markers_are_tags(notebook, name):
    """The reader's code holds no comments for the test tool."""
    yield from (
        f"{cell.id}: nbval marker in a comment"
        for cell in code_cells(notebook)
        if re.search(r"#\s*NBVAL", cell.source)
    )


def only_draws(cell):
    return cell.source.startswith("#@title Code of the figure")


def short_cells(notebook, name):
    """A code cell fits on a screen with its result.

    What does not is two ideas, or belongs in course_utils.
    """
    for cell in code_cells(notebook):
        lines = [
            line
            for line in cell.source.splitlines()
            if line.strip() and not line.strip().startswith("#")
        ]
        if len(lines) > 20 and not only_draws(cell):
            yield f"{cell.id}: {len(lines)} lines of code"
        yield from (
            f"{cell.id}: a line of {len(line)} characters"
            for line in lines
            if len(line) > 88
        )


def little_prose_at_once(notebook, name):
    """After 200 words a reader should do something.

    Tables, links to the neighbours and the recap do not count.
    """
    words = 0
    for cell in notebook.cells:
        if cell.source.startswith("## What you can now do"):
            continue
        words = (
            words
            + len(
                re.sub(
                    r"<[^>]+>|```.*?```|^\|.*?$|^\[(?:←|\d\d ).*?$",
                    " ",
                    cell.source,
                    flags=re.S | re.M,
                ).split()
            )
            if cell.cell_type == "markdown"
            else 0
        )
        if words > 200:
            yield f"{cell.id}: {words} words since the last code cell"
            words = 0


def executed_in_order(notebook, name):
    """Stored outputs come from one run, top to bottom, made by tools/refresh.py."""
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield "execution counts are not 1, 2, 3, …: run tools/refresh.py"
    yield from (
        f"{cell.id}: metadata {set(cell.metadata)}"
        for cell in notebook.cells
        if set(cell.metadata) - {"tags", "jupyter", "cellView"}
    )


def exercises_have_solutions(notebook, name):
    """Three exercises or more, in 00 two, in 06 none.

    Each runs unsolved, and has a folded solution that is right.
    """
    cells = {cell.id: cell for cell in code_cells(notebook)}
    exercises = [each for each in cells if re.fullmatch(r"exercise-\d+", each)]
    if len(exercises) < {"00": 2, "06": 0}.get(name[:2], 3):
        yield f"{len(exercises)} exercises"
    for each in exercises:
        solution = cells.get(each.replace("exercise", "solution"))
        said = "".join(map(stored_text, cells[each].outputs))
        if "not solved yet" not in said:
            yield f"{each} does not say that it is not solved yet"
        elif not said.startswith(f"Exercise {each.removeprefix('exercise-')}:"):
            yield f"{each} says that it is another one: {said[:12]}"
        if solution is None or "✓ right" not in "".join(
            map(stored_text, solution.outputs)
        ):
            yield f"{each} has no solution that its check calls right"
        elif not solution.metadata.get("jupyter", {}).get("source_hidden"):
            yield f"{solution.id} is not folded"


def drawing_is_folded(notebook, name):
    """A figure is looked at, and the code that only draws it is folded.

    Who wants the code unfolds it; an assertion stands apart.
    """
    for cell in code_cells(notebook):
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            folded = (
                cell.metadata.get("jupyter", {}).get("source_hidden")
                and cell.metadata.get("cellView") == "form"
            )
            if "proofs." in cell.source:
                yield f"{cell.id}: draws and asserts"
            elif (
                not folded
                and "def " not in cell.source
                and "run_on_workers" not in cell.source
            ):
                yield f"{cell.id} is not folded"
            elif folded and not cell.source.startswith("#@title Code of the figure"):
                yield f"{cell.id}: folded, without a first line that says what it is"


RULES = (
    one_title,
    links_to_hosts,
    objectives_return,
    readable_ids,
    no_stored_error,
    no_trace_of_a_machine,
    mostly_strict,
    markers_are_tags,
    short_cells,
    little_prose_at_once,
    executed_in_order,
    exercises_have_solutions,
    drawing_is_folded,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_the_rule(path, rule):
    found = list(rule(nbformat.read(path, as_version=4), path.stem))
    assert not found, f"{path.name}: {rule.__doc__.splitlines()[0]}\n" + "\n".join(
        found
    )


def test_set_up_cell_is_the_same_in_every_notebook():
    cells = [
        next(cell for cell in code_cells(nbformat.read(path, as_version=4)))
        for path in NOTEBOOKS
    ]
    assert {cell.id for cell in cells} == {"set-up"}
    own = (
        'DATASET = "digits"  #@param ["digits", "mnist"]\n'  # 06 has the reader's data
    )
    assert len({cell.source.replace(own, "") for cell in cells}) == 1
    assert [own in cell.source for cell in cells] == [
        path.stem[:2] != "06" for path in NOTEBOOKS
    ]
