"""Checks of the exercises of notebook 00."""

import inspect

from course_exercises import exercise
from course_utils.language import translated as _


@exercise(1)
def gradient_average(function):
    """Check exercise 1: `function(per_replica, sizes)` averages the gradients of shards
    that have these sizes.
    """
    import numpy as np

    shard_gradients = [
        [np.array([4 * k, 0], "float32"), np.float32(8 * k)] for k in (1, 2)
    ]
    means = {}
    for sizes in (2, 2), (3, 1), (2, 6):
        answer = function(shard_gradients, list(sizes))
        if not isinstance(answer, (list, tuple)) or len(answer) != 2:
            return _(
                "It must return a list with one average for each variable; "
                "here there are two variables."
            )
        if [np.shape(average) for average in answer] != [(2,), ()]:
            return _(
                "Each average must have its variable's shape: add up over "
                "the replicas, not over the numbers."
            )
        means[sizes] = float(np.asarray(answer[0])[0]), float(np.asarray(answer[1]))
    if any(abs(twin - 2 * first) > 1e-5 for first, twin in means.values()):
        return _(
            "Two variables are not treated alike: the second one's "
            "gradients are twice the first one's here."
        )
    return _equal_shards(means[2, 2][0]) or _unequal_shards(means)


def _equal_shards(average):
    """Return what is wrong with this average of two equal shards, whose it is 6."""
    if abs(average - 6) <= 1e-5:
        return ""
    reasons = {
        12: _(": you added up, and never averaged"),
        3: _(": you divided twice"),
        24: _(": divide by the sum of the sizes"),
    }
    near = [why for wrong, why in reasons.items() if abs(average - wrong) < 1e-5]
    why = near[0] if near else ""
    return _(
        "Two equal shards with gradients 4 and 8 average to 6; yours give "
        "{average:g}{why}.",
        average=average,
        why=why,
    )


def _unequal_shards(means):
    """Return what is wrong with these averages of shards of other sizes."""
    for sizes, right in {(3, 1): 5, (2, 6): 7}.items():
        average = means[sizes][0]
        few = _(
            "With {first} examples at 4 and {second} at 8 the average is {right}",
            first=sizes[0],
            second=sizes[1],
            right=right,
        )
        if abs(average - 6) < 1e-5:
            return _(
                "Right for equal shards. {few}; yours is 6: use the sizes.", few=few
            )
        if not abs(average - right) <= 1e-5:
            return _(
                "Right for equal shards. {few}; yours is {average:g}: "
                "divide by the sum of the sizes.",
                few=few,
                average=average,
            )
    return ""


@exercise(2)
def row_split(function):
    """Check exercise 2: `function(x, W)` is x·W, from the halves of W by rows."""
    import numpy as np
    import tensorflow as tf

    x, W = np.arange(12.0).reshape(2, 6), np.arange(24.0).reshape(6, 4) % 5
    answer = function(tf.constant(x), tf.constant(W))
    if np.shape(answer) != (2, 4):
        return _(
            "x is (2, 6) and W (6, 4), so the result must be (2, 4); yours is {shape}.",
            shape=np.shape(answer),
        )
    if np.allclose(answer, x @ W):
        whole = _(
            "The numbers are right, but W was not split: add two products, "
            "each with half of W's rows."
        )
        return "" if _products(function, x, W) == [(3, 4), (3, 4)] else whole
    if np.allclose(answer, x[:, :3] @ W[:3]) or np.allclose(answer, x[:, 3:] @ W[3:]):
        return _(
            "That is the part of one device: the other half of every sum is missing."
        )
    if np.allclose(2 * np.asarray(answer), x @ W):
        return _("Half of the right result: partial sums are added, not averaged.")
    return _(
        "The shape is right, the numbers are not: each half of x's columns "
        "belongs to its half of W's rows."
    )


def _products(function, x, W):
    """Return the shapes of what `function` multiplies by, in order of size: what it
    does is seen in its graph.
    """
    import tensorflow as tf

    step = tf.function(inspect.unwrap(function), autograph=False)
    operations = step.get_concrete_function(
        tf.constant(x), tf.constant(W)
    ).graph.get_operations()
    products = [
        operation
        for operation in operations
        if operation.type in ("MatMul", "BatchMatMulV2", "Einsum")
    ]
    return sorted(tuple(product.inputs[1].shape) for product in products)
