"""Checks of the exercises of notebook 00."""

import inspect

from course_utils.exercises import exercise, whole


@exercise("Exercise 1")
def gradient_average(function):
    """Exercise 1: `function(per_replica, sizes)` averages the gradients of shards that have these sizes."""
    import numpy as np

    shard_gradients = [[np.array([4 * k, 0], "float32"), np.float32(8 * k)] for k in (1, 2)]
    means = {}
    for sizes in (2, 2), (3, 1), (2, 6):
        answer = function(shard_gradients, list(sizes))
        if not isinstance(answer, (list, tuple)) or len(answer) != 2:
            return "It must return a list with one average for each variable; here there are two variables."
        if [np.shape(average) for average in answer] != [(2,), ()]:
            return "Each average must have its variable's shape: add up over the replicas, not over the numbers."
        means[sizes] = float(np.asarray(answer[0])[0]), float(np.asarray(answer[1]))
    equal = means[2, 2][0]
    if any(abs(twin - 2 * first) > 1e-5 for first, twin in means.values()):
        return "Two variables are not treated alike: the second one's gradients are twice the first one's here."
    for wrong, why in {12: "you added up, and never averaged", 3: "you divided twice"}.items():
        if abs(equal - wrong) < 1e-5:
            return f"Two equal shards with gradients 4 and 8 average to 6; yours give {wrong}: {why}."
    if abs(equal - 24) < 1e-5:
        return "Two equal shards with gradients 4 and 8 average to 6; yours give 24: divide by the sum of the sizes."
    if not abs(equal - 6) <= 1e-5:
        return f"Two equal shards with gradients 4 and 8 average to 6; yours give {equal:g}."
    for sizes, right in {(3, 1): 5, (2, 6): 7}.items():
        average, few = means[sizes][0], f"With {sizes[0]} examples at 4 and {sizes[1]} at 8 the average is {right}"
        if abs(average - 6) < 1e-5:
            return f"Right for equal shards. {few}; yours is 6: use the sizes."
        if not abs(average - right) <= 1e-5:
            return f"Right for equal shards. {few}; yours is {average:g}: divide by the sum of the sizes."
    return ""


@exercise("Exercise 2")
def ring_order(chunk_to_send):
    """Exercise 2: `chunk_to_send(device, step, num_devices)` is the chunk that goes to the next device."""
    for n in 4, 5:
        held = [[{device} for _ in range(n)] for device in range(n)]  # whose contributions each chunk contains
        for step in range(n - 1):
            chosen = [chunk_to_send(device, step, n) for device in range(n)]
            chosen, given = [whole(chunk) for chunk in chosen], chosen
            if None in chosen:
                return f"A chunk's number must be a whole number, not {given[chosen.index(None)]!r}."
            if any(not 0 <= chunk < n for chunk in chosen):
                device = next(d for d in range(n) if not 0 <= chosen[d] < n)
                return (
                    f"With {n} devices, in step {step} device {device} sends chunk {chosen[device]}, and there are "
                    f"only chunks 0 to {n - 1}: go round with % num_devices."
                )
            if len(set(chosen)) < n:
                return f"In step {step} two devices send the same chunk ({chosen}): each must send another one."
            arriving = [set(held[device][chosen[device]]) for device in range(n)]
            for device in range(n):
                receiver, chunk = (device + 1) % n, chosen[device]
                twice = held[receiver][chunk] & arriving[device]
                if twice:
                    return (
                        f"In step {step} device {device} sends chunk {chunk} to device {receiver}, which would add "
                        f"device {min(twice)}'s part a second time. After step 0, send what has just arrived."
                    )
                held[receiver][chunk] |= arriving[device]
        complete = [sum(len(chunk) == n for chunk in row) for row in held]
        if complete != [1] * n:
            return (
                f"After {n - 1} steps each device must hold one complete chunk; yours hold {complete}. What arrives "
                "in one step must travel on in the next."
            )
    return ""


@exercise("Exercise 3")
def micro_batches(function):
    """Exercise 3: `function(stages, idle)` is the least m for which (p - 1)/(m + p - 1) ≤ idle."""
    from course_utils.planner import bubble_fraction

    for stages, idle in (4, 0.1), (8, 0.25), (2, 0.5), (1, 0.1):
        answer = function(stages, idle)
        answer, given = whole(answer), answer
        if answer is None:
            return f"The number of micro-batches must be a whole number, not {given!r}: round up."
        if answer < 1:
            return f"For {stages} stage{'s' * (stages > 1)} it says {answer:g}: at least one micro-batch is needed."
        if bubble_fraction(stages, answer) > idle:
            share = bubble_fraction(stages, answer)
            return f"With {stages} stages and {answer:g} micro-batches each still waits {share:.0%} of the time."
        if answer > 1 and bubble_fraction(stages, answer - 1) <= idle:
            return f"{answer:g} are enough for {stages} stages and {idle:.0%}, but so are fewer."
    return ""


@exercise("Exercise 4")
def row_split(function):
    """Exercise 4: `function(x, W)` is x·W, computed from the halves of W by rows."""
    import numpy as np
    import tensorflow as tf

    x, W = np.arange(12.0).reshape(2, 6), np.arange(24.0).reshape(6, 4) % 5
    answer = function(tf.constant(x), tf.constant(W))
    if np.shape(answer) != (2, 4):
        return f"x is (2, 6) and W (6, 4), so the result must be (2, 4); yours is {np.shape(answer)}."
    if np.allclose(answer, x @ W):
        whole = "The numbers are right, but W was not split: add two products, each with half of W's rows."
        return "" if _products(function, x, W) == [(3, 4), (3, 4)] else whole
    if np.allclose(answer, x[:, :3] @ W[:3]) or np.allclose(answer, x[:, 3:] @ W[3:]):
        return "That is the part of one device: the other half of every sum is missing."
    if np.allclose(2 * np.asarray(answer), x @ W):
        return "Half of the right result: partial sums are added, not averaged."
    return "The shape is right, the numbers are not: each half of x's columns belongs to its half of W's rows."


def _products(function, x, W):
    """The shapes of what `function` multiplies by, in order of size: what it does is seen in its graph."""
    import tensorflow as tf

    step = tf.function(inspect.unwrap(function), autograph=False)
    operations = step.get_concrete_function(tf.constant(x), tf.constant(W)).graph.get_operations()
    products = [operation for operation in operations if operation.type in ("MatMul", "BatchMatMulV2", "Einsum")]
    return sorted(tuple(product.inputs[1].shape) for product in products)
