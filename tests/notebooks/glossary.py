"""Where a notebook uses a word of the glossary for the first time."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
HIDDEN = re.compile(
    r"^```.*?^```|^#.*?$|^<details.*?$|<code>.*?</code>|"
    r"`[^`\n]+`|<[^>\n]+>|\[[^\]\n]*\]\([^)\n]*\)",
    re.M | re.S,
)


def terms():
    return re.findall(
        r"^## (.+)",
        (ROOT / "notebooks" / "glossary.md").read_text(encoding="utf-8"),
        re.M,
    )


def anchor(term):
    return f"glossary.md#{term.replace(' ', '-')}"


def first_use(term, text):
    """The span of the first use of `term` in Markdown, or None if there is none.

    Uses in code, headings and links do not count.
    """
    visible = HIDDEN.sub(lambda found: " " * len(found[0]), text)
    stem = (
        re.escape(term[:-1]) + "(?:y|ies)"
        if term.endswith("y")
        else re.escape(term) + "(?:e?s)?"
    )
    first = (
        re.escape(term[0]) if term[:2].isupper() else f"[{term[0]}{term[0].upper()}]"
    )
    found = re.search(
        rf"(?<![\w-]){first}{stem.removeprefix(re.escape(term[0]))}(?![\w-])", visible
    )
    return found and found.span()
