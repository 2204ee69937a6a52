"""What the course says in both languages, and that all of it can be translated."""

import ast
import pathlib
import re
import subprocess
import sys

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


def test_fractions():
    assert counted(1.5, "byte", "bytes") == "1.5 bytes"


def test_half_of_something_is_singular_in_french(french):
    assert counted(1.5, "byte", "bytes") == "1.5 octet"


def test_what_a_device_holds_in_french(french):
    layers = planner.transformer(2, 128)
    plan = planner.Plan(layers, 64, accumulation_steps=2)
    words = str(plan.largest_memory())
    names = ["poids", "gradients", "optimiseur", "activations", "accumulateur"]
    assert all(name in words for name in names)


def test_facts_have_the_same_names_in_every_language(french, monkeypatch):
    monkeypatch.setattr(report, "nvidia_smi", lambda what: "Tesla T4")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    facts = report.facts()
    assert "cache Tesla T4" in facts["GPUs"]
    lines = report.describe_environment().splitlines()
    assert len(lines) == len(facts) and sum("GPU" in line[:6] for line in lines) == 1


@pytest.mark.slow
def test_the_doctor_speaks_english_whatever_the_notebooks_do(french):
    command = [sys.executable, "-m", "tools.check_environment"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert "GPUs: " in done.stdout and "Traceback" not in done.stderr


# strings of several words that no person reads: patterns of logs, programs, SVG
NOT_READ = re.compile(
    r"^(WARNING: All log|from course_launcher|import json, sys|\nimport os, sys"
    r"|`shuffle=|Explicitly requested|No OpKernel|libtpu\.\*|Name or service"
    r"|Graph execution|<"
    r"|DejaVu|images, labels|model\(images|pip install|provide a TPU Name"
    r"|in user code$|queries, keys, values$|back to words$|--format=csv|text\{stroke"
    r"|already in use$|outside lower center|mixed, master copies|\^\\d\+ root error)"
)


def unread(tree):
    """Return the ids of nodes that no person reads, or that `_` and its like have."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found |= {id(node.body[0].value)} if is_docstring(node.body[0]) else set()
            if getattr(node, "name", "") in COPIED:
                found |= set(map(id, ast.walk(node)))
        if isinstance(node, ast.Module):
            found |= {id(one.value) for one in node.body if is_docstring(one)}
        if isinstance(node, ast.JoinedStr):
            found |= set(map(id, node.values))
    for call in calls(tree, "_", "marked", "counted"):
        found |= {id(argument) for argument in call.args}
    return found


def is_docstring(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def calls(tree, *names):
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in names
    ]


def untranslated(tree):
    """Return the sentences of a module, of three words or more, that `_` has not."""
    skipped = unread(tree)
    found = []
    for node in ast.walk(tree):
        text = text_of(node)
        is_read = id(node) not in skipped and not NOT_READ.match(text)
        if is_read and len(words_of(text)) >= 3:
            found.append(text)
    return found


def text_of(node):
    """Return what a string says, its fields left out; "" for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [part for part in node.values if isinstance(part, ast.Constant)]
        return " … ".join(str(part.value) for part in parts)
    return ""


def words_of(text):
    return re.findall(r"(?<![\w.\\-])[A-Za-z]{2,}(?![\w=(./\\-])", text)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_what_a_person_reads_can_be_translated(path):
    """Also: no `_` is in an f-string, where Babel finds it on some Pythons only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert untranslated(tree) == []
    inside = [
        ast.unparse(call)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for call in calls(node, "_", "counted", "marked")
        if isinstance(call.args[0], ast.Constant) or call.func.id == "counted"
    ]
    assert inside == []


@pytest.mark.parametrize(
    "source, count",
    [
        ('print(f"{count} devices are here")', 1),
        ('raise ValueError("no such thing: " + name)', 1),
        ('x = ["You are wrong here."]', 1),
        ('print(_("You are wrong here."))', 0),
        ('def f():\n    """Return what is here."""', 0),
        ('x = "data parallel"', 0),
    ],
)
def test_the_rule_finds_a_sentence(source, count):
    assert len(untranslated(ast.parse(source))) == count
