"""One name, one meaning: all notebooks against the table of names in CONTRIBUTING."""

import ast
import collections
import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def trees(page):
    """Yield each code cell's id and syntax tree; magics are left out."""
    for cell in json.loads(page.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            plain = re.sub(r"^(\s*)%.*$", r"\1pass", source, flags=re.M)
            yield cell["id"], ast.parse(plain)


def table():
    """Return {name: what an assigned value may begin with} of CONTRIBUTING's table."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("\n## Names\n")[1].split("\n## ")[0]
    sources = {}
    for names, _, beginnings in re.findall(
        r"^\| (`.+) \| (.+) \| (.+) \|$", section, re.M
    ):
        allowed = re.findall(r"`([^`]+)`", beginnings)
        sources |= {name: allowed for name in re.findall(r"`(\w+)`", names)}
    return sources


def assignments(tree):
    """Yield (name, value) of each assignment that is not inside a function."""
    for statement in tree.body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    yield from pairs(target, node.value)


def pairs(target, value):
    if isinstance(target, ast.Name):
        yield target.id, ast.unparse(value)
    elif isinstance(target, (ast.Tuple, ast.List)):
        values = [value] * len(target.elts)
        if isinstance(value, ast.Tuple) and len(value.elts) == len(values):
            values = value.elts
        for part, part_value in zip(target.elts, values, strict=True):
            yield from pairs(part, part_value)


def strangers(assigned, sources):
    """Return what a name of the table is assigned from, and should not be."""
    return [
        f"{place}: {name} = {value}"
        for place, name, value in assigned
        if name in sources and not value.startswith(tuple(sources[name]))
    ]


def test_names_of_the_table_mean_the_same_in_all_notebooks():
    assigned = [
        (f"{page.stem}, {cell}", name, value)
        for page in NOTEBOOKS
        for cell, tree in trees(page)
        for name, value in assignments(tree)
    ]
    sources = table()
    assert len(sources) > 15 and {name for _, name, _ in assigned} >= {*sources}
    assert strangers(assigned, sources) == []


def functions():
    """Return {name: {text: places}} of the functions that notebooks define.

    Only those at the top of a cell count.
    """
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for page in NOTEBOOKS:
        for cell, tree in trees(page):
            if not cell.startswith(("exercise-", "solution-")):
                for node in tree.body:
                    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                        found[node.name][ast.dump(node)].append(
                            f"{page.stem[:2]} {cell}"
                        )
    return found


@pytest.mark.parametrize("name", ["make_train_step", "gradients", "forward", "on"])
def test_a_function_of_several_notebooks_is_there(name):
    assert len([place for places in functions()[name].values() for place in places]) > 1


def test_a_function_of_several_notebooks_is_one_text():
    different = {
        name: [*texts.values()] for name, texts in functions().items() if len(texts) > 1
    }
    assert different == {}
