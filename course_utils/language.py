"""The language of what the course prints and draws: English, or French.

The set-up cell of a notebook chooses it, by an environment variable, so that worker
processes speak it too. The catalogues are made by tools/translate.py.
"""

import functools
import gettext
import inspect
import os
import pathlib
from collections.abc import Callable

VARIABLE = "COURSE_LANGUAGE"
LANGUAGES = ("en", "fr")
DOMAIN = "course"
CATALOGUES = pathlib.Path(__file__).parent / "locale"


def chosen() -> str:
    """Return the language chosen by the environment variable COURSE_LANGUAGE, "en"
    without it; ValueError if the course does not speak it.
    """
    language = os.environ.get(VARIABLE) or LANGUAGES[0]
    if language not in LANGUAGES:
        raise ValueError(
            f"{VARIABLE}={language!r}: must be {' or '.join(map(repr, LANGUAGES))}"
        )
    return language


@functools.cache
def _catalogue(language):
    english = language == LANGUAGES[0]
    return gettext.translation(DOMAIN, CATALOGUES, [language], fallback=english)


def translated(text: str, /, **fields) -> str:
    """Return a message in the chosen language, with its fields filled in.

    text: English, a constant, so that it is found and put into the catalogue; with
        fields as in `str.format`, if any are given.
    """
    if text == "":
        return ""  # of which gettext says what the catalogue is
    found = _catalogue(chosen()).gettext(text)
    return found.format(**fields) if fields else found


def source_of(function: Callable) -> str:
    """Return the source of a function, its texts and comments in the chosen language:
    of one that a notebook prints.
    """
    return translated(inspect.getsource(function))


def marked(text: str) -> str:
    """Return the text itself: a constant, translated where it is used."""
    return text


def counted(number: float, singular: str, plural: str) -> str:
    """Return a number with its noun in the chosen language: "1 device", "1,024
    devices".
    """
    many = int(number)
    if many != number and chosen() == "en":
        many = 2  # "1.5 bytes"; in French it is "1.5 octet"
    noun = _catalogue(chosen()).ngettext(singular, plural, many)
    return f"{number:,} {noun}"
