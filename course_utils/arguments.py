"""One way to refuse a wrong argument: a ValueError that names the argument, the value
given, and what would do.
"""

import math
import numbers


def whole_number(
    name: str, value, low: float = 0, high: float = math.inf, limit: str = ""
) -> int:
    """Return `value` as an int if it is a whole number (no bool) from `low` to `high`
    (which is `limit`), or ValueError.
    """
    return int(_number(name, value, low, high, numbers.Integral, "whole", limit))


def finite_number(name: str, value, low: float = 0, high: float = math.inf) -> float:
    """Return `value` as Python's float if it is a finite number (NumPy's too, no bool)
    from `low` to `high`, or ValueError.
    """
    return float(_number(name, value, low, high, numbers.Real, "finite"))


def one_of(name: str, value, choices) -> str:
    """Return `value` if it is one of these strings; else raise ValueError."""
    if not isinstance(value, str) or value not in choices:
        *others, last = map(repr, choices)
        raise ValueError(
            f"{name}={value!r}: must be "
            f"{', '.join(others)}{' or ' if others else ''}{last}"
        )
    return value


def _number(name, value, low, high, kind, word, limit=""):
    if (
        not isinstance(value, kind)
        or isinstance(value, bool)
        or not low <= value <= high
        or value == math.inf
    ):
        limits = f" from {low} to {high}"
        if high == math.inf:
            limits = f", {low} or more"
        elif limit:
            limits += f" ({limit})"
        raise ValueError(f"{name}={value!r}: must be a {word} number{limits}")
    return value
