"""The exercises' checks, a module for each notebook: they say right or wrong, and why, and never raise."""

import functools

from course_utils.proofs import opening


def exercise(title):
    """Make a function that returns why an answer is wrong (nothing if it is right) into one that prints the verdict."""

    def wrap(find_fault):
        @functools.wraps(find_fault)
        def check(*answer, **named):
            try:
                fault = find_fault(*answer, **named)
            except Exception as problem:
                fault = f"Your code raised {type(problem).__name__}: {opening(problem, 2)}"
            print(f"{title}: ✓ right" if not fault else f"{title}: not solved yet. {fault}")

        return check

    return wrap


def missing(*answers):
    """What to say if one of these answers is still the `...` of the exercise; nothing if none is."""
    return "Replace the `...`." if any(answer is ... or answer is None for answer in answers) else ""
