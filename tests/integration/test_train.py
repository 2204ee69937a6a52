"""cluster/train.py, the program to take home, by its command line.

It lies alone in a folder, without the course. `make test` runs the quick tests,
`nox -s soak` those that are marked slow. Where a test says workers, two real
processes train.
"""

import contextlib
import csv
import json
import os
import pathlib
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

import course_launcher as launcher

PROGRAM = pathlib.Path(__file__).resolve().parents[2] / "cluster" / "train.py"
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("PYTHONPATH", "TF_CONFIG")
}
ENVIRONMENT |= {"TF_CPP_MIN_LOG_LEVEL": "2"}
BACKENDS = ("tensorflow", "jax")
slow = pytest.mark.slow
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def free_addresses(count):
    """Ports below those of outgoing connections, such as other tests make."""
    return runpy.run_path(PROGRAM)["free_addresses"](count)


@pytest.fixture
def folder(tmp_path):
    shutil.copy(PROGRAM, tmp_path)
    return tmp_path


def start(folder, *options, program="train.py", start_new_session=False, **env):
    """The program, started in this folder; it and its output go on."""
    command = [sys.executable, program, "--allow-cpu", *map(str, options)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    pipes["start_new_session"] = start_new_session
    return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT | env, **pipes)


def start_two(folder, *options, roles=(("worker", 0), ("worker", 1)), **env):
    """Two workers, or a chief and a worker, with half of the batch each."""
    places = {}
    for (role, _), address in zip(roles, free_addresses(2), strict=True):
        places.setdefault(role, []).append(address)
    tasks = [{"type": role, "index": index} for role, index in roles]
    configs = [json.dumps({"cluster": places, "task": task}) for task in tasks]
    options = "--batch-size-per-replica", "32", *options
    return [start(folder, *options, TF_CONFIG=config, **env) for config in configs]


def ends(*processes):
    """What they print; each must end well, with the same digest, which comes first."""
    printed = [process.communicate(timeout=900)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), (
        printed
    )
    assert not any("tasks have crashed" in text for text in printed), printed
    (digest,) = {re.search(r"weights ([0-9a-f]{16})\n", text)[1] for text in printed}
    return digest, printed


def wait_for_epoch(process, number=r"\d+"):
    """Read what it prints until it tells of an epoch; it must not end before."""
    while not re.match(f"epoch {number} of", process.stdout.readline()):
        assert process.poll() is None


def wait_for_first_epoch(process):
    wait_for_epoch(process, 1)


def refused(*processes):
    """The sentence with which they end, each the same."""
    printed = [process.communicate(timeout=900)[0] for process in processes]
    assert all(process.returncode for process in processes), printed
    sentences = {
        re.findall(r"train\.py: (?:error: )?(.*)", text)[-1] for text in printed
    }
    assert len(sentences) == 1, printed
    return sentences.pop()


def log(folder):
    return list(csv.DictReader((folder / "log.csv").open()))


def numbers(folder):
    return np.array([list(row.values()) for row in log(folder)], float)


def changed(folder, *pairs, name="train.py"):
    """Write the program into the folder, with other words in it."""
    text = PROGRAM.read_text(encoding="utf-8")
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / name).write_text(text, encoding="utf-8")


def yours(folder, text, name="train.py"):
    """Write the program into the folder, with this text, as 06 does.

    The text takes the place of `build` and `examples`.
    """
    before, rest = PROGRAM.read_text(encoding="utf-8").split("# ---- yours: from here")
    after = rest.split("# ---- yours: to here")[1]
    own = (
        "\ndef callbacks(folder):\n    return []\n"
        if "def callbacks" not in text
        else ""
    )
    text = f"{before}# ---- yours: from here\n{text}{own}# ---- yours: to here{after}"
    (folder / name).write_text(text, encoding="utf-8")


FLAT = "            keras.layers.Flatten(),\n"
WITH_DROPOUT = FLAT, FLAT + "            keras.layers.Dropout(0.3),\n"
OPTIMIZER = "keras.optimizers.Adam(0.002)"
RETURNED = "    return training, validation\n\n\ndef callbacks"
COMPILED = (
    '    model.compile(keras.optimizers.Adam(0.002), loss, metrics=["accuracy"])\n'
)
SMALL = """
def build():
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model

def examples(path):
    import numpy as np

    random = np.random.RandomState(0)
    x = random.normal(size=(COUNT, 4)).astype("float32")
    return (x, x[:, :3]), (x[:10], x[:10, :3])
"""

# Training


@slow
@each_backend
def test_two_workers_train_as_one_process_does(folder, backend):
    """Two processes, one of them a chief; then one process; then four devices.

    The four devices are simulated, in one process.
    """
    roles = (
        (("chief", 0), ("worker", 0))
        if backend == "tensorflow"
        else (("worker", 0), ("worker", 1))
    )
    options = "--backend", backend, "--epochs", 1
    _, (printed, _) = ends(
        *start_two(folder, *options, "--run-folder", "two", roles=roles)
    )
    ends(start(folder, *options, "--run-folder", "one"))
    four = "--logical-cpus", 4, "--batch-size-per-replica", 16
    ends(start(folder, *options, *four, "--run-folder", "four"))
    one, two, simulated = (numbers(folder / name) for name in ("one", "two", "four"))
    tolerance = (
        1e-3 if backend == "jax" else 2e-5
    )  # JAX 0.12 rounds otherwise for other shapes: 1.4e-4 after 24 steps
    assert two == pytest.approx(one, abs=tolerance) and simulated == pytest.approx(
        one, abs=tolerance
    )
    speed = r"\d+\.\d s, [\d,]+ examples/s, \d:\d\d:\d\d left\n"
    assert re.search(r"\nepoch 1 of 1: .*val_loss [\d.]+; " + speed, "\n" + printed)
    assert (
        "2 workers with 1 CPU each: 64 examples a step, 32 of them on each device\n"
        in printed
    )
    assert (
        "1,536 examples to train on: 24 steps an epoch; 261 to validate with\n"
        "epochs 1 to 1, from the start"
    ) in printed
    files = {
        "best.weights.h5",
        "last.weights.h5",
        "model.keras",
        "checkpoints",
        "log.csv",
    }
    assert files <= {path.name for path in (folder / "two").iterdir()}


@slow
@each_backend
def test_after_a_kill_it_ends_with_the_weights_of_an_undisturbed_run(folder, backend):
    """Two processes, one of which is killed by SIGKILL.

    The other ends, and both are started again.
    """
    changed(folder, WITH_DROPOUT)
    options = "--backend", backend, "--epochs", "3"
    undisturbed, _ = ends(*start_two(folder, *options, "--run-folder", "calm"))
    chief, other = start_two(folder, *options, "--run-folder", "run")
    wait_for_first_epoch(chief)
    other.send_signal(signal.SIGKILL)
    chief.communicate(timeout=900)
    assert chief.returncode != 0
    other.communicate()
    digest, (printed, _) = ends(*start_two(folder, *options, "--run-folder", "run"))
    assert digest == undisturbed and "worker 0: epochs 1 to" not in printed
    assert [row["epoch"] for row in log(folder / "run")] == ["1", "2", "3"]
    assert numbers(folder / "run") == pytest.approx(numbers(folder / "calm"), abs=1e-6)


# The data: who gets what, and what it costs

NUMBERED = """
import keras


class Noting(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, inputs):
        return self.dense(inputs)

    def train_step(self, data):
        import os
        import tensorflow as tf

        tf.print(data[1], summarize=-1, output_stream=f"file://numbers-{os.getpid()}")
        return super().train_step(data)


def build():
    model = Noting()
    model.compile("sgd", "mse")
    return model
"""


def drawn(folder):
    """The numbers of the examples that each process has trained on."""
    found = []
    for path in folder.glob("numbers-*"):
        found.append(
            [
                round(float(text))
                for text in re.findall(r"[\d.]+(?:e\+\d+)?", path.read_text())
            ]
        )
        path.unlink()
    return found


def taken_home(folder, model, data):
    """The program that 06 writes with these two cells, in this folder."""
    import linecache

    notebook = PROGRAM.parents[1] / "notebooks" / "06_your_own_model.ipynb"
    cells = {
        cell["id"]: "".join(cell["source"])
        for cell in json.loads(notebook.read_text("utf-8"))["cells"]
    }
    space = {"__name__": "__main__", "launcher": launcher}
    sources = {"model": model, "data": data}
    sources |= {name: cells[name] for name in ("home-examples", "home", "home-files")}
    for name, source in sources.items():
        name = f"06-{name}"
        linecache.cache[name] = (
            len(source),
            None,
            source.splitlines(keepends=True),
            name,
        )
        with contextlib.chdir(folder):
            exec(compile(source, name, "exec"), space)
    (folder / "take_home" / "train.py").replace(folder / "train.py")


@slow
def test_each_example_is_trained_on_once_by_the_program_that_06_writes(folder):
    """Two processes, and a dataset of the reader's.

    It is shuffled without a seed, and has a batch that is not full.
    """
    data = """
def dataset(batch_size):
    import tensorflow as tf

    numbers = tf.data.Dataset.range(1000).map(lambda i: tf.cast(i, tf.float32)[None])
    numbers = numbers.map(lambda number: (number / 1000, number))
    return numbers.shuffle(1000).batch(batch_size), numbers.take(10).batch(batch_size)
"""
    taken_home(folder, NUMBERED, data)
    digests = []
    for attempt in range(2):
        digest, _ = ends(
            *start_two(folder, "--epochs", 1, "--run-folder", f"run-{attempt}")
        )
        digests.append(digest)
        one, other = drawn(folder)
        assert len(one) == len(other) == 15 * 32
        assert len({*one, *other}) == 960, (
            "fifteen batches of 64 of the 1,000 examples, none of them twice"
        )
    assert digests[0] == digests[1]
    ends(
        start(
            folder,
            "--epochs",
            1,
            "--batch-size-per-replica",
            64,
            "--run-folder",
            "alone",
        )
    )
    (alone,) = drawn(folder)
    assert sorted(alone) == sorted([*one, *other])


@slow
@pytest.mark.parametrize(
    "returned, sentence",
    [
        (
            "numbers.batch(batch_size)",
            "dataset() must return two, to train on and to validate with",
        ),
        (
            "numbers.batch(32), numbers.take(64).batch(32)",
            "dataset(1) must return batches of 1, by .batch(batch_size)",
        ),
        ("None", "dataset() must return two"),
    ],
)
def test_a_dataset_of_06_that_was_changed_at_home(folder, returned, sentence):
    data = f"""
def dataset(batch_size):
    import tensorflow as tf

    numbers = tf.data.Dataset.range(1024).map(lambda i: tf.cast(i, tf.float32)[None])
    numbers = numbers.map(lambda number: (number / 1000, number))
    return {returned}
"""
    taken_home(folder, NUMBERED, data)
    assert sentence in refused(
        start(folder, "--epochs", 1, "--batch-size-per-replica", 16)
    )


@slow
def test_both_cells_may_import_inside_of_their_functions(folder):
    """Every cell of 06, and what it adds to the program, imports what it uses.

    That holds on JAX as well.
    """
    model = """
def build():
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model
"""
    data = """
def dataset(batch_size):
    import numpy as np
    import tensorflow as tf

    x, y = np.ones((100, 4), "float32"), np.ones((100, 1), "float32")
    part = tf.data.Dataset.from_tensor_slices((x, y))
    return part.batch(batch_size), part.batch(batch_size)
"""
    taken_home(folder, model, data)
    for backend in BACKENDS:
        ends(
            start(folder, "--backend", backend, "--epochs", 1, "--run-folder", backend)
        )


# Going on: what is refused, and what is used


# What is refused, or said in a sentence


@pytest.mark.parametrize(
    "config, sentence",
    [
        (
            (
                '{"cluster": {"worker": ["a:1"]}, '
                '"task": {"type": "evaluator", "index": 0}}'
            ),
            "makes this an evaluator",
        ),
        (
            (
                '{"cluster": {"worker": ["a:1"], "evaluator": ["b:2"]}, '
                '"task": {"type": "evaluator", "index": 0}}'
            ),
            "makes this an evaluator",
        ),
        (
            (
                '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, '
                '"task": {"type": "worker", "index": 0}}'
            ),
            "names ps: only",
        ),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
            "worker 1 is not among its 1",
        ),
        (
            '{"cluster": {"worker": ["a:1", "b:1"]}}',
            "names 2 workers, and not which one this is",
        ),
        (
            '{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}',
            "TF_CONFIG must be",
        ),
        (
            (
                '{"cluster": {"worker": ["a:99999"]}, '
                '"task": {"type": "worker", "index": 0}}'
            ),
            "with a port to 65535",
        ),
        (
            '{"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}',
            "'a' must be host:port",
        ),
        (
            (
                '{"cluster": {"worker": ["a:1", "a:1"]}, '
                '"task": {"type": "worker", "index": 0}}'
            ),
            "two workers have the",
        ),
        (
            (
                '{"cluster": {"worker": ["localhost:1", "b:1"]}, '
                '"task": {"type": "worker", "index": 0}}'
            ),
            "localhost:1 leads each machine to itself",
        ),
        ("[1]", "TF_CONFIG must be"),
        ("{", "TF_CONFIG must be"),
    ],
)
def test_a_place_that_is_none(folder, config, sentence):
    assert sentence in refused(start(folder, TF_CONFIG=config))
    assert not (folder / "run").exists()


@slow
@pytest.mark.parametrize("config", ['{"cluster": {}, "task": {}}', "{}", ""])
def test_a_cluster_of_nobody_is_one_process(folder, config):
    ends(start(folder, "--epochs", 1, TF_CONFIG=config))


@pytest.mark.parametrize(
    "option, value",
    [
        ("--batch-size-per-replica", "0"),
        ("--epochs", "0"),
        ("--epochs", "1.5"),
        ("--clip-norm", "-1"),
        ("--clip-norm", "inf"),
        ("--learning-rate", "0"),
        ("--learning-rate", "nan"),
        ("--patience", "-1"),
        ("--warm-up-steps", "-1"),
        ("--accumulate", "0"),
        ("--shuffle-buffer-mib", "0"),
        ("--backend", "torch"),
    ],
)
def test_options_that_make_no_sense(folder, option, value):
    assert refused(start(folder, option, value)).startswith(f"argument {option}: ")


def test_variables_that_make_no_sense(folder):
    assert "KERAS_BACKEND is tensorflwo: it must be" in refused(
        start(folder, KERAS_BACKEND="tensorflwo")
    )
    assert "--run-folder: it, or RUN_FOLDER, is empty" in refused(
        start(folder, RUN_FOLDER="")
    )


@slow
@pytest.mark.parametrize(
    "pairs, options, sentence",
    [
        (
            [],
            ["--batch-size-per-replica", "1600"],
            "1536 examples do not fill a batch of 1600: lower --batch-size",
        ),
        (
            [(COMPILED, COMPILED + "    model.trainable = False\n")],
            [],
            "returns a model without trainable weights",
        ),
        ([(COMPILED, "    del loss\n")], [], "build() must return a compiled model"),
        (
            [
                (
                    OPTIMIZER,
                    (
                        "keras.optimizers.Adam("
                        "keras.optimizers.schedules.CosineDecay(0.1, 100))"
                    ),
                )
            ],
            ["--learning-rate", "0.1"],
            "--learning-rate: build() has a schedule",
        ),
        (
            [("images[..., None]", "images[:, 1:, :, None]")],
            [],
            "inputs of shape (7, 8, 1), and the model takes (8, 8",
        ),
        (
            [],
            ["--data", "nowhere.npz"],
            "--data nowhere.npz: there is no such file or folder",
        ),
        (
            [(COMPILED + "    return model\n", COMPILED)],
            [],
            "build() returns nothing: is return model missing?",
        ),
        ([(RETURNED, "\n\ndef callbacks")], [], "examples() returns nothing"),
        (
            [(RETURNED, "    return images, images\n\n\ndef callbacks")],
            [],
            "must return (inputs, targets) or",
        ),
        (
            [],
            ["--accumulate", "2", "--logical-cpus", "2"],
            "cannot accumulate gradients on several replicas",
        ),
        (
            [
                (
                    OPTIMIZER,
                    (
                        "keras.optimizers.Adam(0.002, use_ema=True, "
                        "ema_overwrite_frequency=3)"
                    ),
                )
            ],
            ["--logical-cpus", "2"],
            "ema_overwrite_frequency fails on several replicas",
        ),
    ],
)
def test_what_cannot_be_trained(folder, pairs, options, sentence):
    changed(folder, *pairs)
    assert sentence in refused(start(folder, *options))


TARGETS = "digits.target[:1536]"
WITHOUT_LOSS = ', loss, metrics=["accuracy"]', ""
LEFT_OUT = "from_logits=True", "from_logits=True, ignore_class=12"


@slow
@each_backend
@pytest.mark.parametrize(
    "pairs, sentence",
    [
        (
            [(TARGETS, TARGETS + " + 3")],
            "the label 1[0-2], and the model has 10 outputs, for the labels 0 to 9",
        ),
        ([(TARGETS, TARGETS + " - 1")], "the label -1, and the model has 10 outputs"),
        (
            [(TARGETS, TARGETS + " + 3"), LEFT_OUT],
            "the label 1[01], and the model has 10 outputs",
        ),
        (
            [(TARGETS, TARGETS + " + 0.5")],
            "the label [0-9].5, and the model has 10 outputs",
        ),
        (
            [(TARGETS, "np.eye(10)[digits.target[:1536]]")],
            "for one-hot targets use CategoricalCrossentropy",
        ),
        (
            [("= keras.losses.SparseC", "= keras.losses.C")],
            "for labels use SparseCategoricalCrossentropy",
        ),
        (
            [
                ("= keras.losses.SparseCategorical", "= keras.losses.Binary"),
                ("Dense(10", "Dense(1"),
            ],
            "a binary loss takes 0 to 1",
        ),
        (
            [
                (
                    "losses.SparseCategoricalCrossentropy(from_logits=True)",
                    "losses.MeanSquaredError()",
                ),
                (TARGETS, "np.eye(10)[digits.target[:1536]]"),
                ("Dense(10", "Dense(1"),
            ],
            "targets of shape .10,., and the",
        ),
        (
            [(TARGETS, TARGETS + ".astype(object)")],
            "an array of Python objects: give it a type",
        ),
        (
            [(TARGETS, TARGETS + ".astype(str)")],
            "strings as targets, and a loss takes numbers",
        ),
        (
            [("images[..., None]", "images.reshape(-1, 64)")],
            r"inputs of shape \(64,\), and the model takes \(8, 8, 1\)",
        ),
        (
            [WITHOUT_LOSS],
            (
                "compiles the model without a loss, and examples.. "
                "returns targets: add loss=… to compile"
            ),
        ),
    ],
)
def test_examples_that_do_not_fit_the_model(folder, backend, pairs, sentence):
    """JAX would train on labels that are no class, and so would TensorFlow on a GPU."""
    changed(folder, *pairs)
    process = start(folder, "--backend", backend, "--epochs", 1)
    assert re.search(sentence, refused(process)) and process.returncode == 2


@slow
def test_weights_that_are_no_numbers_are_not_kept(folder):
    """One NaN among the images, and two workers.

    A ReLU hides it from the loss on a CPU.
    """
    nan = "    images[5] = np.nan\n    training = images"
    changed(folder, ("    training = images", nan))
    said = [
        process.communicate(timeout=300)[0]
        for process in start_two(folder, "--epochs", 2)
    ]
    for text in said:
        assert "the inputs of examples() have NaN or infinite numbers in them\n" in text
        assert re.search(
            (
                r"train.py: \S+ is NaN or infinite after epoch 1, "
                r"and is not saved: look for NaN in what"
            ),
            text,
        )
    assert not list((folder / "run").glob("*.h5")) and not list(
        (folder / "run").glob("checkpoints/*")
    )


@slow
def test_steps_that_do_not_suffice(folder):
    """24 an epoch: for an accumulation, and for a warm-up."""
    assert "--accumulate 49: the training has 48 steps" in refused(
        start(folder, "--epochs", 2, "--accumulate", 49)
    )
    _, (printed,) = ends(start(folder, "--epochs", 1, "--warm-up-steps", 50))
    assert "--warm-up-steps 50: it ends before, at step 24\n" in printed


def test_a_dataset_that_is_empty_or_has_no_length(folder):
    dataset = LABELLED.replace("WRONG", "1")
    yours(
        folder,
        dataset.replace(
            "return part, part", "return part.filter(lambda x, y: y > 9), part"
        ),
    )
    process = start(folder, "--epochs", 1)
    printed = process.communicate(timeout=300)[0]
    assert (
        "a dataset of examples() does not say its length: it is read once to count\n"
        in printed
    )
    assert (
        "train.py: 0 examples do not fill a batch of 64" in printed
        and process.returncode == 2
    )


@slow
def test_other_layers_of_the_same_shapes_are_told(folder):
    ends(start(folder, "--epochs", 1))
    changed(
        folder,
        ("keras.ops.relu", "keras.ops.tanh"),
        ('Dense(10, dtype="float32")', 'Dense(10, "relu")'),
    )
    _, (printed,) = ends(start(folder, "--epochs", 2))
    assert re.search(
        r"\nlayers and their settings, digest: \w+, and no longer \w+ ", printed
    )
    _, (printed,) = ends(start(folder, "--epochs", 3))
    assert "no longer" not in printed


@slow
def test_an_interrupt_that_an_exception_handler_swallows(folder):
    """As JAX's does, which the garbage collector calls."""
    swallow = (
        "        try:\n"
        "            if step == 3:\n"
        "                signal.raise_signal(signal.SIGINT)\n"
    )
    swallow += (
        "        except KeyboardInterrupt:\n"
        "            pass\n"
        "        self.warm_up(done)\n"
    )
    changed(folder, ("        self.warm_up(done)\n", swallow))
    process = start(folder, "--epochs", 50)
    printed = process.communicate(timeout=300)[0]
    assert (
        process.returncode == 130 and "interrupted: nothing is saved yet" in printed
    ), printed


LABELLED = """
def build():
    import keras

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, inputs):
            return self.dense(inputs)

    model = Own()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model

def examples(path):
    import numpy as np
    import tensorflow as tf

    labels = np.arange(2560) % 3
    labels[WRONG] = 7
    part = tf.data.Dataset.from_tensor_slices((np.ones((2560, 4), "float32"), labels))
    return part, part.take(64)
"""


@slow
@each_backend
@pytest.mark.parametrize("wrong", ["2000", "5"])
def test_a_label_of_a_dataset_that_is_no_class(folder, backend, wrong):
    """It comes in the midst of an epoch, and in what is validated with.

    The model is a subclass.
    """
    yours(folder, LABELLED.replace("WRONG", wrong))
    process = start(
        folder, "--backend", backend, "--epochs", 2, "--shuffle-buffer-mib", 0.001
    )
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == 2 and "Traceback" not in printed, printed
    assert (
        "train.py: examples() returns the label 7, "
        "and the model has 3 outputs, for the labels 0 to 2"
    ) in printed


@slow
def test_labels_that_the_loss_leaves_out(folder):
    changed(folder, (TARGETS, "digits.target[:1536].clip(0, 8) * 2 % 12"), LEFT_OUT)
    assert "the label 10" in refused(start(folder, "--epochs", 1))
    changed(folder, (TARGETS, "digits.target[:1536] // 9 * 3 + 9"), LEFT_OUT)
    ends(start(folder, "--epochs", 1))


@slow
def test_strings_for_a_layer_that_takes_them(folder):
    """One device of TensorFlow; several, and JAX, are refused."""
    yours(
        folder,
        """
def build():
    import keras

    lookup = keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")
    model = keras.Sequential([
        keras.Input((1,), dtype="string"),
        lookup,
        keras.layers.Dense(1),
    ])
    model.compile("sgd", "mse")
    return model

def examples(path):
    import numpy as np

    x = np.array([["a"], ["b"]] * 64)
    return (x, np.ones((128, 1))), (x, np.ones((128, 1)))
""",
    )
    ends(start(folder, "--epochs", 1))
    assert "strings, which JAX and several replicas cannot" in refused(
        start(folder, "--logical-cpus", 2)
    )


@slow
@each_backend
def test_a_model_whose_layers_add_the_loss(folder, backend):
    """What is trained on has inputs alone."""
    model = (
        SMALL.replace("COUNT", "640")
        .replace(', "mse"', "")
        .replace("Dense(3)", 'Dense(3, kernel_regularizer="l2")')
    )
    yours(
        folder, model.replace("(x, x[:, :3]), (x[:10], x[:10, :3])", "(x,), (x[:10],)")
    )
    ends(start(folder, "--backend", backend, "--epochs", 2))
    losses = numbers(folder / "run")[:, 1]
    assert losses[1] < losses[0]


@slow
def test_a_file_that_examples_cannot_read(folder):
    np.savez(folder / "other.npz", images=np.ones(3))
    (folder / "text.npz").write_text("hello")
    np.save(folder / "one.npy", np.ones(3))
    for path, why in (
        ("other.npz", "x_train is not a file in the archive"),
        ("text.npz", "This file contains pickled"),
        ("one.npy", "only integers"),
        (".", "Is a directory"),
    ):
        process = start(folder, "--data", path)
        sentence = refused(process)
        assert (
            sentence.startswith(f"examples() cannot read --data {path} (")
            and why in sentence
        )
        assert sentence.endswith(
            "name a file of the kind that it reads, or change examples()"
        )
        assert process.returncode == 2


@slow
@each_backend
def test_the_backend_is_chosen_before_anything_is_imported(folder, backend):
    """Though `import keras` stands at the top of what 06 writes.

    Another one's import is refused.
    """
    tells = (
        "import keras\n\nprint('runs on', keras.backend.backend())\n\n\ndef build():\n"
    )
    changed(folder, ("def build():\n", tells))
    _, (printed,) = ends(start(folder, "--backend", backend, "--epochs", 1))
    assert f"runs on {backend}\n" in printed
    (folder / "sitecustomize.py").write_text(
        "import os\nos.environ['KERAS_BACKEND'] = 'numpy'\nimport keras\n"
    )
    sentence = refused(start(folder, "--backend", backend, PYTHONPATH=str(folder)))
    assert sentence.startswith(
        f"--backend {backend}, but Keras was imported before, and runs on numpy"
    )


def test_help_loads_nothing(folder):
    for name in "tensorflow", "keras", "numpy", "sklearn", "jax":
        (folder / f"{name}.py").write_text("raise SystemExit('loaded')")
    help_text = subprocess.check_output(
        [sys.executable, "train.py", "--help"], cwd=folder, env=ENVIRONMENT, text=True
    )
    program = PROGRAM.read_text(encoding="utf-8")
    options = re.findall(r'add\(\s*"(--[\w-]+)"', program)
    assert len(options) > 12 and all(option in help_text for option in options)


@slow
@each_backend
def test_a_dry_run_leaves_nothing(folder, backend):
    """Two processes."""
    printed = [
        p.communicate(timeout=900)[0]
        for p in start_two(folder, "--backend", backend, "--dry-run")
    ]
    for index, text in enumerate(printed):
        assert f"process {index}: 2 workers with 1 CPU each\n" in text
        assert "1,536 examples to train on, 261 to validate with" in text
        assert re.search(r"a step of 64 examples: [\d.]+ ms, [\d,]+ examples/s", text)
        assert re.search(r"memory: [\d,]+ MiB of the machine, a CPU", text)
    assert [path.name for path in folder.iterdir()] == ["train.py"]


# What it says, and other trainings in the same folder


@slow
def test_it_says_what_is_left_to_train(folder):
    """One epoch; one more of other steps, which leave examples out; none."""
    _, (first,) = ends(start(folder, "--epochs", 1))
    assert (
        "1 worker with 1 CPU: 64 examples a step, 64 of them on each device\n" in first
    )
    options = "--batch-size-per-replica", 500, "--logical-cpus", 2
    _, (second,) = ends(start(folder, "--epochs", 2, *options))
    assert (
        "1 worker with 2 simulated CPUs: 1000 examples a step, "
        "500 of them on each device\n"
    ) in second
    assert (
        "1,536 examples to train on: 1 steps an epoch, "
        "which leave out 536; 261 to validate with\n"
    ) in second
    assert "epochs 2 to 2, from the checkpoint of epoch 1, step 0\n" in second
    _, (third,) = ends(start(folder, "--epochs", 2))
    assert "nothing is left to train: 2 epochs are done, --epochs is 2\n" in third
    assert "worker 0: epoch 2 was the last; weights" in third


@slow
def test_one_file_for_tensorboard_a_start(folder):
    """TensorFlow writes it.

    TensorBoard, which says only in what form, has a stand-in.
    """
    package = folder / "tensorboard" / "summary"
    package.mkdir(parents=True)
    for path in package.parent, package:
        (path / "__init__.py").touch()
    (package / "v2.py").write_text(
        "import tensorflow as tf\n\n\ndef scalar(name, data, step, description):\n"
        "    return tf.summary.write(name, tf.constant(data), step)\n"
    )
    for epochs, files in (3, 1), (5, 2):
        ends(start(folder, "--epochs", epochs))
        assert len(list((folder / "run" / "events").iterdir())) == files


@slow
def test_more_workers_than_examples(folder):
    yours(folder, SMALL.replace("COUNT", "1"))
    assert "1 examples do not fill a batch of 64: lower --batch" in refused(
        *start_two(folder)
    )


@slow
def test_a_log_that_is_cut_or_gone_is_written_anew(folder):
    ends(start(folder, "--epochs", 2))
    path = folder / "run" / "log.csv"
    whole = path.read_text()
    for damage in (
        lambda: path.write_text(whole[:-30]),
        path.unlink,
        lambda: path.write_bytes(b"\xff\x00,\n"),
    ):
        damage()
        ends(start(folder, "--epochs", 2))
        assert path.read_text() == whole
    ends(start(folder, "--epochs", 3))
    assert path.read_text().startswith(whole) and len(log(folder / "run")) == 3


def test_weights_without_a_checkpoint(folder):
    """Only what a training has left at its end.

    It does not begin anew, and write over it, in silence.
    """
    (folder / "run").mkdir()
    (folder / "run" / "best.weights.h5").touch()
    assert "run has best.weights.h5 of a training, and no checkpoint" in refused(
        start(folder)
    )


@slow
def test_what_a_kill_has_left_out_is_written_by_the_next_start(folder):
    """A checkpoint is written first; the best weights are those of its epoch."""
    ends(start(folder, "--epochs", 1))
    best = folder / "run" / "best.weights.h5"
    weights = best.read_bytes()
    best.unlink()
    (folder / "run" / "log.csv").unlink()
    ends(start(folder, "--epochs", 1))
    assert len(best.read_bytes()) == len(weights) and len(log(folder / "run")) == 1


@slow
def test_another_loss_optimizer_or_batch_size_is_told(folder):
    """It goes on with it, as it does with another learning rate."""
    ends(start(folder, "--epochs", 1))
    loss = "SparseCategoricalCrossentropy(from_logits=True)"
    changed(
        folder,
        (loss, loss.replace("True", "True, ignore_class=3")),
        (OPTIMIZER, "keras.optimizers.Adam(0.002, beta_1=0.8)"),
    )
    _, (printed,) = ends(start(folder, "--epochs", 2, "--batch-size-per-replica", 8))
    assert re.search(
        r"^examples a step: 8, and no longer \d+ ", printed, re.MULTILINE
    ), printed
    assert re.search(
        r"^loss: .*ignore_class=3.*, and no longer Sparse", printed, re.MULTILINE
    )
    assert re.search(
        r"^optimizer: Adam\(.*beta_1=0.8.*, and no longer Adam\(.*beta_1=0.9",
        printed,
        re.MULTILINE,
    )


@slow
def test_a_full_disk(folder):
    """What the system itself says of /dev/full."""
    changed(
        folder,
        ('with open(new, "wb") as file:', 'with open("/dev/full", "wb") as file:'),
    )
    process = start(folder, "--epochs", 1)
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == 1 and "Traceback" not in printed
    assert (
        "train.py: there is no space left: make some, and start again; "
        "it goes on from the last whole"
    ) in printed


@slow
def test_folders_where_files_should_be(folder):
    """And files where folders should be."""
    (folder / "run" / "log.csv" / "inside").mkdir(parents=True)
    assert "run has log.csv of a training" in refused(start(folder))
    shutil.rmtree(folder / "run" / "log.csv")
    (folder / "run" / "checkpoints").touch()
    assert "--run-folder run cannot be used: " in refused(start(folder, "--epochs", 1))


def lease_of(folder, **changes):
    """The lease of a training in this folder, changed."""
    lease = json.loads((folder / "run" / "lease.json").read_text())
    return json.dumps(lease | changes)


@slow
def test_two_trainings_in_one_folder(folder):
    """One trains; another is refused.

    After a SIGKILL of the first, whose lease stays behind, another goes on.
    """
    changed(
        folder,
        (
            "        self.warm_up(done)\n",
            "        self.warm_up(done)\n        time.sleep(0.1)\n",
        ),
    )
    first = start(folder, "--epochs", 50)
    wait_for_first_epoch(first)
    sentence = refused(*start_two(folder, "--epochs", 2))
    assert sentence.startswith(
        "another training uses run, and its lease.json names it: "
        "end it, or use another --run"
    )
    first.kill()
    first.communicate()
    assert (folder / "run" / "lease.json").exists()
    _, (printed,) = ends(start(folder, "--epochs", 1))
    assert "waiting" not in printed and not (folder / "run" / "lease.json").exists()


@slow
def test_the_lease_of_another_machine(folder):
    """Nobody renews it: after a while it is nobody's. Somebody does: refused."""
    changed(folder, ("LEASE_EXPIRES = 30", "LEASE_EXPIRES = 3"))
    lease = {
        "token": "a",
        "renewals": 1,
        "host": "n9",
        "process": 7,
        "machine": "other",
        "started": "1",
    }
    (folder / "run").mkdir()
    path = folder / "run" / "lease.json"
    path.write_text(json.dumps(lease))
    _, (printed,) = ends(start(folder, "--epochs", 1))
    assert (
        "run/lease.json names process 7 on n9: "
        "waiting 3 seconds to see whether it still trains\n"
    ) in printed
    path.write_text(json.dumps(lease))
    second = start(folder, "--epochs", 2)
    while not (line := second.stdout.readline()).startswith("run/lease.json names"):
        assert line, "it has ended"
    path.write_text(json.dumps(lease | {"renewals": 2}))
    assert "another training uses run" in refused(second)
    assert json.loads(path.read_text())["token"] == "a", "the other one's lease stays"


@slow
def test_a_training_whose_folder_was_taken_ends(folder):
    wait = "        self.warm_up(done)\n"
    changed(
        folder,
        ("LEASE_RENEWED = 5", "LEASE_RENEWED = 0.2"),
        (wait, wait + "        time.sleep(0.05)\n"),
    )
    process = start(folder, "--epochs", 50)
    wait_for_first_epoch(process)
    path = folder / "run" / "lease.json"
    for _ in range(3):  # a renewal that has just read its own lease writes it once more
        new = path.with_suffix(".another")
        new.write_text(lease_of(folder, token="another"))
        new.replace(path)
        time.sleep(0.5)
    assert "another training has taken run: this one ends" in refused(process)


# Several processes on this machine, by one command


@slow
@each_backend
def test_local_workers(folder, backend):
    """One command starts two processes.

    The weights are those of two that are started by hand.
    """
    options = "--backend", backend, "--epochs", 1, "--batch-size-per-replica", 32
    process = start(folder, *options, "--local-workers", 2)
    printed = process.communicate(timeout=900)[0]
    assert process.returncode == 0, printed
    digests = dict(
        re.findall(r"worker (\d): epochs 1 to 1; weights ([0-9a-f]{16})\n", printed)
    )
    by_hand, _ = ends(
        *start_two(
            folder, "--backend", backend, "--epochs", 1, "--run-folder", "by-hand"
        )
    )
    assert digests == {"0": by_hand, "1": by_hand}


def children_of(process):
    return psutil.Process(process.pid).children(recursive=True)


@slow
def test_local_workers_leave_together(folder):
    """When a worker is killed, the others end.

    When the command itself is killed, so do they. On SIGTERM all save.
    """
    wait = "        self.warm_up(done)\n"
    changed(folder, (wait, wait + "        time.sleep(0.1)\n"))
    options = "--local-workers", 2, "--batch-size-per-replica", 32, "--epochs", 50
    for end, code in (
        (lambda p: children_of(p)[1].kill(), 137),
        (lambda p: p.terminate(), 75),
        (lambda p: p.kill(), -9),
    ):
        process = start(folder, *options)
        wait_for_epoch(process)
        workers = [
            child
            for child in children_of(process)
            if "train.py" in str(child.cmdline())
        ]
        assert len(workers) == 2
        end(process)
        assert process.wait(300) == code
        _, alive = psutil.wait_procs(workers, 60)
        assert not alive
        process.stdout.close()


@slow
def test_an_interrupt_leaves_nothing_running(folder):
    """Ctrl-C reaches all processes of the terminal's group.

    These are the command and its workers. It goes on afterwards.
    """
    wait = "        self.warm_up(done)\n"
    changed(folder, (wait, wait + "        time.sleep(0.1)\n"))
    for options in ("--local-workers", 2, "--batch-size-per-replica", 32), ():
        process = start(folder, *options, "--epochs", 50, start_new_session=True)
        wait_for_epoch(process)
        workers = children_of(process)
        os.killpg(process.pid, signal.SIGINT)
        printed = process.communicate(timeout=300)[0]
        assert process.returncode == 130 and "Traceback" not in printed, printed
        assert (
            "interrupted: started again, it goes on from the last checkpoint" in printed
        )
        _, alive = psutil.wait_procs(workers, 60)
        assert not alive


def test_a_run_folder_that_cannot_be_written(folder):
    (folder / "file").touch()
    assert refused(start(folder, "--run-folder", "file")).startswith(
        "--run-folder file cannot be written: "
    )


def test_local_workers_within_a_cluster(folder):
    config = '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}'
    sentence = refused(start(folder, "--local-workers", 2, TF_CONFIG=config))
    assert (
        sentence == "--local-workers is for one machine, and TF_CONFIG names a cluster"
    )


# Slurm's places and GPUs

NODES = "#!/bin/sh\nfor node in n9 n10 n11; do echo $node; done\n"


def place(folder, **variables):
    """What `resolve_cluster` and `choose_gpus` say with these variables.

    They are asked in a process of its own.
    """
    (folder / "scontrol").write_text(NODES)
    (folder / "scontrol").chmod(0o755)
    (folder / "look.py").write_text(
        "import json, os, train\nplace = train.resolve_cluster(os.environ)\n"
        "print(json.dumps([place, train.choose_gpus(place, os.environ), "
        "os.environ.get('TF_CONFIG'), "
        "os.environ.get('CUDA_VISIBLE_DEVICES')]))\n"
    )
    env = ENVIRONMENT | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    env = {
        name: value for name, value in env.items() if name != "CUDA_VISIBLE_DEVICES"
    } | variables
    done = subprocess.run(
        [sys.executable, "look.py"], cwd=folder, env=env, capture_output=True, text=True
    )
    return json.loads(done.stdout) if not done.returncode else done.stderr


SLURM = {
    "SLURM_STEP_NODELIST": "n[9-11]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_JOB_ID": "4711",
    "SLURM_PROCID": "3",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "1",
}


def test_the_place_that_slurm_gives(folder):
    first = 12000 + 4711 % 625 * 32
    ports = [str(first + k) for k in (0, 1, 0, 1, 0)]
    workers = [
        f"{host}:{port}"
        for host, port in zip(["n9", "n9", "n10", "n10", "n11"], ports, strict=True)
    ]
    (index, found, local, tasks), _, config, _ = place(folder, **SLURM)
    assert (index, found, local, tasks) == (3, workers, 1, 2)
    assert json.loads(config) == {
        "cluster": {"worker": workers},
        "task": {"type": "worker", "index": 3},
    }
    assert place(folder)[0] == [0, [], 0, 1]


def test_two_jobs_on_one_node_have_other_ports(folder):
    ports = set()
    for job in range(4711, 4714):
        (_, workers, *_), *_ = place(folder, **SLURM | {"SLURM_JOB_ID": str(job)})
        own = {address for address in workers if address.startswith("n9:")}
        assert len(own) == 2 and not own & ports
        ports |= own


KUBEFLOW = {
    "JAX_COORDINATOR_ADDRESS": "train-node-0-0.train:6666",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
}


def test_the_place_that_kubeflows_trainer_gives(folder):
    assert place(folder, **KUBEFLOW)[0] == [1, ["train-node-0-0.train:6666", ""], 0, 1]
    assert place(
        folder, **KUBEFLOW | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}
    )[0] == [0, [], 0, 1]
    for wrong in (
        {"JAX_PROCESS_ID": "2"},
        {"JAX_PROCESS_ID": ""},
        {"JAX_NUM_PROCESSES": "two"},
    ):
        assert "JAX_NUM_PROCESSES must be how many processes there are" in place(
            folder, **KUBEFLOW | wrong
        )
    assert "TensorFlow needs the addresses of all processes in TF_CONFIG" in refused(
        start(folder, **KUBEFLOW)
    )


@slow
def test_two_processes_as_kubeflows_trainer_starts_them(folder):
    (address,) = free_addresses(1)
    variables = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    options = "--backend", "jax", "--epochs", 1
    ends(
        *(
            start(folder, *options, **variables, JAX_PROCESS_ID=str(index))
            for index in range(2)
        )
    )


@slow
@each_backend
@pytest.mark.parametrize(
    "index, sentence",
    [
        (0, "in 3 seconds these have not come: worker 1 ("),
        (1, "in 3 seconds nobody has answered at 127.0.0.1:"),
    ],
)
def test_a_worker_that_never_comes(folder, backend, index, sentence):
    """TensorFlow alone would wait without end, and nothing but SIGKILL would end it."""
    process = start_worker(
        folder, index, free_addresses(2), "--backend", backend, "--wait-for-workers", 3
    )
    assert sentence in refused(process) and process.returncode == 1, (
        "on Slurm it may come at the next attempt"
    )


def start_worker(folder, index, addresses, *options):
    config = {
        "cluster": {"worker": addresses},
        "task": {"type": "worker", "index": index},
    }
    return start(folder, "--epochs", 1, *options, TF_CONFIG=json.dumps(config))


@slow
def test_two_workers_of_the_same_number(folder):
    addresses = free_addresses(3)
    processes = [start_worker(folder, 0, addresses)]
    for others in addresses[1], free_addresses(1)[0]:  # each has a port of its own
        processes.append(start_worker(folder, 1, [addresses[0], others, addresses[2]]))
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert all("two processes say that they are worker 1" in text for text in said), (
        said
    )


@slow
def test_workers_that_expect_another_number(folder):
    addresses = free_addresses(3)
    processes = [
        start_worker(folder, 0, addresses[:2]),
        start_worker(folder, 2, addresses),
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert all(
        "it expects 2 workers, and worker 2 expects 3: give all the same addresses"
        in text
        for text in said
    )


@slow
@pytest.mark.parametrize("dropout, is_told", [(0, False), (0.3, True)])
def test_an_lstm_is_told_of_if_it_draws_random_numbers(folder, dropout, is_told):
    flat = "            keras.layers.Flatten(),\n"
    lstm = (
        "            keras.layers.Reshape((64, 1)),\n"
        f"            keras.layers.LSTM(2, dropout={dropout}),\n"
    )
    changed(folder, (flat, "            keras.layers.Conv2D(1, 1),\n" + lstm))
    _, (printed,) = ends(start(folder, "--epochs", 1, "--logical-cpus", 2))
    assert ("random layers (Dropout, …)" in printed) == is_told


@slow
def test_a_worker_that_is_not_where_the_first_one_looks(folder):
    """It comes, and training would wait for it without end.

    At its address there is nobody.
    """
    addresses = free_addresses(2)
    elsewhere = [addresses[0], free_addresses(1)[0]]
    processes = [
        start_worker(folder, 0, elsewhere, "--wait-for-workers", 5),
        start_worker(folder, 1, addresses),
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert all(
        f"these have come, and are not reached at worker 1 ({elsewhere[1]})" in text
        for text in said
    ), said


@slow
def test_another_program_at_the_first_workers_port(folder):
    """gRPC answers another program in its own way.

    So it answers a worker of an earlier start, which still trains.
    """
    address, own = free_addresses(2)
    server = (
        "import socketserver\n\n\n"
        "class Answer(socketserver.BaseRequestHandler):\n"
        "    def handle(self):\n"
    )
    server += "        self.request.sendall(b'\\x00\\xfe\\n')\n\n\n"
    server += (
        f"socketserver.TCPServer(('127.0.0.1', {address.split(':')[1]}), "
        "Answer).serve_forever()\n"
    )
    program = subprocess.Popen([sys.executable, "-c", server])
    try:
        sentence = refused(
            start_worker(folder, 1, [address, own], "--wait-for-workers", 3)
        )
    finally:
        program.kill()
        program.wait()
    assert f"in 3 seconds another program has answered at {address}" in sentence


@slow
def test_a_worker_that_comes_late_or_twice(folder):
    """The first worker waits for it.

    One that is killed while it waits may come again.
    """
    addresses = free_addresses(3)
    others = [start_worker(folder, index, addresses) for index in (1, 2)]
    time.sleep(8)
    others[0].kill()
    others[0].communicate()
    ends(
        start_worker(folder, 0, addresses),
        start_worker(folder, 1, addresses),
        others[1],
    )


@slow
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("lost", [False, True])
def test_an_interrupt_while_it_waits(folder, index, lost):
    """Also if Python loses what it raises.

    It does so in a callback of the collector of garbage.
    """
    if lost:
        noted = "        SIGNALLED.append(number)\n"
        changed(folder, (noted + "        raise KeyboardInterrupt\n", noted))
    process = start_worker(folder, index, free_addresses(2))
    while "waits for all 2" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (
        "interrupted: nothing is saved yet; started again, it begins anew\n" in printed
    )


@slow
@each_backend
def test_a_port_that_is_taken(folder, backend):
    changed(folder, ("PORT_SECONDS = 20", "PORT_SECONDS = 1"))
    with socket.create_server(("", 0)) as server:
        workers = [f"localhost:{server.getsockname()[1]}", "localhost:1"]
        config = json.dumps(
            {"cluster": {"worker": workers}, "task": {"type": "worker", "index": 0}}
        )
        sentence = refused(start(folder, "--backend", backend, TF_CONFIG=config))
    assert re.match(r"port \d+ of this machine is taken by another program", sentence)


@slow
def test_a_machine_whose_own_name_leads_to_itself(folder):
    """Debian's 127.0.1.1, where gloo would tell the others to look.

    It is no trouble where all are on one machine.
    """
    name = (
        "import socket\n\n"
        "socket.gethostbyname = lambda name: '127.0.1.1'\n\n\n"
        "def build():\n"
    )
    changed(folder, ("def build():\n", name))
    config = {
        "cluster": {"worker": ["n1:2222", "n2:2222"]},
        "task": {"type": "worker", "index": 1},
    }
    sentence = refused(start(folder, "--backend", "jax", TF_CONFIG=json.dumps(config)))
    assert (
        "leads to 127.0.1.1, where the others would look for it: in /etc/hosts give it"
        in sentence
    )
    ends(*start_two(folder, "--backend", "jax", "--epochs", 1))


@pytest.mark.parametrize(
    "tasks, local, visible, on_node, own",
    [
        (1, 0, "0,1,2,3", 4, "0,1,2,3"),  # one task has all of them
        (2, 1, "0,1,2,3", 4, "1,3"),  # two share what both see
        (4, 2, "4,5,6,7", 4, "6"),
        (4, 2, "0", 4, "0"),  # Slurm has bound one to each
        (2, 1, "0,1", 4, "0,1"),  # --gpu-bind=per_task:2
        (
            2,
            1,
            "0,1",
            3,
            "share some",
        ),  # --gpu-bind=closest: both may have got the same two
        (4, 1, "0,1", 4, "share some"),
        (
            2,
            0,
            "0,1,2",
            3,
            "3 GPUs for 2 tasks of this node: each must have the same number",
        ),
        (2, 0, "", 0, ""),
    ],
)
def test_which_gpu_is_whose(folder, tasks, local, visible, on_node, own):
    """The same for both backends, since CUDA is told before they look."""
    slurm = SLURM | {
        "SLURM_STEP_TASKS_PER_NODE": f"{tasks}(x3)",
        "SLURM_LOCALID": str(local),
    }
    slurm |= {"SLURM_PROCID": str(tasks + local)}
    said = place(
        folder, CUDA_VISIBLE_DEVICES=visible, SLURM_GPUS_ON_NODE=str(on_node), **slurm
    )
    if isinstance(said, str):
        assert own in said and "train.py: " in said
    else:
        assert said[3] == own


@slow
@each_backend
def test_a_gpu_that_is_not_used(folder, backend):
    (folder / "nvidia-smi").write_text("#!/bin/sh\necho GPU 0: Tesla T4\n")
    (folder / "nvidia-smi").chmod(0o755)
    command = [sys.executable, "train.py", "--backend", backend]
    env = ENVIRONMENT | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "does not use the GPU here: install " in done.stderr


def test_a_file_that_is_nowhere():
    assert launcher.program("train.py") == PROGRAM
    with pytest.raises(
        FileNotFoundError,
        match=r"^train\.txt: not in a clone, nor in .*: install the course again$",
    ):
        launcher.program("train.txt")


NO_CALLBACKS = '''    Their `on_test_…` methods are not called.
    """
    return []
'''
FLIP = '''    Their `on_test_…` methods are not called.
    """
    import keras
    import numpy as np

    def flipped(array):
        bits = np.array(array).view("uint32")
        bits.flat[7] ^= np.uint32(1 << 20)
        return bits.view("float32")

    class Flip(keras.callbacks.Callback):  # in the memory of the last replica of all
        def on_train_batch_end(self, batch, logs=None):
            index = json.loads(os.environ.get("TF_CONFIG", '{"task": {"index": 1}}'))
            if batch == 3 and index["task"]["index"] == 1:
                kernel = self.model.layers[-1].kernel
                if keras.backend.backend() == "jax":
                    self.flip_on_jax(kernel)
                else:
                    copy = TRAINER.strategy.experimental_local_results(kernel.value)[-1]
                    copy.assign(flipped(copy.numpy()))

        def flip_on_jax(self, kernel):
            import jax

            self.model.jax_state_sync()
            value = kernel.value
            shards = [shard.data for shard in value.addressable_shards]
            last = jax.device_put(
                flipped(shards[-1]), value.addressable_shards[-1].device
            )
            kernel._value = jax.make_array_from_single_device_arrays(
                value.shape, value.sharding, [*shards[:-1], last]
            )

    return [Flip()]
'''
KNOWN = "        self.state = State(model, backend)\n"


@slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--local-workers", 2), "which one is wrong cannot be said"),
        (("--logical-cpus", 4), "replica 3 of worker 0 differs from the majority"),
    ],
)
def test_a_bit_that_flips_in_one_replica(folder, backend, options, words):
    changed(
        folder,
        (NO_CALLBACKS, FLIP),
        (KNOWN, KNOWN + "        globals()['TRAINER'] = backend\n"),
    )
    options = (
        "--backend",
        backend,
        *options,
        "--batch-size-per-replica",
        32,
        "--epochs",
        1,
    )
    process = start(folder, *options, "--check-replicas", 2)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 1 and "/kernel: " + words in said, said
    assert re.search(
        r"after step [45] of epoch 1 the replicas' weights differ in", said
    ), said
    assert (
        "nothing is saved yet; started again, it begins anew" in said
        and "Traceback" not in said
    )


@slow
def test_a_bit_that_flips_in_a_frozen_layer(folder):
    first = FLIP.replace("self.model.layers[-1]", "self.model.layers[0]")
    known = KNOWN, KNOWN + "        globals()['TRAINER'] = backend\n"
    frozen = COMPILED, "    model.layers[0].trainable = False\n" + COMPILED
    changed(folder, (NO_CALLBACKS, first), known, frozen)
    said = start(
        folder, "--logical-cpus", 4, "--epochs", 1, "--check-replicas", 50
    ).communicate(timeout=300)[0]
    assert (
        "the replicas' weights differ in sequential/conv2d/kernel: replica 3 of" in said
    ), said  # before the save


@slow
def test_one_replica_has_nothing_to_compare(folder):
    (_, (said,)) = ends(start(folder, "--epochs", 1, "--check-replicas", 2))
    assert "--check-replicas: there is one replica, nothing to compare" in said


@slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_sound_replicas_are_equal(folder, backend):
    options = (
        "--backend",
        backend,
        "--local-workers",
        2,
        "--batch-size-per-replica",
        32,
        "--epochs",
        1,
    )
    digests = [
        ends(start(folder, *options, "--run-folder", name, *check))
        for name, check in {"checked": ("--check-replicas", 3), "not": ()}.items()
    ]
    assert digests[0][0] == digests[1][0]


@pytest.mark.parametrize(
    ("rows", "odd"),
    [
        ([[1, 5], [1, 5]], {}),
        ([[1, 5], [2, 5]], {0: [0, 1]}),
        ([[1, 5], [1, 6], [1, 5]], {1: [1]}),
        ([[1, 5], [2, 6], [3, 5]], {0: [0, 1, 2], 1: [1]}),
    ],
)
def test_the_odd_ones_of_several_replicas(rows, odd):
    assert runpy.run_path(str(PROGRAM))["odd_ones"](np.array(rows)) == odd
