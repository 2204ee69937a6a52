"""Proofs, which stop the notebook when they fail, and exercise checks, which never do."""

import contextlib
import functools
import re

# ---- proofs ---------------------------------------------------------------------------------------------------------


def same(a, b, tolerance, what):
    """Print that `a` and `b` are equal to a tolerance, or raise AssertionError with the difference found.

    a, b: arrays (or numbers), or equally long lists of arrays of equal shapes, such as two `model.get_weights()`.
    tolerance: the largest absolute difference of two elements; 0 asks for equal numbers.
    what: the claim, such as "weights on 4 replicas = weights on one device".
    """
    import numpy as np

    if tolerance < 0:
        raise ValueError(f"tolerance={tolerance!r}: must be 0 or more")
    a, b = ([np.asarray(x) for x in (y if isinstance(y, (list, tuple)) else [y])] for y in (a, b))
    if not a or [x.shape for x in a] != [x.shape for x in b]:
        raise AssertionError(f"{what}: ✗ shapes {[x.shape for x in a]} and {[x.shape for x in b]}")
    difference = np.max([np.max(np.abs(np.subtract(x, y, dtype=float)), initial=0) for x, y in zip(a, b)])
    if not difference <= tolerance:  # also when it is NaN
        raise AssertionError(f"{what}: ✗ max |Δ| = {difference:.3g}, which is not ≤ {tolerance:g}")
    print(f"{what}: {'bit-identical' if tolerance == 0 else f'max |Δ| ≤ {tolerance:g}'} ✓")


def holds(condition, what):
    """Print the claim `what` when the condition is true, or raise AssertionError."""
    if not condition:
        raise AssertionError(f"{what}: ✗ this does not hold here")
    print(f"{what} ✓")


@contextlib.contextmanager
def raises(error, sentences=1):
    """Run the block, which must raise `error`, and print the error as Python would: its name, and its first sentences.

    Used instead of Jupyter's tag `raises-exception`, which we have not been able to try on Colab: where a front end
    ignores the tag, «Run all» stops at the first such cell; and no front end notices when the error stops coming.
    Raises AssertionError when the block raises nothing; another error passes through.
    """
    try:
        yield
    except error as problem:
        print(f"{type(problem).__name__}: {_opening(problem, sentences)}")
    else:
        raise AssertionError(f"this should have raised {error.__name__}, and did not")


def _opening(problem, sentences=1):
    """The first sentences of an error's text, without what differs from run to run and from one build to another."""
    text = re.sub(r"\x1b\[[\d;]*m", "", str(problem)).strip().split("\n")[0]
    text = re.sub(r"\{\{function_node .*?\}\} | \[Op:.*", "", text)
    text = re.sub(r"<[\w.]*?(\w+) object at 0x[0-9a-f]+>", r"<\1>", text)
    return " ".join(re.split(r"(?<=[.!?]) (?=[A-Z])", text)[:sentences])


# ---- exercises ------------------------------------------------------------------------------------------------------


def _exercise(title):
    """Make a function that returns why an answer is wrong (nothing if it is right) into one that prints the verdict."""

    def wrap(find_fault):
        @functools.wraps(find_fault)
        def check(*answer, **named):
            try:
                fault = find_fault(*answer, **named)
            except Exception as problem:
                fault = f"Your code raised {type(problem).__name__}: {_opening(problem, 2)}"
            print(f"{title}: ✓ right" if not fault else f"{title}: not solved yet. {fault}")

        return check

    return wrap


def _missing(answer):
    return "Replace the `...`." if answer is ... or answer is None else ""


@_exercise("Exercise 1")
def counter_on(make_counter, devices):
    """01, exercise 1: `make_counter(device)` returns a variable of value 0 that lives on `device`."""
    for device in reversed(devices):
        counter = make_counter(device)
        if _missing(counter):
            return _missing(counter)
        if not hasattr(counter, "assign_add"):
            return f"{type(counter).__name__} is not a variable: a counter must be able to change. Use tf.Variable."
        if not counter.device.endswith(device):
            return f"For {device} the variable lives on {counter.device[-5:]}. Create it inside the strategy's scope."
        if float(counter.numpy()) != 0:
            return f"The counter starts at {counter.numpy():g} instead of 0."
    return ""


@_exercise("Exercise 2")
def average_loss(function):
    """01, exercise 2: `function(per_example_loss, global_batch_size)` is a replica's share of the batch's mean loss."""
    import numpy as np

    shards = np.array([1, 3], "float32"), np.array([8], "float32")  # two replicas, a global batch of 3, mean loss 4
    shares = [function(shard, 3) for shard in shards]
    if any(_missing(share) for share in shares):
        return "Replace the `...`."
    shares = [np.asarray(share, float) for share in shares]
    if any(share.ndim for share in shares):
        return f"It returns an array of shape {shares[0].shape}; a replica's loss is one number."
    total = float(sum(shares))
    if total == 12:
        return "The shares add up to the sum of all losses: nothing was divided by the global batch size."
    if total == 10:
        return "You divided by the replica's own number of examples: two replicas add up to more than the mean loss."
    if not abs(total - 4) <= 1e-6:  # also when it is NaN
        return f"For losses [1, 3] and [8] the shares must add up to their mean, 4; yours add up to {total:g}."
    return ""


@_exercise("Exercise 3")
def batch_loss(function, global_batch_size):
    """01, exercise 3: `function(labels, logits)` is the replica's share of the mean loss for this global batch size."""
    import numpy as np

    labels = np.zeros(global_batch_size, "int64")
    logits = np.tile(np.array([[0.0] * 10], "float32"), (global_batch_size, 1))
    whole, half = (float(function(labels[:n], logits[:n])) for n in (global_batch_size, global_batch_size // 2))
    expected = np.log(10)  # the cross-entropy of ten equal logits
    if abs(half - whole) < 1e-6:
        return "Half a batch gives the same loss as a whole one: you divide by what is there, not by the global batch."
    if not max(abs(whole - expected), abs(half - expected / 2)) <= 1e-5:
        return (
            f"For ten equal logits the loss of a whole batch must be ln 10 = 2.303; yours is {whole:.3f}. "
            f"That of half a batch must be half of it; yours is {half:.3f}."
        )
    return ""


@_exercise("Exercise 4")
def moved(load, original, device):
    """01, exercise 4: `load(path, device)` returns the model saved at `path`, on `device`, with its optimizer."""
    import tempfile

    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.keras"
        original.save(path)
        model = load(path, device)
    if _missing(model):
        return _missing(model)
    if not hasattr(model, "get_weights"):
        return f"{type(model).__name__} is not a model."
    found, saved = model.get_weights(), original.get_weights()
    if len(found) != len(saved) or any(not np.array_equal(a, b) for a, b in zip(found, saved)):
        return "The weights are not the saved ones."
    places = {weight.value.device[-5:] for weight in model.trainable_variables}
    if places != {device}:
        return f"The weights live on {', '.join(sorted(places))} instead of {device}: load inside a scope."
    optimizer = getattr(model, "optimizer", None)
    steps, expected = int(optimizer.iterations) if optimizer else 0, int(original.optimizer.iterations)
    if steps != expected:
        return f"The optimizer has made {steps} steps instead of {expected}: its state was not loaded."
    return ""


@_exercise("Exercise 1")
def gradient_average(function):
    """00, exercise 1: `function(per_replica, sizes)` averages the gradients of shards that have these sizes."""
    import numpy as np

    shard_gradients = [[np.array([4 * k, 0], "float32"), np.float32(8 * k)] for k in (1, 2)]
    means = {}
    for sizes in (2, 2), (3, 1):
        answer = function(shard_gradients, list(sizes))
        if _missing(answer):
            return _missing(answer)
        if not isinstance(answer, (list, tuple)) or len(answer) != 2:
            return "It must return a list with one average for each variable; here there are two variables."
        if [np.shape(average) for average in answer] != [(2,), ()]:
            return "Each average must have its variable's shape: add up over the replicas, not over the numbers."
        means[sizes] = float(np.asarray(answer[0])[0]), float(np.asarray(answer[1]))
    (equal, twin), (unequal, _) = means[2, 2], means[3, 1]
    if abs(twin - 2 * equal) > 1e-5:
        return "Two variables are not treated alike: the second one's gradients are twice the first one's here."
    if abs(equal - 12) < 1e-5:
        return "Two equal shards with gradients 4 and 8 average to 6; yours give 12: you added up, and never averaged."
    if abs(equal - 3) < 1e-5:
        return "Two equal shards with gradients 4 and 8 average to 6; yours give 3: you divided twice."
    if abs(equal - 24) < 1e-5:
        return "Two equal shards with gradients 4 and 8 average to 6; yours give 24: divide by the sum of the sizes."
    if abs(equal - 6) > 1e-5:
        return f"Two equal shards with gradients 4 and 8 average to 6; yours give {equal:g}."
    if abs(unequal - 6) < 1e-5:
        return "Right for equal shards. With 3 examples at 4 and 1 at 8 the average is 5; yours is 6: use the sizes."
    if abs(unequal - 5) > 1e-5:
        return f"Right for equal shards. With 3 examples at 4 and 1 at 8 the average is 5; yours is {unequal:g}."
    return ""


@_exercise("Exercise 2")
def ring_order(chunk_to_send):
    """00, exercise 2: `chunk_to_send(device, step, num_devices)` is the chunk that goes to the next device."""
    import numbers

    for n in 4, 5:
        held = [[{device} for _ in range(n)] for device in range(n)]  # whose contributions each chunk contains
        for step in range(n - 1):
            chosen = [chunk_to_send(device, step, n) for device in range(n)]
            if any(_missing(chunk) for chunk in chosen):
                return "Replace the `...`."
            if any(not isinstance(chunk, numbers.Integral) for chunk in chosen):
                return f"A chunk's number must be a whole number, not {chosen[0]!r}."
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


@_exercise("Exercise 3")
def micro_batches(function):
    """00, exercise 3: `function(stages, idle)` is the least m for which (p - 1)/(m + p - 1) ≤ idle."""
    from course_utils.planner import pipeline_idle_share

    for stages, idle in (4, 0.1), (8, 0.25), (2, 0.5), (1, 0.1):
        found = function(stages, idle)
        if _missing(found):
            return _missing(found)
        if found != found or found != int(found):
            return f"The number of micro-batches must be a whole number, not {found!r}: round up."
        if found < 1:
            return f"For {stages} stage{'s' * (stages > 1)} it says {found:g}: at least one micro-batch is needed."
        if pipeline_idle_share(stages, int(found)) > idle:
            share = pipeline_idle_share(stages, int(found))
            return f"With {stages} stages and {found:g} micro-batches each still waits {share:.0%} of the time."
        if found > 1 and pipeline_idle_share(stages, int(found) - 1) <= idle:
            return f"{found:g} are enough for {stages} stages and {idle:.0%}, but so are fewer."
    return ""


@_exercise("Exercise 4")
def row_split(function):
    """00, exercise 4: `function(x, W)` is x·W, computed from the halves of W by rows."""
    import numpy as np
    import tensorflow as tf

    x, W = np.arange(12.0).reshape(2, 6), np.arange(24.0).reshape(6, 4) % 5
    answer = function(tf.constant(x), tf.constant(W))
    if _missing(answer):
        return _missing(answer)
    if np.shape(answer) != (2, 4):
        return f"x is (2, 6) and W (6, 4), so the result must be (2, 4); yours is {np.shape(answer)}."
    if np.allclose(answer, x @ W):
        return ""
    if np.allclose(answer, x[:, :3] @ W[:3]) or np.allclose(answer, x[:, 3:] @ W[3:]):
        return "That is the part of one device: the other half of every sum is missing."
    if np.allclose(2 * np.asarray(answer), x @ W):
        return "Half of the right result: partial sums are added, not averaged."
    return "The shape is right, the numbers are not: each half of x's columns belongs to its half of W's rows."
