"""Proofs: a claim, printed when it holds, and an error that stops the notebook when it does not."""

import contextlib

from course_utils import environment
from course_utils.arguments import finite_number
from course_utils.errors import opening

MEASURED_ON = "CPU"
"""The kind of device on which the course's tolerances were measured. On another one they may be ten times too small."""


class Difference(float):
    """A measured difference, which a notebook does not echo: its digits are this machine's own."""

    def _ipython_display_(self):
        pass


def same(a, b, tolerance: float, what: str) -> "Difference":
    """Print that `a` and `b` are equal to a tolerance, and return the largest difference found, a `Difference`.

    a, b: arrays (or numbers), or equally long lists of arrays of equal shapes, such as two `model.get_weights()`.
    tolerance: the largest absolute difference of two elements; 0 asks for the same types and the same bits.
    what: the claim, such as "weights on 4 replicas = weights on one device".

    Raises AssertionError when they are not equal; NaN is equal to nothing. On a GPU or a TPU, where no tolerance was
    measured, a difference up to ten times larger is told and does not stop the notebook.
    """
    import numpy as np

    tolerance = finite_number("tolerance", tolerance)
    a, b = ([np.asarray(x) for x in (y if isinstance(y, (list, tuple)) else [y])] for y in (a, b))
    shapes, types = ([[str(getattr(x, kind)) for x in y] for y in (a, b)] for kind in ("shape", "dtype"))
    if not a or shapes[0] != shapes[1]:
        raise AssertionError(f"{what}: ✗ shapes {' '.join(shapes[0])} and {' '.join(shapes[1])}")
    if tolerance == 0 and types[0] != types[1]:
        raise AssertionError(f"{what}: ✗ types {' '.join(types[0])} and {' '.join(types[1])}")
    difference = Difference(np.max([_difference(x, y) for x, y in zip(a, b, strict=True)]))
    if tolerance < difference <= 10 * tolerance and (kind := environment.accelerator()) != MEASURED_ON:
        print(f"{what}: max |Δ| = {difference:.2g}, above {tolerance:g}: not yet measured here, on a {kind}")
        return difference
    if not difference <= tolerance:  # also when it is NaN
        raise AssertionError(f"{what}: ✗ max |Δ| = {difference:.3g}, which is not ≤ {tolerance:g}")
    if tolerance == 0 and any(x.tobytes() != y.tobytes() for x, y in zip(a, b, strict=True)):
        raise AssertionError(f"{what}: ✗ equal numbers, but not equal bits (0.0 and -0.0)")
    print(f"{what}: {'bit-identical' if tolerance == 0 else f'max |Δ| ≤ {tolerance:g}'} ✓")
    return difference


def _difference(x, y):
    """max |x - y|: exact for whole numbers of any size, 0 for equal infinities, NaN where a NaN is."""
    import numpy as np

    exact = x.dtype.kind in "iub" and y.dtype.kind in "iub"
    x, y = (array.astype(object if exact else float) for array in (x, y))
    with np.errstate(invalid="ignore"):  # inf - inf
        return np.max(np.abs(np.where(x == y, 0, x - y)), initial=0)


def holds(condition, what: str) -> None:
    """Print the claim `what` when the condition is true, or raise AssertionError."""
    if not condition:
        raise AssertionError(f"{what}: ✗ this does not hold here")
    print(f"{what} ✓")


@contextlib.contextmanager
def raises(error: type | tuple, sentences: int = 1, words: str | None = None):
    """Run the block, which must raise `error`, and print the error as Python would: its name, and its first sentences.

    error: an exception class, or a tuple of them, one of which must come.
    words: what its text must hold, printed instead of its beginning: for errors that begin with a machine's own paths.

    Raises AssertionError when the block raises nothing; another error passes through. (Jupyter's own tag for such cells
    is ignored by some front ends, where «Run all» would stop; and none notices when the error stops coming.)
    """
    try:
        yield
    except error as problem:
        if words and words not in str(problem):
            raise AssertionError(f"the error should have said {words!r}, and said: {problem}") from problem
        print(f"{type(problem).__name__}: {f'… {words} …' if words else opening(problem, sentences)}")
    else:
        names = " or ".join(kind.__name__ for kind in (error if isinstance(error, tuple) else (error,)))
        raise AssertionError(f"this should have raised {names}, and did not")
