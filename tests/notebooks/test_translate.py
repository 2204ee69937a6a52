"""The French edition: its gates, each with a case in which it fails."""

import re

import nbformat
import polib
import pytest

from tools import messages, translate
from tools.publish import slug

SOURCES = translate.sources()
NOTEBOOKS = [path for path in SOURCES if path.suffix == ".ipynb"]
by_name = {"ids": lambda path: path.stem}


@pytest.mark.parametrize("path", SOURCES, **by_name)
def test_nothing_is_wrong_with_a_catalogue(path):
    assert [*translate.problems_of(path)] == []


def test_nothing_is_wrong_with_what_the_packages_say():
    assert [*translate.problems_of_packages()] == []


@pytest.mark.parametrize("path", NOTEBOOKS, **by_name)
def test_a_french_notebook_is_what_the_catalogue_builds(path):
    """Nobody has edited it; it has the English one's cells, ids and tags, and ran."""
    english = nbformat.read(path, as_version=4).cells
    french = nbformat.read(translate.FRENCH / path.name, as_version=4).cells
    found = translate.catalogue(translate.catalogue_path(path))
    built = translate.french_notebook(path, found).cells
    assert [cell.id for cell in french] == [cell.id for cell in english]
    for ours, theirs, made in zip(english, french, built, strict=True):
        assert ours.metadata == theirs.metadata
        if ours.cell_type == "code":
            assert theirs.source == made.source, theirs.id
            assert bool(ours.outputs) == bool(theirs.outputs), theirs.id


def test_links_of_french_pages_lead_to_french_pages():
    broken = []
    pages = [*translate.FRENCH.glob("*.*"), translate.ROOT / "README.fr.md"]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text_of(page)):
            path, _, anchor = target.partition("#")
            place = page.parent / path if path else page
            if (
                not place.exists()
                or (anchor and slug(anchor) not in anchors_of(place))
                or place.parent == translate.ENGLISH
            ):
                broken.append((page.name, target))
    assert broken == []


def text_of(page):
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        return translate.markdown_of(nbformat.reads(text, as_version=4))
    return text


def anchors_of(page):
    return set(map(slug, translate.headings(text_of(page))))


@pytest.mark.parametrize(
    "english, french, problem",
    [
        ("See [this](a.md).", "Voyez ceci.", "markup lost"),
        ("Call `fit`.", "Appelez `predict`.", "markup lost"),
        ("A step.", "Une `itération`.", "added"),
        ("Each gets {count} of them", "Chacun en reçoit {number}", "fields"),
        ("{share:.0f} % of it", "{share:.1f} % de cela", "fields"),
        ("Takes 75 minutes.", "Demande 60 minutes.", "numbers lost"),
        ("A distributed training.", "Une formation distribuée.", "'formation'"),
    ],
)
def test_a_gate_closes(english, french, problem):
    entry = polib.POEntry(msgctxt="cell", msgid=english, msgstr=french)
    (found,) = translate.problems_of_entry(entry, is_notebook=True)
    assert problem in found


@pytest.mark.parametrize(
    "english, french, is_source, problem",
    [
        ("{count} of {whole}", "{count} sur {all}", False, "fields"),
        ("{share:.0%} of it", "{share:.1%} de cela", False, "fields"),
        ("{count} of it", "{count} de {}", False, "fields"),
        ("{a} env={{'K': 1}}", "{a} env={'K': 1}", False, "fields"),
        ("A training.", "Une formation.", False, "'formation'"),
        (
            "def one():\n    return 1",
            "def un():\n    return 1",
            True,
            "another program",
        ),
    ],
)
def test_a_gate_of_the_packages_closes(english, french, is_source, problem):
    entry = polib.POEntry(msgid=english, msgstr=french)
    entry.occurrences = [] if is_source else [("course_utils/report.py", "")]
    (found,) = translate.problems_of_message(entry)
    assert problem in found


def test_a_message_that_is_new_or_not_compiled_is_noticed(monkeypatch, tmp_path):
    known = translate.catalogue(translate.packages_path())
    known.remove(known[0])
    known.metadata[translate.FINISHED] = "yes"
    known[0].msgstr = ""
    known.save(str(tmp_path / "packages.po"))
    monkeypatch.setattr(translate, "CATALOGUES", tmp_path)
    problems = [*translate.problems_of_packages()]
    assert [problem.split(":")[1].strip() for problem in problems[:2]] == [
        "not extracted",
        "not translated",
    ]
    assert "the compiled catalogue is not this one" in problems[2]


@pytest.mark.parametrize(
    "quoted, french",
    [
        (
            "WorkerError: worker 0 had not returned after 12 seconds",
            "WorkerError: worker 0 toujours sans résultat après 12 secondes",
        ),
        (
            "WorkerError: the process raised UnknownError: Could not start it",
            "WorkerError: le processus a levé UnknownError: Could not start it",
        ),
        (
            "ValueError: name='fashion': must be 'digits' or 'mnist'",
            "ValueError: name='fashion': doit être 'digits' ou 'mnist'",
        ),
        (
            "port … of this machine is taken: end the program that has it, or choose "
            "another port",
            "le port … de cette machine est pris\u202f: terminez le programme qui l'a, "
            "ou choisissez un autre port",
        ),
        (
            "RuntimeError: Collective ops must be configured at program startup",
            "RuntimeError: Collective ops must be configured at program startup",
        ),
    ],
)
def test_a_page_quotes_in_french_what_the_course_says(quoted, french):
    spoken = messages.Spoken(translate.catalogue(translate.packages_path()))
    assert spoken.line(quoted) == french
    fence = f"```text\n{quoted}\n```"
    assert translate.quoted_in_french(fence, spoken) == f"```text\n{french}\n```"


def test_another_program_is_no_translation():
    translate.check_code('print("a", 1)  # one', 'print("b", 1)  # un')
    with pytest.raises(translate.Problem, match="another program"):
        translate.check_code('print("a", 1)', 'print("a", 2)')


def test_a_changed_paragraph_is_fuzzy_and_shown_in_english():
    old = translate.new_catalogue()
    old.append(
        polib.POEntry(
            msgctxt="cell", msgid="Two workers train here.", msgstr="Deux workers."
        )
    )
    new = "Two workers train there."
    (entry,) = translate.updated(old, [("cell", new)])
    assert entry.flags == ["fuzzy"] and entry.msgstr == "Deux workers."
    known = translate.translations([entry])
    assert translate.french_markdown(new, "cell", known) == translate.MARK + new


def test_a_finished_catalogue_misses_nothing(monkeypatch, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\nSome words.\n", encoding="utf-8")
    found = translate.updated(translate.new_catalogue(), [*translate.messages_of(page)])
    found.metadata[translate.FINISHED] = "yes"
    found.save(str(tmp_path / "page.po"))
    monkeypatch.setattr(translate, "CATALOGUES", tmp_path)
    problems = [*translate.problems_of(page)]
    assert len(problems) == 2 and all("not translated" in each for each in problems)
    found[0].msgid = "# Another title"
    found.save(str(tmp_path / "page.po"))
    assert any("not extracted" in each for each in translate.problems_of(page))


def test_long_texts_and_comments_are_laid_out():
    source = 'title = "Short"  # why\nprint(f"{1 + 1} of them")'
    french = {
        "Short": "Un titre bien plus long " * 4 + "encore",
        "why": "une raison qui ne tient pas sur la ligne, " * 3 + "hélas",
        "{1 + 1} of them": "{1 + 1} d'entre eux",
    }
    words = [*french]
    built = translate.translated_code(source, french.get, words)
    translate.check_code(source, built)
    assert max(map(len, built.splitlines())) <= translate.WIDTH
    spaces = {}
    exec(built.split("print")[0], spaces)
    assert spaces["title"] == french["Short"]


@pytest.mark.parametrize("quotes", ['"""', "'''"])
def test_a_program_in_a_text_keeps_its_lines(quotes):
    source = f"text = {quotes}one\ntwo{quotes}"
    french = {"one\ntwo": "un\ndeux"}
    built = translate.translated_code(source, french.get, [*french])
    assert built == f"text = {quotes}un\ndeux{quotes}"
