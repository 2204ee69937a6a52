"""What the pages promise.

Links lead somewhere, words are explained, and sentences follow from the facts.
"""

import functools
import json
import pathlib
import re
import shutil
import urllib.parse

import nbformat
import pytest

from tests.notebooks import glossary
from tests.notebooks.test_notebooks import only_draws
from tools import derive, publish

ROOT = pathlib.Path(__file__).resolve().parents[2]

TEXTS = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "notebooks/*.ipynb",
    "notebooks/*.md",
)
PAGES = [page for pattern in TEXTS for page in sorted(ROOT.glob(pattern))]
NOTEBOOKS = [page for page in PAGES if page.suffix == ".ipynb"]


@functools.cache
def prose(page):
    """The Markdown of a page, less its code."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        text = "\n\n".join(
            cell.source
            for cell in nbformat.reads(text, 4).cells
            if cell.cell_type == "markdown"
        )
    return re.sub(
        r"^```.*?^```|`[^`\n]+`",
        lambda code: "" if code[0].startswith("```") else "code",
        text,
        flags=re.M | re.S,
    )


def broken(page):
    """The relative links of a page that lead nowhere."""
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:href|src)=\"([^\"]+)\"", prose(page))
    for link in (one or other for one, other in targets):
        name, _, anchor = link.partition("#")
        target = page.parent / urllib.parse.unquote(name) if name else page
        if re.match(r"\w+:", link):
            continue
        if not target.exists() or (
            anchor
            and anchor
            not in map(publish.slug, re.findall(r"^#+ (.+)", prose(target), re.M))
        ):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    assert list(broken(page)) == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# one\n\n## two words\n")
    page.write_text(
        "[a](other.md#two-words) [b](other.md#three) [c](none.md) [d](#one) "
        "[e](https://x.org/none.md)\n"
    )
    assert list(broken(page)) == ["other.md#three", "none.md", "#one"]


def test_what_is_derived_is_up_to_date(capsys):
    assert derive.main(["--check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    "name, old, new, words",
    [
        (
            "docs/tested.md",
            "Tested with Python 3.11",
            "Tested with Python 3.9",
            "docs/tested.md: says something else",
        ),
        (
            "notebooks/errors.md",
            "num_split 4",
            "num_split 5",
            "notebooks/errors.md: says something else",
        ),
        (
            "notebooks/errors.md",
            "written by tools",
            "written",
            "notebooks/errors.md: lacks <!-- written by tools/der",
        ),
    ],
)
def test_what_is_derived_and_says_something_else_is_named(
    tmp_path, capsys, name, old, new, words
):
    for folder in "notebooks", "docs", "tests/hosted", ".github":
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    text = (tmp_path / name).read_text(encoding="utf-8")
    (tmp_path / name).write_text(text.replace(old, new), encoding="utf-8")
    assert (
        old in text
        and derive.main(["--check"], tmp_path) == 1
        and words in capsys.readouterr().out
    )
    assert derive.main([], tmp_path) == ("lacks" in words)
    assert (tmp_path / name).read_text(encoding="utf-8") == text or "lacks" in words


# A notebook's first and last cells


def cells_of(page):
    return {cell.id: cell for cell in nbformat.read(page, as_version=4).cells}


def short_name(page):
    """What the other pages call a notebook: the beginning of its title."""
    name = re.match(r"# ([^:,\n]+)", cells_of(page)["title"].source)[1]
    return (
        page.stem[:2]
        + " "
        + (name if name[1:2].isupper() else name[0].lower() + name[1:])
    )


def neighbours(page):
    """The links to the notebooks before and after this one.

    `%s` stands for the folder.
    """
    place = NOTEBOOKS.index(page)
    before, after = NOTEBOOKS[:place][-1:], NOTEBOOKS[place + 1 :][:1]
    return [f"[← {short_name(other)}](%s{other.name})" for other in before] + [
        f"[{short_name(other)} →](%s{other.name})" for other in after
    ]


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)
def test_the_ways_around(page):
    repository, revision = publish.published()
    own = ["[its errors](#Errors-you-may-meet)", "[all errors](errors.md)"]
    if page.stem[:2] != "06":
        own = ["[exercises](#Exercises)", *own]
    here, cells = [link % "" for link in neighbours(page)], cells_of(page)
    assert (
        " · ".join([*here, *own, "[glossary](glossary.md)"])
        in cells["title"].source.splitlines()
    )
    colab = (
        f"https://colab.research.google.com/github/{repository}/"
        f"blob/{revision}/notebooks/"
    )
    github = f"https://github.com/{repository}/blob/{revision}/notebooks/"
    pages = [f"[{name}]({github}{name}.md)" for name in ("errors", "glossary")]
    ends = [
        " · ".join([*here, "the [map of the course](../README.md)"]),
        "",
        "On Colab: ",
    ]
    ends[-1] += " · ".join([link % colab for link in neighbours(page)] + pages)
    assert cells["next"].source.splitlines()[-3:] == ends


def minutes(cells):
    """To work through a notebook, to the quarter of an hour.

    The set-up cell, and folded cells that only draw, do not count: nobody has to read
    them. 120 words of prose a minute, 8 lines of 48 characters of code (blanks not
    counted, so that layout does not matter), 3/4 of a minute for a figure, 1 to predict
    an outcome, 6 for an exercise; all lines of code count. An estimate that agrees with
    careful readings of 01 to 04; nobody was timed.
    """
    total = 0
    for cell in cells:
        if cell.cell_type == "markdown":
            words = re.sub(r"<[^>]*>|\]\([^)]*\)", " ", cell.source).split()
            total += len(words) / 120 + cell.source.count("<b>Predict.</b>")
        elif cell.id != "set-up":
            if not only_draws(cell):
                total += len("".join(cell.source.split())) / (8 * 48)
            total += (
                sum("image/png" in output.get("data", {}) for output in cell.outputs)
                * 3
                / 4
            )
            total += 6 * cell.id.startswith("exercise-")
    return 15 * round(total / 15)


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)
def test_the_minutes_are_what_the_formula_says(page):
    cells = cells_of(page)
    needed, seconds = (
        minutes(cells.values()),
        json.loads((ROOT / "tools" / "seconds.json").read_text())[page.stem],
    )
    computing = r"the computing is about ([\d.]+) minutes? on a laptop"
    stated = re.search(
        rf"\*\*Takes\*\* (\d+) minutes to work.*{computing}", cells["title"].source
    )
    assert (
        int(stated[1]) == needed and 0.5 < 60 * float(stated[2]) / seconds < 2
    )  # machines differ
    assert re.search(
        rf"\| \[{page.stem[:2]} .*?\| {needed} \|", prose(ROOT / "README.md")
    )


LIMITS = {
    "00": (75, 75, 2400),
    "05": (150, 110, None),
    "06": (60, 66, None),
}  # minutes, cells, words


@pytest.mark.parametrize(
    "page",
    [page for page in NOTEBOOKS if page.stem[:2] in LIMITS],
    ids=lambda page: page.stem,
)
def test_an_introduction_is_an_hour_and_its_program_comes_first(page):
    longest, most, words = LIMITS[page.stem[:2]]
    cells = [cell for cell in cells_of(page).values() if not only_draws(cell)]
    prose_words = sum(
        len(cell.source.split()) for cell in cells if cell.cell_type == "markdown"
    )
    assert (
        minutes(cells) <= longest
        and len(cells) <= most
        and (words is None or prose_words <= words)
    )
    if words:
        assert "page-proof" in [cell.id for cell in cells[:10]], (
            "a trained, proved model within ten cells"
        )


def test_the_readme_adds_them_up():
    readme = prose(ROOT / "README.md")
    parts = re.findall(r"\(notebooks/\d\d_\w+\.ipynb\) \| (\d+) \|", readme)
    assert (
        len(parts) == len(NOTEBOOKS)
        and f"Together {sum(map(int, parts))} minutes" in readme
    )


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)
def test_a_word_of_the_glossary_is_linked_where_it_is_first_used(page):
    markdown = [
        cell
        for cell in cells_of(page).values()
        if cell.cell_type == "markdown" and cell.id != "title"
    ]
    for term in glossary.terms():
        for cell in markdown:
            use = glossary.first_use(term, cell.source)
            link = cell.source.find(f"]({glossary.anchor(term)})")
            if use or link >= 0:
                assert link >= 0 and (not use or link < use[0]), (
                    f"{term}: used in cell {cell.id} before it is linked"
                )
                break


def test_every_word_of_the_glossary_is_used():
    text = "".join(page.read_text(encoding="utf-8") for page in NOTEBOOKS)
    assert [
        term for term in glossary.terms() if f"]({glossary.anchor(term)})" not in text
    ] == []
