"""Checks of the exercises of notebook 04."""

import inspect
import math

from course_exercises import exercise, whole
from course_utils.errors import message
from course_utils.language import translated as _
from course_utils.tpu import xla_device


@exercise(1)
def fitting_batch(function):
    """Check exercise 1: `function(wanted, num_cores)` is the smallest batch of a
    multiple of 8 examples for each core.
    """
    for wanted, cores in (100, 8), (128, 8), (129, 8), (1, 1), (9, 1), (200, 4):
        answer, right = (
            function(wanted, cores),
            math.ceil(wanted / (8 * cores)) * 8 * cores,
        )
        answer, given = whole(answer), answer
        if answer is None:
            return _(
                "A batch is a whole number of examples, and you return {given!r}.",
                given=given,
            )
        if answer < wanted:
            return _(
                "{answer} examples are fewer than the {wanted} wanted.",
                answer=answer,
                wanted=wanted,
            )
        if answer % (8 * cores):
            return _(
                "{answer} examples on {cores} cores are {share:g} for "
                "each, which is no multiple of 8.",
                answer=answer,
                cores=cores,
                share=answer / cores,
            )
        if answer != right:
            return _(
                "For {wanted} examples on {cores} cores {answer} would do, "
                "but {right} is the smallest that does.",
                wanted=wanted,
                cores=cores,
                answer=answer,
                right=right,
            )
    return ""


def _compiled(function, arguments, rights):
    """Return what is wrong with this function when XLA compiles it and it is called
    with each of these arguments.
    """
    import numpy as np
    import tensorflow as tf

    device, compiles = xla_device()
    step = tf.function(inspect.unwrap(function), jit_compile=compiles)
    for given, right in zip(arguments, rights, strict=True):
        try:
            with tf.device(device):
                answer = step(*given)
        except (
            tf.errors.InvalidArgumentError,
            tf.errors.UnimplementedError,
        ) as problem:
            return _(
                "The compiler refuses: {reason}.",
                reason=message(problem)[0].split(": (")[0][:160],
            )
        case = ", ".join(str(tensor.numpy().tolist()) for tensor in given)
        if np.shape(answer) != np.shape(right) or not np.allclose(
            answer, right, atol=1e-5
        ):
            return _(
                "For {case} it should return {right}, and returns {answer}.",
                case=case,
                right=right,
                answer=np.asarray(answer).tolist(),
            )
    if step.experimental_get_tracing_count() > 1:
        return _(
            "{count} programs were compiled; one should do.",
            count=step.experimental_get_tracing_count(),
        )
    return (
        ""
        if compiles
        else (
            _(
                "The numbers are right; whether it compiles needs a TPU or the "
                "ordinary TensorFlow."
            )
        )
    )


@exercise(2)
def mean_of_first(function):
    """Check exercise 2: `function(losses, count)` is the mean of the first `count`
    losses, by one program for all counts.
    """
    import tensorflow as tf

    losses = tf.constant([4.0, 2.0, 9.0, 1.0])
    function(losses, tf.constant(2))
    return _compiled(
        function, [(losses, tf.constant(n)) for n in (2, 4, 1, 3)], [3.0, 4.0, 4.0, 5.0]
    )


@exercise(3)
def largest_so_far(function):
    """Check exercise 3: `function(losses)` is the largest loss up to each position, and
    compiles.
    """
    import tensorflow as tf

    cases = [
        ([1.0, 3.0, 2.0, 5.0], [1.0, 3.0, 3.0, 5.0]),
        ([-4.0, -6.0, -1.0, -2.0], [-4.0, -4.0, -1.0, -1.0]),
    ]
    function(tf.constant(cases[0][0]))
    return _compiled(
        function,
        [(tf.constant(losses),) for losses, _ in cases],
        [right for _, right in cases],
    )
