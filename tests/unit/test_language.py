"""What the course says in both languages, and that all of it can be translated."""

import ast
import pathlib

import pytest

import course_planner as planner
from course_exercises import data_vs_model_parallelism as exercises
from course_launcher import Outcome, WorkerError, run_in_process
from course_utils import language, proofs, report
from course_utils.language import counted, source_of, translated
from course_utils.model import build_model

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = sorted(path for path in ROOT.glob("course_*/**/*.py"))
# copied as it stands by readers, who have no course_utils
COPIED = {"make_dataset"}


@pytest.fixture
def french(monkeypatch):
    monkeypatch.setenv(language.VARIABLE, "fr")


def test_a_language_that_the_course_does_not_speak_is_refused(monkeypatch):
    monkeypatch.setenv(language.VARIABLE, "de")
    with pytest.raises(ValueError, match="COURSE_LANGUAGE='de': must be 'en' or 'fr'"):
        translated("weights")


def test_words_and_their_numbers(french):
    assert translated("weights") == "poids"
    assert translated("nobody has translated this") == "nobody has translated this"
    assert translated("") == ""
    numbers = [counted(n, "device", "devices") for n in (0, 1, 2, 1024)]
    assert numbers == ["0 dispositif", "1 dispositif", "2 dispositifs"] + [
        "1,024 dispositifs"
    ]


def test_numbers_in_english():
    numbers = [counted(n, "device", "devices") for n in (0, 1, 1024)]
    assert numbers == ["0 devices", "1 device", "1,024 devices"]


def test_the_report_in_french(french):
    assert "cœurs CPU" in report.describe_environment()


def test_a_proof_in_french(french, capsys):
    proofs.same([1.0], [1.0 + 1e-7], 1e-6, "poids")
    assert "poids\u202f: max |Δ| ≤ 1e-06 ✓ (mesuré\u202f: " in capsys.readouterr().out
    with pytest.raises(AssertionError, match="qui n'est pas ≤ 1e-06"):
        proofs.same([1.0], [2.0], 1e-6, "poids")


def test_a_verdict_in_french(french, capsys):
    exercises.gradient_average(lambda gradients, sizes: ...)
    said = capsys.readouterr().out
    assert said == "Exercice 1\u202f: pas encore résolu. Remplacez le `...`.\n"


def test_advice_in_french(french):
    layers = planner.transformer(2, 128)
    advice = planner.recommend(layers, planner.MACHINES["8 x A100"], 64)
    words = str(advice)
    assert "Une itération calcule pendant" in words and "Non comptés" in words
    assert advice.parallelism in planner.PARALLELISMS, "a name, in no language"


def test_what_befell_workers_in_french(french):
    outcomes = [Outcome("worker 0", "signal", "SIGKILL"), Outcome("worker 1")]
    words = str(WorkerError(0, outcomes)).splitlines()
    assert words == [
        "worker 0 a été tué par SIGKILL",
        "worker 0 a été tué par SIGKILL",
        "worker 1 travaillait encore",
    ]


def say():
    return translated("the process")


def test_a_worker_speaks_the_notebooks_language(french):
    assert run_in_process(say) == "le processus"


def test_a_printed_source_is_french_and_the_same_program(french):
    source = source_of(build_model)
    assert "Rend le réseau" in source
    spaces = {}
    exec(source, spaces)
    assert spaces["build_model"]().count_params() == build_model().count_params()


def calls(tree, *names):
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in names
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_what_a_person_reads_can_be_translated(path):
    """What is raised and what is printed goes through `_`; and no `_` is in an
    f-string, where Babel finds it on some versions of Python only.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    said = calls(tree, "print")
    said += [
        node.exc
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    ]
    copied = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and function.name in COPIED
        for node in ast.walk(function)
    }
    own = path.stem == "language"  # it cannot translate its own fault
    left = [
        ast.unparse(argument)
        for call in said
        if id(call) not in copied and not own
        for argument in call.args
        if is_sentence(argument)
    ]
    assert left == []
    inside = [
        ast.unparse(call)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for call in calls(node, "_", "counted", "marked")
        if isinstance(call.args[0], ast.Constant) or call.func.id == "counted"
    ]
    assert inside == []


def is_sentence(argument):
    """Return whether it is a text of two words or more, beside its fields."""
    parts = [argument]
    if isinstance(argument, ast.JoinedStr):
        parts = argument.values
    text = "|".join(
        str(part.value) if isinstance(part, ast.Constant) else "" for part in parts
    )
    return any(len(words.split()) > 1 for words in text.split("|"))


def test_the_rule_finds_a_sentence():
    (call,) = calls(ast.parse('print(f"{count} of them")'), "print")
    assert is_sentence(call.args[0])
