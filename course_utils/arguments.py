"""One way to refuse a wrong argument: a ValueError that names the argument, the value
given, and what would do.
"""

import math
import numbers

from course_utils.language import translated as _


def whole_number(
    name: str, value, low: float = 0, high: float = math.inf, limit: str = ""
) -> int:
    """Return `value` as an int if it is a whole number (no bool) from `low` to `high`
    (which is `limit`), or ValueError.
    """
    return int(_number(name, value, low, high, numbers.Integral, _("whole"), limit))


def finite_number(name: str, value, low: float = 0, high: float = math.inf) -> float:
    """Return `value` as Python's float if it is a finite number (NumPy's too, no bool)
    from `low` to `high`, or ValueError.
    """
    return float(_number(name, value, low, high, numbers.Real, _("finite")))


def one_of(name: str, value, choices) -> str:
    """Return `value` if it is one of these strings; else raise ValueError."""
    if not isinstance(value, str) or value not in choices:
        *others, last = map(repr, choices)
        allowed = last
        if others:
            allowed = _("{others} or {last}", others=", ".join(others), last=last)
        raise ValueError(
            _(
                "{name}={value!r}: must be {allowed}",
                name=name,
                value=value,
                allowed=allowed,
            )
        )
    return value


def _number(name, value, low, high, kind, word, limit=""):
    if (
        not isinstance(value, kind)
        or isinstance(value, bool)
        or not low <= value <= high
        or value == math.inf
    ):
        limits = _(" from {low} to {high}", low=low, high=high)
        if high == math.inf:
            limits = _(", {low} or more", low=low)
        elif limit:
            limits += f" ({limit})"
        raise ValueError(
            _(
                "{name}={value!r}: must be a {word} number{limits}",
                name=name,
                value=value,
                word=word,
                limits=limits,
            )
        )
    return value
