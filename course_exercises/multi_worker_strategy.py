"""Checks of the exercises of notebook 03."""

import inspect
import json

from course_exercises import Unanswered, exercise
from course_utils.errors import message


@exercise("Exercise 1")
def tf_config(function):
    """Check exercise 1: `function(hosts, port, index)` is the text of TF_CONFIG for
    that worker.
    """
    for hosts, port, index in (
        (["node-1", "node-2"], 2222, 1),
        (["a", "b", "c"], 8470, 0),
        (["a", "b", "c"], 8470, 2),
    ):
        text = function(list(hosts), port, index)
        if not isinstance(text, str):
            return (
                "An environment variable is text, and you return a "
                f"{type(text).__name__}: json.dumps."
            )
        try:
            config = json.loads(text)
        except ValueError as problem:
            return f"It is not JSON ({problem}): json.dumps writes it."
        right = {
            "cluster": {"worker": [f"{host}:{port}" for host in hosts]},
            "task": {"type": "worker", "index": index},
        }
        for key, value in right.items():
            answer = config.get(key) if isinstance(config, dict) else None
            if answer != value:
                return (
                    f"For {hosts}, port {port}, worker {index}, {key!r} is {answer}, "
                    f"and should be {value}."
                )
    return ""


@exercise("Exercise 2")
def check_worker_shard(function):
    """Check exercise 2: `function(examples, global_batch_size, num_workers, index)` is
    the data set of one worker's batches.

    Step k of all workers together must hold the k-th global batch, in equal parts.
    """
    import numpy as np
    import tensorflow as tf

    for count, batch, workers in (24, 8, 2), (24, 6, 3), (16, 4, 4):
        parts = [
            function(tf.data.Dataset.range(count), batch, workers, index)
            for index in range(workers)
        ]
        seen = [
            [np.atleast_1d(step).tolist() for step in each.as_numpy_iterator()]
            for each in parts
        ]
        case = f"{count} examples, global batch {batch}, {workers} workers"
        lengths = {len(each) for each in seen}
        if lengths != {count // batch}:
            return (
                f"{case}: an epoch has {count // batch} steps, and your workers make "
                f"{sorted(lengths)}."
            )
        for k, steps in enumerate(zip(*seen, strict=True)):
            if {len(step) for step in steps} != {batch // workers}:
                return (
                    f"{case}: in step {k} each should see {batch // workers} examples, "
                    f"and they see {list(steps)}."
                )
            if sorted(each for step in steps for each in step) != list(
                range(k * batch, (k + 1) * batch)
            ):
                return (
                    f"{case}: step {k} should hold {k * batch} to "
                    f"{(k + 1) * batch - 1}, and holds {list(steps)}."
                )
    return ""


@exercise("Exercise 3")
def sum_over_workers(function, run=None):
    """Check exercise 3: on two workers `function()` returns, on both, the sum of what
    both
    hold: 12.0.

    run: what runs it on two workers and returns both results; `launcher.run_on_workers`
        unless a test puts another.
    """
    import course_launcher as launcher

    try:
        answer = (run or launcher.run_on_workers)(inspect.unwrap(function), timeout=60)
    except launcher.WorkerError as problem:
        return f"On the workers: {message(problem)[0]}."
    if ... in answer or None in answer:
        raise Unanswered
    if answer != [12.0, 12.0]:
        return (
            "Each worker holds 1 + 2 + 3, so both should return 12.0; they return "
            f"{answer}."
        )
    return ""
