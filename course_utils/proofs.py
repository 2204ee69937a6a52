"""Proofs: a claim, printed when it holds, and an error that stops the notebook when it
does not.
"""

import contextlib
from typing import Any

from course_utils import devices
from course_utils.arguments import finite_number
from course_utils.errors import opening
from course_utils.language import translated as _


class Difference(float):
    """A measured difference, which a notebook does not echo: its digits are this
    machine's own.
    """

    def _ipython_display_(self):
        pass


def same(a, b, tolerance: float, what: str, relative: float = 0) -> "Difference":
    """Print that `a` and `b` are equal to a tolerance, with the difference measured.

    Args:
        a, b: arrays (or numbers); or equally many of them with equal shapes, in lists,
            such as two `model.get_weights()` or `model.trainable_variables`, or in
            dicts. The line says which of them differs most, where it has a name.
        tolerance: the largest absolute difference of two elements; 0 asks for the same
            types and the same bits.
        what: the claim, such as "weights on 4 replicas = weights on one device".
        relative: an element may differ by this share of itself besides, as in
            `numpy.allclose`.

    Returns:
        A `Difference`.

    Raises:
        AssertionError: when they are not equal; NaN is equal to nothing. On a GPU or a
            TPU, where no tolerance was measured, a difference up to ten times larger is
            told and does not stop the notebook.
    """
    import numpy as np

    tolerance, relative = (
        finite_number("tolerance", tolerance),
        finite_number("relative", relative),
    )
    if isinstance(a, dict) and isinstance(b, dict) and {*a} != {*b}:
        raise AssertionError(
            _(
                "{what}: ✗ names {first} and {second}",
                what=what,
                first=", ".join(map(str, a)),
                second=", ".join(map(str, b)),
            )
        )
    b = _named(b, like=a)[1]
    names, a = _named(a)
    shapes, types = (
        [[str(getattr(x, kind)) for x in y] for y in (a, b)]
        for kind in ("shape", "dtype")
    )
    if not a or shapes[0] != shapes[1]:
        raise AssertionError(
            _(
                "{what}: ✗ shapes {first} and {second}",
                what=what,
                first=" ".join(shapes[0]),
                second=" ".join(shapes[1]),
            )
        )
    exact = tolerance == relative == 0
    if exact and types[0] != types[1]:
        raise AssertionError(
            _(
                "{what}: ✗ types {first} and {second}",
                what=what,
                first=" ".join(types[0]),
                second=" ".join(types[1]),
            )
        )
    differences = [_difference(x, y, relative) for x, y in zip(a, b, strict=True)]
    difference = Difference(np.max(differences))
    worst = int(np.argmax(differences))  # a NaN first
    measured = f"{difference:.3g}"
    if names[worst] and difference != 0:
        measured = _("{difference} in {name}", difference=measured, name=names[worst])
    bound = f"{tolerance:g}"
    if relative:
        bound += _(" + {relative:g} · |value|", relative=relative)
    if (
        tolerance < difference <= 10 * tolerance
        and (kind := devices.accelerator()) != "CPU"
    ):
        print(
            _(
                "{what}: max |Δ| = {measured}, above {bound}: not yet measured "
                "here, on a {kind}",
                what=what,
                measured=measured,
                bound=bound,
                kind=kind,
            )
        )
        return difference
    if not difference <= tolerance:  # also when it is NaN
        where = (
            _(" in array {worst} of {count}", worst=worst, count=len(a))
            if len(a) > 1 and not names[worst]
            else ""
        )
        raise AssertionError(
            _(
                "{what}: ✗ max |Δ| = {measured}{where}, which is not ≤ {bound}",
                what=what,
                measured=measured,
                where=where,
                bound=bound,
            )
        )
    if exact and any(x.tobytes() != y.tobytes() for x, y in zip(a, b, strict=True)):
        raise AssertionError(
            _("{what}: ✗ equal numbers, but not equal bits (0.0 and -0.0)", what=what)
        )
    if exact:
        print(_("{what}: bit-identical ✓", what=what))
    else:
        print(
            _(
                "{what}: max |Δ| ≤ {bound} ✓ (measured {measured})",
                what=what,
                bound=bound,
                measured=measured,
            )
        )
    return difference


def _named(values, like=None):
    """Return names and arrays of what `same` takes; a dict in the order of `like`, if
    that has the same keys.
    """
    import numpy as np

    if isinstance(values, dict):
        names = (
            [*like] if isinstance(like, dict) and {*like} == {*values} else [*values]
        )
        return names, [np.asarray(values[name]) for name in names]
    values = values if isinstance(values, (list, tuple)) else [values]
    return [str(getattr(value, "path", "")) for value in values], [
        np.asarray(value) for value in values
    ]


def _difference(x, y, relative):
    """Return max |x - y| beyond `relative`: exact for whole numbers, 0 for equal
    infinities, NaN where a NaN is.
    """
    import numpy as np

    exact = x.dtype.kind in "iub" and y.dtype.kind in "iub"
    kind = complex if "c" in (x.dtype.kind, y.dtype.kind) else float
    x, y = (array.astype(object if exact else kind) for array in (x, y))
    with np.errstate(invalid="ignore"):  # inf - inf
        apart = np.abs(np.where(x == y, 0, x - y))
        if relative:
            apart = np.maximum(0, apart - relative * np.abs(np.where(x == y, 0, y)))
        return np.max(apart, initial=0)


def holds(condition, what: str, measured=None) -> None:
    """Print the claim `what` when the condition is true, with what was measured.

    Args:
        condition: what must be true.
        what: the claim.
        measured: a number (three digits of it are printed), or a text such as
            "4.2 % and 11 %".

    Raises:
        AssertionError: when the condition is not true.
    """
    if measured is not None and not isinstance(measured, str):
        measured = (
            f"{float(measured):,.3g}"
            if abs(measured) < 1000
            else f"{float(measured):,.0f}"
        )
    told = ""
    if measured is not None:
        told = _(" (measured {measured})", measured=measured)
    if not condition:
        raise AssertionError(
            _("{what}: ✗ this does not hold here{told}", what=what, told=told)
        )
    print(f"{what} ✓{told}")


@contextlib.contextmanager
def raises(error: Any, sentences: int = 1, words: str | None = None):
    """Run the block, which must raise `error`, and print the error as Python would.

    Printed are its name and its first sentences. (Jupyter's own tag for such cells is
    ignored by some front ends, where «Run all» would stop; and none notices when the
    error stops coming.)

    Args:
        error: an exception class, or a tuple of them, one of which must come.
        sentences: how many of its text are printed.
        words: what its text must hold, printed instead of its beginning: for errors
            that begin with a machine's own paths.

    Raises:
        AssertionError: when the block raises nothing; another error passes through.
    """
    try:
        yield
    except error as problem:
        if words and words not in str(problem):
            raise AssertionError(
                _(
                    "the error should have said {words!r}, and said: {problem}",
                    words=words,
                    problem=problem,
                )
            ) from problem
        print(
            f"{type(problem).__name__}: "
            f"{f'… {words} …' if words else opening(problem, sentences)}"
        )
    else:
        names = _(" or ").join(
            kind.__name__ for kind in (error if isinstance(error, tuple) else (error,))
        )
        raise AssertionError(
            _("this should have raised {names}, and did not", names=names)
        )
