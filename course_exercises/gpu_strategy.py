"""Checks of the exercises of notebook 02."""

from course_exercises import exercise, whole
from course_utils.language import counted, translated as _


def _batches(strategy, dataset):
    """Return how many examples each replica gets of the data set's first batch."""
    first = next(iter(strategy.experimental_distribute_dataset(dataset)))
    return [len(part) for part in strategy.experimental_local_results(first[0])]


@exercise(1)
def dataset_for(function, strategies):
    """Check exercise 1: `function(strategy, per_replica_batch_size)` is a data set that
    gives each replica that many.
    """
    for strategy in strategies:
        for wanted in 8, 24:
            dataset = function(strategy, wanted)
            if not hasattr(dataset, "element_spec"):
                return _(
                    "{kind} is not a tf.data.Dataset.", kind=type(dataset).__name__
                )
            answer, count = _batches(strategy, dataset), strategy.num_replicas_in_sync
            if answer != [wanted] * count:
                return _(
                    "With {replicas} and {wanted} examples for each, they get "
                    "{answer}: the data set's batch is the global one, of "
                    "{global_batch_size} examples here.",
                    replicas=counted(count, "replica", "replicas"),
                    wanted=wanted,
                    answer=answer,
                    global_batch_size=count * wanted,
                )
    return ""


@exercise(2)
def examples_seen(function, strategy):
    """Check exercise 2: `function(strategy, labels)` counts the examples of one batch
    on all replicas, as one number.
    """
    import tensorflow as tf

    for batch in (
        32,
        8 * strategy.num_replicas_in_sync,
        3 * strategy.num_replicas_in_sync,
    ):
        dataset = tf.data.Dataset.range(batch).batch(batch)
        answer = function(
            strategy, next(iter(strategy.experimental_distribute_dataset(dataset)))
        )
        if whole(answer) != batch:
            return _(
                "A batch of {batch} examples on {num_replicas} "
                "replicas: you count {answer}.",
                batch=batch,
                num_replicas=strategy.num_replicas_in_sync,
                answer=answer,
            )
    return ""


@exercise(3)
def replica_loss(function):
    """Check exercise 3: `function(losses, weights, penalty, num_real, num_replicas)` is
    a replica's share of the loss.

    The shares of all replicas must add up to the mean loss of the real examples (weight
    1) plus the penalty, once.
    """
    import numpy as np

    cases = [  # losses and weights of each replica, penalty
        ([([1.0, 3.0], [1.0, 1.0]), ([8.0, 5.0], [1.0, 0.0])], 6.0),
        ([([2.0], [1.0]), ([4.0], [1.0]), ([9.0], [1.0]), ([7.0], [0.0])], 2.0),
    ]
    for shards, penalty in cases:
        shards = [(np.array(losses), np.array(weights)) for losses, weights in shards]
        losses, weights = (np.concatenate(part) for part in zip(*shards, strict=True))
        real, count = int(weights.sum()), len(shards)
        shares = [
            function(mine, theirs, penalty, real, count) for mine, theirs in shards
        ]
        if any(np.ndim(part) for part in shares):
            return _("A replica's loss is one number; yours has a dimension left.")
        answer, mean = float(sum(shares)), float((losses * weights).sum() / real)
        if abs(answer - mean - penalty) <= 1e-6:
            continue
        story = _(
            "{count} replicas, {real} real examples of {examples}: mean "
            "loss {mean:g}, penalty {penalty:g}",
            count=count,
            real=real,
            examples=len(losses),
            mean=mean,
            penalty=penalty,
        )
        if abs(answer - mean - count * penalty) <= 1e-6:
            return _(
                "{story}; your shares count the penalty {count} times: {answer:g}.",
                story=story,
                count=count,
                answer=answer,
            )
        if abs(answer - losses.sum() / real - penalty) <= 1e-6:
            return _(
                "{story}; your shares add up to {answer:g}: the padding counts.",
                story=story,
                answer=answer,
            )
        if abs(answer - mean * real / len(losses) - penalty) <= 1e-6:
            return _(
                "{story}; your shares add up to {answer:g}: divide by the "
                "real examples, without the padding.",
                story=story,
                answer=answer,
            )
        return _(
            "{story}; your shares add up to {answer:g} instead of {right:g}.",
            story=story,
            answer=answer,
            right=mean + penalty,
        )
    return ""
