"""What the packages print and draw: its catalogue, and what a kernel reads of it.

tools/translate.py calls these functions. The English messages are the constants that
`course_utils.language`'s functions are called with; the French ones are in
translations/fr/packages.po; the compiled catalogue is in the wheel.
"""

import inspect
import pathlib
import string

import polib
from babel.messages.extract import extract_from_file

from course_utils import data, language, model

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("course_utils", "course_planner", "course_launcher", "course_exercises")
NAME = "packages"
COMPILED = language.CATALOGUES / "fr" / "LC_MESSAGES" / f"{language.DOMAIN}.mo"
KEYWORDS = {"_": None, "marked": None, "counted": (2, 3)}
PLURALS = "nplurals=2; plural=(n > 1);"  # French: none, or one, is singular


def printed_sources() -> list[str]:
    """Return sources that notebooks print whole: docstrings and comments are French."""
    text = (ROOT / "cluster" / "train.py").read_text(encoding="utf-8")
    taken_home = text[text.index("def build") : text.index("def callbacks")].rstrip()
    functions = model.build_model, data.make_dataset
    return [*map(inspect.getsource, functions), taken_home]


def extracted() -> dict[str, tuple[str, list[str]]]:
    """Return {message: (its plural or "", files in which it is)}, in their order."""
    found: dict[str, tuple[str, list[str]]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            for _line, text, *_rest in extract_from_file("python", path, KEYWORDS):
                singular, plural = text if isinstance(text, tuple) else (text, "")
                known, files = found.setdefault(singular, (plural, []))
                if known != plural:  # gettext would find one of them alone
                    raise ValueError(f"{name}: {singular!r} with and without a plural")
                if name not in files:
                    files.append(name)
    return found | {source: ("", []) for source in printed_sources()}


def describe(found: polib.POFile) -> None:
    """Write into a catalogue's entries where their messages are, and their plurals."""
    found.metadata["Plural-Forms"] = PLURALS
    where = extracted()
    for entry in found:
        plural, files = where[entry.msgid]
        entry.occurrences = [(name, "") for name in files]
        if plural and not entry.msgid_plural:
            entry.msgid_plural, entry.msgstr = plural, ""
            entry.msgstr_plural = {0: "", 1: ""}


def is_usable(entry: polib.POEntry) -> bool:
    """Return whether a translation may be shown: it is there and not fuzzy."""
    texts = [*entry.msgstr_plural.values()] if entry.msgid_plural else [entry.msgstr]
    return all(texts) and "fuzzy" not in entry.flags


def is_source(entry: polib.POEntry) -> bool:
    """Return whether it is a source that a notebook prints, not a sentence."""
    return not entry.occurrences


def fields(text: str) -> list[tuple]:
    """Return what a message is filled with: (name, format, conversion), in the order
    of names; none where braces are no fields, as in a message that is not filled in.
    """
    try:
        parts = [*string.Formatter().parse(text)]
    except ValueError:
        return []
    return sorted(part[1:] for part in parts if (part[1] or "").isidentifier())


def compiled(found: polib.POFile) -> bytes:
    """Return the catalogue as `gettext` reads it: what may be shown."""
    shown = polib.POFile()
    shown.metadata = found.metadata
    shown.extend(entry for entry in found if is_usable(entry))
    return shown.to_binary()
