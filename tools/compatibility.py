"""What works together: strategy, way of training, option. Each combination is run in a
process of its own.

usage: python -m tools.compatibility
           run all here, store what is seen, and write docs/compatibility.md
       python -m tools.compatibility --check [WORDS ...]
           run all here, or those whose names hold all the words; change nothing; exit
           with 1 where something else is seen
       python -m tools.compatibility WORDS ...
           run those whose names hold all the words, and print what is seen

"Here" is the environment whose Python runs this: what is seen is stored under its
versions of TensorFlow and Keras. ✓ means: 8 steps end with the weights of 8 plain steps
without a strategy, at the same global batch.
"""

# TensorFlow's functions take more than their types say.
# pyright: reportArgumentType=false, reportOperatorIssue=false

import argparse
import contextlib
import datetime
import importlib.metadata
import itertools
import json
import multiprocessing.pool
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ["-m", "tools.compatibility"]
STORED = pathlib.Path(__file__).with_suffix(".json")
MARKS = "<!-- written by tools/compatibility.py -->", "<!-- end -->"

STRATEGIES = {
    "none": "no strategy",
    "OneDevice": "`OneDeviceStrategy`",
    "Mirrored": "`MirroredStrategy`, 2 logical devices, its own all-reduce",
    "Gathering": "the same with `ReductionToOneDevice`",
    "MultiWorker": "`MultiWorkerMirroredStrategy`, 2 processes",
    "ParameterServer": "`ParameterServerStrategy`, 1 worker",
    "DataParallel": "`keras.distribution.DataParallel` on JAX, 2 devices",
    "ModelParallel": "`keras.distribution.ModelParallel` on JAX, kernels cut in 2",
}
ON_JAX = "DataParallel", "ModelParallel"
WAYS = {"fit": "`fit`", "loop": "custom loop", "tf_keras": "`tf_keras` `fit`"}
OPTIONS = (
    "plain",
    "XLA",
    "mixed precision",
    "several steps a call",
    "gradient accumulation",
)
BATCHES, BATCH_SIZE, SEVERAL, RATE = 8, 32, 4, 0.1
TOLERANCE = {"mixed precision": 0.02}  # bfloat16 has three digits
LONGEST = 300  # seconds for one combination


def batches(batch_size):
    import numpy as np
    import tensorflow as tf

    numbers = np.random.default_rng(0)
    images = numbers.normal(size=(BATCHES * BATCH_SIZE, 16)).astype("float32")
    labels = numbers.integers(4, size=len(images))
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(
        batch_size, drop_remainder=True
    )


def new_model(keras, option):
    if option == "mixed precision":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    import numpy as np

    model = keras.Sequential(
        [
            keras.Input((16,)),
            keras.layers.Dense(8, "relu"),
            keras.layers.Dense(4),
            keras.layers.Activation("linear", dtype="float32"),
        ]
    )
    numbers = np.random.default_rng(1)  # the same on each backend
    drawn = [numbers.normal(size=one.shape, scale=0.3) for one in model.weights]
    model.set_weights(drawn)
    return model


def fit(strategy, option, batch_size, keras):
    """Train with `keras.Model.fit`, of Keras 3 or Keras 2."""
    twice = (
        {"gradient_accumulation_steps": 2} if option == "gradient accumulation" else {}
    )
    scope = getattr(strategy, "scope", contextlib.nullcontext)
    with scope():
        model = new_model(keras, option)
        model.compile(
            keras.optimizers.SGD(RATE, **twice),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=option == "XLA",
            steps_per_execution=SEVERAL if option == "several steps a call" else 1,
        )
    model.fit(
        batches(batch_size),
        steps_per_epoch=BATCHES * BATCH_SIZE // batch_size,
        verbose=0,
    )
    return model.get_weights()


def loop(strategy, option, batch_size):
    """Train with the course's step; gradient accumulation is two halves of a batch,
    added up.
    """
    import keras
    import tensorflow as tf

    accumulate, several = (
        option == "gradient accumulation",
        SEVERAL if option == "several steps a call" else 1,
    )
    batch_size *= 1 + accumulate
    with strategy.scope():
        model, optimizer = new_model(keras, option), keras.optimizers.SGD(RATE)
        optimizer.build(model.trainable_variables)
    per_example = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="none"
    )

    def gradients(images, labels):
        with tf.GradientTape() as tape:
            losses = per_example(labels, model(images, training=True))
            loss = tf.nn.compute_average_loss(losses, global_batch_size=batch_size)
        return tape.gradient(loss, model.trainable_variables)

    def step(images, labels):
        if accumulate:
            halves = (
                gradients(images[::2], labels[::2]),
                gradients(images[1::2], labels[1::2]),
            )
            found = [one + two for one, two in zip(*halves, strict=True)]
        else:
            found = gradients(images, labels)
        optimizer.apply_gradients(zip(found, model.trainable_variables, strict=True))

    step = tf.function(step, jit_compile=option == "XLA")

    @tf.function
    def call(iterator):
        for _ in tf.range(several):
            strategy.run(step, args=next(iterator))

    calls = BATCHES * BATCH_SIZE // batch_size // several
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
        iterator = iter(
            coordinator.create_per_worker_dataset(lambda: batches(batch_size))
        )
        # one at a time: then even asynchronous training has one outcome
        for _ in range(calls):
            coordinator.schedule(call, args=(iterator,))
            coordinator.join()
    else:
        iterator = iter(strategy.experimental_distribute_dataset(batches(batch_size)))
        for _ in range(calls):
            call(iterator)
    return model.get_weights()


def trained(strategy, way, option, batch_size=BATCH_SIZE):
    if way == "loop":
        return loop(strategy, option, batch_size)
    return fit(
        strategy,
        option,
        batch_size,
        __import__("tf_keras" if way == "tf_keras" else "keras"),
    )


def on_workers(way, option):
    import tensorflow as tf

    return trained(tf.distribute.MultiWorkerMirroredStrategy(), way, option)


def with_parameter_server(way, option):
    import tensorflow as tf

    config = json.loads(os.environ["TF_CONFIG"])
    index = config["task"]["index"]
    roles = ("chief", "ps", "worker")
    cluster = {
        role: [address]
        for role, address in zip(roles, config["cluster"]["worker"], strict=True)
    }
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": cluster, "task": {"type": roles[index], "index": 0}}
    )
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if index == 0:
        return trained(tf.distribute.ParameterServerStrategy(resolver), way, option)
    tf.distribute.Server(
        resolver.cluster_spec(), roles[index], 0, protocol="grpc"
    ).join()


def on_jax(name, option, batch_size):
    """Train by `fit` in a process that `seen` has told to use JAX on two devices."""
    import keras

    distribution = keras.distribution
    devices = distribution.list_devices()
    if name == "DataParallel":
        chosen = distribution.DataParallel(devices=devices)
    else:
        mesh = distribution.DeviceMesh((len(devices),), ("model",), devices)
        layouts = distribution.LayoutMap(mesh)
        layouts[".*kernel$"] = (None, "model")
        chosen = distribution.ModelParallel(layout_map=layouts)
    distribution.set_distribution(chosen)
    return fit(None, option, batch_size, keras)


def one(name, way, option, batch_size):
    """Return the weights after 8 steps, as one list of numbers."""
    import numpy as np

    import course_launcher as launcher
    from course_utils.devices import logical_devices

    if name == "MultiWorker":
        weights = launcher.run_on_workers(
            on_workers, way, option, timeout=LONGEST - 20
        )[0]
    elif name == "ParameterServer":
        work = (with_parameter_server, way, option)
        weights = launcher.run_on_workers(
            *work, workers=3, coordinated=True, timeout=LONGEST - 20
        )[0]
    elif name in ON_JAX:
        weights = on_jax(name, option, batch_size)
    else:
        devices = logical_devices(
            2 if name in ("Mirrored", "Gathering") else 1, kind="cpu"
        )
        import tensorflow as tf

        strategies = {
            "none": tf.distribute.get_strategy,
            "OneDevice": lambda: tf.distribute.OneDeviceStrategy(devices[0]),
            "Mirrored": lambda: tf.distribute.MirroredStrategy(devices),
            "Gathering": lambda: tf.distribute.MirroredStrategy(
                devices, tf.distribute.ReductionToOneDevice()
            ),
        }
        weights = trained(strategies[name](), way, option, batch_size)
    return np.concatenate([np.ravel(each) for each in weights]).astype(float).tolist()


def seen(name, way, option, batch_size=BATCH_SIZE):
    """Return what a process of its own has to say: a list of weights, or a sentence."""
    command = [sys.executable, *PROGRAM, "--one", name, way, option, str(batch_size)]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    if name in ON_JAX:
        two = "--xla_force_host_platform_device_count=2"
        env |= {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": two}
    try:
        ended = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=LONGEST, cwd=ROOT
        )
    except subprocess.TimeoutExpired:
        return "does not end"
    last = (ended.stdout.strip().splitlines() or [""])[-1]
    return (
        json.loads(last)
        if last[:1] in ("[", '"')
        else f"the process dies ({ended.returncode})"
    )


def verdict(found, expected, option):
    if isinstance(found, str):
        return found
    tolerance = TOLERANCE.get(option, 1e-5)
    # NaN is not
    near = all(
        abs(one - other) <= tolerance
        for one, other in zip(found, expected, strict=True)
    )
    return "✓" if near else "other weights"


def sentence(problem):
    """Return an error's name and first words, without what differs from run to run."""
    from course_launcher import WorkerError
    from course_utils.errors import opening

    name, said = type(problem).__name__, str(problem)
    if (
        isinstance(problem, WorkerError)
        and (outcome := problem.outcomes[problem.index]).kind == "raised"
    ):
        name, said = outcome.type, outcome.message
    said = re.sub(r" \(defined @ [^)]*\)", "", opening(said))
    said = re.sub(
        r"(?<=resource )\S+|(?<=device )/\S+|(?<=')while/[^']*(?=')", "…", said
    )
    text = f"{name}: {said}"
    return text if len(text) <= 110 else text[:109] + "…"


def chosen(words):
    """Return the combinations (strategy, way, option) whose names hold all words."""
    combinations = itertools.product(rows(), OPTIONS)
    names = [(*row, option) for row, option in combinations]
    return [each for each in names if all(word in ", ".join(each) for word in words)]


def rows():
    """Return [(strategy, way), …] as the table has them; on JAX `fit` alone."""
    pairs = itertools.product(STRATEGIES, WAYS)
    return [(name, way) for name, way in pairs if way == "fit" or name not in ON_JAX]


def look(words=()):
    """Run the chosen combinations, two at a time: {"strategy, way, option": what is
    seen}.
    """
    combinations = chosen(words)
    ways = list(dict.fromkeys(way for _, way, _ in combinations))
    expected = [
        ("none", way, "plain", size)
        for way in ways
        for size in (BATCH_SIZE, 2 * BATCH_SIZE)
    ]
    with multiprocessing.pool.ThreadPool(2) as pool:
        found = pool.starmap(seen, expected + combinations, chunksize=1)
    plain = {
        (way, size): weights
        for (_, way, _, size), weights in zip(expected, found, strict=False)
    }
    for (way, _), weights in plain.items():
        assert isinstance(weights, list), f"plain {way} without a strategy: {weights}"
    return {
        ", ".join(each): verdict(
            weights,
            plain[
                each[1], BATCH_SIZE * (2 if each[2] == "gradient accumulation" else 1)
            ],
            each[2],
        )
        for each, weights in zip(combinations, found[len(expected) :], strict=True)
    }


def versions():
    return ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("tensorflow", "keras", "tf_keras")
    )


def table(stored):
    """Return the page's table, from all that is stored: a line for each strategy and
    way, a mark for each environment.
    """
    environments = sorted(stored, reverse=True)
    notes = []

    def mark(said):
        if said == "✓":
            return said
        if said not in notes:
            notes.append(said)
        return f"✗ {notes.index(said) + 1}"

    lines = ["| | | " + " | ".join(OPTIONS) + " |", "|---|---|" + "---|" * len(OPTIONS)]
    for name, way in rows():
        cells = []
        for option in OPTIONS:
            marks = [
                mark(stored[each]["seen"][f"{name}, {way}, {option}"])
                for each in environments
            ]
            cells.append(marks[0] if len(set(marks)) == 1 else " / ".join(marks))
        lines.append(
            f"| {STRATEGIES[name] if way == 'fit' else ''} | {WAYS[way]} | "
            + " | ".join(cells)
            + " |"
        )
    seen_on = " / ".join(f"{each} ({stored[each]['date']})" for each in environments)
    numbered = [
        f"{number}. `{said.replace('`', chr(39))}`"
        for number, said in enumerate(notes, 1)
    ]
    return "\n".join(
        [f"Seen with {seen_on}; one mark where both agree.", "", *lines, "", *numbered]
    )


def rewritten(readme, stored):
    start = readme.index(MARKS[0]) + len(MARKS[0])
    end = readme.index(MARKS[1], start)
    return readme[:start] + "\n" + table(stored) + "\n" + readme[end:]


def main(arguments):
    if arguments[:1] == ["--one"]:
        name, way, option, batch_size = arguments[1:]
        try:
            answer = one(name, way, option, int(batch_size))
        except Exception as problem:
            answer = sentence(problem)
        print(json.dumps(answer))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="of a combination's name")
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args(arguments)
    if not chosen(options.words):
        parser.error(f"no combination's name holds {' and '.join(options.words)}")
    found = look(options.words)
    stored = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}
    if options.words and not options.check:
        for combination, said in found.items():
            print(f"{combination}: {said}")
        return 0
    if options.check:
        promised = stored.get(versions(), {}).get("seen", {})
        wrong = {
            each: said for each, said in found.items() if said != promised.get(each)
        }
        for combination, said in wrong.items():
            print(
                f"{combination}: the page says {promised.get(combination, 'nothing')}, "
                f"and seen is {said}"
            )
        print(
            f"{len(found) - len(wrong)} of {len(found)} combinations are as the page "
            f"says, with {versions()}"
        )
        return int(bool(wrong))
    stored[versions()] = {"date": datetime.date.today().isoformat(), "seen": found}
    STORED.write_text(
        json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    readme = ROOT / "docs" / "compatibility.md"
    readme.write_text(
        rewritten(readme.read_text(encoding="utf-8"), stored), encoding="utf-8"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
