"""Each text of notebooks/errors.md is what is raised today.

It is raised in a notebook, whose outputs nbval compares, or here.
"""

import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys

import keras
import nbformat
import numpy as np
import pytest
import tensorflow as tf

from course_exercises import your_own_model
from course_launcher import (
    WorkerError,
    build_tf_config,
    check_tf_config,
    run_in_process,
    run_on_workers,
)
from course_utils import data, proofs
from course_utils.devices import logical_devices, short_name
from tools.cells import set_up_elsewhere

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "notebooks" / "errors.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.skipif(
    os.name == "nt", reason="bash, and git's file:// addresses, as POSIX has them"
)
TEXTS = [
    line
    for box in re.findall(r"^```text\n(.*?)^```", PAGE, re.M | re.S)
    for line in box.splitlines()
]


def says(text, said):
    """Whether `said` holds the parts of `text` between its `…`.

    They must come in this order, and on one line.
    """
    pattern = ".*".join(map(re.escape, re.split(r"\s*…\s*", text.strip("… "))))
    return re.search(pattern, said) is not None


def compared_outputs():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if (
                cell.cell_type == "code"
                and "nbval-ignore-output" not in cell.metadata.get("tags", [])
            ):
                yield from (output.get("text", "") for output in cell.outputs)


IN_NOTEBOOKS = "\n".join(compared_outputs())


def set_up(tmp_path, monkeypatch):
    """What a notebook's first cell says where github.com cannot be reached."""
    (tmp_path / "gitconfig").write_text(
        f'[url "file://{tmp_path}/"]\n  insteadOf = https://github.com/\n'
    )
    return set_up_elsewhere(tmp_path).stdout


def set_up_in_a_clone(tmp_path, monkeypatch):
    """What it says where the course lies beside the notebook, and is not installed."""
    (tmp_path / "course_utils").mkdir()
    (tmp_path / "course_utils" / "__init__.py").touch()
    (tmp_path / "notebooks").mkdir()
    return set_up_elsewhere(tmp_path / "notebooks").stdout


def python(code, *options, **variables):
    """What a fresh Python says of this code, in an empty folder."""

    def run(tmp_path, monkeypatch):
        command = [sys.executable, *options, "-c", code]
        ways = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 120}
        return subprocess.run(command, env=os.environ | variables, **ways).stderr

    return run


def without_network(problem):
    def run(tmp_path, monkeypatch):
        def fails(*_):
            raise problem

        monkeypatch.setattr(keras.datasets.mnist, "load_data", fails)
        data.load_digits("mnist")

    return run


def on_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    run_in_process(print)


def without_gpu(tmp_path, monkeypatch):
    logical_devices(1, kind="gpu")


def config(*addresses, index=0, **changes):
    text = json.dumps(
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        | changes
    )
    return lambda tmp_path, monkeypatch: "\n".join(check_tf_config(text))


def taken_port(tmp_path, monkeypatch):
    with socket.create_server(("", 0)) as server:
        return check_tf_config(
            build_tf_config([f"localhost:{server.getsockname()[1]}", "localhost:1"], 0)
        )[0]


def unfilled(tmp_path, monkeypatch):
    shutil.copy(ROOT / "cluster" / "two_machines.sh", tmp_path)
    return subprocess.run(
        ["bash", "two_machines.sh"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    ).stderr


def too_few_batches(tmp_path, monkeypatch):
    import keras
    import tensorflow as tf

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning) as said:
        model.fit(
            tf.data.Dataset.from_tensors((np.ones((4, 2)), np.ones((4, 1)))),
            steps_per_epoch=3,
            verbose=0,
        )
    return "\n".join(str(warning.message) for warning in said)


def nested(tmp_path, monkeypatch):
    def on_two():
        import tensorflow as tf

        devices = logical_devices(2, kind="cpu")
        strategy = tf.distribute.MirroredStrategy(
            devices, tf.distribute.ReductionToOneDevice()
        )
        with strategy.scope():
            count = tf.Variable(1.0, aggregation=tf.VariableAggregation.SUM)

        @tf.function
        def inner():
            count.assign_add(1.0)

        strategy.run(lambda: inner())  # a function that has a tf.function inside

    try:
        run_in_process(on_two)
    except WorkerError as problem:
        return "RuntimeError: " + " ".join(problem.outcomes[0].log)


def uneven(tmp_path, monkeypatch):
    def fit():
        devices = logical_devices(2, kind="cpu")
        import tensorflow as tf

        with tf.distribute.MirroredStrategy(
            devices, tf.distribute.ReductionToOneDevice()
        ).scope():
            model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
            model.compile("sgd", "mse")
        model.fit(
            tf.data.Dataset.from_tensors((np.ones((5, 2)), np.ones((5, 1)))), verbose=0
        )

    run_in_process(fit)


def distributed_by_keras(tmp_path, monkeypatch):
    def fit():
        devices = logical_devices(2, kind="cpu")
        import keras

        keras.distribution.set_distribution(
            keras.distribution.DataParallel(devices=["cpu:0", "cpu:1"])
        )
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
        return len(devices), {
            short_name(weight.value.device) for weight in model.weights
        }

    count, places = run_in_process(fit)
    return (
        f"DataParallel on {('no', 'one', 'two')[count]} devices: "
        f"weights on {', '.join(places)}"
    )


def reduced_by_a_replica(tmp_path, monkeypatch):
    import tensorflow as tf

    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    strategy.run(lambda: strategy.reduce("SUM", 1.0, axis=None))


def killed(tmp_path, monkeypatch):
    script = (
        f"{sys.executable} -c 'import os; os.kill(os.getpid(), 9)'; echo exit code $?"
    )
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=120
    ).stdout


def fewer_files_than_workers(tmp_path, monkeypatch):
    path = str(tmp_path / "one.tfrecord")

    def read():
        import tensorflow as tf

        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        with tf.io.TFRecordWriter(path) as file:
            file.write(b"example")
        next(
            iter(
                strategy.experimental_distribute_dataset(
                    tf.data.TFRecordDataset([path]).batch(2)
                )
            )
        )

    run_on_workers(read)


def unpacked(dataset):
    _, _ = dataset


def batched():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((np.ones((6, 4)), np.ones(6))).batch(2)


def single():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((np.ones((6, 4)), np.ones(6)))


def not_compiled():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])


def nothing_to_average(tmp_path, monkeypatch):
    import tensorflow as tf

    return f"loss: {tf.reduce_mean(tf.zeros([0])).numpy()}"


def too_large(tmp_path, monkeypatch):
    import tensorflow as tf

    with tf.device("CPU:0"):
        tf.zeros([2**42])


def restored_from_orbax(tmp_path, monkeypatch):
    """Keras' own callback: load_weights restores, load_model does not.

    Neither says anything.
    """
    program = f"""
import keras, numpy as np

def build():
    dense = keras.layers.Dense(16, name="a"), keras.layers.Dense(1, name="b")
    model = keras.Sequential([keras.Input((8,)), *dense], name="net")
    model.compile("adam", "mse")
    return model

keras.utils.set_random_seed(1)
model, folder = build(), {str(tmp_path / "saved")!r}
x, y = np.random.randn(64, 8).astype("f"), np.random.randn(64, 1).astype("f")
callback = keras.callbacks.OrbaxCheckpoint(
    folder, save_freq="epoch", save_on_background=False
)
model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
trained, other = model.get_weights(), build()
other.load_weights(folder)
same = all(np.array_equal(a, b) for a, b in zip(other.get_weights(), trained))
print("after load_weights:", "what was trained" if same else "something else")
loaded = keras.saving.load_model(folder)
kernels = zip(loaded.get_weights()[::2], trained[::2])
same = any(np.array_equal(a, b) for a, b in kernels)
print("after load_model:", "some of it" if same else "nothing of what was trained")
"""
    env = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "ignore", "-c", program]
    said = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=env, cwd=tmp_path
    ).stdout
    assert "after load_weights: what was trained" in said, said
    return said


def backed_up_within_an_epoch(tmp_path, monkeypatch):
    """Two epochs of three batches, saved every two, stopped, and resumed.

    They are stopped in the second epoch's third batch.
    """
    x, y = np.ones((6, 2), "float32"), np.ones((6, 1), "float32")

    def new_model():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    class Stopped(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == 5:
                raise InterruptedError

    def steps(*callbacks):
        model = new_model()
        model.fit(x, y, batch_size=2, epochs=2, verbose=0, callbacks=list(callbacks))
        return int(model.optimizer.iterations)

    backup = keras.callbacks.BackupAndRestore(tmp_path, save_freq=2)
    with contextlib.suppress(InterruptedError):
        steps(backup, Stopped())
    said = f"steps that the optimizer counts: {steps()} without a stop"
    return f"{said}, {steps(backup)} with BackupAndRestore(save_freq=2)"


def strategy_with(config):
    """What MultiWorkerMirroredStrategy says of a TF_CONFIG."""

    def make(tmp_path, monkeypatch):
        monkeypatch.setenv(
            "TF_CONFIG", config if isinstance(config, str) else json.dumps(config)
        )
        tf.distribute.MultiWorkerMirroredStrategy()

    return make


def parameter_servers(**roles):
    """What ParameterServerStrategy says of a cluster with these roles."""

    def make(tmp_path, monkeypatch):
        spec = tf.train.ClusterSpec({role: ["localhost:20111"] for role in roles})
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            spec, rpc_layer="grpc"
        )
        tf.distribute.ParameterServerStrategy(resolver)

    return make


TWO = {"worker": ["localhost:20111", "localhost:20112"]}
RAISERS = {
    "after load_model:": restored_from_orbax,
    "RuntimeError: … cannot be installed": set_up,
    "RuntimeError: this kernel": set_up_in_a_clone,
    "TypeError: dataset() must return two": lambda *_: your_own_model.check_dataset(
        lambda size: batched()
    ),
    "TypeError: dataset() must return tf.data": lambda *_: your_own_model.check_dataset(
        lambda size: (np.ones(3), np.ones(3))
    ),
    "ValueError: dataset(2) must": lambda *_: your_own_model.check_dataset(
        lambda size: (single(), single())
    ),
    "ValueError: build() must": lambda *_: your_own_model.check_model(not_compiled()),
    "TypeError: '_BatchDataset'": lambda *_: batched()[0],
    "ValueError: too many values": lambda *_: unpacked(batched()),
    "ValueError: You must call": lambda *_: not_compiled().fit(
        np.ones((4, 2)), np.ones((4, 1)), verbose=0
    ),
    "Could not apply FILE": fewer_files_than_workers,
    "ValueError: Argument synchronized": python(
        "import keras; keras.layers.BatchNormalization(synchronized=True)",
        KERAS_BACKEND="jax",
    ),
    "exit code 137": killed,
    "ModuleNotFoundError: No module named 'course_utils'": python(
        "import course_utils", "-I", "-S"
    ),
    "ModuleNotFoundError: No module named 'tensorflow'": python(
        "import tensorflow", "-S"
    ),
    (
        "RuntimeError: MNIST is not in Keras' cache and could not be downloaded: "
        "connect"
    ): without_network(OSError("no")),
    (
        "RuntimeError: MNIST is not in Keras' cache and could not be downloaded: free"
    ): without_network(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
    "ValueError: name='fashion'": lambda *_: data.load_digits("fashion"),
    "RuntimeError: worker processes can be started": on_windows,
    "RuntimeError: kind='gpu'": without_gpu,
    "AssertionError: weights: ✗": lambda *_: proofs.same(
        np.zeros(2), np.full(2, 0.5), 1e-5, "weights"
    ),
    "steps that the optimizer counts": backed_up_within_an_epoch,
    "JSONDecodeError": strategy_with("{'cluster': {}}"),
    "ValueError: When `cluster_spec`": strategy_with({"cluster": TWO}),
    "ValueError: The `task_id` 2": strategy_with(
        {"cluster": TWO, "task": {"type": "worker", "index": 2}}
    ),
    "ValueError: `task_type` 'chief'": strategy_with(
        {"cluster": TWO, "task": {"type": "chief", "index": 0}}
    ),
    "ValueError: There must be at least one ps": parameter_servers(chief=1, worker=1),
    "ValueError: There must be at least one worker": parameter_servers(chief=1, ps=1),
    "ValueError: There is no id for task_type 'ps'": strategy_with(
        {
            "cluster": TWO | {"ps": ["localhost:20113"]},
            "task": {"type": "ps", "index": 0},
        }
    ),
    "it is not JSON": lambda *_: check_tf_config("{'cluster': {}}")[0],
    "'task' is missing": config("10.0.0.1:2222", task=None),
    "the task's index is 2": config("10.0.0.1:2222", "10.0.0.2:2222", index=2),
    "worker 0's host 'no-such-host.invalid'": config("no-such-host.invalid:2222"),
    "worker 0's host '8.8.8.8'": config("8.8.8.8:2222"),
    "worker 0 and worker 1 have the same address": config(
        "10.0.0.1:2222", "10.0.0.1:2222"
    ),
    "port … of this machine is taken": taken_port,
    "two_machines.sh: HOSTS": unfilled,
    "Your input ran out of data": too_few_batches,
    "RuntimeError: … `merge_call`": nested,
    "InvalidArgumentError: … AddN": uneven,
    "RuntimeError: Method requires": reduced_by_a_replica,
    "ResourceExhaustedError: … OOM": too_large,
    "loss: nan": nothing_to_average,
    "DataParallel on two devices": distributed_by_keras,
    "JAX distributed service detected": python(
        "import jax; "
        "jax.distributed.initialize('127.0.0.1:8476', 2, 1, initialization_timeout=2)"
    ),
}


def raiser(text):
    return next((run for start, run in RAISERS.items() if text.startswith(start)), None)


def test_there_are_many():
    assert len(TEXTS) >= 25 and len(set(TEXTS)) == len(TEXTS)
    assert [
        start for start in RAISERS if sum(text.startswith(start) for text in TEXTS) != 1
    ] == []


@pytest.mark.parametrize("text", TEXTS)
def test_this_is_what_is_raised(text, tmp_path, monkeypatch):
    run = raiser(text)
    if run is None:
        assert says(text, IN_NOTEBOOKS), "raised neither here nor in a notebook"
        return
    try:
        said = run(tmp_path, monkeypatch)
    except Exception as problem:
        said = f"{type(problem).__name__}: {problem}"
    assert says(text, said), said


@pytest.mark.parametrize(
    "words",
    [
        "context initialization failed",
        "127.0.1.1",
        "DUE TO TIME LIMIT",
        "SRUN_CPUS_PER_TASK",
        "137",
        "OOMKilled",
        "cuInit",
        "303",
        "incarnation",
        "No address added out of total 1 resolved",
        "Could not start gRPC server",
        "which is not enough for the required 2 shards/workers",
        "synchronized=True is only supported",
        "'_BatchDataset' object is not subscriptable",
        "compile()",
        "not the course's environment",
    ],
)
def test_the_page_is_found_by_the_fields_words(words):
    """A reader searches the page for what stands on the screen.

    Each of these stands on one line.
    """
    assert any(words in line for line in PAGE.splitlines())


def test_every_entry_has_a_cause_a_remedy_and_a_place():
    for entry in re.split(r"^### ", PAGE, flags=re.M)[1:]:
        title = entry.splitlines()[0]
        assert re.search("```(text|output)", entry) and re.search(
            r"\*\*Remedy\*\*|\*\*remedy\*\*", entry
        ), title
        assert "**Cause**" in entry and re.search(r"Where:\s", entry), title


def test_another_wording_is_noticed():
    assert says("a … c", "x a b c") and says("… b …", "a b c")
    assert not says("a … c", "x c b a") and not says("a b d", "a b c")
