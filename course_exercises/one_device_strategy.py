"""Checks of the exercises of notebook 01."""

import math

from course_exercises import exercise
from course_utils.devices import short_name
from course_utils.language import translated as _


@exercise(1)
def counter_on(make_counter, devices):
    """Check exercise 1: `make_counter(device)` returns a variable of value 0 that lives
    on `device`.
    """
    for device in reversed(devices):
        counter = make_counter(device)
        if not hasattr(counter, "assign_add"):
            return _(
                "{kind} is not a variable: a counter must be able to "
                "change. Use tf.Variable.",
                kind=type(counter).__name__,
            )
        place = short_name(counter.device)
        if place != device:
            return _(
                "For {device} the variable lives on {place}. Create it "
                "inside the strategy's scope.",
                device=device,
                place=place,
            )
        if float(counter.numpy()) != 0:
            return _(
                "The counter starts at {start:g} instead of 0.", start=counter.numpy()
            )
    return ""


@exercise(2)
def average_loss(function):
    """Check exercise 2: `function(per_example_loss, global_batch_size)` is a replica's
    share of the batch's mean loss.
    """
    import numpy as np

    # two replicas, and their examples' losses: both means are 4
    for losses in (([1, 3], [8]), ([2, 4, 3], [5, 6])):
        count = len(losses[0]) + len(losses[1])
        shares = [function(np.array(part, "float32"), count) for part in losses]
        shares = [np.asarray(share, float) for share in shares]
        if any(share.ndim for share in shares):
            return _(
                "It returns an array of shape {shape}; a replica's loss is one number.",
                shape=shares[0].shape,
            )
        total = float(sum(shares))
        if abs(total - sum(map(sum, losses))) <= 1e-6:
            return _(
                "The shares add up to the sum of all losses: nothing was "
                "divided by the global batch size."
            )
        if abs(total - sum(sum(part) / len(part) for part in losses)) <= 1e-6:
            return _(
                "You divided by the replica's own number of examples: two "
                "replicas add up to more than the mean loss."
            )
        if not abs(total - 4) <= 1e-6:  # also when it is NaN
            first, second = losses
            return _(
                "For losses {first} and {second} the shares must add up to "
                "their mean, 4; yours add up to {total:g}.",
                first=first,
                second=second,
                total=total,
            )
    return ""


@exercise(3)
def batch_loss(function, global_batch_size):
    """Check exercise 3: `function(labels, logits)` is the replica's share of the mean
    loss for this global batch size.
    """
    import numpy as np

    def loss(examples):
        return float(
            function(np.zeros(examples, "int64"), np.zeros((examples, 10), "float32"))
        )

    part = math.ceil(global_batch_size / 2)
    whole, half = loss(global_batch_size), loss(part)
    expected = np.log(10)  # the cross-entropy of ten equal logits
    if global_batch_size > 1 and abs(half - whole) < 1e-6:
        return _(
            "Half a batch gives the same loss as a whole one: you divide "
            "by what is there, not by the global batch."
        )
    expected_half = expected * part / global_batch_size
    # also when one is NaN
    if not abs(whole - expected) <= 1e-5 or not abs(half - expected_half) <= 1e-5:
        return _(
            "For ten equal logits the loss of a whole batch must be ln 10 "
            "= 2.303; yours is {whole:.3f}. That of {part} of its "
            "{global_batch_size} examples must be {expected_half:.3f}; "
            "yours is {half:.3f}.",
            whole=whole,
            part=part,
            global_batch_size=global_batch_size,
            expected_half=expected_half,
            half=half,
        )
    return ""


@exercise(4)
def check_moved_model(load, original, device):
    """Check exercise 4: `load(path, device)` returns the model saved at `path`, on
    `device`, with its optimizer.
    """
    import tempfile

    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.keras"
        original.save(path)
        model = load(path, device)
    if not hasattr(model, "get_weights"):
        return _("{kind} is not a model.", kind=type(model).__name__)
    weights, saved = model.get_weights(), original.get_weights()
    if len(weights) != len(saved) or any(
        not np.array_equal(a, b) for a, b in zip(weights, saved, strict=True)
    ):
        return _("The weights are not the saved ones.")
    places = {short_name(weight.value.device) for weight in model.trainable_variables}
    if places != {device}:
        return _(
            "The weights live on {places} instead of {device}: load inside a scope.",
            places=", ".join(sorted(places)),
            device=device,
        )
    optimizer = getattr(model, "optimizer", None)
    steps, expected = (
        int(optimizer.iterations) if optimizer else 0,
        int(original.optimizer.iterations),
    )
    if steps != expected:
        return _(
            "The optimizer has made {steps} steps instead of {expected}: "
            "its state was not loaded.",
            steps=steps,
            expected=expected,
        )
    return ""
