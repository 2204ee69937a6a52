"""The exercises' checks, a module for each notebook: they say right or wrong, and why,
and never raise.
"""

import functools
import inspect
import numbers
import traceback

from course_utils.errors import opening
from course_utils.language import translated as _


class Unanswered(Exception):
    """A function of the learner's returned the `...` of the exercise, or nothing."""


def exercise(number: int):
    """Make a function that returns why an answer is wrong ("" if it is right) into one
    that prints the verdict.

    The learner's functions reach it wrapped: what they leave undone ends the check.
    `inspect.unwrap` takes that off.
    """

    def wrap(find_fault):
        @functools.wraps(find_fault)
        def check(*answer, **named):
            try:
                fault = find_fault(*map(_raise_if_unanswered, answer), **named)
            except Unanswered:
                fault = _("Replace the `...`.")
            except Exception as problem:
                where = (
                    _("Your code raised")
                    if _raised_by(answer, problem)
                    else _("What you return cannot be judged:")
                )
                fault = f"{where} {type(problem).__name__}: {opening(problem, 2)}"
            if fault:
                print(
                    _(
                        "Exercise {number}: not solved yet. {fault}",
                        number=number,
                        fault=fault,
                    )
                )
            else:
                print(_("Exercise {number}: ✓ right", number=number))

        return check

    return wrap


def _raise_if_unanswered(answer):
    """Return a function of the learner's that raises Unanswered where it returns
    nothing yet; anything else as it is.
    """
    if not inspect.isroutine(answer) and not isinstance(answer, functools.partial):
        return answer

    @functools.wraps(answer)
    def wrapper(*given, **named):
        value = answer(*given, **named)
        if value is ... or value is None:
            raise Unanswered
        return value

    return wrapper


def _raised_by(answer, problem):
    """Return whether one of these functions raised this, and not the check that read
    what they return.

    Of what raised in TensorFlow's graphs no frame is left; there the check computes
    nothing of its own.
    """
    codes = [
        getattr(getattr(function, "func", function), "__code__", None)
        for function in answer
    ]
    files = {code.co_filename for code in codes if code}
    theirs = any(
        frame.filename in files for frame in traceback.extract_tb(problem.__traceback__)
    )
    return (
        theirs
        or "in user code" in str(problem)
        or type(problem).__module__.startswith("tensorflow.")
    )


def whole(answer) -> int | None:
    """Return the answer as an int, if it is any library's whole number; else None."""
    if isinstance(answer, bool) or getattr(answer, "shape", ()) != ():
        return None
    if isinstance(answer, numbers.Integral):
        return int(answer)
    try:
        return int(answer) if answer == int(answer) else None
    except (TypeError, ValueError, OverflowError):  # a text, None, NaN, infinity
        return None
