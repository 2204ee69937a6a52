"""Checks of the exercises of notebook 04."""

import inspect
import math

from course_exercises import exercise, whole
from course_utils.errors import message
from course_utils.tpu import xla_device


@exercise("Exercise 1")
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
            return f"A batch is a whole number of examples, and you return {given!r}."
        if answer < wanted:
            return f"{answer} examples are fewer than the {wanted} wanted."
        if answer % (8 * cores):
            return (
                f"{answer} examples on {cores} cores are {answer / cores:g} for each, "
                "which is no multiple of 8."
            )
        if answer != right:
            return (
                f"For {wanted} examples on {cores} cores {answer} would do, but "
                f"{right} is the smallest that does."
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
            return f"The compiler refuses: {message(problem)[0].split(': (')[0][:160]}."
        case = ", ".join(str(tensor.numpy().tolist()) for tensor in given)
        if np.shape(answer) != np.shape(right) or not np.allclose(
            answer, right, atol=1e-5
        ):
            return (
                f"For {case} it should return {right}, and returns "
                f"{np.asarray(answer).tolist()}."
            )
    if step.experimental_get_tracing_count() > 1:
        return (
            f"{step.experimental_get_tracing_count()} programs were compiled; one "
            "should do."
        )
    return (
        ""
        if compiles
        else (
            "The numbers are right; whether it compiles needs a TPU or the ordinary "
            "TensorFlow."
        )
    )


@exercise("Exercise 2")
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


@exercise("Exercise 3")
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
