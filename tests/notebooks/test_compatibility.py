"""The tool behind docs/compatibility.md.

What it says of an error, of other weights, and of a table that is out of date.
"""

import json
import pathlib
import re

import pytest

from course_launcher import Outcome, WorkerError
from course_utils.errors import message
from tools import compatibility

ROOT = pathlib.Path(__file__).resolve().parents[2]


CAUSE = "Trying to access resource … located in device … from device …"
ROOTS = (
    "  (0) INVALID_ARGUMENT:  Trying to access resource a/3 (defined @ /x.py:4) "
    "located in device /a from device /b"
)


@pytest.mark.parametrize(
    "text, said",
    [
        (
            (
                "Graph execution error:\n\n"
                "Detected at node x\n"
                '  File "y", line 3\n\n'
                "2 root error(s) found.\n"
                f"{ROOTS}\n"
            ),
            CAUSE,
        ),
        (f"2 root error(s) found.\n{ROOTS}", CAUSE),
        ("one. Two.", "one."),
    ],
)
def test_an_error_is_said_in_one_sentence(text, said):
    assert compatibility.sentence(ValueError(text)) == f"ValueError: {said}"
    raised = Outcome("worker 0", "raised", "KeyError", message(ValueError(text))[0])
    assert compatibility.sentence(WorkerError(0, [raised])) == f"KeyError: {said}"


def test_verdicts():
    assert compatibility.verdict([1.0, 2.0], [1.0, 2.000001], "plain") == "✓"
    assert compatibility.verdict([1.0, 2.01], [1.0, 2.0], "mixed precision") == "✓"
    assert compatibility.verdict([1.0, 2.01], [1.0, 2.0], "XLA") == "other weights"
    assert (
        compatibility.verdict([1.0, float("nan")], [1.0, 2.0], "plain")
        == "other weights"
    )
    assert compatibility.verdict("does not end", [1.0], "plain") == "does not end"


def test_a_process_that_dies_is_said_to_die(tmp_path, monkeypatch):
    program = tmp_path / "dies.py"
    program.write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.setattr(compatibility, "PROGRAM", [str(program)])
    assert compatibility.seen("none", "fit", "plain") == "the process dies (-9)"


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A copy of the table, and a look that sees what it says.

    What it says of the first environment, that is.
    """
    place = tmp_path / "compatibility.json"
    place.write_text(compatibility.STORED.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(compatibility, "STORED", place)
    versions, entry = next(iter(json.loads(place.read_text(encoding="utf-8")).items()))
    monkeypatch.setattr(compatibility, "versions", lambda: versions)
    monkeypatch.setattr(compatibility, "look", lambda words: entry["seen"])
    return entry["seen"]


def test_check_names_what_is_seen_otherwise(stored, capsys):
    assert compatibility.main(["--check"]) == 0
    stored["none, fit, XLA"] = "other weights"
    capsys.readouterr()
    assert compatibility.main(["--check"]) == 1
    assert (
        "none, fit, XLA: the page says ✓, and seen is other weights"
        in capsys.readouterr().out
    )


def test_check_knows_nothing_of_other_versions(stored, monkeypatch, capsys):
    monkeypatch.setattr(compatibility, "versions", lambda: "tensorflow 9")
    assert compatibility.main(["--check"]) == 1
    assert "the page says nothing" in capsys.readouterr().out


def test_the_page_shows_what_was_seen():
    stored = json.loads(compatibility.STORED.read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    assert compatibility.rewritten(page, stored) == page
    combinations = len(compatibility.rows()) * len(compatibility.OPTIONS)
    for page in "README.md", "CONTRIBUTING.md":
        text = (ROOT / page).read_text(encoding="utf-8")
        assert f" {combinations} combinations" in text, page
    assert [len(each["seen"]) for each in stored.values()] == [combinations] * 2
    for pins in "requirements.txt", "tests/hosted/colab.txt":
        text = (ROOT / pins).read_text(encoding="utf-8")
        pinned = dict(re.findall(r"^(\w+)==(\S+)", text, re.M))
        versions = f"tensorflow {pinned['tensorflow']}, keras {pinned['keras']},"
        assert any(each.startswith(versions) for each in stored), (
            f"{pins}: not in the table"
        )


def marks(text):
    """Read {(strategy, way): marks} of a table.

    A strategy stands in the first of its rows.
    """
    found, strategy = {}, ""
    for line in text.splitlines():
        cells = [part.strip() for part in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) == 7:
            strategy = cells[0] or strategy
            found[strategy, cells[1]] = [
                re.sub(r" \d+$", "", mark) for mark in cells[2:]
            ]
    return found


def test_02_shows_what_the_page_shows():
    page = marks((ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8"))
    named = "`MirroredStrategy`, 2 logical devices, `ReductionToOneDevice`"
    reduction = {named: "the same with `ReductionToOneDevice`"}
    cells = json.loads(
        (ROOT / "notebooks" / "02_gpu_strategy.ipynb").read_text(encoding="utf-8")
    )["cells"]
    (shown,) = ["".join(cell["source"]) for cell in cells if cell["id"] == "together"]
    table = {key: row for key, row in marks(shown).items() if set(row) <= {"✓", "✗"}}
    assert len(table) == 7
    for (strategy, way), row in table.items():
        assert row == page[reduction.get(strategy, strategy), way], (strategy, way)
