"""The French edition: catalogues of what a reader sees, and notebooks built from them.

usage: python -m tools.translate extract   read the sources into translations/fr
       python -m tools.translate build     write notebooks/fr from both
       python -m tools.translate check     say what is missing, fuzzy or wrong; exit 1

A message is a paragraph of Markdown, a text of a code cell that a reader sees, or a
comment; its context is the cell's id. A changed paragraph makes its message fuzzy, and
the French cell then shows the English one with a mark. Nobody edits notebooks/fr: its
cells are those of the English notebook, and tools/refresh.py executes them.
"""

import argparse
import ast
import collections
import difflib
import io
import pathlib
import re
import sys
import textwrap
import tokenize
import tomllib
import unicodedata

import nbformat
import polib

from tools import messages
from tools.messages import is_usable
from tools.publish import slug

ROOT = pathlib.Path(__file__).resolve().parent.parent
ENGLISH, FRENCH = ROOT / "notebooks", ROOT / "notebooks" / "fr"
CATALOGUES = ROOT / "translations" / "fr"
PAGES = {  # English: French
    "notebooks/errors.md": "notebooks/fr/errors.md",
    "notebooks/glossary.md": "notebooks/fr/glossary.md",
    "README.md": "README.fr.md",
}
SWITCH = "[Français](README.fr.md)", "[English](README.md)"
MARK = "*(à traduire)* "  # before a paragraph whose translation is missing or fuzzy
WIDTH = 88
FINISHED = "X-Finished"  # a catalogue's header: nothing may be missing or fuzzy


class Problem(ValueError):
    """What is wrong with a translation, in one sentence."""


# Markdown


def paragraphs(source):
    """Return the parts of a Markdown text: paragraphs, and what lies between them."""
    return re.split(r"(\n\s*\n)", source)


def is_message(paragraph):
    """Return whether a reader reads it: it has words beside links, tags and code."""
    if paragraph.startswith("```"):
        return bool(re.search(r"\s# \w", paragraph))
    plain = re.sub(r"<[^>]*>|\]\([^)]*\)|`[^`]*`|https?:\S+", " ", paragraph)
    if paragraph == SWITCH[0] or "colab-link" in paragraph:
        return False
    return bool(re.search(r"[A-Za-z]{2}", plain))


def markup(text):
    """Return what a translation must keep: link targets, code, formulas, tags."""
    found = re.findall(r"\]\(([^)]*)\)", text)
    found += re.findall(r"`[^`\n]+`", text)
    found += re.findall(r"</?\w+>", text)
    return collections.Counter(found)


def check_markdown(english, french):
    lost = markup(english) - markup(french)
    more = markup(french) - markup(english)
    if lost or more:
        raise Problem(f"markup lost {[*lost]}, added {[*more]}")


def numbers(text):
    """Return the numbers of a text, without code; separators of digits do not count."""
    plain = re.sub(r"`[^`]*`|\]\([^)]*\)|\{[^{}]*\}|https?:\S+", " ", text)
    return collections.Counter(
        re.findall(r"\d+", re.sub(r"(?<=\d)[\u202f ,.](?=\d)", "", plain))
    )


def check_numbers(english, french):
    """Raise Problem where the French text has other numbers: minutes, sections."""
    if numbers(english) != numbers(french):
        raise Problem(
            f"numbers lost {[*numbers(english) - numbers(french)]}, "
            f"added {[*numbers(french) - numbers(english)]}"
        )


# Code


def texts_of(source):
    """Return the string constants of a cell: (node, what it says), in their order.

    What an f-string says has its fields in braces, as they are written.
    """
    tree = ast.parse(without_magics(source))
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            found.append((node, text_of(node)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append((node, node.value))
    return sorted(found, key=lambda pair: (pair[0].lineno, pair[0].col_offset))


def without_magics(source):
    """Return a cell as Python: IPython's lines become `pass`, of the same length."""
    return re.sub(
        r"^(\s*)%.*$", lambda line: f"{line[1]}pass", source, flags=re.MULTILINE
    )


def text_of(node):
    """Return an f-string's text as it is written between its quotes."""
    parts = []
    for part in node.values:
        if isinstance(part, ast.Constant):
            parts.append(str(part.value).replace("{", "{{").replace("}", "}}"))
        else:
            parts.append(field_of(part))
    return "".join(parts)


def field_of(part):
    """Return a field of an f-string, such as `{100 * share:.0f}`."""
    conversion = f"!{chr(part.conversion)}" if part.conversion > 0 else ""
    spec = ":" + text_of(part.format_spec) if part.format_spec else ""
    return "{" + ast.unparse(part.value) + conversion + spec + "}"


def fields(text):
    """Return the fields of an f-string's text, each with its format."""
    value = ast.parse("f" + repr_of(text), mode="eval").body
    if isinstance(value, ast.Constant):
        return collections.Counter()
    assert isinstance(value, ast.JoinedStr)
    return collections.Counter(
        field_of(part) for part in value.values if isinstance(part, ast.FormattedValue)
    )


def repr_of(text):
    """Return a literal in double quotes, as the course writes them."""
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n")
    if '"' in escaped and "'" not in escaped:
        return f"'{escaped}'"
    return '"' + escaped.replace('"', '\\"') + '"'


def is_visible(text, words):
    """Return whether a text of a cell is for readers: a phrase, a program with
    comments, or one of `words`.
    """
    if text in words or re.search(r"^\s*# \w", text, re.MULTILINE):
        return True
    plain = re.sub(r"\{[^{}]*\}", " ", text)
    looks_like_code = re.search(r"[=<>]\w|\w\(|\\[dwsS]|^--|^[\w.]+/[\w./]+$", plain)
    return bool(re.search(r"[A-Za-z]{2,} +[A-Za-z]{2,}", plain)) and not looks_like_code


def comments_of(source):
    """Return the comments of a cell: (line, column, text without its #)."""
    found = []
    lines = io.StringIO(without_magics(source)).readline
    for token in tokenize.generate_tokens(lines):
        if token.type == tokenize.COMMENT and not token.string.startswith("#@param"):
            words = token.string.removeprefix("#@title").removeprefix("#").strip()
            if re.search(r"[A-Za-z]{2}", words):
                found.append((*token.start, words))
    return found


def translated_code(source, translate, words):
    """Return a code cell with its texts and comments in French.

    translate: a function of an English message, which returns the French one or None.
    """
    lines = source.split("\n")
    changes = []
    for node, text in texts_of(source):
        french = translate(text) if is_visible(text, words) else None
        if french and french != text:
            formatted = isinstance(node, ast.JoinedStr)
            changes.append((node, formatted, french))
    for node, formatted, french in reversed(changes):
        replace_text(lines, node, formatted, french)
    for line, column, text in reversed(comments_of("\n".join(lines))):
        french = translate(text)
        if french:
            replace_comment(lines, line - 1, column, french)
    return "\n".join(lines)


def replace_text(lines, node, formatted, french):
    """Put a French literal in the place of a node, over several lines if it is long."""
    first, last = node.lineno - 1, node.end_lineno - 1
    start = len(lines[first].encode()[: node.col_offset].decode())
    end = len(lines[last].encode()[: node.end_col_offset].decode())
    before, after = lines[first][:start], lines[last][end:]
    prefix = "f" if formatted else ""
    quotes = lines[first][start : start + 3]
    if quotes in ('"""', "'''"):
        lines[first : last + 1] = f"{before}{quotes}{french}{quotes}{after}".split("\n")
        return
    literal = prefix + repr_of(french)
    if len(before + literal + after) <= WIDTH:
        lines[first : last + 1] = [before + literal + after]
        return
    indent = indent_of(before) + "    "
    room = WIDTH - len(indent) - len(prefix) - 3
    parts = wrapped(french, room)
    quoted = [
        indent + (prefix if "{" in part else "") + repr_of(part) for part in parts
    ]
    if before.strip() or after.strip(" ,"):
        lines[first : last + 1] = [before + "(", *quoted, indent[:-4] + ")" + after]
    else:  # it stands on lines of its own, inside a parenthesis
        quoted = [line[4:] for line in quoted]
        lines[first : last + 1] = [*quoted[:-1], quoted[-1] + after]


def indent_of(line):
    return line[: len(line) - len(line.lstrip())]


def wrapped(text, room):
    """Cut a text at blanks that are in no field, into parts of at most `room`."""
    pieces = re.findall(r"(?:\{[^{}]*\}|[^ {])*(?: |$|(?=\{))", text)
    parts, line = [], ""
    for piece in filter(None, pieces):
        if line and len(repr_of(line + piece)) - 2 > room:
            parts.append(line)
            line = ""
        line += piece
    return [*parts, line]


def replace_comment(lines, line, column, french):
    """Put a French comment in the place of an English one; above, if it is too long."""
    text = lines[line]
    head = text[:column]
    sign = "#@title " if text[column:].startswith("#@title") else "# "
    if len(head + sign + french) <= WIDTH:
        lines[line] = head + sign + french
        return
    indent = indent_of(text)
    width = WIDTH - len(indent) - 2
    above = [f"{indent}# {part}" for part in textwrap.wrap(french, width)]
    lines[line : line + 1] = above + ([head.rstrip()] if head.strip() else [])


def check_code(english, french):
    """Raise Problem unless two cells differ in texts and comments alone."""
    trees = [ast.parse(without_magics(source)) for source in (english, french)]
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                node.values = sorted(
                    (
                        part
                        for part in node.values
                        if not isinstance(part, ast.Constant)
                    ),
                    key=ast.dump,
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                node.value = ""
    if ast.dump(trees[0]) != ast.dump(trees[1]):
        raise Problem("the French cell is another program")


# Catalogues


def catalogue(path):
    return polib.pofile(str(path), wrapwidth=88) if path.exists() else new_catalogue()


def new_catalogue():
    found = polib.POFile(wrapwidth=88)
    found.metadata = {
        "Content-Type": "text/plain; charset=utf-8",
        "Language": "fr",
        FINISHED: "no",
    }
    return found


def words_of(stem):
    """Return {cell: single words that readers see}, from translations/words.toml."""
    path = CATALOGUES.parent / "words.toml"
    if not path.exists():
        return {}
    return tomllib.loads(path.read_text(encoding="utf-8")).get(stem[:2], {})


def messages_of(path):
    """Yield (context, message) of a notebook or a page, in their order."""
    if path.suffix == ".md":
        section = path.stem
        for part in paragraphs(path.read_text(encoding="utf-8")):
            if heading := re.match(r"#+ (.+)", part):
                section = heading[1]
            if is_message(part):
                yield section, part
        return
    words = words_of(path.stem)
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            found = filter(is_message, paragraphs(cell.source))
        else:
            own = words.get(cell.id, [])
            texts = [text for _, text in texts_of(cell.source)]
            found = [text for text in texts if is_visible(text, own)]
            found += [text for *_, text in comments_of(cell.source)]
        for message in dict.fromkeys(found):
            yield cell.id, message


def updated(old, wanted):
    """Return a catalogue with the wanted messages, in their order.

    What is there already keeps its translation. A message that resembles one that is
    gone takes over its translation, as fuzzy. The same words elsewhere are taken over.
    """
    known = {(entry.msgctxt, entry.msgid): entry for entry in old}
    still_wanted = set(wanted)
    gone = collections.defaultdict(list)
    for key, entry in known.items():
        if key not in still_wanted and entry.msgstr:
            gone[entry.msgctxt].append(entry)
    elsewhere = {entry.msgid: entry.msgstr for entry in old if is_usable(entry)}
    fresh = new_catalogue()
    fresh.metadata = old.metadata
    for context, message in wanted:
        entry = known.get((context, message))
        if entry is None:
            entry = polib.POEntry(msgctxt=context, msgid=message)
            entry.msgstr = elsewhere.get(message, "")
            if not entry.msgstr:
                take_over(entry, gone[context])
        fresh.append(entry)
    return fresh


def take_over(entry, gone):
    """Give a changed message the translation of the one that it was, as fuzzy."""
    texts = [other.msgid for other in gone]
    for near in difflib.get_close_matches(entry.msgid, texts, 1, 0.6):
        other = gone.pop(texts.index(near))
        entry.msgstr, entry.previous_msgid = other.msgstr, other.msgid
        entry.flags = ["fuzzy"]


def sources():
    """Return the English notebooks and pages that are translated."""
    return [*sorted(ENGLISH.glob("*.ipynb")), *(ROOT / name for name in PAGES)]


def catalogue_path(path):
    return CATALOGUES / f"{path.stem}.po"


def packages_path():
    """Return where the catalogue of what the packages print and draw is."""
    return CATALOGUES / f"{messages.NAME}.po"


def extract():
    CATALOGUES.mkdir(parents=True, exist_ok=True)
    for path in sources():
        place = catalogue_path(path)
        save(updated(catalogue(place), [*messages_of(path)]), place)
    place = packages_path()
    wanted = messages.extracted()
    found = updated(catalogue(place), [(None, text) for text in wanted])
    messages.describe(found, wanted)
    save(found, place)


def save(found, place):
    found.save(str(place))
    print(f"{place.name}: {len(found)} messages, {len(missing(found))} to translate")


def missing(found):
    """Return the entries of a catalogue that have no translation to be shown."""
    return [entry for entry in found if not is_usable(entry)]


# Building


def translations(found):
    """Return {(context, message): French} of what may be shown."""
    return {
        (entry.msgctxt, entry.msgid): entry.msgstr
        for entry in found
        if is_usable(entry)
    }


def french_markdown(source, context, known):
    """Return a Markdown text in French; `context`: the cell, or None on a page."""
    parts = []
    section = context
    for part in paragraphs(source):
        if context is None and (heading := re.match(r"#+ (.+)", part)):
            section = heading[1]
        if is_message(part):
            french = known.get((section, part))
            part = french or mark(part)
        parts.append(part)
    return "".join(parts)


def mark(paragraph):
    """Return an English paragraph that says that it is one, where that is possible."""
    if re.match(r"[#|<`>*\d-]", paragraph):
        return paragraph
    return MARK + paragraph


def french_notebook(path, found):
    """Return the French notebook of an English one, without outputs."""
    known, words = translations(found), words_of(path.stem)
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = french_markdown(cell.source, cell.id, known)
            continue

        def translate(message, cell=cell):
            return known.get((cell.id, message))

        own = words.get(cell.id, [])
        cell.source = translated_code(cell.source, translate, own)
        cell.outputs, cell.execution_count = [], None
    return notebook


def headings(text):
    """Return the headings of a Markdown text, without what is in fences."""
    plain = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^#+ (.+)$", plain, re.MULTILINE)


def anchors(english, french):
    """Return {anchor in the English text: anchor in the French one}."""
    both = headings(english), headings(french)
    if len(both[0]) != len(both[1]):
        raise Problem(f"{len(both[0])} headings, and {len(both[1])} in French")
    return {slug(ours): slug(theirs) for ours, theirs in zip(*both, strict=True)}


def markdown_of(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    return "\n\n".join(cell.source for cell in cells)


class Links:
    """Where links of the English sources lead in the French edition.

    maps: {name of a page or notebook: its anchors}.
    """

    def __init__(self, maps):
        self.maps = maps

    def rewritten(self, text, name, is_deeper=True):
        """Return a text of the page `name` with links to French pages.

        is_deeper: whether the French page is in notebooks/fr, a folder below.
        """

        def replaced(link):
            return f"]({self.target(link[1], name, is_deeper)})"

        text = re.sub(r"(/blob/[^/]+/notebooks/)(?=[\w]+\.)", r"\1fr/", text)
        return re.sub(r"\]\(([^)\s]+)\)", replaced, text)

    def target(self, target, name, is_deeper):
        if re.match(r"https?:|mailto:", target):
            return target
        path, _, anchor = target.partition("#")
        page = pathlib.PurePosixPath(path).name or name
        if anchor:
            known = self.maps.get(page, {})
            anchor = "#" + known.get(anchor, anchor)
        if not path:
            return anchor
        if page in self.maps and page != "README.md":
            prefix = "" if is_deeper else "notebooks/fr/"
            return prefix + page + anchor
        if page == "README.md" and path in ("README.md", "../README.md"):
            path = path.replace("README.md", "README.fr.md")
        return ("../" if is_deeper else "") + path + anchor


def build():
    """Write notebooks/fr, README.fr.md and the compiled catalogue of the packages.

    Outputs stay where a cell is unchanged.
    """
    messages.COMPILED.parent.mkdir(parents=True, exist_ok=True)
    messages.COMPILED.write_bytes(messages.compiled(catalogue(packages_path())))
    texts, notebooks = {}, {}
    for path in sources():
        found = catalogue(catalogue_path(path))
        if path.suffix == ".md":
            english = path.read_text(encoding="utf-8")
            texts[path.name] = (
                english,
                french_markdown(english, None, translations(found)),
            )
        else:
            notebooks[path.name] = french_notebook(path, found)
            english = markdown_of(nbformat.read(path, as_version=4))
            texts[path.name] = english, markdown_of(notebooks[path.name])
    links = Links({name: anchors(*pair) for name, pair in texts.items()})
    FRENCH.mkdir(exist_ok=True)
    for name, notebook in notebooks.items():
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = links.rewritten(cell.source, name)
        keep_outputs(notebook, FRENCH / name)
        nbformat.write(notebook, FRENCH / name)
    for english, french in PAGES.items():
        name = pathlib.PurePosixPath(english).name
        text = texts[name][1]
        if name == "glossary.md":
            text = in_french_order(text)
        if name == "errors.md":
            text = quoted_in_french(text, messages.Spoken(catalogue(packages_path())))
        text = links.rewritten(text, name, french.startswith("notebooks/"))
        text = re.sub(r"\[Français\]\([^)]*\)", SWITCH[1], text)
        (ROOT / french).write_text(text, encoding="utf-8")


def quoted_in_french(text, spoken):
    """Return a page whose quoted errors, in fences, are French where the course says
    them: so a reader finds them.
    """

    def replaced(fence):
        return "\n".join(map(spoken.line, fence[0].split("\n")))

    return re.sub(r"^```text\n.*?^```", replaced, text, flags=re.M | re.S)


def in_french_order(text):
    """Return a glossary with its sections in the order of their French headings."""
    first, *sections = re.split(r"(?m)^(?=## )", text.rstrip("\n"))

    def letters(section):
        plain = unicodedata.normalize("NFD", section.splitlines()[0].casefold())
        return [letter for letter in plain if not unicodedata.combining(letter)]

    ordered = sorted(sections, key=letters)
    return first + "\n\n".join(section.strip("\n") for section in ordered) + "\n"


def keep_outputs(notebook, path):
    """Give cells the stored outputs of the French notebook, where they are the same."""
    if not path.exists():
        return
    stored = {cell.id: cell for cell in nbformat.read(path, as_version=4).cells}
    for cell in notebook.cells:
        old = stored.get(cell.id)
        if cell.cell_type == "code" and old and old.get("source") == cell.source:
            cell.outputs, cell.execution_count = old.outputs, old.execution_count


# Checking


FORBIDDEN = (  # of FRENCH.md: machine translation's words for terms of this field
    "formation",
    "ouvrier",
    "travailleur",
    "dégradé",
    "cahier",
    "périphérique",
    "prélecture",
    "librairie",
    "digital",
    "supporter",
    "taille de lot",
)


def problems_of(path):
    """Yield what is wrong with the catalogue of a notebook or a page."""
    found = catalogue(catalogue_path(path))
    yield from problems_of_extent(found, [*messages_of(path)])
    for entry in found:
        if is_usable(entry):
            for problem in problems_of_entry(entry, path.suffix == ".ipynb"):
                yield f"{entry.msgctxt}: {problem}: {entry.msgid[:50]!r}"
    if path.suffix == ".ipynb":
        yield from problems_of_cells(path, found)


def problems_of_extent(found, wanted):
    """Yield what a catalogue has not, of all these (context, message)."""
    present = {(entry.msgctxt, entry.msgid) for entry in found}
    for context, message in wanted:
        if (context, message) not in present:
            yield f"{context}: not extracted: {message[:50]!r}"
    for context, message in present - set(wanted):
        yield f"{context}: no longer there: {message[:50]!r}"
    if found.metadata.get(FINISHED) == "yes":
        for entry in missing(found):
            yield f"{entry.msgctxt}: not translated: {entry.msgid[:50]!r}"


def problems_of_packages():
    """Yield what is wrong with what the packages print and draw."""
    found = catalogue(packages_path())
    yield from problems_of_extent(
        found, [(None, text) for text in messages.extracted()]
    )
    for entry in found:
        if is_usable(entry):
            for problem in problems_of_message(entry):
                yield f"{problem}: {entry.msgid[:50]!r}"
    compiled = messages.COMPILED.exists() and messages.COMPILED.read_bytes()
    if compiled != messages.compiled(found):
        yield "the compiled catalogue is not this one: build it"


def problems_of_message(entry):
    """Yield what is wrong with a translation of a message of the packages."""
    if messages.is_source(entry):
        try:
            check_code(entry.msgid, entry.msgstr)
        except (Problem, SyntaxError) as problem:
            yield str(problem)
        return
    wanted = messages.fields(entry.msgid)
    for french in messages.forms(entry):
        yield from forbidden_words(french)
        if messages.fields(french) != wanted:
            yield f"fields {messages.fields(french)} instead of {wanted}"


def forbidden_words(french):
    plain = re.sub(r"`[^`]*`|\]\([^)]*\)", " ", french.lower())
    for word in FORBIDDEN:
        if re.search(rf"\b{word}(s|e|es|r)?\b", plain):
            yield f"the word {word!r}"


def problems_of_entry(entry, is_notebook):
    yield from forbidden_words(entry.msgstr)
    try:
        check_markdown(entry.msgid, entry.msgstr)
        check_numbers(entry.msgid, entry.msgstr)
        if is_notebook and "{" in entry.msgid + entry.msgstr:
            check_fields(entry)
    except (Problem, SyntaxError) as problem:
        yield str(problem)


def check_fields(entry):
    """Raise Problem where an f-string's fields differ; Markdown may have braces."""
    try:
        wanted = fields(entry.msgid)
    except SyntaxError:  # Markdown
        return
    if fields(entry.msgstr) != wanted:
        raise Problem(f"fields {[*fields(entry.msgstr)]} instead of {[*wanted]}")


def problems_of_cells(path, found):
    french = {cell.id: cell for cell in french_notebook(path, found).cells}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            try:
                check_code(cell.source, french[cell.id].source)
            except (Problem, SyntaxError) as problem:
                yield f"{cell.id}: {problem}"


def check():
    """Print the state of each catalogue; return whether anything is wrong."""
    problems = {catalogue_path(path): [*problems_of(path)] for path in sources()}
    problems[packages_path()] = [*problems_of_packages()]
    for place, found_problems in problems.items():
        found = catalogue(place)
        fuzzy = sum("fuzzy" in entry.flags for entry in found)
        empty = len(missing(found)) - fuzzy
        print(f"{place.stem}: {len(found)} messages, {empty} missing, {fuzzy} fuzzy")
        for problem in found_problems:
            print(f"  {problem}")
    return any(problems.values())


def main(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = {"extract": extract, "build": build, "check": check}
    parser.add_argument("command", choices=commands)
    return int(bool(commands[parser.parse_args(arguments).command]()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
