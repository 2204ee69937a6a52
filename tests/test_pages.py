"""What the pages promise: links that lead somewhere, words that are explained, sentences that follow from the facts."""

import datetime
import pathlib
import shutil
import sys

import glossary
import nbformat
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import derive  # noqa: E402
import links  # noqa: E402

PAGES = links.pages(ROOT)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    assert links.broken(page) == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# one\n\n## two words\n")
    page.write_text("[a](other.md#two-words) [b](other.md#three) [c](none.md) [d](#one) [e](https://x.org/none.md)\n")
    assert links.broken(page) == ["other.md#three", "none.md", "#one"]


def test_external_links_are_listed_with_the_date_when_they_were_last_seen():
    listed = links.listed()
    assert sorted(listed) == links.used()
    for url, date in listed.items():
        assert date == "never" or datetime.date.fromisoformat(date) <= datetime.date.today(), url


def test_an_external_link_is_looked_at(tmp_path, monkeypatch, capsys):
    place = tmp_path / "links.txt"
    place.write_text("2026-01-01 https://dead.example/\n2026-01-01 https://gone.example/\n")
    monkeypatch.setattr(links, "PLACE", place)
    monkeypatch.setattr(links, "used", lambda: ["https://dead.example/", "https://new.example/"])
    monkeypatch.setattr(links, "alive", lambda url: "new" in url)
    assert links.main([]) == 1
    today = datetime.date.today().isoformat()
    assert place.read_text() == f"2026-01-01 https://dead.example/\n{today} https://new.example/\n"
    assert "https://dead.example/: no answer now; last seen 2026-01-01" in capsys.readouterr().out


def test_what_is_derived_is_up_to_date(capsys):
    assert derive.main(["--check"]) == 0, capsys.readouterr().out


@pytest.fixture
def copy(tmp_path):
    for name in "notebooks", "tools":
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("notebooks/01_one_device_strategy.ipynb", " minutes to work through", "0 minutes to work through"),
        ("notebooks/02_gpu_strategy.ipynb", "[← 01 one device]", "[← 00 one device]"),
        ("README.md", "Tested with Python 3.11", "Tested with Python 3.9"),
        ("notebooks/errors.md", "num_split 4", "num_split 5"),
        ("tools/seconds.json", '"01_one_device_strategy": ', '"01_one_device_strategy": 9'),
    ],
)
def test_a_promise_that_is_not_kept_is_named(copy, capsys, name, old, new):
    text = (copy / name).read_text(encoding="utf-8")
    assert old in text
    (copy / name).write_text(text.replace(old, new), encoding="utf-8")
    assert derive.main(["--check"], copy) == 1
    said = capsys.readouterr().out
    assert (name if name.startswith(("notebooks", "README")) else "01_one_device_strategy.ipynb") in said
    assert derive.main([], copy) == 0 and derive.main(["--check"], copy) == 0


@pytest.mark.parametrize(
    "name, old, new, words",
    [
        ("notebooks/01_one_device_strategy.ipynb", " minutes to work through", " min to do", "01_one_device_strategy"),
        ("notebooks/01_one_device_strategy.ipynb", "</a>\\n", "</a> \\n", "01_one_device_strategy, first cell"),
        ("notebooks/01_one_device_strategy.ipynb", '"id": "next"', '"id": "ways"', "has no cell called next"),
        ("README.md", "| [02 Several GPUs]", "| [GPUs]", "README.md: what"),
        ("README.md", "<!-- end -->", "", "README.md: lacks"),
        ("notebooks/errors.md", "from here on written", "written", "notebooks/errors.md: lacks"),
        ("tools/seconds.json", "02_gpu_strategy", "02_gpus", "02_gpu_strategy: was never executed"),
    ],
)
def test_a_place_that_was_reworded_away_is_named(copy, capsys, name, old, new, words):
    text = (copy / name).read_text(encoding="utf-8")
    assert old in text
    (copy / name).write_text(text.replace(old, new), encoding="utf-8")
    assert derive.main(["--check"], copy) == 1 and words in capsys.readouterr().out


def test_a_sixth_notebook_is_told_what_it_lacks(copy, capsys):
    shutil.copy(copy / "notebooks" / "01_one_device_strategy.ipynb", copy / "notebooks" / "07_more.ipynb")
    assert derive.main(["--check"], copy) == 1
    assert "07_more: has no short name; give it one in NAMES" in capsys.readouterr().out


@pytest.mark.parametrize("name", [path.stem for path in PAGES if path.suffix == ".ipynb"])
def test_a_word_of_the_glossary_is_linked_where_it_is_first_used(name):
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    prose = [cell for cell in cells if cell.cell_type == "markdown" and cell.id != "title"]
    for term in glossary.terms():
        for cell in prose:
            use = glossary.first_use(term, cell.source)
            link = cell.source.find(f"]({glossary.anchor(term)})")
            if use or link >= 0:
                assert link >= 0 and (not use or link < use[0]), f"{term}: used in cell {cell.id} before it is linked"
                break


def test_every_word_of_the_glossary_is_used():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES if page.suffix == ".ipynb")
    assert [term for term in glossary.terms() if f"]({glossary.anchor(term)})" not in text] == []
