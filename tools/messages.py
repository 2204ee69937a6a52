"""What the packages print and draw: its catalogue, and what a kernel reads of it.

tools/translate.py calls these functions. The English messages are the constants that
`course_utils.language`'s functions are called with; the French ones are in
translations/fr/packages.po; the compiled catalogue is in the wheel.
"""

import inspect
import pathlib
import re
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


def describe(found: polib.POFile, wanted: dict[str, tuple[str, list[str]]]) -> None:
    """Write into a catalogue's entries where their messages are, and their plurals.

    wanted: what `extracted` returns.
    """
    found.metadata["Plural-Forms"] = PLURALS
    for entry in found:
        plural, files = wanted[entry.msgid]
        entry.occurrences = [(name, "") for name in files]
        if plural != entry.msgid_plural:
            entry.msgid_plural, entry.msgstr = plural, ""
            entry.msgstr_plural = {0: "", 1: ""} if plural else {}


def forms(entry: polib.POEntry) -> list[str]:
    """Return the French texts of an entry: one, or one for each number."""
    return [*entry.msgstr_plural.values()] if entry.msgid_plural else [entry.msgstr]


def is_usable(entry: polib.POEntry) -> bool:
    """Return whether a translation may be shown: it is there and not fuzzy."""
    return all(forms(entry)) and "fuzzy" not in entry.flags


def is_source(entry: polib.POEntry) -> bool:
    """Return whether it is a source that a notebook prints, not a sentence."""
    return not entry.occurrences


def fields(text: str) -> list[tuple]:
    """Return what a message is filled with: (name, format, conversion), in the order
    of names. Other braces are names that no translation may change either; in a message
    that is not filled in, they are counted.
    """
    try:
        parts = [*string.Formatter().parse(text)]
    except ValueError:
        return [("{", str(text.count("{")), ""), ("}", str(text.count("}")), "")]
    found = [part[1:] for part in parts if part[1] is not None]
    return sorted(
        (name, spec if str(name).isidentifier() else "", how or "")
        for name, spec, how in found
    )


class Spoken:
    """What the packages print, put into French from the English text itself.

    For pages that quote it: a quoted line has the fields filled in.
    """

    def __init__(self, found: polib.POFile):
        entries = [entry for entry in found if is_usable(entry) and entry.occurrences]
        entries.sort(key=lambda entry: -len(entry.msgid))
        self.known = {entry.msgid: entry.msgstr for entry in entries}
        self.patterns = [
            (*_pattern(entry.msgid), entry.msgstr)
            for entry in entries
            if "{" in entry.msgid
        ]
        self.nouns = {
            noun: forms(entry)
            for entry in entries
            if entry.msgid_plural
            for noun in (entry.msgid, entry.msgid_plural)
        }

    def line(self, text: str) -> str:
        """Return a line in French from where its message begins: after an error's name,
        after a worker's, or at its start.
        """
        process = "the process "
        places = re.finditer(rf"^\w+Error: |worker \d+ |{process}", text)
        for start in [*(place.end() for place in places), 0]:
            french = self.message(text[start:], LETTERS)
            if french and french != text[start:]:
                before = text[:start].replace(process, self.known[process[:-1]] + " ")
                return before + french
        return text

    def message(self, text: str, letters: int = 1) -> str:
        """Return a message in French; "" if the packages say nothing like it.

        letters: that the message has at least beside its fields: what has fewer fits
            many texts. What fills a field may have few.
        """
        if text in self.known:
            return self.known[text]
        number, _space, noun = text.partition(" ")
        if noun in self.nouns and number.replace(",", "").isdigit():
            return f"{number} {self.nouns[noun][number not in ('0', '1')]}"
        for pattern, names, own, french in self.patterns:
            if own >= letters and (place := pattern.fullmatch(text)):
                given = dict(zip(names, place.groups(), strict=True))
                said = {
                    name: self.message(part) or part for name, part in given.items()
                }
                return _filled(french, said)
        return ""


LETTERS = 6


def _pattern(message):
    """Return what a filled-in message looks like, the names of its fields, and how many
    letters it has beside them.
    """
    parts, names, letters = "", [], 0
    for literal, name, _spec, _how in string.Formatter().parse(message):
        parts += re.escape(literal)
        letters += sum(map(str.isalpha, literal))
        if name is not None:
            parts += "(.+?)"
            names.append(name)
    return re.compile(parts), names, letters


def _filled(french, given):
    parts = string.Formatter().parse(french)
    return "".join(
        literal + (given.get(name, "") if name else "")
        for literal, name, _spec, _how in parts
    )


def compiled(found: polib.POFile) -> bytes:
    """Return the catalogue as `gettext` reads it: what may be shown."""
    shown = polib.POFile()
    shown.metadata = found.metadata
    shown.extend(entry for entry in found if is_usable(entry))
    return shown.to_binary()
