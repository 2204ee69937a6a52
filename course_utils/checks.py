"""Proofs, which stop the notebook when they fail, and exercise checks, which never do."""

import contextlib
import functools
import re

# ---- proofs ---------------------------------------------------------------------------------------------------------


def same(a, b, tolerance, what):
    """Print that `a` and `b` are equal to a tolerance, or raise AssertionError with the difference found.

    a, b: arrays (or numbers), or equally long lists of arrays of equal shapes, such as two `model.get_weights()`.
    tolerance: the largest absolute difference of two elements; 0 asks for the same bits.
    what: the claim, such as "weights on 4 replicas = weights on one device".
    """
    import numpy as np

    if tolerance < 0:
        raise ValueError(f"tolerance={tolerance!r}: must be 0 or more")
    a, b = ([np.asarray(x) for x in (y if isinstance(y, (list, tuple)) else [y])] for y in (a, b))
    if not a or [x.shape for x in a] != [x.shape for x in b]:
        raise AssertionError(f"{what}: ✗ shapes {[x.shape for x in a]} and {[x.shape for x in b]}")
    difference = max(float(np.max(np.abs(np.subtract(x, y, dtype=float)), initial=0)) for x, y in zip(a, b))
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

    Jupyter's tag for cells that raise is unknown to Colab, where «Run all» would stop at the first of them; so an
    error that the reader is meant to see is raised inside this. Raises AssertionError when the block raises nothing;
    another error passes through.
    """
    try:
        yield
    except error as problem:
        print(f"{type(problem).__name__}: {_opening(problem, sentences)}")
    else:
        raise AssertionError(f"this should have raised {error.__name__}, and did not")


def _opening(problem, sentences=1):
    """The first sentences of an error's text, without what changes from run to run (addresses, module paths)."""
    text = re.sub(r"\x1b\[\d+m", "", str(problem)).strip().split("\n")[0]
    text = re.sub(r"<[\w.]*?(\w+) object at 0x[0-9a-f]+>", r"<\1>", text)
    return " ".join(re.split(r"(?<=[.!?]) (?=[A-Z])", text)[:sentences])


# ---- exercises ------------------------------------------------------------------------------------------------------


def _exercise(title):
    """Make a function that returns why an answer is wrong (nothing if it is right) into one that prints the verdict."""

    def wrap(find_fault):
        @functools.wraps(find_fault)
        def check(*answer):
            try:
                fault = find_fault(*answer)
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
    if abs(total - 4) > 1e-6:
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
    if abs(whole - expected) > 1e-5 or abs(half - expected / 2) > 1e-5:
        return f"For ten equal logits the loss of a whole batch must be ln 10 = 2.303; yours is {whole:.3f}."
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
    if any(not np.array_equal(a, b) for a, b in zip(model.get_weights(), original.get_weights())):
        return "The weights are not the saved ones."
    places = {weight.value.device[-5:] for weight in model.trainable_variables}
    if places != {device}:
        return f"The weights live on {', '.join(sorted(places))} instead of {device}: load inside a scope."
    steps, expected = (int(m.optimizer.iterations) if m.optimizer else 0 for m in (model, original))
    if steps != expected:
        return f"The optimizer has made {steps} steps instead of {expected}: its state was not loaded."
    return ""
