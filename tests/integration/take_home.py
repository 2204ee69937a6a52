"""cluster/train.py, what takes longer: every fault that was silent.

It is run by the program's command line. `make soak` runs it; with CI set, half of
it.

Where a test says workers or two processes, two real processes train.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import course_launcher as launcher
from tests.integration.test_train import (
    BACKENDS,
    ENVIRONMENT,
    FLAT,
    NUMBERED,
    OPTIMIZER,
    PROGRAM,
    SMALL,
    WITH_DROPOUT,
    changed,
    drawn,
    ends,
    log,
    numbers,
    refused,
    start,
    start_two,
    wait_for_first_epoch,
    yours,
)

CI = os.environ.get(
    "CI"
)  # has 75 minutes for everything: there one backend of two, and not every test
not_in_ci = pytest.mark.skipif(bool(CI), reason="CI has no time for it: make soak")
each_backend = pytest.mark.parametrize("backend", ["tensorflow"] if CI else BACKENDS)


@pytest.fixture
def folder(tmp_path):
    shutil.copy(PROGRAM, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "how, backend", [("SIGTERM", "tensorflow"), ("SIGUSR1", "jax")]
)
def test_a_signal_saves_within_an_epoch_on_all_workers(folder, how, backend):
    """Two processes, one of which gets the signal.

    Both save at the same step, and end with exit code 75.
    """
    slow = "        self.warm_up(done)\n"
    changed(folder, WITH_DROPOUT, (slow, slow + "        time.sleep(0.1)\n"))
    options = "--backend", backend, "--epochs", "2"
    undisturbed, _ = ends(*start_two(folder, *options, "--run-folder", "calm"))
    chief, other = start_two(folder, *options, "--run-folder", "run")
    wait_for_first_epoch(chief)
    time.sleep(0.7)  # into the second epoch, whose steps take 0.1 s each
    other.send_signal(getattr(signal, how))
    printed = [process.communicate(timeout=900)[0] for process in (chief, other)]
    assert [chief.returncode, other.returncode] == [75, 75], printed
    assert "everything is saved: started again, it goes on" in printed[0]
    saved = sorted(path.name for path in (folder / "run" / "checkpoints").iterdir())
    assert re.fullmatch(r"epoch-000001-(?!0{8})\d{8}\.npz", saved[-1]), saved
    digest, _ = ends(*start_two(folder, *options, "--run-folder", "run"))
    assert digest == undisturbed
    assert numbers(folder / "run") == pytest.approx(numbers(folder / "calm"), abs=1e-5)


@not_in_ci
@pytest.mark.parametrize(
    "backend, devices", [("tensorflow", 2), ("jax", 2), ("tensorflow", 1)]
)
def test_a_signal_to_one_process(folder, backend, devices):
    """By `fit`: on several devices, and on one."""
    slow = "        self.warm_up(done)\n"
    changed(folder, (slow, slow + "        time.sleep(0.1)\n"))
    options = ["--backend", backend, "--epochs", "2", "--logical-cpus", devices]
    undisturbed, _ = ends(start(folder, *options, "--run-folder", "calm"))
    process = start(folder, *options, "--run-folder", "run")
    wait_for_first_epoch(process)
    time.sleep(0.7)  # into the second epoch, whose steps take 0.1 s each
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=900)
    assert process.returncode == 75
    assert ends(start(folder, *options, "--run-folder", "run"))[0] == undisturbed
    assert numbers(folder / "run") == pytest.approx(numbers(folder / "calm"), abs=1e-5)


VALIDATED = """
import sys
import train

train.choose_backend(sys.argv)
_, (x, y) = train.examples(None)
for name in sys.argv[3:]:
    model = train.build()
    model.load_weights(f"{name}/last.weights.h5")
    end = 3 if name.startswith("three") else None
    print(*model.evaluate(x[:end], y[:end], batch_size=7, verbose=0))
"""


@each_backend
def test_every_example_counts_in_the_validation(folder, backend):
    """261 examples, and 3, on 1, 2 and 4 replicas.

    261 are 5 more than four batches, and 1 more than can be shared; 3 are fewer than
    there may be replicas.
    """
    names = []
    for examples, end, counts in (
        ("all", "1536:", (1, 2, 4)),
        ("three", "1536:1539", (4,)),
    ):
        slices = f"validation = images[{end}], digits.target[{end}]"
        changed(
            folder,
            ("validation = images[1536:], digits.target[1536:]", slices),
            name=f"{examples}.py",
        )
        for devices in counts:
            names.append(f"{examples}-{devices}")
            own = (
                "--batch-size-per-replica",
                64 // devices,
                "--logical-cpus",
                devices,
                "--run-folder",
                names[-1],
            )
            ends(
                start(
                    folder,
                    "--backend",
                    backend,
                    "--epochs",
                    1,
                    *own,
                    program=f"{examples}.py",
                )
            )
    (folder / "evaluate.py").write_text(VALIDATED)
    command = [sys.executable, "evaluate.py", "--backend", backend, *names]
    said = subprocess.check_output(command, cwd=folder, env=ENVIRONMENT, text=True)
    for name, line in zip(names, said.splitlines(), strict=True):
        loss, accuracy = map(float, line.split())
        (row,) = log(folder / name)
        assert float(row["val_loss"]) == pytest.approx(loss, rel=1e-5)
        assert float(row["val_accuracy"]) == pytest.approx(accuracy, abs=1e-6)


STEP = """
def build():
    import keras, tensorflow as tf

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, inputs):
            return self.dense(inputs)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                error = 10 * tf.reduce_mean((self(x) - y) ** 2)
                loss = error / tf.distribute.get_strategy().num_replicas_in_sync
            weights = self.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
            return {"loss": loss}

    model = Own()
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model
"""


def moved(folder, *options, names=("two", "one")):
    """The weights at the end of two processes, or of one.

    They are read from the files that the processes leave.
    """
    import h5py

    found = []
    for name in names:
        launch = start_two if name == "two" else lambda *words: [start(*words)]
        ends(*launch(folder, *options, "--run-folder", name))
        arrays = []
        with h5py.File(folder / name / "last.weights.h5") as file:
            file.visititems(
                lambda name, item, arrays=arrays: arrays.append((name, item))
            )
            weights = [
                item[()]
                for name, item in arrays
                if hasattr(item, "dtype") and "optimizer" not in name
            ]
        found.append(np.concatenate([weight.ravel() for weight in weights]))
    return found


@pytest.mark.parametrize(
    "optimizer",
    [
        "SGD(0.1, use_ema=True, ema_momentum=0.9)",
        "SGD(0.1, global_clipnorm=0.05)",
        "SGD(0.1, clipnorm=0.02)",
        "SGD(0.1, clipvalue=0.01)",
    ],
)
def test_averages_and_clipping_are_as_in_fit(folder, optimizer):
    """Two processes on TensorFlow, against one process, which trains by `fit`."""
    yours(folder, SMALL.replace("COUNT", "128").replace("SGD(0.1)", optimizer))
    two, one = moved(folder, "--epochs", 2)
    assert two == pytest.approx(one, abs=1e-6)
    yours(folder, SMALL.replace("COUNT", "128"))
    (plain,) = moved(folder, "--epochs", 2, names=["plain"])
    assert np.abs(plain - two).max() > 1e-3, "without it the weights are others"


def test_a_train_step_of_ones_own_is_made(folder):
    """Two processes on TensorFlow, against `fit`.

    With the plain step the weights are others.
    """
    data = SMALL.replace("COUNT", "128")
    yours(folder, STEP + data[data.index("def examples") :])
    two, one = moved(folder, "--epochs", 1)
    assert two == pytest.approx(one, abs=1e-6)
    (folder / "train.py").write_text(
        (folder / "train.py")
        .read_text()
        .replace("def train_step(self", "def no_step(self")
    )
    (plain,) = moved(folder, "--epochs", 1, names=["plain"])
    assert np.abs(plain - two).max() > 1e-2


@not_in_ci
@each_backend
def test_warm_up_accumulation_and_clipping(folder, backend):
    """One process; two batches of 32 for an update are one batch of 64."""
    changed(folder, (OPTIMIZER, "keras.optimizers.SGD(0.05)"))
    options = "--backend", backend, "--epochs", 1
    fast = ends(
        start(folder, *options, "--batch-size-per-replica", 64, "--run-folder", "one")
    )
    ends(
        start(
            folder,
            *options,
            "--batch-size-per-replica",
            32,
            "--accumulate",
            2,
            "--run-folder",
            "two",
        )
    )
    for column in "val_loss", "val_accuracy":
        one, two = (float(log(folder / name)[0][column]) for name in ("one", "two"))
        assert two == pytest.approx(one, abs=1e-4)
    slow = ends(
        start(folder, *options, "--warm-up-steps", 1000, "--run-folder", "slow")
    )
    clipped = ends(
        start(folder, *options, "--clip-norm", "0.1", "--run-folder", "clipped")
    )
    assert len({fast[0], slow[0], clipped[0]}) == 3


@not_in_ci
@pytest.mark.parametrize("policy, devices", [("float32", 2), ("mixed_float16", 2)])
def test_clipping_and_loss_scaling_on_two_replicas(folder, policy, devices):
    options = "--epochs", 1, "--clip-norm", "0.5", "--precision", policy
    ends(start(folder, *options, "--run-folder", "one"))
    own = "--logical-cpus", devices, "--batch-size-per-replica", 64 // devices
    ends(start(folder, *options, *own, "--run-folder", "two"))
    tolerance = 2e-6 if policy == "float32" else 5e-3
    assert numbers(folder / "two") == pytest.approx(
        numbers(folder / "one"), abs=tolerance
    )
    ends(start(folder, "--epochs", 1, "--precision", policy, "--run-folder", "free"))
    assert np.abs(numbers(folder / "free") - numbers(folder / "one")).max() > 0.01, (
        "it was clipped"
    )


def test_a_callback_of_ones_own_sees_the_validation_and_the_batches(folder):
    """Two processes on TensorFlow, and `fit`: the callback's numbers are the log's."""
    own = """    import keras

    class Watch(keras.callbacks.Callback):
        losses = 0

        def on_train_batch_end(self, batch, logs=None):
            self.losses += logs["loss"] > 0

        def on_epoch_end(self, epoch, logs=None):
            print(f"watched {self.losses} batches, {logs['val_loss']:.4f}", flush=True)
            self.model.stop_training = epoch == 1

    return [Watch()]
"""
    end = 'are not called.\n    """\n'
    changed(folder, (end + "    return []\n", end + own))
    for processes in (
        start_two(folder, "--epochs", 5, "--run-folder", "two"),
        [start(folder, "--epochs", 5)],
    ):
        _, (printed, *_) = ends(*processes)
        watched = re.findall(r"watched (\d+) batches, ([\d.]+)", printed)
        assert [int(count) for count, _ in watched] == [
            24,
            48,
        ] and "epochs 1 to 2;" in printed
        rows = log(folder / ("run" if len(processes) == 1 else "two"))
        assert [f"{float(row['val_loss']):.4f}" for row in rows] == [
            loss for _, loss in watched
        ]


def test_workers_that_read_other_examples_end(folder):
    """Two processes, whose examples depend on the process.

    No seed can make them equal.
    """
    yours(
        folder,
        SMALL.replace("COUNT", "128").replace(
            "RandomState(0)", "RandomState(__import__('os').getpid())"
        ),
    )
    for backend in BACKENDS:
        sentence = refused(*start_two(folder, "--backend", backend))
        assert sentence.startswith(
            "examples() returns other examples, or another order, in each process"
        )


def test_ten_thousand_epochs_take_no_more_memory_than_one(folder):
    """For arrays, and for a dataset; 8 MiB of data."""
    arrays = SMALL.replace("COUNT, 4", "2000, 1024").replace(
        "Input((4,))", "Input((1024,))"
    )
    dataset = arrays.replace(
        "return (x, x[:, :3])",
        (
            "import tensorflow as tf; "
            "return tf.data.Dataset.from_tensor_slices((x, x[:, :3]))"
        ),
    )
    for text in arrays, dataset:
        yours(folder, text)
        process = start(folder, "--epochs", 10_000, "--batch-size-per-replica", 500)
        first = most = 0
        while line := process.stdout.readline():
            if found := re.match(r"epoch (\d+) of", line):
                rows = (
                    pathlib.Path(f"/proc/{process.pid}/status").read_text()
                    if sys.platform == "linux"
                    else ""
                )
                used = int((re.search(r"VmRSS:\s+(\d+)", rows) or [0, 0])[1]) / 2**10
                first, most = (
                    (used, used) if found[1] == "3" else (first, max(most, used))
                )
                if found[1] == "30":
                    break
        process.kill()
        process.communicate()
        assert first and most - first < 64, f"{most - first} MiB more after 30 epochs"
        shutil.rmtree(folder / "run")


@not_in_ci
def test_examples_that_are_read_one_by_one_are_not_all_in_memory(folder):
    """3,000 images of 224 × 224, which are made when they are read: 1.7 GiB in all."""
    text = """
def build():
    import keras

    model = keras.Sequential([
        keras.Input((224, 224, 3)),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(1),
    ])
    model.compile("sgd", "mse")
    return model

def examples(path):
    import tensorflow as tf

    def example(i):
        number = tf.cast(i, tf.float32)
        return tf.fill((224, 224, 3), number), number[None]

    images = tf.data.Dataset.range(3000).map(example)
    return images, images.take(64)
"""
    yours(folder, text)
    process = start(folder, "--epochs", 1, "--shuffle-buffer-mib", 64)
    most = 0
    while process.poll() is None:
        if sys.platform == "linux":
            rows = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            most = max(
                most, int((re.search(r"VmRSS:\s+(\d+)", rows) or [0, 0])[1]) / 2**10
            )
        time.sleep(0.2)
    ends(process)
    assert most < 1400, "TensorFlow itself takes some 600 MiB"


def records(folder, name, numbers):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(folder / name)) as writer:
        for number in numbers:
            writer.write(tf.io.serialize_tensor(tf.constant([float(number)])).numpy())


@not_in_ci
@pytest.mark.parametrize("files", [2, 1])
def test_record_files_of_other_lengths(folder, files):
    """Two processes: 400 and 112 examples, or one file of 512.

    It trains as one process does.
    """
    parts = [range(400), range(400, 512)] if files == 2 else [range(512)]
    for index, part in enumerate(parts):
        records(folder, f"part-{index}.tfrecord", part)
    text = """
def examples(path):
    import glob
    import tensorflow as tf

    def parsed(record):
        number = tf.ensure_shape(tf.io.parse_tensor(record, tf.float32), (1,))
        return number / 512, number

    part = tf.data.TFRecordDataset(sorted(glob.glob("part-*"))).map(parsed)
    return part, part.take(10)
"""
    yours(folder, NUMBERED + text)
    ends(*start_two(folder, "--epochs", 1, "--run-folder", "two"))
    one, other = drawn(folder)
    assert sorted([*one, *other]) == list(range(512))
    ends(start(folder, "--epochs", 1, "--run-folder", "one"))
    assert numbers(folder / "two") == pytest.approx(numbers(folder / "one"), rel=1e-5)


@each_backend
def test_another_learning_rate_is_used(folder, backend):
    """By the command line, and by build(); the digest is another one's."""
    options = "--backend", backend
    ends(start(folder, *options, "--epochs", 1, "--run-folder", "one"))
    for name in "same", "other", "built":
        shutil.copytree(folder / "one", folder / name)
    same, _ = ends(start(folder, *options, "--epochs", 2, "--run-folder", "same"))
    other, (said,) = ends(
        start(
            folder,
            *options,
            "--epochs",
            2,
            "--run-folder",
            "other",
            "--learning-rate",
            "0.0001",
        )
    )
    changed(folder, (OPTIMIZER, "keras.optimizers.Adam(0.0001)"))
    built, _ = ends(start(folder, *options, "--epochs", 2, "--run-folder", "built"))
    assert (
        other == built != same and "learning rate 0.0001, and no longer 0.002" in said
    )


def layers(count):
    more = "".join(f"            keras.layers.Dense({10 + i}),\n" for i in range(count))
    return FLAT, FLAT + more


@each_backend
def test_another_model_in_the_folder_is_refused(folder, backend):
    changed(folder, layers(3))
    ends(start(folder, "--backend", backend, "--epochs", 1))
    for count in 4, 2:
        changed(folder, layers(count))
        sentence = refused(start(folder, "--backend", backend, "--epochs", 2))
        assert re.search(
            r"^run holds another model's training \(\d+ arrays there, and \d+ in build",
            sentence,
        )
    changed(folder, layers(3), (OPTIMIZER, "keras.optimizers.Nadam(0.002)"))
    assert "another model's training" in refused(
        start(folder, "--backend", backend, "--epochs", 2)
    )


@each_backend
def test_a_damaged_or_missing_checkpoint(folder, backend):
    options = "--backend", backend, "--epochs"
    undisturbed, _ = ends(start(folder, *options, 3, "--run-folder", "calm"))
    ends(start(folder, *options, 2))
    _, newest = sorted((folder / "run" / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    digest, (said,) = ends(start(folder, *options, 3))
    assert (
        digest == undisturbed
        and f"{newest.name} cannot be read (" in said
        and "epochs 2 to 3;" in said
    )
    assert [row["epoch"] for row in log(folder / "run")] == ["1", "2", "3"]
    for path in (folder / "run" / "checkpoints").iterdir():
        path.write_bytes(b"")
    assert "has log.csv, best.weights.h5, last.weights.h5, model.keras of" in refused(
        start(folder, *options, 4)
    )
    shutil.rmtree(folder / "run" / "checkpoints")
    assert "of a training, and no checkpoint to go on from" in refused(
        start(folder, *options, 4)
    )
    assert [row["epoch"] for row in log(folder / "run")] == ["1", "2", "3"], (
        "nothing is overwritten"
    )


@not_in_ci
def test_one_metric_more(folder):
    """A new column, in which the epochs before have nothing.

    Patience reads the loss by its name.
    """
    ends(start(folder, "--epochs", 2))
    changed(
        folder,
        (
            'metrics=["accuracy"]',
            'metrics=["accuracy", "sparse_top_k_categorical_accuracy"]',
        ),
    )
    ends(start(folder, "--epochs", 4, "--patience", 3))
    rows = log(folder / "run")
    assert [bool(row["val_sparse_top_k_categorical_accuracy"]) for row in rows] == [
        False,
        False,
        True,
        True,
    ]
    assert all(0 < float(row["val_accuracy"]) < 1 for row in rows)


@not_in_ci
def test_a_bfloat16_layer_goes_on(folder):
    changed(folder, ('Dense(10, dtype="float32")', 'Dense(10, dtype="bfloat16")'))
    options = "--backend", "jax", "--epochs"
    undisturbed, _ = ends(start(folder, *options, 2, "--run-folder", "calm"))
    ends(start(folder, *options, 1))
    assert ends(start(folder, *options, 2))[0] == undisturbed


MASKED = """
def build():
    import keras

    model = keras.Sequential([
        keras.Input((6,), dtype="int32"),
        keras.layers.Embedding(9, 4, mask_zero=True),
        keras.layers.Dense(9),
    ])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model

def examples(path):
    import numpy as np

    x = np.random.RandomState(0).randint(1, 9, size=(256, 6)).astype("int32")
    x[:128, 1:] = 0
    return (x, x), (x, x)
"""


def test_masked_sequences(folder):
    """Two processes train as one does, on JAX.

    On TensorFlow each would divide by its own number of steps.
    """
    yours(folder, MASKED)
    assert "outputs are masked" in refused(*start_two(folder, "--epochs", 1))
    assert "outputs are masked" in refused(
        start(folder, "--epochs", 1, "--logical-cpus", 2)
    )
    ends(*start_two(folder, "--backend", "jax", "--epochs", 1, "--run-folder", "two"))
    ends(start(folder, "--backend", "jax", "--epochs", 1, "--run-folder", "one"))
    assert numbers(folder / "two") == pytest.approx(numbers(folder / "one"), abs=1e-6)


@not_in_ci
def test_what_it_leaves_loads_elsewhere(folder):
    """On the other backend, with the reader's class registered."""
    ends(start(folder, "--epochs", 1))
    code = """
import keras, numpy as np, runpy
namespace = runpy.run_path("train.py")
namespace["build"]()  # registers the class
model = keras.saving.load_model("run/model.keras")
_, (x, y) = namespace["examples"](None)
print(keras.backend.backend(), *model.evaluate(x, y, verbose=0))
"""
    env = ENVIRONMENT | {"KERAS_BACKEND": "jax"}
    said = subprocess.check_output(
        [sys.executable, "-c", code], cwd=folder, env=env, text=True
    ).split()
    (row,) = log(folder / "run")
    assert said[0] == "jax" and float(said[1]) == pytest.approx(
        float(row["val_loss"]), rel=1e-4
    )


@not_in_ci
def test_data_precision_and_early_stopping(folder):
    random = np.random.default_rng(0)
    arrays = {
        f"x_{part}": random.normal(size=(64, 8, 8, 1)).astype("float32")
        for part in ("train", "test")
    }
    arrays |= {
        f"y_{part}": random.integers(10, size=64) for part in ("train", "test")
    }  # nothing to be learnt
    np.savez(folder / "noise.npz", **arrays)
    (folder / "sklearn.py").write_text(
        "raise ImportError"
    )  # it is the sample data's only
    options = (
        "--data",
        "noise.npz",
        "--precision",
        "mixed_bfloat16",
        "--learning-rate",
        "0.1",
        "--clip-norm",
        "1",
    )
    for backend in BACKENDS:
        own = (
            "--backend",
            backend,
            "--run-folder",
            backend,
            "--epochs",
            "40",
            "--patience",
            "2",
        )
        ends(start(folder, *own, *options))
        losses = [float(row["val_loss"]) for row in log(folder / backend)]
        assert 3 <= len(losses) < 40 and min(losses) == losses[-3]
        _, (printed,) = ends(start(folder, *own, *options))
        assert (
            f"nothing is left to train: {len(losses)} epochs, and --patience 2 is over"
            in printed
        )


def test_jax_takes_all_of_the_tasks_gpus_under_slurm(folder):
    """Two processes that Slurm has started, as their variables say.

    JAX must not choose one GPU for each task.
    """
    look = (
        "        if jax.default_backend() ==",
        "        print('chosen', jax._src.xla_bridge.CUDA_VISIBLE_DEVICES.value)\n",
    )
    changed(folder, (look[0], look[1] + look[0]))
    config = {"cluster": {"worker": launcher.free_addresses(2)}}
    processes = []
    for index in range(2):
        tf_config = json.dumps(config | {"task": {"type": "worker", "index": index}})
        slurm = {
            "SLURM_JOB_ID": "1",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": str(index),
            "SLURM_LOCALID": "0",
        }
        slurm |= {
            "SLURM_STEP_NODELIST": "n[0-1]",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_NODEID": str(index),
        }
        slurm |= {"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "TF_CONFIG": tf_config}
        processes.append(start(folder, "--backend", "jax", "--epochs", 1, **slurm))
    _, printed = ends(*processes)
    assert all("chosen all\n" in text for text in printed)


@each_backend
def test_a_restart_whose_first_epoch_is_worse(folder, backend):
    """Two processes, which both know the best epoch of the log.

    Only the first one has a copy of its own.
    """
    options = "--backend", backend, "--run-folder", "run"
    ends(*start_two(folder, *options, "--epochs", 2))
    _, (printed, _) = ends(
        *start_two(
            folder, *options, "--epochs", 8, "--patience", 2, "--learning-rate", "1.5"
        )
    )
    losses = [float(row["val_loss"]) for row in log(folder / "run")]
    assert (
        len(losses) < 8 and min(losses) == losses[-3] and "a signal came" not in printed
    )


def test_float16_where_one_replicas_gradient_is_not_finite(folder):
    """Two processes on TensorFlow, which all leave out the same steps.

    A step that one of them left out would never end.
    """
    text = SMALL.replace("COUNT", "296").replace(
        "    return (x, x[", "    x[::37] *= 3000\n    return (x, x["
    )
    yours(folder, text)
    two, one = moved(
        folder, "--epochs", 2, "--precision", "mixed_float16", "--learning-rate", "1e-7"
    )
    assert np.isfinite(two).all() and two == pytest.approx(one, abs=1e-2)


@pytest.mark.parametrize(
    "loss, sentence",
    [
        (
            "lambda y, p: keras.ops.mean((y - p) ** 2)",
            "a loss returns one number for all examples",
        ),
        ("keras.losses.Dice()", "a loss returns one number for all examples"),
        (
            'keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")',
            "divide its loss by its own weights",
        ),
        ("lambda y, p: keras.ops.mean((y - p) ** 2, -1)", ""),
    ],
)
def test_losses_that_replicas_would_count_otherwise(folder, loss, sentence):
    yours(folder, SMALL.replace("COUNT", "128").replace('"mse"', loss))
    process = start(
        folder, "--epochs", 1, "--logical-cpus", 2, "--batch-size-per-replica", 32
    )
    if sentence:
        assert sentence in refused(process)
    else:
        ends(process)


SPLIT = """
def examples(path):
    import numpy as np

    x = np.random.RandomState(0).normal(size=(200, 4)).astype("float32")
    order = np.random.permutation(200)
    training, validation = x[order[:128]], x[order[128:]]
    return (training, training[:, :3]), (validation, validation[:, :3])
"""


def test_a_split_that_is_drawn_at_random(folder):
    """A random split of arrays is the same at every start.

    Of a dataset, which is asked for in each epoch, it is refused.
    """
    text = SMALL[: SMALL.index("def examples")] + SPLIT
    yours(folder, text)
    undisturbed, _ = ends(start(folder, "--epochs", 3, "--run-folder", "calm"))
    ends(start(folder, "--epochs", 1))
    assert ends(start(folder, "--epochs", 3))[0] == undisturbed
    dataset = (
        "import tensorflow as tf; "
        "return tf.data.Dataset.from_tensor_slices((training, training[:, :3])), ("
    )
    yours(folder, text.replace("return (training, training[:, :3]), (", dataset))
    assert "draws what to validate with at random" in refused(start(folder))


@not_in_ci
def test_a_callback_that_stops_in_the_epoch_that_was_resumed(folder):
    own = """    import keras

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    return [Stop()]
"""
    end = 'are not called.\n    """\n'
    slow = "        self.warm_up(done)\n"
    changed(
        folder,
        (end + "    return []\n", end + own),
        (slow, slow + "        time.sleep(0.1)\n"),
    )
    process = start(folder, "--epochs", 4)
    wait_for_first_epoch(process)
    time.sleep(0.7)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=900)
    assert process.returncode == 75
    _, (printed,) = ends(start(folder, "--epochs", 4))
    assert "epochs 2 to 2;" in printed


OWN_TEST = """
def build():
    import keras

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, inputs):
            return self.dense(inputs)

        def test_step(self, data):
            x, y = data
            return {
                "loss": keras.ops.mean(keras.ops.abs(self(x) - y)),
                "twice": 2.0 * keras.ops.mean(self(x)),
            }

    model = Own()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model
"""


@not_in_ci
def test_a_test_step_of_ones_own(folder):
    """Two processes on TensorFlow, against `fit`.

    What it returns is in the log; what cannot be shared is refused.
    """
    data = SMALL.replace("COUNT", "128")
    yours(folder, OWN_TEST + data[data.index("def examples") :])
    ends(*start_two(folder, "--epochs", 2, "--run-folder", "two"))
    ends(start(folder, "--epochs", 2, "--run-folder", "one"))
    two, one = (
        [row["val_loss"] for row in log(folder / name)] for name in ("two", "one")
    )
    assert (
        np.array(two, float) == pytest.approx(np.array(one, float), rel=1e-4)
        and float(one[0]) > 0
    )
    assert "val_twice" in log(folder / "two")[0]
    yours(
        folder,
        OWN_TEST
        + data[data.index("def examples") :]
        .replace("x[:10]", "x[:9]")
        .replace("x[:10,", "x[:9,"),
    )
    assert "1 examples cannot be shared by 2 replicas" in refused(
        *start_two(folder, "--run-folder", "nine")
    )


@not_in_ci
def test_a_lambda_callback_gets_the_batches(folder):
    """Two processes on TensorFlow."""
    own = """    import keras

    def tell(batch, logs):
        if batch == 0:
            print(f"batch loss {logs['loss']:.3f}", flush=True)

    return [keras.callbacks.LambdaCallback(on_train_batch_end=tell)]
"""
    end = 'are not called.\n    """\n'
    changed(folder, (end + "    return []\n", end + own))
    _, (printed, _) = ends(*start_two(folder, "--epochs", 1))
    assert re.search(r"batch loss [\d.]+", printed)


@each_backend
def test_one_process_that_is_refused_ends_at_once(folder, backend):
    """Two processes, one of which finds another folder."""
    ends(*start_two(folder, "--backend", backend, "--epochs", 1))
    (folder / "elsewhere").mkdir()
    addresses = launcher.free_addresses(2)
    places = [
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": k}}
        for k in range(2)
    ]
    begin = time.monotonic()
    folders = "run", "elsewhere"
    options = (
        "--backend",
        backend,
        "--epochs",
        2,
        "--batch-size-per-replica",
        32,
        "--run-folder",
    )
    processes = [
        start(folder, *options, folders[k], TF_CONFIG=json.dumps(places[k]))
        for k in range(2)
    ]
    printed = [process.communicate(timeout=900)[0] for process in processes]
    assert all(process.returncode in (1, 2) for process in processes), printed
    assert (
        "this process finds epoch 0, step 0 in elsewhere, and others do not"
        in printed[1]
    )
    assert time.monotonic() - begin < 250, (
        "and not only when JAX or TensorFlow lose their patience"
    )


@not_in_ci
def test_a_metric_with_a_number_for_each_class_and_a_dry_run_of_one_step(folder):
    changed(
        folder,
        (
            'metrics=["accuracy"]',
            'metrics=["accuracy", keras.metrics.F1Score(name="f1")]',
        ),
        ("digits.target[:1536]", "np.eye(10)[digits.target[:1536]]"),
        ("digits.target[1536:]", "np.eye(10)[digits.target[1536:]]"),
        (
            "keras.losses.SparseCategoricalCrossentropy",
            "keras.losses.CategoricalCrossentropy",
        ),
    )
    ends(*start_two(folder, "--epochs", 1, "--run-folder", "two"))
    ends(start(folder, "--epochs", 1, "--run-folder", "one"))
    assert numbers(folder / "two") == pytest.approx(numbers(folder / "one"), abs=2e-5)
    assert [f"val_f1_{i}" in log(folder / "two")[0] for i in range(10)] == [True] * 10
    process = start(folder, "--dry-run", "--batch-size-per-replica", "1000")
    assert (
        "a step of 1000 examples: " in process.communicate(timeout=900)[0]
        and process.returncode == 0
    )


@not_in_ci
@pytest.mark.parametrize(
    "part, options, sentence",
    [
        (
            "slices((x, x)).repeat()",
            [],
            "a dataset without an end: leave out .repeat()",
        ),
        (
            "slices((tf.sparse.from_dense(x), x))",
            [],
            "returns a dataset with a SparseTen",
        ),
        (
            "slices((tf.strings.as_string(x), x))",
            ["--backend", "jax"],
            "returns strings",
        ),
        (
            "slices((tf.strings.as_string(x), x))",
            ["--logical-cpus", 2],
            "returns strings",
        ),
        (
            "slices((x, x)).batch(16)",
            ["--batch-size-per-replica", 4],
            "inputs of shape (16, 4), and the model takes (4,)",
        ),
        (
            "slices((x, x)).batch(24)",
            ["--batch-size-per-replica", 6],
            "(if they are batches, and not single examples: ad",
        ),
        (
            "slices((x, x)).batch(24)",
            ["--batch-size-per-replica", 1, "--logical-cpus", 8],
            "train on fewer devices",
        ),
        ("slices((x, x)).batch(24)", [], "(or are they batches? add .unbatch())"),
        ("x[:, None], x", [], "inputs of shape (1, 4), and the model takes (4,)"),
        ("[1, 2, 3], [4, 5, 6]", [], "and there is int"),
    ],
)
def test_data_that_cannot_be_trained_on(folder, part, options, sentence):
    text = SMALL.replace("COUNT", "128")
    text = (
        text[: text.index("    return (x, x[:, :3])")] + "    import tensorflow as tf\n"
    )
    text += f"    slices = tf.data.Dataset.from_tensor_slices\n    part = {part}\n"
    yours(folder, text + "    return part, (x[:10], x[:10, :3])\n")
    assert sentence in refused(start(folder, *options))


def test_a_dataset_of_unknown_length_and_one_in_place_of_two(folder):
    text = SMALL.replace("COUNT", "128")
    text = (
        text[: text.index("    return (x, x[:, :3])")] + "    import tensorflow as tf\n"
    )
    text += (
        "    part = tf.data.Dataset.from_tensor_slices((x, x[:, :3]))"
        ".filter(lambda x, y: True)\n"
    )
    yours(folder, text + "    return part, part.take(10)\n")
    ends(start(folder, "--epochs", 1))
    yours(folder, text + "    return part\n")
    assert "must return two: what to train on, what to validate with" in refused(
        start(folder)
    )


NORMALIZED = """
def build():
    import keras

    model = keras.Sequential([
        keras.Input((4,)),
        keras.layers.Dense(8),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(3),
    ])
    model.compile(keras.optimizers.SGD(0.05), "mse", metrics=["mae"])
    return model
"""


def test_batch_statistics_of_two_workers_are_one_models(folder):
    """Two processes on TensorFlow end with one digest.

    The log is what the saved weights give, and a signal changes nothing.
    """
    data = SMALL.replace("COUNT", "2560")
    slow = "        self.warm_up(done)\n"
    yours(folder, NORMALIZED + data[data.index("def examples") :])
    text = (folder / "train.py").read_text()
    assert text.count(slow) == 1
    (folder / "train.py").write_text(
        text.replace(slow, slow + "        time.sleep(0.05)\n")
    )
    undisturbed, (said, _) = ends(
        *start_two(folder, "--epochs", 2, "--run-folder", "calm")
    )
    assert "each replica takes the statistics of its own examples" in said
    chief, other = start_two(folder, "--epochs", 2)
    wait_for_first_epoch(chief)
    time.sleep(0.7)
    other.send_signal(signal.SIGTERM)
    printed = [process.communicate(timeout=900)[0] for process in (chief, other)]
    assert [chief.returncode, other.returncode] == [75, 75], printed
    assert ends(*start_two(folder, "--epochs", 2))[0] == undisturbed
    assert numbers(folder / "run") == pytest.approx(numbers(folder / "calm"), abs=1e-5)
    (folder / "evaluate.py").write_text(VALIDATED)
    command = [sys.executable, "evaluate.py", "--backend", "tensorflow", "calm"]
    loss, error = map(
        float,
        subprocess.check_output(
            command, cwd=folder, env=ENVIRONMENT, text=True
        ).split(),
    )
    row = log(folder / "calm")[-1]
    assert (float(row["val_loss"]), float(row["val_mae"])) == pytest.approx(
        (loss, error), rel=1e-5
    )


@not_in_ci
def test_a_gru_that_draws_while_it_is_validated(folder):
    """Two processes on TensorFlow, one of which gets a signal."""
    text = """
def build():
    import keras

    model = keras.Sequential([
        keras.Input((5, 4)),
        keras.layers.GRU(6, dropout=0.2),
        keras.layers.Dense(3),
    ])
    model.compile(keras.optimizers.SGD(0.05), "mse")
    return model

def examples(path):
    import numpy as np

    x = np.random.RandomState(0).normal(size=(2560, 5, 4)).astype("float32")
    return (x, x[:, 0, :3]), (x[:10], x[:10, 0, :3])
"""
    slow = "        self.warm_up(done)\n"
    yours(folder, text)
    (folder / "train.py").write_text(
        (folder / "train.py")
        .read_text()
        .replace(slow, slow + "        time.sleep(0.05)\n")
    )
    undisturbed, _ = ends(*start_two(folder, "--epochs", 2, "--run-folder", "calm"))
    chief, other = start_two(folder, "--epochs", 2)
    wait_for_first_epoch(chief)
    time.sleep(0.7)
    other.send_signal(signal.SIGTERM)
    for process in chief, other:
        process.communicate(timeout=900)
    assert [chief.returncode, other.returncode] == [75, 75]
    assert ends(*start_two(folder, "--epochs", 2))[0] == undisturbed


def test_a_train_step_that_averages_by_itself_is_refused(folder):
    data = SMALL.replace("COUNT", "128")
    text = STEP.replace(" / tf.distribute.get_strategy().num_replicas_in_sync", "")
    yours(folder, text + data[data.index("def examples") :])
    assert "train_step averages by itself" in refused(*start_two(folder, "--epochs", 1))
    ends(start(folder, "--epochs", 1))


@not_in_ci
def test_examples_of_different_shapes_and_epochs_of_different_length(folder):
    text = SMALL.replace("COUNT", "128")
    text = (
        text[: text.index("    return (x, x[:, :3])")] + "    import tensorflow as tf\n"
    )
    lengths = (
        "part = tf.data.Dataset.range(1, 200)"
        ".map(lambda i: (tf.ones([i % 5 + 1]), tf.ones([3])))\n"
    )
    yours(folder, text + f"    {lengths}    return part, (x[:10], x[:10, :3])\n")
    assert "examples of different shapes: bring them to one" in refused(start(folder))
    chance = (
        "part = tf.data.Dataset.from_tensor_slices((x, x[:, :3]))"
        ".filter(lambda x, y: tf.random.uniform(()) < 0.7)\n"
    )
    yours(folder, text + f"    {chance}    return part, (x[:10], x[:10, :3])\n")
    ends(start(folder, "--epochs", 5, "--batch-size-per-replica", 4))


COUNTING = """
def build():
    import keras
    import os

    class Counting(keras.layers.Layer):
        def build(self, shape):
            self.seen = self.add_weight(
                shape=(), dtype="int32", trainable=False, name="seen"
            )

        def call(self, inputs):
            self.seen.assign(int(os.getpid()))
            return inputs

    model = keras.Sequential([
        keras.Input((4,)),
        Counting(name="counting"),
        keras.layers.Dense(3),
    ])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model
"""


def test_workers_whose_weights_differ_are_named(folder):
    """Two processes on TensorFlow.

    A layer keeps what is each process's own.
    """
    data = SMALL.replace("COUNT", "128")
    yours(folder, COUNTING + data[data.index("def examples") :])
    first, other = (
        process.communicate(timeout=900)[0]
        for process in start_two(folder, "--epochs", 1)
    )
    assert (
        "the workers' weights differ in sequential/counting/seen: "
        "what a layer keeps there"
    ) in first
    assert "differ in" not in other


def test_after_a_kill_the_other_worker_leaves_soon(folder):
    """Two processes on TensorFlow.

    It takes 8 s on an idle machine; before `os._exit` it took a minute or two.
    """
    wait = "        self.warm_up(done)\n"
    changed(folder, (wait, wait + "        time.sleep(0.1)\n"))
    chief, other = start_two(folder, "--epochs", 50)
    wait_for_first_epoch(chief)
    begin = time.monotonic()
    other.kill()
    printed = chief.communicate(timeout=900)[0]
    seconds = time.monotonic() - begin
    other.communicate()
    assert chief.returncode == 1 and "Traceback" not in printed
    assert "train.py: another worker has ended: its own last words say why" in printed
    print(f"the other worker left after {seconds:.1f} s")
    assert seconds < 50, "it would stay for 54 to 105 s"
