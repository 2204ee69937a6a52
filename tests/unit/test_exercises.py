"""The exercises' checks: what they say of right answers, of wrong ones, and of none."""

import functools
import itertools
import json
import math
import os
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import course_exercises as exercises
from course_exercises import (
    data_vs_model_parallelism,
    gpu_strategy,
    large_models,
    multi_worker_strategy,
    one_device_strategy,
    tpu_strategy,
)
from course_launcher import Outcome, WorkerError
from course_utils.data import make_dataset
from course_utils.model import build_model

MODULES = (
    data_vs_model_parallelism,
    one_device_strategy,
    gpu_strategy,
    multi_worker_strategy,
    tpu_strategy,
    large_models,
)


def boom(*_):
    raise RuntimeError("Broken. In two sentences. Or three.")


def scoped(device):
    return tf.distribute.OneDeviceStrategy(device).scope()


def counter(device, value=0.0):
    with scoped(device):
        return tf.Variable(value)


@functools.cache
def only_counter():
    return counter("CPU:1")


def sparse_loss(reduction=None, from_logits=True):
    return keras.losses.SparseCategoricalCrossentropy(
        from_logits=from_logits, reduction=reduction
    )


def average(losses):
    return tf.nn.compute_average_loss(losses, global_batch_size=8)


@pytest.fixture(scope="module")
def original():
    with scoped("CPU:1"):
        model = build_model(3)
        model.compile(keras.optimizers.Adam())
        model.optimizer.build(model.trainable_variables)
        model.optimizer.iterations.assign(3)
    return model


def load_on(path, device, **options):
    with scoped(device):
        return keras.models.load_model(path, **options)


def fresh(path, device):
    with scoped(device):
        return build_model(4)


def by_variable(average):
    """An answer that calls `average(parts, sizes)` for each variable.

    `parts` has the variable's gradient on each replica.
    """
    return lambda replicas, sizes: [
        average([np.asarray(part) for part in parts], sizes)
        for parts in zip(*replicas, strict=True)
    ]


def first_only(replicas, sizes):
    """The first variable's average with the sizes, the second one's without."""
    first, second = zip(*replicas, strict=True)
    return [weighted(first, sizes) / sum(sizes), sum(second) / len(second)]


def weighted(parts, sizes):
    return sum(size * part for size, part in zip(sizes, parts, strict=True))


def batches_of(global_batch_size):
    return make_dataset(np.zeros((256, 1)), np.zeros(256), global_batch_size)


@functools.cache
def mirrored(count):
    devices = [f"CPU:{i}" for i in range(count)]
    return tf.distribute.MirroredStrategy(devices, tf.distribute.ReductionToOneDevice())


def sizes_of(strategy, labels):
    return strategy.run(lambda mine: tf.shape(mine)[0], args=(labels,))


def left(parameters, devices, level):
    sizes = [(4 * parameters, 3), (4 * parameters, 2), (8 * parameters, 1)]
    return sum(size // (devices if level >= first else 1) for size, first in sizes)


def halves(x, W):
    return x[:, :3] @ W[:3], x[:, 3:] @ W[3:]


def both(function, timeout):
    """What `run_on_workers` would return, or raise, of an answer.

    The answer needs no second process.
    """
    try:
        return [function(), function()]
    except ValueError as problem:
        raised = [
            Outcome(f"worker {index}", "raised", "ValueError", str(problem))
            for index in range(2)
        ]
        raise WorkerError(0, raised) from None


def config(hosts, port, index, **task):
    addresses = [f"{host}:{port}" for host in hosts]
    return {
        "cluster": {"worker": addresses},
        "task": {"type": "worker", "index": index} | task,
    }


def in_turn(*values):
    """Answers one worker after the other."""
    return itertools.cycle(values).__next__


def growing(losses):
    found = losses[:1]
    for k in tf.range(1, len(losses)):
        tf.autograph.experimental.set_loop_options(
            shape_invariants=[(found, tf.TensorShape([None]))]
        )
        found = tf.concat([found, [tf.maximum(found[-1], losses[k])]], 0)
    return found


def largest(losses, least):
    places = tf.range(4)
    return tf.reduce_max(
        tf.where(places[:, None] >= places[None, :], losses[None, :], least), axis=1
    )


TODO = "Replace the `...`."
RAISED = "Your code raised RuntimeError: Broken. In two sentences."
WRONG = {
    "counter_on": [
        (lambda device: tf.constant(0.0), "EagerTensor is not a variable"),
        (lambda device: tf.Variable(0.0), "For CPU:1 the variable lives on CPU:0."),
        (lambda device: only_counter(), "For CPU:0 the variable lives on CPU:1."),
        (
            lambda device: counter(device, 1.5),
            "The counter starts at 1.5 instead of 0.",
        ),
    ],
    "average_loss": [
        (
            lambda losses, size: losses.sum(),
            "nothing was divided by the global batch size",
        ),
        (
            lambda losses, size: losses.mean(),
            "You divided by the replica's own number of examples",
        ),
        (lambda losses, size: losses / size, "It returns an array of shape (2,)"),
        (
            lambda losses, size: losses.sum() / size / 2,
            "their mean, 4; yours add up to 2.",
        ),
        (
            lambda losses, size: losses.sum() / 3,
            "For losses [2, 4, 3] and [5, 6] the shares must add up to",
        ),
    ],
    "batch_loss": [
        (
            sparse_loss("sum_over_batch_size"),
            "Half a batch gives the same loss as a whole one",
        ),
        (sparse_loss("sum"), "must be ln 10 = 2.303; yours is 18.421."),
        (
            lambda *batch: average(sparse_loss()(*batch)) / 2,
            "must be ln 10 = 2.303; yours is 1.151.",
        ),
        (
            lambda *batch: average(sparse_loss("sum_over_batch_size")(*batch)),
            "ValueError: Invalid value",
        ),
        (
            lambda *batch: (
                average(sparse_loss()(*batch)) if len(batch[0]) == 8 else np.nan
            ),
            "1.151; yours is nan",
        ),
    ],
    "check_moved_model": [
        (lambda path, device: path, "str is not a model."),
        (fresh, "The weights are not the saved ones."),
        (
            lambda path, device: keras.Sequential(load_on(path, device).layers[:1]),
            "not the saved ones.",
        ),
        (
            lambda path, device: load_on(path, "CPU:0"),
            "The weights live on CPU:0 instead of CPU:2",
        ),
        (
            lambda path, device: load_on(path, device, compile=False),
            "has made 0 steps instead of 3",
        ),
    ],
    "gradient_average": [
        (lambda replicas, sizes: 5.0, "It must return a list"),
        (
            by_variable(lambda parts, sizes: np.mean(parts)),
            "Each average must have its variable's shape",
        ),
        (
            by_variable(lambda parts, sizes: sum(parts)),
            "yours give 12: you added up, and never averaged",
        ),
        (
            by_variable(lambda parts, sizes: sum(parts) / 4),
            "yours give 3: you divided twice",
        ),
        (
            by_variable(lambda parts, sizes: weighted(parts, sizes)),
            "yours give 24: divide by the sum of the sizes",
        ),
        (
            by_variable(lambda parts, sizes: weighted(parts, sizes) / 4),
            "the average is 7; yours is 14",
        ),
        (first_only, "Two variables are not treated alike"),
        (by_variable(lambda parts, sizes: parts[0] * np.nan), "yours give nan"),
        (
            by_variable(lambda parts, sizes: sum(parts) / 2),
            "the average is 5; yours is 6: use the sizes",
        ),
    ],
    "ring_order": [
        (lambda device, step, n: device / n, "A chunk's number must be a whole number"),
        (lambda device, step, n: device - step, "device 0 sends chunk -1"),
        (lambda device, step, n: step, "two devices send the same chunk"),
        (
            lambda device, step, n: device,
            "which would add device 0's part a second time",
        ),
        (
            lambda device, step, n: (device + step) % n,
            "After 3 steps each device must hold one complete chunk",
        ),
        (
            lambda device, step, n: (device - step) % 4,
            "two devices send the same chunk",
        ),
    ],
    "micro_batches": [
        (lambda stages, idle: 27.5, "must be a whole number, not 27.5"),
        (lambda stages, idle: 0, "at least one micro-batch is needed"),
        (
            lambda stages, idle: 8,
            "With 4 stages and 8 micro-batches each still waits 27% of the time",
        ),
        (
            lambda stages, idle: 28,
            "28 are enough for 4 stages and 10%, but so are fewer",
        ),
        (
            lambda stages, idle: math.ceil((stages - 1) / idle),
            "30 are enough for 4 stages and 10%, but so are fewer",
        ),
    ],
    "state_bytes": [
        (
            lambda weights, devices, level: 4.5,
            "1,000 weights, 4 devices, ZeRO-0: bytes are a whole number",
        ),
        (
            lambda weights, devices, level: 16 * weights // devices,
            "ZeRO-0: you divide everything",
        ),
        (lambda weights, devices, level: 16 * weights, "ZeRO-1: you divide nothing"),
        (
            lambda weights, devices, level: left(weights, devices, min(level, 2)),
            "ZeRO-3: 4,000 bytes are left",
        ),
    ],
    "row_split": [
        (
            lambda x, W: tf.concat(halves(x, W), axis=1),
            "so the result must be (2, 4); yours is (2, 8).",
        ),
        (lambda x, W: x @ W, "but W was not split"),
        (lambda x, W: x @ W + 0 * sum(halves(x, W)), "but W was not split"),
        (lambda x, W: halves(x, W)[0], "the other half of every sum is missing"),
        (lambda x, W: sum(halves(x, W)) / 2, "partial sums are added, not averaged"),
        (
            lambda x, W: x[:, 3:] @ W[:3] + x[:, :3] @ W[3:],
            "each half of x's columns belongs to its half of W's rows",
        ),
    ],
    "dataset_for": [
        (lambda strategy, n: n, "int is not a tf.data.Dataset."),
        (
            lambda strategy, n: batches_of(n),
            "With 2 replicas and 8 examples for each, they get [4, 4]",
        ),
        (
            lambda strategy, n: batches_of(2 * n),
            "With 1 replica and 8 examples for each, they get [16]",
        ),
        (
            lambda strategy, n: batches_of(8 * strategy.num_replicas_in_sync),
            "and 24 examples for each, they get [8]",
        ),
    ],
    "examples_seen": [
        (
            lambda strategy, labels: int(sizes_of(strategy, labels)),
            "TypeError: int() argument must be",
        ),
        (
            lambda strategy, labels: 32,
            "A batch of 16 examples on 2 replicas: you count 32.",
        ),
        (
            lambda strategy, labels: sizes_of(strategy, labels).values[0],
            "A batch of 32 examples on 2 replicas",
        ),
        (
            lambda strategy, labels: strategy.reduce(
                "MEAN", sizes_of(strategy, labels), axis=None
            ),
            "you count 16.",
        ),
    ],
    "replica_loss": [
        (
            lambda a, w, p, real, n: (a * w).sum() / real + p,
            "your shares count the penalty 2 times: 16.",
        ),
        (lambda a, w, p, real, n: a.sum() / real + p / n, "the padding counts."),
        (
            lambda a, w, p, real, n: (a * w).sum() / (real + 1) + p / n,
            "divide by the real examples, without",
        ),
        (
            lambda a, w, p, real, n: (a * w).mean() + p,
            "your shares add up to 18 instead of 10.",
        ),
        (lambda a, w, p, real, n: (a * w).sum() / 3 + p / 2, "4 replicas, 3 real"),
        (lambda a, w, p, real, n: a * w / real, "has a dimension left"),
        (
            lambda a, w, p, real, n: 5.0 if n == 2 else 1.0,
            "your shares add up to 4 instead of 7.",
        ),
    ],
    "tf_config": [
        (config, "An environment variable is text, and you return a dict: json.dumps."),
        (
            lambda *answer: str(config(*answer)),
            "It is not JSON (Expecting property name",
        ),
        (
            lambda hosts, port, index: json.dumps(config(hosts, port, 0)),
            "'task' is {'type': 'worker', 'index': 0}",
        ),
        (
            lambda hosts, port, index: json.dumps(config(hosts, port, str(index))),
            "'index': '1'}, and should be",
        ),
        (
            lambda hosts, port, index: json.dumps(config(hosts, 1, index)),
            "'cluster' is {'worker': ['node-1:1'",
        ),
        (lambda hosts, port, index: json.dumps(hosts), "'cluster' is None"),
    ],
    "sum_over_workers": [
        (lambda: 6.0, "so both should return 12.0; they return [6.0, 6.0]."),
        (in_turn(12.0, 6.0), "they return [12.0, 6.0]."),
        (lambda: [12.0], "they return [[12.0], [12.0]]."),
        (
            lambda: int("x"),
            "On the workers: every worker raised ValueError: invalid literal",
        ),
    ],
    "how_often_to_save": [
        (lambda t, save, restart, m: save / t + t / 2 / m, "interval=131, save=10"),
        (
            lambda t, save, restart, m: save / t + (t + restart) / m,
            "half an interval, and a new start.",
        ),
        (
            lambda t, save, restart, m: "x",
            "What you return cannot be judged: TypeError",
        ),
    ],
    "fitting_batch": [
        (
            lambda wanted, cores: wanted,
            "100 examples on 8 cores are 12.5 for each, which is no multiple of 8.",
        ),
        (
            lambda wanted, cores: wanted // (8 * cores) * 8 * cores,
            "64 examples are fewer than the 100 wanted.",
        ),
        (
            lambda wanted, cores: (wanted // (8 * cores) + 1) * 8 * cores,
            "192 would do, but 128 is the smallest",
        ),
    ],
    "mean_of_first": [
        (
            lambda losses, count: tf.reduce_mean(losses),
            "2 it should return 3.0, and returns 4.0.",
        ),
        (
            lambda losses, count: tf.reduce_sum(losses) / tf.cast(count, "float32"),
            "return 3.0, and returns 8",
        ),
        (
            lambda losses, count: tf.reduce_mean(
                tf.where(tf.range(4) < count, losses, 0.0)
            ),
            "and returns 1.5.",
        ),
        (
            lambda losses, count: losses[0] * 0.75,
            "4 it should return 4.0, and returns 3.0",
        ),
        (
            lambda losses, count: tf.strings.to_number(tf.strings.as_string(losses[0])),
            "The compiler refuses: Detected",
        ),
    ],
    "largest_so_far": [
        (
            growing,
            "The compiler refuses: Input and output shapes of loop body do not match.",
        ),
        (
            lambda losses: losses,
            "should return [1.0, 3.0, 3.0, 5.0], and returns [1.0, 3.0, 2.0, 5.0].",
        ),
        (lambda losses: tf.sort(losses), "and returns [1.0, 2.0, 3.0, 5.0]."),
        (
            lambda losses: tf.fill([4], tf.reduce_max(losses)),
            "and returns [5.0, 5.0, 5.0, 5.0].",
        ),
        (
            lambda losses: largest(losses, 0.0),
            "For [-4.0, -6.0, -1.0, -2.0] it should return [-4.0",
        ),
    ],
}


def lost(interval, save, restart, between_failures):
    return save / interval + (interval / 2 + restart) / between_failures


RIGHT = {
    "state_bytes": [left],
    "counter_on": [counter, lambda device: counter(device, 0)],
    "average_loss": [
        lambda losses, size: losses.sum() / size,
        lambda losses, size: tf.nn.compute_average_loss(losses, global_batch_size=size),
    ],
    "batch_loss": [
        lambda *batch: average(sparse_loss()(*batch)),
        lambda *batch: sparse_loss("sum")(*batch) / 8,
    ],
    "check_moved_model": [load_on],
    "gradient_average": [
        by_variable(lambda parts, sizes: weighted(parts, sizes) / sum(sizes))
    ],
    "ring_order": [
        lambda device, step, n: (device - step) % n,
        lambda device, step, n: (device - step + 2) % n,
    ],
    "micro_batches": [
        lambda stages, idle: max(1, math.ceil((stages - 1) * (1 - idle) / idle - 1e-9))
    ],
    "row_split": [
        lambda x, W: sum(halves(x, W)),
        lambda x, W: sum(
            tf.einsum("ab,bc->ac", *both)
            for both in zip(tf.split(x, 2, axis=1), tf.split(W, 2), strict=True)
        ),
    ],
    "dataset_for": [lambda strategy, n: batches_of(n * strategy.num_replicas_in_sync)],
    "replica_loss": [
        lambda losses, weights, penalty, real, n: (
            (losses * weights).sum() / real + penalty / n
        )
    ],
    "examples_seen": [
        lambda strategy, labels: strategy.reduce(
            "SUM", sizes_of(strategy, labels), axis=None
        )
    ],
    "tf_config": [
        lambda *answer: json.dumps(config(*answer)),
        lambda *answer: json.dumps(config(*answer), indent=2),
    ],
    "sum_over_workers": [lambda: 12.0],
    "how_often_to_save": [lost],
    "fitting_batch": [
        lambda wanted, cores: math.ceil(wanted / (8 * cores)) * 8 * cores
    ],
    "mean_of_first": [
        lambda losses, count: (
            tf.reduce_sum(tf.where(tf.range(4) < count, losses, 0.0))
            / tf.cast(count, "float32")
        ),
        lambda losses, count: tf.cumsum(losses)[count - 1] / tf.cast(count, "float32"),
    ],
    "largest_so_far": [lambda losses: largest(losses, losses.dtype.min)],
}


def module_of(exercise):
    (module,) = (module for module in MODULES if hasattr(module, exercise))
    return module


@pytest.fixture
def verdict(capsys, original):
    """What a check prints about an answer."""
    rest = {
        "counter_on": (["CPU:0", "CPU:1"],),
        "batch_loss": (8,),
        "check_moved_model": (original, "CPU:2"),
        "dataset_for": ([mirrored(1), mirrored(2), mirrored(4)],),
        "examples_seen": (mirrored(2),),
        "sum_over_workers": (both,),
        "how_often_to_save": (lambda save, restart, m: (2 * save * m) ** 0.5,),
    }

    def verdict(exercise, answer):
        assert (
            getattr(module_of(exercise), exercise)(answer, *rest.get(exercise, ()))
            is None
        )
        return capsys.readouterr().out

    return verdict


def cases(answers):
    return [
        pytest.param(
            exercise,
            *(case if isinstance(case, tuple) else (case,)),
            id=f"{exercise}-{i}",
        )
        for exercise, given in answers.items()
        for i, case in enumerate(given)
    ]


@pytest.mark.parametrize("exercise, answer", cases(RIGHT))
def test_right_answer(verdict, exercise, answer):
    assert re.fullmatch(r"Exercise \d: ✓ right\n", verdict(exercise, answer))


def of_another_type(answer, kind):
    """What a learner may as well return.

    NumPy's or TensorFlow's number for Python's, a tuple for a list.
    """
    if isinstance(answer, list):
        return tuple(of_another_type(entry, kind) for entry in answer)
    return (
        {int: np.int64, float: np.float32}[type(answer)](answer)
        if kind == "NumPy"
        else tf.constant(answer)
    )


@pytest.mark.parametrize("kind", ["NumPy", "TensorFlow"])
@pytest.mark.parametrize(
    "exercise",
    ["ring_order", "micro_batches", "examples_seen", "replica_loss", "fitting_batch"],
)
def test_right_answer_of_another_type(verdict, exercise, kind):
    def answer(*given):
        value = RIGHT[exercise][0](*given)
        value = (
            value.numpy().item()
            if hasattr(value, "numpy")
            else value.item()
            if hasattr(value, "item")
            else value
        )
        return of_another_type(value, kind)

    assert "✓ right" in verdict(exercise, answer)


def test_right_tuples(verdict):
    assert "✓ right" in verdict(
        "gradient_average", lambda *given: tuple(RIGHT["gradient_average"][0](*given))
    )
    assert "✓ right" in verdict(
        "fitting_batch", lambda *given: float(RIGHT["fitting_batch"][0](*given))
    )


@pytest.mark.parametrize("value", ["5", 2.5, math.nan, math.inf, True, [5], np.ones(1)])
def test_no_whole_number(value):
    assert exercises.whole(value) is None


def test_what_the_check_cannot_judge_is_not_called_the_learners_fault(
    verdict, monkeypatch
):
    assert "What you return cannot be judged: TypeError: " in verdict(
        "average_loss", lambda *_: object()
    )
    monkeypatch.setattr(
        "course_planner.bubble_fraction", int
    )  # a fault of the check's own
    assert "What you return cannot be judged: TypeError: int() " in verdict(
        "micro_batches", lambda *_: 27
    )
    assert RAISED in verdict("micro_batches", functools.partial(boom))


@pytest.mark.parametrize("exercise, answer, reason", cases(WRONG))
def test_wrong_answer(verdict, exercise, answer, reason):
    said = verdict(exercise, answer)
    assert re.match(r"Exercise \d: not solved yet\. \S", said) and reason in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("exercise", WRONG)
def test_untouched_and_broken_answers(verdict, exercise):
    for answer in ..., None, lambda *_: ..., lambda *_: None:
        assert "not solved yet" in verdict(exercise, answer)
    assert exercise == "batch_loss" or verdict(exercise, lambda *_: ...).endswith(
        f" {TODO}\n"
    )
    assert RAISED in verdict(exercise, boom)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_exercises_are_numbered(verdict, module):
    numbers = [
        int(verdict(exercise, None)[9])
        for exercise in WRONG
        if module_of(exercise) is module
    ]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= 2


@pytest.mark.skipif(os.name == "nt", reason="worker processes need Linux or macOS")
def test_the_best_interval_between_two_saves(capsys):
    """The formula's share is what a simulation of failures loses.

    Another interval is not the best.
    """
    multi_worker_strategy.how_often_to_save(
        lost, lambda save, restart, m: 2 * (save * m) ** 0.5
    )
    assert (
        "least is lost with 657 seconds between two saves, and you say 930."
        in capsys.readouterr().out
    )
    random, save, restart, apart = np.random.default_rng(0), 10, 60, 21_600
    for interval in 200, 657, 2000:
        trained = spent = 0
        for until in random.exponential(apart, 4000):
            whole = int(until // (interval + save))
            trained, spent = trained + whole * interval, spent + until + restart
        assert 1 - trained / spent == pytest.approx(
            lost(interval, save, restart, apart), rel=0.08
        )


def test_sum_over_real_workers(capsys):
    def broken():
        mine = tf.constant(6.0)
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        return float(strategy.reduce("SUM", strategy.run(lambda: mine), axis=None))

    multi_worker_strategy.sum_over_workers(broken)
    assert (
        "Collective ops must be configured at program startup."
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("size", [1, 2, 65])
def test_batch_loss_at_any_size(size, capsys):
    def right(labels, logits):
        return tf.nn.compute_average_loss(
            sparse_loss("none")(labels, logits), global_batch_size=size
        )

    module_of("batch_loss").batch_loss(right, size)
    assert capsys.readouterr().out == "Exercise 3: ✓ right\n"
    module_of("batch_loss").batch_loss(lambda *batch: 2 * right(*batch), size)
    assert "not solved yet" in capsys.readouterr().out
